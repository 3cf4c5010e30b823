"""What a change re-runs, on real Snakemake calls: one call each, then a dry run that is idle."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.rules.workflow import ROOT, SMALL, merged, snakemake, summary_in

pytestmark = pytest.mark.dag
METRICS = "results/small/metrics/stage-0001.jsonl"
DELIVERY = {"export": 1, "evaluate": 1, "report": 1}
TRAINING = {"train_stage": 2, "score_stage": 2, "select_best": 1, **DELIVERY}


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    files = sorted(folder.glob(f"results/small/{pattern}"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def dates(folder: Path, pattern: str) -> dict[str, int]:
    return {f.name: f.stat().st_mtime_ns for f in folder.glob(f"results/small/{pattern}")}


def test_the_run_leaves_every_deliverable_and_no_leftovers(finished: Path) -> None:
    out = finished / "results" / "small"
    figures = json.loads((out / "evaluation" / "acceptance.json").read_text())
    assert figures["greedy_identical"] is True
    assert figures["prompts"] == 2
    length = 1 + sum(figures["per_position_acceptance"])
    assert figures["acceptance_length"] == pytest.approx(length, abs=1e-12)
    low, high = figures["acceptance_length_ci95"]
    assert low <= figures["acceptance_length"] <= high
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 7
    assert (out / "draft" / "sglang" / "model.safetensors").is_file()
    assert (out / "draft" / "sglang" / "README.md").read_text().startswith("---\n")
    stages = sorted(p.name for p in (out / "checkpoints").glob("stage-*/*"))
    assert stages == ["model.safetensors", "model.safetensors", "state.json", "state.json"]
    choice = json.loads((out / "evaluation" / "best.json").read_text())
    best = max(choice["stages"], key=lambda stage: stage["acceptance_length"])
    assert choice["stage"] == best["stage"] and len(choice["stages"]) == 2
    scored = json.loads((out / f"evaluation/stage-{best['stage']:04d}.json").read_text())
    assert (
        best.items()
        <= (scored | {"walk_acceptance_length": best["walk_acceptance_length"]}).items()
    )
    for name in ("model.safetensors", "state.json"):
        chosen = out / f"checkpoints/stage-{best['stage']:04d}" / name
        assert (out / "checkpoints" / "best" / name).read_bytes() == chosen.read_bytes()
    assert not list(out.rglob("*.tmp"))
    assert not list(out.glob("resume/*/step-*"))
    for path in [ROOT / "data" / "demo_chat.jsonl", *out.glob("hidden_states/train/*.safetensors")]:
        assert path.stat().st_size > 1_000_000, f"{path} is too small to show a fault in dates"


def test_a_second_call_does_nothing(copy: Path) -> None:
    again = snakemake(copy)
    assert again.code == 0
    assert again.idle
    assert not again.jobs


def test_a_finished_run_says_what_came_of_it_in_five_lines(copy: Path) -> None:
    out = copy / "results" / "small"
    card = out / "draft/sglang/README.md"
    before = card.read_bytes()
    assert summary_in(snakemake(copy, "-n", "--forcerun", "report")) == []
    (out / "report.html").unlink()
    finished = snakemake(copy)
    assert finished.code == 0 and dict(finished.jobs) == {"report": 1}
    figures = json.loads((out / "evaluation" / "acceptance.json").read_text())
    length, *_, warnings = summary_in(finished)
    assert length.startswith(f"acceptance length {figures['acceptance_length']:.2f} (95 %: ")
    assert "learned nothing" in warnings  # after a dozen steps
    assert card.read_bytes() == before
    (out / "plan.json").unlink()
    only_plan = snakemake(copy, target="plan")
    assert only_plan.code == 0 and dict(only_plan.jobs) == {"plan": 1}
    assert summary_in(only_plan) == []


def test_a_deleted_model_card_comes_back(copy: Path) -> None:
    (copy / "results/small/draft/sglang/README.md").unlink()
    assert dict(snakemake(copy, "-n").jobs) == {"report": 1}


@pytest.mark.long
def test_learning_rate_reruns_training_and_what_follows(copy: Path) -> None:
    kept = ("tokens/train/*", "hidden_states/train/*", "vocab/*", "target/*", "dataset/*")
    before = [dates(copy, pattern) for pattern in kept]
    weights = hashes(copy, "draft/sglang/model.safetensors")
    change = {"train": {"learning_rate": 2.0e-3}}
    outcome = snakemake(copy, change=change)
    assert outcome.code == 0, outcome.text[-4000:]
    assert dict(outcome.jobs) == {"plan": 1, **TRAINING}  # the plan doubts rates
    assert [dates(copy, pattern) for pattern in kept] == before
    assert hashes(copy, "draft/sglang/model.safetensors") != weights
    assert snakemake(copy, "-n", change=change).idle


@pytest.mark.long
def test_one_more_shard_captures_one_shard(copy: Path) -> None:
    before = hashes(copy, "hidden_states/train/*"), dates(copy, "hidden_states/train/*")
    change = {"dataset": {"num_samples": 192}}
    outcome = snakemake(copy, change=change)
    assert outcome.code == 0, outcome.text[-4000:]
    assert dict(outcome.jobs) == {
        "tokens": 1,
        "hidden_states": 1,
        "vocab": 1,
        "schedule": 1,
        "plan": 1,
        **TRAINING,
    }
    after = hashes(copy, "hidden_states/train/*"), dates(copy, "hidden_states/train/*")
    assert len(after[0]) == len(before[0]) + 2  # the states and what their self-check found
    for old, new in zip(before, after, strict=True):
        assert old.items() <= new.items()
    assert snakemake(copy, "-n", change=change).idle


@pytest.mark.long
def test_a_deleted_draft_is_made_again_without_training(copy: Path) -> None:
    weights = hashes(copy, "draft/sglang/*")
    (copy / "results/small/draft/sglang/model.safetensors").unlink()
    outcome = snakemake(copy)
    assert outcome.code == 0, outcome.text[-4000:]
    assert dict(outcome.jobs) == DELIVERY
    assert hashes(copy, "draft/sglang/*") == weights
    assert snakemake(copy, "-n").idle


def test_a_damaged_input_fails_the_job_with_its_sentence(copy: Path) -> None:
    """Also shows that a failed job is seen through the pipe that its log goes through."""
    shard = copy / "results/small/tokens/train/shard-00000.safetensors"
    stat, data = shard.stat(), bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    outcome = snakemake(copy, change={"train": {"learning_rate": 3.0e-3}})
    assert outcome.code == 1
    assert "content does not match its checksum: delete it and run snakemake again" in outcome.text
    assert "completed successfully, but some output files are missing" not in outcome.text


PLANNED = {
    "evaluation prompts": ({"evaluation": {"num_prompts": 3}}, {"evaluate": 1, "report": 1}),
    "ttt steps": ({"train": {"ttt_steps": 3}}, {"plan": 1, **TRAINING}),
    "draft vocabulary": (
        {"vocab": {"draft_vocab_size": 100}},
        {"vocab": 1, "plan": 1, **TRAINING},
    ),
    "codec": (
        {"hidden_states": {"codec": "fp32"}},
        {"hidden_states": 2, "held_out_states": 1, "plan": 1, **TRAINING},
    ),
    "capture engine": (
        {"hidden_states": {"backend": "sglang"}},
        {"hidden_states": 2, "held_out_states": 1, "plan": 1, **TRAINING},
    ),
    "chain length": (
        {"evaluation": {"num_speculative_tokens": 2}},
        {"score_stage": 2, "select_best": 1, **DELIVERY},
    ),
    "the last checkpoint": ({"export": {"checkpoint": "last"}}, DELIVERY),
    "temperature": ({"evaluation": {"temperature": 1.0}}, {"evaluate": 1, "report": 1}),
    "held-out samples within the same shards": ({"evaluation": {"held_out_samples": 40}}, {}),
    "early stop": ({"train": {"early_stop_patience": 1}}, TRAINING),
    "scores inside a stage": ({"train": {"score_every_steps": 2}}, TRAINING),
    "a limit of steps": (
        {"train": {"max_steps": 1}},
        {"schedule": 1, "plan": 1, **TRAINING},
    ),
    "one more form": (
        {"export": {"formats": ["sglang", "hf", "vllm"]}},
        {"export_others": 1, "report": 1},
    ),
    "export dtype": ({"export": {"dtype": "float32"}}, DELIVERY),
    "values that swap places": (
        {"train": {"epochs": 1, "packs_per_batch": 1, "epochs_per_stage": 2}},
        {"schedule": 1, "plan": 1, **TRAINING, "train_stage": 1, "score_stage": 1},
    ),
}


@pytest.mark.parametrize("name", PLANNED)
def test_a_dry_run_plans_what_a_change_touches(finished: Path, name: str) -> None:
    change, expected = PLANNED[name]
    outcome = snakemake(finished, "-n", change=change)
    assert outcome.code == 0, outcome.text[-4000:]
    assert dict(outcome.jobs) == expected
    assert outcome.idle == (expected == {})


def test_a_budget_that_is_too_small_stops_at_the_plan(copy: Path) -> None:
    """Asked for anew, as before the first capture; a budget alone re-runs nothing."""
    out = copy / "results" / "small"
    plan = json.loads((out / "plan.json").read_text())
    held_out = sum(plan["bytes_of_held_out"].values())
    budget = (held_out + 1.2 * max(plan["bytes_of_shards"].values())) / 1e9
    change = {"resources": {"disk_budget_gb": budget}}
    for path in [out / "plan.json", *out.glob("hidden_states/train/*.safetensors")]:
        path.unlink()
    outcome = snakemake(copy, change=change, target="plan")
    assert outcome.code == 1
    assert "trained positions" in outcome.text  # the table is printed all the same
    assert "are left of resources.disk_budget_gb" in outcome.text
    assert "1 of the 2 shards still to come fit" in outcome.text
    assert dict(outcome.jobs) == {"plan": 1} and not (out / "plan.json").exists()
    enough = snakemake(copy, change={"resources": {"disk_budget_gb": 3 * budget}}, target="plan")
    assert enough.code == 0 and dict(enough.jobs) == {"plan": 1}


def test_speed_and_placement_rerun_nothing(finished: Path) -> None:
    change = {
        "resources": {
            "disk_budget_gb": 1.5,
            "capture": {
                "batch_tokens": 999,
                "threads": 2,
                "tensor_parallel": 2,
                "self_check": False,
                "sglang_python": "elsewhere",
                "sglang_arguments": {"mem_fraction_static": 0.5},
            },
            "train": {
                "threads": 1,
                "processes": 2,
                "save_interval": 7,
                "recompute": True,
                "data_parallel": "fsdp2",
                "sp_ring_size": 2,
                "profile_steps": 3,
            },
            "evaluate": {"threads": 1, "batch": 3},
        }
    }
    assert snakemake(finished, "-n", change=change).idle


@pytest.mark.long
def test_answers_made_anew_by_the_target_take_the_place_of_those_given(copy: Path) -> None:
    shard = "results/small/tokens/train/shard-00001.safetensors"
    change = {"dataset": {"regenerate": {"backend": "hf", "max_tokens": 8}}}
    outcome = snakemake(copy, change=change, target=shard)
    assert outcome.code == 0, outcome.text[-8000:]
    assert outcome.jobs == {"regenerate": 1, "tokens": 1}
    answers = copy / "results/small/answers/train"
    rows = [json.loads(line) for line in (answers / "shard-00001.jsonl").open()]
    report = json.loads((answers / "shard-00001.report.json").read_text())
    assert report["rows"] == len(rows)
    assert len(rows) + len(report["first_dropped"]) == 64
    assert not list((copy / "results/small/resume").rglob("*.jsonl"))
    assert snakemake(copy, change=change, target=shard).idle
    planned = snakemake(copy, "-n", change=change)
    # the other shard, and the one that is held out
    assert planned.jobs["regenerate"] == planned.jobs["tokens"] == 2
    assert "dataset" not in planned.jobs
    assert snakemake(copy, "-n").jobs["tokens"] == 1  # back to the answers given


@pytest.mark.long
def test_two_ranks_that_share_each_pack_train_through_the_workflow(copy: Path) -> None:
    before = [json.loads(line) for line in (copy / METRICS).open()]
    sharing = {"processes": 2, "sp_ring_size": 2, "data_parallel": "fsdp2"}
    sharing |= {"profile_steps": 1, "profile_after": 1}
    train = {"attention_backend": "usp", "score_every_steps": 2}
    change = {"train": train, "resources": {"train": sharing}}
    outcome = snakemake(copy, change=change, target=METRICS)
    assert outcome.code == 0, outcome.text[-8000:]
    assert outcome.jobs == {"train_stage": 1}
    after = [json.loads(line) for line in (copy / METRICS).open()]
    for one, other in zip(before, after, strict=True):
        assert one["active"] == other["active"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-2)  # products are bfloat16
        assert ("held_out_loss" in other) == (other["step"] % 2 == 1)
    logs = copy / "results/small/logs/train"
    traces = [path.name for path in logs.glob("*.trace.json.gz")]
    assert sorted(traces) == [f"stage-0001.rank-{rank}.trace.json.gz" for rank in (0, 1)]


@pytest.mark.long
def test_training_scores_itself_and_ends_at_a_limit_inside_a_stage(copy: Path) -> None:
    out = copy / "results" / "small"
    limit = 1 + sum(1 for _ in (copy / METRICS).open())
    change = {"train": {"max_steps": limit, "score_every_steps": 1}}
    outcome = snakemake(copy, change=change)
    assert outcome.code == 0, outcome.text[-8000:]
    assert dict(outcome.jobs) == {"schedule": 1, "plan": 1, **TRAINING}
    stages = [
        [json.loads(line) for line in (out / f"metrics/stage-000{n}.jsonl").open()] for n in (1, 2)
    ]
    assert [len(stage) for stage in stages] == [limit - 1, 1]
    assert stages[1][0]["learning_rate"] < stages[0][0]["learning_rate"] * limit
    for number, stage in enumerate(stages, start=1):
        assert all("held_out_loss" in record for record in stage)
        scored = json.loads((out / f"evaluation/stage-{number:04d}.json").read_text())
        # other threads add numbers up in another order
        length = pytest.approx(scored["acceptance_length"], rel=0.01)
        assert stage[-1]["held_out_acceptance_length"] == length
    assert 1 < scored["epochs_done"] < 2
    assert f"{limit:,} of " in outcome.text  # of the plan
    assert snakemake(copy, "-n", change=change).idle


@pytest.mark.long
def test_early_stop_hands_a_checkpoint_on_and_a_set_of_prompts_is_decoded(copy: Path) -> None:
    """Four stages of which the first is the best: the last two are not trained."""
    prompts = copy / "gsm8k.jsonl"
    prompts.write_text("".join(json.dumps({"question": f"{i} + 1?"}) + "\n" for i in range(3)))
    change = {
        "train": {"epochs": 4, "early_stop_patience": 1, "learning_rate": 1.0e-9},
        "evaluation": {"prompts": [{"name": "gsm8k", "source": str(prompts)}], "temperature": 1.0},
    }
    outcome = snakemake(copy, change=change)
    assert outcome.code == 0, outcome.text[-8000:]
    four = {"train_stage": 4, "score_stage": 4, "schedule": 1, "plan": 1}
    assert dict(outcome.jobs) == {**TRAINING, **four}
    out = copy / "results" / "small"
    choice = json.loads((out / "evaluation" / "best.json").read_text())
    stopped = [stage["stopped_early"] for stage in choice["stages"]]
    lengths = [stage["acceptance_length"] for stage in choice["stages"]]
    first = next(i for i, _ in enumerate(lengths) if i > 0 and lengths[i] <= max(lengths[:i]))
    assert stopped == [i > first for i in range(4)]
    assert lengths[first:] == [lengths[first]] * (4 - first)
    kept = [(out / f"metrics/stage-000{n}.jsonl").read_text() == "" for n in range(1, 5)]
    assert kept == stopped
    figures = json.loads((out / "evaluation" / "acceptance.json").read_text())
    assert list(figures["sets"]) == ["gsm8k"] and figures["prompts"] == 2
    assert figures["sampled"]["temperature"] == 1.0
    assert snakemake(copy, "-n", change=change).idle
    prompts.write_text(json.dumps({"question": "2 + 2?"}) + "\n")
    assert dict(snakemake(copy, "-n", change=change).jobs) == {"evaluate": 1, "report": 1}


@pytest.mark.long
def test_states_deleted_after_training_are_not_missed(copy: Path) -> None:
    """Terabytes may go when the draft is there; a later evaluation must not bring them back."""
    (copy / "results/small/hidden_states/train/shard-00001.safetensors").unlink()
    assert snakemake(copy, "-n").idle
    planned = snakemake(copy, "-n", change={"evaluation": {"num_prompts": 3}})
    assert dict(planned.jobs) == {"evaluate": 1, "report": 1}
    (copy / "results/small/report.html").unlink()
    assert dict(snakemake(copy, "-n").jobs) == {"report": 1}


def test_a_moved_source_rewrites_the_report_that_names_it_and_nothing_else(
    finished: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes((ROOT / "data" / "demo_chat.jsonl").read_bytes())
    few = tmp_path / "few_elsewhere.jsonl"
    few.write_bytes((finished / "few_chats.jsonl").read_bytes())
    change = {"dataset": {"source": str(moved)}, "embedded_target": {"source": str(few)}}
    assert dict(snakemake(finished, "-n", change=change).jobs) == {"report": 1}


def test_samples_within_the_same_shards_rerun_nothing(finished: Path) -> None:
    assert snakemake(finished, "-n", change={"dataset": {"num_samples": 120}}).idle


@pytest.mark.long
def test_a_spawned_job_sees_the_configuration_its_run_began_with(tmp_path: Path) -> None:
    """What a cluster job does when it starts, after config files were edited and with another run
    under way in the same folder."""
    target = "results/small/dataset/rows.jsonl"
    assert snakemake(tmp_path, target=target).code == 0
    seed = {"dataset": {"seed": 7}}
    other = {"change": {"run": "other", **seed}, "target": "results/other/dataset/rows.jsonl"}
    assert snakemake(tmp_path, **other).code == 0
    first = (tmp_path / target).read_bytes()
    (tmp_path / target).unlink()
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(tmp_path), "--cores", "1", "--nolock", "--mode", "subprocess"]
    overlay = tmp_path / "edited.yaml"
    overlay.write_text(yaml.safe_dump(merged(SMALL, seed)))
    command += ["--configfile", str(overlay), "--target-jobs", "dataset:"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / target).read_bytes() == first


def test_a_touched_source_reruns_nothing_and_a_changed_one_everything(tmp_path: Path) -> None:
    source = tmp_path / "chat.jsonl"
    source.write_bytes((ROOT / "data" / "demo_chat.jsonl").read_bytes())
    change = {"dataset": {"source": str(source)}}
    made = snakemake(tmp_path, change=change, target="results/small/dataset/rows.jsonl")
    assert made.code == 0, made.text[-4000:]
    target = "results/small/dataset/rows.jsonl"
    os.utime(source)
    assert snakemake(tmp_path, "-n", change=change, target=target).idle
    with open(source, "ab") as handle:
        turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
        handle.write(json.dumps({"id": "new", "conversations": turns}).encode() + b"\n")
    planned = snakemake(tmp_path, "-n", change=change, target=target)
    assert dict(planned.jobs) == {"dataset": 1}


def test_two_runs_of_different_name_lie_side_by_side(finished: Path) -> None:
    outcome = snakemake(finished, "-n", change={"run": "other"})
    assert outcome.jobs["train_stage"] == 2
    assert outcome.jobs["embedded_target"] == 1
    assert snakemake(finished, "-n").idle
