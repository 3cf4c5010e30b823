"""Write the trained draft as SGLang loads it, and read it back."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.draft.config import DraftConfig
from eagle3.serving.sglang import export_sglang
from eagle3.tokens.vocab import read_mapping
from eagle3.training.checkpoint import read_model
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="its files")
    args.add_argument("--vocab", type=Path, required=True)
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    upstream = given.settings.upstream
    weights, state = read_model(given.checkpoint[0].parent, upstream["train"])
    mapping, manifest = read_mapping(given.vocab, upstream["vocab"])
    config = DraftConfig.from_dict(state["draft"])
    dtype = given.settings.values["export"]["dtype"]
    inputs = {"vocab": manifest.content_sha256}
    export_sglang(given.out, config, weights, mapping, dtype, given.settings, inputs)
    logging.info("wrote %s, %s, read back without a difference", given.out, dtype)


entry.run(main)
