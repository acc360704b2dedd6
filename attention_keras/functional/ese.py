"""Effective squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import layers, ops

from attention_keras._block import scale
from attention_keras._shown import Layers, field, gate_of
from attention_keras.functional._block import Block
from parity.spec import EffectiveSqueezeExcitationOptions, EffectiveSqueezeExcitationSpec, Gate


def effective_squeeze_excitation(
    x: Any,
    *,
    bias: bool = True,
    gate: Gate | str | Mapping[str, Any] = "hard_sigmoid",
    data_format: str | None = None,
    dtype: Any = None,
    name: str | None = None,
    spec: EffectiveSqueezeExcitationSpec | None = None,
) -> Any:
    """Effective squeeze and excitation (Lee and Park, "CenterMask", CVPR 2020: the eSE of VoVNetV2).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3::

        z = mean_S x         (N, C)
        s = gate(W z + b)    (N, C)
        y = x * s            the shape of x

    One layer, so that no channel is lost on the way. The defaults are the authors' code.

    Args:
        x: a Keras tensor.
        bias: whether b exists.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_fc``; None for a new one.
        spec: a `parity.spec.EffectiveSqueezeExcitationSpec` instead of the options above.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an option outside its domain, or a spec beside options. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> effective_squeeze_excitation(keras.Input((5, 7, 24)), data_format="channels_last").shape
        (None, 5, 7, 24)
    """
    options = EffectiveSqueezeExcitationOptions(bias=bias, gate=gate)
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec
    fc = layers.Dense(spec.channels, use_bias=spec.bias, **block.named("fc"))

    x = block.cast(x)
    z = ops.mean(x, block.spatial_axes)
    s = block.gate("gate", spec.gate)(fc(z))
    return scale(x, ops.expand_dims(s, block.spatial_axes))


def shown(layers: Layers) -> dict[str, Any]:
    """What the configuration of a block's layers shows of its spec; None where it does not."""
    return {
        "channels": field(layers, "fc", "units"),
        "bias": field(layers, "fc", "use_bias"),
        "gates": [gate_of(layers, "gate", "fc")],
    }
