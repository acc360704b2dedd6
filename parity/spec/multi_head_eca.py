"""Efficient channel attention with self-attention: options, spec and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from parity.spec import _check
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._gate import Gate
from parity.spec._self_attention import check_heads, inert_projections, projections, width
from parity.spec.eca import ECAOptions, ECASpec


@dataclass(frozen=True, kw_only=True)
class MultiHeadECAOptions(Options):
    """Efficient channel attention (Wang et al., "ECA-Net", CVPR 2020, equations 5 to 8), then multi-head self-attention
    over positions (Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.2).

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3, a kernel w of k taps, and H heads of D = C / H channels::

        z = mean_S x                                         (N, C)
        s_c = gate(sum_j w_j z_(c + j - k // 2))             (N, C)
        t = x * s, one row a position                        (N, T, C)      T = S1 .. Sd
        q, k, v = Wq t + bq, Wk t + bk, Wv t + bv            (N, H, T, D)   head h: channels h D to h D + D - 1
        u = Wo [softmax(q k^T / sqrt(D)) v of each head] + bo     (N, C, S1..Sd)
        y = scale * u + offset                               (N, C, S1..Sd)

    Beyond the first and last channel there are zeros.

    Args:
        kernel_size: k, odd; None for the rule of `ECAOptions` with gamma=2 and beta=1.
        num_heads: H, which divides C.
        attention_bias: whether bq, bk, bv and bo exist.
        scale: a number, no parameter.
        offset: likewise.
        gate: "sigmoid", "hard_sigmoid", "identity", a `Gate`, or its JSON form.

    Raises:
        SpecError: for a value outside its domain.

    Example:
        >>> MultiHeadECAOptions(kernel_size=None).resolve(channels=256, spatial_dims=2).kernel_size
        5
    """

    block: ClassVar[str] = "multi_head_eca"
    class_name: ClassVar[str] = "MultiHeadECA"
    function_name: ClassVar[str] = "multi_head_eca"

    kernel_size: int | None = 3
    num_heads: int = 4
    attention_bias: bool = True
    scale: float = 2.0
    offset: float = 1.0
    gate: Gate | str | Mapping[str, Any] = "sigmoid"

    def __post_init__(self) -> None:
        self._check(
            kernel_size=None if self.kernel_size is None else _check.odd("kernel_size", self.kernel_size),
            num_heads=_check.integer("num_heads", self.num_heads),
            attention_bias=_check.boolean("attention_bias", self.attention_bias),
            scale=_check.real("scale", self.scale),
            offset=_check.real("offset", self.offset),
            gate=Gate.of(self.gate),
        )

    def resolve(self, channels: int, spatial_dims: int = 2) -> MultiHeadECASpec:
        channels = _check.integer("channels", channels)
        return MultiHeadECASpec(
            channels=channels,
            spatial_dims=spatial_dims,
            kernel_size=ECAOptions(kernel_size=self.kernel_size).resolve(channels).kernel_size,
            num_heads=self.num_heads,
            attention_bias=self.attention_bias,
            scale=self.scale,
            offset=self.offset,
            gate=Gate.of(self.gate),
        )


@dataclass(frozen=True, kw_only=True)
class MultiHeadECASpec(Spec):
    """What the weights of an efficient channel attention with self-attention mean; `MultiHeadECAOptions` tells the
    fields.

    Parameters: ``conv.kernel (1, 1, k)``, and ``kernel (C, C)`` and ``bias (C)`` of ``attention.query``,
    ``attention.key``, ``attention.value`` and ``attention.output``.
    """

    block: ClassVar[str] = "multi_head_eca"
    options_class: ClassVar[type[Options]] = MultiHeadECAOptions
    rankless: ClassVar[bool] = True
    quadratic: ClassVar[bool] = True

    channels: int
    spatial_dims: int
    kernel_size: int
    num_heads: int
    attention_bias: bool
    scale: float
    offset: float
    gate: Gate

    def __post_init__(self) -> None:
        check_sizes(self)
        channels = _check.integer("channels", self.channels)
        self._check(
            channels=channels,
            kernel_size=_check.odd("kernel_size", self.kernel_size),
            num_heads=check_heads(self.num_heads, channels),
            attention_bias=_check.boolean("attention_bias", self.attention_bias),
            scale=_check.real("scale", self.scale),
            offset=_check.real("offset", self.offset),
            gate=Gate.of(self.gate),
        )

    @property
    def eca(self) -> ECASpec:
        """The efficient channel attention in it, whose parameters have the same names."""
        options = ECAOptions(kernel_size=self.kernel_size, gate=self.gate)
        return options.resolve(self.channels, self.spatial_dims)

    def options(self) -> MultiHeadECAOptions:
        return MultiHeadECAOptions(
            kernel_size=self.kernel_size,
            num_heads=self.num_heads,
            attention_bias=self.attention_bias,
            scale=self.scale,
            offset=self.offset,
            gate=self.gate,
        )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return self.eca.parameters() | projections("attention", self.channels, self.attention_bias)

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        sizes = {
            "channels": width("attention", shapes),
            "kernel_size": shapes["conv.kernel"][-1],
            "attention_bias": "attention.query.bias" in shapes,
        }
        options = MultiHeadECAOptions().arguments() | {"num_heads": 1}  # which divides all channels
        return cls(**{"spatial_dims": 2, **options, **facts, **sizes})

    def inert(self, training: bool) -> frozenset[str]:
        return inert_projections("attention", self.attention_bias)
