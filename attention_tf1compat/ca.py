"""Coordinate attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, block_scope, broadcast, dense, mean
from attention_tf1compat._gate import apply_activation, apply_gate
from attention_tf1compat._norm import batch_norm
from parity.spec import BatchNorm, CoordinateAttentionOptions, CoordinateAttentionSpec, Gate, spatial_axes


def coordinate_attention(
    x: tf.Tensor,
    *,
    reduction: int = 32,
    hidden_channels: int | None = None,
    bias: bool = True,
    head_bias: bool = True,
    activation: str = "hard_swish",
    norm: BatchNorm | Mapping[str, Any] | None = BatchNorm(),
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    residual: bool = False,
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: CoordinateAttentionSpec | None = None,
) -> tf.Tensor:
    """Coordinate attention (Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
    equations 4 to 9).

    For x of shape (N, C, S1..Sd), or channels last, and h hidden channels::

        z_i = mean of x over the spatial axes but i  (N, C, S_i)           for each spatial axis i
        f = activation(norm(W z + b))                (N, h, S1 + .. + Sd)  z: the z_i joined along length, in axis order
        g_i = gate(W_i f_i + b_i)                    (N, C, S_i)           f_i: the part of f that came from z_i
        y = x * g_1 * .. * g_d                       (N, C, S1..Sd)        each g_i the same along the other axes

    The norm sees N (S1 + .. + Sd) values per channel. With d = 1 there is no other axis: a channel gate for each
    position.

    Variables: ``reduce/kernel (C, h)``, ``reduce/bias (h)``, ``norm/{gamma,beta,moving_mean,moving_variance} (h)``,
    and for each axis (``w``; ``h``, ``w``; ``d``, ``h``, ``w``) ``expand/<axis>/kernel (h, C)`` and
    ``expand/<axis>/bias (C)``.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        reduction: h = max(8, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b exists.
        head_bias: whether the b_i exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        norm: a `parity.spec.BatchNorm` (or its JSON form), or None.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        residual: whether x is added to y.
        training: whether the norm takes the moments of the batch and adds its update to UPDATE_OPS: True, False, or a
            scalar boolean tensor that decides when the graph runs.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from "ca".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: a `CoordinateAttentionSpec` in place of the options.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an argument outside its domain, options beside `spec`, or another spec than the scope has. A
            `ValueError`.
        InputError: for a map of another or unknown rank, number of channels or dtype, or for one value per channel
            before the norm in training mode (a `tf.errors.InvalidArgumentError` where only the run tells). A
            `ValueError`.

    Example:
        >>> with tf.Graph().as_default():
        ...     coordinate_attention(tf.ones((2, 5, 7, 24)), reduction=4).shape
        TensorShape([2, 5, 7, 24])
    """
    options = CoordinateAttentionOptions(
        reduction=reduction,
        hidden_channels=hidden_channels,
        bias=bias,
        head_bias=head_bias,
        activation=activation,
        norm=norm,
        gate=gate,
        residual=residual,
    )
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        reduce = dense("reduce", spec.channels, spec.hidden_channels, spec.bias, x.dtype)
        axes = spatial_axes(spec.spatial_dims, data_format)
        z = tf.concat([pool(x, axis, data_format) for axis in axes], axis=1)
        f = reduce(z)
        f = batch_norm(f, spec.norm, training) if spec.norm else f
        f = apply_activation(f, spec.activation)
        y = x
        for name, axis, part in zip(spec.axis_names, axes, split(f, x, axes), strict=True):
            expand = dense(f"expand/{name}", spec.hidden_channels, spec.channels, spec.head_bias, x.dtype)
            g = swap(apply_gate(expand(part), spec.gate), data_format)
            y = y * broadcast(g, [other for other in axes if other != axis])
        return y + x if spec.residual else y


def pool(x: tf.Tensor, axis: int, data_format: str) -> tf.Tensor:
    """The mean of x over the spatial axes but `axis`, as (N, S_i, C)."""
    others = [other for other in spatial_axes(x.shape.rank - 2, data_format) if other != axis]
    return swap(mean(x, others) if others else x, data_format)


def swap(z: tf.Tensor, data_format: str) -> tf.Tensor:
    """z between (N, S_i, C) and the layout of the map: the last two axes trade places if that is channels-first."""
    return tf.transpose(z, [0, 2, 1]) if data_format == "channels_first" else z


def split(f: tf.Tensor, x: tf.Tensor, axes: Sequence[int]) -> list[tf.Tensor]:
    """The parts of f along length, one for each spatial axis of x."""
    sizes = [x.shape.as_list()[axis] for axis in axes]
    return tf.split(f, tf.shape(x)[axes[0] : axes[-1] + 1] if None in sizes else sizes, axis=1)
