"""The draft with the embedding's half apart against the draft itself, values and gradients."""

from __future__ import annotations

import pytest
import torch

from eagle3.draft.training_forward import TrainingDraft
from tests.objective.cases import HIDDEN, SWITCHES, tiny_draft


def normal(draw, *size):
    return torch.randn(*size, generator=draw, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("switches", ["plain", "qk_norm"])
@pytest.mark.parametrize("seed", range(3))
def test_projections_equal_those_of_the_whole_input(seed, switches):
    """Steps 0 and 2, rows that read each other's tokens."""
    draw = torch.Generator().manual_seed(seed)
    draft = tiny_draft(seed=seed, **SWITCHES[switches])
    embedding = torch.randn(9, HIDDEN, generator=draw, dtype=torch.float64)
    hidden, later = normal(draw, 9, HIDDEN), normal(draw, 3, HIDDEN)
    queried = torch.tensor([2, 3, 4, 5, 8])
    index = torch.tensor([0, 1, 1]) + 2  # the tokens of queried rows 2 to 4
    positions, then = torch.arange(9), torch.tensor([4, 5, 30])
    weights = list(draft.parameters())

    def plain():
        x = draft.layer_input(embedding, hidden)
        k0, v0 = draft.keys_values(x, positions)
        y = draft.layer_input(embedding[queried[index]], later)
        k, v = draft.keys_values(y, then)
        return draft.queries(x[queried], positions[queried]), k0, v0, draft.queries(y, then), k, v

    def halved():
        training = TrainingDraft(draft, torch.float64, 31)
        embedded = training.project_embeddings(embedding, queried)
        (layer,) = training.layers
        reads = embedded.of_reads(torch.arange(len(queried)))
        first = layer.first_projections(hidden, positions, queried, reads)
        return *first, *layer.projections(later, then, embedded.of_reads(index))

    outcomes = []
    for function in (plain, halved):
        result = function()
        at = torch.Generator().manual_seed(9)
        weighted = [
            (t * torch.randn(t.shape, generator=at, dtype=torch.float64)).sum() for t in result
        ]
        gradients = torch.autograd.grad(
            sum(weighted), [hidden, later, *weights], allow_unused=True, materialize_grads=True
        )
        outcomes.append([*result, *gradients])
    for expected, one in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("switches", SWITCHES)
def test_the_rest_of_the_layer_is_the_drafts(switches):
    draw = torch.Generator().manual_seed(0)
    draft = tiny_draft(**SWITCHES[switches])
    training = TrainingDraft(draft, torch.float64, 4)
    hidden, attended = normal(draw, 5, HIDDEN), normal(draw, 5, 4, 6)
    last = draft.config.num_hidden_layers - 1
    for number, layer in enumerate(training.layers):
        expected = draft.finish(hidden, attended, number)
        result = layer.finish(hidden, attended.flatten(1))
        result = training.finish(result) if number == last else result
        torch.testing.assert_close(result, expected)
    torch.testing.assert_close(training.head(training.head_input(hidden)), draft.logits(hidden))
    width = draft.config.aux_width
    aux = torch.randn(5, width, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(training.project_aux(aux), draft.project_aux(aux))
