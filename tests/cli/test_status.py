"""How far a run is, from the files that are there."""

from __future__ import annotations

import json

import pytest

from eagle3.cli.parts import parts_of, score_inside
from tests.cli.conftest import write

BENCHMARK = "s\th:m:s\tcpu_time\n{}\t0:00:10\t1\n"


def touch(folder, paths) -> None:
    for path in paths:
        write(folder / path)


def prepared(run, folder) -> None:
    """Everything before the captures."""
    paths = run.paths
    touch(folder, [paths.rows_report, paths.vocab_report])
    touch(folder, [*run.token_shards(), *run.held_out_tokens()])
    write(folder / paths.schedule, {"total_steps": 20})
    write(
        folder / paths.plan,
        {"capture_seconds": 24.0, "loading_seconds": 6.0, "training_seconds": 40.0},
    )


def by_name(run, folder):
    return {part.name: part for part in parts_of(run, folder)}


def test_a_fresh_run_knows_no_times(command, make_run, tmp_path) -> None:
    make_run("one", target="/models/m")
    outcome = command("status")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0] == "run one in results/one"
    assert "target /models/m, dataset chats.jsonl" in lines[1]
    assert lines[2].split() == ["next", "dataset", "time", "left", "unknown"]
    assert "tokens         0/3 shards" in outcome.out
    assert "Snakemake is not running" in lines[-1]


def test_before_anything_is_measured_the_plan_estimates(command, make_run, tmp_path) -> None:
    run = make_run("one", target="/models/m")
    prepared(run, tmp_path)
    parts = by_name(run, tmp_path)
    assert (parts["hidden_states"].seconds_left, parts["train_stage"].seconds_left) == (30.0, 40.0)
    assert parts["hidden_states"].source == "the plan's estimate"
    assert parts["evaluate"].seconds_left is None
    said = command("status", "one").out
    assert "next  hidden_states  0/3 shards      about 30 s left (the plan's estimate)" in said
    assert "train_stage    0/20 steps" in said


def test_finished_jobs_of_the_run_tell_the_pace(command, make_run, tmp_path) -> None:
    run = make_run("one", target="/models/m")
    prepared(run, tmp_path)
    touch(tmp_path, run.capture_checks()[:1])
    for job, seconds in (("train/shard-00000", 10), ("eval/shard-00000", 20)):
        write(tmp_path / run.paths.times(f"hidden_states/{job}"), BENCHMARK.format(seconds))
    write(tmp_path / run.paths.times("hidden_states/train/x"), BENCHMARK.format("NA"))
    write(tmp_path / run.paths.times("hidden_states/train/y"), "s\th:m:s\tcpu_time\n")
    write(tmp_path / run.paths.times("hidden_states/train/z"), "s\th:m:s\tcpu_time\nN")
    part = by_name(run, tmp_path)["hidden_states"]
    assert (part.done, part.total, part.seconds_left, part.source) == (1, 3, 30.0, "measured")


def test_steps_count_while_a_stage_trains(make_run, tmp_path) -> None:
    run = make_run("one", target="/models/m")
    prepared(run, tmp_path)
    line = json.dumps({"step": 0, "seconds": 2.0}) + "\n"
    write(tmp_path / run.paths.metrics(1), line * 10)
    write(tmp_path / run.paths.resume(2) / "metrics.jsonl", line * 3 + '{"step": 13, "sec')
    part = by_name(run, tmp_path)["train_stage"]
    assert (part.done, part.total, part.seconds_left) == (13, 20, 14.0)
    # a line that a power cut has left empty or half written
    write(tmp_path / run.paths.metrics(1), line * 10 + "\0\0\0\n" + '{"step": 4, "sec\n')
    assert by_name(run, tmp_path)["train_stage"] == part
    assert score_inside(run, tmp_path) is None
    write(tmp_path / run.paths.metrics(2), line * 3)  # early stop: fewer than were planned
    part = by_name(run, tmp_path)["train_stage"]
    assert part.finished and part.seconds_left is None


def test_scores_inside_a_stage_are_shown_and_their_time_counts(command, make_run, tmp_path) -> None:
    run = make_run("one", target="/models/m")
    prepared(run, tmp_path)
    line = {"step": 3, "seconds": 2.0, "held_out_seconds": 1.0, "held_out_loss": 1.5}
    scored = json.dumps(line | {"held_out_acceptance_length": 2.125}) + "\n"
    plain = json.dumps({"step": 4, "seconds": 2.0}) + "\n"
    write(tmp_path / run.paths.resume(1) / "metrics.jsonl", scored + plain)
    assert by_name(run, tmp_path)["train_stage"].seconds_left == 18 * 2.5
    said = command("status", "one").out
    assert "held-out acceptance length 2.125 and loss 1.5000 after step 4" in said
    held_out = json.loads(command("status", "--json").out)["held_out"]
    assert held_out == {"step": 4, "loss": 1.5, "acceptance_length": 2.125}


def test_a_finished_run_names_its_report(command, make_run, tmp_path) -> None:
    run = make_run("demo")  # the target is trained too
    prepared(run, tmp_path)
    paths = run.paths
    touch(tmp_path, [*run.target_files, *run.capture_checks(), paths.states_check("eval", 0)])
    touch(tmp_path, [*run.stage_metrics(), *run.stage_scores(), paths.choice, paths.acceptance])
    touch(tmp_path, [paths.draft("sglang"), paths.report])
    outcome = command("status", "results/demo")
    assert "finished: results/demo/report.html" in outcome.out
    assert outcome.out.count("  done  ") == len(parts_of(run, tmp_path)) == 13
    plain = json.loads(command("status", "--json").out)
    assert (plain["next"], plain["seconds_left"]) == (None, 0)
    assert plain["held_out"] is None


def test_answers_and_rolling_windows_are_parts_too(make_run, tmp_path) -> None:
    run = make_run(
        "rolling",
        target="/m",
        dataset={"num_samples": 8, "shard_size": 4, "regenerate": {"backend": "hf"}},
        hidden_states={"keep": False, "window_shards": 1},
    )
    parts = by_name(run, tmp_path)
    assert parts["regenerate"].total == 3
    assert parts["hidden_states"].total == 5  # two windows, two rounds, and what is held out


def test_a_lock_of_snakemake_says_that_it_is_at_work(command, make_run, tmp_path) -> None:
    make_run("one", target="/m")
    make_run("two", target="/m")
    write(tmp_path / ".snakemake/locks/0.output.lock", "results/one/plan.json\n")
    said = command("status", "one").out
    assert "Snakemake is working on it" in said
    assert "`eagle3 train -c FILE -- --unlock`" in said  # without a checkout there is no Snakefile
    assert "Snakemake is not running" in command("status", "two").out
    # a link that leads nowhere is like a lock that vanishes between listing and reading
    (tmp_path / ".snakemake/locks/1.output.lock").symlink_to("missing")
    assert "Snakemake is not running" in command("status", "two").out


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_a_damaged_run_is_one_sentence(command, tmp_path, content) -> None:
    write(tmp_path / "results/one/run.json", content)
    outcome = command("status")
    assert outcome.code == 1 and "is not the file of a run" in outcome.err
    assert "unreadable" in command("runs", "list").out
