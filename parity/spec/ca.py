"""Coordinate attention: options, spec and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from parity.spec import _check, _norm
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._gate import Gate, check_activation
from parity.spec._layout import AXIS_NAMES
from parity.spec._norm import BatchNorm
from parity.spec.se import dense, matrix


@dataclass(frozen=True, kw_only=True)
class CoordinateAttentionOptions(Options):
    """Coordinate attention (Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
    equations 4 to 9).

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3, and h hidden channels::

        z_i = mean of x over the spatial axes but i       (N, C, S_i)   for each spatial axis i
        f = activation(norm(W z + b))                     (N, h, L)      L = S1 + .. + Sd; z: the z_i joined in axis
        order g_i = gate(W_i f_i + b_i)                         (N, C, S_i)   f_i: the part of f that came from z_i y =
        x * g_1 * .. * g_d                            (N, C, S1..Sd)  each g_i the same along the other axes

    The norm sees N (S1 + .. + Sd) values per channel. With d = 1 there is no other axis: a channel gate for each
    position.

    Args:
        reduction: h = max(8, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b exists.
        head_bias: whether the b_i exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        norm: a `BatchNorm` (or its JSON form), or None.
        gate: "sigmoid", "hard_sigmoid", "identity", a `Gate`, or its JSON form.
        residual: whether x is added to y.

    Raises:
        SpecError: for a value outside its domain.

    Example:
        >>> CoordinateAttentionOptions().resolve(channels=64, spatial_dims=2).parameters()["expand.h.kernel"]
        (64, 8)
    """

    block: ClassVar[str] = "ca"
    class_name: ClassVar[str] = "CoordinateAttention"
    function_name: ClassVar[str] = "coordinate_attention"

    reduction: int = 32
    hidden_channels: int | None = None
    bias: bool = True
    head_bias: bool = True
    activation: str = "hard_swish"
    norm: BatchNorm | Mapping[str, Any] | None = BatchNorm()
    gate: Gate | str | Mapping[str, Any] = "sigmoid"
    residual: bool = False

    def __post_init__(self) -> None:
        hidden = self.hidden_channels
        self._check(
            reduction=_check.integer("reduction", self.reduction),
            hidden_channels=None if hidden is None else _check.integer("hidden_channels", hidden),
            bias=_check.boolean("bias", self.bias),
            head_bias=_check.boolean("head_bias", self.head_bias),
            activation=check_activation(self.activation),
            norm=_norm.optional(self.norm),
            gate=Gate.of(self.gate),
            residual=_check.boolean("residual", self.residual),
        )

    def resolve(self, channels: int, spatial_dims: int = 2) -> CoordinateAttentionSpec:
        channels = _check.integer("channels", channels)
        return CoordinateAttentionSpec(
            channels=channels,
            spatial_dims=spatial_dims,
            hidden_channels=self.hidden_channels or max(8, channels // self.reduction),
            bias=self.bias,
            head_bias=self.head_bias,
            activation=self.activation,
            norm=_norm.optional(self.norm),
            gate=Gate.of(self.gate),
            residual=self.residual,
        )


@dataclass(frozen=True, kw_only=True)
class CoordinateAttentionSpec(Spec):
    """What the weights of a coordinate attention block mean; `CoordinateAttentionOptions` tells the fields.

    Parameters: ``reduce.kernel (h, C)``, ``reduce.bias (h)``, ``norm.{scale,offset,mean,variance} (h)``, and for each
    axis (``w``; ``h``, ``w``; ``d``, ``h``, ``w``) ``expand.<axis>.kernel (C, h)``, ``expand.<axis>.bias (C)``.
    """

    block: ClassVar[str] = "ca"
    options_class: ClassVar[type[Options]] = CoordinateAttentionOptions

    channels: int
    spatial_dims: int
    hidden_channels: int
    bias: bool
    head_bias: bool
    activation: str
    norm: BatchNorm | None
    gate: Gate
    residual: bool

    def __post_init__(self) -> None:
        check_sizes(self)
        self._check(
            channels=_check.integer("channels", self.channels),
            hidden_channels=_check.integer("hidden_channels", self.hidden_channels),
            bias=_check.boolean("bias", self.bias),
            head_bias=_check.boolean("head_bias", self.head_bias),
            activation=check_activation(self.activation),
            norm=_norm.optional(self.norm),
            gate=Gate.of(self.gate),
            residual=_check.boolean("residual", self.residual),
        )

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The names of the spatial axes in order."""
        return AXIS_NAMES[self.spatial_dims]

    def options(self) -> CoordinateAttentionOptions:
        fields = {name: value for name, value in self.arguments().items() if name not in ("channels", "spatial_dims")}
        return CoordinateAttentionOptions(**fields)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        shapes = dense("reduce", self.channels, self.hidden_channels, self.bias)
        shapes |= _norm.parameters("norm", self.hidden_channels) if self.norm else {}
        for axis in self.axis_names:
            shapes |= dense(f"expand.{axis}", self.hidden_channels, self.channels, self.head_bias)
        return shapes

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        hidden, channels = matrix("reduce.kernel", shapes)
        heads = [name for name in shapes if name.startswith("expand.") and name.endswith(".kernel")]
        sizes: dict[str, Any] = {"channels": channels, "hidden_channels": hidden, "spatial_dims": len(heads)}
        sizes |= {"bias": "reduce.bias" in shapes, "head_bias": "expand.w.bias" in shapes}
        if "norm.mean" not in shapes:
            sizes["norm"] = None
        fields = CoordinateAttentionOptions().arguments() | facts | sizes
        return cls(**{name: value for name, value in fields.items() if name != "reduction"})

    def inert(self, training: bool) -> frozenset[str]:
        # A shift before a norm is taken away by the batch's mean.
        return frozenset({"reduce.bias"} if training and self.norm and self.bias else ())
