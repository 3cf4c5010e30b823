"""SpecForge's command lines as lines of a configuration. What each flag means stands in
`eagle3.cli.specforge`."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from eagle3.cli.material import PLACES, data_name, data_of
from eagle3.cli.overlay import Line
from eagle3.cli.sizes import samples_of, shard_size
from eagle3.cli.specforge import CAPTURE, DATA, TORCHRUN, TRAIN, Flag, flag_of
from eagle3.config.draft import Draft
from eagle3.config.tokens import TemplateName
from eagle3.data.sources import HUB
from eagle3.errors import UserError
from eagle3.workflow.external import HUB_NAME

SCRIPTS = {
    **{name: name for name in (DATA, CAPTURE, TRAIN)},
    "train_eagle3_offline.py": TRAIN,
}
CAMEL = ["camel-biology", "camel-chemistry", "camel-physics"]
ATTENTION = {"usp": "usp", "flex_attention": "flex"}
LOSSES = {"lambda": "lk_hybrid", "alpha": "lk_alpha"}
OPEN = {"template": "auto", "tracker": "none"}  # what an unknown value becomes
PREPARED = "_train.jsonl"  # ends the name of what prepare_data.py writes
ENGINE = "resources.capture.sglang_arguments"
PACK = 4096


@dataclass(frozen=True)
class Translation:
    """What command lines of SpecForge become."""

    commands: list[str]
    names: tuple[str, str]  # of model and dataset
    lines: list[Line]
    without: list[str]  # flags that have no key, with the reason
    remarks: list[str]  # what the user has to know at once


@dataclass
class _Translated:
    """What was read so far. `values`: by key, with the flag and command that set it."""

    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    raw: dict[tuple[str, str], str] = field(default_factory=dict)  # by command and flag
    without: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def put(self, key: str, value: Any, origin: str) -> None:
        """Raises UserError if another command has set the key to another value."""
        known = self.values.get(key)
        if known is not None and known[0] != value:
            raise UserError(
                f"--from-specforge: {key} would be {known[0]!r} by {known[1]} and {value!r} by "
                f"{origin}; a run has one, so make them the same"
            )
        if known is None:
            self.values[key] = value, origin

    def get(self, key: str, default: Any) -> Any:
        return self.values[key][0] if key in self.values else default


def translate(commands: Sequence[str]) -> Translation:
    """Raises UserError for a command that is none of the three, an unknown flag, a value that is
    none, or values that contradict each other."""
    translated, seen = _Translated(), set()
    parsed = [_parsed(command) for command in commands]
    for script, flags in sorted(parsed, key=lambda one: (DATA, CAPTURE, TRAIN).index(one[0])):
        if script in seen:
            raise UserError(f"--from-specforge: {script} is there twice")
        seen.add(script)
        for flag, command, value in flags:
            _take(translated, flag, command, value, script)
    _finish(translated, seen)
    lines = [Line(key, value, origin) for key, (value, origin) in translated.values.items()]
    model, source = translated.values["target.model"][0], translated.values["dataset.source"][0]
    data = source if isinstance(source, str) else "camel"
    names = Path(model.removeprefix(HUB)).name, data_name(data).removesuffix("_train")
    return Translation(list(commands), names, lines, translated.without, translated.remarks)


def _parsed(command: str) -> tuple[str, list[tuple[Flag, str, str]]]:
    """The script of a command line, and each flag with the command it is of and its value."""
    try:
        words = shlex.split(command.replace("\\\n", " "))
    except ValueError as fault:
        raise UserError(f"--from-specforge: {command!r} cannot be read ({fault})") from None
    names = [Path(word).name for word in words]
    place = next((at for at, name in enumerate(names) if name in SCRIPTS), None)
    if place is None:
        raise UserError(
            f"--from-specforge: {command!r} runs none of {DATA}, {CAPTURE} and {TRAIN}; newer "
            "releases train by a YAML file, whose keys docs/coming-from-specforge.md names by "
            "their old flags"
        )
    script = SCRIPTS[names[place]]
    launcher = [*_flags(words[:place], TORCHRUN, strict=False)] if "torchrun" in names else []
    return script, [*launcher, *_flags(words[place + 1 :], script, strict=True)]


def _flags(words: Sequence[str], command: str, strict: bool) -> list[tuple[Flag, str, str]]:
    """Flags with their values. Raises UserError for one that is unknown, if `strict`."""
    flags, waiting = [], list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        flag = flag_of(name, command) if name.startswith("--") else None
        if flag is None:
            if strict:
                raise UserError(f"--from-specforge: {word!r} is no flag of {command}")
            continue
        if not flag.switch and not equals:
            if not waiting or waiting[0].startswith("--"):
                raise UserError(f"--from-specforge: {name} of {command} needs a value")
            value = waiting.pop(0)
        flags.append((flag, command, value))
    return flags


def _take(translated: _Translated, flag: Flag, command: str, value: str, script: str) -> None:
    """Note a flag of a command line for `script`."""
    if flag.key is None:
        reason = f"{flag.name} of {command}: {flag.remark}."
        translated.without += [reason] if reason not in translated.without else []
        return
    translated.raw[script, flag.name] = value
    origin = f"{flag.name} of {command}"
    if flag.kind in READERS:
        became = READERS[flag.kind](value, origin)
        if became == OPEN.get(flag.kind) and value != became:
            translated.remarks.append(
                f"{origin} is {value}, not known here: {flag.key} is {became}"
            )
        translated.put(flag.key, became, f"{origin}; {flag.remark}" if flag.remark else origin)
    elif flag.kind == "engine":
        arguments = translated.values.setdefault(ENGINE, ({}, "--sglang-* flags"))[0]
        arguments[flag.name.removeprefix("--sglang-").replace("-", "_")] = (
            True if flag.switch else _plain(value)
        )
    elif flag.kind == "draft":
        _take_draft(translated, value, origin)
    elif flag.kind == "source" and not Path(value).name.endswith(PREPARED):
        translated.put(flag.key, value, origin)


def _plain(value: str) -> Any:
    """A number as a number."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _integer(value: str, origin: str) -> int:
    if not re.fullmatch(r"\d+", value):
        raise UserError(f"--from-specforge: {origin} is {value!r}; must be a whole number")
    return int(value)


