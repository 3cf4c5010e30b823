"""Small random packs and drafts in float64, shared by the tests of the objective."""

from __future__ import annotations

import torch

from eagle3.draft.config import DraftConfig
from eagle3.draft.model import Eagle3Draft, initialise
from eagle3.objective.pack import Pack
from eagle3.objective.teacher import Teacher
from eagle3.objective.ttt import TargetParts
from eagle3.target_model.reader import Head

VOCAB, DRAFT_VOCAB, HIDDEN = 23, 15, 8


EVERY = ("qk_norm", "fc_norm", "norm_output", "norm_before_residual")
# what the draft's configuration can switch on
SWITCHES = {
    "plain": {},
    "qk_norm": {"qk_norm": True},
    "fc_norm": {"fc_norm": True},
    "norm_output": {"norm_output": True},
    "norm_before_residual": {"norm_before_residual": True},
    "one aux layer": {"aux_layers": (3,), "fc_norm": True},
    "two aux layers": {"aux_layers": (1, 4)},
    "five aux layers": {"aux_layers": (0, 1, 2, 3, 5), "fc_norm": True},
    "two layers": {"num_hidden_layers": 2},
    "window": {"sliding_window": 4},
    "window of two layers": {"sliding_window": 5, "num_hidden_layers": 2, "qk_norm": True},
    "three layers": {"num_hidden_layers": 3, "aux_layers": (0, 2)},
    "all of two layers": {**dict.fromkeys(EVERY, True), "num_hidden_layers": 2},
    "all": dict.fromkeys(EVERY, True),
}


def tiny_draft(draft_vocab=DRAFT_VOCAB, vocab=VOCAB, seed=0, **switches):
    config = DraftConfig(
        hidden_size=HIDDEN,
        intermediate_size=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        vocab_size=vocab,
        draft_vocab_size=draft_vocab,
        rms_norm_eps=1e-6,
        max_position_embeddings=64,
        rope={"rope_type": "default", "rope_theta": 10000.0},
        **{"aux_layers": (1, 3, 4), **switches},
    )
    draft = Eagle3Draft(config)
    initialise(draft, seed)
    draft = draft.double()
    with torch.no_grad():  # norms away from one and weights large enough to matter
        generator = torch.Generator().manual_seed(seed + 1)
        for parameter in draft.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise)
    return draft


def random_documents(generator, masks, layers=3):
    """One document per mask (a list of 0/1), with random ids and states in float64, those of
    `layers` in aux."""
    documents, width = [], layers * HIDDEN
    for mask in masks:
        length = len(mask)
        documents.append(
            {
                "ids": torch.randint(0, VOCAB, (length,), generator=generator),
                "mask": torch.tensor(mask, dtype=torch.bool),
                "aux": torch.randn(length, width, generator=generator, dtype=torch.float64),
                "last": torch.randn(length, HIDDEN, generator=generator, dtype=torch.float64),
            }
        )
    return documents


def target_parts(generator, draft_vocab=DRAFT_VOCAB):
    """Embedding, full head [V, H] and the parts that training keeps."""
    chosen = torch.randperm(VOCAB, generator=generator)[:draft_vocab].sort().values
    draft_ids = torch.full((VOCAB,), -1, dtype=torch.int64)
    draft_ids[chosen] = torch.arange(draft_vocab)
    head = Head(torch.randn(VOCAB, HIDDEN, generator=generator, dtype=torch.float64))
    embedding = torch.randn(VOCAB, HIDDEN, generator=generator, dtype=torch.float64)
    return head, TargetParts(embedding, head.rows(chosen), draft_ids)


def pack_of(documents, head):
    """Documents as the loader packs them: cut after the last supervised token, needed rows only."""
    names = set(Pack.__dataclass_fields__) - {"shards", "host"}
    parts = {name: [] for name in names}
    start = 0
    for number, doc in enumerate(documents):
        supervised = doc["mask"].nonzero().flatten()
        kept = int(supervised[-1]) + 1 if len(supervised) else 0
        mask = doc["mask"][:kept]
        last = (mask[:-1] & mask[1:]).nonzero().flatten()
        last = last[last >= 1]
        logits = head.logits(doc["last"][last])
        parts["input_ids"].append(doc["ids"][:kept])
        parts["loss_mask"].append(mask)
        parts["documents"].append(torch.full((kept,), number))
        parts["positions"].append(torch.arange(kept))
        parts["aux"].append(doc["aux"][: max(kept - 2, 0)])
        parts["row_tokens"].append(start + torch.arange(max(kept - 2, 0)))
        parts["last"].append(doc["last"][last])
        parts["last_tokens"].append(start + last)
        parts["teacher_argmax"].append(logits.argmax(-1))
        parts["teacher_lse"].append(logits.logsumexp(-1))
        start += kept
    return Pack(**{name: torch.cat(tensors) for name, tensors in parts.items()})


def random_logits(seed, scale=2.0, rows=6, draft_vocab=11, vocab=17):
    """Logits, a teacher's distributions, and the target's probabilities on the draft vocabulary."""
    draw = torch.Generator().manual_seed(seed)
    head = torch.randn(vocab, 5, generator=draw, dtype=torch.float64) * scale
    last = torch.randn(rows, 5, generator=draw, dtype=torch.float64)
    whole = last @ head.T
    own = whole.softmax(-1)[:, :draft_vocab]
    teacher = Teacher(last, whole.logsumexp(-1), whole.argmax(-1), Head(head[:draft_vocab]))
    logits = torch.randn(rows, draft_vocab, generator=draw, dtype=torch.float64) * scale
    mix = torch.rand(rows, generator=draw, dtype=torch.float64)
    return logits, teacher.probs(torch.arange(rows), logs=True), own, mix
