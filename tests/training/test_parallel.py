"""Real ranks under torchrun: however they divide the work, the same losses and weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eagle3.errors import UserError
from eagle3.parallel.ranks import Ranks, check_sequence
from tests.training.steps_worker import TYPES, cases, train

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
ALONE = Ranks(0, 1, torch.device("cpu"))
WORLDS = (2, 4)
# losses and norms by their value, weights by the norm of each tensor
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
CASES = [(world, *case) for world in WORLDS for case in cases(world)]


@pytest.fixture(scope="module")
def alone():
    """One rank, by type and recipe."""
    return {(n, recipe): train(ALONE, "ddp", TYPES[n], recipe) for *_, n, recipe in cases(1)}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What so many ranks make of it, in every way they can."""
    result = {}
    for world in WORLDS:
        folder = tmp_path_factory.mktemp(f"ranks{world}")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(world), "-m", "tests.training.steps_worker"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, str(folder)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        figures = json.loads((folder / "figures.json").read_text())
        result[world] = figures, load_file(folder / "weights.safetensors")
    return result


@pytest.mark.parametrize(("world", "kind", "ulysses", "ring", "name", "recipe"), CASES)
def test_losses_clipping_and_weights_are_those_of_one_rank(
    alone, together, world, kind, ulysses, ring, name, recipe
):
    losses, norms, weights = alone[name, recipe]
    figures, tensors = together[world]
    case = f"{kind}-{ulysses}x{ring}-{name}-{recipe}"
    near = TOLERANCE[name]
    assert figures[case][0] == pytest.approx(losses, rel=near)
    assert figures[case][1] == pytest.approx(norms, rel=near)  # hence every clip coefficient
    for parameter, value in weights.items():
        error = (tensors[f"{case}/{parameter}"] - value).norm() / value.norm()
        assert error <= near, (parameter, float(error))


def test_training_changed_the_weights(alone):
    """Else any two runs would agree."""
    short, long = (alone["float64", recipe][2] for recipe in ("lk_hybrid", "soft_ce"))
    for name, value in long.items():
        assert (short[name] - value).norm() > 1e-4 * value.norm(), name


@pytest.mark.parametrize(("world", "ulysses", "ring"), [(4, 3, 1), (2, 2, 2), (6, 1, 4)])
def test_ranks_that_packs_cannot_be_shared_by_are_refused(world, ulysses, ring):
    with pytest.raises(UserError, match=f"{world} ranks .* not a multiple of {ulysses * ring}"):
        check_sequence(world, ulysses, ring)
