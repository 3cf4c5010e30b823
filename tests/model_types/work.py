"""What is done with a tiny random model of one type: capture, two training steps, export, decoding.

Every figure is compared with transformers' own forward pass or generation of the whole model, which
shares no code with the engine but the model's class.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from eagle3.draft.config import derive_config
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.evaluation.caches import TargetBatch, target_batch
from eagle3.evaluation.decoding import Limits, Models, compare, decode_batch
from eagle3.export.load import load_draft
from eagle3.target_model.config import load_config
from eagle3.target_model.layers import aux_layers
from eagle3.target_model.logits import check_head, is_tied, logit_rules
from eagle3.target_model.reader import Head
from eagle3.target_model.weights import TargetWeights, check_norm
from tests.builders.exports import write
from tests.builders.shards import (
    TARGET_KEYS,
    TRAIN,
    changed,
    open_target,
    plain_states,
    train_draft,
    training_set,
)
from tests.model_types.shrink import CONTEXT, HEADS, HIDDEN, LAYERS, VOCAB, tiny_config

LAYERS_READ = aux_layers(None, LAYERS)
STEPS = changed(TRAIN, epochs=1, epochs_per_stage=1, ttt_steps=2, pack_tokens=64)
NEW, CHAIN, CHOSEN = 8, 3, 5
MOST_DIFFERENT = 1e-4  # of the largest figure, in float32: sums in another order


CONTEXT_KEY = "max_position_embeddings in config.json"
HEADS_KEY, NORM_KEY = "draft.num_attention_heads", "train.norm_init: ones"


@dataclass(frozen=True)
class Outcome:
    """What came of a type. `capture`: the largest share by which a state differs from the plain
    pass's; `cached`: whether decoding goes on from a cache; `keys`: what had to be set by hand."""

    capture: float
    steps: int
    cached: bool
    keys: tuple[str, ...]


def random_texts(*lengths: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCAB, (length,), generator=draw) for length in lengths]


def save_tiny(kind: str, folder: Path) -> Any:
    """A random model of the type, saved; with norms away from one and heads away from ties."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = tiny_config(kind)
        text_alone = config.get_text_config(decoder=True) is config
        builder = AutoModelForCausalLM if text_alone else AutoModelForImageTextToText
        model = builder.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1 and "norm" in name and name.endswith("weight"):
                weight.add_(0.3 * torch.rand(weight.shape))
            elif weight.dim() == 2:
                weight.mul_(3)  # as far apart as a trained model's logits
    model.save_pretrained(folder)
    return model


def keys_needed(folder: Path) -> tuple[str, ...]:
    """Asks what is asked before any job, and does what a refusal names, until there is none.

    Raises UserError for one that names nothing to do.
    """
    keys: list[str] = []
    while True:
        try:
            check_parsed(folder, keys)
        except UserError as fault:
            key = next((key for key, part in HELP.items() if part in str(fault)), None)
            if key is None or key in keys:
                raise
            keys.append(key)
            if key == CONTEXT_KEY:
                file = folder / "config.json"
                known = json.loads(file.read_text()) | {"max_position_embeddings": CONTEXT}
                file.write_text(json.dumps(known))
        else:
            return tuple(keys)


HELP = {
    CONTEXT_KEY: "add it to the file",
    HEADS_KEY: "draft.num_attention_heads: the target",
    NORM_KEY: "set train.norm_init to ones",
}


def draft_keys(keys: Sequence[str]) -> dict[str, int]:
    return {"num_attention_heads": HEADS} if HEADS_KEY in keys else {}


def check_parsed(folder: Path, keys: Sequence[str]) -> None:
    """What is asked before any job. Raises UserError as that does."""
    config, weights = load_config(folder), TargetWeights(folder)
    logit_rules(config)
    derive_config(config, draft_keys(keys), 8, LAYERS_READ)
    weights.check(TARGET_KEYS["embedding_key"], "embedding_key")
    if not is_tied(weights, config, TARGET_KEYS["lm_head_key"]):
        check_head(weights, weights.check(TARGET_KEYS["lm_head_key"], "lm_head_key"))
    if NORM_KEY not in keys:
        check_norm(weights, TARGET_KEYS["final_norm_key"])


def capture_differs(model: Any, engine: HFTarget, head: Head) -> float:
    """The largest difference between a state or a logit and the whole model's own."""
    texts, worst, start = random_texts(23, 9, 14), 0.0, 0
    captured = engine.flat_states(texts)
    for text in texts:
        aux, logits = plain_pass(model, text)
        own_aux, last = (part[start : start + len(text)] for part in captured)
        worst = max(worst, distance(own_aux, aux), distance(head.logits(last), logits))
        start += len(text)
    return max(worst, self_check_differs(engine, head, texts[0], captured))


