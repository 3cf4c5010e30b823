"""The page: complete, self-contained, and safe with whatever a model says."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from eagle3.report.page import (
    RunFacts,
    add_checks,
    add_counts,
    duration,
    read_metrics,
    render_page,
    wall_times,
)

HOSTILE = '<script src="https://evil.example/x.js"></script><img onerror=alert(1)> {{ 7 * 7 }} & "'


def record(step, **more):
    return {
        "step": step,
        "epoch": step // 3,
        "loss": 2.0 / (step + 1),
        "accuracy_at": [0.5, 0.25],
        "tokens_per_second": 1234.0,
        "clipped": step == 0,
        "gradient_norm": 3.0 / (step + 1),
        "learning_rate": 1e-3 * step,
    } | more


def checked(cosine):
    """What one shard's self-check found."""
    return {
        "aux_layers": [1, 3, 4],
        "cosines": {"layer 1": 1.0, "last": cosine},
        "rows": 100,
        "argmax_agrees": 75,
        "bytes": 3 * 2**19,
    }


def facts(text="an answer", run="demo", metrics=None, model="embedded", **more):
    counts = {"rows": 12, "documents": 11, "tokens": 4000, "supervised": 1000, "truncated": 2}
    prompt = {"id": "row-1", "new_tokens": 9, "passes_plain": 9, "passes_speculative": 4}
    return RunFacts(
        config={
            "run": run,
            "target": {"model": model},
            "hidden_states": {"codec": "int8"},
            "train": {"max_grad_norm": 0.5},
            "note": text,
        }
        | more.pop("config", {}),
        dataset={
            "rows_read": 20,
            "splits": {"train": 15, "eval": 3},
            "rejected": {text: 2},
            "repaired": {},
        },
        vocab={
            "coverage": 0.987,
            "coverage_curve": {"sizes": [1, 50, 100], "shares": [0.1, 0.9, 1.0]},
            "draft_vocab_size": 50,
            "target_vocab_size": 100,
        },
        plan={"draft_parameters": 1000, "target_parameters": 10000.0},
        evaluation={
            "acceptance_length": 2.345,
            "acceptance_length_ci95": [2.1, 2.6],
            "per_position_acceptance": [0.8, 0.4, 0.145],
            "target_passes_plain": 900,
            "target_passes_speculative": 400,
            "target_passes_saved": 0.5556,
            "greedy_identical": True,
            "greedy_ties": 1,
            "num_draft_tokens": 3,
            "prompts": 24,
            "sets": {"held_out": figures(2.25, prompts=24)},
            "per_prompt": [prompt | {"text": "short", "new_tokens": 1}, prompt | {"text": text}],
        }
        | more.pop("evaluation", {}),
        metrics=pd.DataFrame([record(s) for s in range(6)] if metrics is None else metrics),
        tokens=counts | {"dropped": {"too short": 1}},
        capture=add_checks([checked(0.9995), checked(0.9991)]),
        seconds={"train": 61.25, "plan": 0.5},
        **more,
    )


def test_the_page_shows_the_figures_of_the_run():
    page = render_page(facts())
    for figure in ("2.35", "2.10 to 2.60", "55.6%", "98.7%", "1 excused", "3.0 MiB", "1 min 1 s"):
        assert figure in page, figure
    assert "11 of 12 rows" in page and "1234 tokens/s" in page
    assert "0.99910" in page and "75.0% of 200 rows" in page and "outputs of 1, 3, 4" in page
    assert "hidden states (int8)" in page
    assert ">an answer<" in page and ">short<" not in page  # the longest answer is the example
    assert page.count("<svg") == page.count("</svg>") == 6
    # (1 + 0.8 + 0.4) / (1 + 2 * 0.1) with two drafts, less with one and with three
    assert "1.83&times;" in page and "--speculative-num-draft-tokens 3" in page


def figures(length, **more):
    low, high = length - 0.125, length + 0.125
    found = {"acceptance_length": length, "acceptance_length_ci95": [low, high]}
    return found | {"per_position_acceptance": [length - 1, 0.0, 0.0]} | more


SAMPLED = [f"sampled at temperature 0.7, {kind} proposals" for kind in ("argmax", "sampled")]


