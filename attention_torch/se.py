"""Squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attention_torch._block import Block, broadcast
from attention_torch._gate import apply_activation, apply_gate
from parity.spec import Gate, SqueezeExcitationOptions, SqueezeExcitationSpec


class SqueezeExcitation(Block):
    """Squeeze and excitation (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, equations 2 to 4).

    For x of shape (N, C, S1..Sd) in any memory format, and h hidden channels::

        z = mean_S x                             (N, C)
        s = gate(W2 activation(W1 z + b1) + b2)  (N, C)
        y = x * s                                (N, C, S1..Sd)

    Args:
        channels: C.
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b1 and b2 exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: from a call, for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> SqueezeExcitation(24, reduction=4)(torch.ones(2, 24, 5, 7)).shape
        torch.Size([2, 24, 5, 7])
    """

    spec: SqueezeExcitationSpec

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        hidden_channels: int | None = None,
        bias: bool = True,
        activation: str = "relu",
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = SqueezeExcitationOptions(
            reduction=reduction, hidden_channels=hidden_channels, bias=bias, activation=activation, gate=gate
        )
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        self.fc1 = nn.Linear(spec.channels, spec.hidden_channels, spec.bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(spec.hidden_channels, spec.channels, spec.bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """y, of the shape of x."""
        self.check_input(x)
        z = x.mean(self.spatial_axes)
        h = apply_activation(self.fc1(z), self.spec.activation)
        s = apply_gate(self.fc2(h), self.spec.gate)
        return x * broadcast(s, self.spec.spatial_dims)
