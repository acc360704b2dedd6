"""Convolutional block attention module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers, ops

from attention_keras._block import maximum, scale
from attention_keras._gate import apply_activation, apply_gate
from attention_keras._norm import BatchNormalization
from attention_keras.layers._block import Block, sublayer
from parity.spec import BatchNorm, CBAMOptions, Gate, channel_axis, spatial_axes

CONVOLUTIONS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}


@keras.saving.register_keras_serializable(package="attention_keras")
class CBAM(Block):
    """Convolutional block attention module (Woo et al., "CBAM", ECCV 2018, equations 1 to 3).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, h hidden channels and a kernel K of k positions
    along each axis::

        c = gate(MLP(mean_S x) + MLP(max_S x))    (N, C)       MLP(z) = W2 activation(W1 z + b1) + b2
        x' = x * c                                the shape of x
        p = [mean_C x', max_C x']                 (N, S1..Sd, 2)
        m = gate(norm(K * p + b))                 (N, S1..Sd, 1)
        y = x' * m                                the shape of x

    The convolution is zero padded to keep the size. Plane 0 is the mean and plane 1 the maximum, always. Tied maxima
    share the gradient evenly. The defaults are the authors' code.

    Args:
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        mlp_bias: whether b1 and b2 exist.
        activation: of the MLP: "relu", "silu", "hard_swish" or "identity".
        channel_merge: "add" as above; "concat": c = gate(MLP([mean_S x, max_S x])), one pass, W1 is (h, 2 C).
        kernel_size: k, odd.
        spatial_bias: whether b exists.
        spatial_norm: a `parity.spec.BatchNorm` (or its JSON form) after the convolution, or None.
        spatial_features: "pooled" as above; "full": the convolution sees all C channels instead of the two planes.
        spatial_source: "refined" as above; "input": the planes are taken from x instead of x'.
        parts: "both", or "channel" (y = x') or "spatial" (x' = x) alone.
        gate: of both halves: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
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
        >>> CBAM(reduction=4, data_format="channels_last")(keras.Input((5, 7, 24))).shape
        (None, 5, 7, 24)
    """

    def __init__(
        self,
        *,
        reduction: int = 16,
        hidden_channels: int | None = None,
        mlp_bias: bool = True,
        activation: str = "relu",
        channel_merge: str = "add",
        kernel_size: int = 7,
        spatial_bias: bool = False,
        spatial_norm: BatchNorm | Mapping[str, Any] | None = BatchNorm(update_rate=0.01),
        spatial_features: str = "pooled",
        spatial_source: str = "refined",
        parts: str = "both",
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        residual: bool = False,
        data_format: str | None = None,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        options = CBAMOptions(
            reduction=reduction,
            hidden_channels=hidden_channels,
            mlp_bias=mlp_bias,
            activation=activation,
            channel_merge=channel_merge,
            kernel_size=kernel_size,
            spatial_bias=spatial_bias,
            spatial_norm=spatial_norm,
            spatial_features=spatial_features,
            spatial_source=spatial_source,
            parts=parts,
            gate=gate,
            residual=residual,
        )
        super().__init__(options, data_format=data_format, synchronized=synchronized, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        spec = self.spec
        self.channel = ChannelAttention(spec, self.data_format, **self.named("channel")) if spec.has_channel else None
        shared = {"synchronized": self.synchronized} | self.named("spatial")
        self.spatial = SpatialAttention(spec, self.data_format, **shared) if spec.has_spatial else None
        for half in (self.channel, self.spatial):
            if half:
                half.build(input_shape)

    def call(self, x: Any, training: bool | None = None) -> Any:
        """y, of the shape of x."""
        self.check_input(x)
        refined = scale(x, self.channel(x)) if self.channel else x
        source = x if self.spec.spatial_source == "input" else refined
        y = scale(refined, self.spatial(source, training=training)) if self.spatial else refined
        return y + x if self.spec.residual else y


class ChannelAttention(layers.Layer):
    """The channel half: c of shape (N, C), with axes of size one for the spatial ones, from x."""

    def __init__(self, spec: Any, data_format: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.spatial_axes = spatial_axes(spec.spatial_dims, data_format)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights."""
        spec = self.spec
        inputs = spec.channels * (2 if spec.channel_merge == "concat" else 1)
        self.fc1 = layers.Dense(spec.hidden_channels, use_bias=spec.mlp_bias, **sublayer(self, "fc1"))
        self.fc2 = layers.Dense(spec.channels, use_bias=spec.mlp_bias, **sublayer(self, "fc2"))
        self.fc1.build((None, inputs))
        self.fc2.build((None, spec.hidden_channels))

    def call(self, x: Any) -> Any:
        """c, of shape (N, C) and axes of size one."""
        z_mean, z_max = ops.mean(x, self.spatial_axes), maximum(x, self.spatial_axes)
        is_joined = self.spec.channel_merge == "concat"
        u = self.mlp(ops.concatenate([z_mean, z_max], axis=1)) if is_joined else self.mlp(z_mean) + self.mlp(z_max)
        return ops.expand_dims(apply_gate(u, self.spec.gate), self.spatial_axes)

    def mlp(self, z: Any) -> Any:
        """W2 activation(W1 z + b1) + b2."""
        return self.fc2(apply_activation(self.fc1(z), self.spec.activation))


class SpatialAttention(layers.Layer):
    """The spatial half: m, of size one along the channels, from the map that it is to judge."""

    def __init__(self, spec: Any, data_format: str, *, synchronized: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.synchronized = synchronized
        self.channel_axis = channel_axis(spec.spatial_dims, data_format)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights."""
        spec = self.spec
        planes = spec.channels if spec.spatial_features == "full" else 2
        self.conv = CONVOLUTIONS[spec.spatial_dims](
            1,
            spec.kernel_size,
            padding="same",
            data_format="channels_last",
            use_bias=spec.spatial_bias,
            **sublayer(self, "conv"),
        )
        shared = {"synchronized": self.synchronized} | sublayer(self, "norm")
        self.norm = BatchNormalization(spec.spatial_norm, **shared) if spec.spatial_norm else None
        self.conv.build((None,) * (spec.spatial_dims + 1) + (planes,))
        if self.norm:
            self.norm.build((None,) * (spec.spatial_dims + 1) + (1,))

    def call(self, x: Any, training: bool | None = None) -> Any:
        """m, of size one along the channels."""
        axis = self.channel_axis
        # The planes are channels-last in both formats: TensorFlow has no channels-first convolution on the CPU.
        if self.spec.spatial_features == "pooled":
            p = ops.stack([ops.mean(x, axis), maximum(x, axis)], axis=-1)
        else:
            p = ops.moveaxis(x, axis, -1)
        u = self.conv(p)
        u = self.norm(u, training=training) if self.norm else u
        return ops.expand_dims(ops.squeeze(apply_gate(u, self.spec.gate), -1), axis)
