"""Masks as people see them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from eagle3.report.masks import END, PLAIN, SUPERVISED, for_browser, for_terminal
from tests.builders.shards import token_shard
from tests.data.toy_tokenizers import CHATML, toy_tokenizer
from tests.rules.workflow import ROOT

TEXT = "ask<é>\nanswer"


class Letters:
    """A tokenizer of letters."""

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool) -> str:
        return "".join(map(chr, ids))


@pytest.fixture
def shard(tmp_path: Path):
    ids = [ord(letter) for letter in TEXT]
    return token_shard(tmp_path / "shard", [(ids, [0] * 6 + [1] * (len(ids) - 6)), ([97], [1])])


def test_a_terminal_shows_supervised_text_in_colour_line_by_line(shard) -> None:
    shown = for_terminal(shard, 0, Letters())
    assert shown == (
        "row-0: 7 of 13 tokens supervised\n"
        f"{PLAIN}ask<é>{END}{SUPERVISED}{END}\n{SUPERVISED}answer{END}\n"
    )


def test_a_page_shows_the_text_itself_and_never_runs_it(shard) -> None:
    page = for_browser(shard, range(2), Letters())
    assert "<pre>ask&lt;é&gt;<mark>\nanswer</mark></pre>" in page
    assert "<pre><mark>a</mark></pre>" in page
    assert not re.search(r"https?://|<script", page)


def test_the_script_prints_and_writes_and_names_what_is_not_there(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer(CHATML)
    tokenizer.save_pretrained(tmp_path / "target")
    (tmp_path / "target/config.json").write_text("{}")
    ids = tokenizer("ask answer")["input_ids"]
    token_shard(tmp_path / "shard", [(ids, [0] * 4 + [1] * (len(ids) - 4))])
    command = [sys.executable, "-m", "workflow_scripts.show_masks", str(tmp_path / "shard")]
    command += ["--target", str(tmp_path / "target")]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], cwd=ROOT, capture_output=True, text=True, check=False
        )

    done = run()
    assert done.returncode == 0, done.stderr
    assert f"{PLAIN}ask {END}{SUPERVISED}answer{END}" in done.stdout
    assert run("--html", str(tmp_path / "page.html")).returncode == 0
    assert "<pre>ask <mark>answer</mark></pre>" in (tmp_path / "page.html").read_text()
    wrong = run("--first", "1")
    assert wrong.returncode == 1
    assert "error: --first is 1, but" in wrong.stderr
