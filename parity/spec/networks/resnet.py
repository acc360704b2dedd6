"""ResNet: options, spec and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from parity.errors import SpecError
from parity.spec import _check
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._norm import BatchNorm
from parity.spec.networks import _parts
from parity.spec.networks._parts import NetworkSpec
from parity.spec.networks.residual import EXPANSION, PLACEMENTS, SHORTCUTS, ResidualUnitSpec
from parity.spec.se import dense

# The numbers of units of each stage, and whether they are bottlenecks, by depth.
DEPTHS: dict[int, tuple[tuple[int, ...], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
STEMS = ("imagenet", "small")


@dataclass(frozen=True, kw_only=True)
class ResNetOptions(Options):
    """ResNet (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1), with an attention block
    in each unit where Hu et al. ("Squeeze-and-Excitation Networks", CVPR 2018, section 6.5) put it.

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3, and stages of n_1..n_k residual units::

        u = relu(norm(K * x))                        (N, stem channels, S1/s..Sd/s)
        u = unit_n(..unit_1(u))                      (N, F_i, ..)    for each stage i; F_i = width * 2^(i - 1), four
                                                     times that for bottlenecks; the first unit of all stages but the
                                                     first has stride 2
        y = W mean_S u + b                           (N, classes)    logits

    The stem "imagenet" has a kernel of 7 and stride 2, and then takes the maximum over windows of 3 positions along
    each axis, again with stride 2 (1 more at both ends, which is never the maximum); "small" has a kernel of 3, stride
    1, and no maximum. Convolutions are padded as in `ResidualUnitOptions`.

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
        placement: in the units, as `ResidualUnitOptions` tells.
        shortcut: of the units that change the shape: "convolution" or "average".
        norm: of all norms, a `BatchNorm` or its JSON form.
        classes: of the output.

    Raises:
        SpecError: for a value outside its domain, and for a block that does not keep the shape of its map.

    Example:
        >>> shapes = ResNetOptions(depth=50).resolve(channels=3).parameters()
        >>> shapes["stage4.unit1.shortcut.conv.kernel"], shapes["head.kernel"]
        ((2048, 1024, 1, 1), (1000, 2048))
    """

    block: ClassVar[str] = "resnet"
    class_name: ClassVar[str] = "ResNet"
    function_name: ClassVar[str] = "resnet"

    depth: int = 18
    depths: Sequence[int] | None = None
    bottleneck: bool | None = None
    width: int = 64
    stem: str = "imagenet"
    stem_channels: int | None = None
    attention: str | None = None
    attention_options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None
    placement: str = "before_addition"
    shortcut: str = "convolution"
    norm: BatchNorm | Mapping[str, Any] = BatchNorm()
    classes: int = 1000

    def __post_init__(self) -> None:
        depth = _check.integer("depth", self.depth)
        if depth not in DEPTHS:
            raise SpecError(
                f"received depth={depth}", f"one of {', '.join(map(str, DEPTHS))}", "or tell depths, such as (2, 2)"
            )
        if self.depths is not None and depth != 18:
            raise SpecError(f"received depth={depth} and depths={self.depths!r}", "one of them")
        if self.depths is None and self.bottleneck is not None:
            raise SpecError(f"received bottleneck={self.bottleneck!r} without depths", "None: the depth tells")
        channels = self.stem_channels
        self._check(
            depth=depth,
            depths=None if self.depths is None else _check.integers("depths", self.depths),
            bottleneck=None if self.bottleneck is None else _check.boolean("bottleneck", self.bottleneck),
            width=_check.integer("width", self.width),
            stem=_check.choice("stem", self.stem, STEMS),
            stem_channels=None if channels is None else _check.integer("stem_channels", channels),
            attention_options=_parts.several_options(self.attention, self.attention_options),
            placement=_check.choice("placement", self.placement, PLACEMENTS),
            shortcut=_check.choice("shortcut", self.shortcut, SHORTCUTS),
            norm=BatchNorm.of(self.norm),
            classes=_check.integer("classes", self.classes),
        )

    def resolve(self, channels: int, spatial_dims: int = 2) -> ResNetSpec:
        depths, bottleneck = DEPTHS[self.depth]
        if self.depths is not None:
            depths, bottleneck = tuple(self.depths), bool(self.bottleneck)
        attention = None
        if self.attention is not None:
            given = _parts.spread(self.attention, self.attention_options, len(depths), "stage")
            attention = tuple(
                options.resolve(_stage_channels(self.width, bottleneck, number), spatial_dims)
                for number, options in enumerate(given)
                if options
            )
        return ResNetSpec(
            channels=channels,
            spatial_dims=spatial_dims,
            depths=depths,
            bottleneck=bottleneck,
            width=self.width,
            stem=self.stem,
            stem_channels=self.stem_channels or self.width,
            attention=attention,
            placement=self.placement if attention else None,
            shortcut=self.shortcut,
            norm=BatchNorm.of(self.norm),
            classes=self.classes,
        )


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(NetworkSpec):
    """What the weights of a ResNet mean; `ResNetOptions` tells the fields.

    `attention` holds the spec of a block for each stage, at the channels that the stage puts out. Fields that mean
    nothing are None: `placement` without an attention, `shortcut` where no unit changes the shape.

    Parameters: ``stem.conv.kernel``, ``stem.norm.{scale,offset,mean,variance}``; those of each residual unit under
    ``stage1.unit1.``, ...; ``head.kernel (classes, F)``, ``head.bias (classes)``.
    """

    block: ClassVar[str] = "resnet"
    options_class: ClassVar[type[Options]] = ResNetOptions

    channels: int
    spatial_dims: int
    depths: tuple[int, ...]
    bottleneck: bool
    width: int
    stem: str
    stem_channels: int
    attention: tuple[Spec, ...] | None
    placement: str | None
    shortcut: str | None
    norm: BatchNorm
    classes: int

    def __post_init__(self) -> None:
        check_sizes(self)
        self._check(
            channels=_check.integer("channels", self.channels),
            depths=_check.integers("depths", self.depths),
            bottleneck=_check.boolean("bottleneck", self.bottleneck),
            width=_check.integer("width", self.width),
            stem=_check.choice("stem", self.stem, STEMS),
            stem_channels=_check.integer("stem_channels", self.stem_channels),
            norm=BatchNorm.of(self.norm),
            classes=_check.integer("classes", self.classes),
        )
        if self.attention is not None:
            self._check(attention=_parts.attentions_of(self.attention, self.stage_channels, self.spatial_dims, "stage"))
        shortcuts = [unit.shortcut for stage in self.units() for unit in stage if unit.shortcut]
        kinds = sorted(set(shortcuts))
        self._check(shortcut=kinds[0] if kinds else None)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """The channels that each stage puts out."""
        return tuple(_stage_channels(self.width, self.bottleneck, number) for number in range(len(self.depths)))

    @property
    def features(self) -> int:
        """The channels that the head sees."""
        return self.stage_channels[-1]

    def units(self) -> tuple[tuple[ResidualUnitSpec, ...], ...]:
        """The spec of each unit, by stage: that of ``stage2.unit1`` is ``units()[1][0]``."""
        stages, channels = [], self.stem_channels
        for number, depth in enumerate(self.depths):
            stages.append(tuple(self._unit(number, unit, channels if unit == 0 else None) for unit in range(depth)))
            channels = self.stage_channels[number]
        return tuple(stages)

    def _unit(self, stage: int, unit: int, entering: int | None) -> ResidualUnitSpec:
        outputs = self.stage_channels[stage]
        inputs = outputs if entering is None else entering
        attention = self.attention[stage] if self.attention else None
        if attention and self.placement == "before_unit":
            attention = replace(attention, channels=inputs)  # type: ignore[type-var]
        return ResidualUnitSpec(
            channels=inputs,
            spatial_dims=self.spatial_dims,
            out_channels=outputs,
            stride=2 if stage and not unit else 1,
            bottleneck=self.bottleneck,
            attention=attention,
            placement=self.placement,
            shortcut=self.shortcut,
            norm=self.norm,
        )

    def layers(self) -> tuple[str, ...]:
        units = (f"stage{stage}.unit{unit}" for stage, n in enumerate(self.depths, 1) for unit in range(1, n + 1))
        return ("stem", *units)

    def options(self) -> ResNetOptions:
        attention = self.attention
        return ResNetOptions(
            depths=self.depths,
            bottleneck=self.bottleneck,
            width=self.width,
            stem=self.stem,
            stem_channels=self.stem_channels,
            attention=attention[0].block if attention else None,
            attention_options=tuple(map(_parts.arguments_of, attention)) if attention else None,
            placement=self.placement or "before_addition",
            shortcut=self.shortcut or "convolution",
            norm=self.norm,
            classes=self.classes,
        )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        size = 7 if self.stem == "imagenet" else 3
        shapes = _parts.normed("stem.conv", "stem.norm", self.channels, self.stem_channels, size, self.spatial_dims)
        for number, stage in enumerate(self.units(), 1):
            for unit_number, unit in enumerate(stage, 1):
                shapes |= _parts.under(f"stage{number}.unit{unit_number}", unit)
        return shapes | dense("head", self.features, self.classes, True)

    def output_shape(self, shape: Sequence[int | None], data_format: str) -> tuple[int | None, ...]:
        return shape[0], self.classes

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        """Of the facts, `attention` is the name of the block, and `attention_options` are facts about it."""
        stem, channels, sizes = _parts.kernel_shape("stem.conv.kernel", shapes)
        stages = _parts.count_of("stage", shapes)
        depths = tuple(_parts.count_of(f"stage{number}.unit", shapes) for number in range(1, stages + 1))
        bottleneck = "stage1.unit1.conv3.kernel" in shapes
        last = "stage1.unit1.conv3.kernel" if bottleneck else "stage1.unit1.conv2.kernel"
        outputs, _, _ = _parts.kernel_shape(last, shapes)
        width = outputs // EXPANSION if bottleneck else outputs
        if "head.kernel" not in shapes:
            raise SpecError("received weights without head.kernel", "the weights of this network")
        found: dict[str, Any] = {"channels": channels, "spatial_dims": len(sizes), "depths": depths}
        found |= {"bottleneck": bottleneck, "width": width, "stem_channels": stem}
        found |= {"stem": "imagenet" if sizes[0] == 7 else "small", "classes": shapes["head.kernel"][0]}
        fields = {name: value for name, value in ResNetOptions().arguments().items() if name != "depth"} | facts
        told, placement = (fields.pop("attention"), fields.pop("attention_options")), fields.pop("placement")
        attentions = []
        for number, depth in enumerate(depths):
            # Not the first unit: before it, an attention sees the channels of the stage before.
            path, seen = f"stage{number + 1}.unit{depth}.attention", _stage_channels(width, bottleneck, number)
            if depth == 1 and placement == "before_unit":
                seen = _stage_channels(width, bottleneck, number - 1) if number else stem
            one = _parts.inferred(shapes, path, *told, (seen, len(sizes)))
            attentions += [replace(one, channels=_stage_channels(width, bottleneck, number))] if one else []
        fields |= {"attention": tuple(attentions) or None, "placement": placement if attentions else None}
        return cls(**(fields | found))

    def inert(self, training: bool) -> frozenset[str]:
        names: frozenset[str] = frozenset()
        for number, stage in enumerate(self.units(), 1):
            for unit_number, unit in enumerate(stage, 1):
                names |= _parts.inert_under(f"stage{number}.unit{unit_number}", unit, training)
        return names


def _stage_channels(width: int, bottleneck: bool, number: int) -> int:
    return width * 2**number * (EXPANSION if bottleneck else 1)
