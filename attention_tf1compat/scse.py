"""Concurrent spatial and channel squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, block_scope, broadcast, dense, larger, mean, pointwise
from attention_tf1compat._gate import apply_activation, apply_gate
from parity.spec import Gate, SCSEOptions, SCSESpec, spatial_axes


def scse(
    x: tf.Tensor,
    *,
    reduction: int = 2,
    hidden_channels: int | None = None,
    bias: bool = True,
    activation: str = "relu",
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    merge: str = "max",
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: SCSESpec | None = None,
) -> tf.Tensor:
    """Concurrent spatial and channel squeeze and excitation (Roy et al., "Concurrent Spatial and Channel Squeeze &
    Excitation in Fully Convolutional Networks", MICCAI 2018, section 2; the maximum of both: IEEE TMI 2019).

    For x of shape (N, C, S1..Sd), or channels last, and h hidden channels::

        c = gate(W2 activation(W1 mean_S x + b1) + b2)    (N, C)
        s = gate(w . x + b) at each position              (N, 1, S1..Sd)
        y = max(x * c, x * s)                             (N, C, S1..Sd)

    The maximum is of the two maps, not of the two gates: where x is negative, the smaller gate wins. Where both maps
    are equal (at every zero of x) they share the gradient evenly. The defaults are the authors' code.

    Variables: ``channel/fc1/{kernel (C, h),bias}``, ``channel/fc2/{kernel (h, C),bias}``,
    ``spatial/fc/{kernel (C, 1),bias}``.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b1, b2 and b exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        gate: of both halves: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        merge: "max" as above; "add": y = x * c + x * s.
        training: accepted because every block is called alike; this one computes the same in both modes.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from "scse".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: an `SCSESpec` in place of the options.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an argument outside its domain, options beside `spec`, or another spec than the scope has. A
            `ValueError`.
        InputError: for a map of another or unknown rank, number of channels or dtype. A `ValueError`.

    Example:
        >>> with tf.Graph().as_default():
        ...     scse(tf.ones((2, 5, 7, 24)), reduction=4).shape
        TensorShape([2, 5, 7, 24])
    """
    options = SCSEOptions(
        reduction=reduction,
        hidden_channels=hidden_channels,
        bias=bias,
        activation=activation,
        gate=gate,
        merge=merge,
    )
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        c, s = channel_gate(x, spec, data_format), spatial_gate(x, spec, data_format)
        # One product less than x * c + x * s; the maximum has no such form that shares the gradient at x = 0.
        return x * (c + s) if spec.merge == "add" else larger(x, c, s)


def channel_gate(x: tf.Tensor, spec: SCSESpec, data_format: str) -> tf.Tensor:
    """The channel half: c of shape (N, C), with axes of size one for the spatial ones, from x."""
    with tf.compat.v1.variable_scope("channel"):
        fc1 = dense("fc1", spec.channels, spec.hidden_channels, spec.bias, x.dtype)
        fc2 = dense("fc2", spec.hidden_channels, spec.channels, spec.bias, x.dtype)
        axes = spatial_axes(spec.spatial_dims, data_format)
        z = mean(x, axes)
        h = apply_activation(fc1(z), spec.activation)
        return broadcast(apply_gate(fc2(h), spec.gate), axes)


def spatial_gate(x: tf.Tensor, spec: SCSESpec, data_format: str) -> tf.Tensor:
    """The spatial half: s of one channel, in the layout of x."""
    with tf.compat.v1.variable_scope("spatial"):
        fc = pointwise("fc", spec.channels, 1, spec.bias, x.dtype, data_format)
        return apply_gate(fc(x), spec.gate)
