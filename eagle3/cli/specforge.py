"""Every flag of SpecForge's three commands, and the key that replaces it.

Flags are those of the last release with `train_eagle3.py` (July 2026); `prepare_hidden_states.py`
has a few more since, marked as such. `eagle3.cli.translation` reads the table, and
`docs/specforge_page.py` makes a page of it.
"""

from __future__ import annotations

from dataclasses import dataclass

DATA, CAPTURE, TRAIN, TORCHRUN = (
    "prepare_data.py",
    "prepare_hidden_states.py",
    "train_eagle3.py",
    "torchrun",
)
BOTH = (CAPTURE, TRAIN)


@dataclass(frozen=True)
class Flag:
    """A flag of some of the commands.

    `key`: its counterpart, None if it has none; `remark`: how it is translated, or why not.
    `switch`: it takes no value. `kind`: how `translation` reads its value.
    """

    name: str
    commands: tuple[str, ...]
    key: str | None
    remark: str
    kind: str = "text"
    switch: bool = False


def _none(name: str, commands: tuple[str, ...], why: str, switch: bool = False) -> Flag:
    return Flag(name, commands, None, why, switch=switch)


FOLDERS = "results are in `results/<run>` of the working directory (Snakemake's `--directory`)"
READERS = "chosen automatically; no option is needed for full disk speed"
PROFILE = (
    "each line of `metrics/` has the seconds of every phase of a step; a trace: "
    "resources.train.profile_steps and profile_after"
)
VISION = "text only; the target is the text part of a multimodal model"
TRACKERS = "trackers read their own environment variables; swanlab is none of them"
KNOWN_TRACKERS = "wandb, tensorboard, mlflow"
MLFLOW = "MLFLOW_TRACKING_URI in the environment; experiment eagle3, named by the run"
ENGINE = "an argument of SGLang's engine, in resources.capture.sglang_arguments"
TIMEOUT = "a rank that dies ends the others within a minute"

