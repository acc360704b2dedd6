"""Squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import layers, ops

from attention_keras._block import scale
from attention_keras._shown import Layers, activation_of, field, gate_of
from attention_keras.functional._block import Block
from parity.spec import Gate, SqueezeExcitationOptions, SqueezeExcitationSpec


def squeeze_excitation(
    x: Any,
    *,
    reduction: int = 16,
    hidden_channels: int | None = None,
    bias: bool = True,
    activation: str = "relu",
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    data_format: str | None = None,
    dtype: Any = None,
    name: str | None = None,
    spec: SqueezeExcitationSpec | None = None,
) -> Any:
    """Squeeze and excitation (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, equations 2 to 4).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, and h hidden channels::

        z = mean_S x                             (N, C)
        s = gate(W2 activation(W1 z + b1) + b2)  (N, C)
        y = x * s                                the shape of x

    Args:
        x: a Keras tensor.
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b1 and b2 exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_fc1`` and ``<name>_fc2``; None for a new one.
        spec: a `parity.spec.SqueezeExcitationSpec` instead of the options above.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an option outside its domain, or a spec beside options. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> squeeze_excitation(keras.Input((5, 7, 24)), reduction=4, data_format="channels_last").shape
        (None, 5, 7, 24)
    """
    options = SqueezeExcitationOptions(
        reduction=reduction, hidden_channels=hidden_channels, bias=bias, activation=activation, gate=gate
    )
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec
    fc1 = layers.Dense(spec.hidden_channels, use_bias=spec.bias, **block.named("fc1"))
    fc2 = layers.Dense(spec.channels, use_bias=spec.bias, **block.named("fc2"))

    x = block.cast(x)
    z = ops.mean(x, block.spatial_axes)
    h = block.activation("activation", spec.activation)(fc1(z))
    s = block.gate("gate", spec.gate)(fc2(h))
    return scale(x, ops.expand_dims(s, block.spatial_axes))


def shown(layers: Layers) -> dict[str, Any]:
    """What the configuration of a block's layers shows of its spec; None where it does not."""
    return {
        "channels": field(layers, "fc2", "units"),
        "hidden_channels": field(layers, "fc1", "units"),
        "bias": field(layers, "fc1", "use_bias"),
        "activation": activation_of(layers, "activation", "fc1"),
        "gates": [gate_of(layers, "gate", "fc2")],
    }
