"""Token shards, states and a whole small training set, made with the library itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eagle3.capture.job import CaptureJob, Placement, capture_shard
from eagle3.config.hidden_states import CaptureResources
from eagle3.config.train import Train
from eagle3.data.conversations import Conversation
from eagle3.data.masks import TokenizedDocument
from eagle3.engines.hf import HFTarget
from eagle3.files.artifact import Manifest, Settings, write_json
from eagle3.files.tensor_file import save_tensors
from eagle3.parallel.ranks import Ranks
from eagle3.store.reader import FeatureShard
from eagle3.target_model.config import load_config
from eagle3.target_model.layers import aux_layers, layer_count
from eagle3.target_model.reader import read_head
from eagle3.target_model.weights import TargetWeights
from eagle3.tokens.schedule import KIND as SCHEDULE
from eagle3.tokens.schedule import Documents, build_schedule
from eagle3.tokens.shards import read_token_shard, write_token_shard
from eagle3.tokens.stages import Stages
from eagle3.tokens.vocab import KIND as VOCABULARY
from eagle3.tokens.vocab import build_mapping, count_supervised
from eagle3.training.checkpoint import ResumeFolder
from eagle3.training.data import TrainingData
from eagle3.training.job import run_stage
from eagle3.training.setup import build_draft
from eagle3.training.stage import StageTrainer
from tests.builders.models import VOCAB
from tests.builders.run_file import PATHS

TARGET_KEYS = {
    "revision": None,
    "trust_remote_code": False,
    "embedding_key": "model.embed_tokens.weight",
    "lm_head_key": "lm_head.weight",
    "final_norm_key": "model.norm.weight",
}
TRAIN = Train(
    epochs=2,
    epochs_per_stage=2,
    ttt_steps=3,
    step_decay=0.8,
    loss="soft_ce",
    lk_eta=3.0,
    learning_rate=3e-3,
    lr_schedule="cosine",
    warmup_ratio=0.1,
    lr_decay_ratio=0.2,
    weight_decay=0.01,
    max_grad_norm=0.5,
    pack_tokens=64,
    packs_per_batch=2,
    precision="float32",
    attention_backend="auto",
    seed=0,
    optimizer="adamw",
    active_rows="reachable",
    head_init="target",
    norm_init="target",
    feature_noise=0.0,
)


def changed(train: Train, **keys: Any) -> Train:
    """The same training but for some keys."""
    return Train(**{**train.model_dump(), **keys})


def stage_settings(stage, upstream=None, **values):
    return Settings(stage, values, upstream or {})


TOKENS = stage_settings("tokens")


def state_settings(codec="fp32", backend="hf", layers=None):
    """Settings of the capture stage, in float32."""
    return stage_settings(
        "hidden_states",
        {"tokens": TOKENS.digest},
        hidden_states={"aux_layers": layers, "backend": backend, "codec": codec},
        target=TARGET_KEYS | {"dtype": "float32"},
    )


STATES = state_settings()
ALONE = Ranks(0, 1, torch.device("cpu"))


def placement(**changes):
    """Where a capture runs: one CPU process, no self-check."""
    jobs = CaptureResources(**{"batch_tokens": 256, "self_check": False} | changes)
    return Placement("cpu", 1, jobs)


def captured(path: Path, target: Path, tokens: Path, settings=STATES, **changes) -> FeatureShard:
    """Capture the states of a token shard as a job does, and open them."""
    job = CaptureJob(settings, tokens, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    capture_shard(job, path, placement(**changes), ALONE)
    return FeatureShard(path, job.tokens, settings.digest)


def read_all(shard: FeatureShard) -> dict[str, torch.Tensor]:
    """Every document's decoded rows, one document after another."""
    documents = [shard.read(number) for number in range(shard.layout.documents)]
    return {name: torch.cat([d[name] for d in documents]) for name in documents[0]}


def token_shard(path: Path, documents, settings=TOKENS):
    """Write documents (pairs of ids and 0/1 masks) as a shard and read it back."""
    rows = [Conversation(f"row-{i}", []) for i in range(len(documents))]
    made = {
        row.id: TokenizedDocument(
            row.id, np.array(ids, dtype=np.int32), np.array(mask, dtype=np.uint8), False
        )
        for row, (ids, mask) in zip(rows, documents, strict=True)
    }
    write_token_shard(
        path, rows, lambda rows: ((row, [made[row.id]]) for row in rows), settings, {}
    )
    return read_token_shard(path)


