"""The capture job as the rule starts it: killed, out of disk, split over ranks."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eagle3.capture.job import CaptureJob
from eagle3.files.artifact import Manifest, Settings, read_json, write_json
from eagle3.store.disk_space import PLAN
from eagle3.store.layout import CHECK_KIND
from eagle3.store.reader import FeatureShard
from tests.builders.hold import WRITE, Hold
from tests.builders.processes import code_of, ended
from tests.builders.run_file import PATHS, save_run
from tests.builders.shards import chats, read_all, state_settings, token_shard

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "workflow_scripts.capture_hidden_states"
STATES = PATHS.states("train", 0)
WRITES = 850  # calls; a whole job makes 900 or more


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / PATHS.tokens("train", 0)
    token_shard(path, chats(300, shortest=20, longest=60))
    return path


def command(target, tokens, folder, settings, ranks=None, shards=2, budget=None, **jobs):
    """The shell line of the rule, as a list, for a job whose working directory is `folder`."""
    (folder / PATHS.tokens("train", 0)).parent.mkdir(parents=True, exist_ok=True)
    if not (folder / PATHS.tokens("train", 0)).exists():
        (folder / PATHS.tokens("train", 0)).symlink_to(tokens)
    jobs = {"batch_tokens": 64, "tensor_parallel": ranks or 1} | jobs
    file = save_run(
        folder,
        [settings],
        target,
        dataset={"num_samples": shards, "shard_size": 1},
        resources={"capture": jobs, "disk_budget_gb": budget},
    )
    start = [sys.executable, "-m"]
    if ranks:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    return [*start, SCRIPT, "--run-file", str(file)]


def run(*arguments, **changes):
    """Run a job to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments, **changes),
        cwd=arguments[2],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


