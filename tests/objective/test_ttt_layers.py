"""What several layers and a window cost, and what is kept of a step."""

from __future__ import annotations

import pytest
import torch

from eagle3.errors import UserError
from eagle3.objective.ttt import ttt_loss
from tests.objective.cases import (
    DRAFT_VOCAB,
    VOCAB,
    pack_of,
    random_documents,
    target_parts,
    tiny_draft,
)
from tests.objective.test_ttt import exact_objective


def test_a_window_shorter_than_the_steps_is_refused():
    generator = torch.Generator().manual_seed(8)
    documents = random_documents(generator, [[0, *[1] * 8]])
    head, target = target_parts(generator)
    draft = tiny_draft(sliding_window=3)
    with pytest.raises(UserError, match=r"draft\.sliding_window is 3, shorter than a chain of 4"):
        ttt_loss(draft, pack_of(documents, head), target, exact_objective(4))


def test_what_layers_attend_to_is_counted():
    """Two rows with a loss, of four: at step 0 the first layer attends in all of them."""
    generator = torch.Generator().manual_seed(0)
    (doc,) = random_documents(generator, [[0, 0, 0, 1, 1, 1]])
    head, target = target_parts(generator, draft_vocab=VOCAB)
    pack, counts = pack_of([doc], head), {}
    for name, switches in {
        "one": {},
        "two": {"num_hidden_layers": 2},
        "narrow": {"num_hidden_layers": 2, "sliding_window": 2},
    }.items():
        draft = tiny_draft(draft_vocab=VOCAB, **switches)
        counts[name] = ttt_loss(draft, pack, target, exact_objective(2))[1].attended.tolist()
    assert counts["one"] == [3 + 4, 3]  # rows 2 and 3 at step 0, row 2 at step 1
    assert counts["two"] == [(1 + 2 + 3 + 4) + (3 + 4), 3 + 3]
    assert counts["narrow"] == [(1 + 2 + 2 + 2) + (2 + 2), 1 + 1]


def kept_bytes(draft, pack, target, objective):
    """Bytes of different tensors that autograd keeps for the backward pass."""
    kept = {}

    def pack_hook(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        ttt_loss(draft, pack, target, objective)[0]
    return sum(kept.values())


def test_what_is_kept_grows_with_rows_and_not_with_steps_times_vocabulary():
    generator = torch.Generator().manual_seed(11)
    (doc,) = random_documents(generator, [[0, *[1] * 200]])
    sizes = {}
    for vocab in (5, DRAFT_VOCAB):
        head, target = target_parts(generator, draft_vocab=vocab)
        draft = tiny_draft(draft_vocab=vocab)
        sizes[vocab] = kept_bytes(draft, pack_of([doc], head), target, exact_objective(1))
    # the head, its gradient, and nothing of the size of logits [rows, vocabulary]
    assert sizes[DRAFT_VOCAB] - sizes[5] < 200 * (DRAFT_VOCAB - 5) * 8

    head, target = target_parts(generator, draft_vocab=VOCAB)
    draft, pack = tiny_draft(draft_vocab=VOCAB), pack_of([doc], head)
    whole = kept_bytes(draft, pack, target, exact_objective(7))
    less = kept_bytes(draft, pack, target, exact_objective(7, recompute=True))
    assert less < 0.6 * whole
