"""Efficient channel attention with self-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attention_torch._block import Block, broadcast
from attention_torch._gate import apply_gate, number
from attention_torch._self_attention import SelfAttention
from parity.spec import Gate, MultiHeadECAOptions, MultiHeadECASpec


class MultiHeadECA(Block):
    """Efficient channel attention (Wang et al., "ECA-Net", CVPR 2020, equations 5 to 8), then multi-head self-attention
    over positions (Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.2).

    For x of shape (N, C, S1..Sd) in any memory format, a kernel w of k taps, and H heads of D = C / H channels::

        z = mean_S x                                         (N, C)
        s_c = gate(sum_j w_j z_(c + j - k // 2))             (N, C)
        t = x * s, one row a position                        (N, T, C)      T = S1 .. Sd
        q, k, v = Wq t + bq, Wk t + bk, Wv t + bv            (N, H, T, D)   head h: channels h D to h D + D - 1
        u = Wo [softmax(q k^T / sqrt(D)) v of each head] + bo     (N, C, S1..Sd)
        y = scale * u + offset                               (N, C, S1..Sd)

    Beyond the first and last channel there are zeros.

    Args:
        channels: C.
        kernel_size: k, odd; None for the rule of `ECA` with gamma=2 and beta=1.
        num_heads: H, which divides C.
        attention_bias: whether bq, bk, bv and bo exist.
        scale: a number, no parameter.
        offset: likewise.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: from a call, for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> MultiHeadECA(16, num_heads=4)(torch.ones(2, 16, 5, 7)).shape
        torch.Size([2, 16, 5, 7])
    """

    spec: MultiHeadECASpec

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int | None = 3,
        num_heads: int = 4,
        attention_bias: bool = True,
        scale: float = 2.0,
        offset: float = 1.0,
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = MultiHeadECAOptions(
            kernel_size=kernel_size,
            num_heads=num_heads,
            attention_bias=attention_bias,
            scale=scale,
            offset=offset,
            gate=gate,
        )
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        self.conv = nn.Conv1d(
            1, 1, spec.kernel_size, padding=spec.kernel_size // 2, bias=False, device=device, dtype=dtype
        )
        self.attention = SelfAttention(spec.channels, spec.num_heads, spec.attention_bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """y, of the shape of x."""
        self.check_input(x)
        z = x.mean(self.spatial_axes)
        s = apply_gate(self.conv(z[:, None])[:, 0], self.spec.gate)
        u = self.attention(x * broadcast(s, self.spec.spatial_dims))
        return number(self.spec.scale, u) * u + number(self.spec.offset, u)
