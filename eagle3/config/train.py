"""Sections `train` and `resources.train`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eagle3.config.section import Section


class Train(Section):
    """Training of the draft. Everything here changes the result."""

    epochs: int = Field(default=10, ge=1, description="Passes over the samples.")
    epochs_per_stage: int = Field(
        default=1,
        ge=1,
        description="Epochs per stage over its shards; a stage is one job and one checkpoint.",
    )
    ttt_steps: int = Field(
        default=7, ge=1, le=16, description="Training-time-test steps (K); 7 in the paper."
    )
    step_decay: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="The weight of step k is step_decay^k, normalised to a sum of one.",
    )
    loss: Literal["soft_ce", "kl", "reverse_kl", "tv", "lk_alpha", "lk_hybrid"] = Field(
        default="soft_ce",
        description="Loss between draft and teacher (docs/objective.md): soft cross-entropy as in "
        "the paper, its relatives, total variation, or the LK losses, which raise the acceptance "
        "rate directly.",
    )
    lk_eta: float = Field(
        default=3.0,
        ge=0,
        description="With lk_hybrid: how fast KL loses weight as acceptance rises.",
    )
    learning_rate: float = Field(
        default=1.0e-4, gt=0, le=1, description="Peak rate per global batch."
    )
    lr_schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        default="wsd", description="What follows the linear warm-up."
    )
    warmup_ratio: float = Field(default=0.015, ge=0, le=1, description="Share of all steps.")
    lr_decay_ratio: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="With wsd: share of all steps over which the rate falls at the end.",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="muon makes the update of every matrix but the head orthogonal, at the size of "
        "AdamW's. It needs whole matrices, hence resources.train.data_parallel `ddp`.",
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="Decoupled weight decay; norms are exempt."
    )
    max_grad_norm: float = Field(
        default=0.5, gt=0, description="Clip threshold of the global gradient norm."
    )
    pack_tokens: int = Field(
        default=4096,
        ge=16,
        description="Documents are packed up to this many tokens for one forward pass.",
    )
    packs_per_batch: int = Field(
        default=8,
        ge=1,
        description="Packs per optimiser step, over all ranks; more ranks never change a batch.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="bfloat16",
        description="Compute precision; master weights and optimiser state are always float32.",
    )
    attention_backend: Literal["auto", "chunked", "flash", "flex", "reference", "usp"] = Field(
        default="auto",
        description="Attention kernel; `auto` takes the fastest of the device. `usp` does the "
        "same, and ranks that share a pack exchange heads (Ulysses) and pass on keys (ring) "
        "instead of gathering keys.",
    )
    active_rows: Literal["reachable", "supervised"] = Field(
        default="reachable",
        description="Rows that are trained at later steps: those that serving can reach, or all in "
        "supervised runs, whether or not a token on the way is outside the draft vocabulary "
        "(docs/objective.md).",
    )
    head_init: Literal["target", "random", "frozen"] = Field(
        default="target",
        description="First rows of lm_head: the target's own, random ones, or the target's for "
        "good (no optimiser state, no gradient; exported like the others).",
    )
    norm_init: Literal["target", "ones", "frozen"] = Field(
        default="target",
        description="First gain of the norm before the head; `frozen` is the target's for good.",
    )
    feature_noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Uniform noise on the target's states in training, from minus to plus this "
        "share of the root mean square of each row and layer.",
    )
    warm_start: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of a draft to start from, in the form that SGLang or vLLM load "
        "(config.json, *.safetensors). Head rows are matched by token; what is frozen stays the "
        "target's.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of first weights, order and noise.")
    early_stop_patience: int | None = Field(
        default=None,
        ge=1,
        description="Training stops after this many stages without a better held-out acceptance; "
        "null trains all stages. It needs hidden_states.keep, since in rolling mode the windows "
        "would be captured all the same.",
    )


class TrainJobs(Section):
    """The training jobs."""

    threads: int = Field(
        default=2, ge=1, description="CPU threads of a training job, over all ranks."
    )
    processes: int = Field(default=1, ge=1, description="Ranks; one GPU each on cuda.")
    save_interval: int = Field(
        default=100,
        ge=1,
        description="Steps between saves inside a stage; a killed job goes on from the last one.",
    )
    tracker: Literal["none", "tensorboard", "wandb"] = Field(
        default="none",
        description="What shows the curves of a running training besides its metrics file, if "
        "installed; its files are in `results/<run>/tracking`. A key for wandb comes from the "
        "environment (WANDB_API_KEY).",
    )
    recompute: bool = Field(
        default=False,
        description="Keep only the input of each TTT step and compute it again in the backward "
        "pass.",
    )
    data_parallel: Literal["ddp", "fsdp2"] = Field(
        default="ddp",
        description="ddp keeps weights, gradients and optimiser state whole on every rank; fsdp2 "
        "keeps a part on each.",
    )
    sp_ulysses_size: int = Field(
        default=1,
        ge=1,
        description="Ranks that share a pack, for long documents. With attention_backend `usp` "
        "they also share the heads of attention, so it must divide them.",
    )
    sp_ring_size: int = Field(
        default=1,
        ge=1,
        description="Ranks that share a pack in addition to those of sp_ulysses_size, any number.",
    )
