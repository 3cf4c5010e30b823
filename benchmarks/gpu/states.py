"""Hidden states: codecs, capture through a target, and reading them back, against the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.capture import bare, whole
from benchmarks.gpu.bench import CPU, Bench, Row, difference
from eagle3.capture.shard_capture import ShardCapture
from eagle3.capture.teacher_rows import TeacherRows
from eagle3.data.conversations import Conversation
from eagle3.data.masks import TokenizedDocument
from eagle3.engines.hf import HFTarget
from eagle3.files.artifact import Settings
from eagle3.parallel.ranks import Ranks
from eagle3.store.codecs import CODECS
from eagle3.target_model.reader import Head
from eagle3.tokens.shards import TokenShard, read_token_shard, write_token_shard
from eagle3.training.data import TrainingData
from eagle3.training.loader import read_ahead

TOKENS = Settings("tokens", {}, {})
BF16 = torch.bfloat16


@dataclass(frozen=True)
class TargetShape:
    """Sizes of a Llama whose weights are random."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def captured(self) -> tuple[int, int, int]:
        return 1, self.layers // 2 - 1, self.layers - 4


LLAMA_8B = TargetShape(128256, 4096, 14336, 32, 32, 8)
SMALL = TargetShape(997, 64, 128, 8, 4, 2)


def codecs(bench: Bench) -> Iterator[Row]:
    """Whether encoding and decoding are bit-identical to the CPU, and GB/s of bfloat16 states."""
    rows, hidden = (64, 64) if bench.tiny or not bench.on_gpu else (16384, 4096)
    states = torch.randn(rows, 3, hidden, device=bench.device, dtype=BF16)
    few = states[:64].cpu()

    def compared(name: str) -> Row:
        codec = CODECS[name]
        stored, expected = codec.encode(states), codec.encode(few)
        same = {key: _same_bits(stored[key][:64], part) for key, part in expected.items()}
        decoded = codec.decode(stored, 3)[:64]
        back = codec.decode({key: part[:64].cpu() for key, part in stored.items()}, 3)
        gigabytes = states.nbytes / 1e9
        return {
            "ok": all(same.values()) and _same_bits(decoded, back),
            "encode GB/s": gigabytes / bench.seconds(lambda: codec.encode(states)),
            "decode GB/s": gigabytes / bench.seconds(lambda: codec.decode(stored, 3)),
        }

    for name in CODECS:
        yield bench.row(name, partial(compared, name))


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(*(t.cpu().contiguous().view(torch.uint8) for t in (one, other)))


def capture(bench: Bench) -> Iterator[Row]:
    """A shard captured on the device against the CPU's, packs read from it, and throughput."""
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as folder:
        for codec in ("bf16", "nf4"):
            yield bench.row(f"{codec} against the CPU", partial(_against, bench, folder, codec))
        yield bench.row("packs read ahead", partial(_read_back, bench, folder))
        yield from _throughput(bench, Path(folder))


def _against(bench: Bench, folder: str, codec: str) -> Row:
    """The same target in float32 on both devices. The argmax may differ where two logits are nearly
    equal; states differ by the order of sums, and then by a quantisation step."""
    tokens = _token_shard(Path(folder) / "tokens", 12, 5, 60, SMALL.vocab)
    result = {}
    for device in (CPU, bench.device):
        path = Path(folder) / f"{codec}-{'there' if device is bench.device else 'here'}"
        engine, head = random_target(SMALL, device, torch.float32)
        shard = _shard(path, tokens, head, engine.dtype, codec, device)
        whole(engine, shard, 256)
        settings = _settings(codec)
        data = TrainingData([Path(folder) / "tokens"], [path], TOKENS.digest, settings.digest)
        result[str(device is bench.device)] = data.pack(np.arange(len(tokens)))
    expected, actual = result["False"], result["True"]
    agree = (expected.teacher_argmax == actual.teacher_argmax).double().mean().item()
    aux, last = difference(actual.aux, expected.aux), difference(actual.last, expected.last)
    lse = (expected.teacher_lse - actual.teacher_lse).abs().max().item()
    bound = {"bf16": 5e-3, "nf4": 5e-2}[codec]
    return {
        "ok": max(aux, last) < bound and agree > 0.99 and lse < 0.05,
        "difference": max(aux, last),
        "same argmax": agree,
        "log-sum-exp": lse,
    }


