"""Concurrent spatial and channel squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import layers, ops

from attention_keras._block import larger, pointwise, scale, total
from attention_keras._shown import Layers, activation_of, field, gate_of
from attention_keras.functional._block import Block
from parity.spec import Gate, SCSEOptions, SCSESpec


def scse(
    x: Any,
    *,
    reduction: int = 2,
    hidden_channels: int | None = None,
    bias: bool = True,
    activation: str = "relu",
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    merge: str = "max",
    data_format: str | None = None,
    dtype: Any = None,
    name: str | None = None,
    spec: SCSESpec | None = None,
) -> Any:
    """Concurrent spatial and channel squeeze and excitation (Roy et al., "Concurrent Spatial and Channel Squeeze &
    Excitation in Fully Convolutional Networks", MICCAI 2018, section 2; the maximum of both: IEEE TMI 2019).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, and h hidden channels::

        c = gate(W2 activation(W1 mean_S x + b1) + b2)    (N, C)
        s = gate(w . x + b) at each position              (N, S1..Sd)
        y = max(x * c, x * s)                             the shape of x

    The maximum is of the two maps, not of the two gates: where x is negative, the smaller gate wins. Where both maps
    are equal (at every zero of x) they share the gradient evenly. The defaults are the authors' code.

    Args:
        x: a Keras tensor.
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b1, b2 and b exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        gate: of both halves: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        merge: "max" as above; "add": y = x * c + x * s.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_channel_fc1``, ``<name>_spatial_fc``; None for a new one.
        spec: a `parity.spec.SCSESpec` instead of the options above.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an option outside its domain, or a spec beside options. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> scse(keras.Input((5, 7, 24)), reduction=4, data_format="channels_last").shape
        (None, 5, 7, 24)
    """
    options = SCSEOptions(
        reduction=reduction,
        hidden_channels=hidden_channels,
        bias=bias,
        activation=activation,
        gate=gate,
        merge=merge,
    )
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec

    x = block.cast(x)
    c, s = channel_gate(x, block), spatial_gate(x, block)
    # One product less than x * c + x * s; the maximum has no such form that shares the gradient at x = 0.
    return scale(x, total(c, s)) if spec.merge == "add" else larger(x, c, s)


def channel_gate(x: Any, block: Block) -> Any:
    """The channel half: c of shape (N, C), with axes of size one for the spatial ones, from x."""
    spec = block.spec
    fc1 = layers.Dense(spec.hidden_channels, use_bias=spec.bias, **block.named("channel.fc1"))
    fc2 = layers.Dense(spec.channels, use_bias=spec.bias, **block.named("channel.fc2"))
    z = ops.mean(x, block.spatial_axes)
    h = block.activation("channel.activation", spec.activation)(fc1(z))
    c = block.gate("channel.gate", spec.gate)(fc2(h))
    return ops.expand_dims(c, block.spatial_axes)


def spatial_gate(x: Any, block: Block) -> Any:
    """The spatial half: s, of size one along the channels, from x."""
    spec = block.spec
    fc = pointwise(1, spec.spatial_dims, block.data_format, use_bias=spec.bias, **block.named("spatial.fc"))
    s = block.gate("spatial.gate", spec.gate)(fc(x))
    return ops.expand_dims(ops.squeeze(s, -1), block.channel_axis)


def shown(layers: Layers) -> dict[str, Any]:
    """What the configuration of a block's layers shows of its spec; None where it does not."""
    return {
        "channels": field(layers, "channel.fc2", "units"),
        "hidden_channels": field(layers, "channel.fc1", "units"),
        "bias": field(layers, "channel.fc1", "use_bias"),
        "activation": activation_of(layers, "channel.activation", "channel.fc1"),
        "gates": [gate_of(layers, "channel.gate", "channel.fc2"), gate_of(layers, "spatial.gate", "spatial.fc")],
    }
