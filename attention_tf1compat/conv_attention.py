"""Convolution with self-attention."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, add_bias, block_scope, kernel_and_bias
from attention_tf1compat._self_attention import channels_back, channels_last, self_attention
from parity.spec import ConvolutionAttentionOptions, ConvolutionAttentionSpec


def convolution_attention(
    x: tf.Tensor,
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
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: ConvolutionAttentionSpec | None = None,
) -> tf.Tensor:
    """A convolution, then multi-head self-attention over its positions (Vaswani et al., "Attention Is All You Need",
    NeurIPS 2017, section 3.2.2).

    For x of shape (N, C, S1..Sd), or channels last::

        u = K * x + b                                       (N, O, S1'..Sd')   S' = (S + 2 p - a (k - 1) - 1) // s + 1
        t = u, one row a position                           (N, T, O)          T = S1' .. Sd'
        q, k, v = Wq t + bq, Wk t + bk, Wv t + bv           (N, H, T, D)       head h: channels h D to h D + D - 1
        y = Wo [softmax(q k^T / sqrt(D)) v of each head] + bo    (N, O, S1'..Sd')

    The convolution has step s, dilation a and as many zeros p at either end of each axis, as in PyTorch, whose defaults
    these are. Nothing is added to y: no position is known by its place.

    Variables: ``conv/kernel (*k, C // groups, O)``, ``conv/bias (O)``, ``attention/{query,key,value,output}/{kernel
    (O, O),bias (O)}``.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        out_channels: O; None for C.
        kernel_size: k, along each axis.
        stride: s.
        padding: p, or "valid" for 0, or "same" for what keeps the size: with stride 1, and where a (k - 1) is even.
        dilation: a.
        groups: into how many groups the channels are divided, each with kernels of its own.
        bias: whether b exists.
        num_heads: H, which divides O.
        attention_bias: whether bq, bk, bv and bo exist.
        training: accepted because every block is called alike; this one computes the same in both modes.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from
            "conv_attention".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: a `ConvolutionAttentionSpec` in place of the options.

    Returns:
        y, in the layout of x.

    Raises:
        SpecError: for an argument outside its domain, options beside `spec`, or another spec than the scope has. A
            `ValueError`.
        InputError: for a map of another or unknown rank, number of channels or dtype, or smaller than the kernel. A
            `ValueError`.

    Example:
        >>> with tf.Graph().as_default():
        ...     convolution_attention(tf.ones((2, 6, 7, 5)), out_channels=8, padding="same", num_heads=2).shape
        TensorShape([2, 6, 7, 8])
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
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        shape = (spec.kernel_size,) * spec.spatial_dims + (spec.channels // spec.groups, spec.out_channels)
        w, b = kernel_and_bias("conv", shape, spec.bias, x.dtype)
        u = add_bias(convolve(channels_last(x, data_format), w, spec), b)
        return channels_back(self_attention(u, spec.num_heads, spec.attention_bias), data_format)


def convolve(p: tf.Tensor, w: tf.Variable, spec: ConvolutionAttentionSpec) -> tf.Tensor:
    """The cross-correlation of a channels-last map with a kernel (*k, C // groups, O)."""
    dims = spec.spatial_dims
    if spec.padding and not spec.keeps_size:  # not "SAME": with a stride its zeros are not the same at both ends
        p = tf.pad(p, [[0, 0], *[[spec.padding, spec.padding]] * dims, [0, 0]])
    padding = "SAME" if spec.keeps_size else "VALID"
    # TensorFlow has a stride or a dilation, but not both.
    step = 1 if spec.dilation > 1 else spec.stride
    # On the CPU, it has the gradient of one group alone.
    parts = [(p, w)]
    if spec.groups > 1:
        parts = list(zip(tf.split(p, spec.groups, -1), tf.split(w, spec.groups, -1), strict=True))
    convolved = [
        tf.nn.convolution(part, kernel, strides=[step] * dims, padding=padding, dilations=[spec.dilation] * dims)
        for part, kernel in parts
    ]
    u = tf.concat(convolved, -1) if spec.groups > 1 else convolved[0]
    return u[(slice(None), *(slice(None, None, spec.stride),) * dims)] if step < spec.stride else u
