"""Concurrent spatial and channel squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attention_torch._block import Block, broadcast, pointwise
from attention_torch._gate import apply_activation, apply_gate
from parity.spec import Gate, SCSEOptions, SCSESpec


class SCSE(Block):
    """Concurrent spatial and channel squeeze and excitation (Roy et al., "Concurrent Spatial and Channel Squeeze &
    Excitation in Fully Convolutional Networks", MICCAI 2018, section 2; the maximum of both: IEEE TMI 2019).

    For x of shape (N, C, S1..Sd) in any memory format, and h hidden channels::

        c = gate(W2 activation(W1 mean_S x + b1) + b2)    (N, C)
        s = gate(w . x + b) at each position              (N, 1, S1..Sd)
        y = max(x * c, x * s)                             (N, C, S1..Sd)

    The maximum is of the two maps, not of the two gates: where x is negative, the smaller gate wins. Where both maps
    are equal (at every zero of x) they share the gradient evenly. The defaults are the authors' code.

    Args:
        channels: C.
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b1, b2 and b exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        gate: of both halves: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        merge: "max" as above; "add": y = x * c + x * s.
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: from a call, for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> SCSE(24, reduction=4)(torch.ones(2, 24, 5, 7)).shape
        torch.Size([2, 24, 5, 7])
    """

    spec: SCSESpec

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 2,
        hidden_channels: int | None = None,
        bias: bool = True,
        activation: str = "relu",
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        merge: str = "max",
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = SCSEOptions(
            reduction=reduction,
            hidden_channels=hidden_channels,
            bias=bias,
            activation=activation,
            gate=gate,
            merge=merge,
        )
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        self.channel = ChannelGate(spec, device=device, dtype=dtype)
        self.spatial = SpatialGate(spec, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """y, of the shape of x."""
        self.check_input(x)
        c, s = broadcast(self.channel(x), self.spec.spatial_dims), self.spatial(x)
        # One product less than x * c + x * s; the maximum has no such form that shares the gradient at x = 0.
        return x * (c + s) if self.spec.merge == "add" else torch.maximum(x * c, x * s)


class ChannelGate(nn.Module):
    """The channel half: c of shape (N, C) from x."""

    def __init__(
        self, spec: SCSESpec, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.fc1 = nn.Linear(spec.channels, spec.hidden_channels, spec.bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(spec.hidden_channels, spec.channels, spec.bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """c, of shape (N, C)."""
        z = x.mean(tuple(range(2, x.ndim)))
        h = apply_activation(self.fc1(z), self.spec.activation)
        return apply_gate(self.fc2(h), self.spec.gate)


class SpatialGate(nn.Module):
    """The spatial half: s of shape (N, 1, *spatial) from x."""

    def __init__(
        self, spec: SCSESpec, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.fc = nn.Linear(spec.channels, 1, spec.bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """s, of shape (N, 1, *spatial)."""
        return apply_gate(pointwise(self.fc, x), self.spec.gate)
