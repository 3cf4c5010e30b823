"""Sections `train` and `resources.train`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eagle3.config.section import Section


class Train(Section):
    """Training of the draft. Every key here changes the result."""

    epochs: int = Field(default=10, ge=1, description="Passes over the samples.")
    epochs_per_stage: int = Field(
        default=1,
        ge=1,
        description="Passes of a stage over its shards; a stage is one job and one checkpoint.",
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        description="Training ends after this many optimiser steps, if the epochs have more, and "
        "the schedule of the rate ends there; null takes all steps of the epochs.",
    )
    ttt_steps: int = Field(
        default=4,
        ge=1,
        le=16,
        description="Steps of the training-time test (K); 7 in the paper. Fewer are cheaper and "
        "were better after equal time (docs/measurements/recipes.md).",
    )
    step_decay: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="The weight of step k is step_decay^k, normalised to a sum of 1.",
    )
    loss: Literal["soft_ce", "kl", "reverse_kl", "tv", "lk_alpha", "lk_hybrid"] = Field(
        default="soft_ce",
        description="Loss between draft and teacher (docs/objective.md): soft cross-entropy as in "
        "the paper, KL divergence in either direction, total variation, or the LK losses, which "
        "optimise the acceptance rate directly.",
    )
    lk_eta: float = Field(
        default=3.0,
        ge=0,
        description="With lk_hybrid: how fast the weight of KL falls as acceptance rises.",
    )
    learning_rate: float = Field(
        default=1.0e-4, gt=0, le=1, description="Peak learning rate, for a global batch."
    )
    lr_schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        default="wsd",
        description="Schedule after the linear warm-up; `wsd` is constant, then falls.",
    )
    warmup_ratio: float = Field(
        default=0.015, ge=0, le=1, description="Share of all steps for the warm-up."
    )
    lr_decay_ratio: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="With wsd: share of all steps at the end, over which the rate falls.",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="muon",
        description="`muon` makes the update of every matrix except the head orthogonal, scaled "
        "like AdamW's, and leaves head and norms to AdamW. It needs whole matrices, so "
        "resources.train.data_parallel must be `ddp`; `adamw` updates everything.",
    )
    muon_learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="With muon: peak rate of the matrices that it updates; null is ten times "
        "learning_rate, which head and norms have.",
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="Decoupled weight decay; norms are exempt."
    )
    max_grad_norm: float = Field(
        default=0.5, gt=0, description="Threshold for clipping the global gradient norm."
    )
    pack_tokens: int = Field(
        default=4096,
        ge=16,
        description="Maximum tokens of a pack: the documents of one forward pass.",
    )
    packs_per_batch: int = Field(
        default=8,
        ge=1,
        description="Packs per optimiser step, over all ranks; the number of ranks never changes a "
        "batch.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="bfloat16",
        description="Compute precision; master weights and optimiser state are always float32.",
    )
    attention_backend: Literal["auto", "chunked", "flash", "flex", "reference", "usp"] = Field(
        default="auto",
        description="Attention kernel; `auto` takes the fastest one on the device. So does `usp`, "
        "with which ranks that share a pack exchange heads (Ulysses) and pass keys on (ring) "
        "instead of gathering keys.",
    )
    deterministic: bool = Field(
        default=False,
        description="On CUDA, take kernels that give the same bits on the same machine and "
        "versions every time, which are slower (docs/reliability.md). A CPU gives the same bits "
        "either way.",
    )
    active_rows: Literal["reachable", "supervised"] = Field(
        default="reachable",
        description="Rows to train at later steps: those that serving can reach, or all rows of "
        "supervised spans, even after a token outside the draft vocabulary (docs/objective.md).",
    )
    head_init: Literal["target", "random", "frozen"] = Field(
        default="target",
        description="Initial rows of lm_head: `target`, the target's own; `random`; or `frozen`, "
        "the target's, which are never trained (no optimiser state, no gradient) but exported.",
    )
    norm_init: Literal["target", "ones", "frozen"] = Field(
        default="target",
        description="Initial gain of the norm before the head; `frozen` keeps the target's.",
    )
    feature_noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Uniform noise added to the target's states in training: up to this share of "
        "the root mean square of each row and layer, with either sign.",
    )
    warm_start: str | None = Field(
        default=None,
        min_length=1,
        description="A draft to start from: a folder, a file of weights with config.json beside "
        "it, or `hub:<owner>/<name>`, in a format that SGLang, vLLM or EAGLE loads (*.safetensors, "
        "pytorch_model.bin). Rows of the head are matched by token; frozen parts remain the "
        "target's.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of initial weights, order and noise.")
    early_stop_patience: int | None = Field(
        default=None,
        ge=1,
        description="Training stops after this many stages without a better held-out acceptance; "
        "null trains all stages. It requires hidden_states.keep: rolling mode would capture the "
        "remaining windows anyway.",
    )
    score_every_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps between scores inside a stage: loss and acceptance on the held-out "
        "shards, written to the metrics and shown in the report. The weights are the same without. "
        "Null scores the checkpoint of each stage only.",
    )


class TrainResources(Section):
    """The training jobs."""

    threads: int = Field(
        default=2, ge=1, description="CPU threads of a training job, over all ranks."
    )
    processes: int = Field(default=1, ge=1, description="Ranks; with device `cuda`, one GPU each.")
    save_interval: int = Field(
        default=100,
        ge=1,
        description="Steps between saves within a stage; a killed job continues from the last.",
    )
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = Field(
        default="none",
        description="Tracker of curves during training, in addition to the metrics file. Its "
        "files are in `results/<run>/tracking`. wandb reads its key from WANDB_API_KEY, mlflow its "
        "server from MLFLOW_TRACKING_URI.",
    )
    profile_steps: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Steps of each stage that torch.profiler traces; the traces are next to the "
        "log of the stage, one for each rank (docs/performance.md).",
    )
    profile_after: int = Field(
        default=5, ge=1, description="Steps of a training job before the traced ones."
    )
    recompute: bool = Field(
        default=False,
        description="Keep only the input of each TTT step, and compute the step again in the "
        "backward pass. This saves memory and costs time.",
    )
    data_parallel: Literal["ddp", "fsdp2"] = Field(
        default="ddp",
        description="`ddp` keeps all weights, gradients and optimiser state on every rank; `fsdp2` "
        "shards them over the ranks.",
    )
    sp_ulysses_size: int = Field(
        default=1,
        ge=1,
        description="Ranks that share a pack, for long documents. With attention_backend `usp` "
        "they also share the attention heads, whose number it must then divide.",
    )
    sp_ring_size: int = Field(
        default=1,
        ge=1,
        description="Multiplies the ranks that share a pack (sp_ulysses_size x sp_ring_size); any "
        "number.",
    )
