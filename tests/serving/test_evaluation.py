"""Evaluation of an exported draft on held-out conversations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import save_model, save_tokenizer
from shards import TARGET_KEYS, TRAIN, stage_settings, train_draft, training_set

from eagle3.data.conversations import Conversation
from eagle3.errors import UserError
from eagle3.serving import evaluation
from eagle3.serving.evaluation import Evaluator, check_pair, evaluate
from eagle3.serving.sglang import export_sglang, load_sglang
from eagle3.target.files import load_config

VALUES = {"num_prompts": 4, "max_new_tokens": 12, "num_draft_tokens": 3, "dtype": "float32"}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A target with a tokenizer, and the export of a draft trained for a moment."""
    folder = tmp_path_factory.mktemp("evaluation")
    target = save_model(folder / "target", "llama", max_position_embeddings=64)
    save_tokenizer(target)
    made = training_set(folder, target, replace(TRAIN, epochs=1, epochs_per_stage=1))
    draft, _ = train_draft(made, folder)
    export_sglang(
        folder / "draft",
        draft.config,
        draft.state_dict(),
        made.mapping,
        "bfloat16",
        stage_settings("export"),
        {},
    )
    return target, folder / "draft"


def talk(number, words=5):
    text = " ".join(f"w{(7 * number + i) % 80}" for i in range(words))
    return Conversation(
        f"row-{number}",
        [{"role": "user", "content": text}, {"role": "assistant", "content": "w1"}],
    )


def evaluator(places, **changes):
    templates = {"chat_template": "auto", "chat_template_options": {}, "system_prompt": None}
    return Evaluator(*places, VALUES | changes, TARGET_KEYS, templates, "cpu")


def test_figures_add_up_over_the_records(places):
    found = evaluate(evaluator(places), [talk(i) for i in range(6)])
    records = found["per_prompt"]
    assert found["prompts"] == len(records) == 4
    assert [r["id"] for r in records] == [f"row-{i}" for i in range(4)]
    assert found["greedy_identical"] and all(r["identical"] for r in records)
    assert found["acceptance_length"] == pytest.approx(1 + sum(found["per_position_acceptance"]))
    for name in ("plain", "speculative"):
        assert found[f"target_passes_{name}"] == sum(r[f"passes_{name}"] for r in records)
    # without a draft one pass gives one token, the prompt's own pass the first
    assert found["target_passes_plain"] == found["new_tokens"]
    assert found["target_passes_saved"] == pytest.approx(
        1 - found["target_passes_speculative"] / found["new_tokens"]
    )


def test_a_prompt_is_the_conversation_up_to_its_last_answer(places):
    (prompt,), _ = evaluator(places, num_prompts=1).prompts([talk(0, 3)])
    assert evaluator(places).tokenizer.decode(prompt.tokens).split() == [
        "<|im_start|>user", "w0", "w1", "w2", "<|im_end|>", "<|im_start|>assistant"
    ]  # fmt: skip


def test_prompts_without_room_for_an_answer_are_counted_and_passed_over(places):
    found, skipped = evaluator(places).prompts([talk(0, 60), talk(1), talk(2, 60), talk(3)])
    assert [p.id for p in found] == ["row-1", "row-3"]
    ((cause, count),) = skipped.items()
    assert (cause.startswith("longer than "), count) == (True, 2)
    with pytest.raises(UserError, match=r"no held-out conversation.*longer than.*max_new_tokens"):
        evaluator(places).prompts([talk(0, 60)])


def test_a_decoder_that_changes_the_text_stops_the_evaluation(places, monkeypatch):
    """In float32, away from a tie, the figures would mean nothing."""
    whole = evaluation.decode_speculative

    def wrong(*given):
        found = whole(*given)
        found.tokens[0] = (found.tokens[0] + 1) % 90
        return found

    monkeypatch.setattr(evaluation, "decode_speculative", wrong)
    with pytest.raises(
        UserError, match="differs from the target's own greedy output for 2 prompts"
    ):
        evaluate(evaluator(places), [talk(0), talk(1)])


def test_low_precision_keeps_rotary_frequencies_exact(places):
    """Only the weights are narrowed: rounded frequencies would turn far positions wrongly."""
    narrow, wide = evaluator(places, dtype="bfloat16"), evaluator(places)
    assert narrow.draft.fc.weight.dtype == torch.bfloat16
    assert torch.equal(narrow.draft.inv_freq, wide.draft.inv_freq)
    evaluate(narrow, [talk(0)])


def test_a_draft_that_is_no_better_than_the_most_frequent_token_is_warned_of(
    places, caplog, monkeypatch
):
    target, draft = places
    templates = {"chat_template": "auto", "chat_template_options": {}, "system_prompt": None}
    evaluator = Evaluator(target, draft, VALUES, TARGET_KEYS, templates, "cpu")
    found = evaluate(evaluator, [talk(number) for number in range(4)])
    assert 0 <= found["unigram_acceptance"] <= 1
    monkeypatch.setattr(evaluation, "unigram_acceptance", lambda answers: len(list(answers)))
    caplog.clear()
    evaluate(evaluator, [talk(number) for number in range(4)])
    assert "no better than always proposing the most frequent token" in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 64}, "hidden_size is 32, the target's 64"),
        ({"vocab_size": 95}, "vocab_size is 96, the target's 95"),
        ({"num_hidden_layers": 4}, "reads layers \\[1, 3, 4\\], the target has 4"),
    ],
)
def test_a_draft_of_another_target_is_refused(places, change, said):
    target, draft = places
    config = load_config(target)
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=said):
        check_pair(draft, load_sglang(draft)[0].config, config)
