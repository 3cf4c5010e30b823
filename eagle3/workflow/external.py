"""Files from outside a run: their locations and the digests of their contents."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eagle3.checks import (
    cached_folder,
    check_choices,
    check_config,
    check_shape,
    check_target,
    embedded_text_config,
)
from eagle3.data.row_files import SUFFIXES, files_of, readable
from eagle3.data.sources import Source, located, sources_of, unknown_place
from eagle3.draft.config_file import omits_rope_theta, read_config_file, resolved
from eagle3.draft.rope_parameters import THETA
from eagle3.draft.weight_files import config_of, weight_files
from eagle3.errors import UserError
from eagle3.files.hub import HUB, HUB_NAME, fetched_file
from eagle3.imports.listing import KEY, PEERS, dataset_digest, dataset_folder, list_files
from eagle3.imports.other_run import shards_of
from eagle3.run import External, StatesFrom
from eagle3.target_model import adapter as adapters
from eagle3.target_model.files import TOKENIZER_FILES
from eagle3.workflow.provenance import file_digests, folder_digest

EMBEDDED = "embedded"
ON_HUB = ("target.model", "draft.config", "train.warm_start")


def locate(config: Mapping[str, Any], root: Path, memo: Path) -> External:
    """Find the dataset and the target, and check what is known about them before any job.

    Raises UserError naming the key.
    """
    draft_values = draft_config(config["draft"], root)
    config = resolved(config, draft_values)
    warm_start, warm_start_place, warm_start_digest = _warm_start(
        config["train"]["warm_start"], root, memo
    )
    config = {**config, "train": {**config["train"], "warm_start": warm_start}}
    check_choices(config)
    states = _states(config["hidden_states"]["source"], root)
    imported = states is not None and states.kind in PEERS
    none: tuple[tuple[Source, ...], str] = (), ""
    sources, source_digest = none if imported else _sources(config["dataset"], root, memo)
    model = config["target"]["model"]
    embedded_source, embedded_digest = "", ""
    target, tokenizer_digest, weights_digest = model, model, model
    tied: bool | None = None
    if model == EMBEDDED:
        embedded = config["embedded_target"]
        located_source, embedded_digest = _source(
            "embedded_target.source", Source(embedded["source"]), root, memo
        )
        embedded_source = located_source.place
        check_shape(config, embedded_text_config(embedded))
        target, tied = None, False
    elif model.startswith(HUB):
        cached = cached_folder(model, config["target"]["revision"])
        if cached:
            check_config(config, cached)
    else:
        folder = _existing("target.model", model, root)
        target = str(folder)
        tied = _inspect(config, folder)
        tokenizer_digest, weights_digest = _digests(config, folder, memo)
    adapter, adapter_digest = _adapter(config["target"]["adapter"], target, root, memo)
    return External(
        sources,
        source_digest,
        embedded_source,
        embedded_digest,
        target,
        tokenizer_digest,
        weights_digest + adapter_digest,
        *_prompts(config["evaluation"]["prompts"], root, memo),
        warm_start_place,
        warm_start_digest,
        draft_values,
        adapter,
        tied,
        states,
    )


def _states(section: Mapping[str, Any], root: Path) -> StatesFrom | None:
    """The states that `hidden_states.source` names; None if they are captured. Files of another
    project are identified by names and sizes: hashing them would take hours."""
    kind = section["kind"]
    if kind == "capture":
        return None
    place = _existing(KEY, section["path"], root)
    if not place.is_dir():
        raise UserError(f"config: {KEY} is {section['path']!r}, which is not a folder")
    if kind == "run":
        return StatesFrom(kind, str(place), shards=shards_of(place))
    dataset, digest = None, list_files(kind, place).digest
    if kind == "speculators":
        configured = section["dataset"]
        dataset_path = (
            _existing("hidden_states.source.dataset", configured, root) if configured else None
        )
        dataset = dataset_folder(place, dataset_path)
        digest += f" {dataset_digest(dataset)}"
    return StatesFrom(kind, str(place), str(dataset) if dataset else None, digest)


def _prompts(
    entries: Sequence[Mapping[str, str]] | None, root: Path, memo: Path
) -> tuple[tuple[tuple[str, str], ...], str]:
    """Names and paths of sets of prompts, and one digest of names and contents."""
    prompts: list[tuple[str, str]] = []
    digests: list[list[str]] = []
    for number, entry in enumerate(entries or ()):
        key, name = f"evaluation.prompts[{number}]", entry["name"]
        path = _existing(f"{key}.source", entry["source"], root)
        if not path.is_file() or not readable(path):
            raise UserError(
                f"config: {key}.source is {entry['source']!r}; must be a file of "
                f"{', '.join(SUFFIXES)}"
            )
        if name in dict(prompts):
            raise UserError(f"config: {key}.name is {name!r}, which an earlier set has; rename one")
        prompts.append((name, str(path)))
        digests.append([name, *file_digests([path], memo)])
    return tuple(prompts), json.dumps(digests) if digests else ""


def _warm_start(
    configured: str | None, root: Path, memo: Path
) -> tuple[str | None, str | None, str]:
    """Where config.json of the initial draft is, where jobs find all of the draft, and the digest
    of the files that are read. A draft on the hub is identified by its commit; jobs fetch it."""
    if configured is None:
        return None, None, ""
    if configured.startswith(HUB):
        folder = fetched_file(configured, "train.warm_start", "config.json").parent
        place = f"{configured}@{folder.name}"
        return str(folder), place, place
    path = _existing("train.warm_start", configured, root)
    config_path = config_of(path)
    if not config_path.is_file():
        raise UserError(
            f"config: train.warm_start is {configured!r}, which is not a draft (no {config_path})"
        )
    return str(path), str(path), folder_digest([config_path, *weight_files(path)], memo)


def _adapter(
    configured: str | None, target: str | None, root: Path, memo: Path
) -> tuple[str | None, str]:
    """The folder of a LoRA adapter, checked against a local target, and its digest."""
    if configured is None:
        return None, ""
    folder = _existing(adapters.KEY, configured, root)
    adapter = adapters.read_adapter(folder)
    if target is not None and not target.startswith(HUB):
        adapters.check_adapter(adapter, Path(target))
    files = [folder / adapters.DESCRIBED, folder / adapters.WEIGHTS]
    return str(folder), " " + folder_digest(files, memo)


def draft_config(section: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Values of `draft.config`; empty without one. Jobs never read its file.

    Raises UserError if it cannot be read or has a key that cannot be honoured.
    """
    configured = section["config"]
    if configured is None:
        return {}
    if not configured.startswith(HUB):
        path = _existing("draft.config", configured, root)
        path = path / "config.json" if path.is_dir() else path
    else:
        path = fetched_file(configured, "draft.config", "config.json")
    values = read_config_file(path)
    if section["rope_theta"] is None and omits_rope_theta(path):
        print(
            f"warning: draft.config: {path} is of a model and names no rope_theta, which every "
            f"engine reads as {THETA:g}: so does the draft; draft.rope_theta sets another",
            file=sys.stderr,
        )
    return values


