"""What each rank of test_tensor_parallel does: the states and the teacher of some targets.

Also run in the test's own process, as one rank.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from eagle3.engines.hf import HFTarget
from eagle3.parallel.ranks import joined_ranks
from eagle3.target_model.config import load_config
from eagle3.target_model.layers import aux_layers
from eagle3.target_model.reader import read_head
from eagle3.target_model.weights import TargetWeights

EMBEDDINGS = ("model.embed_tokens.weight", "language_model.model.embed_tokens.weight")


def documents():
    """Random ids of unequal lengths, two of them the longest."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 90, (n,), generator=generator) for n in (9, 17, 1, 17, 5)]


def compute(directory, ranks):
    """aux, last, argmax and log-sum-exp (with and without a lossy store) of one target."""
    from eagle3.capture.teacher_rows import TeacherRows

    config, weights = load_config(directory), TargetWeights(directory)
    layers = aux_layers(None, config.num_hidden_layers)
    engine = HFTarget.load(directory, layers, "float32", ranks=ranks)
    (embedding,) = [name for name in EMBEDDINGS if name in weights.file_of]
    head = read_head(weights, config, "lm_head.weight", embedding)
    teacher = TeacherRows(head, engine.dtype, ranks, block_bytes=1024)
    aux, last = engine.flat_states(documents())
    assert type(aux) is type(last) is torch.Tensor  # and no DTensor
    argmax, lse = teacher(last, last)
    again, stored_lse = teacher(last, last.bfloat16())
    assert torch.equal(argmax, again)
    result = {"aux": aux, "last": last, "argmax": argmax, "lse": lse, "stored_lse": stored_lse}
    held = sum(_local(parameter).numel() for parameter in engine.body.parameters())
    return result | {"held": torch.tensor(held)}


def _local(parameter):
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def main():
    out, *directories = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        result = {}
        for directory in directories:
            for name, value in compute(directory, ranks).items():
                result[f"{directory.name}.{name}"] = value.contiguous()
        save_file(result, out / f"rank-{ranks.rank}.safetensors")


if __name__ == "__main__":
    main()
