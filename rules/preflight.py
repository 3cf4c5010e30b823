"""What is checked and looked up before any job starts."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eagle3.artifact import Settings, read_json
from eagle3.data.rows import check_enough
from eagle3.errors import UserError
from eagle3.target.files import TOKENIZER_FILES
from eagle3.target.layers import aux_layers
from eagle3.tokens.vocab import check_size
from rules.provenance import chained, content_digest

HUB = "hub:"
EMBEDDED = "embedded"
EMBEDDED_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class External:
    """Files from outside, and digests of their contents (a hub source is known by its name)."""

    source: str
    source_digest: str
    embedded_source: str
    embedded_digest: str
    target: str | None  # None: a rule trains it
    tokenizer_digest: str
    weights_digest: str


def locate(config: Mapping[str, Any], root: Path, memo: Path) -> External:
    """Find the dataset and the target and check what can be known of them already.

    Raises UserError naming the key.
    """
    source, source_digest = _source("dataset.source", config["dataset"]["source"], root, memo)
    model = config["target"]["model"]
    embedded_source, embedded_digest = "", ""
    target, tokenizer_digest, weights_digest = model, model, model
    if model == EMBEDDED:
        tiny = config["embedded_target"]
        embedded_source, embedded_digest = _source(
            "embedded_target.source", tiny["source"], root, memo
        )
        _check_target(config, tiny["vocab_size"], tiny["num_layers"])
        target = None
    elif not model.startswith(HUB):
        folder = _existing("target.model", model, root)
        target = str(folder)
        tokenizer_digest, weights_digest = _inspect(config, folder, memo)
    return External(
        source,
        source_digest,
        embedded_source,
        embedded_digest,
        target,
        tokenizer_digest,
        weights_digest,
    )


def _existing(key: str, path: str, root: Path) -> Path:
    """A path from the configuration: relative to the working directory, else to the project."""
    for candidate in (Path(path), root / path):
        if candidate.exists():
            return candidate
    raise UserError(f"config: {key} is {path!r}, which does not exist (nor {root / path})")


def _source(key: str, value: str, root: Path, memo: Path) -> tuple[str, str]:
    if value.startswith(HUB):
        return value, value
    path = _existing(key, value, root)
    if not path.is_file() or path.suffix not in (".json", ".jsonl", ".ndjson"):
        raise UserError(f"config: {key} is {value!r}; must be a .json or .jsonl file")
    return str(path), content_digest([path], memo)


def _inspect(config: Mapping[str, Any], folder: Path, memo: Path) -> tuple[str, str]:
    """Check a model directory; return digests of its tokenizer and of its weights."""
    described = folder / "config.json"
    weights = sorted(folder.glob("*.safetensors"))
    if not described.is_file() or not weights:
        missing = "config.json" if weights else "config.json and *.safetensors"
        raise UserError(
            f"config: target.model is {str(folder)!r}, which is not a Hugging Face model directory "
            f"(no {missing})"
        )
    found = json.loads(described.read_text(encoding="utf-8"))
    found = found.get("text_config", found)
    _check_target(config, found.get("vocab_size"), found.get("num_hidden_layers"))
    names = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    tokenizer = content_digest([described, *names], memo)
    return tokenizer, content_digest([described, *folder.glob("*.index.json"), *weights], memo)


def _check_target(config: Mapping[str, Any], vocab_size: Any, num_layers: Any) -> None:
    """The draft has to fit the target; a field that the target does not state is checked later."""
    if isinstance(vocab_size, int):
        check_size(config["vocab"]["draft_vocab_size"], vocab_size)
    if isinstance(num_layers, int):
        aux_layers(config["hidden_states"]["aux_layers"], num_layers)


def all_settings(config: Mapping[str, Any], external: External) -> dict[str, Settings]:
    """Settings of every stage, chained from the outside in.

    This table is the answer to "what does this key re-run?": a key that no line names, such as
    everything under `resources`, re-runs nothing.
    """
    found: dict[str, Settings] = {}

    def add(stage: str, keys: tuple[str, ...], upstream: tuple[str, ...]) -> None:
        found[stage] = chained(stage, config, keys, {name: found[name] for name in upstream})

    def add_external(stage: str, **values: Any) -> None:
        found[stage] = Settings(stage, values, {})

    add_external("source", digest=external.source_digest)
    if external.target is None:
        tiny = {k: v for k, v in config["embedded_target"].items() if k != "source"}
        add_external("embedded_target", embedded_target=tiny, source=external.embedded_digest)
        found["tokenizer"] = found["weights"] = found["embedded_target"]
    else:
        add_external("tokenizer", digest=external.tokenizer_digest)
        add_external("weights", digest=external.weights_digest)

    source_keys = ("subset", "split", "revision", "seed", "eval_fraction")
    loading = ("target.revision", "target.trust_remote_code")
    reading = ("target.embedding_key", "target.lm_head_key")
    templates = ("tokens.chat_template", "tokens.chat_template_options")
    packing = ("pack_tokens", "packs_per_batch", "epochs", "epochs_per_stage", "seed")
    add("dataset", tuple(f"dataset.{key}" for key in source_keys), ("source",))
    add("tokens", ("tokens", "dataset.shard_size", *loading), ("dataset", "tokenizer"))
    add("vocab", ("vocab", "dataset.num_samples", *loading), ("tokens",))
    schedule = (*(f"train.{key}" for key in packing), "dataset.num_samples")
    add("schedule", schedule, ("tokens",))
    capture = ("hidden_states", "target.dtype", *loading, *reading)
    add("hidden_states", capture, ("tokens", "weights"))
    train = ("train", "draft", "hidden_states.aux_layers", "target.final_norm_key")
    add(
        "train",
        (*train, *loading, *reading, "dataset.num_samples"),
        ("tokens", "hidden_states", "vocab", "schedule"),
    )
    add("export", ("export",), ("train", "vocab"))
    add(
        "evaluate",
        ("evaluation", *templates, *loading, *reading),
        ("export", "dataset", "weights"),
    )
    plan = ("hidden_states", "draft", "vocab", "train.ttt_steps", "train.epochs", "hardware")
    add("plan", (*plan, *loading), ("schedule", "vocab"))
    everything = tuple(key for key in config if key != "resources")
    add("report", everything, ("evaluate", "plan"))
    return found


def check_known_rows(report: Path, settings: Settings, want: int) -> None:
    """Too few rows are said at once when an earlier run has already counted them."""
    if report.is_file():
        try:
            found, _ = read_json(report, "dataset", settings.digest)
        except UserError:
            return  # of other settings: the dataset job will count anew
        check_enough(found["splits"]["train"], want)


def stage_versions(path: Path) -> dict[str, Any]:
    """The hand-kept versions of the stages upstream of the hidden states."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def shell_prefix(root: Path, has_environment: bool) -> str:
    """What every shell command starts with."""
    # setting a prefix replaces Snakemake's own, without which `job | tee` hides a failed job
    prefix = f"set -euo pipefail; export PYTHONPATH={shlex.quote(str(root))}; "
    if not has_environment:
        prefix += f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
    # spinning threads cost several times the work they save when jobs share cores
    return prefix + "export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 TOKENIZERS_PARALLELISM=false; "
