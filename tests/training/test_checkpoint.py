"""Checkpoints: what is written comes back, and nothing else is taken for it."""

from __future__ import annotations

import multiprocessing
import shutil
import threading

import pytest
import torch

from eagle3.errors import UserError
from eagle3.training.checkpoint import (
    MODEL,
    OPTIMIZER,
    STATE,
    Checkpoint,
    ResumeFolder,
    read_checkpoint,
    read_model,
    write_checkpoint,
)
from tests.builders.shards import stage_settings
from tests.builders.waiting import LIMIT

SETTINGS, INPUTS = stage_settings("train", lr=1), {"tokens-0": "abc"}


def checkpoint(step, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Checkpoint(
        {"fc.weight": torch.randn(3, 4, generator=generator)},
        {
            "exp_avg.fc.weight": torch.randn(3, 4, generator=generator),
            "step.fc.weight": torch.ones(()),
        },
        {"global_step": step, "inputs": INPUTS},
    )


def same(a, b):
    return (
        a.state == b.state
        and all(torch.equal(a.model[n], b.model[n]) for n in a.model)
        and all(torch.equal(a.optimizer[n], b.optimizer[n]) for n in a.optimizer)
    )


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    write_checkpoint(tmp_path, checkpoint(7), SETTINGS, INPUTS)
    assert same(read_checkpoint(tmp_path, SETTINGS.digest), checkpoint(7))
    model, state = read_model(tmp_path, SETTINGS.digest)
    assert torch.equal(model["fc.weight"], checkpoint(7).model["fc.weight"])
    assert state["global_step"] == 7


def test_a_finished_stage_is_readable_without_its_optimizer(tmp_path):
    write_checkpoint(tmp_path, checkpoint(7), SETTINGS, INPUTS)
    (tmp_path / OPTIMIZER).unlink()
    read_model(tmp_path, SETTINGS.digest)
    with pytest.raises(UserError, match=r"optimizer\.safetensors: no such file"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, STATE])
def test_files_of_different_saves_are_refused(tmp_path, name):
    write_checkpoint(tmp_path / "a", checkpoint(7), SETTINGS, INPUTS)
    write_checkpoint(tmp_path / "b", checkpoint(8, seed=1), SETTINGS, INPUTS)
    shutil.copy(tmp_path / "b" / name, tmp_path / "a" / name)
    with pytest.raises(UserError, match="different saves"):
        read_checkpoint(tmp_path / "a")


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    write_checkpoint(tmp_path, checkpoint(7), SETTINGS, INPUTS)
    with pytest.raises(UserError, match="other settings"):
        read_checkpoint(tmp_path, stage_settings("train", lr=2).digest)


def resume(folder, settings=SETTINGS, inputs=INPUTS):
    return ResumeFolder(folder, settings, inputs)


def test_only_the_newest_save_is_kept(tmp_path):
    saves = resume(tmp_path)
    for step in (2, 4, 6):
        saves.save(checkpoint(step, seed=step))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006"]
    assert same(saves.newest(), checkpoint(6, seed=6))
    saves.clear()
    assert saves.newest() is None and not list(tmp_path.iterdir())


def test_no_folder_means_no_save(tmp_path):
    assert resume(tmp_path / "none").newest() is None


def test_saves_of_other_settings_or_inputs_are_passed_over(tmp_path):
    resume(tmp_path).save(checkpoint(2))
    assert resume(tmp_path, settings=stage_settings("train", lr=2)).newest() is None
    assert resume(tmp_path, inputs={"tokens-0": "other"}).newest() is None
    assert resume(tmp_path).newest() is not None


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, STATE])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_save_gives_way_to_the_one_before(tmp_path, name, damage):
    resume(tmp_path).save(checkpoint(2))
    write_checkpoint(tmp_path / "step-00000004", checkpoint(4), SETTINGS, INPUTS)
    file = tmp_path / "step-00000004" / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-3])
    else:
        at = content.index(b'"global_step": 4') + 15 if name == STATE else len(content) - 2
        content[at] ^= 1
        file.write_bytes(content)
    assert same(resume(tmp_path).newest(), checkpoint(2))


def test_a_save_cut_short_under_its_temporary_name_is_never_read_and_later_swept(tmp_path):
    write_checkpoint(tmp_path / ".step-00000009.abcd.tmp", checkpoint(9), SETTINGS, INPUTS)
    assert resume(tmp_path).newest() is None
    resume(tmp_path).clear()
    assert not list(tmp_path.iterdir())


def hold(folder, held, release):
    with resume(folder).locked():
        held.set()
        release.wait(LIMIT)


def test_two_processes_cannot_train_the_same_stage(tmp_path):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, release))
    other.start()
    try:
        assert held.wait(LIMIT), f"the other process did not lock its folder in {LIMIT} s"
        with pytest.raises(UserError, match="another process"), resume(tmp_path).locked():
            pass
    finally:
        release.set()
        other.join(LIMIT)
    assert other.exitcode == 0
    with resume(tmp_path).locked():  # a process that ends, however it ends, lets go
        pass


def test_a_save_in_the_background_keeps_nobody_waiting_but_the_next_one(tmp_path, monkeypatch):
    folder = ResumeFolder(tmp_path / "resume", SETTINGS, INPUTS)
    written, true_save, go_on = [], folder.save, threading.Event()

    def slow(found):
        assert go_on.wait(LIMIT), f"the save was not let go on in {LIMIT} s"
        true_save(found)
        written.append(found.state["global_step"])

    monkeypatch.setattr(folder, "save", slow)
    with folder.saving() as save:
        save(checkpoint(1))
        assert written == []  # and yet here we are
        go_on.set()
        save(checkpoint(2))
        assert written[:1] == [1]
    assert written == [1, 2]
    assert same(folder.newest(), checkpoint(2))


def test_a_save_that_fails_in_the_background_is_heard_of(tmp_path, monkeypatch):
    folder = ResumeFolder(tmp_path / "resume", SETTINGS, INPUTS)

    def full(found):
        raise UserError("no space left")

    monkeypatch.setattr(folder, "save", full)
    with pytest.raises(UserError, match="no space left"), folder.saving() as save:
        save(checkpoint(1))
