"""Subcommands that call Snakemake: the rule, the configuration, and options passed on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eagle3.cli import call
from eagle3.cli.call import snakemake_arguments
from eagle3.config.files import read_files
from eagle3.errors import UserError
from tests.rules.workflow import Outcome, write_overlay
from workflow_scripts.show_masks import located

ROOT = Path(__file__).resolve().parents[2]
RULES = {
    "plan": "plan",
    "train": "train",
    "prepare-data": "prepare_data",
    "capture": "capture",
    "export": "drafts",
    "evaluate": "evaluate",
}


@pytest.fixture
def calls(monkeypatch) -> list[list[str]]:
    """Records the calls, all of which succeed."""
    made: list[list[str]] = []

    def note(module: str, arguments: list[str]) -> int:
        made.append([module, *arguments])
        return 0

    monkeypatch.setattr(call, "call", note)
    return made


@pytest.mark.parametrize("name", RULES)
def test_a_subcommand_calls_its_rule(command, calls, tmp_path, name) -> None:
    (tmp_path / "my.yaml").write_text("run: mine")
    assert command(name, "-c", "my.yaml", "-n", "--", "--keep-going", "--until", "x").code == 0
    [[module, *arguments]] = calls
    snakefile = ["--snakefile", str(ROOT / "Snakefile"), "--cores", "all", "--dry-run"]
    rest = ["--configfile", "my.yaml", "--keep-going", "--until", "x", "--", RULES[name]]
    assert (module, arguments) == ("snakemake", [*snakefile, *rest])


def test_presets_lie_below_ones_own_file_and_profiles_are_found_anywhere(
    command, calls, tmp_path
) -> None:
    (tmp_path / "my.yaml").write_text("run: mine")
    command("train", "--preset", "qwen3-8b-sharegpt", "-c", "my.yaml", "--profile", "slurm")
    [[_, *arguments]] = calls
    preset = str(ROOT / "presets" / "qwen3-8b-sharegpt.yaml")
    assert arguments[2:] == [
        *("--profile", str(ROOT / "profiles" / "slurm"), "--quiet", "reason"),
        *("--configfile", preset, "my.yaml", "--", "train"),
    ]  # cores are the cluster's
    assert "--cores" in snakemake_arguments("train", [], "4", "slurm", False, [])
    (tmp_path / "slurm").mkdir()  # an adapted copy, as Snakemake would find it
    assert command("train", "-c", "my.yaml", "--profile", "slurm").code == 0
    assert calls[1][calls[1].index("--profile") + 1] == "slurm"


@pytest.mark.parametrize("word", ["--quiet=all", "--verbose", "-n"])
def test_reasons_are_left_out_unless_the_user_chooses_what_is_printed(word) -> None:
    def quiet(*extra: str, dry_run: bool = False) -> bool:
        return "reason" in snakemake_arguments("train", [], None, None, dry_run, extra)

    assert quiet() and quiet("--keep-going")
    assert not quiet(word) and not quiet(dry_run=True)


def test_single_values_are_one_more_file(command, calls, tmp_path) -> None:
    (tmp_path / "my.yaml").write_text("run: mine\ntrain: {epochs: 3}")
    changes = ("--set", "train.learning_rate=2e-4", "--set", "export.formats=[vllm]")
    assert command("train", "-c", "my.yaml", *changes, "--set", "train.epochs=null").code == 0
    [[_, *arguments]] = calls
    first, own, then, rule = arguments[-4:]
    assert (first, then, rule) == ("my.yaml", "--", "train")
    train = {"learning_rate": "2e-4", "epochs": None}
    assert read_files(["my.yaml", own]) == {
        "run": "mine",
        "train": train,
        "export": {"formats": ["vllm"]},
    }
    command("plan", "-c", "my.yaml", *changes, "--set", "train.epochs=null")
    assert calls[1][-3] == own  # the same values, the same file
    for wrong in ("train.epochs", "=3", "train..epochs=3", "a=[b"):
        outcome = command("train", "-c", "my.yaml", "--set", wrong)
        assert outcome.code == 2 and "--set" in outcome.err and outcome.err.count("\n") == 1
    assert "name a configuration" in command("train", "--set", "run=x").err
    # Snakemake would read the last list alone
    for word in (
        ["--configfile", "my.yaml"],
        ["--configfile=my.yaml"],
        ["--configfiles", "my.yaml"],
    ):
        outcome = command("train", "--set", "train.epochs=3", "--", *word)
        assert outcome.code == 2 and "name those after -- with -c" in outcome.err
    assert len(calls) == 2


def test_a_preset_may_be_cut_short_and_a_file_at_fault_is_named(command, calls, tmp_path) -> None:
    assert command("plan", "--preset", "qwen3-32b").code == 0
    assert str(ROOT / "presets" / "qwen3-32b-sharegpt.yaml") in calls[0]
    outcome = command("plan", "--preset", "llama3.1-8b")
    said = "choose from llama3.1-8b-32k-longalign, llama3.1-8b-sharegpt\n"
    assert outcome.code == 1 and outcome.err.endswith(said)
    (tmp_path / "chats.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
    outcome = command("plan", "-c", "chats.jsonl")
    assert outcome.code == 1 and "config: chats.jsonl is not YAML" in outcome.err
    assert len(calls) == 1


def test_the_demo_runs_only_if_it_is_asked_for(command, calls, tmp_path) -> None:
    """A forgotten -c must not train the demo's target in the user's folder."""
    outcome = command("plan")
    assert outcome.code == 2 and "name a configuration with -c FILE or" in outcome.err
    (tmp_path / "mine.yaml").write_text("run: mine")
    assert "with --demo (files here: mine.yaml)" in command("train").err
    assert "--demo takes no configuration" in command("train", "--demo", "-c", "mine.yaml").err
    assert not calls
    assert command("train", "--demo").code == 0
    assert "--configfile" not in calls[0] and calls[0][-2:] == ["--", "train"]
    assert command("train", "--", "--configfile", "mine.yaml").code == 0


def test_a_plan_that_is_there_already_is_shown(command, calls, tmp_path, monkeypatch) -> None:
    from eagle3.cli import jobs

    plan = tmp_path / "results" / "mine" / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text(json.dumps({"any": "figures"}))
    os.utime(plan, (1, 1))
    (tmp_path / "my.yaml").write_text("run: mine")
    monkeypatch.setattr("eagle3.report.plan.plan_table", lambda plan: f"table of {plan}")
    assert "table of {'any': 'figures'}" in command("plan", "-c", "my.yaml").out
    assert "table" not in command("plan", "-c", "my.yaml", "-n").out
    # the run may be another one then, or in another folder
    plan.parent.rename(plan.parent.with_name("demo"))
    assert "table" not in command("plan", "--", "--configfile", "my.yaml").out
    for words in (["--config", "run=x"], ["--directory", "y"], ["-C", "run=x"], ["-d", "y"]):
        assert "table" not in command("plan", "--demo", "--", *words).out
    assert "table of" in command("plan", "--demo", "--", "--keep-going").out
    plan.parent.with_name("demo").rename(plan.parent)
    os.utime(plan)  # a job has made it, and printed it
    monkeypatch.setattr(jobs.time, "time", lambda: 0.0)
    assert "table" not in command("plan", "-c", "my.yaml").out


def test_the_exit_code_is_the_childs() -> None:
    assert call.call("json.tool", ["/nowhere.json"]) != 0
    assert call.call("this", []) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_the_childs_to_answer(tmp_path, number) -> None:
    """Ctrl-C reaches the whole group, SIGTERM the command alone; both wait for the child's end."""
    (tmp_path / "child.py").write_text(
        "import signal, sys, time\n"
        "def save(number, frame):\n"
        "    time.sleep(0.5); print('saved'); sys.exit(7)\n"
        f"signal.signal({int(number)}, save); print('ready', flush=True); time.sleep(60)"
    )
    script = "import sys; from eagle3.cli.call import call; sys.exit(call('child', []))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)  # the parent may not yet ignore what the child answers
        kill = os.killpg if number == signal.SIGINT else os.kill
        kill(process.pid, number)
        assert process.stdout.read() == "saved\n"
        assert process.wait(timeout=20) == 7


