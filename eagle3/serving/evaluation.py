"""Evaluation by real decoding: held-out prompts, with the exported draft and without."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eagle3.data.conversations import BadRow, Conversation
from eagle3.data.templates import Renderer
from eagle3.draft.config import DraftConfig
from eagle3.errors import UserError
from eagle3.serving.acceptance import acceptance, compare, unigram_acceptance
from eagle3.serving.chain import DraftChain, decode_plain, decode_speculative
from eagle3.serving.sglang import load_sglang
from eagle3.target.files import load_config, load_tokenizer, stop_ids
from eagle3.target.hf import HFTarget
from eagle3.target.reader import TargetWeights, read_head

log = logging.getLogger(__name__)
KIND = "evaluation"


def check_pair(folder: Path, draft: DraftConfig, target: Any) -> None:
    """Raise UserError if a draft cannot be this target's (a transformers text configuration)."""
    pairs = {
        "hidden_size": (draft.hidden_size, target.hidden_size),
        "vocab_size": (draft.vocab_size, target.vocab_size),
    }
    for name, (own, asked) in pairs.items():
        if own != asked:
            raise UserError(
                f"{folder}: the draft's {name} is {own}, the target's {asked}: it was trained for "
                "another target"
            )
    if max(draft.aux_layers) >= target.num_hidden_layers:
        raise UserError(
            f"{folder}: the draft reads layers {list(draft.aux_layers)}, the target has "
            f"{target.num_hidden_layers}: it was trained for another target"
        )


@dataclass(frozen=True)
class Prompt:
    """A held-out conversation up to its last answer."""

    id: str
    tokens: list[int]


class Evaluator:
    """Target and exported draft, ready to answer prompts."""

    def __init__(
        self,
        target: Path,
        draft: Path,
        values: dict[str, Any],
        loading: dict[str, Any],
        templates: dict[str, Any],
        device: str,
        draft_digest: str | None = None,
    ) -> None:
        """`values`: the `evaluation` section; `loading` and `templates`: keys of the
        sections `target` and `tokens`."""
        trusted = loading["trust_remote_code"]
        self.values = values
        self.config = load_config(target, trusted)
        self.tokenizer = load_tokenizer(target, trusted)
        self.renderer = Renderer(
            self.tokenizer,
            templates["chat_template"],
            templates["chat_template_options"],
            system_prompt=templates["system_prompt"],
        )
        self.stop = set(stop_ids(target, self.config))
        loaded, mapping = load_sglang(draft, draft_digest)
        check_pair(draft, loaded.config, self.config)
        self.engine = HFTarget.load(
            target, loaded.config.aux_layers, values["dtype"], device, trusted
        )
        where = self.engine.device, self.engine.dtype
        weights = TargetWeights(target)
        keys = loading["lm_head_key"], loading["embedding_key"]
        self.head = read_head(weights, self.config, *keys).to(*where)
        self.embedding = weights.read(loading["embedding_key"], "embedding_key").to(*where)
        self.draft = loaded.to(*where)
        self.target_ids = torch.from_numpy(mapping.target_ids).to(self.engine.device)

    def prompts(self, conversations: Iterable[Conversation]) -> tuple[list[Prompt], dict[str, int]]:
        """The first prompts that leave room for an answer, and how many were passed over.

        Raises UserError if there is none.
        """
        wanted, chain = self.values["num_prompts"], self.values["num_draft_tokens"]
        room = self.config.max_position_embeddings - self.values["max_new_tokens"] - chain - 1
        found: list[Prompt] = []
        skipped: Counter[str] = Counter()
        for conversation in conversations:
            if len(found) == wanted:
                break
            try:
                text = self.renderer.last_prompt(conversation)
            except BadRow as fault:
                skipped[str(fault)] += 1
                continue
            tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(tokens) > room:
                skipped[f"longer than {room} tokens"] += 1
            else:
                found.append(Prompt(conversation.id, tokens))
        if not found:
            raise UserError(
                f"evaluation: no held-out conversation can be a prompt ({dict(skipped)}); raise "
                "dataset.eval_fraction or lower evaluation.max_new_tokens"
            )
        if len(found) < wanted:
            log.warning("only %d of the %d prompts asked for", len(found), wanted)
        return found, dict(skipped)

    def answer(self, prompt: Prompt) -> dict[str, Any]:
        """Decode one prompt both ways; what happened, for the record."""
        limit = self.values["max_new_tokens"]
        plain = decode_plain(self.engine, self.head, prompt.tokens, limit, self.stop)
        speculative = decode_speculative(
            self.engine,
            self.head,
            DraftChain(self.draft, self.embedding, self.target_ids),
            prompt.tokens,
            limit,
            self.stop,
            self.values["num_draft_tokens"],
        )
        same = compare(speculative, plain)
        return {
            "id": prompt.id,
            "prompt_tokens": len(prompt.tokens),
            "new_tokens": len(speculative.tokens),
            "committed": speculative.committed,
            "passes_plain": plain.target_passes,
            "passes_speculative": speculative.target_passes,
            "identical": same.identical,
            "tie_at": same.tie_at,
            "text": self.tokenizer.decode(speculative.tokens),
            "tokens": speculative.tokens,
        }


def evaluate(evaluator: Evaluator, conversations: Iterable[Conversation]) -> dict[str, Any]:
    """Figures over all prompts, and one record for each.

    Raises UserError if speculation changed an answer in float32 away from a near-tie: then the
    decoder or the export is wrong and no figure means anything.
    """
    values = evaluator.values
    prompts, skipped = evaluator.prompts(conversations)
    started, records = time.monotonic(), []
    for number, prompt in enumerate(prompts, start=1):
        records.append(evaluator.answer(prompt))
        log.info(
            "prompt %d/%d: %d tokens in %d target passes",
            number,
            len(prompts),
            records[-1]["new_tokens"],
            records[-1]["passes_speculative"],
        )
    wrong = [r["id"] for r in records if not r["identical"] and r["tie_at"] is None]
    if wrong and values["dtype"] == "float32":
        raise UserError(
            f"evaluation: speculative output differs from the target's own greedy output for "
            f"{len(wrong)} prompts ({', '.join(wrong[:5])}) away from any near-tie; the decoder or "
            "the export is wrong"
        )
    unigram = unigram_acceptance(r.pop("tokens") for r in records)
    figures = acceptance([r["committed"] for r in records], values["num_draft_tokens"])
    if figures["per_position_acceptance"][0] <= unigram:
        log.warning(
            "the draft's first token is accepted in %.1f %% of the passes, no better than always "
            "proposing the most frequent token (%.1f %%): it has learned nothing, or is another "
            "target's; look at the loss and at tokens.chat_template",
            100 * figures["per_position_acceptance"][0],
            100 * unigram,
        )
    plain = sum(r["passes_plain"] for r in records)
    speculative = sum(r["passes_speculative"] for r in records)
    return {
        **figures,
        "unigram_acceptance": unigram,
        "num_draft_tokens": values["num_draft_tokens"],
        "greedy_identical": not wrong,
        "greedy_ties": sum(r["tie_at"] is not None for r in records),
        "prompts": len(records),
        "prompts_skipped": skipped,
        "new_tokens": sum(r["new_tokens"] for r in records),
        "target_passes_plain": plain,
        "target_passes_speculative": speculative,
        "target_passes_saved": 1 - speculative / plain,
        "seconds": round(time.monotonic() - started, 1),
        "per_prompt": records,
    }
