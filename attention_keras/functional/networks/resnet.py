"""ResNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras import layers, ops

from attention_keras._maps import channels_last, max_pool, spatial_axes
from attention_keras._shown import Layers, field, norm_of, one_of
from attention_keras.functional._block import Block
from attention_keras.functional.networks import residual
from attention_keras.functional.networks._parts import landmark, normed_convolution
from attention_keras.functional.networks.residual import residual_unit
from parity.spec import BatchNorm, ResNetOptions, ResNetSpec


def resnet(
    x: Any,
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
    dtype: Any = None,
    name: str | None = None,
    spec: ResNetSpec | None = None,
) -> Any:
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
    1, and no maximum. Convolutions are padded as in `residual_unit`. A channels-first map is transposed on its way in,
    once: inside, everything is channels-last.

    Args:
        x: a Keras tensor.
        depth: 18, 34, 50, 101 or 152: the paper's networks.
        depths: n_1..n_k instead, with the default depth.
        bottleneck: with `depths`, whether units are bottlenecks; None for not.
        width: of the first stage.
        stem: "imagenet" or "small".
        stem_channels: of the stem; None for width.
        attention: a key of `parity.spec.SPECS`, in every unit; None for none.
        attention_options: a mapping of the options of that block, or a sequence with one for each stage; None for its
            defaults. Sizes that follow from channels follow from the F_i, in the first unit of a stage, too.
        placement: in the units, as `residual_unit` tells.
        shortcut: of the units that change the shape: "convolution" or "average".
        norm: of all norms, a `parity.spec.BatchNorm` or its JSON form.
        classes: of the output.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        synchronized: whether replicas that train together share the norms' statistics, as Keras' own
            `BatchNormalization` has it. Not part of the spec: alone, a replica computes the same.
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_stem_conv``, ``<name>_stage1_unit1_conv1``; None for a new one.
        spec: a `parity.spec.ResNetSpec` instead of the options above.

    Returns:
        y, of shape (N, classes).

    Raises:
        SpecError: for an option outside its domain, or a spec beside options, and for a block that does not keep the
            shape of its map. A `ValueError`.
        InputError: for a map of another rank or number of channels, and from the model for one value per channel
            before a norm in training mode. A `ValueError`.

    Example:
        >>> import keras
        >>> x = keras.Input((33, 35, 3))
        >>> resnet(x, depth=18, width=8, attention="se", classes=10, data_format="channels_last").shape
        (None, 10)
    """
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
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec

    x = channels_last(block.cast(x), block.data_format)
    u = stem_of(x, block, synchronized)
    u = max_pool(u) if spec.stem == "imagenet" else u
    shared: dict[str, Any] = {"data_format": "channels_last", "synchronized": synchronized}
    for number, units in enumerate(spec.units(), 1):
        for place, unit in enumerate(units, 1):
            path = f"stage{number}.unit{place}"
            u = landmark(residual_unit(u, spec=unit, **shared, **block.named(path)), block, path)
    return layers.Dense(spec.classes, **block.named("head"))(ops.mean(u, spatial_axes(u)))


def stem_of(x: Any, block: Block, synchronized: bool) -> Any:
    """relu(norm(K * x))."""
    spec = block.spec
    size, stride = (7, 2) if spec.stem == "imagenet" else (3, 1)
    shared: dict[str, Any] = {"block": block, "synchronized": synchronized}
    u = normed_convolution(x, spec.stem_channels, size, stride, spec.norm, paths=("stem.conv", "stem.norm"), **shared)
    return block.activation("stem", "relu")(u)


def shown(layers: Layers, spec: ResNetSpec) -> dict[str, Any]:
    """What the configuration of a network's layers shows of its spec; None where it does not."""
    kernel, size = field(layers, "stem.conv", "kernel"), field(layers, "stem.conv", "kernel_size")
    depths: list[int] = []
    while found := layers.numbered(f"stage{len(depths) + 1}.unit", ".conv1"):
        depths.append(len(found))
    stages = [
        [residual.shown(layers.under(f"stage{number}.unit{place}"), unit) for place, unit in enumerate(units, 1)]
        for number, units in enumerate(spec.units(), 1)
    ]
    units = [unit for stage in stages for unit in stage]
    strided = [unit for unit in units if (unit["stride"] or 1) > 1]  # without a stride both shortcuts are one
    blocks = [one_of((unit["attention"] for unit in stage), None) for stage in stages]
    attention = [
        expected.to_json() | (found | {"channels": expected.channels} if found else {})
        for found, expected in zip(blocks, spec.attention or (), strict=False)
    ]
    fields = {
        "channels": kernel.shape[-2] if kernel is not None else None,
        "spatial_dims": len(size) if size else None,
        "depths": depths or None,
        "bottleneck": one_of((unit["bottleneck"] for unit in units), spec.bottleneck),
        "width": field(layers, "stage1.unit1.conv1", "filters"),
        "stem": {7: "imagenet", 3: "small"}.get(size[0]) if size else None,
        "stem_channels": field(layers, "stem.conv", "filters"),
        "attention": (attention or "a block") if any(blocks) else None,
        "shortcut": one_of((unit["shortcut"] for unit in strided or units), spec.shortcut),
        "classes": field(layers, "head", "units"),
    }
    norms = (norm_of(layers, "stem.norm"), *(unit.get("norm") for unit in units))
    return fields | ({"norm": one_of(norms, spec.norm.to_json())} if kernel is not None else {})
