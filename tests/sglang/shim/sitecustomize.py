"""Lets SGLang be imported beside a CPU build of torch, in the tests' environment only.

The published torchvision is a CUDA build whose compiled operators do not load there, and its
import asks for two of them; nothing in a text model calls either.
"""

import torch

OPERATORS = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
