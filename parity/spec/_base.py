"""What the options and specs of all blocks share: JSON, comparison, and the check of an input's shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, ClassVar, Self

from parity.errors import InputError, SpecError
from parity.spec import _check
from parity.spec._gate import Gate
from parity.spec._layout import AXIS_NAMES, channel_axis, spatial_axes
from parity.spec._norm import BatchNorm

STATISTICS = ("mean", "variance")


def is_statistic(name: str) -> bool:
    """Whether the canonical parameter `name` is a running statistic: state that training updates without a gradient."""
    return name.rpartition(".")[2] in STATISTICS


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _to_json(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    return value.to_json() if isinstance(value, Gate | BatchNorm | Spec) else value


def differing(name: str, one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    """Where two JSON values of the field `name` differ, and how: of blocks inside of a network, the very fields."""
    if one == other:
        return []
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other) and any(map(_is_block, one)):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for number, (a, b) in pairs for found in differing(f"{name}[{number}]", a, b)]
    if _is_block(one) and _is_block(other) and one["block"] == other["block"]:
        fields_of_both = dict.fromkeys((*one, *other))
        return [found for key in fields_of_both for found in differing(f"{name}.{key}", one.get(key), other.get(key))]
    return [(name, _in_short(one), _in_short(other))]


def _is_block(value: Any) -> bool:
    return isinstance(value, Mapping) and "block" in value


def _in_short(value: Any) -> Any:
    """A JSON value with the names of blocks in place of their specs."""
    if isinstance(value, list):
        return [_in_short(item) for item in value]
    return value["block"] if _is_block(value) else value


class _Record(ABC):
    """A frozen dataclass whose fields are JSON values, gates or norms."""

    block: ClassVar[str]

    def _check(self, **checked: Any) -> None:
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # frozen: only __post_init__ may put a field into canonical form

    def arguments(self) -> dict[str, Any]:
        """The fields by name, as a constructor takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back to an equal value; it names its block."""
        return {"block": self.block} | {name: _to_json(value) for name, value in self.arguments().items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; raises `SpecError` for another block, and for missing or unknown fields."""
        if not isinstance(value, Mapping) or value.get("block") != cls.block:
            raise SpecError(f"received {value!r}", f"a mapping with 'block': {cls.block!r}")
        given = {name: item for name, item in value.items() if name != "block"}
        known = {field.name: field.default is MISSING for field in fields(cls)}  # type: ignore[arg-type]
        wrong = [f"unknown {name!r}" for name in given if name not in known]
        wrong += [f"no {name!r}" for name, needed in known.items() if needed and name not in given]
        if wrong:
            raise SpecError(f"received a {cls.__name__} with {', '.join(wrong)}", f"the fields {', '.join(known)}")
        return cls(**given)


class Options(_Record):
    """What a block's constructor takes. Frozen, keyword-only, checked when made."""

    class_name: ClassVar[str]  # of the block in the styles that have classes
    function_name: ClassVar[str]  # in those that have functions

    @abstractmethod
    def resolve(self, channels: int, spatial_dims: int = 2) -> Spec:
        """The spec of this block for maps of `channels` channels and 1, 2 or 3 spatial axes."""

    def given_by(self, spec: Any) -> Options:
        """The options of `spec`, which stands in for these; they must then be the defaults.

        Raises `SpecError` for anything but a spec of this block, and for a spec beside other options.
        """
        if not isinstance(spec, Spec) or spec.block != self.block:
            raise SpecError(f"received spec={spec!r}", f"a spec of the block {self.block!r}")
        defaults = type(self)().arguments()
        given = [f"{name}={value!r}" for name, value in self.arguments().items() if value != defaults[name]]
        if given:
            raise SpecError(f"received a spec together with {', '.join(given)}", "either", "leave the options out")
        return spec.options()


