"""What is checked and looked up before any job starts."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from eagle3.artifact import Settings, read_json
from eagle3.data.rows import check_enough, check_held_out
from eagle3.data.sources import HUB, SUFFIXES, Source, located, sources_of, unknown_place
from eagle3.errors import UserError
from eagle3.features.columns import STORED
from eagle3.features.layout import AUX_CHUNKS
from eagle3.serving.exports.engines import check_formats
from eagle3.target.files import TOKENIZER_FILES, check_length, indexed_files, read_object
from eagle3.target.layers import aux_layers
from eagle3.tokens.vocab import check_size
from eagle3.training.conflicts import check_optimizer
from rules.provenance import file_digests, folder_digest

EMBEDDED = "embedded"
# values of the demo that would spoil the draft of a real target
SIZED = ("max_length", "draft_vocab_size", "learning_rate", "max_grad_norm", "pack_tokens",
         "packs_per_batch", "precision")  # fmt: skip
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

    sources: tuple[Source, ...]
    source_digest: str
    embedded_source: str
    embedded_digest: str
    target: str | None  # None: a rule trains it
    tokenizer_digest: str
    weights_digest: str
    prompts: tuple[tuple[str, str], ...] = ()  # names and files of evaluation.prompts
    prompts_digest: str = ""
    warm_start: str | None = None  # folder of a draft to start from
    warm_start_digest: str = ""


def locate(config: Mapping[str, Any], root: Path, memo: Path) -> External:
    """Find the dataset and the target and check what can be known of them already.

    Raises UserError naming the key.
    """
    check_formats(config["export"]["formats"], config["draft"])
    sources, source_digest = _sources(config["dataset"], root, memo)
    check_optimizer(config["train"]["optimizer"], config["resources"]["train"]["data_parallel"])
    model = config["target"]["model"]
    embedded_source, embedded_digest = "", ""
    target, tokenizer_digest, weights_digest = model, model, model
    if model == EMBEDDED:
        tiny = config["embedded_target"]
        found, embedded_digest = _source(
            "embedded_target.source", Source(tiny["source"]), root, memo
        )
        embedded_source = found.place
        shape = {"vocab_size": tiny["vocab_size"], "num_hidden_layers": tiny["num_layers"]}
        shape["max_position_embeddings"] = tiny["max_position_embeddings"]
        shape["hidden_size"] = tiny["hidden_size"]
        _check_target(config, shape)
        target = None
    elif not model.startswith(HUB):
        folder = _existing("target.model", model, root)
        target = str(folder)
        tokenizer_digest, weights_digest = _inspect(config, folder, memo)
    return External(
        sources,
        source_digest,
        embedded_source,
        embedded_digest,
        target,
        tokenizer_digest,
        weights_digest,
        *_prompts(config["evaluation"]["prompts"], root, memo),
        *_warm_start(config["train"]["warm_start"], root, memo),
    )


def _prompts(
    given: Sequence[Mapping[str, str]] | None, root: Path, memo: Path
) -> tuple[tuple[tuple[str, str], ...], str]:
    """Names and places of sets of prompts, and one digest of names and contents."""
    found: list[tuple[str, str]] = []
    digests: list[list[str]] = []
    for number, entry in enumerate(given or ()):
        key, name = f"evaluation.prompts[{number}]", entry["name"]
        path = _existing(f"{key}.source", entry["source"], root)
        if not path.is_file() or path.suffix not in SUFFIXES:
            raise UserError(
                f"config: {key}.source is {entry['source']!r}; must be a file of "
                f"{', '.join(SUFFIXES)}"
            )
        if name in dict(found):
            raise UserError(f"config: {key}.name is {name!r}, which an earlier set has; rename one")
        found.append((name, str(path)))
        digests.append([name, *file_digests([path], memo)])
    return tuple(found), json.dumps(digests) if digests else ""


def _warm_start(given: str | None, root: Path, memo: Path) -> tuple[str | None, str]:
    """The draft to start from, and the digest of what is read of it."""
    if given is None:
        return None, ""
    folder = _existing("train.warm_start", given, root)
    described, weights = folder / "config.json", sorted(folder.glob("*.safetensors"))
    if not described.is_file() or not weights:
        raise UserError(
            f"config: train.warm_start is {given!r}, which is not the folder of a draft "
            "(config.json and *.safetensors)"
        )
    return str(folder), folder_digest([described, *weights], memo)


def _existing(key: str, path: str, root: Path) -> Path:
    """A path from the configuration: relative to the working directory, else to the project."""
    for candidate in (Path(path), root / path):
        if candidate.exists():
            return candidate
    raise UserError(f"config: {key} is {path!r}, which does not exist (nor {root / path})")


def _sources(section: Mapping[str, Any], root: Path, memo: Path) -> tuple[tuple[Source, ...], str]:
    """The sources of a dataset where they were found, and one digest of them all. A file's name
    stands for it in the ids of rows, where there are several; otherwise it may be anywhere."""
    given = sources_of(section)
    placed = [_source("dataset.source", source, root, memo) for source in given]
    found = tuple(source for source, _ in placed)
    if len(given) == 1:
        return found, placed[0][1]
    digests = [
        [digest, source.name, {**asdict(source), "place": ""}]
        for source, (_, digest) in zip(given, placed, strict=True)
    ]
    return found, json.dumps(digests)


def _source(key: str, source: Source, root: Path, memo: Path) -> tuple[Source, str]:
    if source.on_hub:
        return source, source.identity
    try:
        path = _existing(key, source.place, root)
    except UserError:
        raise UserError(f"config: {key}: {unknown_place(source.place)}") from None
    if not path.is_file() or path.suffix not in SUFFIXES:
        raise UserError(
            f"config: {key} is {source.place!r}; must be a file of {', '.join(SUFFIXES)}"
        )
    return located(source, path), file_digests([path], memo)[0]


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
    found = read_object(described)
    text = found.get("text_config")
    _check_target(config, text if isinstance(text, dict) else found)
    for index in folder.glob("*.index.json"):
        indexed_files(index)
    code = sorted(folder.glob("*.py")) if config["target"]["trust_remote_code"] else []
    if code:
        print(
            "warning: target.trust_remote_code is true, so jobs run "
            f"{', '.join(map(str, code))} with all rights of yours",
            file=sys.stderr,
        )
    names = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    described_by = [described, *code]
    tokenizer = folder_digest([*described_by, *names], memo)
    return tokenizer, folder_digest([*described_by, *folder.glob("*.index.json"), *weights], memo)


def _check_target(config: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    """The draft has to fit the target; a figure that the target does not state is checked later."""
    vocab_size, layers = target.get("vocab_size"), target.get("num_hidden_layers")
    context, hidden = target.get("max_position_embeddings"), target.get("hidden_size")
    states = config["hidden_states"]
    if isinstance(vocab_size, int):
        check_size(config["vocab"]["draft_vocab_size"], vocab_size)
    if isinstance(layers, int):
        chosen = aux_layers(states["aux_layers"], layers)
        if states["backend"] == "sglang" and chosen[-1] == layers - 1:
            raise UserError(
                f"config: hidden_states.aux_layers is {list(chosen)}; SGLang cannot return the "
                f"output of the last layer: use layers below {layers - 1}, or backend hf"
            )
    if isinstance(hidden, int):
        STORED[states["codec"]].columns(AUX_CHUNKS, hidden)
    if isinstance(context, int):
        check_length(config["tokens"]["max_length"], context)
        answer = config["evaluation"]["max_new_tokens"]
        if answer + config["evaluation"]["num_draft_tokens"] + 2 > context:
            raise UserError(
                f"config: evaluation.max_new_tokens is {answer}, which leaves "
                f"no room for a prompt in the target's context of {context} tokens"
            )


def warn_of_inherited(base: Path, overlay: Mapping[str, Any], model: str) -> None:
    """Say which demo-sized values of `config.yaml` a run with a target of its own takes over."""
    names = inherited(yaml.safe_load(base.read_text(encoding="utf-8")), overlay, model)
    if names:
        print(
            f"warning: target.model is {model!r}, but these values are those of the tiny demo in "
            f"config.yaml: {', '.join(names)}; name them in your own configuration",
            file=sys.stderr,
        )


def inherited(base: Mapping[str, Any], overlay: Mapping[str, Any], model: str) -> list[str]:
    """Keys of `base` that fit the embedded target only and that `overlay` does not name."""
    if model == EMBEDDED or base.get("target", {}).get("model") != EMBEDDED:
        return []
    found = [] if "run" in overlay else ["run"]
    for section in ("tokens", "vocab", "train"):
        named = overlay.get(section) or {}
        for key, value in base[section].items():
            if key in SIZED and key not in named:
                found.append(f"{section}.{key} = {value}")
    return found


def check_known_rows(report: Path, settings: Settings, want: int) -> None:
    """Too few rows are said at once when an earlier run has already counted them."""
    if report.is_file():
        try:
            found, _ = read_json(report, "dataset", settings.digest)
        except UserError:
            return  # of other settings: the dataset job will count anew
        check_enough(found["splits"]["train"], want)
        check_held_out(found["splits"]["eval"])


def check_tracker(tracker: str) -> None:
    """Raise UserError before anything is captured if the training could not be tracked."""
    if tracker != "none" and find_spec(tracker) is None:
        raise UserError(
            f"config: resources.train.tracker is {tracker!r}, which is not installed: "
            f"`pip install {tracker}`, or set it to none"
        )


def stage_versions(path: Path) -> dict[str, Any]:
    """The hand-kept versions of the stages upstream of the hidden states."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def shell_prefix(root: Path, has_environment: bool, in_container: bool) -> str:
    """What every shell command starts with."""
    # setting a prefix replaces Snakemake's own, without which `job | tee` hides a failed job
    # braces twice: Snakemake formats the prefix with the command
    path = shlex.quote(str(root))
    if in_container:  # the host's packages are of another Python; its variables come along
        prefix = "unset PYTHONHOME; export PYTHONNOUSERSITE=1; "
    else:
        prefix, path = "", path + "${{PYTHONPATH:+:$PYTHONPATH}}"
    prefix = f"set -euo pipefail; {prefix}export PYTHONPATH={path}; "
    if not has_environment:
        prefix += f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
    # spinning threads cost several times the work they save when jobs share cores
    return prefix + "export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 TOKENIZERS_PARALLELISM=false; "
