"""Words of shell commands, and the scripts that read them."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser

from hypothesis import given
from hypothesis import strategies as st

from rules.words import listed, options
from workflow_scripts.entry import Files


@given(first=st.integers(0, 99_000), count=st.integers(1, 300))
def test_a_script_reads_back_every_file_that_was_listed(first: int, count: int) -> None:
    paths = [f"results/run-7/x/shard-{n:05d}.safetensors" for n in range(first, first + count)]
    parser = ArgumentParser()
    parser.add_argument("--tokens", action=Files, nargs="+")
    found = parser.parse_args(["--tokens", listed(paths)]).tokens
    assert [str(path) for path in found] == paths


def test_options_are_quoted_and_what_is_not_given_is_left_out() -> None:
    text = options(self_check=0, target="a b", disk_budget_gb=None, flag=True, other=False)
    assert shlex.split(text) == ["--self-check", "0", "--target", "a b", "--flag"]