def test_sets_of_prompts_and_sampling_have_lines_of_their_own():
    alone = render_page(facts())
    assert "held-out prompts (24)" in alone and "all prompts" not in alone
    more = {
        "sets": {"mt-bench": figures(1.5, prompts=80), "gsm8k": figures(1.25, prompts=16)},
        "sampled": {
            "temperature": 0.7,
            "argmax_proposals": figures(1.375),
            "sampled_proposals": figures(1.125),
        },
    }
    page = render_page(facts(evaluation=more))
    for line in ("mt-bench (80)", "gsm8k (16)", "all prompts (24)", *SAMPLED):
        assert line in page, line
    assert "1.38 to 1.62" in page and "1.12 to 1.38" in page and "1.25 to 1.50" in page


def test_stages_are_shown_where_they_were_scored_and_the_exported_one_is_named():
    assert "Stage by stage" not in render_page(facts())
    stages = [figures(n, stage=i, epochs_done=2.0 * i) for i, n in ((1, 1.5), (2, 1.75), (3, 1.25))]
    page = render_page(facts(stages=stages, exported=2))
    assert page.count("<svg") == 7
    assert "2 (exported)" in page and page.count("(exported)") == 1
    assert "1.625 to 1.875" in page and "<td>6</td>" in page


def test_there_is_a_command_for_each_engine_that_the_draft_was_exported_for():
    alone = render_page(facts(model="hub:acme/big model"))
    assert "--model &#39;acme/big model&#39; " in alone and "vllm serve" not in alone
    both = render_page(facts(config={"export": {"formats": ["vllm", "hf", "sglang"]}}))
    assert "vllm serve results/demo/target" in both and "sglang.launch_server" in both
    assert "&#34;model&#34;: &#34;results/demo/draft/vllm&#34;" in both


def test_the_page_loads_nothing_from_outside():
    page = render_page(facts())
    assert not re.findall(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//""", page)
    assert not re.findall(r"@import|url\(\s*['\"]?(?!#)", page)
    assert not re.findall(r"<(?:script|iframe|link|object|embed|img)\b", page)


def test_text_from_models_and_data_stays_text():
    page = render_page(facts(text=HOSTILE, run="<b>run</b>"))
    assert "<script" not in page and "<img" not in page and "<b>run</b>" not in page
    assert "&lt;script src=" in page
    assert "{{ 7 * 7 }}" in page and "49 &amp;" not in page


def test_equal_facts_give_equal_bytes():
    assert render_page(facts()) == render_page(facts())


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_runs_of_any_length_have_a_page(steps):
    render_page(facts(metrics=[record(step) for step in range(steps)]))


def test_metrics_of_all_stages_are_read_in_order(tmp_path):
    for stage in (1, 2):
        lines = [json.dumps(record(3 * stage + i)) + "\n" for i in range(3)]
        (tmp_path / f"{stage}.jsonl").write_text("".join(lines))
    found = read_metrics([tmp_path / "1.jsonl", tmp_path / "2.jsonl"])
    assert found["step"].tolist() == [3, 4, 5, 6, 7, 8]


def test_counts_and_causes_are_added_up():
    one = {"rows": 3, "documents": 2, "tokens": 9, "supervised": 4, "truncated": 0}
    found = add_counts([one | {"dropped": {"a": 1}}, one | {"dropped": {"a": 1, "b": 1}}])
    assert found == {
        "rows": 6, "documents": 4, "tokens": 18, "supervised": 8, "truncated": 0,
        "dropped": {"a": 2, "b": 1},
    }  # fmt: skip


def test_durations_are_read_at_a_glance():
    assert [duration(s) for s in (0.5, 59.94, 61.25, 7325)] == [
        "0.5 s", "59.9 s", "1 min 1 s", "2 h 2 min",
    ]  # fmt: skip


def test_wall_times_are_summed_by_rule_longest_first(tmp_path):
    for path, seconds in (("train/stage-1", "2.5"), ("train/stage-2", "3"), ("plan", "1")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(f"{path}.tsv").write_text(f"s\th:m:s\n{seconds}\t0:00:02\n")
    (tmp_path / "odd.tsv").write_text("s\th:m:s\n-\t-\n")  # a job too short to be measured
    assert list(wall_times(tmp_path).items()) == [("train", 5.5), ("plan", 1.0), ("odd", 0.0)]
