"""The model card of an exported draft: a README.md as the Hugging Face hub wants it.

Equal runs give equal bytes: the card contains no date, no machine and no local folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from eagle3.data.sources import Source
from eagle3.files.hub import HUB, HUB_NAME
from eagle3.report.facts import RunFacts
from eagle3.report.origin import hub_dataset
from eagle3.report.serve_commands import ENGINES, serve_command

TEMPLATE = Path(__file__).with_name("card.md.jinja")
DRAFT, TARGET = "path/to/this/draft", "path/to/the/target"
LICENCE_KEYS = ("license", "license_name", "license_link")
FENCE = "---"


def render_card(
    facts: RunFacts, export_format: str, sources: Sequence[Source], licence: Mapping[str, str]
) -> str:
    """The card of the draft in one format. `licence`: the result of `licence_of` for the target."""
    base = hub_name(facts.config)
    front_matter: dict[str, Any] = {
        "base_model": base,
        "library_name": export_format if export_format in ENGINES else "eagle3",
        "pipeline_tag": "text-generation",
        "tags": ["eagle3", "speculative-decoding", "draft-model"],
        "datasets": sorted({name for source in sources if (name := hub_dataset(source))}),
        **licence,
    }
    environment = jinja2.Environment(  # Markdown, whose HTML the hub sanitises
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "percent": lambda value: f"{value:.1%}",
        "plain": plain,
    }
    stage = facts.exported or len(facts.stages)
    command = ""
    if export_format in ENGINES:
        command = serve_command(
            export_format, base or TARGET, DRAFT, facts.worth.best_length, facts.config
        )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        front=yaml.safe_dump({k: v for k, v in front_matter.items() if v}, sort_keys=False).strip(),
        facts=facts,
        format=export_format,
        engine=ENGINES.get(export_format),
        target=base or target_name(facts.config),
        named=base is not None,
        licensed="license" in licence,
        command=command,
        draft=DRAFT,
        target_path=TARGET,
        chosen=stage,
        stages=len(facts.stages),
        steps=int((facts.metrics["stage"] <= stage).sum()),
    )


def hub_name(config: Mapping[str, Any]) -> str | None:
    """`owner/name` of the target on the hub; None if the configuration does not name it."""
    model, verifier = config["target"]["model"], config["export"]["verifier"]
    if model.startswith(HUB):
        return str(model.removeprefix(HUB))
    if verifier and HUB_NAME.fullmatch(verifier) and not Path(verifier).exists():
        return str(verifier)
    return None


def target_name(config: Mapping[str, Any]) -> str:
    """Display name of a target that is not on the hub: its folder's name."""
    model = config["target"]["model"]
    return "the embedded target" if model == "embedded" else Path(model).expanduser().name


def licence_of(card: Path | None) -> dict[str, str]:
    """The licence keys in the front matter of a model card; empty if there are none.

    A relative link is left out: it would be broken in another repository.
    """
    try:
        text = card.read_text(encoding="utf-8") if card else ""
    except (OSError, ValueError):
        return {}
    match = re.match(rf"{FENCE}\s*\n(.*?)\n{FENCE}\s*(\n|$)", text, flags=re.DOTALL)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict) or not isinstance(values.get("license"), str):
        return {}
    licence = {key: values[key] for key in LICENCE_KEYS if isinstance(values.get(key), str)}
    if not licence.get("license_link", "").startswith(("http://", "https://")):
        licence.pop("license_link", None)
    return licence


def plain(text: str) -> str:
    """A name without characters that Markdown would interpret."""
    return re.sub(r"[^\w .,:/@+-]", "_", text)
