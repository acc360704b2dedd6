"""Convolution with self-attention."""

from __future__ import annotations

from typing import Any

from keras import layers

from attention_keras._maps import channels_back, channels_last, zero_padded
from attention_keras._shown import Layers, field
from attention_keras.functional._block import Block
from attention_keras.functional._self_attention import self_attention, shown_attention
from parity.spec import ConvolutionAttentionOptions, ConvolutionAttentionSpec

CONVOLUTIONS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}


def convolution_attention(
    x: Any,
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
    dtype: Any = None,
    name: str | None = None,
    spec: ConvolutionAttentionSpec | None = None,
) -> Any:
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
        x: a Keras tensor.
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
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_conv``, ``<name>_attention_query``; None for a new one.
        spec: a `parity.spec.ConvolutionAttentionSpec` instead of the options above.

    Returns:
        y, in the layout of x.

    Raises:
        SpecError: for an option outside its domain, or a spec beside options. A `ValueError`.
        InputError: for a map of another rank or number of channels, or smaller than the kernel. A `ValueError`.

    Example:
        >>> import keras
        >>> x = keras.Input((6, 7, 5))
        >>> convolution_attention(x, out_channels=8, padding="same", num_heads=2, data_format="channels_last").shape
        (None, 6, 7, 8)
    """
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
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec

    p = channels_last(block.cast(x), block.data_format)
    if spec.padding and not spec.keeps_size:
        # Not the padding "same": with a stride, its zeros are not the same at both ends.
        p = zero_padded(p, spec.padding, spec.padding)
    # Keras has a stride or a dilation, but not both.
    step = 1 if spec.dilation > 1 else spec.stride
    u = CONVOLUTIONS[spec.spatial_dims](
        spec.out_channels,
        spec.kernel_size,
        strides=step,
        padding="same" if spec.keeps_size else "valid",
        data_format="channels_last",
        dilation_rate=spec.dilation,
        groups=spec.groups,
        use_bias=spec.bias,
        **block.named("conv"),
    )(p)
    u = u[(slice(None), *(slice(None, None, spec.stride),) * spec.spatial_dims)] if step < spec.stride else u
    return channels_back(self_attention(u, block), block.data_format)


def shown(layers: Layers) -> dict[str, Any]:
    """What the configuration of a block's layers shows of its spec; None where it does not."""
    size, kernel, groups = (field(layers, "conv", name) for name in ("kernel_size", "kernel", "groups"))
    steps, dilation = field(layers, "conv", "strides"), field(layers, "conv", "dilation_rate")
    keeps_size = field(layers, "conv", "padding") == "same"
    return {
        "channels": kernel.shape[-2] * groups if kernel is not None else None,
        "spatial_dims": len(size) if size else None,
        "out_channels": field(layers, "conv", "filters"),
        "kernel_size": size[0] if size else None,
        "stride": steps[0] if steps and dilation[0] == 1 else None,  # a slice behind it may take the steps
        "padding": dilation[0] * (size[0] - 1) // 2 if keeps_size else None,  # there may be zeros before it
        "dilation": dilation[0] if dilation else None,
        "groups": groups,
        "bias": field(layers, "conv", "use_bias"),
    } | shown_attention(layers)
