"""Convolution with self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from attention_keras._maps import channels_back, channels_last
from attention_keras.layers._block import Block
from attention_keras.layers._self_attention import SelfAttention
from parity.spec import ConvolutionAttentionOptions

CONVOLUTIONS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}


@keras.saving.register_keras_serializable(package="attention_keras")
class ConvolutionAttention(Block):
    """A convolution, then multi-head self-attention over its positions (Vaswani et al., "Attention Is All You Need",
    NeurIPS 2017, section 3.2.2).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3::

        u = K * x + b                                       (N, O, S1'..Sd')   S' = (S + 2 p - a (k - 1) - 1) // s + 1
        t = u, one row a position                           (N, T, O)          T = S1' .. Sd'
        q, k, v = Wq t + bq, Wk t + bk, Wv t + bv           (N, H, T, D)       head h: channels h D to h D + D - 1
        y = Wo [softmax(q k^T / sqrt(D)) v of each head] + bo    (N, O, S1'..Sd')

    The convolution has step s, dilation a and as many zeros p at either end of each axis, as in PyTorch, whose defaults
    these are. Nothing is added to y: no position is known by its place.

    Args:
        out_channels: O; None for C.
        kernel_size: k, along each axis.
        stride: s.
        padding: p, or "valid" for 0, or "same" for what keeps the size: with stride 1, and where a (k - 1) is even.
        dilation: a.
        groups: into how many groups the channels are divided, each with kernels of its own.
        bias: whether b exists.
        num_heads: H, which divides O.
        attention_bias: whether bq, bk, bv and bo exist.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        kwargs: of every Keras layer: name, dtype, trainable.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: for a map of another rank or number of channels, or smaller than the kernel. A `ValueError`.

    Example:
        >>> import keras
        >>> layer = ConvolutionAttention(out_channels=8, padding="same", num_heads=2, data_format="channels_last")
        >>> layer(keras.Input((6, 7, 5))).shape
        (None, 6, 7, 8)
    """

    def __init__(
        self,
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
        data_format: str | None = None,
        **kwargs: Any,
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
        super().__init__(options, data_format=data_format, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        spec = self.spec
        # Keras has a stride or a dilation, but not both.
        self.step = 1 if spec.dilation > 1 else spec.stride
        self.conv = CONVOLUTIONS[spec.spatial_dims](
            spec.out_channels,
            spec.kernel_size,
            strides=self.step,
            padding="same" if spec.keeps_size else "valid",
            data_format="channels_last",
            dilation_rate=spec.dilation,
            groups=spec.groups,
            use_bias=spec.bias,
            **self.named("conv"),
        )
        self.attention = SelfAttention(spec.num_heads, spec.attention_bias, **self.named("attention"))
        self.conv.build((None,) * (spec.spatial_dims + 1) + (spec.channels,))
        self.attention.build((None,) * (spec.spatial_dims + 1) + (spec.out_channels,))

    def call(self, x: Any) -> Any:
        """y, in the layout of x."""
        self.check_input(x)
        spec = self.spec
        p = channels_last(x, self.data_format)
        # Not the padding "same": with a stride, its zeros are not the same at both ends.
        u = self.conv(zero_padded(p, spec.padding) if spec.padding and not spec.keeps_size else p)
        if self.step < spec.stride:
            u = u[(slice(None), *(slice(None, None, spec.stride),) * spec.spatial_dims)]
        return channels_back(self.attention(u), self.data_format)


def zero_padded(p: Any, size: int) -> Any:
    """A channels-last map with so many zeros at either end of each spatial axis."""
    for axis in range(1, len(p.shape) - 1):
        # Not ops.pad: torch.compile cannot trace a layer behind it.
        zeros = [ops.zeros_like(p[(slice(None),) * axis + (slice(0, 1),)])] * size
        p = ops.concatenate([*zeros, p, *zeros], axis=axis)
    return p
