"""The stage loop: it learns, goes on where it stopped, and stops when numbers break."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from eagle3.errors import UserError
from eagle3.parallel.ranks import Ranks
from eagle3.training.checkpoint import ResumeFolder, read_checkpoint, write_checkpoint
from eagle3.training.data import TrainingData
from eagle3.training.job import run_stage
from eagle3.training.record import append_record
from eagle3.training.setup import build_draft
from eagle3.training.stage import StageTrainer
from tests.builders.shards import TRAIN, changed, schedule_of, training_set

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def made(targets, tmp_path_factory):
    """About ten steps of training data."""
    train = changed(TRAIN, pack_tokens=64, packs_per_batch=2)
    return training_set(tmp_path_factory.mktemp("set"), targets["llama"], train)


class Job:
    """A training job in a folder of its own, as the script puts it together."""

    def __init__(self, made, folder: Path, train=None, stage=1, loss=None):
        self.train = train or made.train
        self.folder, self.data = folder, TrainingData(made.tokens, made.states)
        self.schedule = schedule_of([shard.tokens for shard in self.data.shards], self.train)
        values = made.settings.values | {"train": vars(self.train)}
        draft, target = build_draft(made.target, values, made.mapping, torch.device("cpu"))
        self.trainer = StageTrainer(
            draft, target, self.data, self.train, self.schedule, stage, ALONE
        )
        self.resume = ResumeFolder(folder / "resume", made.settings, self.data.inputs())

    def run(self, previous=None, save_interval=1000, name="out"):
        out = self.folder / name
        metrics = self.folder / f"{name}.jsonl"
        run_stage(self.trainer, self.resume, previous, save_interval, metrics, out)
        return read_checkpoint(out), [json.loads(line) for line in open(metrics)]


def assert_same(a, b):
    assert a.state["global_step"] == b.state["global_step"]
    for one, other in ((a.model, b.model), (a.optimizer, b.optimizer)):
        assert set(one) == set(other)
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


def stop_after(job, steps, fault):
    """Let the job die in the middle of a step, after `steps` whole ones."""
    whole, done = job.trainer._step, [0]

    def step(*given):
        if done[0] == steps:
            raise fault
        done[0] += 1
        return whole(*given)

    job.trainer._step = step


RECIPES = {
    "default": {},
    "muon": {"optimizer": "muon"},
    "noise and frozen": {"feature_noise": 0.1, "head_init": "frozen", "norm_init": "frozen"},
    "every supervised row": {"active_rows": "supervised", "norm_init": "ones"},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stage_in_one_go_equals_half_a_stage_and_a_resume(made, tmp_path, recipe):
    train = changed(made.train, **RECIPES[recipe])
    whole, metrics = Job(made, tmp_path / "whole", train).run()
    steps = len(metrics)
    assert steps >= 8
    first = Job(made, tmp_path / "halves", train)
    # two steps beyond the last save are lost and done again
    stop_after(first, steps // 2 + 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        first.run(save_interval=steps // 2)
    assert first.resume.newest().state["global_step"] == steps // 2
    again, resumed = Job(made, tmp_path / "halves", train).run()
    assert_same(whole, again)
    exact = ("step", "epoch", "rows", "loss", "loss_at", "accuracy_at", "gradient_norm")
    assert [[r[k] for k in exact] for r in resumed] == [[r[k] for k in exact] for r in metrics]
    assert not list((tmp_path / "halves/resume").glob("step-*"))


def test_each_record_can_be_read_when_its_step_is_done(made, tmp_path):
    """By `watch`, and by whoever looks after a kill -9."""
    job = Job(made, tmp_path)
    step_of, seen = job.trainer._step, []

    def step(*given):
        seen.append((tmp_path / "resume/metrics.jsonl").read_bytes())
        return step_of(*given)

    job.trainer._step = step
    _, metrics = job.run()
    assert [text.count(b"\n") for text in seen] == list(range(len(metrics)))
    assert [json.loads(line) for line in seen[-1].splitlines()] == metrics[:-1]


def test_a_resumed_stage_drops_half_a_line_and_the_steps_after_its_save(made, tmp_path):
    first = Job(made, tmp_path)
    stop_after(first, 5, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        first.run(save_interval=3)
    running = tmp_path / "resume/metrics.jsonl"
    assert [json.loads(line)["step"] for line in running.open()] == [0, 1, 2, 3, 4]
    with running.open("a") as half:
        half.write('{"step": 5, "lo')
    second = Job(made, tmp_path)
    stop_after(second, 0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        second.run()
    assert [json.loads(line)["step"] for line in running.open()] == [0, 1, 2]
    _, metrics = Job(made, tmp_path).run()
    assert [record["step"] for record in metrics] == list(range(len(metrics)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_record_that_finds_no_room_is_one_sentence():
    sentence = r"^/dev/full: cannot be written: No space left on device$"
    with open("/dev/full", "ab", buffering=0) as full, pytest.raises(UserError, match=sentence):
        append_record(full, {"step": 0})


@pytest.mark.parametrize("when", ["before the last step", "after it"])
def test_a_stop_at_the_end_leaves_nothing_to_do_but_the_checkpoint(
    made, tmp_path, monkeypatch, when
):
    """A stopped job has failed and loses its outputs: the save must have everything."""
    whole, metrics = Job(made, tmp_path / "whole").run()
    job, steps = Job(made, tmp_path / "stopped"), len(metrics)

    def requested(function, *given):
        job.trainer.stop.requested = True
        return function(*given)

    if when == "after it":
        write = partial(requested, write_checkpoint)
        monkeypatch.setattr("eagle3.training.job.write_checkpoint", write)
        job.run()
        shutil.rmtree(tmp_path / "stopped/out")
        monkeypatch.undo()
    else:
        inner = job.trainer._step

        def step(step, packs):
            last = step is job.trainer.steps[-1]
            return requested(inner, step, packs) if last else inner(step, packs)

        job.trainer._step = step
        sentence = f"stopped by SIGTERM at step {steps}; the next call continues from there"
        with pytest.raises(UserError, match=sentence):
            job.run()
    assert job.resume.newest().state["global_step"] == steps
    again, resumed = Job(made, tmp_path / "stopped").run()
    assert_same(whole, again)
    assert [r["loss"] for r in resumed] == [r["loss"] for r in metrics]


def test_two_stages_of_one_epoch_equal_one_stage_of_two(made, tmp_path):
    whole, metrics = Job(made, tmp_path / "one").run()
    split = changed(made.train, epochs_per_stage=1)
    Job(made, tmp_path / "a", split, 1).run()
    second, tail = Job(made, tmp_path / "b", split, 2).run(previous=tmp_path / "a/out")
    assert_same(whole, second)
    assert [r["step"] for r in tail] == [r["step"] for r in metrics if r["epoch"] == 1]


def test_a_limit_of_steps_ends_a_stage_inside_and_leaves_the_next_without_a_step(made, tmp_path):
    """With a constant rate the steps are the first ones of the whole training."""
    common = {"lr_schedule": "constant", "warmup_ratio": 0.0, "epochs_per_stage": 1}
    _, whole = Job(made, tmp_path / "whole", changed(made.train, **common)).run()
    limit = len(whole) - 2
    limited = changed(made.train, **common, max_steps=limit)
    first, metrics = Job(made, tmp_path / "a", limited, 1).run()
    assert [r["loss"] for r in metrics] == [r["loss"] for r in whole[:limit]]
    assert first.state["global_step"] == first.state["total_steps"] == limit
    assert first.state["all_steps"] > limit
    second, none = Job(made, tmp_path / "b", limited, 2).run(previous=tmp_path / "a/out")
    assert none == []
    assert_same(first, second)


def test_kernels_that_repeat_give_a_cpu_the_same_bits(made, tmp_path):
    """`train.deterministic` changes a GPU's kernels; no operator of a step refuses the mode."""
    one, metrics = Job(made, tmp_path / "plain").run()
    torch.use_deterministic_algorithms(True)
    try:
        other, same = Job(made, tmp_path / "exact").run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(one, other)
    assert [r["loss"] for r in metrics] == [r["loss"] for r in same]


