"""The configurations that the project brings."""

from __future__ import annotations

from pathlib import Path

import yaml

from eagle3.errors import UserError
from eagle3.workflow.project import project_root


def preset_file(name: str) -> str:
    """The path of a preset, whose name may be cut short. Raises UserError unless there is one."""
    names = [path.stem for path in _presets()]
    meant = [name] if name in names else [each for each in names if each.startswith(name)]
    if len(meant) != 1:
        raise UserError(
            f"--preset: there is no preset {name!r}; choose from {', '.join(meant or names)}"
        )
    return str(_folder() / f"{meant[0]}.yaml")


def presets_of(model: str) -> list[str]:
    """Names of the presets for a target, hub:<owner>/<name>."""
    targets = {path.stem: yaml.safe_load(path.read_text("utf-8"))["target"] for path in _presets()}
    return [name for name, target in targets.items() if target["model"] == model]


def _presets() -> list[Path]:
    return sorted(_folder().glob("*.yaml"))


def _folder() -> Path:
    return project_root() / "presets"
