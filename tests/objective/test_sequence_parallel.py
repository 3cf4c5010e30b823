"""Ranks that share a pack equal one rank, in loss, totals and every gradient."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eagle3.draft.config import check_heads
from eagle3.errors import UserError
from eagle3.objective.sequence_parallel.attention import kv_heads, query_heads
from eagle3.objective.sequence_parallel.sharding import deal_rows
from tests.objective.cases import tiny_draft

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = ["1x1", "2x1", "1x2", "2x2", "4x1", "1x4"]  # Ulysses x ring
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    """By layout, type, back end and pack: how far four real ranks are from one."""
    file = tmp_path_factory.mktemp("sequence") / "differences.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "4", "-m", "tests.objective.sequence_worker", str(file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(file.read_text())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", TOLERANCE)
def test_sharing_a_pack_changes_neither_loss_nor_any_gradient(differences, layout, kind):
    result = {key: d for key, d in differences.items() if key.startswith(f"{layout} {kind} ")}
    assert len(result) >= 10
    assert kind == "float32" or any(key.endswith("two layers") for key in result)
    assert max(result.values()) <= TOLERANCE[kind], result
    assert max(result.values()) > 0  # some rank did something


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5), st.integers(1, 7))
def test_every_row_is_dealt_once_and_active_ones_evenly(flags, ranks, steps):
    active = torch.tensor(flags, dtype=torch.bool).nonzero().flatten()
    shards = deal_rows(active, len(flags), ranks, steps)
    assert torch.cat([s.rows for s in shards]).sort().values.tolist() == list(range(len(flags)))
    assert torch.cat([s.slots for s in shards]).sort().values.tolist() == list(range(len(active)))
    counts = [len(s.slots) for s in shards]
    assert max(counts) - min(counts) <= 2
    rows = [len(s.rows) for s in shards]
    assert max(rows) - min(rows) <= 3
    for shard in shards:
        assert set(active[shard.slots].tolist()) <= set(shard.rows.tolist())
        reached = {int(s) + k for s in shard.slots for k in range(steps)}
        assert {s for s in reached if s < len(active)} == set(shard.taught.tolist())
        for tensor in vars(shard).values():
            assert torch.equal(tensor, tensor.unique())


def test_zig_zag_gives_every_rank_as_many_pairs_of_query_and_key():
    rows = torch.arange(4096)
    work = [int((s.slots + 1).sum()) for s in deal_rows(rows, 4096, 4, 7)]
    assert max(work) == min(work)


@pytest.mark.parametrize(("heads", "kv", "size"), [(4, 2, 2), (4, 2, 4), (8, 8, 4), (6, 3, 3)])
def test_heads_of_queries_go_where_their_keys_are(heads, kv, size):
    config = replace(tiny_draft().config, num_attention_heads=heads, num_key_value_heads=kv)
    check_heads(config, size)
    for mine, keys in zip(query_heads(config, size), kv_heads(config, size), strict=True):
        assert sorted({head // (heads // kv) for head in mine}) == keys
    dealt = [head for mine in query_heads(config, size) for head in mine]
    assert dealt == list(range(heads))


@pytest.mark.parametrize(("heads", "kv", "size"), [(4, 2, 3), (12, 6, 4)])
def test_heads_that_cannot_be_divided_are_refused(heads, kv, size):
    config = replace(tiny_draft().config, num_attention_heads=heads, num_key_value_heads=kv)
    with pytest.raises(UserError, match=rf"sp_ulysses_size: {size} ranks.*{heads} heads"):
        check_heads(config, size)
