"""The plan against what is really written, counted and built."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MixtralConfig

from eagle3.config.configuration import Config
from eagle3.draft.config import derive_config
from eagle3.draft.model import Eagle3Draft
from eagle3.files.tensor_file import open_tensors
from eagle3.objective.rows import step_rows
from eagle3.report.loading import Loading, loading_doubt
from eagle3.report.plan import (
    build_plan,
    draft_parameters,
    plan_table,
    rows_at_steps,
    size_text,
    time_text,
)
from eagle3.report.plan_warnings import idle_arguments, memory_doubt, target_doubts
from eagle3.report.rates import Rates
from eagle3.store.layout import Layout
from eagle3.target_model.cost import target_flops_per_token
from eagle3.tokens.schedule import Documents
from tests.builders.models import VOCAB, model_config
from tests.builders.shards import TRAIN, captured, chats, schedule_of, state_settings, token_shard

RATES, LOADING = Rates(3e12, 1e12, "a test"), Loading(20.0)
EDGES = [([3, 4, 5], [1, 1, 1]), ([3], [1]), ([3, 4], [0, 0]), ([3, 4, 5, 6], [0, 1, 1, 0])]


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    return token_shard(tmp_path_factory.mktemp("plan") / "tokens", [*chats(6), *EDGES])


@pytest.mark.parametrize("layers", [[1, 3, 4], [2], [0, 1, 3, 4, 6]])
@pytest.mark.parametrize("codec", ["bf16", "fp32", "fp8_e4m3", "int8", "nf4"])
def test_bytes_are_those_of_a_written_shard(targets, tmp_path, codec, layers):
    shard = token_shard(tmp_path / "tokens", [*chats(6), *EDGES])
    path = tmp_path / "states.safetensors"
    captured(path, targets["llama"], tmp_path / "tokens", state_settings(codec, layers=layers))
    with open_tensors(path, "pt") as handle:
        payload = sum(handle.get_tensor(name).nbytes for name in handle.keys())  # noqa: SIM118
    assert Layout(shard.needed, codec, 32, len(layers)).expected_bytes() == payload
    header = path.stat().st_size - payload
    assert 0 < header < 16384


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_rows_at_steps_are_those_of_the_objective(shard, steps):
    every = np.zeros(steps, dtype=np.int64)
    known = torch.ones(VOCAB, dtype=torch.bool)
    for start, stop in zip(shard.doc_offsets[:-1], shard.doc_offsets[1:], strict=True):
        ids = torch.from_numpy(shard.input_ids[start:stop].astype(np.int64))
        mask = torch.from_numpy(shard.loss_mask[start:stop].astype(bool))
        plan = step_rows(ids, mask, torch.zeros(len(ids), dtype=torch.int64), known, steps)
        every += [int((plan.allowed >= k).sum()) for k in range(steps)]
    assert rows_at_steps(shard, steps).tolist() == every.tolist()
    assert every[0] == Documents.of([shard]).rows.sum()


SHAPES = (
    ({}, (1, 2, 3)),
    ({"num_hidden_layers": 3, "qk_norm": True}, (4,)),
    ({"num_hidden_layers": 2, "fc_norm": True}, (0, 1, 3, 5, 6)),
)


@pytest.mark.parametrize(("shape", "layers"), SHAPES)
@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
def test_parameters_are_those_of_the_module(kind, shape, layers):
    config = derive_config(model_config(kind), {"num_attention_heads": 8, **shape}, 40, layers)
    assert draft_parameters(config) == sum(p.numel() for p in Eagle3Draft(config).parameters())


def test_a_mixture_counts_the_experts_that_are_used():
    common = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = common | {"num_key_value_heads": 1, "intermediate_size": 16}
    attention = 8 * 4 * (2 * 2 + 2 * 1)
    llama = model_config("llama", **sizes)
    assert target_flops_per_token(llama) == 2 * 2 * (attention + 3 * 8 * 16)
    mixtral = MixtralConfig(**sizes, num_local_experts=4, num_experts_per_tok=2)
    assert target_flops_per_token(mixtral) == 2 * 2 * (attention + 3 * 8 * 2 * 16)
    moe = model_config("qwen3_moe", **sizes | {"head_dim": 4}, moe_intermediate_size=5)
    assert target_flops_per_token(moe) == 2 * 2 * (attention + 3 * 8 * 2 * 5)


def planned(
    shard,
    budget_gb=None,
    stages=1,
    copies=1,
    folder=Path("/nowhere/yet"),
    window=None,
    held_out=0,
    memory_gb=None,
    rates=RATES,
    loading=LOADING,
    shared=0,
):
    """Plan of `copies` equal shards, in rolling mode if a window is given."""
    train = TRAIN.model_dump() | {"epochs": 2, "epochs_per_stage": 2 // stages}
    schedule = schedule_of([shard], SimpleNamespace(**train))
    target = model_config("llama")
    values = {
        "hidden_states": {
            "codec": "bf16",
            "window_shards": window or copies,
            "keep": window is None,
        },
        "train": train,
        "hardware": {"memory_gb": memory_gb},
    }
    draft = derive_config(target, {}, 40, (1, 2, 3))
    shards, scored = (
        ((f"shard-{number:05d}.safetensors", shard) for number in range(count))
        for count in (copies, held_out)
    )
    room = folder, budget_gb
    plan = build_plan(
        shards, scored, target, draft, values, schedule, *room, rates, loading, shared
    )
    return plan, draft


def test_what_does_not_fit_is_said_and_what_is_there_already_counts(shard, tmp_path, monkeypatch):
    room = SimpleNamespace(free=10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    plan, _ = planned(shard, folder=tmp_path)
    room.free = plan["bytes_peak"]
    assert planned(shard, folder=tmp_path)[0]["shortage"] is None
    room.free -= 1
    tight, _ = planned(shard, folder=tmp_path)
    assert "are free after checkpoints" in tight["shortage"]
    assert tight["shortage"] in plan_table(tight)
    (tmp_path / "shard-00000.safetensors").write_bytes(bytes(plan["bytes_states"]))
    assert planned(shard, folder=tmp_path)[0]["shortage"] is None


def test_a_budget_binds_where_the_disk_does_not(shard):
    plan, _ = planned(shard, copies=10)
    each = plan["bytes_per_shard_max"]
    assert planned(shard, copies=10, budget_gb=10 * each / 1e9)[0]["shortage"] is None
    tight, _ = planned(shard, copies=10, budget_gb=(7 * each + 9) / 1e9)
    assert "7 of the 10 shards still to come fit" in tight["shortage"]
    assert "the largest window_shards is 3" in tight["shortage"]


def test_held_out_states_are_part_of_the_peak_and_of_the_budget(shard):
    without, _ = planned(shard, copies=3)
    plan, _ = planned(shard, copies=3, held_out=2)
    each = plan["bytes_per_shard_max"]
    assert [*plan["bytes_of_held_out"].values()] == [each, each]
    assert plan["bytes_peak"] == without["bytes_peak"] + 2 * each
    assert plan["bytes_states"] == without["bytes_states"]
    assert planned(shard, copies=3, held_out=2, budget_gb=5 * each / 1e9)[0]["shortage"] is None
    tight, _ = planned(shard, copies=3, held_out=2, budget_gb=(5 * each - 1) / 1e9)
    assert "2 of the 3 shards still to come fit" in tight["shortage"]


def test_in_rolling_mode_two_windows_count_and_every_capture_again(shard):
    keep, _ = planned(shard, copies=10, stages=2)
    plan, _ = planned(shard, copies=10, stages=2, window=3)
    each = plan["bytes_per_shard_max"]
    assert plan["bytes_states"] == 10 * each and plan["bytes_states_peak"] == 6 * each
    assert plan["bytes_peak"] == plan["bytes_states_peak"] + plan["bytes_checkpoints"]
    assert (plan["stages"], plan["windows"], plan["captures"]) == (8, 4, 2)
    assert plan["capture_flops"] == 2 * keep["capture_flops"]
    assert plan["training_flops"] == keep["training_flops"]
    assert "4 windows" in plan_table(plan) and "captured 2 times" in plan_table(plan)
    assert plan["shortage"] is None
    tight, _ = planned(shard, copies=10, stages=2, window=3, budget_gb=(6 * each - 1) / 1e9)
    assert "two windows of hidden states need" in tight["shortage"]
    assert "lower hidden_states.window_shards to 2" in tight["shortage"]


@pytest.mark.parametrize("stages", [1, 2])
def test_the_peak_holds_every_save_that_lies_on_the_disk_at_once(shard, stages):
    plan, draft = planned(shard, stages=stages)
    one = 4 * draft_parameters(draft)
    # finished stages, the optimiser of the one before, and two whole saves while one gives way
    saves = (stages - 1) * one + (2 * one if stages > 1 else 0) + 2 * 3 * one
    assert plan["bytes_peak"] - plan["bytes_states"] == saves


def test_times_follow_the_rates(shard):
    plan, _ = planned(shard)
    assert plan["capture_seconds"] == pytest.approx(plan["capture_flops"] / 3e12)
    assert plan["training_seconds"] == pytest.approx(plan["training_flops"] / 1e12)
    epochs = 2
    read = plan["bytes_states"] * epochs / plan["training_seconds"]
    assert plan["training_read_rate"] == pytest.approx(read)


def test_every_capture_job_loads_the_target(shard):
    plan, _ = planned(shard, copies=4, held_out=2)
    assert (plan["loads"], plan["loading_seconds"]) == (6, 120.0)
    assert "the target 6 times, about 2 min" in plan_table(plan)
    pairs, _ = planned(shard, copies=4, held_out=1, loading=Loading(20.0, parallel=2))
    assert (pairs["loads"], pairs["loading_seconds"]) == (5, 60.0)
    again, _ = planned(shard, copies=4, window=1, stages=2)
    assert again["captures"] == 2 and again["loads"] == 8
    shared, _ = planned(shard, copies=4, held_out=2, shared=5)
    assert shared["loads"] == 1
    unknown, _ = planned(shard, loading=Loading(None))
    assert unknown["loading_seconds"] is None and "1 times, time unknown" in plan_table(unknown)


def test_how_long_a_job_loads_follows_from_size_and_engine():
    def of(backend="hf", self_check=True, devices=1, device="cuda"):
        capture = {"tensor_parallel": 2, "self_check": self_check}
        values = {
            "run": "r",
            "hidden_states": {"backend": backend},
            "hardware": {"devices": devices},
            "resources": {"device": device, "capture": capture},
        }
        return Loading.of(Config.of(values), 64 * 10**9)

    assert of(device="cpu") == Loading(69.0, 1)  # no GPU to start
    assert of() == Loading(79.0, 1) and of(devices=8) == Loading(79.0, 4)
    # the check of a separate engine's states loads the target once more
    assert of("sglang") == Loading(143.0, 1) and of("sglang", self_check=False) == Loading(79.0, 1)
    assert Loading.of(Config.of({"run": "r"}), None).whole(3) is None


def test_a_capture_that_mostly_loads_is_warned_of():
    def doubt(seconds: float | None, capture: float | None, shards: int, parallel: int = 1) -> Any:
        loading = Loading(seconds, parallel)
        plan = {"capture_seconds": capture, "loading_seconds": loading.whole(shards + 1)}
        return loading_doubt(loading, plan | {"shards": shards, "loads": shards + 1}, 256)

    # an 8B target: 257 shards of 8 seconds, 31 seconds of loading each
    [said] = doubt(31.0, 257 * 8.0, 257)
    assert "258 times, 133 minutes beside 34 of computing" in said
    shards = -(-257 * 256 // int(said.rsplit(" ", 1)[1]))
    assert shards * 31.0 < 0.11 * (shards * 31.0 + 257 * 8.0)
    assert doubt(31.0, 257 * 8.0, shards) == []
    # no more GPUs idle than before, nothing unknown, and no small run
    assert doubt(31.0, 80.0, 8, parallel=8) == []
    assert doubt(None, 80.0, 257) == doubt(31.0, None, 257) == doubt(10.0, 1.0, 4) == []


def test_the_memory_of_a_gpu_is_compared_where_it_is_known(shard):
    unknown, draft = planned(shard)
    assert unknown["largest_pack"] is None and "of a GPU" not in plan_table(unknown)
    needed = unknown["bytes_training"]
    assert needed > 16 * draft_parameters(draft)
    assert memory_doubt(unknown, TRAIN.pack_tokens) == []
    enough, _ = planned(shard, memory_gb=20 * needed / 1e9)
    assert enough["largest_pack"] >= TRAIN.pack_tokens and "of a GPU" in plan_table(enough)
    assert memory_doubt(enough, TRAIN.pack_tokens) == []
    [said] = memory_doubt(enough, 10**9)
    assert f"at most {enough['largest_pack']} should fit" in said
    little, _ = planned(shard, memory_gb=needed / 1e12)
    [said] = memory_doubt(little, TRAIN.pack_tokens)
    assert little["largest_pack"] == 0 and "alone are too large" in said


def test_a_limit_of_steps_is_a_share_of_the_training(shard, monkeypatch):
    plan, _ = planned(shard)
    assert plan["steps"] == plan["all_steps"] > 2
    monkeypatch.setattr("tests.report.test_plan.TRAIN", TRAIN.model_copy(update={"max_steps": 2}))
    short, _ = planned(shard)
    assert (short["steps"], short["all_steps"]) == (2, plan["steps"])
    share = 2 / plan["steps"]
    assert short["training_flops"] == pytest.approx(share * plan["training_flops"])
    assert short["capture_flops"] == plan["capture_flops"]
    assert f"2 of {plan['steps']} steps" in plan_table(short)
    assert f", {plan['steps']} steps" in plan_table(plan)


def test_times_that_nothing_is_known_of_are_left_open(shard):
    plan, _ = planned(shard, rates=Rates(None, None, "no word of it"))
    assert plan["capture_seconds"] is plan["training_seconds"] is None
    table = plan_table(plan)
    assert table.count("time unknown") == 2 and "no word of it" in table
    assert "s of states" not in table


def test_sizes_and_times_for_people():
    assert [size_text(v) for v in (0, 1023, 1024, 3 * 2**40)] == [
        "0 B", "1023 B", "1.0 KiB", "3.00 TiB"
    ]  # fmt: skip
    assert [time_text(v) for v in (5, 600, 7200)] == ["about 5 s", "about 10 min", "about 2.0 h"]


def test_a_target_that_its_gpus_do_not_hold_is_said_of_each_job() -> None:
    def said(weights: int | None, stored: str | None, **sections: Any) -> list[str]:
        config = Config.of({"run": "r", "resources": {"device": "cuda"}, **sections})
        return target_doubts(weights, stored, config, 80.0)

    assert said(16 * 10**9, "bfloat16") == said(None, "bfloat16") == []
    [mixture] = said(61 * 10**9, "bfloat16")
    assert mixture.startswith("evaluate (evaluation.dtype float32): the target's weights take 122")
    assert "more than 1 GPU of hardware.memory_gb 80 hold: set evaluation.dtype to bf" in mixture
    assert said(61 * 10**9, "bfloat16", evaluation={"dtype": "bfloat16"}) == []
    assert said(61 * 10**9, None) == []  # quantised weights stay as they are
    capture, _ = said(141 * 10**9, "bfloat16", evaluation={"dtype": "bfloat16"})
    assert capture.startswith("capture: the target's weights take 141 GB, more than 1 GPU ")
    on_cpu = Config.of({"run": "r", "resources": {"device": "cpu"}})
    assert target_doubts(10**12, "bfloat16", on_cpu, 80.0) == []


def test_arguments_of_an_engine_that_does_not_capture_are_said() -> None:
    def said(backend: str) -> list[str]:
        capture = {"capture": {"sglang_arguments": {"mem_fraction_static": 0.7}}}
        sections = {"hidden_states": {"backend": backend}, "resources": capture}
        return idle_arguments(Config.of({"run": "r", **sections}))

    assert said("sglang") == []
    assert said("hf") == [
        "resources.capture.sglang_arguments have no effect: hidden_states.backend is hf"
    ]
