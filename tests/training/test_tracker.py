"""Trackers: numbers under names, and one sentence where a package is missing or refuses."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from eagle3.errors import UserError
from eagle3.training.tracker import scalars, tracking

RECORD = {"step": 7, "loss": 2.5, "clipped": True, "accuracy_at": [0.5, 0.25], "rows": 40}
RECORD |= {"device": "a processor"}
TRAINING = "0123abcd"
NAMED = {"loss": 2.5, "clipped": 1.0, "accuracy_at/0": 0.5, "accuracy_at/1": 0.25, "rows": 40.0}


def test_a_record_is_numbers_by_name_and_its_step_is_none_of_them() -> None:
    assert scalars(RECORD) == NAMED


def test_no_tracker_takes_nothing_and_leaves_nothing(tmp_path) -> None:
    with tracking("none", tmp_path / "tracking", TRAINING) as track:
        assert track is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, name) -> None:
    for module in ("torch.utils.tensorboard", "tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with (
        pytest.raises(UserError, match=rf"tracker is '{name}', .*`pip install {name}`"),
        tracking(name, tmp_path, TRAINING),
    ):
        pass


def test_tensorboard_shows_each_number_at_its_step(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step in (7, 8):  # two stages
        with tracking("tensorboard", tmp_path, TRAINING) as track:
            track(RECORD | {"step": step})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == set(NAMED)
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(7, 2.5), (8, 2.5)]


class FakeWandb(ModuleType):
    """What is used of wandb, which is not installed for the tests."""

    class Error(Exception):
        pass

    def __init__(self, refusal: str | None = None) -> None:
        super().__init__("wandb")
        self.refusal, self.started, self.logged = refusal, [], []

    def init(self, **given: Any) -> FakeWandb:
        if self.refusal:
            raise self.Error(self.refusal)
        self.started.append(given)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.logged.append("finished")


def test_wandb_has_one_run_for_all_stages_of_a_run(tmp_path, monkeypatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (7, 8):
        with tracking("wandb", tmp_path / "demo" / "tracking", TRAINING) as track:
            track(RECORD | {"step": step})
    assert fake.logged == [(7, NAMED), "finished", (8, NAMED), "finished"]
    first, second = fake.started
    assert first == second and first["name"] == "demo" and first["resume"] == "allow"
    with tracking("wandb", tmp_path / "other" / "tracking", TRAINING):
        pass
    assert fake.started[-1]["id"] != first["id"]
    with tracking("wandb", tmp_path / "demo" / "tracking", "other settings"):
        pass
    assert fake.started[-1]["id"] != first["id"]  # whose steps are over
    assert "key" not in json.dumps(first).lower()


def test_wandb_that_refuses_is_said_in_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("no API key configured"))
    with (
        pytest.raises(UserError, match=r"refuses: no API key configured; set WANDB_API_KEY") as e,
        tracking("wandb", tmp_path, TRAINING),
    ):
        pass
    assert "\n" not in str(e.value)


class FakeMlflow(ModuleType):
    """What is used of mlflow, which is not installed for the tests."""

    class exceptions:  # noqa: N801 - the name of mlflow's module
        class MlflowException(Exception):
            pass

    def __init__(self, refusal: str | None = None) -> None:
        super().__init__("mlflow")
        self.refusal, self.calls, self.removed = refusal, [], []

    def set_experiment(self, name: str) -> None:
        if self.refusal and self.refusal != "at the end":
            raise self.exceptions.MlflowException(self.refusal)
        self.calls.append(("experiment", name))

    def start_run(self, **given: str) -> SimpleNamespace:
        if given.get("run_id") in self.removed:
            raise self.exceptions.MlflowException("no such run")
        self.calls.append(given)
        return SimpleNamespace(info=SimpleNamespace(run_id="an id"))

    def log_metrics(self, values: dict[str, float], step: int, synchronous: bool) -> None:
        assert not synchronous
        self.calls.append((step, values))

    def end_run(self) -> None:
        self.calls.append("ended")
        if self.refusal == "at the end":
            raise self.exceptions.MlflowException("the server is away")


def test_mlflow_has_one_run_for_all_stages_of_a_run(tmp_path, monkeypatch) -> None:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    for step in (7, 8):
        with tracking("mlflow", tmp_path / "demo" / "tracking", TRAINING) as track:
            track(RECORD | {"step": step})
    first = [("experiment", "eagle3"), {"run_name": "demo"}, (7, NAMED), "ended"]
    assert fake.calls == [*first, {"run_id": "an id"}, (8, NAMED), "ended"]


def test_a_run_of_mlflow_that_is_gone_or_of_other_settings_begins_anew(
    tmp_path, monkeypatch
) -> None:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    begun = [("experiment", "eagle3"), {"run_name": "demo"}, "ended"]
    folder = tmp_path / "demo" / "tracking"
    for training in ("one", "two"):
        with tracking("mlflow", folder, training):
            pass
    assert fake.calls == begun * 2
    fake.removed.append("an id")
    with tracking("mlflow", folder, "two"):
        pass
    assert fake.calls == begun * 3


def test_mlflow_that_is_away_at_the_end_ends_no_training(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", FakeMlflow("at the end"))
    with tracking("mlflow", tmp_path / "demo", TRAINING) as track:
        track(RECORD)
    assert "mlflow did not take the last figures: the server is away" in caplog.text


def test_mlflow_that_refuses_is_said_in_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", FakeMlflow("no server there\nsecond line"))
    with (
        pytest.raises(UserError, match=r"refuses: no server there; set MLFLOW_TRACKING_URI$"),
        tracking("mlflow", tmp_path, TRAINING),
    ):
        pass
    assert not list(tmp_path.iterdir())  # no run to go on with
