"""The version stands in three files, and the newest of the changelog is the project's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_names_the_version_and_no_person() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == VERSION
    assert all(set(author) == {"name"} for author in citation["authors"])


def test_the_changelog_begins_with_what_is_to_come_and_then_the_version() -> None:
    first, *released = re.findall(r"^## \[(.+?)\]", CHANGELOG, flags=re.MULTILINE)
    assert first == "Unreleased"
    assert released[:1] in ([], [VERSION])
    numbers = [tuple(map(int, version.split("."))) for version in released]
    assert numbers == sorted(numbers, reverse=True)
    assert set(re.findall(r"^### (.*)$", CHANGELOG, flags=re.MULTILINE)) <= KINDS
