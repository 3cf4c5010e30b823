"""Whether states of another project are the target's own: a sample is compared with a plain forward
pass of the target before anything is converted.

A cosine would not tell a state before the final norm from one after it where the gain is near one,
so relative errors are compared. Where they are too large, the target's other layers are tried, so
that the message says what the states are instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from eagle3.data.faults import BadRow
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.imports.document import Expected, PeerDocument, PeerFiles
from eagle3.imports.listing import KEY
from eagle3.imports.masks import Answers, Fit, sentence, total
from eagle3.target_model.rounding import NEARER, most_different

Norm = Callable[[torch.Tensor], torch.Tensor]  # [L, H] before the final norm -> after it
READ, RUN = 16, 3  # documents read, and those of them run through the target
LONGEST = 1024  # tokens of a document that are run: the target is causal, so the rest has no effect


@dataclass(frozen=True)
class Sample:
    """Documents of a folder, evenly spread over it."""

    documents: dict[int, PeerDocument]
    bad: dict[int, BadRow] = field(default_factory=dict)

    @classmethod
    def of(cls, files: PeerFiles, numbers: np.ndarray, expected: Expected) -> Sample:
        """Read a sample. Raises UserError if no document can be used."""
        sampled = numbers[np.linspace(0, len(numbers) - 1, min(READ, len(numbers))).astype(int)]
        documents, bad = {}, {}
        for number in dict.fromkeys(sampled.tolist()):
            try:
                document = files.read(number)
                expected.check(document)
                documents[number] = document
            except BadRow as fault:
                bad[number] = fault
        if not documents:
            first, cause = next(iter(bad.items()))
            detail = f" ({cause.detail})" if cause.detail else ""
            raise UserError(
                f"{KEY}: none of {len(bad)} documents that were read can be used, such as number "
                f"{first}: {cause}{detail}; they are of another target or layers, or damaged"
            )
        return cls(documents, bad)


def check_masks(sample: Sample, answers: Answers) -> Fit:
    """How well the masks agree with the target's template. Raises UserError if they do not."""
    fit = total(
        answers.trimmed(document.input_ids, document.loss_mask)[1]
        for document in sample.documents.values()
    )
    if not fit.answers:
        raise _no_supervised_token(sample)
    if not fit.alike:
        raise UserError(
            f"{KEY}: only {sentence(fit)} of target.model, so the masks are of another template; "
            "hidden_states.source.check_template: false takes them all the same"
        )
    return fit


def check_states(
    sample: Sample, target: HFTarget, layers: Sequence[int], norm: Norm, normed: bool
) -> dict[str, float]:
    """Median relative errors of a few documents' rows to a plain forward pass, for each layer and
    the last state; the largest over the documents.

    `norm`: the target's final norm; `normed`: whether the files should have states after it. Raises
    UserError if the states are not the target's.
    """
    errors: dict[str, float] = {}
    most = most_different(target.body.config)
    supervised = [number for number, doc in sample.documents.items() if doc.loss_mask.any()]
    if not supervised:
        raise _no_supervised_token(sample)
    shortest = sorted(supervised, key=lambda n: len(sample.documents[n].input_ids))
    for number in sorted(shortest[:: max(1, len(shortest) // RUN)][:RUN]):
        document = sample.documents[number]
        # after the last supervised token there may be padding, which need not have been run
        end = min(int(np.flatnonzero(document.loss_mask)[-1]) + 1, LONGEST)
        plain, plain_last = target.every_state(torch.from_numpy(document.input_ids[:end]))
        aux = document.aux[:end].unflatten(1, (len(layers), -1))
        last = document.last[:end].to(plain_last.device, plain_last.dtype)
        for index, layer in enumerate(layers):
            if layer + 1 < len(plain):
                captured = aux[:, index]
                error = distance(captured, plain[layer + 1])
                nearest = min(distance(captured, around) for around in plain[layer : layer + 3])
                if error > most or nearest < NEARER * error:
                    raise UserError(_explain_layer(number, captured, layer, error, plain, most))
                name = f"layer {layer}"
                errors[name] = max(errors.get(name, 0.0), error)
        stated, converted = (last, norm(last)) if normed else (norm(last), last)
        error, other_error = distance(stated, plain_last), distance(converted, plain_last)
        if error > most or other_error < NEARER * error:
            raise UserError(_explain_norm(number, error, other_error, most, normed))
        errors["last"] = max(errors.get("last", 0.0), error)
    return errors


def _no_supervised_token(sample: Sample) -> UserError:
    return UserError(f"{KEY}: no token of {len(sample.documents)} documents is supervised")


def distance(states: torch.Tensor, reference: torch.Tensor) -> float:
    """Median over rows of |states - reference| / |reference|; both are [L, H]."""
    reference = reference.float()
    difference = (states.to(reference.device).float() - reference).norm(dim=-1)
    return float((difference / reference.norm(dim=-1).clamp_min(1e-20)).median())


def _explain_layer(
    number: int,
    states: torch.Tensor,
    layer: int,
    error: float,
    plain: Sequence[torch.Tensor],
    most: float,
) -> str:
    """What the states of a layer are instead."""
    nearest = min(range(len(plain)), key=lambda index: distance(states, plain[index]))
    claim = f"document {number}: what should be the output of layer {layer}"
    if distance(states, plain[nearest]) > most:
        return (
            f"{KEY}: {claim} differs from that of target.model by {error:.0%} of its size, and no "
            "other layer is nearer than rounding: the states are of another model, or of other "
            "weights"
        )
    actual = f"the output of layer {nearest - 1}" if nearest else "the input of layer 0"
    return (
        f"{KEY}: {claim} is {actual}: name the layers that were captured in "
        "hidden_states.aux_layers (outputs, counted from 0)"
    )


def _explain_norm(number: int, error: float, other_error: float, most: float, normed: bool) -> str:
    """What the last state is instead. `other_error`: its error under the other convention."""
    due, actual = ("after", "before") if normed else ("before", "after")
    claim = f"{KEY}: document {number}: the last state should be the one {due} the final norm"
    if other_error <= most:
        return f"{claim}, but is the one {actual} it: their project has not written these files so"
    return f"{claim} of target.model, but differs from it by {error:.0%} of its size"
