"""Captured states against a plain forward pass of one document at a time."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from eagle3.capture import self_check as selfcheck
from eagle3.capture.job import CaptureJob, capture_shard
from eagle3.capture.self_check import check_shard, sampled_document
from eagle3.capture.shard_capture import ShardCapture, capture, token_batches
from eagle3.capture.teacher_rows import TeacherRows
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.files.artifact import Settings
from eagle3.store.reader import FeatureShard
from eagle3.target_model.layers import aux_layers
from tests.builders.models import KINDS, LAYERS
from tests.builders.shards import (
    ALONE,
    STATES,
    captured,
    chats,
    naive_states,
    open_target,
    placement,
    read_all,
    state_settings,
    token_shard,
)

NAMES = ("aux", "last", "teacher_argmax", "teacher_lse")


def naive_capture(directory, shard):
    """The definition, spelled out: one document, one pass, rows picked by hand."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    result = {name: [] for name in NAMES}
    for start, stop in zip(shard.doc_offsets[:-1], shard.doc_offsets[1:], strict=True):
        mask = shard.loss_mask[start:stop]
        supervised = [p for p in range(len(mask)) if mask[p]]
        if not supervised:
            continue
        end = supervised[-1]  # x_e
        ids = shard.input_ids[start:stop][: end + 1]
        aux, last, logits = naive_states(model, ids, aux_layers(None, LAYERS))
        result["aux"].append(aux[: max(end - 1, 0)])
        for p in range(1, end):
            if mask[p] and mask[p + 1]:
                result["last"].append(last[p : p + 1])
                result["teacher_argmax"].append(logits[p].argmax()[None].int())
                result["teacher_lse"].append(logits[p].logsumexp(-1)[None])
    return {name: torch.cat(parts) for name, parts in result.items()}


BARE = (np.arange(3, 12), np.zeros(9, dtype=np.uint8))  # a document nobody answers in
EDGES = [([5, 6], [1, 1]), ([5, 6, 7], [0, 1, 1]), ([9], [1]), ([7, 8, 9], [0, 0, 1])]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "shard.safetensors"
    token_shard(path, [*chats(5), BARE, *EDGES, *chats(5, seed=9)])
    return path


@pytest.fixture
def shard(file):
    return CaptureJob(STATES, file, file).tokens


@pytest.mark.parametrize("kind", KINDS)
def test_capture_equals_one_document_at_a_time(targets, file, shard, tmp_path, kind):
    result = read_all(captured(tmp_path / "a", targets[kind], file, batch_tokens=128))
    expected = naive_capture(targets[kind], shard)
    assert torch.equal(result["teacher_argmax"], expected["teacher_argmax"])
    for name in ("aux", "last", "teacher_lse"):
        torch.testing.assert_close(result[name], expected[name], rtol=1e-4, atol=2e-5)


def test_a_batch_of_one_is_the_plain_pass_bit_for_bit(targets, file, shard, tmp_path):
    result = read_all(captured(tmp_path / "a", targets["llama"], file, batch_tokens=1))
    expected = naive_capture(targets["llama"], shard)
    for name in ("aux", "last", "teacher_argmax"):
        assert torch.equal(result[name], expected[name]), name


