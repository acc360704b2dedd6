"""Attention pooling along one axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention_torch._block import Block, pointwise, softmax, weighed
from parity.spec import AttentionPoolingOptions, AttentionPoolingSpec


class AttentionPooling(Block):
    """Attention pooling along one axis (Lin et al., "A Structured Self-Attentive Sentence Embedding", ICLR 2017,
    equations 5 to 7, with one row of attention and a linear score; every position of the other axes is pooled alone).

    For x of shape (N, C, S1..Sd) in any memory format, and one spatial axis i of size S_i::

        u = w . x + b at each position    (N, 1, S1..Sd)
        a = softmax of u along i          (N, 1, S1..Sd)
        y = sum of a * x along i          (N, C, the S_j but S_i)

    The axis is gone from y: with d = 1 it has shape (N, C). A shift of u changes no softmax, so b moves nothing and its
    gradient is zero; trained weights have one nevertheless.

    Args:
        channels: C.
        axis: i by its name: "w"; "h" or "w"; "d", "h" or "w". None for the first.
        bias: whether b exists.
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: from a call, for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> AttentionPooling(24, axis="h")(torch.ones(2, 24, 5, 7)).shape
        torch.Size([2, 24, 7])
    """

    spec: AttentionPoolingSpec

    def __init__(
        self,
        channels: int,
        *,
        axis: str | None = None,
        bias: bool = True,
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = AttentionPoolingOptions(axis=axis, bias=bias)
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        self.axis = spec.pooled_axis("channels_first")
        self.score = nn.Linear(spec.channels, 1, spec.bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """y, of the shape of x without the axis."""
        self.check_input(x)
        u = pointwise(self.score, x)
        a = softmax(u, self.axis)
        return weighed(x, a, self.axis)
