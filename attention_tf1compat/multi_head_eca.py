"""Efficient channel attention with self-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, block_scope, broadcast, kernel_and_bias, mean
from attention_tf1compat._gate import apply_gate
from attention_tf1compat._self_attention import channels_back, channels_last, self_attention
from parity.spec import Gate, MultiHeadECAOptions, MultiHeadECASpec, spatial_axes


def multi_head_eca(
    x: tf.Tensor,
    *,
    kernel_size: int | None = 3,
    num_heads: int = 4,
    attention_bias: bool = True,
    scale: float = 2.0,
    offset: float = 1.0,
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: MultiHeadECASpec | None = None,
) -> tf.Tensor:
    """Efficient channel attention (Wang et al., "ECA-Net", CVPR 2020, equations 5 to 8), then multi-head self-attention
    over positions (Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.2).

    For x of shape (N, C, S1..Sd), or channels last, a kernel w of k taps, and H heads of D = C / H channels::

        z = mean_S x                                         (N, C)
        s_c = gate(sum_j w_j z_(c + j - k // 2))             (N, C)
        t = x * s, one row a position                        (N, T, C)      T = S1 .. Sd
        q, k, v = Wq t + bq, Wk t + bk, Wv t + bv            (N, H, T, D)   head h: channels h D to h D + D - 1
        u = Wo [softmax(q k^T / sqrt(D)) v of each head] + bo     (N, C, S1..Sd)
        y = scale * u + offset                               (N, C, S1..Sd)

    Beyond the first and last channel there are zeros.

    Variables: ``conv/kernel (k, 1, 1)``, ``attention/{query,key,value,output}/{kernel (C, C),bias (C)}``.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        kernel_size: k, odd; None for the rule of `eca` with gamma=2 and beta=1.
        num_heads: H, which divides C.
        attention_bias: whether bq, bk, bv and bo exist.
        scale: a number, no parameter.
        offset: likewise.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        training: accepted because every block is called alike; this one computes the same in both modes.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from
            "multi_head_eca".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: a `MultiHeadECASpec` in place of the options.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an argument outside its domain, options beside `spec`, or another spec than the scope has. A
            `ValueError`.
        InputError: for a map of another or unknown rank, number of channels or dtype. A `ValueError`.

    Example:
        >>> with tf.Graph().as_default():
        ...     multi_head_eca(tf.ones((2, 5, 7, 16)), num_heads=4).shape
        TensorShape([2, 5, 7, 16])
    """
    options = MultiHeadECAOptions(
        kernel_size=kernel_size,
        num_heads=num_heads,
        attention_bias=attention_bias,
        scale=scale,
        offset=offset,
        gate=gate,
    )
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        w, _ = kernel_and_bias("conv", (spec.kernel_size, 1, 1), False, x.dtype)
        axes = spatial_axes(spec.spatial_dims, data_format)
        z = mean(x, axes)
        s = apply_gate(tf.nn.conv1d(z[..., None], w, stride=1, padding="SAME")[..., 0], spec.gate)
        gated = channels_last(x * broadcast(s, axes), data_format)
        u = channels_back(self_attention(gated, spec.num_heads, spec.attention_bias), data_format)
        return spec.scale * u + spec.offset
