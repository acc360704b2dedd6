"""Multi-head self-attention over the positions of a map."""

from __future__ import annotations

import math

import tensorflow as tf

from attention_tf1compat._block import dense, widen


def self_attention(u: tf.Tensor, num_heads: int, bias: bool) -> tf.Tensor:
    """Wo [softmax(q k^T / sqrt(D)) v of each head] + bo over the positions of a map (N, S1..Sd, C), of its shape.

    Variables: ``attention/{query,key,value,output}/kernel (C, C)`` and, with `bias`, ``bias (C)``.
    """
    channels = u.shape.as_list()[-1]
    with tf.compat.v1.variable_scope("attention"):
        query = dense("query", channels, channels, bias, u.dtype)
        key = dense("key", channels, channels, bias, u.dtype)
        value = dense("value", channels, channels, bias, u.dtype)
        output = dense("output", channels, channels, bias, u.dtype)
    sizes = tf.shape(u)
    batch, positions = sizes[0], tf.reduce_prod(sizes[1:-1])

    def heads(z: tf.Tensor) -> tf.Tensor:
        """(N, T, C) to (N, H, T, D)."""
        split = tf.reshape(z, (batch, positions, num_heads, channels // num_heads))
        return tf.transpose(split, (0, 2, 1, 3))

    t = tf.reshape(u, (batch, positions, channels))
    q, k, v = heads(query(t)), heads(key(t)), heads(value(t))
    scores = widen(tf.matmul(q, k, transpose_b=True)) / math.sqrt(channels // num_heads)
    a = tf.cast(tf.nn.softmax(scores), u.dtype)
    z = tf.reshape(tf.transpose(tf.matmul(a, v), (0, 2, 1, 3)), (batch, positions, channels))
    y = tf.reshape(output(z), sizes)
    y.set_shape(u.shape)
    return y


def channels_last(x: tf.Tensor, data_format: str) -> tf.Tensor:
    """A map as (N, S1..Sd, C): positions are rows, and TensorFlow has no channels-first convolution on the CPU."""
    return x if data_format == "channels_last" else tf.transpose(x, (0, *range(2, x.shape.rank), 1))


def channels_back(y: tf.Tensor, data_format: str) -> tf.Tensor:
    """The inverse of `channels_last`."""
    rank = y.shape.rank
    return y if data_format == "channels_last" else tf.transpose(y, (0, rank - 1, *range(1, rank - 1)))
