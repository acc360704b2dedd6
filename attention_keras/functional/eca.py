"""Efficient channel attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import layers, ops

from attention_keras._block import scale
from attention_keras._shown import Layers, field, gate_of
from attention_keras.functional._block import Block
from parity.spec import ECAOptions, ECASpec, Gate


def eca(
    x: Any,
    *,
    kernel_size: int | None = None,
    gamma: float = 2,
    beta: float = 1,
    bias: bool = False,
    padding: str = "zeros",
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    data_format: str | None = None,
    dtype: Any = None,
    name: str | None = None,
    spec: ECASpec | None = None,
) -> Any:
    """Efficient channel attention (Wang et al., "ECA-Net", CVPR 2020, equations 5 to 8; kernel size: equation 12).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, and a kernel w of k taps::

        z = mean_S x                                  (N, C)
        s_c = gate(sum_j w_j z_(c + j - k // 2) + b)  (N, C)
        y = x * s                                     the shape of x

    Args:
        x: a Keras tensor.
        kernel_size: k, odd; None for the rule t = int(abs(log2(C) + beta) / gamma), k = t if t is odd else t + 1.
        gamma: of the rule, positive.
        beta: of the rule.
        bias: whether b exists.
        padding: beyond the first and last channel: "zeros", or "circular" (k // 2 at most C).
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_conv``; None for a new one.
        spec: a `parity.spec.ECASpec` instead of the options above.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an option outside its domain, or a spec beside options. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> eca(keras.Input((5, 7, 256)), data_format="channels_last").shape
        (None, 5, 7, 256)
    """
    options = ECAOptions(kernel_size=kernel_size, gamma=gamma, beta=beta, bias=bias, padding=padding, gate=gate)
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec
    conv = layers.Conv1D(
        1,
        spec.kernel_size,
        padding="same" if spec.padding == "zeros" else "valid",
        data_format="channels_last",
        use_bias=spec.bias,
        **block.named("conv"),
    )

    x = block.cast(x)
    z = ops.mean(x, block.spatial_axes)
    if spec.padding == "circular":
        edge = spec.kernel_size // 2
        z = ops.concatenate([z[:, z.shape[1] - edge :], z, z[:, :edge]], axis=1)
    s = block.gate("gate", spec.gate)(ops.squeeze(conv(ops.expand_dims(z, -1)), -1))
    return scale(x, ops.expand_dims(s, block.spatial_axes))


def shown(layers: Layers) -> dict[str, Any]:
    """What the configuration of a block's layers shows of its spec; None where it does not."""
    size = field(layers, "conv", "kernel_size")
    return {
        "kernel_size": size[0] if size else None,
        "bias": field(layers, "conv", "use_bias"),
        "padding": {"same": "zeros", "valid": "circular"}.get(field(layers, "conv", "padding")),
        "gates": [gate_of(layers, "gate", "conv")],
    }
