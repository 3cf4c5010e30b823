"""Write the trained draft in the form of one engine, and read it back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from eagle3.data.sources import HUB
from eagle3.draft.config import DraftConfig
from eagle3.serving.exports.engines import FORMATS
from eagle3.serving.exports.exported import Description, Verifier, write_draft
from eagle3.serving.exports.forms import FORMS
from eagle3.target.files import load_whole_config, resolve_target
from eagle3.target.reader import TargetWeights
from eagle3.tokens.vocab import read_mapping
from eagle3.training.checkpoint import read_model
from workflow_scripts import entry


def verifier_of(values: dict[str, Any], location: str) -> Verifier:
    """The target as vLLM is to find it: by the name in the configuration, unless that says more."""
    target, name = values["target"], values["export"]["verifier"] or location.removeprefix(HUB)
    folder = resolve_target(location, target["revision"], weights=False)
    whole = load_whole_config(folder, target["trust_remote_code"])
    count = values["evaluation"]["num_draft_tokens"]
    return Verifier(name, tuple(whole.architectures or ()), count)


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--format", choices=FORMATS, required=True)
    args.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="its files")
    args.add_argument("--vocab", type=Path, required=True)
    args.add_argument("--target", required=True)
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    values, upstream = given.settings.values, given.settings.upstream
    weights, state = read_model(given.checkpoint[0].parent, upstream["train"])
    mapping, manifest = read_mapping(given.vocab, upstream["vocab"])
    form, verifier, embedding = FORMS[given.format], None, None
    if given.format == "speculators":
        verifier = verifier_of(values, given.target)
    if values["export"].get("embedding"):
        folder = resolve_target(given.target, values["target"]["revision"])
        key = values["target"]["embedding_key"]
        embedding = TargetWeights(folder).read(key, "embedding_key")
    config = DraftConfig.from_dict(state["draft"])
    described = Description(config, values["export"]["dtype"], verifier)
    inputs = {"vocab": manifest.content_sha256}
    write_draft(form, given.out, described, weights, mapping, given.settings, inputs, embedding)
    logging.info("wrote %s, %s, read back without a difference", given.out, described.dtype)


entry.run(main)
