"""The objective against a slow reference and against the textbook EAGLE loop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eagle3.errors import UserError
from eagle3.objective import bucketing
from eagle3.objective.dispatch import BACKENDS
from eagle3.objective.losses import LOSSES
from eagle3.objective.ttt import Objective, ttt_loss
from tests.objective.cases import (
    DRAFT_VOCAB,
    HIDDEN,
    SWITCHES,
    VOCAB,
    pack_of,
    random_documents,
    target_parts,
    tiny_draft,
)
from tests.objective.reference import SlowDraft, slow_loss

MASKS = {
    "one answer": [[0, 0, 0, 1, 1, 1, 1, 1, 0]],
    "two answers, prompt between": [[0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0]],
    "single supervised token": [[0, 0, 1, 0, 1, 1, 1, 1, 1]],
    "answer from the first token": [[1, 1, 1, 1]],
    "several documents": [[0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1, 1, 1, 1], [1] * 12],
}


def exact_objective(steps, **more):
    return Objective(steps=steps, decay=0.8, dtype=torch.float64, **more)


def gradients(draft):
    return {name: p.grad.clone() for name, p in draft.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_loss_and_every_gradient_equal_the_row_by_row_reference(name, steps):
    compare_with_reference(tiny_draft(), name, steps)


@pytest.mark.parametrize("switches", [s for s in SWITCHES if s != "plain"])
@pytest.mark.parametrize("active_rows", ["reachable", "supervised"])
def test_variants_of_the_draft_and_of_its_rows_equal_the_reference_too(switches, active_rows):
    draft = tiny_draft(**SWITCHES[switches])
    compare_with_reference(draft, "several documents", 4, active_rows)
    compare_with_reference(draft, "two answers, prompt between", 3, active_rows, frozen=True)


def compare_with_reference(draft, name, steps, active_rows="reachable", frozen=False):
    """Loss, totals and gradients of a case; `frozen`: of the head and the norm none are wanted."""
    generator = torch.Generator().manual_seed(len(name) + steps)
    documents = random_documents(generator, MASKS[name], len(draft.config.aux_layers))
    head, target = target_parts(generator)
    draft.zero_grad()
    draft.lm_head.requires_grad_(not frozen)
    draft.norm.requires_grad_(not frozen)
    objective = exact_objective(steps, active_rows=active_rows)
    loss, totals = ttt_loss(draft, pack_of(documents, head), target, objective)
    loss.backward()
    fast = gradients(draft)

    draft.zero_grad()
    slow = SlowDraft(dict(draft.named_parameters()), draft.config, draft.inv_freq)
    expected, trained, correct = 0.0, [0] * steps, [0] * steps
    for doc in documents:
        part, counts, hits = slow_loss(
            slow,
            doc,
            target.embedding,
            target.head.weight,
            target.draft_ids,
            head.logits(doc["last"]).argmax(-1),
            steps,
            0.8,
            active_rows,
        )
        expected = expected + part
        trained = [a + b for a, b in zip(trained, counts, strict=True)]
        correct = [a + b for a, b in zip(correct, hits, strict=True)]
    expected.backward()

    assert totals.trained.tolist() == trained
    assert totals.correct.tolist() == correct
    assert sum(trained) > 0
    torch.testing.assert_close(loss, expected.detach() + 0 * loss, rtol=1e-9, atol=1e-9)
    for parameter, gradient in gradients(draft).items():
        torch.testing.assert_close(fast[parameter], gradient, rtol=1e-9, atol=1e-9)


def textbook_loss(draft, doc, embedding, head, steps, decay):
    """EAGLE-3's own loop: every row, dense masks, everything shifted left by one each step."""
    length = len(doc["ids"])
    config, attn = draft.config, draft.midlayer.self_attn
    ids = torch.cat([doc["ids"][1:], doc["ids"].new_zeros(1)])
    target_p = torch.softmax(doc["last"] @ head.T, -1)
    target_p = torch.cat([target_p[1:], target_p.new_zeros(1, target_p.shape[1])])
    mask = torch.zeros(length)
    mask[: length - 2] = 1.0  # mask'[t] = m[t + 1] * m[t + 2] for a mask of ones
    hidden = draft.project_aux(doc["aux"])
    dense = torch.full((length, length), float("-inf")).triu(1).double()
    keys, values, total = [], [], 0.0
    repeat = config.num_attention_heads // config.num_key_value_heads
    for step in range(steps):
        x = draft.layer_input(embedding[ids], hidden)
        position = torch.arange(length) + step
        q = draft.queries(x, position).transpose(0, 1)  # [h, L, d]
        k, v = draft.keys_values(x, position)
        keys.append(k.repeat_interleave(repeat, 1).transpose(0, 1))
        values.append(v.repeat_interleave(repeat, 1).transpose(0, 1))
        scores = q @ keys[0].transpose(1, 2) / config.head_dim**0.5 + dense
        for own in keys[1:]:
            diagonal = (q * own).sum(-1, keepdim=True) / config.head_dim**0.5
            scores = torch.cat([scores, diagonal], -1)
        share = torch.softmax(scores, -1)
        out = share[..., :length] @ values[0]
        for i, own in enumerate(values[1:]):
            out = out + share[..., length + i : length + i + 1] * own
        h = hidden + attn.o_proj(out.transpose(0, 1).flatten(-2))
        hidden = h + draft.midlayer.mlp(draft.midlayer.post_attention_layernorm(h))
        log_q = torch.log_softmax(draft.logits(hidden), -1)
        total = total + decay**step * -(target_p * log_q * mask[:, None]).sum()
        ids = torch.cat([ids[1:], ids.new_zeros(1)])
        target_p = torch.cat([target_p[1:], target_p.new_zeros(1, target_p.shape[1])])
        mask = torch.cat([mask[1:], mask.new_zeros(1)])
    return total / sum(decay**step for step in range(steps))


