"""SpecForge's command lines as lines of a configuration.

The meaning of each flag is in `eagle3.cli.specforge`.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eagle3.cli.flag_values import READERS, integer, plain
from eagle3.cli.material import PLACES, data_name, data_of
from eagle3.cli.overlay import Line
from eagle3.cli.sizes import SHARDS, UNKNOWN_SAMPLES, UNKNOWN_SHARD, shard_size, usable_samples
from eagle3.cli.specforge import CAPTURE, DATA, TORCHRUN, TRAIN, Flag, flag_of
from eagle3.config.dataset import Dataset
from eagle3.config.draft import Draft
from eagle3.errors import UserError
from eagle3.files.hub import HUB

SCRIPTS = {
    **{name: name for name in (DATA, CAPTURE, TRAIN)},
    "train_eagle3_offline.py": TRAIN,
}
OPEN = {"template": "auto", "tracker": "none"}  # what replaces an unknown value
PREPARED = {f"{name}_train.jsonl" for name in (*PLACES, "camel", "allava4v")}  # what DATA writes
LAUNCHERS = {"torchrun", "torch.distributed.run"}  # the program, and its module
ENGINE = "resources.capture.sglang_arguments"
PACK = 4096
# SpecForge trains one layer with full attention, whatever the draft's file says
IGNORED_BY_SPECFORGE = ("num_hidden_layers", "sliding_window")


@dataclass(frozen=True)
class Translation:
    """The result of translating command lines of SpecForge."""

    commands: list[str]
    names: tuple[str, str]  # of model and dataset
    lines: list[Line]
    without: list[str]  # flags that have no key, with reasons
    remarks: list[str]  # notes for the user


@dataclass
class _Translated:
    """Everything read so far. `values`: by key, with the flag and command that set each."""

    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    raw: dict[tuple[str, str], str] = field(default_factory=dict)  # by command and flag
    without: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def put(self, key: str, value: Any, origin: str) -> None:
        """Set a key. Raises UserError if another command has set it to another value."""
        previous = self.values.get(key)
        if previous is not None and previous[0] != value:
            raise UserError(
                f"--from-specforge: {key} would be {previous[0]!r} by {previous[1]} and {value!r} "
                f"by {origin}; a run has only one, so make them equal"
            )
        if previous is None:
            self.values[key] = value, origin

    def get(self, key: str, default: Any) -> Any:
        return self.values[key][0] if key in self.values else default


def translate(commands: Sequence[str]) -> Translation:
    """Translate command lines. Raises UserError for a command that is none of the three, an unknown
    flag, an invalid value, or values that contradict each other."""
    translated, seen = _Translated(), set()
    parsed = [_parsed(command) for command in commands]
    for script, flags in sorted(parsed, key=lambda pair: (DATA, CAPTURE, TRAIN).index(pair[0])):
        if script in seen:
            raise UserError(f"--from-specforge: {script} was given twice")
        seen.add(script)
        user_file = script == DATA and any(flag.kind == "source" for flag, _, _ in flags)
        for flag, command, value in flags:
            if not (user_file and flag.kind == "name"):  # the shape of the user's own file
                _take(translated, flag, command, value, script)
    _finish(translated, seen)
    lines = [Line(key, value, origin) for key, (value, origin) in translated.values.items()]
    model, source = translated.values["target.model"][0], translated.values["dataset.source"][0]
    data = source if isinstance(source, str) else "camel"
    names = Path(model.removeprefix(HUB)).name, data_name(data).removesuffix("_train")
    return Translation(list(commands), names, lines, translated.without, translated.remarks)


def _parsed(command: str) -> tuple[str, list[tuple[Flag, str, str]]]:
    """The script of a command line, and its flags, each with its command and value."""
    try:
        arguments = shlex.split(command.replace("\\\n", " "))
    except ValueError as fault:
        raise UserError(f"--from-specforge: {command!r} cannot be read ({fault})") from None
    names = [Path(argument).name for argument in arguments]
    index = next((index for index, name in enumerate(names) if name in SCRIPTS), None)
    if index is None:
        raise UserError(
            f"--from-specforge: {command!r} calls none of {DATA}, {CAPTURE} and {TRAIN}; newer "
            "releases are configured by a YAML file: docs/coming-from-specforge.md lists its keys "
            "under the names of the old flags"
        )
    script = SCRIPTS[names[index]]
    launcher = [*_flags(arguments[:index], TORCHRUN, strict=False)] if LAUNCHERS & {*names} else []
    return script, [*launcher, *_flags(arguments[index + 1 :], script, strict=True)]


def _flags(arguments: Sequence[str], command: str, strict: bool) -> list[tuple[Flag, str, str]]:
    """Flags with their values. Raises UserError for an unknown one if `strict`."""
    flags, remaining = [], list(arguments)
    while remaining:
        argument = remaining.pop(0)
        name, equals, value = argument.partition("=")
        flag = flag_of(name, command) if name.startswith("--") else None
        if flag is None:
            if strict:
                raise UserError(f"--from-specforge: {command} has no flag {argument!r}")
            continue
        if not flag.switch and not equals:
            if not remaining or remaining[0].startswith("--"):
                raise UserError(f"--from-specforge: {name} of {command} needs a value")
            value = remaining.pop(0)
        flags.append((flag, command, value))
    return flags


def _take(translated: _Translated, flag: Flag, command: str, value: str, script: str) -> None:
    """Add a flag of a command line for `script`."""
    if flag.key is None:
        path_note = f" ({value})" if flag.kind == "states" else ""
        reason = f"{flag.name} of {command}{path_note}: {flag.remark}."
        translated.without += [reason] if reason not in translated.without else []
        return
    translated.raw[script, flag.name] = value
    origin = f"{flag.name} of {command}"
    if flag.kind in READERS:
        setting = READERS[flag.kind](value, origin)
        if setting == OPEN.get(flag.kind) and value != setting:
            translated.remarks.append(
                f"{origin} is {value}, which has no counterpart: {flag.key} is set to {setting}"
            )
        translated.put(flag.key, setting, f"{origin}; {flag.remark}" if flag.remark else origin)
    elif flag.kind == "engine":
        arguments = translated.values.setdefault(ENGINE, ({}, "--sglang-* flags"))[0]
        arguments[flag.name.removeprefix("--sglang-").replace("-", "_")] = (
            True if flag.switch else plain(value)
        )
    elif flag.kind == "draft":
        _take_draft(translated, value)
    elif flag.kind == "source" and (script == DATA or Path(value).name not in PREPARED):
        translated.put(flag.key, value, origin)


def _take_draft(translated: _Translated, value: str) -> None:
    """Read the shape of the draft from its JSON file, if the file is on this machine."""
    try:
        shape = json.loads(Path(value).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        translated.remarks.append(
            f"{value} cannot be read here, so the draft takes its shape from the target: set "
            "section `draft` and vocab.draft_vocab_size as in that file"
        )
        return
    for name in Draft.model_fields:
        if isinstance(shape, dict) and shape.get(name) and name not in IGNORED_BY_SPECFORGE:
            translated.put(f"draft.{name}", shape[name], f"{name} of {value}")
    if isinstance(shape, dict) and shape.get("draft_vocab_size"):
        translated.put(
            "vocab.draft_vocab_size", shape["draft_vocab_size"], f"draft_vocab_size of {value}"
        )


def _finish(translated: _Translated, seen: set[str]) -> None:
    """Add values that follow from several flags, and defaults of SpecForge."""
    if "target.model" not in translated.values:
        raise UserError(
            f"--from-specforge: there is no --target-model-path; also give the command lines of "
            f"{CAPTURE} and {TRAIN}"
        )
    if "dataset.source" not in translated.values:
        raise UserError(
            f"--from-specforge: the data was written by {DATA}; also give its command line"
        )
    _count(translated)
    length = translated.get("tokens.max_length", 2048)
    if batch := translated.raw.get((CAPTURE, "--batch-size")):
        documents = integer(batch, f"--batch-size of {CAPTURE}")
        translated.put(
            "resources.capture.batch_tokens",
            documents * length,
            f"--batch-size {documents} of {CAPTURE} x --max-length",
        )
    if CAPTURE in seen and "hidden_states.backend" not in translated.values:
        translated.put("hidden_states.backend", "sglang", f"{CAPTURE} runs SGLang")
    translated.put("resources.device", "cuda", "as always in SpecForge")
    if TRAIN in seen:
        _packs(translated, length)


def _count(translated: _Translated) -> None:
    """Samples and shards: SpecForge reads all rows unless a number is given."""
    source = translated.values["dataset.source"][0]
    available = isinstance(source, str) and (source in PLACES or Path(source).exists())
    rows = data_of(source).rows if available else None
    if "dataset.num_samples" not in translated.values:
        samples = UNKNOWN_SAMPLES if rows is None else usable_samples(rows)[0]
        why = f"of {rows} rows; SpecForge takes all" if rows else "SpecForge takes all rows"
        translated.put("dataset.num_samples", samples, why)
        if rows is None:
            translated.remarks.append(
                "the number of rows is unknown; set dataset.num_samples to it or lower"
            )
    requested, origin = translated.values["dataset.num_samples"]
    if rows is not None and requested > rows * (1 - Dataset().eval_fraction):
        why = f"{origin}; of {rows} rows, without held-out and unusable ones"
        translated.values["dataset.num_samples"] = usable_samples(rows)[0], why
    size = shard_size(translated.values["dataset.num_samples"][0], UNKNOWN_SHARD)
    translated.put("dataset.shard_size", size, SHARDS)


def _packs(translated: _Translated, length: int) -> None:
    """Packs per optimiser step that hold about as many tokens as a step of SpecForge."""
    names = ("--nproc-per-node", "--batch-size", "--draft-accumulation-steps")
    factors = [integer(translated.raw.get((TRAIN, n), "1"), f"{n} of {TRAIN}") for n in names]
    ranks, documents = factors[0], math.prod(factors)
    size_keys = ("sp_ulysses_size", "sp_ring_size")
    ranks_per_pack = math.prod(translated.get(f"resources.train.{name}", 1) for name in size_keys)
    pack = max(PACK, length)
    matching, minimum = math.ceil(documents * length / 2 / pack), -(-ranks // ranks_per_pack)
    why = f"about as many tokens as the {documents} document(s) of a step"
    if minimum > matching:
        why = f"the least, one for each rank; {matching} would be as many tokens as a step there"
    if pack != PACK:
        translated.put("train.pack_tokens", pack, "a document must fit")
    translated.put("train.packs_per_batch", max(matching, minimum), why)
    if ranks > 1:
        translated.put("resources.train.processes", ranks, "--nproc_per_node")
    translated.put("train.lr_schedule", "cosine", "as in SpecForge; our default is wsd")
    if "train.ttt_steps" not in translated.values:
        translated.put("train.ttt_steps", 7, "as in SpecForge; our default is 4")
    translated.put("train.optimizer", "adamw", "as in SpecForge; our default is muon")
