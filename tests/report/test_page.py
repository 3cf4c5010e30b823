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


def facts(text="an answer", run="demo", metrics=None):
    counts = {"rows": 12, "documents": 11, "tokens": 4000, "supervised": 1000, "truncated": 2}
    prompt = {"id": "row-1", "new_tokens": 9, "passes_plain": 9, "passes_speculative": 4}
    return RunFacts(
        config={
            "run": run,
            "target": {"model": "embedded"},
            "hidden_states": {"codec": "int8"},
            "note": text,
        },
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
        plan={},
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
            "per_prompt": [prompt | {"text": "short", "new_tokens": 1}, prompt | {"text": text}],
        },
        metrics=pd.DataFrame([record(s) for s in range(6)] if metrics is None else metrics),
        tokens=counts | {"dropped": {"too short": 1}},
        capture=add_checks([checked(0.9995), checked(0.9991)]),
        seconds={"train": 61.25},
    )


def test_the_page_shows_the_figures_of_the_run():
    page = render_page(facts())
    for figure in ("2.35", "2.10 to 2.60", "55.6%", "98.7%", "1 excused", "3.0 MiB", "61.2 s"):
        assert figure in page, figure
    assert "11 of 12 rows" in page and "1234 tokens/s" in page
    assert "0.99910" in page and "75.0% of 200 rows" in page and "outputs of 1, 3, 4" in page
    assert "hidden states (int8)" in page
    assert ">an answer<" in page and ">short<" not in page  # the longest answer is the example
    assert page.count("<svg") == page.count("</svg>") == 4
    assert "--speculative-num-draft-tokens 4" in page


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


def test_wall_times_are_summed_by_rule_longest_first(tmp_path):
    for path, seconds in (("train/stage-1", "2.5"), ("train/stage-2", "3"), ("plan", "1")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(f"{path}.tsv").write_text(f"s\th:m:s\n{seconds}\t0:00:02\n")
    (tmp_path / "odd.tsv").write_text("s\th:m:s\n-\t-\n")  # a job too short to be measured
    assert list(wall_times(tmp_path).items()) == [("train", 5.5), ("plan", 1.0), ("odd", 0.0)]
