"""Concurrent spatial and channel squeeze and excitation: options, spec and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from parity.spec import _check
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._gate import Gate, check_activation
from parity.spec.se import dense, matrix

MERGES = ("max", "add")


@dataclass(frozen=True, kw_only=True)
class SCSEOptions(Options):
    """Concurrent spatial and channel squeeze and excitation (Roy et al., "Concurrent Spatial and Channel Squeeze &
    Excitation in Fully Convolutional Networks", MICCAI 2018, section 2; the maximum of both: IEEE TMI 2019).

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3, and h hidden channels::

        c = gate(W2 activation(W1 mean_S x + b1) + b2)    (N, C)
        s = gate(w . x + b) at each position              (N, 1, S1..Sd)
        y = max(x * c, x * s)                             (N, C, S1..Sd)

    The maximum is of the two maps, not of the two gates: where x is negative, the smaller gate wins. Where both maps
    are equal (at every zero of x) they share the gradient evenly. The defaults are the authors' code.

    Args:
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b1, b2 and b exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        gate: of both halves: "sigmoid", "hard_sigmoid", "identity", a `Gate`, or its JSON form.
        merge: "max" as above; "add": y = x * c + x * s.

    Raises:
        SpecError: for a value outside its domain.

    Example:
        >>> SCSEOptions(reduction=4).resolve(channels=24, spatial_dims=3).parameters()["spatial.fc.kernel"]
        (1, 24)
    """

    block: ClassVar[str] = "scse"
    class_name: ClassVar[str] = "SCSE"
    function_name: ClassVar[str] = "scse"

    reduction: int = 2
    hidden_channels: int | None = None
    bias: bool = True
    activation: str = "relu"
    gate: Gate | str | Mapping[str, Any] = "sigmoid"
    merge: str = "max"

    def __post_init__(self) -> None:
        hidden = self.hidden_channels
        self._check(
            reduction=_check.integer("reduction", self.reduction),
            hidden_channels=None if hidden is None else _check.integer("hidden_channels", hidden),
            bias=_check.boolean("bias", self.bias),
            activation=check_activation(self.activation),
            gate=Gate.of(self.gate),
            merge=_check.choice("merge", self.merge, MERGES),
        )

    def resolve(self, channels: int, spatial_dims: int = 2) -> SCSESpec:
        channels = _check.integer("channels", channels)
        return SCSESpec(
            channels=channels,
            spatial_dims=spatial_dims,
            hidden_channels=self.hidden_channels or max(1, channels // self.reduction),
            bias=self.bias,
            activation=self.activation,
            gate=Gate.of(self.gate),
            merge=self.merge,
        )


@dataclass(frozen=True, kw_only=True)
class SCSESpec(Spec):
    """What the weights of a concurrent squeeze and excitation block mean; `SCSEOptions` tells the fields.

    Parameters: ``channel.fc1.kernel (h, C)``, ``channel.fc1.bias (h)``, ``channel.fc2.kernel (C, h)``,
    ``channel.fc2.bias (C)``, ``spatial.fc.kernel (1, C)``, ``spatial.fc.bias (1)``.
    """

    block: ClassVar[str] = "scse"
    options_class: ClassVar[type[Options]] = SCSEOptions
    rankless: ClassVar[bool] = True

    channels: int
    spatial_dims: int
    hidden_channels: int
    bias: bool
    activation: str
    gate: Gate
    merge: str

    def __post_init__(self) -> None:
        check_sizes(self)
        self._check(
            channels=_check.integer("channels", self.channels),
            hidden_channels=_check.integer("hidden_channels", self.hidden_channels),
            bias=_check.boolean("bias", self.bias),
            activation=check_activation(self.activation),
            gate=Gate.of(self.gate),
            merge=_check.choice("merge", self.merge, MERGES),
        )

    def options(self) -> SCSEOptions:
        return SCSEOptions(
            hidden_channels=self.hidden_channels,
            bias=self.bias,
            activation=self.activation,
            gate=self.gate,
            merge=self.merge,
        )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return (
            dense("channel.fc1", self.channels, self.hidden_channels, self.bias)
            | dense("channel.fc2", self.hidden_channels, self.channels, self.bias)
            | dense("spatial.fc", self.channels, 1, self.bias)
        )

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        hidden, channels = matrix("channel.fc1.kernel", shapes)
        sizes = {"channels": channels, "hidden_channels": hidden, "bias": "channel.fc1.bias" in shapes}
        defaults = SCSEOptions().arguments() | {"spatial_dims": 2}
        return cls(**{name: value for name, value in (defaults | sizes | facts).items() if name != "reduction"})