@pytest.mark.parametrize("switches", ["plain", "qk_norm", "fc_norm"])
@pytest.mark.parametrize("length", [3, 9, 20])
def test_with_full_mask_and_vocabulary_it_is_the_textbook_eagle_loop(length, switches):
    generator = torch.Generator().manual_seed(length)
    (doc,) = random_documents(generator, [[1] * length])
    head, target = target_parts(generator, draft_vocab=VOCAB)
    draft = tiny_draft(draft_vocab=VOCAB, **SWITCHES[switches])
    loss, _ = ttt_loss(draft, pack_of([doc], head), target, exact_objective(7))
    loss.backward()
    fast = gradients(draft)
    draft.zero_grad()
    expected = textbook_loss(draft, doc, target.embedding, head.weight, 7, 0.8)
    expected.backward()
    torch.testing.assert_close(loss, expected + 0 * loss, rtol=1e-9, atol=1e-9)
    for parameter, gradient in gradients(draft).items():
        torch.testing.assert_close(fast[parameter], gradient, rtol=1e-9, atol=1e-9)


def small_case(seed, masks="several documents"):
    generator = torch.Generator().manual_seed(seed)
    documents = random_documents(generator, MASKS[masks])
    head, target = target_parts(generator)
    return documents, head, target


def outcome(draft, packs, target, objective, acceptance=None):
    """Summed loss, totals and gradients of some packs."""
    draft.zero_grad()
    result = [ttt_loss(draft, pack, target, objective, acceptance) for pack in packs]
    total = sum(loss for loss, _ in result)
    total.backward()
    return total.detach(), sum(totals.stacked() for _, totals in result), gradients(draft)


def assert_same(one, other, rtol=1e-10):
    for a, b in zip(one[:2], other[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-10)
    for name, gradient in one[2].items():
        torch.testing.assert_close(other[2][name], gradient, rtol=rtol, atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("active_rows", ["reachable", "supervised"])
def test_a_pack_equals_its_documents_one_by_one(loss, active_rows):
    documents, head, target = small_case(5)
    draft = tiny_draft(**SWITCHES["all"])
    objective = exact_objective(7, loss=loss, active_rows=active_rows)
    acceptance = torch.linspace(0.9, 0.2, 7, dtype=torch.float64)
    together = outcome(draft, [pack_of(documents, head)], target, objective, acceptance)
    alone = [pack_of([doc], head) for doc in documents]
    assert_same(outcome(draft, alone, target, objective, acceptance), together)


@pytest.mark.parametrize("switches", ["all", "all of two layers", "window of two layers"])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "flex"])
def test_every_attention_back_end_gives_the_same_gradients(backend, switches):
    documents, head, target = small_case(8)
    draft, packs = tiny_draft(**SWITCHES[switches]), [pack_of(documents, head)]
    if switches.startswith("window"):
        draft.config = replace(draft.config, sliding_window=7)
        if backend == "flash":  # its kernels know no window
            with pytest.raises(
                UserError, match=r"flash but draft\.sliding_window is 7: its kernels"
            ):
                outcome(draft, packs, target, exact_objective(7, attention=backend))
            return
    plain = outcome(draft, packs, target, exact_objective(7, attention="reference"))
    assert_same(outcome(draft, packs, target, exact_objective(7, attention=backend)), plain)