def chats(count, seed=0, shortest=6, longest=30, ids_below=VOCAB):
    """Random documents of a prompt, an answer, and sometimes a second turn."""
    random = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        length = int(random.integers(shortest, longest + 1))
        mask = np.zeros(length, dtype=np.uint8)
        mask[int(random.integers(1, length - 2)) :] = 1
        if length > 15:
            mask[8 : int(random.integers(9, 12))] = 0
        documents.append((random.integers(3, ids_below, length), mask))
    return documents


def open_target(directory: Path, dtype="float32", layers=None):
    """Engine and head of a target, as the capture job opens them."""
    config = load_config(directory)
    engine = HFTarget.load(directory, aux_layers(layers, layer_count(config)), dtype)
    keys = TARGET_KEYS["lm_head_key"], TARGET_KEYS["embedding_key"]
    head = read_head(TargetWeights(directory), config, *keys).to(engine.device, engine.dtype)
    return engine, head


def plain_states(engine, ids, layers):
    """aux [L, C H] and last [L, H] of one document as transformers lists them: of the last layer
    only the state after the final norm, which is then in aux too."""
    outputs, last = engine.every_state(ids)
    outputs = [*outputs, last]
    return torch.cat([outputs[layer + 1] for layer in layers], dim=-1), last


@dataclass(frozen=True)
class TrainingSet:
    """Files that a training job reads, its settings, and those of the stages before it."""

    target: Path
    tokens: list[Path]
    states: list[Path]
    vocab: Path
    mapping: object
    schedule_file: Path
    schedule: dict
    train: Train
    settings: Settings
    upstream: list[Settings]


def schedule_of(shards, train, window=None):
    """The schedule of token shards: all of them in every stage, or `window` at a time."""
    stages = Stages(len(shards), window or len(shards), train.epochs, train.epochs_per_stage)
    return build_schedule(Documents.of(shards), train, stages)


def training_set(
    folder: Path,
    target: Path,
    train=TRAIN,
    documents=24,
    draft_vocab=64,
    seed=0,
    texts=None,
    layers=None,
    switches=None,
):
    """Capture two shards of random chats, or of `texts` (ids and masks), and schedule them. Files
    lie where those of a run would, so that jobs can be started in `folder`."""
    tokens, states, shards = [], [], []
    wanted = state_settings(layers=layers)
    for number in range(2):
        tokens.append(folder / PATHS.tokens("train", number))
        states.append(folder / PATHS.states("train", number))
        chosen = texts[number::2] if texts else chats(documents // 2, seed=seed + number)
        shard = token_shard(tokens[-1], chosen)
        captured(states[-1], target, tokens[-1], wanted)
        shards.append(shard)
    counts = count_supervised([(s.input_ids, s.loss_mask) for s in shards], VOCAB)
    mapping = build_mapping(counts, draft_vocab, [1])
    vocab, scheduled = stage_settings("vocab"), stage_settings("schedule")
    save_tensors(
        folder / PATHS.vocab,
        {"d2t": mapping.d2t, "t2d": mapping.t2d},
        Manifest.of(VOCABULARY, vocab),
    )
    schedule = schedule_of(shards, train)
    write_json(folder / PATHS.schedule, schedule, Manifest.of(SCHEDULE, scheduled))
    upstream = {
        "tokens": TOKENS.digest,
        "hidden_states": wanted.digest,
        "vocab": vocab.digest,
        "schedule": scheduled.digest,
    }
    settings = Settings(
        "train",
        {
            "train": train.model_dump(),
            "draft": switches or {},
            "hidden_states": {"aux_layers": layers},
            "target": TARGET_KEYS,
        },
        upstream,
    )
    return TrainingSet(
        target,
        tokens,
        states,
        folder / PATHS.vocab,
        mapping,
        folder / PATHS.schedule,
        schedule,
        train,
        settings,
        [TOKENS, wanted, vocab, scheduled],
    )


def train_draft(made: TrainingSet, folder: Path):
    """Train a whole stage in this process; the draft and the target's frozen parts."""
    cpu = torch.device("cpu")
    data = TrainingData(made.tokens, made.states)
    draft, parts = build_draft(made.target, made.settings.values, made.mapping, cpu)
    trainer = StageTrainer(draft, parts, data, made.train, made.schedule, 1, ALONE)
    resume = ResumeFolder(folder / "resume", made.settings, data.inputs())
    run_stage(trainer, resume, None, 10**6, folder / "metrics.jsonl", folder / "out")
    return draft, parts


def naive_states(model, ids, layers):
    """Plain forward pass of one document by transformers: aux [L, C H], last [L, H], logits."""
    with torch.inference_mode():
        out = model(input_ids=torch.as_tensor(ids)[None].long(), output_hidden_states=True)
    aux = torch.cat([out.hidden_states[layer + 1][0] for layer in layers], dim=-1)
    return aux, out.hidden_states[-1][0], out.logits[0]
