"""Score the checkpoint of a stage on held-out hidden states."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from eagle3.evaluation.scoring import score_checkpoint
from eagle3.files.artifact import Manifest, part_of, write_json
from eagle3.files.tensor_file import read_manifest
from eagle3.tokens.vocab import read_mapping
from eagle3.training.data import held_out_data
from eagle3.training.early_stop import SCORE
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    torch.set_num_threads(job.threads)
    run, settings = job.run, job.settings("score")
    mapping, _ = read_mapping(Path(run.paths.vocab), settings.upstream["vocab"])
    data = held_out_data(run)
    figures, state = score_checkpoint(
        job.checkpoint.parent,
        settings,
        job.target_folder(),
        mapping,
        data,
        run.config.train.pack_tokens,
        run.config.resources.device,
    )
    epochs = run.config.train.epochs * state["global_step"] / max(state["all_steps"], 1)
    record = {"stage": job.stage, "epochs_done": round(epochs, 4), **figures}
    record["stopped_early"] = state.get("stopped_early", False)
    inputs = {"model": read_manifest(job.checkpoint, "checkpoint").content_sha256}
    out = Path(run.paths.score(job.stage))
    manifest = Manifest.of(SCORE, settings, inputs | data.inputs(), part=part_of(out))
    write_json(out, record, manifest)
    logging.info(
        "stage %d: held-out acceptance length %.3f %s over %d rows, %.3f on the walk",
        job.stage,
        figures["acceptance_length"],
        figures["acceptance_length_ci95"],
        figures["rows"],
        figures["walk"]["acceptance_length"],
    )


if __name__ == "__main__":
    entry.start(main, __doc__)
