"""Whether states of another project are the target's own: asked of a sample before anything is
converted, by a plain forward pass of the target.

A cosine would not tell a state before the final norm from one behind it where the gain is near
one, so relative errors are compared. Where they are too large, the other layers of the target are
tried, so that the sentence says what the states are instead.
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

Norm = Callable[[torch.Tensor], torch.Tensor]  # [L, H] before the final norm -> behind it
READ, RUN = 16, 3  # documents that are read, and of them run through the target
LONGEST = 1024  # tokens of a document that are run: causal, so the rest changes nothing


@dataclass(frozen=True)
class Sample:
    """Documents of a folder, evenly spread over it."""

    documents: dict[int, PeerDocument]
    bad: dict[int, BadRow] = field(default_factory=dict)

    @classmethod
    def of(cls, files: PeerFiles, numbers: np.ndarray, expected: Expected) -> Sample:
        """Raises UserError if none can be used."""
        chosen = numbers[np.linspace(0, len(numbers) - 1, min(READ, len(numbers))).astype(int)]
        documents, bad = {}, {}
        for number in dict.fromkeys(chosen.tolist()):
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
        raise _unsupervised(sample)
    if not fit.alike:
        raise UserError(
            f"{KEY}: only {sentence(fit)} of target.model, so the masks are of another template; "
            "hidden_states.source.check_template: false takes them all the same"
        )
    return fit


def check_states(
    sample: Sample, target: HFTarget, layers: Sequence[int], norm: Norm, normed: bool
) -> dict[str, float]:
    """Median relative errors of a few documents' rows to a plain forward pass, by layer and for
    the last state; the largest over the documents.

    `norm`: the target's final norm; `normed`: whether the files should have states behind it.
    Raises UserError if the states are not the target's.
    """
    errors: dict[str, float] = {}
    most = most_different(target.body.config)
    supervised = [number for number, one in sample.documents.items() if one.loss_mask.any()]
    if not supervised:
        raise _unsupervised(sample)
    shortest = sorted(supervised, key=lambda n: len(sample.documents[n].input_ids))
    for number in sorted(shortest[:: max(1, len(shortest) // RUN)][:RUN]):
        document = sample.documents[number]
        # behind the last supervised token there may be padding, which nobody has to have run
        end = min(int(np.flatnonzero(document.loss_mask)[-1]) + 1, LONGEST)
        every, own = target.every_state(torch.from_numpy(document.input_ids[:end]))
        aux = document.aux[:end].unflatten(1, (len(layers), -1))
        last = document.last[:end].to(own.device, own.dtype)
        for place, layer in enumerate(layers):
            if layer + 1 < len(every):
                name, error = f"layer {layer}", distance(aux[:, place], every[layer + 1])
                around = every[layer : layer + 3]
                nearest = min(distance(aux[:, place], states) for states in around)
                if error > most or nearest < NEARER * error:
                    raise UserError(_other_layer(number, aux[:, place], layer, error, every, most))
                errors[name] = max(errors.get(name, 0.0), error)
        stated, other = (last, norm(last)) if normed else (norm(last), last)
        error, turned = distance(stated, own), distance(other, own)
        if error > most or turned < NEARER * error:
            raise UserError(_other_norm(number, error, turned, most, normed))
        errors["last"] = max(errors.get("last", 0.0), error)
    return errors


def _unsupervised(sample: Sample) -> UserError:
    return UserError(f"{KEY}: no token of {len(sample.documents)} documents is supervised")


def distance(states: torch.Tensor, own: torch.Tensor) -> float:
    """Median over rows of |states - own| / |own|; both are [L, H]."""
    own = own.float()
    apart = (states.to(own.device).float() - own).norm(dim=-1) / own.norm(dim=-1).clamp_min(1e-20)
    return float(apart.median())


def _other_layer(
    number: int,
    states: torch.Tensor,
    layer: int,
    error: float,
    every: Sequence[torch.Tensor],
    most: float,
) -> str:
    """What the states of a layer are instead."""
    found = min(range(len(every)), key=lambda place: distance(states, every[place]))
    where = f"document {number}: what should be the output of layer {layer}"
    if distance(states, every[found]) > most:
        return (
            f"{KEY}: {where} differs from that of target.model by {error:.0%} of its size, and no "
            "other layer is nearer than rounding: the states are of another model, or of other "
            "weights"
        )
    real = f"the output of layer {found - 1}" if found else "the input of layer 0"
    return (
        f"{KEY}: {where} is {real}: name the layers that were captured in "
        "hidden_states.aux_layers (outputs, counted from 0)"
    )


def _other_norm(number: int, error: float, turned: float, most: float, normed: bool) -> str:
    """What the last state is instead. `turned`: its error under the other convention."""
    place, other = ("after", "before") if normed else ("before", "after")
    what = f"{KEY}: document {number}: the last state should be the one {place} the final norm"
    if turned <= most:
        return f"{what}, but is the one {other} it: their project has not written these files so"
    return f"{what} of target.model, but differs from it by {error:.0%} of its size"
