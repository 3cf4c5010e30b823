"""Two real ranks under torchrun against one process: the same states and the same teacher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.parallel.ranks import Ranks
from tests.builders import parallel_worker
from tests.builders.models import KINDS, build_model, save_model, save_wrapper

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
NAMES = (*KINDS, "sharded", "odd", "gemma3")


@pytest.fixture(scope="module")
def directories(targets, tmp_path_factory):
    """`odd`: a vocabulary that two ranks cannot share evenly; `gemma3`: a wrapper, tied."""
    root = tmp_path_factory.mktemp("more")
    more = {
        "odd": save_model(root / "odd", "llama", vocab_size=97),
        "gemma3": save_wrapper(root / "gemma3", "gemma3"),
    }
    return {name: more.get(name) or targets[name] for name in NAMES}


@pytest.fixture(scope="module")
def both(directories, tmp_path_factory):
    """What the two ranks found, by rank."""
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", parallel_worker.__name__, str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, directories.values())],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(out / f"rank-{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_find_what_one_process_finds(directories, both, name):
    alone = parallel_worker.compute(directories[name], Ranks(0, 1, CPU))
    held = alone.pop("held")
    for rank in both:
        for part, expected in alone.items():
            result = rank[f"{name}.{part}"]
            assert result.dtype == expected.dtype and result.shape == expected.shape
            if part == "argmax":
                assert torch.equal(result, expected)
            else:
                worst = (result - expected).abs().max() / expected.abs().max()
                assert worst <= 1e-5, (part, float(worst))
            assert torch.equal(result, both[0][f"{name}.{part}"]), part  # ranks agree bit by bit
        # the layers are shared out; embedding, norms and a vision tower are not
        assert rank[f"{name}.held"] < 0.8 * held


@pytest.mark.parametrize(
    ("world", "changes", "reason"),
    [
        (4, {}, r"num_key_value_heads \(2\); use 1 or 2$"),
        (3, {"num_key_value_heads": 4}, r"num_attention_heads \(4\); use 1 or 2$"),
        (2, {"intermediate_size": 49}, r"intermediate_size \(49\); use 1$"),
    ],
)
def test_a_number_of_ranks_that_does_not_divide_is_refused(tmp_path, world, changes, reason):
    build_model("llama", **changes).config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"capture\.tensor_parallel is {world}, .*{reason}"):
        HFTarget.load(tmp_path, (0, 1, 2), ranks=Ranks(0, world, CPU))


def test_a_model_without_a_plan_is_refused(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_embd=8, n_head=2).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"tensor_parallel is 2, but .* no tensor-parallel plan"):
        HFTarget.load(tmp_path, (0,), ranks=Ranks(0, 2, CPU))
