"""Concurrent spatial and channel squeeze and excitation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers, ops

from attention_keras._block import larger, pointwise, scale, total
from attention_keras._gate import apply_activation, apply_gate
from attention_keras.layers._block import Block, sublayer
from parity.spec import Gate, SCSEOptions, channel_axis, spatial_axes


@keras.saving.register_keras_serializable(package="attention_keras")
class SCSE(Block):
    """Concurrent spatial and channel squeeze and excitation (Roy et al., "Concurrent Spatial and Channel Squeeze &
    Excitation in Fully Convolutional Networks", MICCAI 2018, section 2; the maximum of both: IEEE TMI 2019).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, and h hidden channels::

        c = gate(W2 activation(W1 mean_S x + b1) + b2)    (N, C)
        s = gate(w . x + b) at each position              (N, S1..Sd)
        y = max(x * c, x * s)                             the shape of x

    The maximum is of the two maps, not of the two gates: where x is negative, the smaller gate wins. Where both maps
    are equal (at every zero of x) they share the gradient evenly. The defaults are the authors' code.

    Args:
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b1, b2 and b exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        gate: of both halves: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        merge: "max" as above; "add": y = x * c + x * s.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        kwargs: of every Keras layer: name, dtype, trainable.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> SCSE(reduction=4, data_format="channels_last")(keras.Input((5, 7, 24))).shape
        (None, 5, 7, 24)
    """

    def __init__(
        self,
        *,
        reduction: int = 2,
        hidden_channels: int | None = None,
        bias: bool = True,
        activation: str = "relu",
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        merge: str = "max",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        options = SCSEOptions(
            reduction=reduction,
            hidden_channels=hidden_channels,
            bias=bias,
            activation=activation,
            gate=gate,
            merge=merge,
        )
        super().__init__(options, data_format=data_format, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        self.channel = ChannelGate(self.spec, self.data_format, **self.named("channel"))
        self.spatial = SpatialGate(self.spec, self.data_format, **self.named("spatial"))
        for half in (self.channel, self.spatial):
            half.build(input_shape)

    def call(self, x: Any) -> Any:
        """y, of the shape of x."""
        self.check_input(x)
        c, s = self.channel(x), self.spatial(x)
        # One product less than x * c + x * s; the maximum has no such form that shares the gradient at x = 0.
        return scale(x, total(c, s)) if self.spec.merge == "add" else larger(x, c, s)


class ChannelGate(layers.Layer):
    """The channel half: c of shape (N, C), with axes of size one for the spatial ones, from x."""

    def __init__(self, spec: Any, data_format: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.spatial_axes = spatial_axes(spec.spatial_dims, data_format)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights."""
        spec = self.spec
        self.fc1 = layers.Dense(spec.hidden_channels, use_bias=spec.bias, **sublayer(self, "fc1"))
        self.fc2 = layers.Dense(spec.channels, use_bias=spec.bias, **sublayer(self, "fc2"))
        self.fc1.build((None, spec.channels))
        self.fc2.build((None, spec.hidden_channels))

    def call(self, x: Any) -> Any:
        """c, of shape (N, C) and axes of size one."""
        z = ops.mean(x, self.spatial_axes)
        h = apply_activation(self.fc1(z), self.spec.activation)
        c = apply_gate(self.fc2(h), self.spec.gate)
        return ops.expand_dims(c, self.spatial_axes)


class SpatialGate(layers.Layer):
    """The spatial half: s, of size one along the channels, from x."""

    def __init__(self, spec: Any, data_format: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.data_format = data_format
        self.channel_axis = channel_axis(spec.spatial_dims, data_format)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights."""
        spec = self.spec
        self.fc = pointwise(1, spec.spatial_dims, self.data_format, use_bias=spec.bias, **sublayer(self, "fc"))
        self.fc.build(input_shape)

    def call(self, x: Any) -> Any:
        """s, of size one along the channels."""
        s = apply_gate(self.fc(x), self.spec.gate)
        return ops.expand_dims(ops.squeeze(s, -1), self.channel_axis)
