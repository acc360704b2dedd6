"""Convolutional block attention module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, add_bias, block_scope, broadcast, dense, kernel_and_bias, maximum, mean
from attention_tf1compat._gate import apply_activation, apply_gate
from attention_tf1compat._norm import batch_norm
from parity.spec import BatchNorm, CBAMOptions, CBAMSpec, Gate, channel_axis, spatial_axes


def cbam(
    x: tf.Tensor,
    *,
    reduction: int = 16,
    hidden_channels: int | None = None,
    mlp_bias: bool = True,
    activation: str = "relu",
    channel_merge: str = "add",
    kernel_size: int = 7,
    spatial_bias: bool = False,
    spatial_norm: BatchNorm | Mapping[str, Any] | None = BatchNorm(update_rate=0.01),
    spatial_features: str = "pooled",
    spatial_source: str = "refined",
    parts: str = "both",
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    residual: bool = False,
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: CBAMSpec | None = None,
) -> tf.Tensor:
    """Convolutional block attention module (Woo et al., "CBAM", ECCV 2018, equations 1 to 3).

    For x of shape (N, C, S1..Sd), or channels last, h hidden channels and a kernel K of k positions along each axis::

        c = gate(MLP(mean_S x) + MLP(max_S x))    (N, C)       MLP(z) = W2 activation(W1 z + b1) + b2
        x' = x * c                                (N, C, S1..Sd)
        p = [mean_C x', max_C x']                 (N, 2, S1..Sd)
        m = gate(norm(K * p + b))                 (N, 1, S1..Sd)
        y = x' * m                                (N, C, S1..Sd)

    The convolution is zero padded to keep the size. Plane 0 is the mean and plane 1 the maximum, always. Tied maxima
    share the gradient evenly. The defaults are the authors' code.

    Variables: ``channel/fc1/{kernel,bias}``, ``channel/fc2/{kernel,bias}``, ``spatial/conv/kernel (*k, 2, 1)``,
    ``spatial/conv/bias (1)``, ``spatial/norm/{gamma,beta,moving_mean,moving_variance} (1)``.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        mlp_bias: whether b1 and b2 exist.
        activation: of the MLP: "relu", "silu", "hard_swish" or "identity".
        channel_merge: "add" as above; "concat": c = gate(MLP([mean_S x, max_S x])), one pass, W1 is (2 C, h).
        kernel_size: k, odd.
        spatial_bias: whether b exists.
        spatial_norm: a `parity.spec.BatchNorm` (or its JSON form) after the convolution, or None.
        spatial_features: "pooled" as above; "full": the convolution sees all C channels instead of the two planes.
        spatial_source: "refined" as above; "input": the planes are taken from x instead of x'.
        parts: "both", or "channel" (y = x') or "spatial" (x' = x) alone.
        gate: of both halves: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        residual: whether x is added to y.
        training: whether the norm takes the moments of the batch and adds its update to UPDATE_OPS: True, False, or a
            scalar boolean tensor that decides when the graph runs.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from "cbam".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: a `CBAMSpec` in place of the options.

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
        ...     cbam(tf.ones((2, 5, 7, 24)), reduction=4).shape
        TensorShape([2, 5, 7, 24])
    """
    options = CBAMOptions(
        reduction=reduction,
        hidden_channels=hidden_channels,
        mlp_bias=mlp_bias,
        activation=activation,
        channel_merge=channel_merge,
        kernel_size=kernel_size,
        spatial_bias=spatial_bias,
        spatial_norm=spatial_norm,
        spatial_features=spatial_features,
        spatial_source=spatial_source,
        parts=parts,
        gate=gate,
        residual=residual,
    )
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        axes = spatial_axes(spec.spatial_dims, data_format)
        refined = x * broadcast(channel_attention(x, spec, data_format), axes) if spec.has_channel else x
        y = refined
        if spec.has_spatial:
            source = x if spec.spatial_source == "input" else refined
            y = refined * spatial_attention(source, spec, training, data_format)
        return y + x if spec.residual else y


def channel_attention(x: tf.Tensor, spec: CBAMSpec, data_format: str) -> tf.Tensor:
    """The channel half: c of shape (N, C) from x."""
    with tf.compat.v1.variable_scope("channel"):
        inputs = spec.channels * (2 if spec.channel_merge == "concat" else 1)
        fc1 = dense("fc1", inputs, spec.hidden_channels, spec.mlp_bias, x.dtype)
        fc2 = dense("fc2", spec.hidden_channels, spec.channels, spec.mlp_bias, x.dtype)

        def mlp(z: tf.Tensor) -> tf.Tensor:
            """W2 activation(W1 z + b1) + b2."""
            return fc2(apply_activation(fc1(z), spec.activation))

        axes = spatial_axes(spec.spatial_dims, data_format)
        z_mean, z_max = mean(x, axes), maximum(x, axes)
        concat = spec.channel_merge == "concat"
        u = mlp(tf.concat([z_mean, z_max], axis=1)) if concat else mlp(z_mean) + mlp(z_max)
        return apply_gate(u, spec.gate)


def spatial_attention(x: tf.Tensor, spec: CBAMSpec, training: bool | tf.Tensor, data_format: str) -> tf.Tensor:
    """The spatial half: m of one channel, in the layout of the map x that it is to judge."""
    with tf.compat.v1.variable_scope("spatial"):
        axis = channel_axis(spec.spatial_dims, data_format)
        # Channels last whatever x is: on CPU, TensorFlow has no channels-first convolution of float64 or float16.
        if spec.spatial_features == "pooled":
            p = tf.stack([mean(x, axis), maximum(x, axis)], axis=-1)
        else:
            others = [other for other in range(x.shape.rank) if other != axis]
            p = x if axis == others[-1] + 1 else tf.transpose(x, [*others, axis])
        planes = spec.channels if spec.spatial_features == "full" else 2
        kernel = (spec.kernel_size,) * spec.spatial_dims + (planes, 1)
        w, b = kernel_and_bias("conv", kernel, spec.spatial_bias, x.dtype)
        u = add_bias(tf.nn.convolution(p, w, padding="SAME"), b)
        u = batch_norm(u, spec.spatial_norm, training) if spec.spatial_norm else u
        m = apply_gate(u, spec.gate)
        return tf.expand_dims(m[..., 0], axis)
