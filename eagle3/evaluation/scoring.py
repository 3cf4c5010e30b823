"""The score of a checkpoint on held-out hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eagle3.draft.config import DraftConfig
from eagle3.draft.model import Eagle3Draft
from eagle3.engines.hf import DTYPES
from eagle3.evaluation.held_out import simulate
from eagle3.files.artifact import Settings
from eagle3.objective.ttt import TargetParts
from eagle3.parallel.device import check_device
from eagle3.target_model.config import load_config, stop_ids
from eagle3.target_model.reader import read_head
from eagle3.target_model.weights import TargetWeights
from eagle3.tokens.packing import pack_documents
from eagle3.tokens.vocab import VocabMapping
from eagle3.training.checkpoint import read_model
from eagle3.training.data import TrainingData
from eagle3.training.loader import read_ahead


def score_checkpoint(
    folder: Path,
    settings: Settings,
    directory: Path,
    mapping: VocabMapping,
    data: TrainingData,
    pack_tokens: int,
    device_name: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of `simulate` for the checkpoint in `folder`, and the state that it was saved with.

    `settings`: of the score stage; `directory`: the target; `data`: held-out states. Raises
    UserError if the checkpoint belongs to another training.
    """
    section, evaluation = settings.values["target"], settings.values["evaluation"]
    device, dtype = check_device(device_name), DTYPES[evaluation["dtype"]]
    weights, state = read_model(folder, settings.upstream["train"])
    draft = Eagle3Draft(DraftConfig.from_dict(state["draft"])).to(device)
    draft.load_state_dict(weights)
    config = load_config(directory, section["trust_remote_code"])
    tensors = TargetWeights(directory)
    head = read_head(tensors, config, section["lm_head_key"], section["embedding_key"])
    target = TargetParts(
        tensors.read(section["embedding_key"], "embedding_key").to(device),
        head.rows(torch.from_numpy(mapping.target_ids)).to(device, dtype),
        torch.from_numpy(mapping.draft_ids).to(device),
    )
    packs = pack_documents(data.documents.lengths, pack_tokens, seed=0, epoch=0)
    figures = simulate(
        draft,
        target,
        read_ahead(data, packs, device),
        dtype,
        evaluation["num_speculative_tokens"],
        set(stop_ids(directory, config)),
    )
    return figures, state
