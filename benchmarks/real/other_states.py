"""States of a run on the published model as they would be otherwise, for `defaults.py --states`.

    RUN=results/real/draft/results/smollm2
    python -m benchmarks.real.other_states codec nf4 --run $RUN --out results/real/nf4
    python -m benchmarks.real.other_states given results/real/prompts/train.jsonl \\
        --run $RUN --out results/real/given.jsonl

`codec` encodes the run's states again. The numbers are those that a capture with this codec stores,
up to the rounding of the run's own codec. `given` writes the run's questions with the answers of
their sources instead of the target's own, to be captured as a dataset. Questions of a source that
has no answers keep the target's own; those among them that were cut off are left out and counted.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.real.defaults import ALONE
from benchmarks.real.prompts import NO_ANSWER
from eagle3.capture.teacher_rows import TeacherRows
from eagle3.files.artifact import Manifest, write_text
from eagle3.run import load_run
from eagle3.store.codecs import CODECS
from eagle3.store.layout import LAST_CHUNKS, Layout
from eagle3.store.reader import FeatureShard
from eagle3.store.writer import ShardWriter
from eagle3.target_model.config import load_config
from eagle3.target_model.reader import read_head
from eagle3.target_model.weights import TargetWeights
from eagle3.tokens.shards import read_token_shard
from workflow_scripts import ending


def encode_again(results: Path, codec: str, out: Path) -> None:
    """Write the training shards of a run with another codec, beside links to their tokens."""
    run = load_run(results)
    target = run.config.target
    config = load_config(Path(run.target))
    head = read_head(
        TargetWeights(Path(run.target)), config, target.lm_head_key, target.embedding_key
    )
    teacher = TeacherRows(head, torch.float32, ALONE)
    for folder in ("tokens", "hidden_states"):
        (out / folder / "train").mkdir(parents=True, exist_ok=True)
    for number in run.shards:
        name = f"train/shard-{number:05d}.safetensors"
        link = out / "tokens" / name
        link.unlink(missing_ok=True)
        link.symlink_to((results / "tokens" / name).resolve())
        encode_shard(link, results / "hidden_states" / name, teacher, codec, out)


def encode_shard(
    tokens_path: Path, states: Path, teacher: TeacherRows, codec: str, out: Path
) -> Manifest:
    """Write one shard of states with another codec."""
    tokens = read_token_shard(tokens_path)
    shard = FeatureShard(states, tokens)
    old = shard.layout
    layout = Layout(old.needed, codec, old.hidden, old.layers)
    manifest = replace(shard.manifest, counts={**shard.manifest.counts, "codec": codec})
    writer = ShardWriter(out / "hidden_states" / "train" / states.name, layout, manifest)
    try:
        for document in np.flatnonzero(old.needed.kept).tolist():
            rows = shard.read(document)
            parts = CODECS[codec].encode(rows["aux"].unflatten(1, (old.layers, -1)))
            last = CODECS[codec].encode(rows["last"].unflatten(1, (LAST_CHUNKS, -1)))
            stored = CODECS[codec].decode(last, LAST_CHUNKS).float()
            _, lse = teacher(stored, stored)
            teachers = {"teacher_argmax": rows["teacher_argmax"], "teacher_lse": lse}
            named = [("aux", parts), ("last", last)]
            columns = {f"{name}{suffix}": t for name, p in named for suffix, t in p.items()}
            writer.put([document], columns | teachers)
        return writer.finish({})
    finally:
        writer.close()


def given_answers(questions: Path, results: Path, out: Path) -> dict[str, int]:
    """Write the run's conversations with the answers of their sources; return the counts."""
    own: dict[str, dict[str, Any]] = {}
    for path in sorted((results / "answers").rglob("shard-*.jsonl")):
        own |= {row["id"]: row for row in map(json.loads, path.read_text("utf-8").splitlines())}
    counts = {"given": 0, "own": 0, "left out": 0}
    rows = []
    for given in map(json.loads, questions.read_text("utf-8").splitlines()):
        if given["messages"][-1]["content"] != NO_ANSWER:
            row, kind = given, "given"
        else:
            row = own.get(given["id"])
            kind = "left out" if row is None or row.get("cut") else "own"
        counts[kind] += 1
        if kind != "left out":
            rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(out, "".join(rows))
    return counts


def main() -> None:
    args = ArgumentParser(description=__doc__)
    kinds = args.add_subparsers(dest="kind", required=True)
    codec = kinds.add_parser("codec", help="the same states with another codec")
    codec.add_argument("codec", choices=sorted(CODECS))
    given = kinds.add_parser("given", help="the same questions with the answers of their sources")
    given.add_argument("questions", type=Path, help="what the run's answers were asked with")
    for kind in (codec, given):
        kind.add_argument("--run", type=Path, required=True, help="results of the pipeline's run")
        kind.add_argument("--out", type=Path, required=True)
    chosen = args.parse_args()
    if chosen.kind == "codec":
        encode_again(chosen.run, chosen.codec, chosen.out)
    else:
        print(given_answers(chosen.questions, chosen.run, chosen.out))


if __name__ == "__main__":
    ending.run(main)
