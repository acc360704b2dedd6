"""Residual unit: options, spec and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from parity.errors import SpecError
from parity.spec import _check
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._norm import BatchNorm
from parity.spec.networks import _parts
from parity.spec.networks._parts import NetworkSpec

PLACEMENTS = ("before_addition", "after_addition", "before_unit", "identity", "beside_identity")
SHORTCUTS = ("convolution", "average")
EXPANSION = 4  # of a bottleneck: its width is the output's channels divided by it


@dataclass(frozen=True, kw_only=True)
class ResidualUnitOptions(Options):
    """Residual unit (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, equations 1 and 2, figure
    5), with an attention block where Hu et al. ("Squeeze-and-Excitation Networks", CVPR 2018, section 6.5) put it.

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3, O output channels, stride s, kernels K of 3 and L of 1 position along
    each axis, and an attention a::

        f(u) = norm2(K2 * relu(norm1(K1 * u)))                     (N, O, S1/s..Sd/s)   K1 strided
        f(u) = norm3(L3 * relu(norm2(K2 * relu(norm1(L1 * u)))))   the same             bottleneck: K2 strided
        i = x, or norm(L * x) where s > 1 or O differs from C      (N, O, S1/s..Sd/s)   L strided
        y = relu(a(f(x)) + i)          before_addition             (N, O, S1/s..Sd/s)
        y = a(relu(f(x) + i))          after_addition
        y = relu(f(a(x)) + i)          before_unit
        y = relu(f(x) + a(i))          identity
        y = relu(f(x) + i + a(i))      beside_identity

    Sizes are divided rounding up. Every convolution is zero padded by k // 2 at both ends of every axis, where it is
    strided, too (TensorFlow's "same" is not), and has no bias. A bottleneck is O // 4 channels wide.

    Args:
        out_channels: O; None for C.
        stride: s.
        bottleneck: whether f is the second one.
        attention: a, a key of `parity.spec.SPECS`: "se", "cbam", ...; None for a(u) = u.
        attention_options: a mapping of the options of that block; None for its defaults.
        placement: where a is, as above.
        shortcut: "convolution" as above; "average": i = norm(L * pool x) with L not strided, where pool takes the mean
            over each s^d window; of a window at the border over the positions that are there.
        norm: of all norms, a `BatchNorm` or its JSON form.

    Raises:
        SpecError: for a value outside its domain, and for a block that does not keep the shape of its map.

    Example:
        >>> options = ResidualUnitOptions(out_channels=24, stride=2, attention="se", attention_options={"reduction": 4})
        >>> options.resolve(channels=12).parameters()["attention.fc1.kernel"]
        (6, 24)
    """

    block: ClassVar[str] = "residual"
    class_name: ClassVar[str] = "ResidualUnit"
    function_name: ClassVar[str] = "residual_unit"

    out_channels: int | None = None
    stride: int = 1
    bottleneck: bool = False
    attention: str | None = None
    attention_options: Mapping[str, Any] | None = None
    placement: str = "before_addition"
    shortcut: str = "convolution"
    norm: BatchNorm | Mapping[str, Any] = BatchNorm()

    def __post_init__(self) -> None:
        outputs = self.out_channels
        self._check(
            out_channels=None if outputs is None else _check.integer("out_channels", outputs),
            stride=_check.integer("stride", self.stride),
            bottleneck=_check.boolean("bottleneck", self.bottleneck),
            attention_options=_parts.canonical_options(self.attention, self.attention_options),
            placement=_check.choice("placement", self.placement, PLACEMENTS),
            shortcut=_check.choice("shortcut", self.shortcut, SHORTCUTS),
            norm=BatchNorm.of(self.norm),
        )

    def resolve(self, channels: int, spatial_dims: int = 2) -> ResidualUnitSpec:
        channels = _check.integer("channels", channels)
        outputs = self.out_channels or channels
        attention = _parts.options_of(self.attention, self.attention_options)
        seen = channels if self.placement == "before_unit" else outputs
        return ResidualUnitSpec(
            channels=channels,
            spatial_dims=spatial_dims,
            out_channels=outputs,
            stride=self.stride,
            bottleneck=self.bottleneck,
            attention=attention.resolve(seen, spatial_dims) if attention else None,
            placement=self.placement if attention else None,
            shortcut=self.shortcut,
            norm=BatchNorm.of(self.norm),
        )


@dataclass(frozen=True, kw_only=True)
class ResidualUnitSpec(NetworkSpec):
    """What the weights of a residual unit mean; `ResidualUnitOptions` tells the fields.

    Fields that mean nothing are None: `placement` without an attention, `shortcut` where the identity is x itself.
    Where the stride is 1 there is nothing to pool, and `shortcut` is "convolution". `attention` is the spec of a block.

    Parameters: ``conv1.kernel``, ``norm1.{scale,offset,mean,variance}``, the same of 2 (and 3, of a bottleneck);
    ``shortcut.conv.kernel``, ``shortcut.norm.{scale,offset,mean,variance}``; those of the block under ``attention.``.
    """

    block: ClassVar[str] = "residual"
    options_class: ClassVar[type[Options]] = ResidualUnitOptions

    channels: int
    spatial_dims: int
    out_channels: int
    stride: int
    bottleneck: bool
    attention: Spec | None
    placement: str | None
    shortcut: str | None
    norm: BatchNorm

    def __post_init__(self) -> None:
        check_sizes(self)
        self._check(
            channels=_check.integer("channels", self.channels),
            out_channels=_check.integer("out_channels", self.out_channels),
            stride=_check.integer("stride", self.stride),
            bottleneck=_check.boolean("bottleneck", self.bottleneck),
            norm=BatchNorm.of(self.norm),
        )
        if self.bottleneck and self.out_channels % EXPANSION:
            raise SpecError(
                f"received out_channels={self.out_channels} with bottleneck=True", f"a multiple of {EXPANSION}"
            )
        if self.attention is None:
            if self.placement is not None:
                raise SpecError(f"received placement={self.placement!r} without attention", "None")
        else:
            placement = _check.choice("placement", self.placement, PLACEMENTS)
            seen = self.channels if placement == "before_unit" else self.out_channels
            attention = _parts.attention_of(self.attention, seen, self.spatial_dims)
            if attention is None or not _parts.keeps_shape(attention):
                raise SpecError(
                    f"received {self.attention!r} in a residual unit, placement {placement!r}",
                    f"a block that gives back a map of {seen} channels and of the same size",
                )
            self._check(attention=attention)
        if self.projects or self.shortcut is not None:
            _check.choice("shortcut", self.shortcut, SHORTCUTS)
        if not self.projects:
            self._check(shortcut=None)
        elif self.stride == 1:
            self._check(shortcut="convolution")

    @property
    def projects(self) -> bool:
        """Whether the identity is a convolution of x, because its shape is not that of f."""
        return self.stride != 1 or self.channels != self.out_channels

    @property
    def width(self) -> int:
        """The channels between the first and the last convolution."""
        return self.out_channels // EXPANSION if self.bottleneck else self.out_channels

    @property
    def convolutions(self) -> tuple[tuple[int, int, int, int], ...]:
        """(inputs, outputs, kernel size, stride) of each convolution of f, in order."""
        if self.bottleneck:
            return (
                (self.channels, self.width, 1, 1),
                (self.width, self.width, 3, self.stride),
                (self.width, self.out_channels, 1, 1),
            )
        return (self.channels, self.out_channels, 3, self.stride), (self.out_channels, self.out_channels, 3, 1)

    def options(self) -> ResidualUnitOptions:
        attention = self.attention
        return ResidualUnitOptions(
            out_channels=self.out_channels,
            stride=self.stride,
            bottleneck=self.bottleneck,
            attention=attention.block if attention else None,
            attention_options=_parts.arguments_of(attention) if attention else None,
            placement=self.placement or "before_addition",
            shortcut=self.shortcut or "convolution",
            norm=self.norm,
        )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for number, (inputs, outputs, size, _) in enumerate(self.convolutions, 1):
            shapes |= _parts.normed(f"conv{number}", f"norm{number}", inputs, outputs, size, self.spatial_dims)
        if self.projects:
            sizes = (self.channels, self.out_channels, 1, self.spatial_dims)
            shapes |= _parts.normed("shortcut.conv", "shortcut.norm", *sizes)
        return shapes | (_parts.under("attention", self.attention) if self.attention else {})

    def output_shape(self, shape: Sequence[int | None], data_format: str) -> tuple[int | None, ...]:
        return _parts.strided(shape, self.out_channels, self.stride, self.spatial_dims, data_format)

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        """Of the facts, `attention` is the name of the block, and `attention_options` are facts about it.

        A shortcut shows that there may be a stride; without word of it, the stride is 2 where the channels differ.
        """
        bottleneck = "conv3.kernel" in shapes
        _, channels, sizes = _parts.kernel_shape("conv1.kernel", shapes)
        outputs, _, _ = _parts.kernel_shape("conv3.kernel" if bottleneck else "conv2.kernel", shapes)
        fields = ResidualUnitOptions().arguments() | facts
        projects = "shortcut.conv.kernel" in shapes
        fields["stride"] = facts.get("stride", 2 if projects and channels != outputs else 1)
        seen = channels if fields["placement"] == "before_unit" else outputs
        told = fields.pop("attention"), fields.pop("attention_options")
        attention = _parts.inferred(shapes, "attention", *told, (seen, len(sizes)))
        found = {"channels": channels, "spatial_dims": len(sizes), "out_channels": outputs, "bottleneck": bottleneck}
        fields |= {"attention": attention, "placement": fields["placement"] if attention else None}
        spec = cls(**(fields | found))
        if spec.projects != projects:
            raise SpecError(
                f"received weights {'with' if projects else 'without'} a shortcut, and stride={spec.stride} for "
                f"{channels} to {outputs} channels",
                "weights that fit",
                "tell the stride",
            )
        return spec

    def inert(self, training: bool) -> frozenset[str]:
        return _parts.inert_under("attention", self.attention, training)
