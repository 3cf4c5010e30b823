"""Runs side by side, and one removed: all of it, and nothing of another."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from pathlib import Path

import boto3
import pytest

from benchmarks.object_server import CREDENTIALS, REGION, object_server
from eagle3.errors import UserError
from eagle3.files import object_storage
from tests.cli.conftest import write
from tests.rules.workflow import snakemake
from workflow_scripts.show_masks import located

FIGURES = {"acceptance_length_ci95": [2.0, 3.0], "target_passes_saved": 0.5}


def test_the_list_says_how_far_each_run_is(command, make_run, tmp_path) -> None:
    assert "no run here" in command("runs", "list").out
    one = make_run("one", target="/models/m")
    make_run("two")
    write(tmp_path / one.paths.acceptance, {"acceptance_length": 2.5, **FIGURES})
    header, first, second = command("runs", "list").out.splitlines()
    assert header.split() == ["run", "planned", "next", "acceptance", "length", "target"]
    assert "one" in first and "2.50 (2.00-3.00)" in first and "/models/m" in first
    assert "embedded_target" in second
    rows = json.loads(command("runs", "list", "--json").out)
    assert [row["run"] for row in rows] == ["one", "two"]


def test_two_runs_differ_in_what_was_asked_and_in_what_came_of_it(
    command, make_run, tmp_path
) -> None:
    one = make_run("one", target="/m", train={"epochs": 2, "learning_rate": 1e-4})
    two = make_run("two", target="/m", train={"epochs": 3, "learning_rate": 1e-4})
    write(tmp_path / one.paths.acceptance, {"acceptance_length": 2.5, **FIGURES})
    best = {"stage": 2, "stages": [{"stage": 2, "acceptance_length": 3.25}]}
    write(tmp_path / two.paths.choice, best)
    write(tmp_path / two.paths.times("plan"), "s\tcpu\n61\t1\n")
    said = command("runs", "compare", "one", "two").out
    rows = [line.split() for line in said.splitlines()]
    assert ["train.epochs", "2", "3"] in rows
    assert "learning_rate" not in said and "dataset.num_samples" not in said
    assert ["acceptance", "length", "2.50", "(2.00-3.00)", "-"] in rows
    assert ["held-out", "length", "-", "3.25"] in rows
    assert ["time", "of", "all", "jobs", "-", "0:01:01"] in rows
    assert "the configurations are the same" in command("runs", "compare", "one", "one").out


def test_a_renamed_folder_shows_its_own_results(command, make_run, tmp_path) -> None:
    """Not those of a newer run under the old name."""
    old = make_run("one", target="/m")
    write(tmp_path / old.paths.acceptance, {"acceptance_length": 2.5, **FIGURES})
    (tmp_path / "results/one").rename(tmp_path / "results/kept")
    new = make_run("one", target="/m")
    write(tmp_path / new.paths.acceptance, {"acceptance_length": 3.5, **FIGURES})
    said = [line.split() for line in command("runs", "compare", "kept", "one").out.splitlines()]
    assert ["acceptance", "length", "2.50", "(2.00-3.00)", "3.50", "(2.00-3.00)"] in said
    kept, one = json.loads(command("runs", "list", "--json").out)
    assert (kept["run"], kept["acceptance_length"]) == ("kept", "2.50 (2.00-3.00)")
    assert (one["run"], one["acceptance_length"]) == ("one", "3.50 (2.00-3.00)")
    assert "run kept in results/kept" in command("status", "kept").out


def test_a_folder_outside_of_results_is_refused(command, make_run, tmp_path) -> None:
    make_run("one")
    (tmp_path / "results/one").rename(tmp_path / "one")
    for words in (("status", "one"), ("runs", "compare", "one", "one")):
        outcome = command(*words)
        assert outcome.code == 1 and "one is not in a folder called results" in outcome.err
    with pytest.raises(UserError, match="one is not in a folder called results"):
        located("one", 0, None)


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() or p.is_symlink()}


def test_removal_takes_all_of_one_run_and_nothing_of_another(command, make_run, tmp_path) -> None:
    make_run("one")
    write(tmp_path / ".snakemake/eagle3/digests.json", {})
    write(tmp_path / "results/one/draft/sglang/model.safetensors", "x" * 2048)
    write(tmp_path / "cache/tokens", "shared")
    alone = files(tmp_path) - files(tmp_path / "results/one")
    kept = {name for name in alone if "/one" not in name}
    make_run("one-more")
    before = files(tmp_path)
    (tmp_path / "results/one/tokens").symlink_to(tmp_path / "cache")  # of --cache
    outcome = command("runs", "remove", "one", "--yes")
    assert outcome.code == 0 and "removed results/one (" in outcome.out
    left = files(tmp_path)
    assert kept <= left and not (tmp_path / "results/one").exists()
    assert {name for name in before if "one-more" in name} <= left
    assert (tmp_path / "cache/tokens").read_text() == "shared"
    assert len(list((tmp_path / ".snakemake/eagle3").glob("one-*.json"))) == 1  # of one-more


def test_nothing_is_removed_without_a_yes(command, make_run, tmp_path, monkeypatch) -> None:
    make_run("one")
    before = files(tmp_path)
    monkeypatch.setattr("click.confirm", lambda text: "results/one" not in text)
    assert "nothing was removed" in command("runs", "remove", "one").out
    assert files(tmp_path) == before


def test_what_another_run_reads_or_snakemake_writes_stays(command, make_run, tmp_path) -> None:
    make_run("one")
    (tmp_path / "results/one/target").mkdir()
    make_run("two", target=str(tmp_path / "results/one/target"))
    outcome = command("runs", "remove", "one", "--yes")
    assert outcome.code == 1 and "has files that other runs read: remove two first" in outcome.err
    write(tmp_path / ".snakemake/locks/0.output.lock", "results/two/plan.json\n")
    outcome = command("runs", "remove", "two", "--yes")
    assert outcome.code == 1 and "Snakemake is working on results/two" in outcome.err
    assert "`eagle3 train -c FILE -- --unlock`" in outcome.err
    assert (tmp_path / "results/two").is_dir()


def test_a_draft_whose_shape_another_run_reads_stays(command, make_run, tmp_path) -> None:
    """Every call of Snakemake reads that file again."""
    make_run("one")
    write(tmp_path / "results/one/draft/sglang/config.json", {})
    make_run("two", draft={"config": "results/one/draft/sglang"})
    outcome = command("runs", "remove", "one", "--yes")
    assert outcome.code == 1 and "has files that other runs read: remove two first" in outcome.err


def test_a_run_that_cannot_be_read_keeps_only_what_it_names(command, make_run, tmp_path) -> None:
    make_run("one")
    write(tmp_path / "results/old/run.json", '{"target": "results/one/target"}')
    outcome = command("runs", "remove", "one", "--yes")
    assert outcome.code == 1 and "remove old first" in outcome.err
    write(tmp_path / "results/old/run.json", '{"target": "results/one-more/target"}')
    outcome = command("runs", "remove", "one", "--yes")
    assert outcome.code == 0 and not (tmp_path / "results/one").exists()


@pytest.mark.parametrize("how", ["link", "copy"])
def test_a_folder_that_is_not_the_runs_own_is_left(command, make_run, tmp_path, how) -> None:
    make_run("one")
    (tmp_path / "results/one").rename(tmp_path / "results/other")
    if how == "link":
        (tmp_path / "results/one").symlink_to("other")
    outcome = command("runs", "remove", "one" if how == "link" else "other", "--yes")
    assert outcome.code == 1 and "remove it by hand" in outcome.err
    assert (tmp_path / "results/other/run.json").is_file()


def test_objects_of_a_run_go_with_it(command, make_run, tmp_path, monkeypatch) -> None:
    for name, value in {**CREDENTIALS, "AWS_DEFAULT_REGION": REGION}.items():
        monkeypatch.setenv(name, value)
    with object_server() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        object_storage.store.cache_clear()
        client = boto3.client("s3")
        client.create_bucket(Bucket="states")
        names = [f"project/results/{run}/checkpoints/a" for run in ("one", "one-more")]
        names += [f"project/results/one/hidden_states/{n}" for n in range(3)]
        for name in names:
            client.put_object(Bucket="states", Key=name, Body=b"x")
        make_run("one", resources={"storage_prefix": "s3://states/project"})
        write(tmp_path / ".snakemake/storage/s3/states/project/results/one/checkpoints/a")
        outcome = command("runs", "remove", "one", "--yes")
        assert outcome.code == 0, outcome.err
        assert "objects in s3://states/project/results/one" in outcome.out
        left = [entry["Key"] for entry in client.list_objects_v2(Bucket="states")["Contents"]]
        assert left == ["project/results/one-more/checkpoints/a"]
        assert not (tmp_path / ".snakemake/storage/s3/states/project/results/one").exists()
        object_storage.store.cache_clear()


@pytest.mark.dag
def test_snakemakes_records_of_a_run_go_with_it(command, tmp_path) -> None:
    """They are named by the paths of outputs, in a form that is Snakemake's own affair."""
    made = snakemake(tmp_path, change={"run": "one"}, target="dataset")
    assert made.code == 0, made.text[-3000:]
    records = tmp_path / ".snakemake" / "metadata"
    assert len(files(records)) == 3  # the outputs of one job
    for output in ("results/one-more/plan.json", "other/results/one/plan.json"):
        write(records / urlsafe_b64encode(output.encode()).decode())
    write(records / "no base64")
    assert command("runs", "remove", "one", "--yes").code == 0
    assert len(files(records)) == 3  # those of others


def test_states_are_exported_from_a_run_that_exists(command) -> None:
    outcome = command("export-states", "nothing", "out")
    assert outcome.code == 1 and outcome.err.startswith("error: there is no run 'nothing' here")
