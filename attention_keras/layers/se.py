"""Squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers, ops

from attention_keras._block import scale
from attention_keras._gate import apply_activation, apply_gate
from attention_keras.layers._block import Block
from parity.spec import Gate, SqueezeExcitationOptions


@keras.saving.register_keras_serializable(package="attention_keras")
class SqueezeExcitation(Block):
    """Squeeze and excitation (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, equations 2 to 4).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, and h hidden channels::

        z = mean_S x                             (N, C)
        s = gate(W2 activation(W1 z + b1) + b2)  (N, C)
        y = x * s                                the shape of x

    Args:
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b1 and b2 exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        kwargs: of every Keras layer: name, dtype, trainable.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> SqueezeExcitation(reduction=4, data_format="channels_last")(keras.Input((5, 7, 24))).shape
        (None, 5, 7, 24)
    """

    def __init__(
        self,
        *,
        reduction: int = 16,
        hidden_channels: int | None = None,
        bias: bool = True,
        activation: str = "relu",
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        options = SqueezeExcitationOptions(
            reduction=reduction, hidden_channels=hidden_channels, bias=bias, activation=activation, gate=gate
        )
        super().__init__(options, data_format=data_format, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        spec = self.spec
        self.fc1 = layers.Dense(spec.hidden_channels, use_bias=spec.bias, **self.named("fc1"))
        self.fc2 = layers.Dense(spec.channels, use_bias=spec.bias, **self.named("fc2"))
        self.fc1.build((None, spec.channels))
        self.fc2.build((None, spec.hidden_channels))

    def call(self, x: Any) -> Any:
        """y, of the shape of x."""
        self.check_input(x)
        z = ops.mean(x, self.spatial_axes)
        h = apply_activation(self.fc1(z), self.spec.activation)
        s = apply_gate(self.fc2(h), self.spec.gate)
        return scale(x, ops.expand_dims(s, self.spatial_axes))