@pytest.mark.parametrize("multiple", [1, 3, 64])
def test_filling_rows_up_changes_nothing(monkeypatch, multiple):
    documents, head, target = small_case(9)
    draft, packs = tiny_draft(), [pack_of(documents, head)]
    usual = outcome(draft, packs, target, exact_objective(7))
    monkeypatch.setattr(bucketing, "FEW_MULTIPLE", multiple)
    assert_same(outcome(draft, packs, target, exact_objective(7)), usual)


@pytest.mark.parametrize("switches", ["plain", "all", "all of two layers"])
def test_recomputing_steps_changes_no_bit(switches):
    documents, head, target = small_case(10)
    draft, packs = tiny_draft(**SWITCHES[switches]), [pack_of(documents, head)]
    usual = outcome(draft, packs, target, exact_objective(7))
    again = outcome(draft, packs, target, exact_objective(7, recompute=True))
    assert torch.equal(usual[0], again[0]) and torch.equal(usual[1], again[1])
    assert all(torch.equal(usual[2][name], gradient) for name, gradient in again[2].items())


@pytest.mark.parametrize("switches", ["plain", "all"])
def test_bfloat16_differs_by_its_rounding_only(switches):
    documents, head, target = small_case(16)
    pack = pack_of(documents, head)
    draft = tiny_draft(**SWITCHES[switches]).float()
    exactly = outcome(draft, [pack], target, Objective())
    narrow = outcome(draft, [pack], target, Objective(dtype=torch.bfloat16))
    assert abs(narrow[0] / exactly[0] - 1) < 2e-2
    for name, gradient in exactly[2].items():
        assert narrow[2][name].dtype == torch.float32
        assert (narrow[2][name] - gradient).norm() < 5e-2 * gradient.norm(), name


def test_tokens_after_the_last_supervised_one_change_nothing():
    generator = torch.Generator().manual_seed(6)
    (doc,) = random_documents(generator, [[0, 1, 1, 1, 1]])
    longer = {
        "ids": torch.cat([doc["ids"], torch.tensor([1, 2, 3])]),
        "mask": torch.cat([doc["mask"], torch.zeros(3, dtype=torch.bool)]),
        "aux": torch.cat([doc["aux"], torch.randn(3, 3 * HIDDEN, dtype=torch.float64)]),
        "last": torch.cat([doc["last"], torch.randn(3, HIDDEN, dtype=torch.float64)]),
    }
    head, target = target_parts(generator)
    draft = tiny_draft()
    a, _ = ttt_loss(draft, pack_of([doc], head), target, exact_objective(7))
    b, _ = ttt_loss(draft, pack_of([longer], head), target, exact_objective(7))
    assert torch.equal(a, b)


def test_logits_over_the_target_vocabulary_are_never_formed():
    """The widest tensor of a step has the width of the draft vocabulary."""
    generator = torch.Generator().manual_seed(7)
    documents = random_documents(generator, MASKS["several documents"])
    head, target = target_parts(generator)
    pack = pack_of(documents, head)
    draft = tiny_draft()
    seen = []

    class Shapes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dim() == 2:
                seen.append(tuple(out.shape))
            return out

    with Shapes():
        loss, _ = ttt_loss(draft, pack, target, exact_objective(7))
        loss.backward()
    assert any(shape[1] == DRAFT_VOCAB for shape in seen)
    assert not any(shape[1] == VOCAB for shape in seen)
