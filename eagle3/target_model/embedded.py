"""Trains the tiny target model of the demo and saves it as an ordinary Hugging Face directory.

A pretrained target would need a download; this one is trained in a minute or two on two CPU cores
from the bundled conversations, and the pipeline then treats it like any other model directory.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from eagle3.config.target import EmbeddedTarget
from eagle3.progress import Progress
from eagle3.target_model.embedded_tokenizer import END_ID, PAD_ID

PARTS = 2  # of a batch, one per thread
BLOCK_TOKENS = 256  # about one conversation; longer blocks cost more attention than they teach
WARMUP, FLOOR = 0.06, 0.02  # shares of the steps and of the peak learning rate
WEIGHT_DECAY = 0.05


def block_tokens(settings: EmbeddedTarget) -> int:
    """Length of one training sequence."""
    return min(BLOCK_TOKENS, settings.batch_tokens, settings.max_position_embeddings)


@torch.no_grad()
def _initialise(name: str, weight: Tensor) -> None:
    """Weights for a narrow model and a high learning rate, in place of Llama's 0.02 everywhere."""
    if "embed_tokens" in name:
        weight.normal_(std=2.0)  # at 0.02 the layers' outputs would drown the token itself
    elif name.endswith(("o_proj.weight", "down_proj.weight")):
        weight.normal_(std=0.25 * weight.shape[1] ** -0.5)  # 16 such terms add up to unit size
    elif weight.ndim == 2 and "lm_head" not in name:
        weight.normal_(std=weight.shape[1] ** -0.5)


def build_model(settings: EmbeddedTarget, vocab_size: int) -> LlamaForCausalLM:
    """A freshly initialised Llama with float32 weights, seeded by `settings.seed`.

    `vocab_size` is the real size of the tokenizer, which may be below `settings.vocab_size`. The
    output head has separate weights, [vocab_size, hidden_size]. `settings.dtype` is noted in the
    configuration for `save`.
    """
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_kv_heads,
        head_dim=settings.hidden_size // settings.num_heads,
        max_position_embeddings=settings.max_position_embeddings,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    torch.manual_seed(settings.seed)
    model = LlamaForCausalLM(config).float()
    for name, weight in model.named_parameters():
        _initialise(name, weight)
    model.config.dtype = getattr(torch, settings.dtype)
    return model


def _batches(documents: Sequence[Sequence[int]], settings: EmbeddedTarget) -> Iterator[Tensor]:
    """Token ids of all epochs, [up to batch_tokens // block_tokens, block_tokens] at a time.

    Each epoch joins the documents in a new order and drops what does not fill the last block.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    length = block_tokens(settings)
    for _ in range(settings.epochs):
        order = torch.randperm(len(documents), generator=generator).tolist()
        joined = torch.tensor([token for index in order for token in documents[index]])
        count = len(joined) // length
        blocks = joined[: count * length].view(count, length)
        yield from blocks.split(settings.batch_tokens // length)


def _learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warmup, then a cosine down to a small share of the peak."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2)


def _gradients(
    model: LlamaForCausalLM, weights: Sequence[Tensor], batch: Tensor
) -> tuple[float, Sequence[Tensor]]:
    """Mean next-token loss over `batch`, [sequences, tokens], and its gradient for each weight."""
    logits = model(input_ids=batch, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1)
    )
    return loss.item(), torch.autograd.grad(loss, weights)


def train(
    model: LlamaForCausalLM,
    documents: Sequence[Sequence[int]],
    settings: EmbeddedTarget,
    log: logging.Logger,
) -> float:
    """Language-model training on every token of `documents`, in place, in float32.

    `documents` are the token ids of one rendered conversation each. The same seed gives the same
    weights. Returns the mean loss in nats per token over the last tenth of the steps.

    Raises:
        ValueError: the documents together do not fill a single block.
    """
    tokens = sum(map(len, documents))
    if tokens < block_tokens(settings):
        raise ValueError(f"{tokens} tokens do not fill a block of {block_tokens(settings)}")
    batches = list(_batches(documents, settings))
    steps = len(batches)
    log.info("%d tokens, %d epochs, %d steps", tokens, settings.epochs, steps)
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.ndim == 2], "weight_decay": WEIGHT_DECAY},
            {"params": [w for w in weights if w.ndim != 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    model.train()
    losses: list[float] = []
    progress = Progress(steps, "steps", log)
    start = time.monotonic()
    # Matrices this small gain little from threads inside an operation, so each thread takes a part
    # of the batch instead. The number of parts is fixed and they are added in a fixed order, so the
    # weights do not depend on how many threads there are.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for step, batch in enumerate(batches):
                rate = _learning_rate(step, steps, settings.learning_rate)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                parts = batch.chunk(PARTS)
                results = list(pool.map(lambda part: _gradients(model, weights, part), parts))
                shares = [len(part) / len(batch) for part in parts]
                for weight, *grads in zip(weights, *(g for _, g in results), strict=True):
                    weight.grad = sum(
                        (share * grad for share, grad in zip(shares, grads, strict=True)),
                        start=torch.zeros_like(weight),
                    )
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                losses.append(sum(s * loss for s, (loss, _) in zip(shares, results, strict=True)))
                progress.advance(1, partial(_progress_line, losses, steps, start))
    finally:
        progress.close()
        torch.set_num_threads(threads)
        model.eval()
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def _progress_line(losses: Sequence[float], steps: int, start: float) -> str:
    """The progress of training as text."""
    seconds_left = (time.monotonic() - start) / len(losses) * (steps - len(losses))
    return f"step {len(losses)}/{steps} loss {losses[-1]:.3f}, done in {seconds_left:.0f} s"


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Writes model and tokenizer as a Hugging Face directory; casts the model to its saved dtype.

    The directory holds config.json, generation_config.json, model.safetensors, tokenizer.json,
    tokenizer_config.json and chat_template.jinja.
    """
    dtype = str(model.config.dtype).removeprefix("torch.")
    torch.nn.Module.to(model, dtype=getattr(torch, dtype))
    model.generation_config = GenerationConfig(
        eos_token_id=END_ID, pad_token_id=PAD_ID, do_sample=False
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
