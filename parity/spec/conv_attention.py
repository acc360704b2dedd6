"""Convolution with self-attention: options, spec and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from parity.errors import InputError, SpecError
from parity.spec import _check
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._layout import channel_axis, spatial_axes
from parity.spec._self_attention import check_heads, inert_projections, projections, width

PADDINGS = ("same", "valid")


@dataclass(frozen=True, kw_only=True)
class ConvolutionAttentionOptions(Options):
    """A convolution, then multi-head self-attention over its positions (Vaswani et al., "Attention Is All You Need",
    NeurIPS 2017, section 3.2.2).

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3, and H heads of D = O / H channels::

        u = K * x + b                                       (N, O, S1'..Sd')   S' = (S + 2 p - a (k - 1) - 1) // s + 1
        t = u, one row a position                           (N, T, O)          T = S1' .. Sd'
        q, k, v = Wq t + bq, Wk t + bk, Wv t + bv           (N, H, T, D)       head h: channels h D to h D + D - 1
        y = Wo [softmax(q k^T / sqrt(D)) v of each head] + bo    (N, O, S1'..Sd')

    The convolution has step s, dilation a and as many zeros p at either end of each axis, as in PyTorch, whose defaults
    these are. Nothing is added to y: no position is known by its place.

    Args:
        out_channels: O; None for C.
        kernel_size: k, along each axis.
        stride: s.
        padding: p, or "valid" for 0, or "same" for what keeps the size: with stride 1, and where a (k - 1) is even.
        dilation: a.
        groups: into how many groups the channels are divided, each with kernels of its own.
        bias: whether b exists.
        num_heads: H, which divides O.
        attention_bias: whether bq, bk, bv and bo exist.

    Raises:
        SpecError: for a value outside its domain.

    Example:
        >>> spec = ConvolutionAttentionOptions(out_channels=8, padding="same", num_heads=2).resolve(channels=5)
        >>> spec.padding, spec.parameters()["conv.kernel"]
        (1, (8, 5, 3, 3))
    """

    block: ClassVar[str] = "conv_attention"
    class_name: ClassVar[str] = "ConvolutionAttention"
    function_name: ClassVar[str] = "convolution_attention"

    out_channels: int | None = None
    kernel_size: int = 3
    stride: int = 1
    padding: int | str = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    num_heads: int = 1
    attention_bias: bool = True

    def __post_init__(self) -> None:
        named, outputs = isinstance(self.padding, str), self.out_channels
        self._check(
            out_channels=None if outputs is None else _check.integer("out_channels", outputs),
            kernel_size=_check.integer("kernel_size", self.kernel_size),
            stride=_check.integer("stride", self.stride),
            padding=_check.choice("padding", self.padding, PADDINGS)
            if named
            else _check.integer("padding", self.padding, 0),
            dilation=_check.integer("dilation", self.dilation),
            groups=_check.integer("groups", self.groups),
            bias=_check.boolean("bias", self.bias),
            num_heads=_check.integer("num_heads", self.num_heads),
            attention_bias=_check.boolean("attention_bias", self.attention_bias),
        )
        self._zeros()  # for its check

    def resolve(self, channels: int, spatial_dims: int = 2) -> ConvolutionAttentionSpec:
        channels = _check.integer("channels", channels)
        return ConvolutionAttentionSpec(
            channels=channels,
            spatial_dims=spatial_dims,
            out_channels=self.out_channels or channels,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self._zeros(),
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias,
            num_heads=self.num_heads,
            attention_bias=self.attention_bias,
        )

    def _zeros(self) -> int:
        """How many zeros the padding puts at either end."""
        if isinstance(self.padding, int):
            return self.padding
        reach = self.dilation * (self.kernel_size - 1)
        if self.padding == "same" and (self.stride > 1 or reach % 2):
            sizes = f"kernel_size={self.kernel_size}, stride={self.stride} and dilation={self.dilation}"
            raise SpecError(
                f"received padding='same' with {sizes}",
                "stride 1 and an even dilation (kernel_size - 1)",
                "pass the number of zeros at either end",
            )
        return reach // 2 if self.padding == "same" else 0


@dataclass(frozen=True, kw_only=True)
class ConvolutionAttentionSpec(Spec):
    """What the weights of a convolution with self-attention mean; `ConvolutionAttentionOptions` tells the fields.

    Parameters: ``conv.kernel (O, C // groups, *k)``, ``conv.bias (O)``, and ``kernel (O, O)`` and ``bias (O)`` of
    ``attention.query``, ``attention.key``, ``attention.value`` and ``attention.output``.
    """

    block: ClassVar[str] = "conv_attention"
    options_class: ClassVar[type[Options]] = ConvolutionAttentionOptions
    quadratic: ClassVar[bool] = True

    channels: int
    spatial_dims: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: int
    dilation: int
    groups: int
    bias: bool
    num_heads: int
    attention_bias: bool

    def __post_init__(self) -> None:
        check_sizes(self)
        outputs = _check.integer("out_channels", self.out_channels)
        self._check(
            channels=_check.integer("channels", self.channels),
            out_channels=outputs,
            kernel_size=_check.integer("kernel_size", self.kernel_size),
            stride=_check.integer("stride", self.stride),
            padding=_check.integer("padding", self.padding, 0),
            dilation=_check.integer("dilation", self.dilation),
            groups=_check.integer("groups", self.groups),
            bias=_check.boolean("bias", self.bias),
            num_heads=check_heads(self.num_heads, outputs),
            attention_bias=_check.boolean("attention_bias", self.attention_bias),
        )
        if self.channels % self.groups or self.out_channels % self.groups:
            raise SpecError(
                f"received groups={self.groups} for {self.channels} channels in and {self.out_channels} out",
                "a divisor of both",
            )

    def options(self) -> ConvolutionAttentionOptions:
        return ConvolutionAttentionOptions(
            out_channels=self.out_channels,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias,
            num_heads=self.num_heads,
            attention_bias=self.attention_bias,
        )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        kernel = (self.out_channels, self.channels // self.groups, *(self.kernel_size,) * self.spatial_dims)
        bias = {"conv.bias": (self.out_channels,)} if self.bias else {}
        return {"conv.kernel": kernel} | bias | projections("attention", self.out_channels, self.attention_bias)

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        outputs, inputs, *window = shapes["conv.kernel"]
        if len(set(window)) != 1:
            raise SpecError(f"received conv.kernel of shape {tuple(shapes['conv.kernel'])}", "one size along each axis")
        if width("attention", shapes) != outputs:
            raise SpecError(
                f"received conv.kernel of shape {tuple(shapes['conv.kernel'])} and attention.query.kernel of shape "
                f"{tuple(shapes['attention.query.kernel'])}",
                "as many channels in the attention as the convolution gives",
            )
        options = ConvolutionAttentionOptions().arguments()
        defaults = {name: options[name] for name in ("stride", "padding", "dilation", "groups", "num_heads")}
        groups = _check.integer("groups", facts.get("groups", 1))
        sizes = {
            "channels": inputs * groups,
            "spatial_dims": len(window),
            "out_channels": outputs,
            "kernel_size": window[0],
            "bias": "conv.bias" in shapes,
            "attention_bias": "attention.query.bias" in shapes,
        }
        return cls(**{**defaults, **facts, **sizes})

    @property
    def keeps_size(self) -> bool:
        """Whether the convolution gives as many positions as it takes, so that its zeros are those of "same"."""
        return self.stride == 1 and 2 * self.padding == self.dilation * (self.kernel_size - 1)

    @property
    def orderless(self) -> bool:
        return self.kernel_size == self.stride == 1 and not self.padding

    def inert(self, training: bool) -> frozenset[str]:
        return inert_projections("attention", self.attention_bias)

    def output_shape(self, shape: Sequence[int | None], data_format: str) -> tuple[int | None, ...]:
        sizes: list[int | None] = list(shape)
        sizes[channel_axis(self.spatial_dims, data_format)] = self.out_channels
        for axis in spatial_axes(self.spatial_dims, data_format):
            size = sizes[axis]
            sizes[axis] = None if size is None else (size - self._smallest()) // self.stride + 1
        return tuple(sizes)

    def check_input(self, shape: Sequence[int | None], data_format: str) -> int:
        channels = super().check_input(shape, data_format)
        needed = self._smallest()
        sizes = [shape[axis] for axis in spatial_axes(self.spatial_dims, data_format)]
        # Symbolic sizes are never taken for small.
        if any(isinstance(size, int) and size < needed for size in sizes):
            raise InputError(
                f"received an input of shape {tuple(shape)}, smaller than the kernel of {self.kernel_size} with "
                f"dilation={self.dilation} and padding={self.padding}",
                f"at least {needed} positions along each axis",
                "use more padding, or a smaller kernel",
            )
        return channels

    def _smallest(self) -> int:
        """How many positions an axis must have for the kernel to fit once."""
        return self.dilation * (self.kernel_size - 1) + 1 - 2 * self.padding
