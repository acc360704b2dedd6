"""Coordinate attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import keras
from keras import layers, ops

from attention_keras._block import scale
from attention_keras._gate import apply_activation, apply_gate
from attention_keras._norm import BatchNormalization
from attention_keras.layers._block import Block
from parity.spec import BatchNorm, CoordinateAttentionOptions, Gate


@keras.saving.register_keras_serializable(package="attention_keras")
class CoordinateAttention(Block):
    """Coordinate attention (Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
    equations 4 to 9).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, and h hidden channels::

        z_i = mean of x over the spatial axes but i  (N, S_i, C)           for each spatial axis i
        f = activation(norm(W z + b))                (N, S1 + .. + Sd, h)  z: the z_i joined along length, in axis order
        g_i = gate(W_i f_i + b_i)                    (N, S_i, C)           f_i: the part of f that came from z_i
        y = x * g_1 * .. * g_d                       the shape of x        each g_i the same along the other axes

    The norm sees N (S1 + .. + Sd) values per channel. With d = 1 there is no other axis: a channel gate for each
    position. The S_i may be unknown (None) when the model is made.

    Args:
        reduction: h = max(8, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b exists.
        head_bias: whether the b_i exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        norm: a `parity.spec.BatchNorm` (or its JSON form), or None.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        residual: whether x is added to y.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        synchronized: whether replicas that train together share the norm's statistics, as Keras' own
            `BatchNormalization` has it. Not part of the spec: alone, a replica computes the same.
        kwargs: of every Keras layer: name, dtype, trainable.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: for a map of another rank or number of channels, and from a call for one value per channel before
            the norm in training mode. A `ValueError`.

    Example:
        >>> import keras
        >>> CoordinateAttention(reduction=4, data_format="channels_last")(keras.Input((None, None, 24))).shape
        (None, None, None, 24)
    """

    def __init__(
        self,
        *,
        reduction: int = 32,
        hidden_channels: int | None = None,
        bias: bool = True,
        head_bias: bool = True,
        activation: str = "hard_swish",
        norm: BatchNorm | Mapping[str, Any] | None = BatchNorm(),
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        residual: bool = False,
        data_format: str | None = None,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        options = CoordinateAttentionOptions(
            reduction=reduction,
            hidden_channels=hidden_channels,
            bias=bias,
            head_bias=head_bias,
            activation=activation,
            norm=norm,
            gate=gate,
            residual=residual,
        )
        super().__init__(options, data_format=data_format, synchronized=synchronized, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        spec = self.spec
        self.reduce = layers.Dense(spec.hidden_channels, use_bias=spec.bias, **self.named("reduce"))
        shared = {"synchronized": self.synchronized} | self.named("norm")
        self.norm = BatchNormalization(spec.norm, **shared) if spec.norm else None
        self.expand = {
            axis: layers.Dense(spec.channels, use_bias=spec.head_bias, **self.named(f"expand_{axis}"))
            for axis in spec.axis_names
        }
        self.reduce.build((None, None, spec.channels))
        for layer in (self.norm, *self.expand.values()):
            if layer:
                layer.build((None, None, spec.hidden_channels))

    def call(self, x: Any, training: bool | None = None) -> Any:
        """y, of the shape of x."""
        self.check_input(x)
        z = ops.concatenate([self.pool(x, axis) for axis in self.spatial_axes], axis=1)
        f = self.reduce(z)
        f = self.norm(f, training=training) if self.norm else f
        f = apply_activation(f, self.spec.activation)
        lengths = [ops.shape(x)[axis] for axis in self.spatial_axes]
        y = x
        for axis, axis_name, length, end in zip(
            self.spatial_axes, self.spec.axis_names, lengths, accumulate(lengths), strict=True
        ):
            g = apply_gate(self.expand[axis_name](f[:, end - length : end]), self.spec.gate)
            y = scale(y, self.place(g, axis))
        return y + x if self.spec.residual else y

    def pool(self, x: Any, axis: int) -> Any:
        """The mean of x over the spatial axes but `axis`, as (N, S_i, C)."""
        others = [other for other in self.spatial_axes if other != axis]
        z = ops.mean(x, others) if others else x
        return ops.moveaxis(z, 1, 2) if self.channel_axis == 1 else z

    def place(self, g: Any, axis: int) -> Any:
        """g of shape (N, S_i, C) with axes of size one put in, so that it multiplies a map along its `axis`."""
        others = [other for other in self.spatial_axes if other != axis]
        g = ops.moveaxis(g, 2, 1) if self.channel_axis == 1 else g
        return ops.expand_dims(g, others) if others else g