@pytest.mark.parametrize("budget", [1, 37, 4096])
def test_the_token_budget_changes_neither_layout_nor_states(targets, file, tmp_path, budget):
    result, other = (
        read_all(captured(tmp_path / str(b), targets["qwen3"], file, batch_tokens=b))
        for b in (budget, 64)
    )
    for name in NAMES:
        torch.testing.assert_close(result[name], other[name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("codec", ["bf16", "bf16_zstd", "fp8_e4m3", "int8", "nf4"])
def test_log_sum_exp_is_of_the_state_as_stored(targets, file, shard, tmp_path, codec):
    """With a lossy codec no probability on the draft vocabulary exceeds one."""
    _, head = open_target(targets["llama"])
    result = read_all(captured(tmp_path / "a", targets["llama"], file, state_settings(codec)))
    assert result["aux"].dtype == result["last"].dtype == torch.bfloat16
    logits = head.logits(result["last"].float())
    torch.testing.assert_close(result["teacher_lse"], logits.logsumexp(-1), rtol=1e-6, atol=1e-6)
    # the argmax is the one of the target itself, before anything was rounded
    expected = naive_capture(targets["llama"], shard)["teacher_argmax"]
    assert torch.equal(result["teacher_argmax"], expected)


def test_agreement_with_the_next_token_is_counted(targets, file, shard, tmp_path):
    made = captured(tmp_path / "a", targets["llama"], file)
    argmax, next_tokens = read_all(made)["teacher_argmax"].tolist(), []
    for start, stop in zip(shard.doc_offsets[:-1], shard.doc_offsets[1:], strict=True):
        ids, mask = shard.input_ids[start:stop], shard.loss_mask[start:stop]
        next_tokens += [ids[p + 1] for p in range(1, len(ids) - 1) if mask[p] and mask[p + 1]]
    agreed = sum(a == b for a, b in zip(argmax, next_tokens, strict=True))
    assert made.manifest.counts["argmax_agrees"] == agreed


def test_the_manifest_says_which_layers(targets, file, tmp_path):
    counts = captured(tmp_path / "a", targets["llama"], file).manifest.counts
    assert counts["aux_layers"] == [1, 3, 4] and counts["hidden_size"] == 32


@pytest.mark.parametrize("codec", ["fp32", "bf16_zstd", "fp8_e4m3_zstd", "int8", "nf4"])
@pytest.mark.parametrize("layers", [[4], [0, 5], [0, 1, 3, 4, 6]])
def test_any_number_of_layers_is_captured_and_checked(
    targets, file, shard, tmp_path, layers, codec
):
    settings = state_settings(codec, layers=layers)
    job = CaptureJob(settings, file, targets["llama"])
    checked = capture_shard(job, tmp_path / "a", placement(self_check=True), ALONE)
    assert list(checked) == [*(f"layer {layer}" for layer in layers), "last"]
    assert min(checked.values()) > 0.999
    made = FeatureShard(tmp_path / "a", shard, settings.digest)
    assert made.manifest.counts["aux_layers"] == layers
    model = AutoModelForCausalLM.from_pretrained(targets["llama"]).eval()
    first = int(np.argmax(made.layout.needed.kept))
    ids = shard.input_ids[shard.doc_offsets[first] :][: made.layout.needed.kept[first]]
    expected = naive_states(model, ids, layers)[0][: len(ids) - 2]
    aux = made.read(first)["aux"]
    assert aux.shape == expected.shape == (len(ids) - 2, len(layers) * 32)
    error = (aux.float() - expected).norm() / expected.norm()
    assert error < {"fp32": 1e-6, "bf16_zstd": 0.004, "nf4": 0.15}.get(codec, 0.05)


@pytest.mark.parametrize("documents", [[], [([3, 4, 5], [0, 0, 0])]])
@pytest.mark.parametrize("backend", ["hf", "sglang", "vllm"])
def test_nothing_supervised_gives_a_shard_without_rows(targets, tmp_path, documents, backend):
    """And needs no engine: neither SGLang nor vLLM is installed here."""
    token_shard(tmp_path / "tokens", documents)
    settings = state_settings("bf16", backend)
    made = captured(
        tmp_path / "a", targets["llama"], tmp_path / "tokens", settings, self_check=True
    )
    assert made.layout.aux_rows == made.layout.last_rows == 0


def open_shard(path, targets, file, codec="fp32"):
    job = CaptureJob(state_settings(codec), file, targets["llama"])
    return job.shard(path, ALONE, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["aux", "last"])
def test_states_that_are_not_finite_are_refused_with_their_document(
    targets, file, tmp_path, part, value
):
    shard = open_shard(tmp_path / "a", targets, file)
    try:
        lengths = shard.layout.needed.kept[[2, 3]]
        states = {
            "aux": torch.zeros(int(lengths.sum()), 96),
            "last": torch.zeros(int(lengths.sum()), 32),
        }
        needed = shard.layout.needed
        row = 0 if part == "aux" else needed.last_positions[needed.last_offsets[3]]
        states[part][lengths[0] + row, 7] = value
        with pytest.raises(UserError, match=r"1 rows of states are not finite \(documents row-3\)"):
            shard.add([2, 3], states["aux"], states["last"])
    finally:
        shard.close()


def test_what_nobody_reads_may_be_anything(targets, file, tmp_path):
    """The last token's row is never stored, so its states do not matter."""
    shard = open_shard(tmp_path / "a", targets, file)
    length = int(shard.layout.needed.kept[0])
    aux, last = torch.zeros(length, 96), torch.zeros(length, 32)
    aux[-1], last[-1], last[0] = float("nan"), float("inf"), float("nan")
    shard.add([0], aux, last)
    shard.close()


def test_too_many_or_too_few_rows_are_refused(targets, file, tmp_path):
    shard = open_shard(tmp_path / "a", targets, file)
    length = int(shard.layout.needed.kept[0])
    for rows in (length - 1, length + 1):
        with pytest.raises(UserError, match=f"have {length} tokens, the target returned {rows}"):
            shard.add([0], torch.zeros(rows, 96), torch.zeros(rows, 32))
    shard.close()


class Swapped:
    """An engine that gives two documents each other's states."""

    def __init__(self, engine):
        self.engine = engine

    def flat_states(self, documents):
        return self.engine.flat_states([torch.roll(ids, 1) for ids in documents])


class OtherLayers:
    """An engine with its layers in another order."""

    def __init__(self, engine):
        self.engine = engine

    def flat_states(self, documents):
        aux, last = self.engine.flat_states(documents)
        low, mid, high = aux.chunk(3, dim=1)
        return torch.cat([low, high, mid], dim=1), last


def self_check(targets, file, tmp_path, codec="fp32", wrap=lambda engine: engine):
    layers = aux_layers(None, LAYERS)
    engine = HFTarget.load(targets["llama"], layers, "float32")
    settings = state_settings(codec)
    shard = CaptureJob(settings, file, targets["llama"]).shard(tmp_path / "a", ALONE, 1)
    capture(wrap(engine), shard, 64)
    shard.finish()
    return check_shard(tmp_path / "a", shard.tokens, engine, layers, settings.digest)


@pytest.mark.parametrize("codec", ["fp32", "bf16_zstd", "fp8_e4m3", "int8", "nf4"])
def test_the_self_check_passes_what_is_right(targets, file, tmp_path, codec):
    result = self_check(targets, file, tmp_path, codec)
    assert list(result) == ["layer 1", "layer 3", "layer 4", "last"]
    assert all(0.9999 < value <= 1.0001 for value in result.values())


@pytest.mark.parametrize(("wrap", "what"), [(Swapped, "layer|last"), (OtherLayers, "layer [34]")])
def test_the_self_check_refuses_what_is_wrong(targets, file, tmp_path, wrap, what):
    with pytest.raises(UserError, match=rf"differ from a plain forward pass.*for ({what})"):
        self_check(targets, file, tmp_path, wrap=wrap)


class OtherKernels:
    """An engine whose states differ by `share` of their size, as half precision makes those of
    other kernels or batches differ."""

    def __init__(self, engine, share):
        self.engine, self.share = engine, share

    def flat_states(self, documents):
        torch.manual_seed(0)
        return [self._moved(states) for states in self.engine.flat_states(documents)]

    def _moved(self, states):
        return states + self.share * states.square().mean(1, keepdim=True).sqrt() * torch.randn(
            states.shape
        )


@pytest.mark.parametrize("codec", ["fp32", "bf16", "fp8_e4m3", "int8", "nf4"])
def test_the_self_check_is_as_strict_whatever_the_codec_loses(targets, file, tmp_path, codec):
    """A coarse grid moves two nearly equal numbers apart."""
    result = self_check(targets, file, tmp_path, codec, lambda e: OtherKernels(e, 0.015))
    assert min(result.values()) > 0.9995
    with pytest.raises(UserError, match="differ from a plain forward pass"):
        self_check(targets, file, tmp_path, codec, lambda e: OtherKernels(e, 0.15))


def test_a_job_runs_its_self_check(targets, file, tmp_path, monkeypatch):
    job = CaptureJob(STATES, file, targets["llama"])
    result = capture_shard(job, tmp_path / "a", placement(self_check=True), ALONE)
    assert min(result.values()) > 0.9999
    monkeypatch.setattr(ShardCapture, "add", add_zeros)
    with pytest.raises(UserError, match="differ from a plain forward pass"):
        capture_shard(job, tmp_path / "b", placement(self_check=True), ALONE)


plain_add = ShardCapture.add


def add_zeros(self, documents, aux, last):
    plain_add(self, documents, torch.zeros_like(aux), last)


def test_the_last_layer_is_captured_and_left_out_of_the_comparison(targets, file, tmp_path):
    """Of it transformers returns no output of its own, only the state after the final norm."""
    values = STATES.values | {
        "hidden_states": {**STATES.values["hidden_states"], "aux_layers": [1, 3, 7]}
    }
    job = CaptureJob(Settings("hidden_states", values, STATES.upstream), file, targets["llama"])
    result = capture_shard(job, tmp_path / "a", placement(self_check=True), ALONE)
    assert list(result) == ["layer 1", "layer 3", "last"] and min(result.values()) > 0.9999


def test_a_cosine_that_is_no_number_is_refused(targets, file, tmp_path, monkeypatch):
    monkeypatch.setattr(
        selfcheck.StoredStates,
        "aux_cosine",
        lambda _, layer, plain: float("nan") if layer == 3 else 1.0,
    )
    with pytest.raises(UserError, match=r"cosine nan for layer 3"):
        self_check(targets, file, tmp_path)


@pytest.mark.parametrize("stated", ["text", "whole", "nowhere"])
def test_the_dtype_is_the_stored_one_wherever_it_is_stated(targets, file, tmp_path, stated):
    """A configuration may state it for the whole model, for its text part, or not at all."""
    model = AutoModelForCausalLM.from_pretrained(targets["llama"], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    described = tmp_path / "model" / "config.json"
    config = json.loads(described.read_text())
    assert config.pop("dtype") == "bfloat16"
    if stated == "text":
        config["dtype"] = "bfloat16"
    if stated == "whole":
        config["torch_dtype"] = "bfloat16"
    described.write_text(json.dumps(config))
    values = STATES.values | {"target": {**STATES.values["target"], "dtype": "auto"}}
    job = CaptureJob(Settings("hidden_states", values, STATES.upstream), file, tmp_path / "model")
    assert job.dtype == "bfloat16"
    result = capture_shard(job, tmp_path / "a", placement(self_check=True), ALONE)
    assert min(result.values()) > 0.999


def test_the_sampled_document_follows_from_the_tokens_alone(targets, file, shard, tmp_path):
    made = captured(tmp_path / "a", targets["llama"], file)
    document = sampled_document(shard)
    first, last = made.layout.needed.last_offsets[document : document + 2]
    assert last > first
    assert document == sampled_document(shard)


def test_ranks_that_do_not_write_take_part(targets, file, tmp_path):
    """Without a path everything is computed and nothing is written."""
    job = CaptureJob(STATES, file, targets["llama"])
    teacher = TeacherRows(job.head, torch.float32, ALONE)
    shard = ShardCapture(None, job.tokens, teacher, job.layers, STATES)
    capture(HFTarget.load(targets["llama"], job.layers, "float32"), shard, 64)
    assert shard.complete and shard.finish() is None
    assert not list(tmp_path.iterdir())


def test_a_shard_of_another_target_is_not_opened(targets, file, tmp_path):
    made = captured(tmp_path / "a", targets["llama"], file)
    other = state_settings("bf16")
    with pytest.raises(UserError, match="made under other settings"):
        FeatureShard(made.path, CaptureJob(STATES, file, file).tokens, other.digest)


@pytest.mark.parametrize("budget", [1, 10, 64, 10**6])
def test_batches_hold_every_document_once_within_the_budget(budget):
    lengths = np.random.default_rng(0).integers(0, 40, 50)
    batches = token_batches(lengths, budget)
    seen = np.concatenate(batches)
    assert sorted(seen.tolist()) == np.flatnonzero(lengths > 0).tolist()
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