def test_the_rate_falls_to_the_last_step_of_a_limit(made, tmp_path):
    keys = {"lr_schedule": "linear", "warmup_ratio": 0.0}
    _, metrics = Job(made, tmp_path, changed(made.train, **keys, max_steps=4)).run()
    rates = [record["learning_rate"] / made.train.learning_rate for record in metrics]
    assert rates == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])


def test_frozen_weights_stay_the_targets_and_are_saved_all_the_same(made, tmp_path):
    train = changed(made.train, **RECIPES["noise and frozen"])
    job = Job(made, tmp_path, train)
    fresh = {name: p.clone() for name, p in job.trainer.draft.named_parameters()}
    out, _ = job.run()
    assert set(out.model) == set(fresh)
    still = {name for name, weight in fresh.items() if torch.equal(out.model[name], weight)}
    assert still == {"lm_head.weight", "norm.weight"}
    assert torch.equal(out.model["lm_head.weight"], job.trainer.target.head.weight)
    assert not any(name.endswith(("lm_head.weight", ".norm.weight")) for name in out.optimizer)


def test_noise_changes_what_is_trained_and_nothing_of_the_order(made, tmp_path):
    _, plain = Job(made, tmp_path / "plain").run()
    _, noisy = Job(made, tmp_path / "noisy", changed(made.train, feature_noise=0.2)).run()
    assert [r["rows"] for r in plain] == [r["rows"] for r in noisy]
    assert all(a["loss"] != b["loss"] for a, b in zip(plain, noisy, strict=True))


