"""What `target.dtype: auto` is settled to: measured once, then kept by the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eagle3.config.configuration import Config
from eagle3.data.sources import Source
from eagle3.run import External, Run
from eagle3.workflow import target_dtype
from eagle3.workflow.settings import all_settings
from eagle3.workflow.target_dtype import settled_dtype

SLOW = {"float32": 40e9, "bfloat16": 5.7e9, "float16": 4e9}  # FLOP/s without instructions for it
FAST = {"float32": 40e9, "bfloat16": 90e9, "float16": 70e9}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A place for runs, a target in bfloat16, and a processor whose rates a test sets."""

    class Machine:
        rates = SLOW
        measured = 0
        target, snapshot, memo = (tmp_path / n for n in ("target", "run.json", "rates.json"))

        def settle(self, dtype="auto", device="cpu", external=None, has_environment=False):
            config = Config.of(
                {"run": "r", "target": {"dtype": dtype}, "resources": {"device": device}}
            )
            external = external or self.external
            places = self.snapshot, self.memo
            return settled_dtype(config.to_dict(), external, *places, has_environment)

        def begin(self, dtype):
            """A run, as a call leaves it, whose `auto` was settled to this type."""
            whole = Config.of({"run": "r"})
            external = replace(self.external, target_dtype=dtype)
            settings = all_settings(whole.to_dict(), external)
            self.snapshot.write_text(Run(whole, external, settings).to_text())

    made = Machine()
    made.target.mkdir()
    made.external = External((Source("s"),), "s0", "s", "s0", str(made.target), "t0", "w0")

    def rates(names, threads):
        made.measured += 1
        return {name: made.rates[name] for name in names}

    monkeypatch.setattr(target_dtype, "measured_rates", rates)
    describe(made.target, dtype="bfloat16")
    return made


def describe(target: Path, **values) -> None:
    (target / "config.json").write_text(json.dumps(values))


def test_a_processor_that_is_slow_in_the_targets_type_gets_float32(machine):
    assert machine.settle() == "float32"
    machine.memo.unlink()
    machine.rates = FAST
    assert machine.settle() is None


def test_jobs_in_a_container_are_not_measured_for_since_the_host_may_have_no_torch(machine):
    assert machine.settle(has_environment=True) is None
    assert machine.measured == 0
    machine.begin("float32")  # a run that was begun without containers stays as it is
    assert machine.settle(has_environment=True) == "float32"


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(
    ("dtype", "expected"), [("float16", "float32"), ("float32", None), (None, None)]
)
def test_only_a_narrow_type_is_measured(machine, key, dtype, expected):
    describe(machine.target, **{key: dtype})
    assert machine.settle() == expected
    assert machine.measured == (expected is not None)


def test_the_text_part_of_a_multimodal_target_counts(machine):
    describe(machine.target, text_config={"dtype": "bfloat16"}, dtype="float32")
    assert machine.settle() == "float32"


def test_what_is_stated_and_what_runs_elsewhere_is_not_measured(machine):
    assert machine.settle("bfloat16") is None
    assert machine.settle(device="cuda") is None
    assert machine.settle(external=replace(machine.external, target=None)) is None  # embedded
    assert machine.settle(external=replace(machine.external, target="hub:a/b")) is None
    assert machine.measured == 0


def test_a_processor_is_measured_once(machine):
    assert [machine.settle() for _ in range(3)] == ["float32"] * 3
    assert machine.measured == 1
    machine.memo.write_text("{")  # a spoilt memo is none
    assert machine.settle() == "float32"
    assert machine.measured == 2


@pytest.mark.parametrize("rates", [SLOW, FAST])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("begun", [None, "float32"])
def test_a_run_keeps_what_it_began_with_on_any_machine(machine, rates, device, begun):
    machine.begin(begun)
    machine.rates = rates
    assert machine.settle(device=device) == begun
    assert machine.measured == 0


def test_another_target_is_measured_anew(machine):
    machine.begin(None)
    other = replace(machine.external, weights_digest="w1")
    assert machine.settle(external=other) == "float32"


def test_a_damaged_snapshot_is_none(machine):
    machine.snapshot.write_text('{"settings": []}')
    assert machine.settle() == "float32"


def test_the_settled_type_shapes_states_and_answers_and_nothing_else(machine):
    config = Config.of({"run": "r"}).to_dict()
    stated = Config.of({"run": "r", "target": {"dtype": "float32"}}).to_dict()
    as_stated = all_settings(config, machine.external)
    settled = all_settings(config, replace(machine.external, target_dtype="float32"))
    changed = {stage for stage in settled if settled[stage].values != as_stated[stage].values}
    assert changed == {"regenerate", "hidden_states", "report"}
    # writing it down later re-runs no capture
    assert settled["hidden_states"] == all_settings(stated, machine.external)["hidden_states"]
    assert as_stated["hidden_states"].values["target"]["dtype"] == "auto"
