"""What a finished run says: its warnings, and five lines at the end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eagle3.errors import UserError
from eagle3.evaluation.acceptance import KIND
from eagle3.files.artifact import Manifest, Settings, write_json
from eagle3.report.outcome import summary
from eagle3.run import Run, load_run
from eagle3.store.disk_space import PLAN
from tests.builders.run_facts import facts
from tests.builders.run_file import save_run

STAGES = {"plan": PLAN, "evaluate": KIND}
SLOW = {"target_parameters": 800.0}


def test_a_usual_run_has_no_warning() -> None:
    assert facts().warnings == []


def test_a_draft_that_is_no_better_than_a_guess_is_warned_of_first() -> None:
    shares = {"per_position_acceptance": [0.25, 0.0], "unigram_acceptance": 0.25}
    first, second, third = facts(evaluation=shares, plan=SLOW | {"doubts": ["few steps"]}).warnings
    assert "25.0% of the passes, no better than always proposing" in first
    assert "estimated speed-up 0.56x at best" in second  # 1.25 / (1 + 1000 / 800)
    assert third == "few steps"


def test_sets_with_fewer_prompts_than_asked_for_are_named() -> None:
    run = facts()
    assert facts(config={"evaluation": run.config["evaluation"]}).warnings == []
    few = run.config["evaluation"] | {"num_prompts": 3}
    (warning,) = facts(config={"evaluation": few}).warnings
    assert warning.startswith("held_out: only 1 of the 3 prompts")


def finished(folder: Path, plan: dict, evaluation: dict, **config: object) -> Run:
    """A run with the two files that the summary reads."""
    settings = {stage: Settings(stage, {}, {}) for stage in STAGES}
    config["evaluation"] = {"num_prompts": 1}
    run = load_run(save_run(folder, settings.values(), **config))
    for path, stage, content in (
        (run.paths.plan, "plan", plan),
        (run.paths.acceptance, "evaluate", evaluation),
    ):
        write_json(Path(path), content, Manifest.of(STAGES[stage], settings[stage]))
    return run


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_finished_run_is_five_lines(tmp_path: Path) -> None:
    run = facts()
    lines = summary(finished(tmp_path, run.plan, run.evaluation))
    assert lines == [
        "acceptance length 2.35 (95 %: 2.10 to 2.60) tokens per target pass with 3 draft tokens "
        "per round",
        "against 1.00 without a draft; the first draft token is accepted in 80% of the passes, "
        "always guessing the most frequent token would reach 6%",
        "report: results/job/report.html",
        "serve: python -m sglang.launch_server --model results/job/target"
        " --speculative-algorithm EAGLE3 --speculative-draft-model-path results/job/draft/sglang"
        " --speculative-num-steps 2 --speculative-eagle-topk 1 --speculative-num-draft-tokens 3",
        "warnings: none",
    ]


def test_the_first_warning_is_quoted_and_a_slow_draft_is_not_served(tmp_path: Path) -> None:
    run = facts(plan=SLOW | {"doubts": ["few steps"]})
    *_, served, warned = summary(finished(tmp_path, run.plan, run.evaluation))
    assert served == "serve: not recommended, see the warnings"
    assert re.match(r"warnings: 2, the first: serving this draft should be slower", warned)
    one = facts(plan={"doubts": ["few steps"]})
    assert summary(finished(tmp_path, one.plan, one.evaluation))[-1] == "warnings: few steps"


def test_formats_of_no_engine_are_named(tmp_path: Path) -> None:
    run = facts()
    *_, served, _ = summary(
        finished(tmp_path, run.plan, run.evaluation, export={"formats": ["hf"]})
    )
    assert served == "serve: no engine loads the formats in export.formats"


def test_figures_of_another_configuration_are_no_summary(tmp_path: Path) -> None:
    run = finished(tmp_path, facts().plan, facts().evaluation)
    other = Settings("evaluate", {"evaluation": {"dtype": "float16"}}, {})
    write_json(Path(run.paths.acceptance), facts().evaluation, Manifest.of(KIND, other))
    with pytest.raises(UserError, match=r"acceptance\.json: was made under other settings"):
        summary(run)