def test_masks_of_a_run_are_those_of_its_tokens_and_target(
    command, calls, make_run, tmp_path, monkeypatch
) -> None:
    command("masks", "one", "--shard", "1", "--help")
    assert calls == [["workflow_scripts.show_masks", "one", "--shard", "1", "--help"]]
    make_run("one", target="/models/m")
    shard = "results/one/tokens/train/shard-00001.safetensors"
    assert located("one", 1, None) == (tmp_path / shard, "/models/m", None, False)
    assert located("one", 1, "other")[1] == "other"
    assert located("s.safetensors", 0, "t") == (Path("s.safetensors"), "t", None, False)
    with pytest.raises(UserError, match=r"--target is missing: .* s\.safetensors holds"):
        located("s.safetensors", 0, None)
    monkeypatch.chdir(tmp_path / "results" / "one")  # inside the run's folder too
    assert located(".", 1, None)[0] == tmp_path / shard
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="there is no run 'two' here"):
        located("two", 0, None)


def test_serve_check_passes_everything_on(command, calls) -> None:
    command("serve-check", "--url", "http://x", "--help")
    assert calls == [["workflow_scripts.measure_server", "--url", "http://x", "--help"]]


@pytest.mark.dag
def test_a_subcommand_plans_its_part_of_the_run(command, tmp_path) -> None:
    overlay = str(write_overlay(tmp_path))
    planned = {name: command(name, "-c", overlay, "-n").out for name in ("prepare-data", "capture")}
    assert "Job 0: " not in planned["prepare-data"] and " capture" in planned["capture"]
    counts = {name: Outcome(0, text).jobs for name, text in planned.items()}
    assert counts["prepare-data"]["tokens"] == 3 and counts["prepare-data"]["vocab"] == 1
    assert "hidden_states" not in counts["prepare-data"]
    assert counts["capture"]["hidden_states"] == 2 and counts["capture"]["held_out_states"] == 1
    assert "train_stage" not in counts["capture"]


@pytest.mark.dag
def test_a_rolling_run_has_no_capture_of_its_own(command, tmp_path) -> None:
    rolling = {"hidden_states": {"keep": False, "window_shards": 1}}
    outcome = command("capture", "-c", str(write_overlay(tmp_path, rolling)), "-n")
    assert outcome.code == 1
    said = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "hidden_states.keep is false" in said[0]
    assert "Traceback" not in outcome.err
