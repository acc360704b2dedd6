"""Attention pooling along one axis: options, spec and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from parity.errors import SpecError
from parity.spec import _check
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._layout import AXIS_NAMES, spatial_axes
from parity.spec.se import dense, matrix


@dataclass(frozen=True, kw_only=True)
class AttentionPoolingOptions(Options):
    """Attention pooling along one axis (Lin et al., "A Structured Self-Attentive Sentence Embedding", ICLR 2017,
    equations 5 to 7, with one row of attention and a linear score; every position of the other axes is pooled alone).

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3, and one spatial axis i of size S_i::

        u = w . x + b at each position    (N, 1, S1..Sd)
        a = softmax of u along i          (N, 1, S1..Sd)
        y = sum of a * x along i          (N, C, the S_j but S_i)

    The axis is gone from y: with d = 1 it has shape (N, C). A shift of u changes no softmax, so b moves nothing and its
    gradient is zero; trained weights have one nevertheless.

    Args:
        axis: i by its name: "w"; "h" or "w"; "d", "h" or "w". None for the first.
        bias: whether b exists.

    Raises:
        SpecError: for a value outside its domain.

    Example:
        >>> AttentionPoolingOptions().resolve(channels=24, spatial_dims=3).axis
        'd'
    """

    block: ClassVar[str] = "attention_pooling"
    class_name: ClassVar[str] = "AttentionPooling"
    function_name: ClassVar[str] = "attention_pooling"

    axis: str | None = None
    bias: bool = True

    def __post_init__(self) -> None:
        names = AXIS_NAMES[max(AXIS_NAMES)]
        self._check(
            axis=None if self.axis is None else _check.choice("axis", self.axis, names),
            bias=_check.boolean("bias", self.bias),
        )

    def resolve(self, channels: int, spatial_dims: int = 2) -> AttentionPoolingSpec:
        return AttentionPoolingSpec(channels=channels, spatial_dims=spatial_dims, axis=self.axis, bias=self.bias)


@dataclass(frozen=True, kw_only=True)
class AttentionPoolingSpec(Spec):
    """What the weights of an attention pooling block mean; `AttentionPoolingOptions` tells the fields.

    Parameters: ``score.kernel (1, C)``, ``score.bias (1)``.
    """

    block: ClassVar[str] = "attention_pooling"
    options_class: ClassVar[type[Options]] = AttentionPoolingOptions
    rankless: ClassVar[bool] = True

    channels: int
    spatial_dims: int
    axis: str | None  # None becomes the first
    bias: bool

    def __post_init__(self) -> None:
        check_sizes(self)
        names = AXIS_NAMES[self.spatial_dims]
        axis = names[0] if self.axis is None else self.axis
        if not isinstance(axis, str) or axis not in names:
            received = f"received axis={axis!r} with spatial_dims={self.spatial_dims}"
            raise SpecError(received, f"one of {', '.join(map(repr, names))}")
        self._check(
            channels=_check.integer("channels", self.channels), axis=axis, bias=_check.boolean("bias", self.bias)
        )

    def pooled_axis(self, data_format: str) -> int:
        """The axis of the map that is pooled away."""
        return spatial_axes(self.spatial_dims, data_format)[AXIS_NAMES[self.spatial_dims].index(str(self.axis))]

    def options(self) -> AttentionPoolingOptions:
        return AttentionPoolingOptions(axis=self.axis, bias=self.bias)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return dense("score", self.channels, 1, self.bias)

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        outputs, channels = matrix("score.kernel", shapes)
        if outputs != 1:
            raise SpecError(f"received score.kernel of shape {tuple(shapes['score.kernel'])}", "one map (1, C)")
        sizes = {"channels": channels, "bias": "score.bias" in shapes}
        return cls(**{"spatial_dims": 2, "axis": None, **sizes, **facts})

    @property
    def orderless(self) -> bool:
        return False

    def inert(self, training: bool) -> frozenset[str]:
        # A shift before a softmax changes nothing.
        return frozenset({"score.bias"} if self.bias else ())

    def output_shape(self, shape: Sequence[int | None], data_format: str) -> tuple[int | None, ...]:
        axis = self.pooled_axis(data_format)
        return (*shape[:axis], *shape[axis + 1 :])
