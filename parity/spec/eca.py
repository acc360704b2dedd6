"""Efficient channel attention: options, spec and parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from parity.errors import SpecError
from parity.spec import _check
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._gate import Gate

PADDINGS = ("zeros", "circular")


@dataclass(frozen=True, kw_only=True)
class ECAOptions(Options):
    """Efficient channel attention (Wang et al., "ECA-Net", CVPR 2020, equations 5 to 8; kernel size: equation 12).

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3, and a kernel w of k taps::

        z = mean_S x                               (N, C)
        s_c = gate(sum_j w_j z_(c + j - k // 2) + b)  (N, C)
        y = x * s                                  (N, C, S1..Sd)

    A cross-correlation along the channels: no framework flips the kernel.

    Args:
        kernel_size: k, odd; None for the rule t = int(abs(log2(C) + beta) / gamma), k = t if t is odd else t + 1.
        gamma: of the rule, positive.
        beta: of the rule.
        bias: whether b exists.
        padding: beyond the first and last channel: "zeros", or "circular" (k // 2 at most C).
        gate: "sigmoid", "hard_sigmoid", "identity", a `Gate`, or its JSON form.

    Raises:
        SpecError: for a value outside its domain.

    Example:
        >>> ECAOptions().resolve(channels=256, spatial_dims=2).kernel_size
        5
    """

    block: ClassVar[str] = "eca"
    class_name: ClassVar[str] = "ECA"
    function_name: ClassVar[str] = "eca"

    kernel_size: int | None = None
    gamma: float = 2
    beta: float = 1
    bias: bool = False
    padding: str = "zeros"
    gate: Gate | str | Mapping[str, Any] = "sigmoid"

    def __post_init__(self) -> None:
        self._check(
            kernel_size=None if self.kernel_size is None else _check.odd("kernel_size", self.kernel_size),
            gamma=_check.real("gamma", self.gamma, positive=True),
            beta=_check.real("beta", self.beta),
            bias=_check.boolean("bias", self.bias),
            padding=_check.choice("padding", self.padding, PADDINGS),
            gate=Gate.of(self.gate),
        )

    def resolve(self, channels: int | None, spatial_dims: int = 2) -> ECASpec:
        return ECASpec(
            channels=channels,
            spatial_dims=spatial_dims,
            kernel_size=self.kernel_size or self._rule(channels),
            bias=self.bias,
            padding=self.padding,
            gate=Gate.of(self.gate),
        )

    def _rule(self, channels: int | None) -> int:
        if channels is None:
            raise SpecError("received neither channels nor kernel_size", "one of them", "pass kernel_size=3, say")
        size = int(abs(math.log2(_check.integer("channels", channels)) + self.beta) / self.gamma)
        return size if size % 2 else size + 1


@dataclass(frozen=True, kw_only=True)
class ECASpec(Spec):
    """What the weights of an efficient channel attention block mean; `ECAOptions` tells the fields.

    The weights do not tell the number of channels: `channels` may be None, and then any map fits. Parameters:
    ``conv.kernel (1, 1, k)``, ``conv.bias (1)``.
    """

    block: ClassVar[str] = "eca"
    options_class: ClassVar[type[Options]] = ECAOptions
    rankless: ClassVar[bool] = True

    channels: int | None
    spatial_dims: int
    kernel_size: int
    bias: bool
    padding: str
    gate: Gate

    def __post_init__(self) -> None:
        check_sizes(self)
        self._check(
            kernel_size=_check.odd("kernel_size", self.kernel_size),
            bias=_check.boolean("bias", self.bias),
            padding=_check.choice("padding", self.padding, PADDINGS),
            gate=Gate.of(self.gate),
        )
        if self.channels is not None:
            self._check_circular(self.channels)

    def _check_circular(self, channels: int) -> None:
        if self.padding == "circular" and self.kernel_size // 2 > channels:
            raise SpecError(
                f"received kernel_size={self.kernel_size} with padding='circular' for {channels} channels",
                "kernel_size // 2 of at most the channels",
                "use a smaller kernel or padding='zeros'",
            )

    def check_input(self, shape: Sequence[int | None], data_format: str) -> int:
        channels = super().check_input(shape, data_format)
        self._check_circular(channels)
        return channels

    def options(self) -> ECAOptions:
        return ECAOptions(kernel_size=self.kernel_size, bias=self.bias, padding=self.padding, gate=self.gate)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return {"conv.kernel": (1, 1, self.kernel_size)} | ({"conv.bias": (1,)} if self.bias else {})

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        defaults = ECAOptions()
        sizes = {"kernel_size": shapes["conv.kernel"][-1], "bias": "conv.bias" in shapes}
        open_fields = {"channels": None, "spatial_dims": 2, "padding": defaults.padding, "gate": defaults.gate}
        return cls(**{**open_fields, **facts, **sizes})
