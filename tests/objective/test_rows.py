"""Active rows against their definition, and the law that makes slots work."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from eagle3.objective.rows import step_rows
from tests.objective.reference import active_at

STEPS = 5
DOCUMENT = st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=14)
IN_VOCAB = torch.tensor([True, True, True, False])


@given(st.lists(DOCUMENT, min_size=1, max_size=4))
def test_rows_are_those_of_the_definition(documents):
    ids = torch.tensor([token for doc in documents for _, token in doc])
    mask = torch.tensor([flag for doc in documents for flag, _ in doc])
    numbers = torch.tensor([n for n, doc in enumerate(documents) for _ in doc])
    result = step_rows(ids, mask, numbers, IN_VOCAB, STEPS)
    begin = 0
    expected = [[] for _ in range(STEPS)]
    allowed = [0] * STEPS
    for doc in documents:
        flags, tokens = [flag for flag, _ in doc], [token for _, token in doc]
        for k in range(STEPS):
            for t in range(len(doc)):
                if active_at(t, k, flags, tokens, IN_VOCAB.tolist()):
                    expected[k].append(begin + t)
                allowed[k] += active_at(t, k, flags, tokens, [True] * 4)
        begin += len(doc)
    assert result.tokens.tolist() == expected[0]
    assert result.depth == sum(map(bool, expected))
    for k, slots in enumerate(result.slots):
        assert result.tokens[slots].tolist() == expected[k]
        assert int((result.allowed >= k).sum()) == allowed[k]
        # row t reads at step k what row t + k has at step 0
        assert torch.equal(result.tokens[slots + k], result.tokens[slots] + k)