def start(hold, *arguments, **changes):
    """Start a job and wait until it is held in the middle of its writing; its log is `log` in the
    hold's folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= hold.environment
    path = hold.folder / "log"
    with open(path, "w") as log:
        process = subprocess.Popen(
            command(*arguments, **changes),
            cwd=arguments[2],
            stdout=log,
            stderr=log,
            env=environment,
        )
    hold.wait(hopeless=ended(process, path.read_text))
    return process


@pytest.mark.long
@pytest.mark.parametrize(("codec", "kills"), [("bf16_zstd", 3), ("int8", 2)])
def test_killed_at_random_moments_and_run_again_it_gives_the_same_bytes(
    targets, tokens, tmp_path, codec, kills
):
    settings, out = state_settings(codec), tmp_path / STATES
    done = run(targets["llama"], tokens, tmp_path, settings)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = out.read_bytes()
    shutil.rmtree(out.parent)
    dice = random.Random(kills)
    for number in range(kills):
        moment = dice.randint(1, WRITES)
        hold = Hold(tmp_path / f"hold-{number}", (SCRIPT,), WRITE, moment)
        process = start(hold, targets["llama"], tokens, tmp_path, settings)
        process.kill()
        process.wait()
        assert not out.exists() or out.read_bytes() == whole
    assert list(out.parent.glob(".*.tmp"))  # at least the last kill left something behind
    done = run(targets["llama"], tokens, tmp_path, settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert out.read_bytes() == whole
    left = {path.name for path in out.parent.iterdir()}
    assert left == {"shard-00000.safetensors", "shard-00000.check.json"}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.long
def test_a_disk_that_fills_up_gives_one_sentence_and_leaves_nothing(
    targets, tokens, tmp_path, small_disk
):
    settings, folder = state_settings("bf16"), (small_disk / STATES).parent
    hold = Hold(tmp_path / "hold", (SCRIPT,), WRITE)
    process = start(hold, targets["llama"], tokens, small_disk, settings)
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))
    hold.release()
    log = hold.folder / "log"
    code = code_of(process, "a job on a full disk", log.read_text)
    text = log.read_text()
    assert code == 1, text
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    assert errors == [f"error: {STATES}: cannot be written: No space left on device"]
    assert not list(folder.iterdir())
    # with the disk still full, the next one says so before it computes anything
    done = run(targets["llama"], tokens, small_disk, settings)
    assert done.returncode == 1 and "error: hidden states need" in done.stderr
    (small_disk / "filler").unlink()
    done = run(targets["llama"], tokens, small_disk, settings)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_two_ranks_write_what_one_writes(targets, tokens, tmp_path):
    settings, result = state_settings("fp32"), []
    for ranks in (1, 2):
        folder = tmp_path / f"ranks-{ranks}"
        done = run(targets["qwen3_moe"], tokens, folder, settings, ranks=ranks, batch_tokens=999)
        assert done.returncode == 0, done.stdout + done.stderr
        job = CaptureJob(settings, tokens, targets["qwen3_moe"])
        result.append(read_all(FeatureShard(folder / STATES, job.tokens, settings.digest)))
    one, two = result
    assert torch.equal(one["teacher_argmax"], two["teacher_argmax"])
    for name in ("aux", "last", "teacher_lse"):
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-5)


def test_the_report_says_what_was_checked(targets, tokens, tmp_path):
    settings, out = state_settings("nf4"), tmp_path / STATES
    done = run(targets["llama"], tokens, tmp_path, settings, batch_tokens=2048)
    assert done.returncode == 0, done.stderr
    report, _ = read_json(tmp_path / PATHS.states_check("train", 0), CHECK_KIND)
    assert set(report["cosines"]) == {"layer 1", "layer 3", "layer 4", "last"}
    assert report["aux_layers"] == [1, 3, 4] and report["bytes"] == out.stat().st_size
    assert 0 <= report["argmax_agrees"] <= report["rows"]
    assert "cosine to a plain pass" in done.stderr


@pytest.mark.long
def test_what_the_plan_knows_to_come_counts(targets, tokens, tmp_path):
    settings, plan = state_settings("bf16"), tmp_path / PATHS.plan
    same = {"hidden_states": settings.values["hidden_states"]}
    upstream = {"tokens": settings.upstream["tokens"]}
    sizes = {"shard-00000.safetensors": 10**6, "shard-00001.safetensors": 10**15}
    for values, refuses in ((same, True), ({"hidden_states": {"codec": "other"}}, False)):
        manifest = Manifest.of(PLAN, Settings("plan", values, upstream))
        write_json(plan, {"bytes_of_shards": sizes}, manifest)
        done = run(targets["llama"], tokens, tmp_path, settings, batch_tokens=4096)
        assert (done.returncode == 1) == refuses, done.stderr
        assert ("error: hidden states need" in done.stderr) == refuses
    manifest = Manifest.of(PLAN, Settings("plan", same, upstream))
    write_json(plan, {"bytes_of_shards": sizes}, manifest)
    fewer = {"batch_tokens": 4096, "shards": 1}  # num_samples was lowered since the plan
    assert run(targets["llama"], tokens, tmp_path, settings, **fewer).returncode == 0
    (tmp_path / STATES).unlink()
    done = run(targets["llama"], tokens, tmp_path, settings, budget=1e-6, **fewer)
    assert done.returncode == 1 and "disk_budget_gb" in done.stderr


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_wrong_arguments_for_an_engine_are_refused_before_anything_starts(
    targets, tokens, tmp_path, engine
):
    settings = state_settings("bf16", engine)
    arguments = {f"{engine}_arguments": {"quantization": "fp8"}}
    done = run(targets["llama"], tokens, tmp_path, settings, **arguments)
    assert done.returncode == 1
    key = f"resources.capture.{engine}_arguments.quantization"
    assert f"{key} would change the states" in done.stderr
    assert not list((tmp_path / STATES).parent.glob("*"))
    done = run(targets["llama"], tokens, tmp_path, settings)
    assert f"has no {engine}" in done.stderr and "Traceback" not in done.stderr
