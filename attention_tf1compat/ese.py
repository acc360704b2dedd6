"""Effective squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, block_scope, broadcast, dense, mean
from attention_tf1compat._gate import apply_gate
from parity.spec import EffectiveSqueezeExcitationOptions, EffectiveSqueezeExcitationSpec, Gate, spatial_axes


def effective_squeeze_excitation(
    x: tf.Tensor,
    *,
    bias: bool = True,
    gate: Gate | str | Mapping[str, Any] = "hard_sigmoid",
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: EffectiveSqueezeExcitationSpec | None = None,
) -> tf.Tensor:
    """Effective squeeze and excitation (Lee and Park, "CenterMask", CVPR 2020: the eSE of VoVNetV2).

    For x of shape (N, C, S1..Sd), or channels last::

        z = mean_S x         (N, C)
        s = gate(W z + b)    (N, C)
        y = x * s            (N, C, S1..Sd)

    One layer, so that no channel is lost on the way. The defaults are the authors' code.

    Variables: ``fc/kernel (C, C)``, input channels first, ``fc/bias (C)``.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        bias: whether b exists.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        training: accepted because every block is called alike; this one computes the same in both modes.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from "ese".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: an `EffectiveSqueezeExcitationSpec` in place of the options.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an argument outside its domain, options beside `spec`, or another spec than the scope has. A
            `ValueError`.
        InputError: for a map of another or unknown rank, number of channels or dtype. A `ValueError`.

    Example:
        >>> with tf.Graph().as_default():
        ...     effective_squeeze_excitation(tf.ones((2, 5, 7, 24))).shape
        TensorShape([2, 5, 7, 24])
    """
    options = EffectiveSqueezeExcitationOptions(bias=bias, gate=gate)
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        fc = dense("fc", spec.channels, spec.channels, spec.bias, x.dtype)
        axes = spatial_axes(spec.spatial_dims, data_format)
        z = mean(x, axes)
        s = apply_gate(fc(z), spec.gate)
        return x * broadcast(s, axes)
