"""Checks of a configuration against existing files, before any job.

`check_choices` needs only the configuration, `check_target` the target's config.json and the header
of its weights; neither imports torch. Faults of the data (bad rows, too few of them) are counted by
the jobs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle3.draft.config import check_heads, compromises, derive_config
from eagle3.draft.existing import check_existing
from eagle3.draft.rope_parameters import chosen
from eagle3.engines.table import ENGINES
from eagle3.errors import UserError
from eagle3.export.capabilities import (
    check_aux_layers,
    check_formats,
    check_layer_ids,
    check_rope,
    served_otherwise,
)
from eagle3.files.hub import cached_file
from eagle3.objective.attention.limits import check_window, unsupported_reason
from eagle3.store.columns import STORED
from eagle3.target_model.config import JsonConfig, load_config
from eagle3.target_model.files import TEMPLATE_FILES, VOCABULARIES, check_length, read_object
from eagle3.target_model.layers import aux_layers, layer_count
from eagle3.target_model.logits import check_head, is_tied, logit_rules
from eagle3.target_model.weights import TargetWeights, check_norm
from eagle3.tokens.vocab import check_size

Config = Mapping[str, Any]
USUAL_HEAD = 128  # fits every kernel; used before the target is known


def check_choices(config: Config) -> None:
    """Raise UserError for choices that are impossible or exclude each other for every target."""
    if config["draft"]["rope_scaling"] is not None:
        chosen(config["draft"]["rope_theta"], config["draft"]["rope_scaling"])
    check_formats(config["export"]["formats"], config["draft"])
    _check_attention(config, config["draft"]["head_dim"] or USUAL_HEAD)
    if config["target"]["adapter"] is not None:
        _check_adapter(config)


def _check_adapter(config: Config) -> None:
    """Raise UserError if a job could not apply the adapter."""
    key, states = "target.adapter is set", config["hidden_states"]
    if config["target"]["model"] == "embedded":
        raise UserError(f"{key}, but the embedded target has none: name its base in target.model")
    if states["backend"] != "hf":
        raise UserError(
            f"{key}, which backend {states['backend']} does not capture with: use "
            "hidden_states.backend hf, or name a model that it is merged into in target.model"
        )
    if config["resources"]["capture"]["tensor_parallel"] > 1:
        raise UserError(
            f"{key}, which is not merged into a target that several ranks share: use "
            "resources.capture.tensor_parallel 1, or name a model that it is merged into in "
            "target.model"
        )


def check_target(config: Config, folder: Path) -> bool:
    """Whether the output head of the target in `folder` is its input embedding.

    Raises UserError if the target is incomplete or cannot be used as configured.
    """
    section = config["target"]
    weights = TargetWeights(folder)
    weights.check_files()
    _check_tokenizer(folder)
    text = check_config(config, folder)
    tied = is_tied(weights, text, section["lm_head_key"])
    weights.check(section["embedding_key"], "embedding_key")
    if not tied:
        check_head(weights, weights.check(section["lm_head_key"], "lm_head_key"))
    if config["train"]["norm_init"] != "ones":
        check_norm(weights, section["final_norm_key"])
    return tied


def check_config(config: Config, folder: Path) -> Any:
    """The target's text configuration, checked. Raises UserError as `check_shape` does."""
    text = load_config(folder, config["target"]["trust_remote_code"])
    logit_rules(text)
    check_shape(config, text)
    return text


