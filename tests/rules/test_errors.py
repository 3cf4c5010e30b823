"""What a user gets wrong is said in one sentence, before any job starts."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.rules.workflow import snakemake

pytestmark = pytest.mark.dag

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": (
        {"train": {"learning_rat": 1e-4}},
        "unknown key train.learning_rat; did you mean learning_rate?",
    ),
    "out of range": ({"train": {"ttt_steps": 99}}, "train.ttt_steps is 99; must be at most 16"),
    "wrong type": ({"train": {"epochs": "many"}}, "train.epochs is 'many'; expected integer"),
    "missing dataset": (
        {"dataset": {"source": "nowhere.jsonl"}},
        "dataset.source: nowhere.jsonl does not exist; give a file, a folder, hub:<owner>/<name>,",
    ),
    "model of the hub": (
        {"target": {"model": "Qwen/Qwen3-8B"}},
        "target.model is 'Qwen/Qwen3-8B', which does not exist (nor ",
    ),
    "heads for Ulysses": (
        {
            "train": {"attention_backend": "usp", "packs_per_batch": 3},
            "resources": {"train": {"processes": 3, "sp_ulysses_size": 3}},
        },
        "resources.train.sp_ulysses_size: 3 ranks cannot divide the draft's 4 heads",
    ),
    "missing model": (
        {"target": {"model": "models/none"}},
        "target.model is 'models/none', which does not exist",
    ),
    "draft vocabulary too large": (
        {"vocab": {"draft_vocab_size": 5000}},
        "vocab.draft_vocab_size is 5000, larger than the target's vocabulary of 400",
    ),
    "last layer for SGLang": (
        {"hidden_states": {"aux_layers": [1, 3, 7], "backend": "sglang"}},
        "hidden_states.aux_layers is [1, 3, 7]; SGLang cannot return the output of the last layer",
    ),
    "codec that does not fit": (
        {"hidden_states": {"codec": "nf4"}, "embedded_target": {"hidden_size": 48}},
        "hidden_states.codec is nf4, which needs a hidden size that 32 divides; the target's is 48",
    ),
    "no draft to start from": (
        {"train": {"warm_start": "drafts/none"}},
        "train.warm_start is 'drafts/none', which does not exist",
    ),
    "muon on parts of matrices": (
        {"train": {"optimizer": "muon"}, "resources": {"train": {"data_parallel": "fsdp2"}}},
        "train.optimizer is muon, which needs whole matrices and gradients on every rank",
    ),
    "flex attention on a CPU": (
        {"train": {"attention_backend": "flex"}},
        "train.attention_backend is flex, which has no backward pass on a CPU; use auto",
    ),
    "early stop in rolling mode": (
        {
            "train": {"early_stop_patience": 2},
            "hidden_states": {"keep": False, "window_shards": 1},
        },
        "train.early_stop_patience is 2 but hidden_states.keep is false",
    ),
    "missing prompts": (
        {"evaluation": {"prompts": [{"name": "mt-bench", "source": "none.jsonl"}]}},
        "evaluation.prompts[0].source is 'none.jsonl', which does not exist",
    ),
    "two sets of prompts of one name": (
        {"evaluation": {"prompts": [{"name": "a", "source": "data/demo_chat.jsonl"}] * 2}},
        "evaluation.prompts[1].name is 'a', which an earlier set has; rename one",
    ),
    "aux layers": (
        {"hidden_states": {"aux_layers": [1, 3, 12]}},
        "hidden_states.aux_layers is [1, 3, 12]; must be 1 to 16 ascending layers between 0 and 7",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_before_work_starts(tmp_path: Path, name: str) -> None:
    change, sentence = FAULTS[name]
    outcome = snakemake(tmp_path, change=change)
    assert outcome.code == 1
    assert f"\nerror: {sentence}" in outcome.text.replace("error: config: ", "error: ")
    assert "Traceback" not in outcome.text and "WorkflowError" not in outcome.text
    assert not outcome.jobs
    assert not (tmp_path / "results").exists()


def test_a_directory_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    outcome = snakemake(tmp_path, change={"target": {"model": "model"}})
    assert outcome.code == 1
    assert "target.model is 'model', which is not a Hugging Face model directory" in outcome.text


@pytest.mark.skipif(find_spec("wandb") is not None, reason="is installed here")
def test_a_tracker_that_is_not_installed_is_named_before_work_starts(tmp_path: Path) -> None:
    outcome = snakemake(tmp_path, change={"resources": {"train": {"tracker": "wandb"}}})
    assert outcome.code == 1 and not outcome.jobs
    assert "resources.train.tracker is 'wandb', which is not installed: `pip install wandb`" in (
        outcome.text
    )


ROWS = "results/small/dataset/rows.jsonl"


def rows(count: int) -> list[dict[str, Any]]:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello there"}]
    return [{"id": f"row-{number}", "conversations": turns} for number in range(count)]


def test_malformed_rows_stop_the_dataset_stage_with_their_causes(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in rows(10)] + ["{broken", '{"conversations": 3}']
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    change = {"dataset": {"source": "bad.jsonl", "num_samples": 2}}
    outcome = snakemake(tmp_path, change=change, target=ROWS)
    assert outcome.code == 1
    assert "error: dataset.source: 2 of 12 rows cannot be used (" in outcome.text
    assert "1 x line is not JSON" in outcome.text
    assert not (tmp_path / ROWS).exists()


def test_too_few_rows_are_said_by_the_job_and_then_before_any_job(tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text("\n".join(json.dumps(row) for row in rows(40)))
    dataset = {"source": "few.jsonl", "num_samples": 100}
    target = ROWS
    first = snakemake(tmp_path, change={"dataset": dataset}, target=target)
    assert first.code == 1
    assert "dataset.num_samples is 100 but the source has only" in first.text
    enough = {"dataset": dataset | {"num_samples": 30}}
    assert snakemake(tmp_path, change=enough, target=target).code == 0
    again = snakemake(tmp_path, change={"dataset": dataset}, target=target)
    assert again.code == 1
    assert not again.jobs
    assert "dataset.num_samples is 100 but the source has only" in again.text
