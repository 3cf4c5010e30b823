"""Defaults by evidence: equal CPU time, resumed, and read as differences to the default."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
import pytest

from benchmarks.real import defaults
from benchmarks.real.defaults import FACTORS, measure, variants
from benchmarks.real.record import DEFAULT, Record, table
from eagle3.config.configuration import Config
from eagle3.config.train import Train
from eagle3.tokens.schedule import Documents


def test_every_variant_is_legal_and_changes_something() -> None:
    for factor, own in FACTORS.items():
        for name, changes in own.items():
            assert set(changes) <= {"train", "draft", "vocab", "rate", "data", "warm"}, name
            config = Config.of({"run": "r"}).to_dict()
            for section in {"train", "draft", "vocab"} & set(changes):
                assert set(changes[section]) <= set(config[section]), name
                config[section] |= changes[section]
            Config.of(config)
            assert changes, factor
    names = [name for _, name, _ in variants(FACTORS, ["nf4", "given"])]
    assert names[0] == DEFAULT and len(set(names)) == len(names)
    assert {"states nf4", "states given"} < set(names)


@pytest.mark.parametrize("steps", [1, 7, 8, 30])
def test_a_schedule_has_steps_enough_and_no_epoch_in_vain(steps) -> None:
    lengths = np.full(9, 50)
    documents = Documents(lengths, lengths - 10, np.array([0, 9]))
    train = Train(pack_tokens=100, packs_per_batch=2, epochs=1, epochs_per_stage=1)
    schedule = defaults._schedule(documents, train, 1, steps)
    per_epoch = schedule["total_steps"] / len(schedule["stages"][0]["epochs"])
    assert steps <= schedule["total_steps"] < steps + per_epoch


class FakeBench:
    """Costs and scores as a test sets them; what was trained."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, int, int]] = []

    def cost(self, variant):
        return 2.0 if variant.get("train", {}).get("ttt_steps") == 7 else 1.0

    def steps(self, variant, epochs):
        return 3 * epochs

    def score(self, variant, seed, steps):
        self.trained.append((json.dumps(variant), seed, steps))
        depth = variant.get("train", {}).get("ttt_steps", 4)
        chain = [0.5 + seed / 10, depth / 10, 0.1]
        return {"per_position_acceptance": chain, "acceptance_length": 9.9, "cpu_seconds": 10.0}


TODO = list(variants(["depth"], []))


def given(path, seeds=(0, 1), seconds=10.0, epochs=None) -> Namespace:
    return Namespace(record=path, seeds=list(seeds), cpu_seconds=seconds, epochs=epochs)


def test_time_is_equal_and_steps_are_not(tmp_path) -> None:
    bench = FakeBench()
    record = measure(bench, TODO, given(tmp_path / "r.jsonl"))
    steps = {variant: count for variant, _, count in bench.trained}
    assert steps['{"train": {"ttt_steps": 7}}'] == 5 and steps["{}"] == 10
    rows = {row["variant"]: row for row in table(record, TODO, draft_tokens=2)}
    assert rows[DEFAULT]["difference"] == 0
    assert rows["7 steps"]["difference"] == pytest.approx(0.3)
    assert rows["2 steps"]["difference"] == pytest.approx(-0.2)
    assert rows["2 steps"]["acceptance length"] == pytest.approx(1 + 0.55 + 0.2)
    assert rows["7 steps"]["95 % +-"] == pytest.approx(0.0, abs=1e-9)
    first = {row["variant"]: row for row in table(record, TODO, draft_tokens=1)}
    assert first["7 steps"]["difference"] == 0


def test_epochs_need_no_cost_and_are_a_record_of_their_own(tmp_path) -> None:
    bench = FakeBench()
    measure(bench, TODO, given(tmp_path / "r.jsonl", seeds=[0]))
    record = measure(bench, TODO, given(tmp_path / "r.jsonl", [0], None, epochs=2))
    assert {(e["kind"], e["steps"]) for e in record.lines} == {("score", 6)}
    assert len(record.lines) == len(TODO) and len(bench.trained) == 2 * len(TODO)


def test_what_a_step_costs_is_measured_once_for_all_that_cost_the_same() -> None:
    rates = list(variants(["rate", "decay", "schedule", "data", "warm start"], []))
    assert all(defaults.that_cost(changes) == {} for _, _, changes in rates)
    kinds = [defaults.that_cost(changes) for _, _, changes in variants(["optimizer"], [])]
    assert kinds == [{}, *3 * [{"train": {"optimizer": "adamw"}}], *7 * [{}]]


def test_a_call_that_was_killed_goes_on(tmp_path) -> None:
    path = tmp_path / "r.jsonl"
    measure(FakeBench(), TODO, given(path, seeds=[0]))
    whole = path.read_text()
    path.write_text(whole[: whole.rindex("\n", 0, -1) + 20])  # in the middle of the last line
    bench = FakeBench()
    record = measure(bench, TODO, given(path))
    assert [seed for _, seed, _ in bench.trained] == [0, *len(TODO) * [1]]
    assert len({(e["kind"], e["name"], e.get("seed")) for e in record.lines}) == len(record.lines)
    again = FakeBench()
    measure(again, TODO, given(path))
    assert again.trained == []
    measure(again, TODO, given(path, seconds=20.0))  # another budget is another measurement
    assert len(again.trained) == 2 * len(TODO)


def test_a_record_of_nothing_is_empty(tmp_path) -> None:
    assert Record(None, 1.0).lines == Record(tmp_path / "none", 1.0).lines == []