def _existing(key: str, path: str, root: Path) -> Path:
    """A path from the configuration, relative to the working directory or else to the project."""
    for candidate in (Path(path).expanduser(), root / path):
        if candidate.exists():
            return candidate
    on_hub = key in ON_HUB and HUB_NAME.fullmatch(path)
    hint = f"; for a model of the Hugging Face hub write {HUB}{path}" if on_hub else ""
    raise UserError(f"config: {key} is {path!r}, which does not exist (nor {root / path}){hint}")


def _sources(section: Mapping[str, Any], root: Path, memo: Path) -> tuple[tuple[Source, ...], str]:
    """The sources of a dataset with their locations, and one digest of all. With several sources,
    ids of rows contain the names of files, so the digest does too."""
    configured = sources_of(section)
    alone = sources_of({**section, "source": configured[0].place})
    placed = [_source("dataset.source", source, root, memo) for source in configured]
    sources = tuple(source for source, _ in placed)
    if configured == alone:  # the section's own keys are among the settings
        return sources, placed[0][1]
    digests = [
        [digest, source.name if len(configured) > 1 else "", _selection(source)]
        for source, (_, digest) in zip(configured, placed, strict=True)
    ]
    return sources, json.dumps(digests)


def _selection(source: Source) -> dict[str, Any]:
    """The keys that decide what is read from a source. Its name is recorded separately."""
    values = {**asdict(source), "place": ""}
    del values["label"]
    return values


def _source(key: str, source: Source, root: Path, memo: Path) -> tuple[Source, str]:
    if source.on_hub:
        return source, source.identity
    try:
        path = _existing(key, source.place, root)
    except UserError:
        raise UserError(f"config: {key}: {unknown_place(source.place)}") from None
    try:
        files = files_of(path)
    except UserError:
        raise UserError(
            f"config: {key} is {source.place!r}; must be a file of {', '.join(SUFFIXES)}, or a "
            "folder of such files"
        ) from None
    if path.is_dir():
        digests = zip(files, file_digests(files, memo), strict=True)
        digests_by_name = [[str(file.relative_to(path)), digest] for file, digest in digests]
        return located(source, path), json.dumps(digests_by_name)
    return located(source, path), file_digests([path], memo)[0]


def _inspect(config: Mapping[str, Any], folder: Path) -> bool:
    """Check a model directory; return whether its output head is its input embedding."""
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        missing = "config.json" if weights else "config.json and *.safetensors"
        raise UserError(
            f"config: target.model is {str(folder)!r}, which is not a Hugging Face model directory "
            f"(no {missing})"
        )
    code = sorted(folder.glob("*.py")) if config["target"]["trust_remote_code"] else []
    if code:
        print(
            "warning: target.trust_remote_code is true, so jobs run "
            f"{', '.join(map(str, code))} with all your rights",
            file=sys.stderr,
        )
    return check_target(config, folder)


def _digests(config: Mapping[str, Any], folder: Path, memo: Path) -> tuple[str, str]:
    """Digests of a target's tokenizer and of its weights."""
    code = sorted(folder.glob("*.py")) if config["target"]["trust_remote_code"] else []
    described_by = [folder / "config.json", *code]
    names = {path for name in TOKENIZER_FILES for path in folder.glob(name) if path.is_file()}
    weights = [*folder.glob("*.index.json"), *folder.glob("*.safetensors")]
    return (
        folder_digest([*described_by, *names], memo),
        folder_digest([*described_by, *weights], memo),
    )
