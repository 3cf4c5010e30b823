"""Noise on features: its draws against the hash spelled out, and what must never change one."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from eagle3.objective.sequence_parallel.sharding import PackShards, deal_rows
from eagle3.training.feature_noise import noisy, row_keys, uniform, with_noise
from tests.objective.cases import HIDDEN, pack_of, random_documents, target_parts

MASKS = [[0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1]]


def mixed(x):
    """lowbias32 on Python's own numbers."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def drawn(seed, step, document, position, column):
    key = 0
    for part in (seed, step, document, position):
        key = mixed(key ^ part % 2**32)
    result = mixed((key + column * 0x9E3779B9) % 2**32)
    return (result - 2**32 if result >= 2**31 else result) / 2**31


@given(
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**6),
    document=st.integers(0, 10**7),
    position=st.integers(0, 10**6),
)
def test_a_draw_is_the_hash_of_its_place(seed, step, document, position):
    keys = row_keys(seed, step, torch.tensor([document]), torch.tensor([position]))
    expected = [drawn(seed, step, document, position, column) for column in range(5)]
    torch.testing.assert_close(uniform(keys, 5)[0], torch.tensor(expected))


def test_draws_are_uniform_and_no_two_rows_or_columns_go_together():
    positions = torch.arange(400)
    keys = row_keys(1, 2, torch.full((400,), 3), positions)
    draws = uniform(keys, 300).double()
    assert abs(draws.mean()) < 0.01  # 120,000 draws of deviation 0.577: 0.0017
    torch.testing.assert_close(draws.var(), torch.tensor(1 / 3).double(), rtol=0.01, atol=0)
    for table in (draws, draws.T):
        related = torch.corrcoef(table) - torch.eye(len(table))
        assert related.abs().max() < 6 / table.shape[1] ** 0.5
    other = uniform(row_keys(1, 3, torch.full((400,), 3), positions), 300)  # the next step
    assert (
        abs(torch.corrcoef(torch.stack([draws.flatten(), other.double().flatten()]))[0, 1]) < 0.02
    )


def packed(numbers):
    generator = torch.Generator().manual_seed(0)
    documents = random_documents(generator, MASKS)
    head, _ = target_parts(generator)
    return pack_of([documents[number] for number in numbers], head)


def test_neither_packing_nor_order_changes_a_draw_but_the_step_does():
    def noise(step, *packs):
        """Noised rows of each document."""
        planned = [(step, np.array(numbers)) for numbers in packs]
        result = {}
        for pack, (_, numbers) in zip(
            with_noise([packed(n) for n in packs], planned, 0.1, 7), planned, strict=True
        ):
            owners = pack.documents[pack.row_tokens]
            result |= {int(n): pack.aux[owners == slot] for slot, n in enumerate(numbers)}
        return result

    together, apart = noise(5, [0, 1, 2]), noise(5, [2, 0], [1])
    later = noise(6, [0, 1, 2])
    for number, rows in together.items():
        assert torch.equal(rows, apart[number])
        assert not torch.equal(rows, later[number])


def test_noise_stays_within_its_share_of_each_layers_size():
    aux = torch.randn(50, 3 * HIDDEN) * torch.tensor([0.01, 1.0, 100.0]).repeat_interleave(HIDDEN)
    keys = row_keys(0, 0, torch.zeros(50, dtype=torch.int64), torch.arange(50))
    change = (noisy(aux, keys, 0.25, HIDDEN) - aux).view(50, 3, HIDDEN)
    size = aux.view(50, 3, HIDDEN).square().mean(-1, keepdim=True).sqrt()
    share = change / size
    assert share.abs().max() <= 0.25 * 1.001
    assert (share.abs().amax((0, 2)) > 0.24).all()  # of each layer alike
    assert noisy(aux.bfloat16(), keys, 0.25, HIDDEN).dtype == torch.bfloat16


def test_ranks_that_share_a_pack_draw_for_their_rows_what_one_rank_draws():
    pack, planned = packed([0, 1, 2]), [(4, np.arange(3))]
    (whole,) = with_noise([pack], planned, 0.1, 7)
    active = torch.searchsorted(pack.row_tokens, pack.last_tokens - 1)
    shards = deal_rows(active, len(pack.row_tokens), ranks=2, steps=3)
    for index, shard in enumerate(shards):
        ranks = SimpleNamespace(sequence=SimpleNamespace(index=index))
        part = replace(pack, aux=pack.aux[shard.rows], shards=PackShards(shards, ranks))
        (own,) = with_noise([part], planned, 0.1, 7)
        assert torch.equal(own.aux, whole.aux[shard.rows])
