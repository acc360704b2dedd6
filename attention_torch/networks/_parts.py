"""What the networks share: convolutions with norms behind them, pools, and the blocks inside."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_torch._block import CONVOLUTIONS, Block
from attention_torch._norm import BatchNormalization, Host
from parity.spec import BatchNorm, Spec

MAX_POOLS = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE_POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def block_of(
    spec: Spec | None, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Block | None:
    """The block that `spec` describes; None for none."""
    if spec is None:
        return None
    package = importlib.import_module("attention_torch")  # which imports this module before it has all its names
    block: type[Block] = getattr(package, spec.options_class.class_name)
    return block.from_spec(spec, device=device, dtype=dtype)


def convolution(
    inputs: int,
    outputs: int,
    size: int,
    stride: int,
    dims: int,
    *,
    padding: int | None = None,
    bias: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A convolution that pads size // 2 zeros at both ends of every axis, or as many as `padding` says."""
    padding = size // 2 if padding is None else padding
    return CONVOLUTIONS[dims](
        inputs, outputs, size, stride=stride, padding=padding, bias=bias, device=device, dtype=dtype
    )


class NormedConvolution(Host):
    """norm(K * x): the stem of a network, and the shortcut of a unit."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int,
        dims: int,
        norm: BatchNorm,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.conv = convolution(inputs, outputs, size, stride, dims, device=device, dtype=dtype)
        self.norm = BatchNormalization(outputs, norm, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The map behind the norm."""
        return self.norm(self.conv(x))


def max_pool(x: Tensor) -> Tensor:
    """The maximum over windows of 3, with stride 2 and a padding that never is the maximum.

    Behind a ReLU, where ties are zeros, it does not matter which of them the gradient goes to.
    """
    return MAX_POOLS[x.ndim - 2](x, 3, 2, 1)


def average_pool(x: Tensor, stride: int) -> Tensor:
    """The mean over windows of `stride`, at the border over the positions that are there."""
    if stride == 1:
        return x
    pool: Any = AVERAGE_POOLS[x.ndim - 2]
    return pool(x, stride, stride, ceil_mode=True, count_include_pad=False)


def pad_as_tensorflow(x: Tensor, size: int, stride: int) -> Tensor:
    """x with the zeros of TensorFlow's "same": as many as the last window lacks, the odd one at the end."""
    widths: list[Any] = []
    for extent in reversed(x.shape[2:]):  # the order of functional.pad: the last axis first
        windows = (extent + stride - 1) // stride
        lacking = max((windows - 1) * stride + size - extent, 0)
        widths += [lacking // 2, lacking - lacking // 2]
    return functional.pad(x, widths)


def positions_first(x: Tensor) -> Tensor:
    """(N, C, *S) to (N, P C): over the positions first, then over the channels, as a channels-last map lies."""
    return x.movedim(1, -1).flatten(1)
