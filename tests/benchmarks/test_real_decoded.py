"""A draft decoded from memory has the figures of the job `evaluate`, on prompts of the run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.real.decoded import check_sets, decoded
from eagle3.config.configuration import Config
from eagle3.data.prompts import questions
from eagle3.data.sources import Source, read_rows
from eagle3.errors import UserError
from eagle3.evaluation.evaluator import Evaluator, evaluate
from tests.builders.exports import write
from tests.builders.models import save_model, save_tokenizer
from tests.builders.shards import TARGET_KEYS, TRAIN, changed, train_draft, training_set

CHAIN = 2


def test_a_draft_in_memory_is_decoded_like_its_export(tmp_path):
    target = save_model(tmp_path / "target", "llama", max_position_embeddings=64)
    save_tokenizer(target)
    made = training_set(tmp_path, target, changed(TRAIN, epochs=1, epochs_per_stage=1))
    draft, _ = train_draft(made, tmp_path)
    prompts = str(tmp_path / "asked.jsonl")
    rows = [{"prompt": f"w{n} w{2 * n + 1} w5"} for n in range(5)]
    Path(prompts).write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Config.of(
        {"run": "r", "evaluation": {"max_new_tokens": 12}, "resources": {"evaluate": {"batch": 2}}}
    )
    external = SimpleNamespace(prompts=[("asked", prompts)])
    run = SimpleNamespace(config=config, target=str(target), external=external)
    check_sets(run)
    figures = decoded(run, draft, made.mapping, 3, CHAIN)

    write("sglang", tmp_path / "draft", draft.state_dict(), made.mapping, draft.config)
    values = config.to_dict()["evaluation"] | {"num_prompts": 3, "num_speculative_tokens": CHAIN}
    templates = {"chat_template": "auto", "chat_template_options": {}, "system_prompt": None}
    evaluator = Evaluator(
        target, tmp_path / "draft", values, TARGET_KEYS, templates, "cpu", batch=3
    )
    expected = evaluate(evaluator, {"asked": questions(read_rows(Source(prompts)))})
    assert figures["prompts"] == 3 and len(figures["per_position_acceptance"]) == CHAIN
    assert figures["sets"] == {"asked": figures["acceptance_length"]}
    assert {name: expected[name] for name in figures if name != "sets"} == {
        name: value for name, value in figures.items() if name != "sets"
    }


def test_a_run_without_sets_of_prompts_is_said_before_anything_is_trained():
    run = SimpleNamespace(external=SimpleNamespace(prompts=[]))
    with pytest.raises(UserError, match=r"no evaluation\.prompts"):
        check_sets(run)
