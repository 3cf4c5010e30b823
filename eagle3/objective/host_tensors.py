"""Index tensors are made on the host and sent to the device, so that no step waits for it.

Which rows a step computes follows from masks and lengths alone. Made on a GPU, every size of a
result would have to be asked for; made on the host, they are known there, and the tensors travel
together: one copy for each type, from pinned memory, which nothing waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch

from eagle3.parallel.device import to_device

Tree = TypeVar("Tree")  # a tensor, a dataclass with some, or a list or tuple of such


def tree_to_device(tree: Tree, device: torch.device) -> Tree:
    """`tree` with all its tensors on `device`; itself on a CPU. Tensors may share memory then."""
    if device.type == "cpu":
        return tree
    here = {id(tensor): tensor for tensor in _tensors(tree)}
    there: dict[int, torch.Tensor] = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in here.values()):
        same = {key: tensor for key, tensor in here.items() if tensor.dtype == dtype}
        whole = to_device(torch.cat([tensor.flatten() for tensor in same.values()]), device)
        parts = whole.split([tensor.numel() for tensor in same.values()])
        for (key, tensor), part in zip(same.items(), parts, strict=True):
            there[key] = part.view(tensor.shape)
    return _replaced(tree, there)


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    for part in _parts(tree).values():
        yield from _tensors(part)


def _parts(tree: Any) -> dict[Any, Any]:
    if is_dataclass(tree):
        return {field.name: getattr(tree, field.name) for field in fields(tree)}
    return dict(enumerate(tree)) if isinstance(tree, (list, tuple)) else {}


def _replaced(tree: Any, there: dict[int, torch.Tensor]) -> Any:
    if isinstance(tree, torch.Tensor):
        return there[id(tree)]
    parts = {name: _replaced(part, there) for name, part in _parts(tree).items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(parts.values())
    return type(tree)(**parts) if parts else tree
