"""Residual unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, block_scope
from attention_tf1compat._norm import batch_norm
from attention_tf1compat.networks._parts import (
    average_pool,
    block_of,
    convolution,
    from_channels_last,
    normed_convolution,
    to_channels_last,
)
from parity.spec import BatchNorm, ResidualUnitOptions, ResidualUnitSpec


def residual_unit(
    x: tf.Tensor,
    *,
    out_channels: int | None = None,
    stride: int = 1,
    bottleneck: bool = False,
    attention: str | None = None,
    attention_options: Mapping[str, Any] | None = None,
    placement: str = "before_addition",
    shortcut: str = "convolution",
    norm: BatchNorm | Mapping[str, Any] = BatchNorm(),
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: ResidualUnitSpec | None = None,
) -> tf.Tensor:
    """Residual unit (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, equations 1 and 2, figure
    5), with an attention block where Hu et al. ("Squeeze-and-Excitation Networks", CVPR 2018, section 6.5) put it.

    For x of shape (N, C, S1..Sd), or channels last, O output channels, stride s, kernels K of 3 and L of 1 position
    along each axis, and an attention a::

        f(u) = norm2(K2 * relu(norm1(K1 * u)))                     (N, O, S1/s..Sd/s)   K1 strided
        f(u) = norm3(L3 * relu(norm2(K2 * relu(norm1(L1 * u)))))   the same             bottleneck: K2 strided
        i = x, or norm(L * x) where s > 1 or O differs from C      (N, O, S1/s..Sd/s)   L strided
        y = relu(a(f(x)) + i)          before_addition             (N, O, S1/s..Sd/s)
        y = a(relu(f(x) + i))          after_addition
        y = relu(f(a(x)) + i)          before_unit
        y = relu(f(x) + a(i))          identity
        y = relu(f(x) + i + a(i))      beside_identity

    Sizes are divided rounding up. Every convolution is zero padded by k // 2 at both ends of every axis (where it is
    strided, TensorFlow's "same" is not) and has no bias. A bottleneck is O // 4 channels wide. Inside, all is channels
    last: a channels-first x is transposed at the entry, and y at the exit.

    Variables: ``conv1/kernel (*k, C, O)``, ``norm1/{gamma,beta,moving_mean,moving_variance} (O)``, the same of 2 (and
    3, of a bottleneck); ``shortcut/conv/kernel``, ``shortcut/norm/{gamma,beta,moving_mean,moving_variance}``; those of
    the block under ``attention``.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        out_channels: O; None for C.
        stride: s.
        bottleneck: whether f is the second one.
        attention: a, a key of `parity.spec.SPECS`: "se", "cbam", ...; None for a(u) = u.
        attention_options: a mapping of the options of that block; None for its defaults.
        placement: where a is, as above.
        shortcut: "convolution" as above; "average": i = norm(L * pool x) with L not strided, where pool takes the mean
            over each s^d window; of a window at the border over the positions that are there.
        norm: of all norms, a `parity.spec.BatchNorm` or its JSON form.
        training: whether the norms take the moments of the batch and add their updates to UPDATE_OPS: True, False, or a
            scalar boolean tensor that decides when the graph runs.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from "residual".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: a `ResidualUnitSpec` in place of the options.

    Returns:
        y, in the layout of x.

    Raises:
        SpecError: for an argument outside its domain, a block that does not keep the shape of its map, options beside
            `spec`, or another spec than the scope has. A `ValueError`.
        InputError: for a map of another or unknown rank, number of channels or dtype, or for one value per channel
            before a norm in training mode (a `tf.errors.InvalidArgumentError` where only the run tells). A
            `ValueError`.

    Example:
        >>> with tf.Graph().as_default():
        ...     residual_unit(tf.ones((2, 5, 7, 12)), out_channels=24, stride=2, attention="se").shape
        TensorShape([2, 3, 4, 24])
    """
    options = ResidualUnitOptions(
        out_channels=out_channels,
        stride=stride,
        bottleneck=bottleneck,
        attention=attention,
        attention_options=attention_options,
        placement=placement,
        shortcut=shortcut,
        norm=norm,
    )
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        x = to_channels_last(x, data_format)
        attend = block_of(spec.attention, "attention", training) or tf.identity
        f = branch(attend(x) if spec.placement == "before_unit" else x, spec, training)
        i = identity(x, spec, training)
        if spec.placement == "before_addition":
            f = attend(f)
        if spec.placement == "identity":
            i = attend(i)
        if spec.placement == "beside_identity":
            f, i = f + i, attend(i)
        y = tf.nn.relu(f + i)
        return from_channels_last(attend(y) if spec.placement == "after_addition" else y, data_format)


def branch(u: tf.Tensor, spec: ResidualUnitSpec, training: bool | tf.Tensor) -> tf.Tensor:
    """f(u)."""
    count = len(spec.convolutions)
    for number, (inputs, outputs, size, step) in enumerate(spec.convolutions, 1):
        conv = convolution(f"conv{number}", inputs, outputs, size, step, spec.spatial_dims, u.dtype)
        u = batch_norm(conv(u), spec.norm, training, f"norm{number}")
        u = tf.nn.relu(u) if number < count else u
    return u


def identity(x: tf.Tensor, spec: ResidualUnitSpec, training: bool | tf.Tensor) -> tf.Tensor:
    """i."""
    if not spec.projects:
        return x
    stride = 1 if spec.shortcut == "average" else spec.stride
    sizes = (spec.channels, spec.out_channels, 1, stride, spec.spatial_dims)
    shortcut = normed_convolution("shortcut", *sizes, x.dtype, spec.norm, training)
    return shortcut(average_pool(x, spec.stride) if spec.shortcut == "average" else x)
