"""Every page fits into a hundred columns, and every link, anchor and path in it leads somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 100
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if path.name != "configuration.md"  # generated; its own test compares it with the models
)
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.splitlines()
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
ROOMS = (
    "eagle3",
    "workflow_scripts",
    "rules",
    "tests",
    "benchmarks",
    "envs",
    "presets",
    "profiles",
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_code_blocks(text: str) -> str:
    """The prose of a page: fenced blocks, and blocks indented by four columns, are left out."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<=\n\n)((?: {4,}.*\n)+)", "\n", text)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    result: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", without_code_blocks(text), flags=re.MULTILINE):
        plain = LINK.sub(lambda link: link[0][1 : link[0].index("]")], heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 1
        unique = slug
        while unique in result:
            unique, number = f"{slug}-{number}", number + 1
        result.add(unique)
    return result


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_fit_into_a_hundred_columns(page: Path) -> None:
    """Rows of tables and lines that are one link or picture cannot be wrapped."""
    wide = [
        (number, line)
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > WIDTH and not line.lstrip().startswith("|")
    ]
    assert [
        result for result in wide if not re.fullmatch(r"\s*!?\[.*\]\(\S+\)[.,:]?", result[1])
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for target in LINK.findall(without_code_blocks(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if file.exists() and not anchor:
            continue
        if not file.exists() or anchor not in anchors(file.read_text(encoding="utf-8")):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_in_the_text_are_files_of_the_project(page: Path) -> None:
    """What is named `eagle3/…` or `tests/…` is there, so a moved file takes its pages along."""
    missing = []
    for code in CODE.findall(without_code_blocks(page.read_text(encoding="utf-8"))):
        path = code.split("::")[0].rstrip("/")
        if re.fullmatch(rf"(?:{'|'.join(ROOMS)})/[\w./-]+", path):
            held = any(file == path or file.startswith(f"{path}/") for file in TRACKED)
            if not held and path != "envs/eagle3.lock" and not path.startswith("envs/images"):
                missing.append(code)
    assert missing == []


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    links = LINK.findall(index.read_text(encoding="utf-8"))
    linked = {(index.parent / link.split("#")[0]).resolve() for link in links}
    pages = set((ROOT / "docs").rglob("*.md")) - {index}
    assert sorted(name(page) for page in pages - linked) == []


def test_the_checks_of_this_file_find_faults() -> None:
    """Headings with code, links and doubles; links in code blocks are no links."""
    headings = "# The `a.b` way\n\n## See [x](y.md)!\n\n## A\n\n## A\n\n"
    blocks = "    # indented\n\n```\n# fenced\n```\n"
    assert anchors(headings + blocks) == {"the-ab-way", "see-x", "a", "a-1"}
    assert LINK.findall(without_code_blocks("a [b](c.md#d)\n\n    [e](f.md)\n")) == ["c.md#d"]
