"""Write the trained draft in the forms of one engine or several, and read each back."""

from __future__ import annotations

import json
import logging
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from eagle3.artifact import Settings
from eagle3.data.sources import HUB
from eagle3.draft.config import DraftConfig
from eagle3.serving.exports.exported import Description, Verifier, write_draft
from eagle3.serving.exports.forms import FORMS
from eagle3.target.config import architectures
from eagle3.target.files import resolve_target
from eagle3.target.weights import TargetWeights
from eagle3.tokens.vocab import read_mapping
from eagle3.training.checkpoint import read_model
from workflow_scripts import entry


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("--settings", type=by_form, required=True, help="from the rule")
    args.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="its files")
    args.add_argument("--vocab", type=Path, required=True)
    args.add_argument("--target", required=True)
    args.add_argument("--out", type=Path, required=True, help="folder of the forms' folders")
    given = args.parse_args()
    upstream = next(iter(given.settings.values())).upstream  # the same for every form
    weights, state = read_model(given.checkpoint[0].parent, upstream["train"], "np")
    mapping, manifest = read_mapping(given.vocab, upstream["vocab"])
    config, inputs = DraftConfig.from_dict(state["draft"]), {"vocab": manifest.content_sha256}
    for name, settings in given.settings.items():
        values, verifier, embedding = settings.values, None, None
        if name == "speculators":
            verifier = verifier_of(values, given.target)
        if values["export"].get("embedding"):
            folder = resolve_target(given.target, values["target"]["revision"])
            key = values["target"]["embedding_key"]
            embedding = TargetWeights(folder).read(key, "embedding_key", "np")
        described = Description(config, values["export"]["dtype"], verifier)
        out = given.out / name
        write_draft(FORMS[name], out, described, weights, mapping, settings, inputs, embedding)
        logging.info("wrote %s, %s, read back without a difference", out, described.dtype)


def by_form(text: str) -> dict[str, Settings]:
    """The settings of each form that is to be written, from one JSON object."""
    return {form: Settings(**values) for form, values in json.loads(text).items()}


def verifier_of(values: dict[str, Any], location: str) -> Verifier:
    """The target as vLLM is to find it: by the name in the configuration, unless that says more."""
    target, name = values["target"], values["export"]["verifier"] or location.removeprefix(HUB)
    folder = resolve_target(location, target["revision"], weights=False)
    count = values["evaluation"]["num_draft_tokens"]
    return Verifier(name, architectures(folder), count)


entry.run(main)
