"""Acceptance length of drafts trained from each codec: the whole pipeline, once per codec and seed.

    python -m benchmarks.codec_acceptance --directory /tmp/acceptance --seeds 0 1 2

Everything above the states (target, tokens) is made once; each codec is captured once. Runs with
the same seed see the same batches and first weights: a codec is compared with bf16 seed by seed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks.tables import parser, show

ROOT = Path(__file__).resolve().parents[1]
CODECS = ("bf16", "fp8_e4m3", "int8", "nf4")  # the compressed ones hold the same numbers


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--configfile", type=Path, help="overlay; none: the embedded default")
    args.add_argument("--directory", type=Path, required=True, help="where results/ is made")
    args.add_argument("--codecs", nargs="+", default=CODECS)
    args.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    args.add_argument("--cores", default="all")
    given = args.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    result: dict[str, list[float]] = {}
    sizes: dict[str, float] = {}
    for codec in given.codecs:
        for seed in given.seeds:
            run = run_pipeline(given.directory, given.configfile, codec, seed, given.cores)
            evaluation = json.loads((run / "evaluation" / "acceptance.json").read_text())
            result.setdefault(codec, []).append(evaluation["acceptance_length"])
            print(f"{codec} seed {seed}: {result[codec][-1]:.4f}", flush=True)
        plan = json.loads((run / "plan.json").read_text())
        states = sum(p.stat().st_size for p in (run / "hidden_states").rglob("*.safetensors"))
        sizes[codec] = states / plan["tokens"]
    base = result[given.codecs[0]]
    rows = []
    for codec, lengths in result.items():
        changes = [100 * (a / b - 1) for a, b in zip(lengths, base, strict=True)]
        rows.append(
            {
                "codec": codec,
                "bytes/token": sizes[codec],
                "acceptance length": statistics.mean(lengths),
                "least": min(lengths),
                "most": max(lengths),
                f"% to {given.codecs[0]}": statistics.mean(changes),
                "by seed": " ".join(f"{change:+.1f}" for change in changes),
            }
        )
    show("acceptance length by codec", rows, given, lengths=result)


def run_pipeline(directory: Path, base: Path | None, codec: str, seed: int, cores: str) -> Path:
    """One run to its end; returns its results folder."""
    config = yaml.safe_load(base.read_text(encoding="utf-8")) if base else {}
    config.setdefault("hidden_states", {})["codec"] = codec
    config.setdefault("train", {})["seed"] = seed
    config.setdefault("run", "codecs")
    overlay = directory / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(directory), "--cores", cores, "--quiet", "all"]
    command += ["--configfile", str(ROOT / "config.yaml"), str(overlay), "--", "train"]
    with open(directory / "snakemake.log", "a", encoding="utf-8") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)  # noqa: S603
    return directory / "results" / config["run"]


if __name__ == "__main__":
    main()
