"""Efficient channel attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attention_torch._block import Block, broadcast
from attention_torch._gate import apply_gate
from parity.spec import ECAOptions, ECASpec, Gate


class ECA(Block):
    """Efficient channel attention (Wang et al., "ECA-Net", CVPR 2020, equations 5 to 8; kernel size: equation 12).

    For x of shape (N, C, S1..Sd) in any memory format, and a kernel w of k taps::

        z = mean_S x                                  (N, C)
        s_c = gate(sum_j w_j z_(c + j - k // 2) + b)  (N, C)
        y = x * s                                     (N, C, S1..Sd)

    Args:
        channels: C; None leaves it open, and `kernel_size` must then be given.
        kernel_size: k, odd; None for the rule t = int(abs(log2(C) + beta) / gamma), k = t if t is odd else t + 1.
        gamma: of the rule, positive.
        beta: of the rule.
        bias: whether b exists.
        padding: beyond the first and last channel: "zeros", or "circular" (k // 2 at most C).
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: from a call, for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> ECA(256)(torch.ones(2, 256, 5, 7)).shape
        torch.Size([2, 256, 5, 7])
    """

    spec: ECASpec

    def __init__(
        self,
        channels: int | None,
        *,
        kernel_size: int | None = None,
        gamma: float = 2,
        beta: float = 1,
        bias: bool = False,
        padding: str = "zeros",
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = ECAOptions(kernel_size=kernel_size, gamma=gamma, beta=beta, bias=bias, padding=padding, gate=gate)
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        self.conv = nn.Conv1d(
            1,
            1,
            spec.kernel_size,
            padding=spec.kernel_size // 2,
            padding_mode=spec.padding,  # type: ignore[arg-type]
            bias=spec.bias,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        """y, of the shape of x."""
        self.check_input(x)
        z = x.mean(self.spatial_axes)
        s = apply_gate(self.conv(z[:, None])[:, 0], self.spec.gate)
        return x * broadcast(s, self.spec.spatial_dims)
