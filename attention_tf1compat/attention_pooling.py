"""Attention pooling along one axis."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, block_scope, pointwise, softmax, weighed
from parity.spec import AttentionPoolingOptions, AttentionPoolingSpec


def attention_pooling(
    x: tf.Tensor,
    *,
    axis: str | None = None,
    bias: bool = True,
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: AttentionPoolingSpec | None = None,
) -> tf.Tensor:
    """Attention pooling along one axis (Lin et al., "A Structured Self-Attentive Sentence Embedding", ICLR 2017,
    equations 5 to 7, with one row of attention and a linear score; every position of the other axes is pooled alone).

    For x of shape (N, C, S1..Sd), or channels last, and one spatial axis i of size S_i::

        u = w . x + b at each position    (N, 1, S1..Sd)
        a = softmax of u along i          (N, 1, S1..Sd)
        y = sum of a * x along i          (N, C, the S_j but S_i)

    The axis is gone from y: with d = 1 it has shape (N, C). A shift of u changes no softmax, so b moves nothing and its
    gradient is zero; trained weights have one nevertheless.

    Variables: ``score/kernel (C, 1)``, ``score/bias (1)``.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        axis: i by its name: "w"; "h" or "w"; "d", "h" or "w". None for the first.
        bias: whether b exists.
        training: accepted because every block is called alike; this one computes the same in both modes.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from
            "attention_pooling".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: an `AttentionPoolingSpec` in place of the options.

    Returns:
        y, of the shape of x without the axis.

    Raises:
        SpecError: for an argument outside its domain, options beside `spec`, or another spec than the scope has. A
            `ValueError`.
        InputError: for a map of another or unknown rank, number of channels or dtype. A `ValueError`.

    Example:
        >>> with tf.Graph().as_default():
        ...     attention_pooling(tf.ones((2, 5, 7, 24)), axis="h").shape
        TensorShape([2, 7, 24])
    """
    options = AttentionPoolingOptions(axis=axis, bias=bias)
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        score = pointwise("score", spec.channels, 1, spec.bias, x.dtype, data_format)
        place = spec.pooled_axis(data_format)
        u = score(x)
        a = softmax(u, place)
        return weighed(x, a, place)
