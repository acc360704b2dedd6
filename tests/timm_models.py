"""timm for tests: its import, which wants operators of torchvision, and random weights for its modules."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

OPERATORS = ("nms", "qnms")

_library = None  # the operators live as long as this


def import_timm(name="timm"):
    """The module `name` of timm; skips the test without timm or PyTorch.

    timm imports torchvision, which wants its compiled operators, and needs no more of them than their names; builds of
    it for another PyTorch lack them.
    """
    global _library
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    if _library is None and not hasattr(torch.ops.torchvision, "nms"):
        _library = torch.library.Library("torchvision", "DEF")
        for operator in OPERATORS:
            _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module(name)


def randomize(model, seed=0):
    """Every weight and every statistic of `model` drawn anew: a fresh batch norm would hide what it does."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(shape, dtype):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                value.copy_(draw(value.shape, value.dtype).abs() + 0.1)
            elif value.dtype.is_floating_point:
                fan_in = max(1, value[0].numel()) if value.ndim > 1 else 4
                value.copy_(draw(value.shape, value.dtype) * (1.2 / fan_in**0.5))
    return model
