"""Choose the stage of the best held-out acceptance; copy its checkpoint to where exports read."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from eagle3.artifact import REMAKE, Manifest, atomic_path, part_of, read_json, write_json
from eagle3.errors import UserError
from eagle3.features.source import Address
from eagle3.objects import download, is_object
from eagle3.serving.selection import KIND, METRIC, choose
from eagle3.tensorfile import read_manifest
from eagle3.training.checkpoint import MODEL, STATE, read_model
from eagle3.training.early_stop import SCORE
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--scores", action=entry.Files, nargs="+", required=True)
    args.add_argument("--models", action=entry.Files, nargs="+", required=True)
    args.add_argument("--choice", type=Path, required=True)
    args.add_argument("--out", type=Path, nargs=2, required=True, help="model, state")
    given = args.parse_args()
    digest = given.settings.digest
    found = [read_json(path, SCORE, digest, part_of(path)) for path in given.scores]
    choice = choose([figures for figures, _ in found])
    place = choice["stage"] - 1
    for name, out in zip((MODEL, STATE), given.out, strict=True):
        with atomic_path(out) as beside:
            fetch(sibling(given.models[place], name), beside)
    read_model(given.out[0].parent, given.settings.upstream["train"], "np")  # checked whole
    inputs = {"model": found[place][1].inputs["model"]}
    if read_manifest(given.out[0], "checkpoint").content_sha256 != inputs["model"]:
        raise UserError(
            f"{given.scores[place]}: scores another checkpoint than {given.models[place]}: {REMAKE}"
        )
    write_json(given.choice, choice, Manifest.of(KIND, given.settings, inputs))
    logging.info("stage %d of %d has the best %s", choice["stage"], len(found), METRIC)


def sibling(model: Address, name: str) -> Address:
    """Another file of the checkpoint that a model is of."""
    if is_object(model):
        return str(model).rsplit("/", 1)[0] + f"/{name}"
    return Path(model).with_name(name)


def fetch(source: Address, path: Path) -> None:
    if is_object(source):
        download(str(source), path)
    else:
        shutil.copyfile(source, path)


entry.run(main)
