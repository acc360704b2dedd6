"""Effective squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers, ops

from attention_keras._block import scale
from attention_keras._gate import apply_gate
from attention_keras.layers._block import Block
from parity.spec import EffectiveSqueezeExcitationOptions, Gate


@keras.saving.register_keras_serializable(package="attention_keras")
class EffectiveSqueezeExcitation(Block):
    """Effective squeeze and excitation (Lee and Park, "CenterMask", CVPR 2020: the eSE of VoVNetV2).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3::

        z = mean_S x         (N, C)
        s = gate(W z + b)    (N, C)
        y = x * s            the shape of x

    One layer, so that no channel is lost on the way. The defaults are the authors' code.

    Args:
        bias: whether b exists.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        kwargs: of every Keras layer: name, dtype, trainable.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> EffectiveSqueezeExcitation(data_format="channels_last")(keras.Input((5, 7, 24))).shape
        (None, 5, 7, 24)
    """

    def __init__(
        self,
        *,
        bias: bool = True,
        gate: Gate | str | Mapping[str, Any] = "hard_sigmoid",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        options = EffectiveSqueezeExcitationOptions(bias=bias, gate=gate)
        super().__init__(options, data_format=data_format, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        spec = self.spec
        self.fc = layers.Dense(spec.channels, use_bias=spec.bias, **self.named("fc"))
        self.fc.build((None, spec.channels))

    def call(self, x: Any) -> Any:
        """y, of the shape of x."""
        self.check_input(x)
        z = ops.mean(x, self.spatial_axes)
        s = apply_gate(self.fc(z), self.spec.gate)
        return scale(x, ops.expand_dims(s, self.spatial_axes))
