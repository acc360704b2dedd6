"""Effective squeeze and excitation: options, spec and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from parity.errors import SpecError
from parity.spec import _check
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._gate import Gate
from parity.spec.se import dense, matrix


@dataclass(frozen=True, kw_only=True)
class EffectiveSqueezeExcitationOptions(Options):
    """Effective squeeze and excitation (Lee and Park, "CenterMask", CVPR 2020: the eSE of VoVNetV2).

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3::

        z = mean_S x         (N, C)
        s = gate(W z + b)    (N, C)
        y = x * s            (N, C, S1..Sd)

    One layer, so that no channel is lost on the way. The defaults are the authors' code.

    Args:
        bias: whether b exists.
        gate: "sigmoid", "hard_sigmoid", "identity", a `Gate`, or its JSON form.

    Raises:
        SpecError: for a value outside its domain.

    Example:
        >>> EffectiveSqueezeExcitationOptions().resolve(channels=24, spatial_dims=2).parameters()
        {'fc.kernel': (24, 24), 'fc.bias': (24,)}
    """

    block: ClassVar[str] = "ese"
    class_name: ClassVar[str] = "EffectiveSqueezeExcitation"
    function_name: ClassVar[str] = "effective_squeeze_excitation"

    bias: bool = True
    gate: Gate | str | Mapping[str, Any] = "hard_sigmoid"

    def __post_init__(self) -> None:
        self._check(bias=_check.boolean("bias", self.bias), gate=Gate.of(self.gate))

    def resolve(self, channels: int, spatial_dims: int = 2) -> EffectiveSqueezeExcitationSpec:
        return EffectiveSqueezeExcitationSpec(
            channels=channels, spatial_dims=spatial_dims, bias=self.bias, gate=Gate.of(self.gate)
        )


@dataclass(frozen=True, kw_only=True)
class EffectiveSqueezeExcitationSpec(Spec):
    """What the weights of an effective squeeze and excitation block mean; `EffectiveSqueezeExcitationOptions` tells the
    fields.

    Parameters: ``fc.kernel (C, C)``, ``fc.bias (C)``.
    """

    block: ClassVar[str] = "ese"
    options_class: ClassVar[type[Options]] = EffectiveSqueezeExcitationOptions
    rankless: ClassVar[bool] = True

    channels: int
    spatial_dims: int
    bias: bool
    gate: Gate

    def __post_init__(self) -> None:
        check_sizes(self)
        self._check(
            channels=_check.integer("channels", self.channels),
            bias=_check.boolean("bias", self.bias),
            gate=Gate.of(self.gate),
        )

    def options(self) -> EffectiveSqueezeExcitationOptions:
        return EffectiveSqueezeExcitationOptions(bias=self.bias, gate=self.gate)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return dense("fc", self.channels, self.channels, self.bias)

    def mistakable(self) -> str:
        return "a layer that keeps its width may be a plain one"

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        outputs, channels = matrix("fc.kernel", shapes)
        if outputs != channels:
            raise SpecError(f"received fc.kernel of shape {(outputs, channels)}", "a square matrix (C, C)")
        defaults = EffectiveSqueezeExcitationOptions()
        sizes = {"channels": channels, "bias": "fc.bias" in shapes}
        return cls(**{"spatial_dims": 2, "gate": defaults.gate, **sizes, **facts})
