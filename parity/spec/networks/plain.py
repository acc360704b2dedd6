"""Plain network: options, spec and parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from parity.errors import InputError, SpecError
from parity.spec import _check, _norm
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._gate import check_activation
from parity.spec._layout import spatial_axes
from parity.spec._norm import BatchNorm
from parity.spec.networks import _parts
from parity.spec.networks._parts import NetworkSpec
from parity.spec.se import dense

PADDINGS = ("tensorflow", "symmetric")
AFTER = ("each", "last")
HEADS = ("flatten", "mean")
OUTPUTS = ("softmax", "logits")


@dataclass(frozen=True, kw_only=True)
class PlainNetworkOptions(Options):
    """Plain network: convolutions one after the other, an attention block behind them, one dense layer (a network
    without shortcuts, as He et al., CVPR 2016, section 3.3, call it plain; Keras tutorials on attention build theirs
    so).

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3, kernels K_i of size k with F_i filters and stride s_i, attentions
    a_i, and u_0 = x::

        u_i = a_i(activation(norm_i(K_i * u_(i-1) + b_i)))    (N, F_i, S1/s_1../s_i, ..)
        z = flatten u_n                                       (N, P F_n)     over positions first, then over channels
        y = softmax(W z + b)                                  (N, classes)

    Sizes are divided rounding up. Convolutions are zero padded. The order of z is that of a channels-last map, in every
    layout: TensorFlow's.

    Args:
        filters: F_1..F_n.
        strides: s_1..s_n.
        kernel_size: k, odd.
        conv_bias: whether the b_i exist.
        padding: "tensorflow": as TensorFlow's "same", the odd one of the zeros at the end, as many as a stride needs;
            "symmetric": k // 2 zeros at both ends.
        norm: of every norm, a `BatchNorm` or its JSON form; None for none.
        activation: "relu", "silu", "hard_swish" or "identity".
        attention: a_i, a key of `parity.spec.SPECS`; None for none.
        attention_options: a mapping of the options of that block, or a sequence with one for each convolution; None for
            its defaults.
        attention_after: "each" convolution, or the "last" alone. A block that does not give back a map can only be
            behind the last.
        head: "flatten" as above; "mean": z = mean_S u_n, (N, F_n). Where the last block takes the positions away, z is
            what is left.
        map_sizes: S1..Sd, which "flatten" needs.
        classes: of the output.
        output: "softmax", or "logits": y = W z + b.

    Raises:
        SpecError: for a value outside its domain.

    Example:
        >>> tutorial = {"channel_merge": "concat", "spatial_features": "full", "kernel_size": 3, "spatial_norm": None}
        >>> options = PlainNetworkOptions(attention_options=tutorial | {"reduction": 8}, map_sizes=(32, 32, 32))
        >>> options.resolve(channels=3, spatial_dims=3).parameters()["head.kernel"]
        (10, 131072)
    """

    block: ClassVar[str] = "plain"
    class_name: ClassVar[str] = "PlainNetwork"
    function_name: ClassVar[str] = "plain_network"

    filters: Sequence[int] = (64, 128, 256)
    strides: Sequence[int] = (1, 2, 2)
    kernel_size: int = 3
    conv_bias: bool = True
    padding: str = "tensorflow"
    norm: BatchNorm | Mapping[str, Any] | None = None
    activation: str = "identity"
    attention: str | None = "cbam"
    attention_options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None
    attention_after: str = "each"
    head: str = "flatten"
    map_sizes: Sequence[int] | None = None
    classes: int = 10
    output: str = "softmax"

    def __post_init__(self) -> None:
        sizes = self.map_sizes
        self._check(
            filters=_check.integers("filters", self.filters),
            strides=_check.integers("strides", self.strides),
            kernel_size=_check.odd("kernel_size", self.kernel_size),
            conv_bias=_check.boolean("conv_bias", self.conv_bias),
            padding=_check.choice("padding", self.padding, PADDINGS),
            norm=_norm.optional(self.norm),
            activation=check_activation(self.activation),
            attention_options=_parts.several_options(self.attention, self.attention_options),
            attention_after=_check.choice("attention_after", self.attention_after, AFTER),
            head=_check.choice("head", self.head, HEADS),
            map_sizes=None if sizes is None else _check.integers("map_sizes", sizes),
            classes=_check.integer("classes", self.classes),
            output=_check.choice("output", self.output, OUTPUTS),
        )
        _check_strides(self.filters, self.strides)

    def resolve(self, channels: int, spatial_dims: int = 2) -> PlainNetworkSpec:
        count = len(self.filters)
        behind = range(count) if self.attention_after == "each" else range(count - 1, count)
        given = _parts.spread(self.attention, self.attention_options, len(behind), "attention block")
        attention: list[Spec | None] = [None] * count
        for number, options in zip(behind, given, strict=True):
            attention[number] = options.resolve(self.filters[number], spatial_dims) if options else None
        fields = {name: getattr(self, name) for name in COMMON}
        return PlainNetworkSpec(channels=channels, spatial_dims=spatial_dims, attention=tuple(attention), **fields)


# The fields that are the same in options and spec.
COMMON = (
    *("filters", "strides", "kernel_size", "conv_bias", "padding", "norm", "activation"),
    *("head", "map_sizes", "classes", "output"),
)


@dataclass(frozen=True, kw_only=True)
class PlainNetworkSpec(NetworkSpec):
    """What the weights of a plain network mean; `PlainNetworkOptions` tells the fields.

    `attention` holds, for each convolution, the spec of the block behind it or None: none, one behind each, or one
    behind the last alone. Where both paddings are the same, `padding` is "symmetric"; where both heads are, `head` is
    "mean"; where no size is needed, `map_sizes` is None.

    Parameters: ``conv1.kernel``, ``conv1.bias``, ``norm1.{scale,offset,mean,variance}``, those of the block under
    ``attention1.``, and so on; ``head.kernel (classes, features)``, ``head.bias (classes)``.
    """

    block: ClassVar[str] = "plain"
    options_class: ClassVar[type[Options]] = PlainNetworkOptions

    channels: int
    spatial_dims: int
    filters: tuple[int, ...]
    strides: tuple[int, ...]
    kernel_size: int
    conv_bias: bool
    padding: str
    norm: BatchNorm | None
    activation: str
    attention: tuple[Spec | None, ...]
    head: str
    map_sizes: tuple[int, ...] | None
    classes: int
    output: str

    def __post_init__(self) -> None:
        check_sizes(self)
        # The rules of these fields stand in the options alone; making them runs the checks.
        plain = PlainNetworkOptions(attention=None, **{name: getattr(self, name) for name in COMMON}).arguments()
        self._check(channels=_check.integer("channels", self.channels), **{name: plain[name] for name in COMMON})
        attention = _parts.attentions_of(self.attention, self.filters, self.spatial_dims, "convolution")
        self._check(attention=attention)
        if sum(one is not None for one in attention[:-1]) not in (0, len(attention) - 1) or (
            attention[-1] is None and any(attention)
        ):
            raise SpecError(
                f"received attention={[one and one.block for one in attention]}",
                "none, one behind each convolution, or one behind the last alone",
            )
        for one in attention[:-1]:
            if one is not None and not _parts.keeps_shape(one):
                raise SpecError(
                    f"received a block {one.block!r} behind each convolution, which does not keep the shape of its map",
                    "one that does",
                    "pass attention_after='last'",
                )
        if set(self.strides) == {1} or self.kernel_size == 1:
            self._check(padding="symmetric")
        self._check_head()

    def _check_head(self) -> None:
        if self.head == "mean" or not self.ends_in_map:
            self._check(head="mean", map_sizes=None)
        elif self.map_sizes is None or len(self.map_sizes) != self.spatial_dims:
            raise SpecError(
                f"received head='flatten' with map_sizes={self.map_sizes!r}",
                f"the {self.spatial_dims} spatial sizes of the input",
                "tell them, or use head='mean'",
            )

    @property
    def ends_in_map(self) -> bool:
        """Whether positions are left before the head, so that it has something to flatten or to take the mean of."""
        return len(self._last((2, self.channels, *_parts.TRIAL[: self.spatial_dims]))) > 2

    @property
    def features(self) -> int:
        """What the head sees of each sample."""
        flat = self.head == "flatten" and self.ends_in_map
        sizes = self.map_sizes if flat and self.map_sizes else _parts.TRIAL[: self.spatial_dims]
        _, channels, *positions = self._last((2, self.channels, *sizes))
        return channels * math.prod(positions) if flat else channels

    def _last(self, shape: tuple[int, ...]) -> Any:
        """The shape before the head, channels first."""
        total = math.prod(self.strides)
        found: Any = _parts.strided(shape, self.filters[-1], total, self.spatial_dims, "channels_first")
        last = self.attention[-1]
        return last.output_shape(found, "channels_first") if last else found

    def layers(self) -> tuple[str, ...]:
        names: list[str] = []
        for number, attention in enumerate(self.attention, 1):
            names += [f"conv{number}", f"attention{number}"] if attention else [f"conv{number}"]
        return tuple(names)

    def options(self) -> PlainNetworkOptions:
        present = [one for one in self.attention if one]
        return PlainNetworkOptions(
            attention=present[0].block if present else None,
            attention_options=tuple(map(_parts.arguments_of, present)) if present else None,
            attention_after="last" if len(present) == 1 < len(self.filters) else "each",
            **{name: getattr(self, name) for name in COMMON},
        )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        inputs = self.channels
        for number, (outputs, attention) in enumerate(zip(self.filters, self.attention, strict=True), 1):
            shapes |= _parts.convolution(
                f"conv{number}", inputs, outputs, self.kernel_size, self.spatial_dims, self.conv_bias
            )
            shapes |= _norm.parameters(f"norm{number}", outputs) if self.norm else {}
            shapes |= _parts.under(f"attention{number}", attention) if attention else {}
            inputs = outputs
        return shapes | dense("head", self.features, self.classes, True)

    def output_shape(self, shape: Sequence[int | None], data_format: str) -> tuple[int | None, ...]:
        return shape[0], self.classes

    def check_input(self, shape: Sequence[int | None], data_format: str) -> int:
        channels = super().check_input(shape, data_format)
        sizes = [shape[axis] for axis in spatial_axes(self.spatial_dims, data_format)]
        if self.map_sizes is not None and any(
            size is not None and size != wanted for size, wanted in zip(sizes, self.map_sizes, strict=True)
        ):
            raise InputError(
                f"received an input of shape {tuple(shape)}, data_format={data_format!r}",
                f"a map of {self.map_sizes}: the head's weights are for that size",
                "resize it, or use head='mean'",
            )
        return channels

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        """Of the facts, `attention` is the name of the block, and `attention_options` are facts about it."""
        _, channels, sizes = _parts.kernel_shape("conv1.kernel", shapes)
        count = _parts.count_of("conv", shapes)
        filters = tuple(shapes[f"conv{number}.kernel"][0] for number in range(1, count + 1))
        if "head.kernel" not in shapes:
            raise SpecError("received weights without head.kernel", "the weights of this network")
        found: dict[str, Any] = {"channels": channels, "spatial_dims": len(sizes), "filters": filters}
        found |= {"kernel_size": sizes[0], "conv_bias": "conv1.bias" in shapes, "classes": shapes["head.kernel"][0]}
        if "norm1.mean" not in shapes:
            found["norm"] = None
        fields = {name: value for name, value in PlainNetworkOptions().arguments().items() if name in COMMON}
        fields |= {name: value for name, value in facts.items() if not name.startswith("attention")}
        told = facts.get("attention"), facts.get("attention_options")
        attention = [
            _parts.inferred(shapes, f"attention{number}", *told, (outputs, len(sizes)))
            for number, outputs in enumerate(filters, 1)
        ]
        return cls(**(fields | found | {"attention": tuple(attention)}))

    def inert(self, training: bool) -> frozenset[str]:
        # A shift before a norm is taken away by the batch's mean.
        biased = training and self.norm and self.conv_bias
        names = frozenset(f"conv{number}.bias" for number in range(1, len(self.filters) + 1) if biased)
        for number, attention in enumerate(self.attention, 1):
            names |= _parts.inert_under(f"attention{number}", attention, training)
        return names


def _check_strides(filters: Sequence[int], strides: Sequence[int]) -> None:
    if len(filters) != len(strides):
        raise SpecError(f"received {len(filters)} filters and {len(strides)} strides", "a stride for each convolution")
