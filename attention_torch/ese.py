"""Effective squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attention_torch._block import Block, broadcast
from attention_torch._gate import apply_gate
from parity.spec import EffectiveSqueezeExcitationOptions, EffectiveSqueezeExcitationSpec, Gate


class EffectiveSqueezeExcitation(Block):
    """Effective squeeze and excitation (Lee and Park, "CenterMask", CVPR 2020: the eSE of VoVNetV2).

    For x of shape (N, C, S1..Sd) in any memory format::

        z = mean_S x         (N, C)
        s = gate(W z + b)    (N, C)
        y = x * s            (N, C, S1..Sd)

    One layer, so that no channel is lost on the way. The defaults are the authors' code.

    Args:
        channels: C.
        bias: whether b exists.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: from a call, for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> EffectiveSqueezeExcitation(24)(torch.ones(2, 24, 5, 7)).shape
        torch.Size([2, 24, 5, 7])
    """

    spec: EffectiveSqueezeExcitationSpec

    def __init__(
        self,
        channels: int,
        *,
        bias: bool = True,
        gate: Gate | str | Mapping[str, Any] = "hard_sigmoid",
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = EffectiveSqueezeExcitationOptions(bias=bias, gate=gate)
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        self.fc = nn.Linear(spec.channels, spec.channels, spec.bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """y, of the shape of x."""
        self.check_input(x)
        z = x.mean(self.spatial_axes)
        s = apply_gate(self.fc(z), self.spec.gate)
        return x * broadcast(s, self.spec.spatial_dims)