def test_packs_accumulated_in_a_batch_equal_one_big_pack(made, tmp_path):
    """Everything in one step: as many small packs, or as a single large one."""
    tokens = int(TrainingData(made.tokens, made.states).documents.lengths.sum())
    common = changed(made.train, epochs=1, warmup_ratio=0.0, max_grad_norm=1e9)
    small = changed(common, pack_tokens=40, packs_per_batch=1000)
    big = changed(common, pack_tokens=tokens, packs_per_batch=1)
    jobs = Job(made, tmp_path / "small", small), Job(made, tmp_path / "big", big)
    assert len(jobs[0].trainer.steps[0].packs) > 5 and len(jobs[1].trainer.steps[0].packs) == 1
    (one, left), (other, right) = jobs[0].run(), jobs[1].run()
    assert len(left) == len(right) == 1
    assert left[0]["loss"] == pytest.approx(right[0]["loss"], rel=1e-6)
    assert left[0]["gradient_norm"] == pytest.approx(right[0]["gradient_norm"], rel=1e-5)
    assert left[0]["active"] == right[0]["active"] and left[0]["rows"] == right[0]["rows"]
    for name, value in one.optimizer.items():
        if name.startswith("exp_avg."):  # the gradient itself
            error = (value - other.optimizer[name]).norm() / value.norm().clamp_min(1e-12)
            assert error < 1e-5, name


def test_a_loss_that_is_not_finite_stops_with_a_sentence_and_leaves_the_save(made, tmp_path):
    job = Job(made, tmp_path)
    inner, count = job.data.pack, [0]

    def pack(numbers, sharding=None):
        result = inner(numbers, sharding)
        count[0] += 1
        return replace(result, aux=result.aux * float("nan")) if count[0] == 9 else result

    job.data.pack = pack
    with pytest.raises(UserError, match=r"step 4: loss is nan.*train\.learning_rate") as fault:
        job.run(save_interval=2)
    assert "\n" not in str(fault.value)
    saved = job.resume.newest()
    assert saved.state["global_step"] == 4
    assert all(torch.isfinite(value).all() for value in saved.model.values())
    assert not (tmp_path / "out").exists()


def test_the_loss_falls_and_the_draft_learns_a_tiny_set_by_heart(targets, tmp_path):
    train = changed(
        TRAIN, epochs=80, epochs_per_stage=80, learning_rate=2e-2, max_grad_norm=5.0, ttt_steps=2
    )
    small = training_set(tmp_path / "set", targets["qwen3"], train, documents=4, draft_vocab=96)
    _, metrics = Job(small, tmp_path).run()
    first, last = metrics[0], metrics[-1]
    # a random target is nearly undecided: most of the loss is its own entropy and cannot fall
    assert last["loss"] < first["loss"] - 0.5
    assert last["accuracy_at"][0] > 0.6 and first["accuracy_at"][0] < 0.2
    assert all(0 <= v <= 1 for r in metrics for k in ("accuracy_at", "acceptance_at") for v in r[k])
    assert last["acceptance_at"][0] > first["acceptance_at"][0]


def test_shards_that_do_not_give_the_scheduled_packs_are_refused(made, tmp_path):
    job = Job(made, tmp_path)
    job.schedule["stages"][0]["packs_digest"] = "0" * 16
    with pytest.raises(UserError, match=r"stage 1: .*delete schedule\.json"):
        StageTrainer(
            job.trainer.draft, job.trainer.target, job.data, job.train, job.schedule, 1, ALONE
        )


def test_metrics_are_divided_by_what_their_names_say(made, tmp_path):
    _, metrics = Job(made, tmp_path).run()
    weights = [0.8**k for k in range(3)]
    for record in metrics:
        assert record["rows"] == record["in_mask"][0] == record["active"][0]
        assert record["active"] == sorted(record["active"], reverse=True)
        assert all(a <= m for a, m in zip(record["active"], record["in_mask"], strict=True))
        # at most the weighted mean of the per-step losses: rows that cannot be trained count zero
        bound = sum(w * v for w, v in zip(weights, record["loss_at"], strict=True)) / sum(weights)
        assert 0 < record["loss"] <= bound + 1e-9
