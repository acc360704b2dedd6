"""Squeeze and excitation: options, spec and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from parity.errors import SpecError
from parity.spec import _check
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._gate import Gate, check_activation


@dataclass(frozen=True, kw_only=True)
class SqueezeExcitationOptions(Options):
    """Squeeze and excitation (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, equations 2 to 4).

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3, and h hidden channels::

        z = mean_S x                          (N, C)
        s = gate(W2 activation(W1 z + b1) + b2)  (N, C)
        y = x * s                             (N, C, S1..Sd)

    Args:
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b1 and b2 exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        gate: "sigmoid", "hard_sigmoid", "identity", a `Gate`, or its JSON form.

    Raises:
        SpecError: for a value outside its domain.

    Example:
        >>> SqueezeExcitationOptions(reduction=4).resolve(channels=24, spatial_dims=2).hidden_channels
        6
    """

    block: ClassVar[str] = "se"
    class_name: ClassVar[str] = "SqueezeExcitation"
    function_name: ClassVar[str] = "squeeze_excitation"

    reduction: int = 16
    hidden_channels: int | None = None
    bias: bool = True
    activation: str = "relu"
    gate: Gate | str | Mapping[str, Any] = "sigmoid"

    def __post_init__(self) -> None:
        hidden = self.hidden_channels
        self._check(
            reduction=_check.integer("reduction", self.reduction),
            hidden_channels=None if hidden is None else _check.integer("hidden_channels", hidden),
            bias=_check.boolean("bias", self.bias),
            activation=check_activation(self.activation),
            gate=Gate.of(self.gate),
        )

    def resolve(self, channels: int, spatial_dims: int = 2) -> SqueezeExcitationSpec:
        channels = _check.integer("channels", channels)
        return SqueezeExcitationSpec(
            channels=channels,
            spatial_dims=spatial_dims,
            hidden_channels=self.hidden_channels or max(1, channels // self.reduction),
            bias=self.bias,
            activation=self.activation,
            gate=Gate.of(self.gate),
        )


@dataclass(frozen=True, kw_only=True)
class SqueezeExcitationSpec(Spec):
    """What the weights of a squeeze and excitation block mean; `SqueezeExcitationOptions` tells the fields.

    Parameters: ``fc1.kernel (h, C)``, ``fc1.bias (h)``, ``fc2.kernel (C, h)``, ``fc2.bias (C)``.
    """

    block: ClassVar[str] = "se"
    options_class: ClassVar[type[Options]] = SqueezeExcitationOptions
    rankless: ClassVar[bool] = True

    channels: int
    spatial_dims: int
    hidden_channels: int
    bias: bool
    activation: str
    gate: Gate

    def __post_init__(self) -> None:
        check_sizes(self)
        self._check(
            channels=_check.integer("channels", self.channels),
            hidden_channels=_check.integer("hidden_channels", self.hidden_channels),
            bias=_check.boolean("bias", self.bias),
            activation=check_activation(self.activation),
            gate=Gate.of(self.gate),
        )

    def options(self) -> SqueezeExcitationOptions:
        return SqueezeExcitationOptions(
            hidden_channels=self.hidden_channels, bias=self.bias, activation=self.activation, gate=self.gate
        )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return dense("fc1", self.channels, self.hidden_channels, self.bias) | dense(
            "fc2", self.hidden_channels, self.channels, self.bias
        )

    def mistakable(self) -> str:
        wide = self.hidden_channels >= self.channels
        return "two layers as wide inside as outside may be a plain perceptron" if wide else ""

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        hidden, channels = matrix("fc1.kernel", shapes)
        defaults = SqueezeExcitationOptions()
        sizes = {"channels": channels, "hidden_channels": hidden, "bias": "fc1.bias" in shapes}
        return cls(**{"spatial_dims": 2, "activation": defaults.activation, "gate": defaults.gate, **sizes, **facts})


def dense(path: str, inputs: int, outputs: int, bias: bool) -> dict[str, tuple[int, ...]]:
    """The parameters of a dense layer under the canonical `path`."""
    return {f"{path}.kernel": (outputs, inputs)} | ({f"{path}.bias": (outputs,)} if bias else {})


def matrix(name: str, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """The two sizes of the dense kernel `name`; raises `SpecError` where it is none."""
    shape = tuple(shapes[name])
    if len(shape) != 2:
        raise SpecError(f"received {name} of shape {shape}", "a matrix (out, in)")
    return shape