FLAGS = (
    Flag("--dataset", (DATA,), "dataset.source", "the same names; camel is three datasets", "name"),
    Flag("--data-path", (DATA, CAPTURE), "dataset.source", "your own file, in place "
         "of --dataset; one that prepare_data.py wrote is not needed: the run prepares the data",
         "source"),
    Flag("--sample-size", (DATA,), "dataset.num_samples", "held-out rows are not counted, so all "
         "rows become fewer", "count"),
    _none("--output-path", (DATA, CAPTURE), FOLDERS),
    _none("--split-eval", (DATA,), "dataset.eval_fraction is always held out, by a hash of the id",
          switch=True),
    Flag("--opc-subset", (DATA,), "dataset.subset", "the same names"),
    Flag("--target-model-path", BOTH, "target.model", "given once; a name on the hub is written "
         "with `hub:`", "model"),
    Flag("--trust-remote-code", BOTH, "target.trust_remote_code", "", "yes", switch=True),
    _none("--is-vlm", BOTH, VISION, switch=True),
    _none("--enable-aux-hidden-states", (CAPTURE,), "always on", switch=True),
    Flag("--aux-hidden-states-layers", (CAPTURE,), "hidden_states.aux_layers", "the same numbers: "
         "outputs of layers, counted from 0; the same default", "numbers"),
    Flag("--max-length", BOTH, "tokens.max_length", "given once", "integer"),
    Flag("--chat-template", BOTH, "tokens.chat_template", "the same names, as a check: the text is "
         "what the tokenizer's own template renders, without a default system prompt", "template"),
    _none("--is-preformatted", BOTH, "rows with a `text` in place of `conversations` are "
          "recognised", switch=True),
    Flag("--num-samples", (CAPTURE,), "dataset.num_samples", "rounded up to whole shards of "
         "dataset.shard_size", "count"),
    _none("--build-dataset-num-proc", BOTH, "shards are independent jobs: `--cores`"),
    Flag("--tp-size", (CAPTURE,), "resources.capture.tensor_parallel", "changes no result",
         "integer"),
    Flag("--batch-size", (CAPTURE,), "resources.capture.batch_tokens", "documents x "
         "--max-length: batches are counted in tokens and have no padding", "batch_tokens"),
    _none("--cache-dir", BOTH, FOLDERS),
    _none("--cache-key", (TRAIN,), "content and settings decide what is reused"),
    _none("--model-download-dir", BOTH, "HF_HOME in the environment"),
    _none("--dist-timeout", BOTH, TIMEOUT),
    _none("--num-io-threads", (CAPTURE,), READERS),
    _none("--num-workers", (CAPTURE,), READERS),
    _none("--io-queue-size", (CAPTURE,), READERS),
    _none("--file-group-size", (CAPTURE,), "a shard is one file, of dataset.shard_size documents"),
    Flag("--compress", (CAPTURE,), "hidden_states.codec", "bf16_zstd: lossless, can be read "
         "from any document on; fp8_e4m3 is smaller", "compressed", switch=True),
    _none("--compression-level", (CAPTURE,), "fixed: higher levels cost more than they save"),
    _none("--strategy", (CAPTURE,), "EAGLE-3 is the only strategy; a flag of newer releases"),
    Flag("--draft-model-config", BOTH, "draft.*, vocab.draft_vocab_size", "figures of the JSON "
         "file, if it is on this machine; without one, those of the target", "draft"),
    Flag("--embedding-key", (TRAIN,), "target.embedding_key", "found by its ending, if only one "
         "tensor has it"),
    Flag("--lm-head-key", (TRAIN,), "target.lm_head_key", "as above"),
    Flag("--target-model-backend", (TRAIN,), "hidden_states.backend", "of the capture; `custom` "
         "becomes hf", "backend"),
    _none("--shard-target-output", (TRAIN,), "teachers are computed from stored states",
          switch=True),
    _none("--no-shard-target-output", (TRAIN,), "as above", switch=True),
    Flag("--train-data-path", (TRAIN,), "dataset.source", "like --data-path", "source"),
    Flag("--train-hidden-states-path", (TRAIN,), None, "the run captures states itself; to train "
         "from those of SpecForge, set `hidden_states.source: {kind: specforge, path: …}`",
         "states"),
    _none("--eval-hidden-states-path", (TRAIN,), "states of held-out rows are captured too: "
          "evaluation.held_out_samples"),
    _none("--eval-data-path", (TRAIN,), "held out from the source itself; sets of prompts are "
          "evaluation.prompts"),
    Flag("--train-only-last-turn", (TRAIN,), "tokens.train_only_last_turn", "applies when masks "
         "are made", "yes", switch=True),
    _none("--dataloader-num-workers", (TRAIN,), READERS),
    Flag("--num-epochs", (TRAIN,), "train.epochs", "", "integer"),
    Flag("--batch-size", (TRAIN,), "train.packs_per_batch", "documents of all ranks in a step "
         "(x accumulation), counted as half of --max-length each and packed: a step has "
         "`pack_tokens` x `packs_per_batch` tokens", "packs"),
    Flag("--draft-accumulation-steps", (TRAIN,), "train.packs_per_batch", "multiplies --batch-size",
         "factor"),
    Flag("--learning-rate", (TRAIN,), "train.learning_rate", "", "number"),
    Flag("--warmup-ratio", (TRAIN,), "train.warmup_ratio", "", "number"),
    Flag("--max-grad-norm", (TRAIN,), "train.max_grad_norm", "", "number"),
    Flag("--max-num-steps", (TRAIN,), "train.max_steps", "the schedule of the rate ends there too",
         "integer"),
    _none("--total-steps", (TRAIN,), "derived from epochs and packs, and from train.max_steps"),
    Flag("--ttt-length", (TRAIN,), "train.ttt_steps", "", "integer"),
    _none("--resume", (TRAIN,), "always on: the same command continues from the last save",
          switch=True),
    Flag("--ckpt-dir", (TRAIN,), "train.warm_start", "a folder with config.json and its weights"),
    Flag("--eval-interval", (TRAIN,), "train.score_every_steps", "besides, the checkpoint of every "
         "stage (train.epochs_per_stage) is scored", "integer"),
    Flag("--save-interval", (TRAIN,), "resources.train.save_interval", "saves are for restarts; "
         "the checkpoint of each stage is kept", "integer"),
    _none("--log-interval", (TRAIN,), "every step has a line in `metrics/`"),
    Flag("--seed", (TRAIN,), "train.seed", "order of rows: dataset.seed", "integer"),
    Flag("--lk-loss-type", (TRAIN,), "train.loss", "lambda is lk_hybrid, alpha is lk_alpha",
         "loss"),
    _none("--kl-scale", (TRAIN,), "1, as in the paper"),
    Flag("--kl-decay", (TRAIN,), "train.lk_eta", "", "number"),
    _none("--tp-size", (TRAIN,), "training reads states and runs no target; for the capture: "
          "resources.capture.tensor_parallel"),
    Flag("--sp-ulysses-size", (TRAIN,), "resources.train.sp_ulysses_size", "", "integer"),
    Flag("--sp-ring-size", (TRAIN,), "resources.train.sp_ring_size", "", "integer"),
    _none("--compact-teacher", (TRAIN,), "always on: teachers are cut to the draft's vocabulary",
          switch=True),
    _none("--compact-teacher-chunk-size", (TRAIN,), "chosen by the kernel"),
    Flag("--attention-backend", (TRAIN,), "train.attention_backend", "usp stays usp, "
         "flex_attention becomes flex, sdpa and fa become auto, the fastest on the device",
         "attention"),
    _none("--output-dir", (TRAIN,), FOLDERS),
    _none("--verbose", (TRAIN,), "logs are in `results/<run>/logs`", switch=True),
    _none("--min-pixels", (TRAIN,), VISION),
    _none("--max-pixels", (TRAIN,), VISION),
    _none("--profile", (TRAIN,), PROFILE, switch=True),
    _none("--profile-start-step", (TRAIN,), PROFILE),
    _none("--profile-num-steps", (TRAIN,), PROFILE),
    _none("--profile-record-shapes", (TRAIN,), PROFILE, switch=True),
    Flag("--report-to", (TRAIN,), "resources.train.tracker", KNOWN_TRACKERS, "tracker"),
    _none("--wandb-project", (TRAIN,), "WANDB_PROJECT in the environment"),
    _none("--wandb-name", (TRAIN,), "the run's name"),
    _none("--wandb-key", (TRAIN,), "WANDB_API_KEY in the environment, never on a command line"),
    _none("--wandb-offline", (TRAIN,), "WANDB_MODE=offline in the environment", switch=True),
    _none("--wandb-dir", (TRAIN,), "`results/<run>/tracking`"),
    *(_none(f"--swanlab-{name}", (TRAIN,), TRACKERS) for name in ("project", "name", "key")),
    _none("--mlflow-tracking-uri", (TRAIN,), MLFLOW),
    _none("--mlflow-experiment-name", (TRAIN,), MLFLOW),
    _none("--mlflow-run-name", (TRAIN,), MLFLOW),
    *(
        Flag(f"--sglang-{name}", BOTH, "resources.capture.sglang_arguments", ENGINE, "engine")
        for name in ("attention-backend", "mem-fraction-static", "ep-size")
    ),
    *(
        Flag(f"--sglang-enable-{name}", BOTH, "resources.capture.sglang_arguments", ENGINE,
             "engine", switch=True)
        for name in ("nccl-nvls", "symm-mem", "torch-compile")
    ),
    _none("--sglang-context-length", BOTH, "the longest document of a shard"),
    *(
        _none(f"--sglang-enable-dp-{name}", BOTH, "shards are captured in parallel, as separate "
              "jobs", switch=True)
        for name in ("attention", "lm-head")
    ),
    Flag("--nproc-per-node", (TORCHRUN,), "resources.train.processes", "of train_eagle3.py; "
         "captures use all GPUs without it", "ranks"),
    _none("--nnodes", (TORCHRUN,), "several machines: docs/cluster.md"),
    *(
        _none(name, (TORCHRUN,), "ranks find each other automatically")
        for name in ("--node-rank", "--master-addr", "--master-port", "--rdzv-backend",
                     "--rdzv-endpoint", "--rdzv-id")
    ),
    _none("--standalone", (TORCHRUN,), "ranks find each other automatically", switch=True),
)  # fmt: skip


def flag_of(name: str, command: str) -> Flag | None:
    """The flag of that name of a command; torchrun takes underscores as well."""
    name = name.replace("_", "-") if command == TORCHRUN else name
    return next((f for f in FLAGS if f.name == name and command in f.commands), None)