def _read_back(bench: Bench, folder: str) -> Row:
    """Whether all tensors of the loader's packs are bit-identical."""
    settings = _settings("nf4")
    data = TrainingData(
        [Path(folder) / "tokens"], [Path(folder) / "nf4-here"], TOKENS.digest, settings.digest
    )
    packs = [np.array(numbers) for numbers in ([3, 0], [5], [1, 2, 4], [7])]
    same = []
    for pack, numbers in zip(read_ahead(data, packs, bench.device), packs, strict=True):
        expected = data.pack(numbers).tensors()
        same += [_same_bits(tensor, expected[name]) for name, tensor in pack.tensors().items()]
    return {"ok": all(same), "tensors": len(same)}


def _throughput(bench: Bench, folder: Path) -> Iterator[Row]:
    """Capture of an 8B target, and its bare forward pass and head (`benchmarks.capture`)."""
    tiny = bench.tiny or not bench.on_gpu
    shape = SMALL if tiny else LLAMA_8B
    count, shortest, longest, budget = (6, 5, 40, 128) if tiny else (64, 200, 2048, 8192)
    try:
        tokens = _token_shard(folder / "many", count, shortest, longest, shape.vocab)
        engine, head = random_target(shape, bench.device, bench.narrow)
    except RuntimeError as fault:  # out of memory, most likely
        yield {"what": "a target of the 8B shape", "ok": False, "fault": str(fault)[:400]}
        return
    new_shard = partial(_shard, None, tokens, head, engine.dtype, device=bench.device)
    total = int(new_shard(codec="bf16").layout.needed.kept.sum())
    bare_seconds = bench.seconds(
        lambda: bare(engine, head, new_shard(codec="bf16"), budget), repeat=2
    )
    yield {"what": "bare forward pass and head", "ok": True, "tokens/s": total / bare_seconds}

    def written(codec: str) -> Row:
        path = folder / f"many-{codec}"
        seconds = bench.seconds(
            lambda: whole(
                engine, _shard(path, tokens, head, engine.dtype, codec, bench.device), budget
            ),
            repeat=1,
        )
        path.unlink()
        return {"tokens/s": total / seconds, "of bare": bare_seconds / seconds}

    for codec in ("bf16",) if bench.tiny else ("bf16", "fp8_e4m3", "int8", "nf4", "bf16_zstd"):
        yield bench.row(f"capture {codec}", partial(written, codec), seconds=30)


def random_target(
    shape: TargetShape, device: torch.device, dtype: torch.dtype
) -> tuple[HFTarget, Head]:
    """Engine and head. Small ones are generated on the CPU, so they are equal on all devices."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
    )
    draw_device = CPU if shape is SMALL else device
    with torch.device("meta"):
        body: Any = LlamaModel(config).to(dtype)
    body.to_empty(device=draw_device)
    draw = torch.Generator(draw_device).manual_seed(0)
    with torch.no_grad():
        for name, weight in body.named_parameters():
            if "norm" in name:
                weight.fill_(1.0)
            else:
                weight.normal_(std=0.02, generator=draw)
    body.rotary_emb = type(body.rotary_emb)(config=config)
    weight = torch.empty(shape.vocab, shape.hidden, device=draw_device, dtype=dtype)
    weight.normal_(std=0.02, generator=draw)
    return HFTarget(body.to(device), shape.captured), Head(weight.to(device))


def _token_shard(path: Path, count: int, shortest: int, longest: int, vocab: int) -> TokenShard:
    """Random documents, 64 % of each in an answer at its end."""
    random = np.random.default_rng(0)
    rows, masked = [], []
    for number in range(count):
        length = int(random.integers(shortest, longest))
        rows.append(Conversation(f"row-{number}", []))
        mask = (np.arange(length) > length * 0.36).astype(np.uint8)
        ids = random.integers(0, vocab, length).astype(np.int32)
        masked.append((rows[-1], [TokenizedDocument(f"row-{number}", ids, mask, False)]))
    write_token_shard(path, rows, lambda _rows: iter(masked), TOKENS, {})
    return read_token_shard(path, TOKENS.digest)


def _settings(codec: str) -> Settings:
    section = {"codec": codec, "aux_layers": None, "backend": "hf"}
    return Settings("hidden_states", {"hidden_states": section}, {"tokens": TOKENS.digest})


def _shard(
    path: Path | None,
    tokens: TokenShard,
    head: Head,
    dtype: torch.dtype,
    codec: str,
    device: torch.device,
) -> ShardCapture:
    teacher = TeacherRows(head, dtype, Ranks(0, 1, device))
    return ShardCapture(path, tokens, teacher, (1, 2, 3), _settings(codec), threads=4)


def _memory_disk() -> str | None:
    """A folder in memory, if there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
