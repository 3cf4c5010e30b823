"""The configurations shipped with the project."""

from __future__ import annotations

from pathlib import Path

import yaml

from eagle3.errors import UserError
from eagle3.workflow.project import project_root


def preset_file(name: str) -> str:
    """The path of a preset, given a unique prefix of its name. Raises UserError for any other."""
    names = [path.stem for path in _presets()]
    matches = [name] if name in names else [stem for stem in names if stem.startswith(name)]
    if len(matches) != 1:
        raise UserError(
            f"--preset: there is no preset {name!r}; choose from {', '.join(matches or names)}"
        )
    return str(_folder() / f"{matches[0]}.yaml")


def presets_of(model: str) -> list[str]:
    """Names of the presets for a target, hub:<owner>/<name>."""
    targets = {path.stem: yaml.safe_load(path.read_text("utf-8"))["target"] for path in _presets()}
    return [name for name, target in targets.items() if target["model"] == model]


def _presets() -> list[Path]:
    return sorted(_folder().glob("*.yaml"))


def _folder() -> Path:
    return project_root() / "presets"
