"""The type that `target.dtype: auto` stands for in a run, decided once.

config.json's type is right wherever the processor multiplies it fast. A processor without
bfloat16 instructions takes seven times as long as in float32, so the first call of a run measures
both. From then on the run keeps its type, on whatever machine it continues: another type would be
another target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle3.files.artifact import NOT_OURS, write_text
from eagle3.files.hub import HUB
from eagle3.parallel.processor import processor, usable_cores
from eagle3.run import External
from eagle3.target_model.config import stated_dtype

AUTO, WIDE = "auto", "float32"
NARROW = ("bfloat16", "float16")
FASTER = 1.5  # float32 replaces the model's own type only if it is this many times faster


def settled_dtype(
    config: Mapping[str, Any],
    external: External,
    snapshot: Path,
    memo: Path,
    has_environment: bool = False,
) -> str | None:
    """The type for `auto`; None if it is that of config.json, and for any other setting.

    `snapshot`: the run as planned by an earlier call, if any. `memo`: rates of processors that
    earlier calls measured. `has_environment`: jobs have torch in a separate environment and this
    process may have none, so nothing is measured.
    """
    if config["target"]["dtype"] != AUTO or external.target is None:
        return None  # the embedded target is too small for its type to matter
    planned = _planned_dtype(snapshot, external.weights_digest)
    if planned is not None:
        return None if planned == AUTO else planned
    if config["resources"]["device"] != "cpu" or external.target.startswith(HUB):
        return None
    model_dtype = stated_dtype(Path(external.target))
    if model_dtype not in NARROW or has_environment:
        return None
    rates = _rates(model_dtype, memo)
    return WIDE if rates[WIDE] > FASTER * rates[model_dtype] else None


def _planned_dtype(snapshot: Path, weights_digest: str) -> str | None:
    """The type with which the run was planned for this target; None if it was not."""
    try:
        settings = json.loads(snapshot.read_text(encoding="utf-8"))["settings"]
        same = settings["weights"]["values"].get("digest") == weights_digest
        dtype = settings["hidden_states"]["values"]["target"]["dtype"]
    except (OSError, *NOT_OURS):
        return None
    return str(dtype) if same else None


def _rates(narrow: str, memo: Path) -> dict[str, float]:
    """FLOP/s in float32 and in the narrow type, measured once for a processor."""
    cores = usable_cores()
    name = f"{processor()}, {cores} cores"
    try:
        remembered = json.loads(memo.read_text(encoding="utf-8"))
        rates = {dtype: float(remembered[name][dtype]) for dtype in (WIDE, narrow)}
    except (OSError, *NOT_OURS):
        rates = measured_rates([WIDE, narrow], cores)
        write_text(memo, json.dumps({name: rates}, indent=1) + "\n")
    return rates


def measured_rates(names: list[str], threads: int) -> dict[str, float]:
    """FLOP/s of matrix products by name of the type."""
    import torch

    from eagle3.kernels.processor_rate import processor_rate

    return {name: processor_rate(getattr(torch, name), threads) for name in names}
