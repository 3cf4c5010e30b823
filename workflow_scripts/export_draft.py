"""Write the trained draft in the formats of one engine or several, and read each back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from eagle3.draft.config import DraftConfig
from eagle3.export.exported import Description, Verifier, write_draft
from eagle3.export.formats import DRAFT_FORMATS
from eagle3.files.hub import HUB
from eagle3.target_model.config import architectures
from eagle3.target_model.weights import TargetWeights
from eagle3.tokens.vocab import read_mapping
from eagle3.training.checkpoint import read_model
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, formats = job.run, [path.parent.name for path in job.out]
    upstream = job.settings(f"export_{formats[0]}").upstream  # the same for every format
    weights, state = read_model(job.checkpoint.parent, upstream["train"], "np")
    mapping, manifest = read_mapping(Path(run.paths.vocab), upstream["vocab"])
    config, inputs = DraftConfig.from_dict(state["draft"]), {"vocab": manifest.content_sha256}
    for name, path in zip(formats, job.out, strict=True):
        settings = job.settings(f"export_{name}")
        values, verifier, embedding = settings.values, None, None
        if name == "speculators":
            verifier = _verifier(job, values)
        if values["export"].get("embedding"):
            key = values["target"]["embedding_key"]
            embedding = TargetWeights(job.target_folder()).read(key, "embedding_key", "np")
        described = Description(config, values["export"]["dtype"], verifier)
        folder = path.parent
        write_draft(
            DRAFT_FORMATS[name], folder, described, weights, mapping, settings, inputs, embedding
        )
        logging.info(
            "wrote %s, %s, and read them back without a difference", folder, described.dtype
        )


def _verifier(job: entry.Job, values: dict[str, Any]) -> Verifier:
    """The target as vLLM finds it: export.verifier, or else the name in the configuration."""
    name = values["export"]["verifier"] or job.run.target.removeprefix(HUB)
    count = values["evaluation"]["num_speculative_tokens"]
    return Verifier(name, architectures(job.target_folder(weights=False)), count)


if __name__ == "__main__":
    entry.start(main, __doc__)
