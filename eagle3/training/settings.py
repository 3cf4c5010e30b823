"""The configuration's `train` section."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eagle3.objective.ttt import Objective
from eagle3.training.optimizer import RateSettings


@dataclass(frozen=True)
class TrainSettings:
    """Everything that changes the result of training."""

    epochs: int
    epochs_per_stage: int
    ttt_steps: int
    step_decay: float
    loss: str
    lk_eta: float
    learning_rate: float
    lr_schedule: str
    warmup_ratio: float
    lr_decay_ratio: float
    weight_decay: float
    max_grad_norm: float
    pack_tokens: int
    packs_per_batch: int
    precision: str
    attention_backend: str
    seed: int
    optimizer: str
    active_rows: str
    head_init: str
    norm_init: str
    feature_noise: float
    early_stop_patience: int | None = None  # stages without a better held-out acceptance

    def objective(self, recompute: bool) -> Objective:
        """What a forward pass computes; `recompute` changes how much of it is kept."""
        return Objective(
            steps=self.ttt_steps,
            decay=self.step_decay,
            loss=self.loss,
            lk_eta=self.lk_eta,
            dtype=getattr(torch, self.precision),
            attention=self.attention_backend,
            active_rows=self.active_rows,
            recompute=recompute,
        )

    def rate_settings(self) -> RateSettings:
        return RateSettings(
            self.learning_rate, self.lr_schedule, self.warmup_ratio, self.lr_decay_ratio
        )


@dataclass(frozen=True)
class TrainOptions:
    """What changes speed and memory only: the result is the same but for the order of sums."""

    recompute: bool = False  # keep less, compute more
    data_parallel: str = "ddp"  # or fsdp2
