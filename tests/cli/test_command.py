"""The command as a whole: quick, and bad input is one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eagle3.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_every_subcommand_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['eagle3', '--help']\n"
        "from eagle3.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'snakemake'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)
    assert "...\n" not in done.stdout.partition("Commands:")[2]  # no help that is cut off


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_is_explained_on_the_page(name: str) -> None:
    page = (ROOT / "docs" / "command.md").read_text()
    assert f"eagle3 {name}" in page


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["trian"], 2, "there is no command 'trian'; did you mean train?"),
        (["xyz"], 2, "there is no command 'xyz'; choose from init, plan"),
        (["--nix"], 2, "no such option '--nix'"),
        (["plan", "--nix"], 2, "no such option '--nix' (see eagle3 plan --help)"),
        (["train", "my.yaml"], 2, "unexpected 'my.yaml'; name a configuration with -c FILE"),
        (["train", "-c", "my.yaml"], 2, "'my.yaml' does not exist"),
        (
            ["train", "--preset", "nix"],
            1,
            "--preset: there is no preset 'nix'; choose from deepseek-v3.1-sharegpt",
        ),
        (["status"], 1, "there is no run here: runs are in results/"),
        (["status", "nix"], 1, "there is no run 'nix' here; give a name, or a folder"),
        (["runs", "compare", "a"], 2, "missing argument 'SECOND'"),
        (["runs", "remove", "a"], 1, "there is no run 'a' here"),
        (["masks", "demo"], 1, "there is no run 'demo' here"),
        (["init", "only-a-model"], 2, "give MODEL and DATASET"),
        (["init", "m", "d", "--gpus", "-1"], 2, "'--gpus'"),
    ],
)
def test_bad_input_is_one_sentence(command, arguments, code, said) -> None:
    outcome = command(*arguments)
    assert outcome.code == code
    [line] = outcome.err.splitlines()
    assert line.startswith("error: ") and said in line


def test_the_version_is_the_packages(command) -> None:
    import eagle3

    assert command("--version").out == f"eagle3, version {eagle3.__version__}\n"


def test_without_arguments_help_is_shown(command) -> None:
    outcome = command()
    assert outcome.code == 0 and "Usage: eagle3" in outcome.out


def test_a_group_of_commands_without_one_shows_its_help(command) -> None:
    outcome = command("runs")
    assert outcome.code == 2 and outcome.err.startswith("Usage: eagle3 runs")
    assert "\n  compare  Compare two runs" in outcome.err
