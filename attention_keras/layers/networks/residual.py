"""Residual unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from attention_keras._maps import average_pool, channels_back, channels_last, pad_symmetric
from attention_keras.layers._block import Block
from attention_keras.layers.networks._parts import NormedConvolution, block_of, convolution, normalization
from parity.spec import BatchNorm, ResidualUnitOptions


@keras.saving.register_keras_serializable(package="attention_keras")
class ResidualUnit(Block):
    """Residual unit (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, equations 1 and 2, figure
    5), with an attention block where Hu et al. ("Squeeze-and-Excitation Networks", CVPR 2018, section 6.5) put it.

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, O output channels, stride s, kernels K of 3 and L of
    1 position along each axis, and an attention a::

        f(u) = norm2(K2 * relu(norm1(K1 * u)))                     (N, O, S1/s..Sd/s)   K1 strided
        f(u) = norm3(L3 * relu(norm2(K2 * relu(norm1(L1 * u)))))   the same             bottleneck: K2 strided
        i = x, or norm(L * x) where s > 1 or O differs from C      (N, O, S1/s..Sd/s)   L strided
        y = relu(a(f(x)) + i)          before_addition             (N, O, S1/s..Sd/s)
        y = a(relu(f(x) + i))          after_addition
        y = relu(f(a(x)) + i)          before_unit
        y = relu(f(x) + a(i))          identity
        y = relu(f(x) + i + a(i))      beside_identity

    Sizes are divided rounding up. Every convolution is zero padded by k // 2 at both ends of every axis and has no
    bias. A bottleneck is O // 4 channels wide. A channels-first map is transposed on its way in and back on its way
    out, once: inside, everything is channels-last.

    Args:
        out_channels: O; None for C.
        stride: s.
        bottleneck: whether f is the second one.
        attention: a, a key of `parity.spec.SPECS`: "se", "cbam", ...; None for a(u) = u.
        attention_options: a mapping of the options of that block; None for its defaults.
        placement: where a is, as above.
        shortcut: "convolution" as above; "average": i = norm(L * pool x) with L not strided, where pool takes the mean
            over each s^d window; of a window at the border over the positions that are there.
        norm: of all norms, a `parity.spec.BatchNorm` or its JSON form.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        synchronized: whether replicas that train together share the norms' statistics, as Keras' own
            `BatchNormalization` has it. Not part of the spec: alone, a replica computes the same.
        kwargs: of every Keras layer: name, dtype, trainable.

    Raises:
        SpecError: for an argument outside its domain, and for a block that does not keep the shape of its map. A
            `ValueError`.
        InputError: for a map of another rank or number of channels, and from a call for one value per channel before a
            norm in training mode. A `ValueError`.

    Example:
        >>> import keras
        >>> unit = ResidualUnit(out_channels=24, stride=2, attention="se", data_format="channels_last")
        >>> unit(keras.Input((5, 7, 12))).shape
        (None, 3, 4, 24)
    """

    def __init__(
        self,
        *,
        out_channels: int | None = None,
        stride: int = 1,
        bottleneck: bool = False,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        placement: str = "before_addition",
        shortcut: str = "convolution",
        norm: BatchNorm | Mapping[str, Any] = BatchNorm(),
        data_format: str | None = None,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        options = ResidualUnitOptions(
            out_channels=out_channels,
            stride=stride,
            bottleneck=bottleneck,
            attention=attention,
            attention_options=attention_options,
            placement=placement,
            shortcut=shortcut,
            norm=norm,
        )
        super().__init__(options, data_format=data_format, synchronized=synchronized, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        spec, shared = self.spec, {"synchronized": self.synchronized}
        for number, (inputs, outputs, size, step) in enumerate(spec.convolutions, 1):
            conv = convolution(inputs, outputs, size, step, spec.spatial_dims, **self.named(f"conv{number}"))
            setattr(self, f"conv{number}", conv)
            named = shared | self.named(f"norm{number}")
            setattr(self, f"norm{number}", normalization(outputs, spec.spatial_dims, spec.norm, **named))
        step = 1 if spec.shortcut == "average" else spec.stride
        sizes, named = (spec.out_channels, 1, step, spec.norm), shared | self.named("shortcut")
        self.shortcut = NormedConvolution(*sizes, **named) if spec.projects else None
        if self.shortcut:
            self.shortcut.build((None,) * (spec.spatial_dims + 1) + (spec.channels,))
        self.attention = block_of(spec.attention, **shared, **self.named("attention"))

    def call(self, x: Any, training: bool | None = None) -> Any:
        """y, of shape (N, O, *spatial)."""
        self.check_input(x)
        x = channels_last(x, self.data_format)
        placement = self.spec.placement
        f = self.branch(self.attend(x) if placement == "before_unit" else x, training)
        i = self.identity(x, training)
        if placement == "before_addition":
            f = self.attend(f)
        if placement == "identity":
            i = self.attend(i)
        if placement == "beside_identity":
            f, i = f + i, self.attend(i)
        y = ops.relu(f + i)
        return channels_back(self.attend(y) if placement == "after_addition" else y, self.data_format)

    def branch(self, u: Any, training: bool | None) -> Any:
        """f(u)."""
        for number, (_, _, size, step) in enumerate(self.spec.convolutions, 1):
            conv, norm = getattr(self, f"conv{number}"), getattr(self, f"norm{number}")
            u = norm(conv(pad_symmetric(u, size, step)), training=training)
            u = ops.relu(u) if number < len(self.spec.convolutions) else u
        return u

    def identity(self, x: Any, training: bool | None) -> Any:
        """i."""
        if self.shortcut is None:
            return x
        x = average_pool(x, self.spec.stride) if self.spec.shortcut == "average" else x
        return self.shortcut(x, training=training)

    def attend(self, u: Any) -> Any:
        """a(u)."""
        # Not every block has a training mode: Keras itself tells it to those that do.
        return u if self.attention is None else self.attention(u)
