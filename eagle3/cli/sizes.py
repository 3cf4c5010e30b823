"""Values that fit a model, a dataset and the GPUs: lines of the configuration with their reasons.

The starting points are the presets (65,536 conversations, 4 epochs, batches of 8 packs of 4,096
tokens at 1e-4) and published trainings (`eagle3.report.plan_warnings`). The learning rate grows
with the square root of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from eagle3.cli.devices import Devices, multiplies_bfloat16
from eagle3.cli.material import Data, Model
from eagle3.cli.overlay import Line
from eagle3.errors import UserError
from eagle3.report.loading import load_seconds
from eagle3.report.plan_warnings import FEW_STEPS, REAL_HIDDEN
from eagle3.target_model import split
from eagle3.target_model.config import dense_width
from eagle3.target_model.cost import target_flops_per_token

MOST_SAMPLES, UNKNOWN_SAMPLES = 65_536, 20_000
USABLE = 0.95  # share of the rows; with fewer, dataset.max_bad_fraction stops a run
PACK, PACKS, RATE = 4096, 8, 1.0e-4  # the presets' batch, and its rate
SHARDS = "conversations per capture job, each of which loads the target"
LEAST_SHARD, UNKNOWN_SHARD = 256, 4096  # conversations
# length of a capture: at most LOADS loading times and SHARD_SECONDS, at least FEWEST_LOADS of them
LOADS, SHARD_SECONDS, FEWEST_LOADS = 10, 600.0, 4
CORE_TFLOPS = 0.05  # of a CPU core, which a capture job has: a guess, as the plan measures it
ROOM = 0.85  # share of a GPU's memory for weights
TYPICAL_TOKENS = 1000  # of a conversation
WIDE = 8192  # from this hidden size on, half the rate and double batches, as published
SMALL_VOCAB = 32_000
EXPERTS_ONLY = 6  # width of a draft's MLP, in hidden sizes of a target that has only experts


@dataclass(frozen=True)
class Sizes:
    """Model, dataset and devices that the values are computed for."""

    model: Model
    data: Data
    devices: Devices

    def lines(self) -> Iterator[Line]:
        """Every key that should differ from its default."""
        samples, fraction = samples_of(self.data.rows)
        length = self.max_length
        documents = shard_size(samples, self.documents, self.captures_at_once)
        yield from self._dataset(samples, fraction, documents)
        yield Line("target.model", self.model.place)
        if length != 2048:
            yield Line("tokens.max_length", length, "the target's context")
        if self.model.text is not None and self.model.text.vocab_size < SMALL_VOCAB:
            yield Line("vocab.draft_vocab_size", self.model.text.vocab_size, "the whole vocabulary")
        if self.codec != "bf16":
            remark = "half of bf16's bytes; bf16_zstd is lossless (docs/storage.md)"
            yield Line("hidden_states.codec", self.codec, remark)
        if self.model.text is not None and dense_width(self.model.text) is None:
            why = "the target has only experts; six times its hidden size, as for gpt-oss"
            yield Line("draft.intermediate_size", EXPERTS_ONLY * self.model.text.hidden_size, why)
        yield from self._train(samples, length)
        yield Line("export.formats", ["sglang"], "or vllm, speculators, hf; several at once")
        yield from self._evaluation(samples, fraction)
        yield from self._resources()

    @property
    def on_gpu(self) -> bool:
        return self.devices.count > 0

    @property
    def hidden(self) -> int | None:
        return None if self.model.text is None else int(self.model.text.hidden_size)

    @property
    def codec(self) -> str:
        return "fp8_e4m3" if self.on_gpu else "bf16"

    @property
    def context(self) -> int | None:
        length = getattr(self.model.text, "max_position_embeddings", None)
        return length if isinstance(length, int) else None

    @property
    def max_length(self) -> int:
        return min(2048, self.context or 2048)

    def _dataset(self, samples: int, fraction: float, documents: int) -> Iterator[Line]:
        rows = self.data.rows
        yield Line("dataset.source", self.data.place)
        if rows is None:
            why = "a guess: the number of rows is unknown; lower it if there are fewer"
        else:
            why = f"of {rows} rows, without held-out and unusable ones"
            why = why if samples < MOST_SAMPLES else f"of {rows} rows; more only add shards"
        yield Line("dataset.num_samples", samples, why)
        yield Line("dataset.shard_size", documents, SHARDS)
        if fraction != 0.05:
            yield Line("dataset.eval_fraction", fraction, "held out, to measure the draft")
        if self.data.tokens_per_row is None:
            why = "public datasets have unusable rows"
            yield Line("dataset.max_bad_fraction", 0.15, why)

    def _train(self, samples: int, length: int) -> Iterator[Line]:
        epochs = 2 if samples >= 100_000 else 4 if samples >= 20_000 else 10
        ranks = min(self.devices.count, 8) or 1
        pack = max(PACK, length) if self.on_gpu else length
        tokens = samples * min(self.data.tokens_per_row or TYPICAL_TOKENS, length)
        packs = max(PACKS * (2 if (self.hidden or 0) >= WIDE else 1), ranks)
        while packs > ranks and epochs * tokens / (pack * packs) < 2 * FEW_STEPS:
            packs = max(packs // 2, ranks)
        yield Line("train.epochs", epochs)
        if epochs == 10:
            yield Line("train.epochs_per_stage", 2, "a stage is a job and a checkpoint")
        rate = learning_rate(pack * packs, self.hidden)
        why = (
            f"of head and norms, for batches of {pack * packs} tokens; it grows with their square "
            "root. Muon's matrices have ten times that"
        )
        yield Line("train.learning_rate", rate, why)
        if pack != PACK:
            yield Line("train.pack_tokens", pack)
        if packs != PACKS:
            yield Line("train.packs_per_batch", packs, "small enough for a few hundred steps")
        if not self.on_gpu and not multiplies_bfloat16():
            yield Line("train.precision", "float32", "faster than bfloat16 on this CPU")

    def _evaluation(self, samples: int, fraction: float) -> Iterator[Line]:
        rows = self.data.rows
        if rows is not None and (held_out := _least(rows, fraction)) < 128:
            yield Line("evaluation.held_out_samples", held_out, "to score every stage")
            if held_out < 64:
                yield Line("evaluation.num_prompts", held_out, "prompts to decode; held out too")
        max_new_tokens = min(256, (self.context or 2**20) // 4)
        if max_new_tokens != 128:
            yield Line("evaluation.max_new_tokens", max_new_tokens)
        weights = self.model.weight_bytes
        ranks, memory = self.tensor_parallel[0], self.devices.memory
        if self.on_gpu and weights and memory and 2 * weights > ROOM * memory * ranks:
            yield Line("evaluation.dtype", "bfloat16", "in float32 the target would not fit")

    @property
    def tensor_parallel(self) -> tuple[int, str]:
        """Ranks that share the target, and the reason."""
        if not self.on_gpu or self.model.text is None:
            return 1, "config.json was not found: raise it if the target does not fit on one GPU"
        legal = [n for n in range(1, self.devices.count + 1) if self._splits(n)]
        weights, memory = self.model.weight_bytes, self.devices.memory
        if weights is None or memory is None:
            return 1, "raise it if the target does not fit on one GPU"
        enough = [n for n in legal if weights <= ROOM * memory * n]
        if enough:
            return enough[0], f"the weights take {weights / 1e9:.1f} GB"
        return legal[-1], f"TOO FEW: the weights take {weights / 1e9:.1f} GB"

    def _splits(self, ranks: int) -> bool:
        try:
            split.check_transformers(self.model.text, ranks)
        except UserError:
            return False
        return True

    @property
    def captures_at_once(self) -> int:
        """Capture jobs that run side by side."""
        return max(self.devices.count // self.tensor_parallel[0], 1)

    @property
    def conversations_per_second(self) -> float | None:
        """Speed of a capture job; None if the target or the GPUs are unknown."""
        tflops = self.devices.tflops if self.on_gpu else CORE_TFLOPS
        if self.model.text is None or tflops is None:
            return None
        length = min(self.data.tokens_per_row or TYPICAL_TOKENS, self.max_length)
        flops = length * target_flops_per_token(self.model.text)
        return tflops * 1e12 * self.tensor_parallel[0] / flops

    @property
    def documents(self) -> float:
        """Conversations per shard: enough to make loading the target a small part of a capture,
        few enough to make the loss of one cheap."""
        speed, weights = self.conversations_per_second, self.model.weight_bytes
        if speed is None or weights is None:
            return UNKNOWN_SHARD
        load = load_seconds(weights, self.on_gpu)
        return speed * min(LOADS * load, max(SHARD_SECONDS, FEWEST_LOADS * load))

    def _resources(self) -> Iterator[Line]:
        cores = self.devices.cores
        if not self.on_gpu:
            yield Line("resources.device", "cpu", "no GPU was found; --gpus N plans for others")
            yield Line("resources.train.threads", cores, "cores of this machine")
            return
        count, (ranks, why) = self.devices.count, self.tensor_parallel
        if self.devices.tflops and self.devices.here:
            remark = f"40 % of the peak of {self.devices.name}"
            yield Line("hardware.tflops", self.devices.tflops, remark)
        elif self.devices.name:
            yield Line("hardware.gpu", self.devices.name, "the plan takes 40 % of its peak")
        if count > 1:
            yield Line("hardware.devices", count)
        if self.devices.memory:
            remark = "of one GPU" + ", as assumed: --gpu NAME" * self.devices.assumed
            yield Line("hardware.memory_gb", round(self.devices.memory / 1e9), remark)
        yield Line("resources.device", "cuda")
        share = max(cores // count, 1)  # of each GPU
        yield Line("resources.capture.threads", min(4 * ranks, share * ranks))
        if ranks > 1 or not why.startswith("the weights"):
            yield Line("resources.capture.tensor_parallel", ranks, why)
        trained = min(count, 8)
        yield Line("resources.train.threads", min(8 * trained, share * trained))
        if trained > 1:
            yield Line("resources.train.processes", trained, "ranks, one GPU each")
        yield Line("resources.evaluate.threads", min(4, cores))


def samples_of(rows: int | None) -> tuple[int, float]:
    """Number of training conversations and share to hold out, for a source of `rows` rows.

    Raises UserError if the source is too small.
    """
    if rows is None:
        return UNKNOWN_SAMPLES, 0.05
    samples, fraction = usable_samples(rows)
    return min(samples, MOST_SAMPLES), fraction


def usable_samples(rows: int) -> tuple[int, float]:
    """As many training conversations as `rows` rows should have, and the share to hold out.

    Rows are held out by a hash, so their number is random: a margin of three standard deviations
    is left. Raises UserError if the source is too small.
    """
    fraction = 0.05 if rows >= 2000 else 0.1 if rows >= 400 else 0.25
    samples = math.floor(USABLE * _least(rows, 1 - fraction))
    if samples < 1 or _least(rows, fraction) < 1:
        raise UserError(f"the dataset has {rows} rows, too few to train and to measure a draft")
    return samples, fraction


def _least(rows: int, share: float) -> int:
    """The least number of rows that a hash picks, except in one case out of a thousand."""
    return math.floor(rows * share - 3 * math.sqrt(rows * share * (1 - share)))


def shard_size(samples: int, documents: float, at_once: int = 1) -> int:
    """Conversations per shard, a power of two of at most `documents`. There are four shards or
    more, and two for each job that runs `at_once`."""
    largest = max(samples / max(4, 2 * at_once), 1)
    return int(2 ** math.floor(math.log2(min(max(documents, LEAST_SHARD), largest))))


def learning_rate(batch_tokens: int, hidden: int | None) -> float:
    """The peak learning rate for batches of that many tokens, to two digits."""
    rate = RATE * math.sqrt(batch_tokens / (PACK * PACKS))
    if hidden is not None and hidden >= WIDE:
        rate /= 2 * math.sqrt(2)  # the paper's 5e-5 for double batches
    elif hidden is not None and hidden < REAL_HIDDEN:
        rate *= (REAL_HIDDEN / hidden) ** 2  # docs/measurements/recipes.md
    return float(f"{min(rate, 1.0e-3):.1e}")  # Muon's matrices have ten times that