def check_shape(config: Config, text: Any) -> None:
    """Raise UserError if sizes of the run do not fit a target of the text configuration `text`.

    Prints a warning where the draft cannot have the target's shape, or is not served as trained.
    """
    states, resources = config["hidden_states"], config["resources"]
    count = layer_count(text)
    layers = aux_layers(states["aux_layers"], count)
    unused = set(layers) & set(getattr(text, "cross_attention_layers", None) or ())
    if unused:
        raise UserError(
            f"hidden_states.aux_layers is {list(layers)}; layer {min(unused)} of the target reads "
            "images alone and is left out of texts: name others"
        )
    engine = ENGINES[states["backend"]]
    engine.check_layers(layers, count)
    check_aux_layers(config["export"]["formats"], layers, count)
    check_layer_ids(config["export"]["formats"], states["backend"], layers, text.model_type)
    STORED[states["codec"]].columns(len(layers), text.hidden_size)
    _check_lengths(config, text.max_position_embeddings)
    draft_vocab_size = config["vocab"]["draft_vocab_size"]
    check_size(draft_vocab_size, text.vocab_size)
    draft = derive_config(text, config["draft"], draft_vocab_size, layers)
    check_rope(config["export"]["formats"], draft.rope)
    if draft.sliding_window is not None:
        chain = max(config["train"]["ttt_steps"], config["evaluation"]["num_speculative_tokens"])
        check_window(config["train"]["attention_backend"], draft.sliding_window, chain)
    if config["train"]["warm_start"] is not None:
        check_existing(Path(config["train"]["warm_start"]), draft, count)
    _check_attention(config, draft.head_dim)
    if config["tokens"]["max_length"] > draft.max_position_embeddings:
        raise UserError(
            f"tokens.max_length is {config['tokens']['max_length']}, beyond the draft's context of "
            f"{draft.max_position_embeddings} tokens (draft.max_position_embeddings)"
        )
    ranks = resources["capture"]["tensor_parallel"]
    if ranks > 1:
        engine.check_ranks(text, ranks, engine.title)
    if config["train"]["attention_backend"] == "usp":
        check_heads(draft, resources["train"]["sp_ulysses_size"])
    for sentence in compromises(text, config["draft"]):
        print(f"warning: draft: {sentence}", file=sys.stderr)
    for sentence in served_otherwise(config["export"]["formats"], text.model_type):
        print(f"warning: export: {sentence}", file=sys.stderr)


def _check_attention(config: Config, head_dim: int) -> None:
    """Raise UserError if the attention back end cannot train on the device, in the precision."""
    train, device = config["train"], config["resources"]["device"]
    if why := unsupported_reason(train["attention_backend"], device, train["precision"], head_dim):
        raise UserError(
            f"config: train.attention_backend is {train['attention_backend']}, {why}; use auto"
        )


def _check_lengths(config: Config, context: int) -> None:
    """Raise UserError unless documents, and prompts with answers, fit into the target's context."""
    check_length(config["tokens"]["max_length"], context)
    answer = config["evaluation"]["max_new_tokens"]
    if answer + config["evaluation"]["num_speculative_tokens"] + 2 > context:
        raise UserError(
            f"evaluation.max_new_tokens is {answer}, which leaves no room for a prompt in the "
            f"target's context of {context} tokens"
        )


def _check_tokenizer(folder: Path) -> None:
    """Raise UserError if the target has no tokenizer or chat template, nor code that may."""
    if any(folder.glob("*.py")):
        return
    if not any(path for name in VOCABULARIES for path in folder.glob(name)):
        raise UserError(
            f"target.model: {folder} has no tokenizer ({', '.join(VOCABULARIES)}): download it or "
            "save it next to the weights"
        )
    config_file = folder / "tokenizer_config.json"
    in_config = config_file.is_file() and read_object(config_file).get("chat_template")
    if not in_config and not any((folder / name).exists() for name in TEMPLATE_FILES):
        raise UserError(
            f"target.model: {folder} has no chat template ({', '.join(TEMPLATE_FILES)}, or in "
            "tokenizer_config.json), as base models have none: use the chat model"
        )


def embedded_text_config(tiny: Mapping[str, Any]) -> JsonConfig:
    """The text configuration that the embedded target will have.

    `tiny`: the section `embedded_target`.
    """
    return JsonConfig(
        model_type="llama",
        vocab_size=tiny["vocab_size"],
        hidden_size=tiny["hidden_size"],
        intermediate_size=tiny["intermediate_size"],
        num_hidden_layers=tiny["num_layers"],
        num_attention_heads=tiny["num_heads"],
        num_key_value_heads=tiny["num_kv_heads"],
        head_dim=tiny["hidden_size"] // tiny["num_heads"],
        max_position_embeddings=tiny["max_position_embeddings"],
        rms_norm_eps=1e-6,
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )


def cached_folder(model: str, revision: str | None) -> Path | None:
    """Folder of a hub model in the cache, None if its config.json was never fetched."""
    path = cached_file(model, "config.json", revision)
    return path and path.parent
