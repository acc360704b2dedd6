"""Squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, block_scope, broadcast, dense, mean
from attention_tf1compat._gate import apply_activation, apply_gate
from parity.spec import Gate, SqueezeExcitationOptions, SqueezeExcitationSpec, spatial_axes


def squeeze_excitation(
    x: tf.Tensor,
    *,
    reduction: int = 16,
    hidden_channels: int | None = None,
    bias: bool = True,
    activation: str = "relu",
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: SqueezeExcitationSpec | None = None,
) -> tf.Tensor:
    """Squeeze and excitation (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, equations 2 to 4).

    For x of shape (N, C, S1..Sd), or channels last, and h hidden channels::

        z = mean_S x                             (N, C)
        s = gate(W2 activation(W1 z + b1) + b2)  (N, C)
        y = x * s                                (N, C, S1..Sd)

    Variables: ``fc1/kernel (C, h)``, ``fc1/bias (h)``, ``fc2/kernel (h, C)``, ``fc2/bias (C)``.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b1 and b2 exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        training: accepted because every block is called alike; this one computes the same in both modes.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from "se".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: a `SqueezeExcitationSpec` in place of the options.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an argument outside its domain, options beside `spec`, or another spec than the scope has. A
            `ValueError`.
        InputError: for a map of another or unknown rank, number of channels or dtype. A `ValueError`.

    Example:
        >>> with tf.Graph().as_default():
        ...     squeeze_excitation(tf.ones((2, 5, 7, 24)), reduction=4).shape
        TensorShape([2, 5, 7, 24])
    """
    options = SqueezeExcitationOptions(
        reduction=reduction, hidden_channels=hidden_channels, bias=bias, activation=activation, gate=gate
    )
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        fc1 = dense("fc1", spec.channels, spec.hidden_channels, spec.bias, x.dtype)
        fc2 = dense("fc2", spec.hidden_channels, spec.channels, spec.bias, x.dtype)
        axes = spatial_axes(spec.spatial_dims, data_format)
        z = mean(x, axes)
        h = apply_activation(fc1(z), spec.activation)
        s = apply_gate(fc2(h), spec.gate)
        return x * broadcast(s, axes)
