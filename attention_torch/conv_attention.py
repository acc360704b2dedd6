"""Convolution with self-attention."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_torch._block import CONVOLUTIONS, Block
from attention_torch._self_attention import SelfAttention
from parity.spec import ConvolutionAttentionOptions, ConvolutionAttentionSpec


class ConvolutionAttention(Block):
    """A convolution, then multi-head self-attention over its positions (Vaswani et al., "Attention Is All You Need",
    NeurIPS 2017, section 3.2.2).

    For x of shape (N, C, S1..Sd) in any memory format::

        u = K * x + b                                       (N, O, S1'..Sd')   S' = (S + 2 p - a (k - 1) - 1) // s + 1
        t = u, one row a position                           (N, T, O)          T = S1' .. Sd'
        q, k, v = Wq t + bq, Wk t + bk, Wv t + bv           (N, H, T, D)       head h: channels h D to h D + D - 1
        y = Wo [softmax(q k^T / sqrt(D)) v of each head] + bo    (N, O, S1'..Sd')

    The convolution has step s, dilation a and as many zeros p at either end of each axis, as in PyTorch, whose defaults
    these are. Nothing is added to y: no position is known by its place.

    Args:
        channels: C.
        out_channels: O; None for C.
        kernel_size: k, along each axis.
        stride: s.
        padding: p, or "valid" for 0, or "same" for what keeps the size: with stride 1, and where a (k - 1) is even.
        dilation: a.
        groups: into how many groups the channels are divided, each with kernels of its own.
        bias: whether b exists.
        num_heads: H, which divides O.
        attention_bias: whether bq, bk, bv and bo exist.
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: from a call, for a map of another rank or number of channels, or smaller than the kernel. A
            `ValueError`.

    Example:
        >>> ConvolutionAttention(5, out_channels=8, padding="same", num_heads=2)(torch.ones(2, 5, 6, 7)).shape
        torch.Size([2, 8, 6, 7])
    """

    spec: ConvolutionAttentionSpec

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        num_heads: int = 1,
        attention_bias: bool = True,
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = ConvolutionAttentionOptions(
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            num_heads=num_heads,
            attention_bias=attention_bias,
        )
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        self.conv = CONVOLUTIONS[spec.spatial_dims](
            spec.channels,
            spec.out_channels,
            spec.kernel_size,
            spec.stride,
            spec.padding,
            spec.dilation,
            spec.groups,
            spec.bias,
            device=device,
            dtype=dtype,
        )
        self.attention = SelfAttention(
            spec.out_channels, spec.num_heads, spec.attention_bias, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        """y, of shape (N, O, *spatial)."""
        self.check_input(x)
        if x.ndim == 5 and x.is_cpu:
            # Of a channels-last map in bfloat16, conv3d on the CPU gives a kernel gradient of memory never written.
            x = x.contiguous()
        return self.attention(self.conv(x))
