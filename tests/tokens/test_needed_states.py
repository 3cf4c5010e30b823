"""Which states training reads, against the definition of an active row written out as loops."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eagle3.tokens.needed_states import needed_states

MASKS = st.lists(st.lists(st.booleans(), max_size=12), max_size=5)
STEPS = 5


def active(mask: list[bool], row: int, step: int) -> bool:
    """Row t has a loss at step k iff m_{t+1}, ..., m_{t+2+k} are 1 inside the document."""
    wanted = range(row + 1, row + 3 + step)
    return wanted[-1] < len(mask) and all(mask[position] for position in wanted)


def active_rows(mask: list[bool]) -> list[tuple[int, int]]:
    rows = range(len(mask))
    return [(row, step) for row in rows for step in range(STEPS) if active(mask, row, step)]


@given(masks=MASKS)
@example(masks=[[]])
@example(masks=[[True]])
@example(masks=[[True, True]])
@example(masks=[[False, True, True], [True, True, True], [True, False, True]])
@settings(max_examples=300, deadline=None)
def test_needed_states_are_those_that_active_rows_read(masks: list[list[bool]]) -> None:
    flat = np.array([m for mask in masks for m in mask], dtype=np.uint8)
    offsets = np.cumsum([0, *map(len, masks)])
    result = needed_states(flat, offsets)
    assert len(result.kept) == len(masks)
    for d, mask in enumerate(masks):
        supervised = [p for p, m in enumerate(mask) if m]
        assert result.kept[d] == (supervised[-1] + 1 if supervised else 0)
        # the teacher of row t at step k is the target's state at t + 1 + k
        read = sorted({row + 1 + step for row, step in active_rows(mask)})
        a, b = result.last_offsets[d : d + 2]
        assert result.last_positions[a:b].tolist() == read
        # step 0 gives one row of the loss for each of them
        assert sum(step == 0 for _, step in active_rows(mask)) == len(read)
        # an active row attends to all rows up to its own, and there is one to spare for none
        stored = int(result.aux_offsets[d + 1] - result.aux_offsets[d])
        assert stored == max(int(result.kept[d]) - 2, 0)
        assert all(row < stored for row, _ in active_rows(mask))
        if len(supervised) > 1 and mask[supervised[-1] - 1] and supervised[-1] >= 2:
            assert max(row for row, _ in active_rows(mask)) == stored - 1


def test_no_documents_need_nothing() -> None:
    result = needed_states(np.empty(0, np.uint8), np.zeros(1, np.int64))
    assert result.kept.tolist() == result.last_positions.tolist() == []
    assert result.aux_offsets.tolist() == result.last_offsets.tolist() == [0]
    assert {a.dtype for a in (result.kept, result.last_positions, result.aux_offsets)} == {
        np.dtype(np.int64)
    }


def test_documents_do_not_reach_into_each_other() -> None:
    result = needed_states(np.array([0, 1, 1, 0], np.uint8), np.array([0, 2, 4]))
    assert result.last_positions.tolist() == []
    assert result.kept.tolist() == [2, 1]
