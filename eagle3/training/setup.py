"""The start of a training: the draft's initial weights and the frozen parts of the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eagle3.draft.config import derive_config
from eagle3.draft.model import Eagle3Draft, initialise
from eagle3.draft.pretrained import warm_start
from eagle3.draft.shapes import HEAD
from eagle3.objective.ttt import TargetParts
from eagle3.target_model.config import load_config
from eagle3.target_model.layers import aux_layers, layer_count
from eagle3.target_model.reader import Head, read_final_norm, read_head
from eagle3.target_model.weights import TargetWeights
from eagle3.tokens.vocab import VocabMapping, check_of_target


def build_draft(
    target: Path,
    values: dict[str, Any],
    mapping: VocabMapping,
    device: torch.device,
    existing: Path | None = None,
) -> tuple[Eagle3Draft, TargetParts]:
    """The draft with its initial weights, and the parts of the target that training uses.

    `values`: the settings of the train stage. `existing`: folder of a draft to start from. Only
    three tensors of the target are read. Raises UserError if they do not fit, or if the vocabulary
    mapping is another target's.
    """
    section, train = values["target"], values["train"]
    config = load_config(target, section["trust_remote_code"])
    weights = TargetWeights(target)
    check_of_target(mapping, config.vocab_size)
    target_ids = torch.from_numpy(mapping.target_ids)
    head = read_head(weights, config, section["lm_head_key"], section["embedding_key"]).rows(
        target_ids
    )
    embedding = weights.read(section["embedding_key"], "embedding_key")
    layers = aux_layers(values["hidden_states"]["aux_layers"], layer_count(config))
    draft = Eagle3Draft(derive_config(config, values["draft"], len(mapping.d2t), layers))
    norm = None
    if train["norm_init"] != "ones":
        norm = read_final_norm(weights, config, section["final_norm_key"])
    rows = None if train["head_init"] == "random" else head.weight.float()
    initialise(draft, train["seed"], rows, norm)
    inits = {HEAD: train["head_init"], "norm.weight": train["norm_init"]}
    frozen = [name for name, init in inits.items() if init == "frozen"]
    if existing is not None:
        warm_start(draft, existing, target_ids, layer_count(config), frozen)
    for name in frozen:
        draft.get_parameter(name).requires_grad_(False)
    parts = TargetParts(
        embedding.to(device),
        head.to(device, _head_type(head, device)),
        torch.from_numpy(mapping.draft_ids).to(device),
    )
    return draft.to(device), parts


def _head_type(head: Head, device: torch.device) -> torch.dtype:
    """Type of the head, such that teachers are never rounded: CUDA sums half-precision products in
    float32 (`exact_products`), so the stored type suffices; elsewhere it is float32."""
    return head.weight.dtype if device.type == "cuda" else torch.float32