def _number(value: str, origin: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"--from-specforge: {origin} is {value!r}; must be a number") from None


def _model(value: str, origin: str) -> str:
    on_hub = HUB_NAME.fullmatch(value) and not Path(value).exists()
    return f"{HUB}{value}" if on_hub else value


def _name(value: str, origin: str) -> Any:
    if value == "camel":
        return CAMEL
    if value not in PLACES:
        raise UserError(
            f"--from-specforge: {origin} is {value!r}, which is not known here; give the file that "
            "it wrote by --data-path (docs/datasets.md has the names)"
        )
    return value


def _choice(allowed: dict[str, str], other: str) -> Callable[[str, str], str]:
    return lambda value, origin: allowed.get(value, other)


READERS: dict[str, Callable[[str, str], Any]] = {
    "text": lambda value, origin: value,
    "yes": lambda value, origin: True,
    "integer": _integer,
    "count": _integer,
    "number": _number,
    "numbers": lambda value, origin: [_integer(one.strip(), origin) for one in value.split(",")],
    "name": _name,
    "model": _model,
    "template": lambda value, origin: value if value in get_args(TemplateName) else "auto",
    "compressed": lambda value, origin: "bf16_zstd",
    "backend": _choice({"sglang": "sglang"}, "hf"),
    "loss": _choice(LOSSES, "soft_ce"),
    "attention": _choice(ATTENTION, "auto"),
    "tracker": _choice({"wandb": "wandb", "tensorboard": "tensorboard"}, "none"),
}


def _take_draft(translated: _Translated, value: str, origin: str) -> None:
    """Figures of the JSON of a draft, if it is at hand."""
    try:
        shape = json.loads(Path(value).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        translated.remarks.append(
            f"{value} cannot be read here, so the draft has the target's figures: compare section "
            "`draft` and vocab.draft_vocab_size with it"
        )
        return
    for name in Draft.model_fields:
        if isinstance(shape, dict) and shape.get(name):
            translated.put(f"draft.{name}", shape[name], f"{name} of {value}")
    if isinstance(shape, dict) and shape.get("draft_vocab_size"):
        translated.put(
            "vocab.draft_vocab_size", shape["draft_vocab_size"], f"draft_vocab_size of {value}"
        )


def _finish(translated: _Translated, seen: set[str]) -> None:
    """What follows from several flags, and what SpecForge does without being asked."""
    if "target.model" not in translated.values:
        raise UserError(
            f"--from-specforge: no --target-model-path; give the command lines of {CAPTURE} and "
            f"{TRAIN} too"
        )
    if "dataset.source" not in translated.values:
        raise UserError(
            f"--from-specforge: the data is what {DATA} wrote, so give its command line too"
        )
    _count(translated)
    length = translated.get("tokens.max_length", 2048)
    batch = translated.raw.get((CAPTURE, "--batch-size"))
    if batch is not None:
        documents = _integer(batch, f"--batch-size of {CAPTURE}")
        translated.put(
            "resources.capture.batch_tokens",
            documents * length,
            f"--batch-size {documents} of {CAPTURE} x --max-length",
        )
    translated.put("resources.device", "cuda", "as SpecForge always does")
    if TRAIN in seen:
        _packs(translated, length)


def _count(translated: _Translated) -> None:
    """Samples and shards: SpecForge reads all rows unless it is told a number."""
    source = translated.values["dataset.source"][0]
    single = isinstance(source, str) and (source in PLACES or Path(source).exists())
    rows = data_of(source).rows if single else None
    if "dataset.num_samples" not in translated.values:
        samples, _ = samples_of(rows)
        why = f"of {rows} rows; SpecForge takes all" if rows else "SpecForge takes all rows"
        translated.put("dataset.num_samples", samples, why)
        if rows is None:
            translated.remarks.append(
                "the number of rows is not known; set dataset.num_samples to what there is"
            )
    size = shard_size(translated.values["dataset.num_samples"][0], None, "bf16")
    translated.put("dataset.shard_size", size, "conversations of a capture job")


def _packs(translated: _Translated, length: int) -> None:
    """A step of SpecForge's training in packs."""
    ranks = _integer(translated.raw.get((TRAIN, "--nproc-per-node"), "1"), "--nproc_per_node")
    documents = _integer(
        translated.raw.get((TRAIN, "--batch-size"), "1"), f"--batch-size of {TRAIN}"
    )
    times = translated.raw.get((TRAIN, "--draft-accumulation-steps"), "1")
    whole = ranks * documents * _integer(times, "--draft-accumulation-steps")
    shared = translated.get("resources.train.sp_ulysses_size", 1)
    shared *= translated.get("resources.train.sp_ring_size", 1)
    pack = max(PACK, length)
    packs = max(math.ceil(whole * length / 2 / pack), -(-ranks // shared))
    why = f"about the tokens of a step's {whole} document(s)"
    if pack != PACK:
        translated.put("train.pack_tokens", pack, "a document must fit")
    translated.put("train.packs_per_batch", packs, why)
    if ranks > 1:
        translated.put("resources.train.processes", ranks, "--nproc_per_node")
    translated.put("train.lr_schedule", "cosine", "SpecForge's; the default here is wsd")