class Spec(_Record):
    """What a block's weights mean: sizes, biases, gate, norm. Frozen, keyword-only, checked when made."""

    options_class: ClassVar[type[Options]]
    rankless: ClassVar[bool] = False  # whether the weights are the same for maps of any rank
    quadratic: ClassVar[bool] = False  # whether time and memory grow with the square of the number of positions

    channels: int | None
    spatial_dims: int

    @abstractmethod
    def options(self) -> Options:
        """Options that resolve to this spec again, at the same channels and rank."""

    @abstractmethod
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The canonical name and shape of every weight and running statistic, in canonical order."""

    @classmethod
    @abstractmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        """The spec of weights of the canonical names and `shapes`; `facts` are the fields that shapes cannot tell."""

    @property
    def orderless(self) -> bool:
        """Whether all positions are treated alike: moving those of x about moves those of y alike, and nothing else."""
        return self.rankless

    def inert(self, training: bool) -> frozenset[str]:
        """The parameters that cannot move the output in this mode: their gradient is exactly zero by theory."""
        return frozenset()

    def mistakable(self) -> str:
        """What else such weights may be, in words, where nothing tells them from plain layers; else empty."""
        return ""

    def differences(self, other: Spec) -> list[str]:
        """The fields in which `other` means another function, each as ``name: this, that``; empty when they agree.

        Channels that one side leaves open (ECA's weights do not tell them) agree with any.
        """
        mine, theirs = self.to_json(), other.to_json()
        if mine["block"] != theirs["block"]:
            return [f"block: {mine['block']!r}, {theirs['block']!r}"]
        if None in (self.channels, other.channels):
            mine["channels"] = theirs["channels"]
        found = [one for name in mine for one in differing(name, mine[name], theirs[name])]
        return [f"{name}: {this!r}, {that!r}" for name, this, that in found]

    def output_shape(self, shape: Sequence[int | None], data_format: str) -> tuple[int | None, ...]:
        """The shape of the output for an input of `shape`, None where a size is unknown; here that of the input."""
        return tuple(shape)

    def check_input(self, shape: Sequence[int | None], data_format: str) -> int:
        """The channels of a feature map of `shape` (None where unknown); raises `InputError` where it does not fit."""
        axis, rank = channel_axis(self.spatial_dims, data_format), self.spatial_dims + 2
        names = ["N", *AXIS_NAMES[self.spatial_dims]]
        names.insert(axis, "C")
        layout = f"{rank} axes ({', '.join(names)}) for spatial_dims={self.spatial_dims}, data_format={data_format!r}"
        received = f"received an input of shape {tuple(shape)}"
        if len(shape) != rank:
            raise InputError(received, layout, "set spatial_dims to the input's rank less 2")
        channels = shape[axis]
        # Not `in`: it compares the symbolic sizes of torch.compile by identity.
        if channels is None or (self.channels is not None and self.channels != channels):
            wanted = "a known number of" if self.channels is None else self.channels
            raise InputError(f"{received}, {channels} channels on axis {axis}", f"{wanted} channels; {layout}")
        # The mean and the maximum of nothing are no numbers. Symbolic sizes are never taken for empty.
        if any(isinstance(shape[i], int) and shape[i] == 0 for i in spatial_axes(self.spatial_dims, data_format)):
            raise InputError(
                f"{received}, an empty map",
                f"at least one position along each of {', '.join(AXIS_NAMES[self.spatial_dims])}",
            )
        return channels


def check_sizes(spec: Spec) -> None:
    """Put `channels` and `spatial_dims` of a spec under construction into canonical form."""
    if isinstance(spec.spatial_dims, bool) or spec.spatial_dims not in list(AXIS_NAMES):
        raise SpecError(f"received spatial_dims={spec.spatial_dims!r}", "1, 2 or 3")
    channels = None if spec.channels is None else _check.integer("channels", spec.channels)
    spec._check(spatial_dims=int(spec.spatial_dims), channels=channels)


def check_spec_of(spec: Any, block_class: type) -> None:
    """Raise `SpecError` unless `spec` is one of the block whose class, or a subclass of it, is `block_class`."""
    names = [base.__name__ for base in block_class.__mro__]
    if not isinstance(spec, Spec) or spec.options_class.class_name not in names:
        raise SpecError(f"received spec={spec!r}", f"a spec of {block_class.__name__}")
