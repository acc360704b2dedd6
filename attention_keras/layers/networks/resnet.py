"""ResNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers, ops

from attention_keras._maps import channels_last, max_pool, spatial_axes
from attention_keras.layers._block import Block
from attention_keras.layers.networks._parts import NormedConvolution
from attention_keras.layers.networks.residual import ResidualUnit
from parity.spec import BatchNorm, ResNetOptions


@keras.saving.register_keras_serializable(package="attention_keras")
class ResNet(Block):
    """ResNet (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1), with an attention block
    in each unit where Hu et al. ("Squeeze-and-Excitation Networks", CVPR 2018, section 6.5) put it.

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, and stages of n_1..n_k residual units::

        u = relu(norm(K * x))                        (N, stem channels, S1/s..Sd/s)
        u = unit_n(..unit_1(u))                      (N, F_i, ..)    for each stage i; F_i = width * 2^(i - 1), four
                                                     times that for bottlenecks; the first unit of all stages but the
                                                     first has stride 2
        y = W mean_S u + b                           (N, classes)    logits

    The stem "imagenet" has a kernel of 7 and stride 2, and then takes the maximum over windows of 3 positions along
    each axis, again with stride 2 (1 more at both ends, which is never the maximum); "small" has a kernel of 3, stride
    1, and no maximum. Convolutions are padded as in `ResidualUnit`. A channels-first map is transposed on its way in,
    once: inside, everything is channels-last.

    Args:
        depth: 18, 34, 50, 101 or 152: the paper's networks.
        depths: n_1..n_k instead, with the default depth.
        bottleneck: with `depths`, whether units are bottlenecks; None for not.
        width: of the first stage.
        stem: "imagenet" or "small".
        stem_channels: of the stem; None for width.
        attention: a key of `parity.spec.SPECS`, in every unit; None for none.
        attention_options: a mapping of the options of that block, or a sequence with one for each stage; None for its
            defaults. Sizes that follow from channels follow from the F_i, in the first unit of a stage, too.
        placement: in the units, as `ResidualUnit` tells.
        shortcut: of the units that change the shape: "convolution" or "average".
        norm: of all norms, a `parity.spec.BatchNorm` or its JSON form.
        classes: of the output.
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
        >>> network = ResNet(depth=18, width=8, attention="se", classes=10, data_format="channels_last")
        >>> network(keras.Input((33, 35, 3))).shape
        (None, 10)
    """

    def __init__(
        self,
        *,
        depth: int = 18,
        depths: Sequence[int] | None = None,
        bottleneck: bool | None = None,
        width: int = 64,
        stem: str = "imagenet",
        stem_channels: int | None = None,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        placement: str = "before_addition",
        shortcut: str = "convolution",
        norm: BatchNorm | Mapping[str, Any] = BatchNorm(),
        classes: int = 1000,
        data_format: str | None = None,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        options = ResNetOptions(
            depth=depth,
            depths=depths,
            bottleneck=bottleneck,
            width=width,
            stem=stem,
            stem_channels=stem_channels,
            attention=attention,
            attention_options=attention_options,
            placement=placement,
            shortcut=shortcut,
            norm=norm,
            classes=classes,
        )
        super().__init__(options, data_format=data_format, synchronized=synchronized, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        spec, shared = self.spec, {"synchronized": self.synchronized}
        size, stride = (7, 2) if spec.stem == "imagenet" else (3, 1)
        self.stem = Stem(spec.stem_channels, size, stride, spec.norm, **shared, **self.named("stem"))
        self.stem.build((None,) * (spec.spatial_dims + 1) + (spec.channels,))
        for number, units in enumerate(spec.units(), 1):
            made = {
                f"unit{place}": ResidualUnit.from_spec(
                    unit, data_format="channels_last", **shared, **self.named(f"stage{number}_unit{place}")
                )
                for place, unit in enumerate(units, 1)
            }
            setattr(self, f"stage{number}", made)
        self.head = layers.Dense(spec.classes, **self.named("head"))
        self.head.build((None, spec.features))

    def call(self, x: Any, training: bool | None = None) -> Any:
        """y, of shape (N, classes)."""
        self.check_input(x)
        u = self.stem(channels_last(x, self.data_format), training=training)
        u = max_pool(u) if self.spec.stem == "imagenet" else u
        for number in range(1, len(self.spec.depths) + 1):
            for unit in getattr(self, f"stage{number}").values():
                u = unit(u, training=training)
        return self.head(ops.mean(u, spatial_axes(u)))


class Stem(NormedConvolution):
    """relu(norm(K * x))."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        """The map behind the activation."""
        return ops.relu(super().call(x, training=training))
