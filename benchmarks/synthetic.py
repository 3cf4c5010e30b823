"""Random packs of a given shape, for benchmarks of the training step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from eagle3.draft.config import DraftConfig
from eagle3.draft.model import Eagle3Draft, initialise
from eagle3.objective.pack import Pack
from eagle3.objective.sequence_parallel.sharding import SequenceSharding
from eagle3.objective.ttt import TargetParts
from eagle3.target_model.reader import Head

KNOWN_TOKENS, KNOWN_ANSWERS = 0.87, 0.92  # shares in the draft vocabulary, as in real chats


@dataclass(frozen=True)
class Shape:
    """Sizes of a draft and of its training data."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    draft_vocab: int
    documents: int
    length: int  # tokens of each document
    steps: int = 7


SMALL = Shape(256, 896, 4, 2, 64, 8192, 2048, 2, 512)
LARGE = Shape(1024, 3584, 16, 4, 64, 32768, 8192, 4, 1024)


def draft_config(shape: Shape) -> DraftConfig:
    """The configuration of a draft of this shape."""
    return DraftConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        draft_vocab_size=shape.draft_vocab,
        rms_norm_eps=1e-5,
        max_position_embeddings=max(shape.length * 2, 2048),
        rope={"rope_type": "default", "rope_theta": 10000.0},
        aux_layers=(1, 3, 4),
    )


def build_draft(shape: Shape, device: torch.device) -> Eagle3Draft:
    """A draft with its initial weights."""
    draft = Eagle3Draft(draft_config(shape)).to(device)
    initialise(draft, seed=0)
    return draft


def answers(length: int, supervised: float) -> torch.Tensor:
    """bool [length]: turns of prompt and answer, with a share of `supervised` tokens in answers;
    the last token is in an answer, as in a truncated document."""
    turns = max(1, length // 256)
    position = (torch.arange(length) + 1) / length * turns
    inside = position - position.ceil() + 1  # 0..1 in each turn
    return inside > 1 - supervised


def build_pack(
    shape: Shape,
    supervised: float,
    device: torch.device,
    states: torch.dtype,
    lengths: list[int] | None = None,
    padded: bool = False,
) -> tuple[Pack, TargetParts, Head]:
    """A pack of documents, the parts of a random target, and its whole head.

    `lengths`: of the documents, all `shape.length` by default; `padded`: padded to the longest with
    tokens that have states but no loss.
    """
    draw = torch.Generator().manual_seed(0)
    lengths = lengths or [shape.length] * shape.documents
    longest = max(lengths)
    sizes = [longest] * len(lengths) if padded else lengths
    vocabulary = torch.randperm(shape.vocab, generator=draw)[: shape.draft_vocab].sort().values
    is_outside = torch.ones(shape.vocab, dtype=torch.bool)
    is_outside[vocabulary] = False
    outside = is_outside.nonzero().flatten()
    draft_ids = torch.full((shape.vocab,), -1, dtype=torch.int64)
    draft_ids[vocabulary] = torch.arange(shape.draft_vocab)

    def tokens(count: int, share: float) -> torch.Tensor:
        is_known = torch.rand(count, generator=draw) < share
        a = vocabulary[torch.randint(len(vocabulary), (count,), generator=draw)]
        b = outside[torch.randint(len(outside), (count,), generator=draw)]
        return torch.where(is_known, a, b)

    masks = [answers(length, supervised) for length in lengths]
    mask = torch.cat(
        [torch.nn.functional.pad(m, (0, n - len(m))) for m, n in zip(masks, sizes, strict=True)]
    )
    documents = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    positions = torch.cat([torch.arange(size) for size in sizes])
    ends = torch.tensor(sizes)[documents]
    row_tokens = (positions < ends - 2).nonzero().flatten()
    same_document = documents[1:] == documents[:-1]
    last_tokens = (mask[:-1] & mask[1:] & same_document & (positions[:-1] >= 1)).nonzero().flatten()
    hidden = shape.hidden
    head = torch.randn(shape.vocab, hidden, generator=draw) * hidden**-0.5 * 3
    last = torch.randn(len(last_tokens), hidden, generator=draw)
    is_real = positions < torch.tensor(lengths)[documents]
    input_ids = torch.full((len(mask),), int(outside[0]))
    input_ids[is_real] = tokens(int(is_real.sum()), KNOWN_TOKENS)  # independent of padding
    aux = torch.zeros(len(row_tokens), 3 * hidden)
    row_is_real = positions[row_tokens] < torch.tensor(lengths)[documents[row_tokens]] - 2
    aux[row_is_real] = torch.randn(int(row_is_real.sum()), 3 * hidden, generator=draw)
    pack = Pack(
        input_ids=input_ids,
        loss_mask=mask,
        documents=documents,
        positions=positions,
        aux=aux.to(states),
        row_tokens=row_tokens,
        last=last.to(states),
        last_tokens=last_tokens,
        teacher_argmax=tokens(len(last_tokens), KNOWN_ANSWERS),
        teacher_lse=torch.cat([(part @ head.T).logsumexp(-1) for part in last.split(512)]),
    )
    moved = Pack(**{name: value.to(device) for name, value in pack.tensors().items()})
    embedding = torch.randn(shape.vocab, hidden, generator=draw).to(device, torch.bfloat16)
    head_type = torch.float32 if device.type == "cpu" else torch.bfloat16
    full_head = Head(head.to(device, head_type))
    parts = TargetParts(embedding, full_head.rows(vocabulary.to(device)), draft_ids.to(device))
    return moved, parts, full_head


def shard_of(pack: Pack, sharding: SequenceSharding) -> Pack:
    """This rank's shard of a whole pack. (The loader never reads more than the shard.)"""
    shards = sharding.of(pack.row_tokens, pack.last_tokens)
    if shards is None:
        return pack
    rows, taught = shards.local.rows, shards.local.taught
    return replace(
        pack,
        aux=pack.aux[rows],
        last=pack.last[taught],
        teacher_argmax=pack.teacher_argmax[taught],
        teacher_lse=pack.teacher_lse[taught],
        shards=shards,
    )
