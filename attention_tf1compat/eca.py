"""Efficient channel attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, add_bias, block_scope, broadcast, kernel_and_bias, mean
from attention_tf1compat._gate import apply_gate
from parity.spec import ECAOptions, ECASpec, Gate, spatial_axes


def eca(
    x: tf.Tensor,
    *,
    kernel_size: int | None = None,
    gamma: float = 2,
    beta: float = 1,
    bias: bool = False,
    padding: str = "zeros",
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: ECASpec | None = None,
) -> tf.Tensor:
    """Efficient channel attention (Wang et al., "ECA-Net", CVPR 2020, equations 5 to 8; the kernel size is
    equation 12).

    For x of shape (N, C, S1..Sd), or channels last, and a kernel w of k taps::

        z = mean_S x                                  (N, C)
        s_c = gate(sum_j w_j z_(c + j - k // 2) + b)  (N, C)
        y = x * s                                     (N, C, S1..Sd)

    Variables: ``conv/kernel (k, 1, 1)``, ``conv/bias (1)``.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        kernel_size: k, odd; None for the rule t = int(abs(log2(C) + beta) / gamma), k = t if t is odd else t + 1.
        gamma: of the rule, positive.
        beta: of the rule.
        bias: whether b exists.
        padding: beyond the first and last channel: "zeros", or "circular" (k // 2 at most C).
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        training: accepted because every block is called alike; this one computes the same in both modes.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from "eca".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: an `ECASpec` in place of the options; its channels may be open.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an argument outside its domain, options beside `spec`, or another spec than the scope has. A
            `ValueError`.
        InputError: for a map of another or unknown rank, number of channels or dtype. A `ValueError`.

    Example:
        >>> with tf.Graph().as_default():
        ...     eca(tf.ones((2, 5, 7, 256))).shape
        TensorShape([2, 5, 7, 256])
    """
    options = ECAOptions(kernel_size=kernel_size, gamma=gamma, beta=beta, bias=bias, padding=padding, gate=gate)
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        w, b = kernel_and_bias("conv", (spec.kernel_size, 1, 1), spec.bias, x.dtype)
        axes = spatial_axes(spec.spatial_dims, data_format)
        z = mean(x, axes)
        u = tf.nn.conv1d(pad(z, spec)[..., None], w, stride=1, padding="VALID")
        s = apply_gate(add_bias(u, b)[..., 0], spec.gate)
        return x * broadcast(s, axes)


def pad(z: tf.Tensor, spec: ECASpec) -> tf.Tensor:
    """z with k // 2 channels more at either end: zeros, or those of the other end."""
    channels, width = z.shape.as_list()[1], spec.kernel_size // 2
    if spec.padding == "circular":
        return tf.concat([z[:, channels - width :], z, z[:, :width]], axis=1)
    return tf.pad(z, [[0, 0], [width, width]])