def self_check_differs(
    engine: HFTarget, head: Head, text: torch.Tensor, captured: tuple[torch.Tensor, torch.Tensor]
) -> float:
    """How far what the self-check of a shard sees of the first text is from its capture."""
    aux, last = (part[: len(text)] for part in captured)
    again = plain_states(engine, text, LAYERS_READ)
    own = engine.own_choices(text, CHOSEN, head)
    assert own is None or torch.equal(own, head.logits(last[-CHOSEN:]).argmax(-1))
    return max(distance(again[0], aux), distance(again[1], last))


@torch.inference_mode()
def plain_pass(model: Any, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of the layers that are read [L, 3H], and logits [L, V], of the whole model."""
    seen: list[torch.Tensor] = []
    hooks = [
        own_layers(model)[n].register_forward_hook(lambda _m, _i, out: seen.append(out))
        for n in LAYERS_READ
    ]
    logits = model(input_ids=text[None], use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    states = [out if isinstance(out, torch.Tensor) else out[0] for out in seen]
    # several residual streams, in whatever shape: engines give drafts their mean
    states = [state.flatten(2).unflatten(2, (-1, HIDDEN)).mean(2) for state in states]
    assert all(float(figures.std()) > 0.01 for figures in (*states, logits))
    return torch.cat([state[0] for state in states], dim=-1), logits


def own_layers(model: Any) -> Any:
    """The list of the model's layers, by the names that classes have for it."""
    lists = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList)
        and name.split(".")[-1] in ("layers", "layer", "h", "blocks")
        and len(module) == LAYERS
    ]
    return lists[0]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, as a share of the largest figure."""
    assert torch.isfinite(a).all() and torch.isfinite(b).all()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


def train(folder: Path, target: Path, keys: Sequence[str]) -> tuple[Any, Any, Any]:
    settings = changed(STEPS, norm_init="ones" if NORM_KEY in keys else "target")
    made = training_set(
        folder, target, settings, documents=8, draft_vocab=48, switches=draft_keys(keys)
    )
    draft, parts = train_draft(made, folder)
    return made, draft, parts


def work(kind: str, folder: Path) -> Outcome:
    """All of it. Raises AssertionError where a comparison fails, UserError where it is refused."""
    target = folder / "target"
    model = save_tiny(kind, target)
    keys = keys_needed(target)
    engine, head = open_target(target)
    differs = capture_differs(model, engine, head)
    assert differs < MOST_DIFFERENT, f"capture differs by {differs:.2g}"
    made, draft, parts = train(folder, target, keys)
    steps = sum(stage["steps"] for stage in made.schedule["stages"])
    write("sglang", folder / "draft", draft.state_dict(), made.mapping, draft.config, "float32")
    loaded, mapping = load_draft(folder / "draft")
    pair = Models(engine, head, loaded, parts.embedding, torch.from_numpy(mapping.target_ids))
    prompts = [text.tolist() for text in random_texts(7, 4)]
    limits = Limits(NEW, set(), CHAIN)
    answers = decode_batch(pair, prompts, limits)
    plain = decode_batch(pair, prompts, replace(limits, num_speculative_tokens=0))
    for prompt, answer, alone in zip(prompts, answers, plain, strict=True):
        same = compare(answer, alone)
        assert same.identical or same.tie_at is not None, (answer.tokens, alone.tokens)
        until = NEW if same.tie_at is None else same.tie_at
        assert own_text(model, prompt)[:until] == alone.tokens[:until]
    return Outcome(differs, steps, isinstance(target_batch(engine), TargetBatch), keys)


@torch.inference_mode()
def own_text(model: Any, prompt: list[int]) -> list[int]:
    """The model's own greedy answer, the whole text anew for every token."""
    ids = list(prompt)
    for _ in range(NEW):
        out = model(input_ids=torch.tensor([ids]), use_cache=False)
        ids.append(int(out.logits[0, -1].argmax()))
    return ids[len(prompt) :]
