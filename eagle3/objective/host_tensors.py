"""Index tensors are built on the host and sent to the device, so that no step waits for it.

The rows that a step computes follow from masks and lengths. Built on a GPU, the size of every
result would have to be read back; built on the host, it is known there, and the tensors are sent
together: one copy for each type, asynchronously from pinned memory.
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
    on_host = {id(tensor): tensor for tensor in _tensors(tree)}
    on_device: dict[int, torch.Tensor] = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in on_host.values()):
        of_type = {key: tensor for key, tensor in on_host.items() if tensor.dtype == dtype}
        flat = to_device(torch.cat([tensor.flatten() for tensor in of_type.values()]), device)
        parts = flat.split([tensor.numel() for tensor in of_type.values()])
        for (key, tensor), part in zip(of_type.items(), parts, strict=True):
            on_device[key] = part.view(tensor.shape)
    return _replaced(tree, on_device)


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    for part in _parts(tree).values():
        yield from _tensors(part)


def _parts(tree: Any) -> dict[Any, Any]:
    if is_dataclass(tree):
        return {field.name: getattr(tree, field.name) for field in fields(tree)}
    return dict(enumerate(tree)) if isinstance(tree, (list, tuple)) else {}


def _replaced(tree: Any, on_device: dict[int, torch.Tensor]) -> Any:
    if isinstance(tree, torch.Tensor):
        return on_device[id(tree)]
    parts = {name: _replaced(part, on_device) for name, part in _parts(tree).items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(parts.values())
    return type(tree)(**parts) if parts else tree
