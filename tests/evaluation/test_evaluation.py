"""Evaluation of an exported draft on held-out conversations."""

from __future__ import annotations

import pytest
import torch

from eagle3.data.conversations import Conversation
from eagle3.data.prompts import Question, questions
from eagle3.draft.config import check_pair
from eagle3.errors import UserError
from eagle3.evaluation import evaluator as evaluation
from eagle3.evaluation.evaluator import Evaluator, evaluate
from eagle3.export.load import load_draft
from eagle3.target_model.config import load_config
from tests.builders.exports import write
from tests.builders.models import save_model, save_tokenizer
from tests.builders.shards import TARGET_KEYS, TRAIN, changed, train_draft, training_set

VALUES = {
    "num_prompts": 4,
    "max_new_tokens": 12,
    "num_speculative_tokens": 3,
    "dtype": "float32",
    "temperature": 0.0,
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A target with a tokenizer, and the export of a draft trained for a moment."""
    folder = tmp_path_factory.mktemp("evaluation")
    target = save_model(folder / "target", "llama", max_position_embeddings=64)
    save_tokenizer(target)
    made = training_set(folder, target, changed(TRAIN, epochs=1, epochs_per_stage=1))
    draft, _ = train_draft(made, folder)
    write("sglang", folder / "draft", draft.state_dict(), made.mapping, draft.config)
    return target, folder / "draft"


def talk(number, words=5):
    text = " ".join(f"w{(7 * number + i) % 80}" for i in range(words))
    return Conversation(
        f"row-{number}",
        [{"role": "user", "content": text}, {"role": "assistant", "content": "w1"}],
    )


def evaluator(places, **changes):
    templates = {"chat_template": "auto", "chat_template_options": {}, "system_prompt": None}
    return Evaluator(*places, VALUES | changes, TARGET_KEYS, templates, "cpu", batch=3)


def held_out(*numbers, words=5):
    return {"held_out": [Question.of(talk(number, words)) for number in numbers]}


def test_figures_add_up_over_the_records(places):
    result = evaluate(evaluator(places), held_out(*range(6)))
    records = result["per_prompt"]
    assert result["sets"]["held_out"].items() <= result.items()
    assert result["prompts"] == len(records) == 4
    assert [r["id"] for r in records] == [f"row-{i}" for i in range(4)]
    assert result["greedy_identical"] and all(r["identical"] for r in records)
    assert result["acceptance_length"] == pytest.approx(1 + sum(result["per_position_acceptance"]))
    for name in ("plain", "speculative"):
        assert result[f"target_passes_{name}"] == sum(r[f"passes_{name}"] for r in records)
    # without a draft one pass gives one token, the prompt's own pass the first
    assert result["target_passes_plain"] == result["new_tokens"]
    assert result["target_passes_saved"] == pytest.approx(
        1 - result["target_passes_speculative"] / result["new_tokens"]
    )


def test_a_prompt_is_the_conversation_up_to_its_last_answer(places):
    (prompt,), _, _ = evaluator(places, num_prompts=1).ask("x", [Question.of(talk(0, 3))])
    assert evaluator(places).tokenizer.decode(prompt.tokens).split() == [
        "<|im_start|>user", "w0", "w1", "w2", "<|im_end|>", "<|im_start|>assistant"
    ]  # fmt: skip


def test_prompts_without_room_for_an_answer_are_counted_and_passed_over(places):
    long = [Question.of(talk(i, words)) for i, words in enumerate([60, 5, 60, 5])]
    result, answers, skipped = evaluator(places).ask("chats", long)
    assert len(answers) == 2
    assert [p.id for p in result] == ["row-1", "row-3"]
    ((cause, count),) = skipped.items()
    assert (cause.startswith("longer than "), count) == (True, 2)
    with pytest.raises(UserError, match=r"no row of chats.*longer than.*max_new_tokens"):
        evaluator(places).ask("chats", long[:1])


def test_a_decoder_that_changes_the_text_stops_the_evaluation(places, monkeypatch):
    """In float32, away from a tie, the figures would mean nothing."""
    whole = evaluation.decode_batch

    def wrong(pair, prompts, limits, *more):
        result = whole(pair, prompts, limits, *more)
        for answer in result if limits.num_speculative_tokens else []:
            answer.tokens[0] = (answer.tokens[0] + 1) % 90
        return result

    monkeypatch.setattr(evaluation, "decode_batch", wrong)
    with pytest.raises(
        UserError, match="differs from the target's own greedy output for 2 prompts"
    ):
        evaluate(evaluator(places), held_out(0, 1))


def test_low_precision_keeps_rotary_frequencies_exact(places):
    """Only the weights are narrowed: rounded frequencies would turn far positions wrongly."""
    narrow, wide = evaluator(places, dtype="bfloat16"), evaluator(places)
    assert narrow.models.draft.fc.weight.dtype == torch.bfloat16
    assert torch.equal(narrow.models.draft.inv_freq, wide.models.draft.inv_freq)
    evaluate(narrow, held_out(0))


def test_each_set_has_its_figures_and_all_of_them_together(places):
    sets = {"chats": held_out(1, 2, 3)["held_out"], "others": held_out(4, 5)["held_out"]}
    result = evaluate(evaluator(places), sets)
    assert list(result["sets"]) == ["chats", "others"]
    for name, size in (("chats", 3), ("others", 2)):
        part = result["sets"][name]
        assert part["prompts"] == size == sum(r["set"] == name for r in result["per_prompt"])
    for key in ("prompts", "new_tokens", "verify_passes", "target_passes_plain"):
        assert result[key] == sum(part[key] for part in result["sets"].values())
    alone = evaluate(evaluator(places), {"others": sets["others"]})
    for key, value in result["sets"]["others"].items():
        assert alone[key] == value, key


def test_a_later_turn_is_asked_after_the_targets_answer(places):
    asked = questions([{"question_id": 81, "turns": ["w1 w2", "w3"]}, {"turns": ["w4"]}])
    made = evaluator(places, max_new_tokens=6)
    prompts, answers, skipped = made.ask("mt", asked)
    assert [(p.id, p.turn) for p in prompts] == [("81", 1), ("2", 1), ("81", 2)]
    assert skipped == {}
    said = made.tokenizer.decode(answers[0].tokens, skip_special_tokens=True)
    text = made.tokenizer.decode(prompts[2].tokens)
    assert text.split() == [
        *(["<|im_start|>user", "w1", "w2", "<|im_end|>", "<|im_start|>assistant"]),
        *said.split(),
        *(["<|im_end|>", "<|im_start|>user", "w3", "<|im_end|>", "<|im_start|>assistant"]),
    ]
    result = evaluate(made, {"mt": questions([{"id": 1, "turns": ["w1 w2", "w3"]}])})
    assert result["prompts"] == 2
    # two turns of one question: nothing to resample
    low, high = result["acceptance_length_ci95"]
    assert low == high == pytest.approx(result["acceptance_length"])


def test_with_a_temperature_both_kinds_of_proposals_are_measured_beside_greedy(places):
    sets, cold = held_out(1, 2, 3), evaluate(evaluator(places), held_out(1, 2, 3))
    result = evaluate(evaluator(places, temperature=1.0), sets)
    sampled = result.pop("sampled")
    assert sampled["temperature"] == 1.0
    for kind in ("argmax_proposals", "sampled_proposals"):
        assert sampled[kind]["sets"]["held_out"].items() <= sampled[kind].items()
        assert 1 <= sampled[kind]["acceptance_length"] <= 4
    assert "sampled" not in cold and cold | {"seconds": 0} == result | {"seconds": 0}


def test_a_draft_that_is_no_better_than_the_most_frequent_token_is_warned_of(
    places, caplog, monkeypatch
):
    result = evaluate(evaluator(places), held_out(0, 1, 2, 3))
    assert 0 <= result["unigram_acceptance"] <= 1
    monkeypatch.setattr(evaluation, "unigram_acceptance", lambda answers: len(list(answers)))
    caplog.clear()
    evaluate(evaluator(places), held_out(0, 1, 2, 3))
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
        check_pair(draft, load_draft(draft)[0].config, config)
