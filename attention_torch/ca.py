"""Coordinate attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attention_torch._block import Block, broadcast
from attention_torch._gate import apply_activation, apply_gate
from attention_torch._norm import BatchNormalization
from parity.spec import BatchNorm, CoordinateAttentionOptions, CoordinateAttentionSpec, Gate


class CoordinateAttention(Block):
    """Coordinate attention (Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
    equations 4 to 9).

    For x of shape (N, C, S1..Sd) in any memory format, and h hidden channels::

        z_i = mean of x over the spatial axes but i   (N, C, S_i)           for each spatial axis i
        f = activation(norm(W z + b))                 (N, h, L)      L = S1 + .. + Sd; z: the z_i joined in axis order
        g_i = gate(W_i f_i + b_i)                     (N, C, S_i)           f_i: the part of f that came from z_i
        y = x * g_1 * .. * g_d                        (N, C, S1..Sd)        each g_i the same along the other axes

    The norm sees N (S1 + .. + Sd) values per channel. With d = 1 there is no other axis: a channel gate for each
    position.

    Args:
        channels: C.
        reduction: h = max(8, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b exists.
        head_bias: whether the b_i exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        norm: a `parity.spec.BatchNorm` (or its JSON form), or None.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        residual: whether x is added to y.
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: from a call, for a map of another rank or number of channels, or for one value per channel before
            the norm in training mode. A `ValueError`.

    Example:
        >>> CoordinateAttention(24, reduction=4)(torch.ones(2, 24, 5, 7)).shape
        torch.Size([2, 24, 5, 7])
    """

    spec: CoordinateAttentionSpec

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 32,
        hidden_channels: int | None = None,
        bias: bool = True,
        head_bias: bool = True,
        activation: str = "hard_swish",
        norm: BatchNorm | Mapping[str, Any] | None = BatchNorm(),
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        residual: bool = False,
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = CoordinateAttentionOptions(
            reduction=reduction,
            hidden_channels=hidden_channels,
            bias=bias,
            head_bias=head_bias,
            activation=activation,
            norm=norm,
            gate=gate,
            residual=residual,
        )
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        self.reduce = nn.Linear(spec.channels, spec.hidden_channels, spec.bias, device=device, dtype=dtype)
        self.norm = (
            BatchNormalization(spec.hidden_channels, spec.norm, device=device, dtype=dtype) if spec.norm else None
        )
        self.expand = nn.ModuleDict(
            {
                axis: nn.Linear(spec.hidden_channels, spec.channels, spec.head_bias, device=device, dtype=dtype)
                for axis in spec.axis_names
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """y, of the shape of x."""
        self.check_input(x)
        z = torch.cat([self.pool(x, axis) for axis in self.spatial_axes], dim=1)
        f = self.reduce(z)
        f = self.norm(f.flatten(0, 1)).view_as(f) if self.norm else f
        f = apply_activation(f, self.spec.activation)
        y = x
        for axis, part, expand in zip(
            self.spatial_axes, f.split(x.shape[2:], dim=1), self.expand.values(), strict=True
        ):
            g = apply_gate(expand(part), self.spec.gate).transpose(1, 2)
            # (N, C, S_i), then a size of one for each axis behind i; those before it are put in between.
            y = y * broadcast(g, x.ndim - 1 - axis)[(slice(None), slice(None), *(None,) * (axis - 2))]
        return y + x if self.spec.residual else y

    def pool(self, x: Tensor, axis: int) -> Tensor:
        """The mean of x over the spatial axes but `axis`, as (N, S_i, C)."""
        others = [other for other in self.spatial_axes if other != axis]
        return (x.mean(others) if others else x).transpose(1, 2)
