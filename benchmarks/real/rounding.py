"""How far rounding moves the states of a target, and how far apart its layers are.

    python -m benchmarks.real.rounding --run results/real/draft/results/smollm2

The figures behind `eagle3/target_model/rounding.py`, the limits of a shard's self-check. Relative
errors at the median row, of a few documents of the run's first shard:

* `bfloat16`: between two orders of adding up attention in bfloat16;
* `fp8 inputs`: of weights and the inputs of each linear layer in eight bits, with a scale for each
  row, to a pass with the weights alone in eight bits; `by 64` has a scale for each 64 numbers;
* `nearest layer`: between the output of a layer and the nearer one of those around it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.tables import parser, show
from eagle3.imports.source_check import distance
from eagle3.run import load_run
from eagle3.tokens.shards import read_token_shard
from workflow_scripts import ending

LARGEST = 448.0  # of float8_e4m3fn


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=Path, required=True, help="results of the pipeline's run")
    arguments.add_argument("--documents", type=int, default=4)
    args = arguments.parse_args()
    run = load_run(args.run)
    tokens = read_token_shard(args.run / "tokens" / "train" / "shard-00000.safetensors")
    documents = [torch.from_numpy(tokens.kept_ids(n)).long()[None] for n in range(args.documents)]
    plain = states(loaded(run.target, torch.float32), documents)
    half = [
        states(loaded(run.target, torch.bfloat16, kind), documents) for kind in ("sdpa", "eager")
    ]
    weights = states(in_eight_bits(loaded(run.target, torch.float32)), documents)
    by_row, by_block = (
        states(in_eight_bits(loaded(run.target, torch.float32), block), documents)
        for block in (None, 64)
    )
    rows = []
    for layer in range(1, len(plain)):
        around = [n for n in (layer - 1, layer + 1) if 0 < n < len(plain) - 1]
        row = {
            "layer": layer - 1 if layer < len(plain) - 1 else "last, normed",
            "bfloat16": distance(half[1][layer], half[0][layer]),
            "fp8 inputs": distance(by_row[layer], weights[layer]),
            "by 64": distance(by_block[layer], weights[layer]),
        }
        if layer < len(plain) - 1 and around:
            row["nearest layer"] = min(distance(plain[n], plain[layer]) for n in around)
        rows.append(row)
    show("rounding of a target", rows, args)


def loaded(target: str, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    model = AutoModelForCausalLM.from_pretrained(target, dtype=dtype, attn_implementation=attention)
    return model.eval()


def states(model: Any, documents: list[torch.Tensor]) -> list[torch.Tensor]:
    """Input of the first layer, outputs of the others, the last one normed: [rows, H] each."""
    with torch.inference_mode():
        each = [model(ids, output_hidden_states=True).hidden_states for ids in documents]
    return [torch.cat([one[0].float() for one in layer]) for layer in zip(*each, strict=True)]


def in_eight_bits(model: Any, block: int | None = 0) -> Any:
    """The model with the linear layers of its body in eight bits; `block` of their inputs that
    share a scale: None for a row, 0 for inputs as they are."""
    for module in model.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = rounded(module.weight.data)
            if block != 0:
                module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0], block),))
    return model


def rounded(values: torch.Tensor, block: int | None = None) -> torch.Tensor:
    """Values to eight bits and back, with a scale for each row or for each `block` of it."""
    blocks = values if block is None else values.unflatten(-1, (-1, block))
    scale = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-12) / LARGEST
    return ((blocks / scale).to(torch.float8_e4m3fn).float() * scale).reshape(values.shape)


if __name__ == "__main__":
    ending.run(main)
