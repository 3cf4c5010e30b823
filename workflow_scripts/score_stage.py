"""Score the checkpoint of a stage on held-out hidden states."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from eagle3.artifact import Manifest, part_of, write_json
from eagle3.device import check_device
from eagle3.draft.config import DraftConfig
from eagle3.draft.model import Eagle3Draft
from eagle3.objective.ttt import TargetParts
from eagle3.serving.simulated import simulate
from eagle3.target.config import load_config, stop_ids
from eagle3.target.files import resolve_target
from eagle3.target.hf import DTYPES
from eagle3.target.reader import read_head
from eagle3.target.weights import TargetWeights
from eagle3.tensorfile import read_manifest
from eagle3.tokens.packing import pack_documents
from eagle3.tokens.vocab import read_mapping
from eagle3.training.checkpoint import read_model
from eagle3.training.early_stop import SCORE
from eagle3.training.loader import TrainingData, read_ahead
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--stage", type=int, required=True)
    args.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="its files")
    args.add_argument("--tokens", action=entry.Files, nargs="+", required=True)
    args.add_argument("--hidden-states", action=entry.Files, nargs="+", required=True)
    args.add_argument("--vocab", type=Path, required=True)
    args.add_argument("--target", required=True)
    args.add_argument("--device", required=True)
    args.add_argument("--threads", type=int, required=True)
    args.add_argument("--epochs", type=int, required=True, help="of the whole training")
    args.add_argument("--pack-tokens", type=int, required=True)
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    torch.set_num_threads(given.threads)
    values, upstream = given.settings.values, given.settings.upstream
    device, dtype = check_device(given.device), DTYPES[values["evaluation"]["dtype"]]
    weights, state = read_model(given.checkpoint[0].parent, upstream["train"])
    draft = Eagle3Draft(DraftConfig.from_dict(state["draft"])).to(device)
    draft.load_state_dict(weights)
    mapping, _ = read_mapping(given.vocab, upstream["vocab"])
    section = values["target"]
    directory = resolve_target(given.target, section["revision"])
    config = load_config(directory, section["trust_remote_code"])
    found = TargetWeights(directory)
    chosen = torch.from_numpy(mapping.target_ids)
    keys = section["lm_head_key"], section["embedding_key"]
    target = TargetParts(
        found.read(section["embedding_key"], "embedding_key").to(device),
        read_head(found, config, *keys).rows(chosen).to(device, dtype),
        torch.from_numpy(mapping.draft_ids).to(device),
    )
    data = TrainingData(
        given.tokens, given.hidden_states, upstream["tokens"], upstream["hidden_states"]
    )
    packs = pack_documents(data.documents.lengths, given.pack_tokens, seed=0, epoch=0)
    figures = simulate(
        draft,
        target,
        read_ahead(data, packs, device),
        dtype,
        values["evaluation"]["num_draft_tokens"],
        set(stop_ids(directory, config)),
    )
    done = given.epochs * state["global_step"] / max(state["total_steps"], 1)
    record = {"stage": given.stage, "epochs_done": round(done, 4), **figures}
    record["stopped_early"] = state.get("stopped_early", False)
    model = read_manifest(given.checkpoint[0], "checkpoint")
    inputs = {"model": model.content_sha256} | data.inputs()
    manifest = Manifest.of(SCORE, given.settings, inputs, part=part_of(given.out))
    write_json(given.out, record, manifest)
    logging.info(
        "stage %d: held-out acceptance length %.3f %s over %d rows, %.3f on the walk",
        given.stage,
        figures["acceptance_length"],
        figures["acceptance_length_ci95"],
        figures["rows"],
        figures["walk"]["acceptance_length"],
    )


entry.run(main)
