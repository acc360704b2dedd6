"""Convolutional block attention module: options, spec and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from parity.errors import SpecError
from parity.spec import _check, _norm
from parity.spec._base import Options, Spec, check_sizes
from parity.spec._gate import Gate, check_activation
from parity.spec._norm import BatchNorm
from parity.spec.se import dense, matrix

PARTS = ("both", "channel", "spatial")
CHANNEL_MERGES = ("add", "concat")
SPATIAL_FEATURES = ("pooled", "full")
SPATIAL_SOURCES = ("refined", "input")

# The fields that mean nothing when the other half is left out; a spec holds None in them, so that equal functions have
# equal specs.
CHANNEL_FIELDS = ("hidden_channels", "mlp_bias", "activation", "channel_merge")
SPATIAL_FIELDS = ("kernel_size", "spatial_bias", "spatial_norm", "spatial_features")


@dataclass(frozen=True, kw_only=True)
class CBAMOptions(Options):
    """Convolutional block attention module (Woo et al., "CBAM", ECCV 2018, equations 1 to 3).

    For x of shape (N, C, S1..Sd), d = 1, 2 or 3, h hidden channels and a kernel K of size k::

        c = gate(MLP(mean_S x) + MLP(max_S x))    (N, C)       MLP(z) = W2 activation(W1 z + b1) + b2
        x' = x * c                                (N, C, S1..Sd)
        p = [mean_C x', max_C x']                 (N, 2, S1..Sd)
        m = gate(norm(K * p + b))                 (N, 1, S1..Sd)
        y = x' * m                                (N, C, S1..Sd)

    The convolution is zero padded to keep the size. Plane 0 is the mean and plane 1 the maximum, always. Tied maxima
    share the gradient evenly. The defaults are the authors' code.

    Args:
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        mlp_bias: whether b1 and b2 exist.
        activation: of the MLP: "relu", "silu", "hard_swish" or "identity".
        channel_merge: "add" as above; "concat": c = gate(MLP([mean_S x, max_S x])), one pass, W1 is (h, 2 C).
        kernel_size: k, odd.
        spatial_bias: whether b exists.
        spatial_norm: a `BatchNorm` (or its JSON form) after the convolution, or None.
        spatial_features: "pooled" as above; "full": the convolution sees all C channels instead of the two planes.
        spatial_source: "refined" as above; "input": the planes are taken from x instead of x'.
        parts: "both", or "channel" (y = x') or "spatial" (x' = x) alone.
        gate: of both halves: "sigmoid", "hard_sigmoid", "identity", a `Gate`, or its JSON form.
        residual: whether x is added to y.

    Raises:
        SpecError: for a value outside its domain.

    Example:
        >>> CBAMOptions(reduction=8).resolve(channels=24, spatial_dims=3).parameters()["spatial.conv.kernel"]
        (1, 2, 7, 7, 7)
    """

    block: ClassVar[str] = "cbam"
    class_name: ClassVar[str] = "CBAM"
    function_name: ClassVar[str] = "cbam"

    reduction: int = 16
    hidden_channels: int | None = None
    mlp_bias: bool = True
    activation: str = "relu"
    channel_merge: str = "add"
    kernel_size: int = 7
    spatial_bias: bool = False
    spatial_norm: BatchNorm | Mapping[str, Any] | None = BatchNorm(update_rate=0.01)
    spatial_features: str = "pooled"
    spatial_source: str = "refined"
    parts: str = "both"
    gate: Gate | str | Mapping[str, Any] = "sigmoid"
    residual: bool = False

    def __post_init__(self) -> None:
        hidden = self.hidden_channels
        self._check(
            reduction=_check.integer("reduction", self.reduction),
            hidden_channels=None if hidden is None else _check.integer("hidden_channels", hidden),
            mlp_bias=_check.boolean("mlp_bias", self.mlp_bias),
            activation=check_activation(self.activation),
            channel_merge=_check.choice("channel_merge", self.channel_merge, CHANNEL_MERGES),
            kernel_size=_check.odd("kernel_size", self.kernel_size),
            spatial_bias=_check.boolean("spatial_bias", self.spatial_bias),
            spatial_norm=_norm.optional(self.spatial_norm),
            spatial_features=_check.choice("spatial_features", self.spatial_features, SPATIAL_FEATURES),
            spatial_source=_check.choice("spatial_source", self.spatial_source, SPATIAL_SOURCES),
            parts=_check.choice("parts", self.parts, PARTS),
            gate=Gate.of(self.gate),
            residual=_check.boolean("residual", self.residual),
        )

    def resolve(self, channels: int | None, spatial_dims: int = 2) -> CBAMSpec:
        fields = self.arguments() | {"channels": channels, "spatial_dims": spatial_dims}
        if self.parts != "spatial":
            channels = _check.integer("channels", channels)
            fields["hidden_channels"] = self.hidden_channels or max(1, channels // self.reduction)
        del fields["reduction"]
        return CBAMSpec(**(fields | _meaningless(self.parts)))


@dataclass(frozen=True, kw_only=True)
class CBAMSpec(Spec):
    """What the weights of a CBAM mean; `CBAMOptions` tells the fields. Those of an absent half are None.

    The weights of a lone spatial half on pooled planes do not tell the number of channels: `channels` may then be None.

    Parameters: ``channel.fc1.{kernel,bias}``, ``channel.fc2.{kernel,bias}``, ``spatial.conv.kernel (1, 2, *k)``,
    ``spatial.conv.bias (1)``, ``spatial.norm.{scale,offset,mean,variance} (1)``.
    """

    block: ClassVar[str] = "cbam"
    options_class: ClassVar[type[Options]] = CBAMOptions

    channels: int | None
    spatial_dims: int
    parts: str
    hidden_channels: int | None
    mlp_bias: bool | None
    activation: str | None
    channel_merge: str | None
    kernel_size: int | None
    spatial_bias: bool | None
    spatial_norm: BatchNorm | None
    spatial_features: str | None
    spatial_source: str | None
    gate: Gate
    residual: bool

    def __post_init__(self) -> None:
        check_sizes(self)
        absent = _meaningless(_check.choice("parts", self.parts, PARTS))
        if self.has_channel or self.spatial_features == "full":
            _check.integer("channels", self.channels)
        for name in absent:
            if getattr(self, name) is not None:
                raise SpecError(f"received {name}={getattr(self, name)!r} with parts={self.parts!r}", "None")
        if "hidden_channels" not in absent:
            _check.integer("hidden_channels", self.hidden_channels)
        # The rules of the remaining fields stand in the options alone; making them runs the checks.
        checked = self.options().arguments()
        self._check(**{name: checked[name] for name in self.arguments() if name in checked and name not in absent})

    @property
    def has_channel(self) -> bool:
        """Whether the channel half exists."""
        return self.parts != "spatial"

    @property
    def has_spatial(self) -> bool:
        """Whether the spatial half exists."""
        return self.parts != "channel"

    def options(self) -> CBAMOptions:
        absent = _meaningless(self.parts)
        given = {name: value for name, value in self.arguments().items() if name not in absent}
        return CBAMOptions(**{name: value for name, value in given.items() if name not in ("channels", "spatial_dims")})

    def parameters(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        if self.has_channel:
            inputs = self.channels * (2 if self.channel_merge == "concat" else 1)
            shapes |= dense("channel.fc1", inputs, self.hidden_channels, self.mlp_bias)
            shapes |= dense("channel.fc2", self.hidden_channels, self.channels, self.mlp_bias)
        if self.has_spatial:
            planes = self.channels if self.spatial_features == "full" else 2
            shapes["spatial.conv.kernel"] = (1, planes) + (self.kernel_size,) * self.spatial_dims
            shapes |= {"spatial.conv.bias": (1,)} if self.spatial_bias else {}
            shapes |= _norm.parameters("spatial.norm", 1) if self.spatial_norm else {}
        return shapes

    @classmethod
    def infer(cls, shapes: Mapping[str, Sequence[int]], **facts: Any) -> Self:
        channel, spatial = "channel.fc2.kernel" in shapes, "spatial.conv.kernel" in shapes
        sizes: dict[str, Any] = {"parts": "both" if channel and spatial else "channel" if channel else "spatial"}
        if channel:
            sizes["channels"], sizes["hidden_channels"] = matrix("channel.fc2.kernel", shapes)
            sizes["mlp_bias"] = "channel.fc1.bias" in shapes
            sizes["channel_merge"] = "concat" if shapes["channel.fc1.kernel"][1] == 2 * sizes["channels"] else "add"
        if spatial:
            _, planes, *kernel = shapes["spatial.conv.kernel"]
            sizes |= {"spatial_dims": len(kernel), "kernel_size": kernel[-1]}
            sizes["spatial_bias"] = "spatial.conv.bias" in shapes
            if facts.get("spatial_features", "pooled" if planes == 2 else "full") == "full":
                sizes |= {"channels": planes, "spatial_features": "full"}
            if "spatial.norm.mean" not in shapes:
                sizes["spatial_norm"] = None
        defaults = CBAMOptions().arguments() | {"channels": None, "spatial_dims": 2}
        fields = {name: value for name, value in (defaults | facts | sizes).items() if name != "reduction"}
        return cls(**(fields | _meaningless(sizes["parts"])))

    @property
    def orderless(self) -> bool:
        return self.parts == "channel"

    def inert(self, training: bool) -> frozenset[str]:
        # A shift before a norm is taken away by the batch's mean.
        return frozenset({"spatial.conv.bias"} if training and self.spatial_norm and self.spatial_bias else ())


def _meaningless(parts: str) -> dict[str, None]:
    names = {"both": (), "channel": (*SPATIAL_FIELDS, "spatial_source"), "spatial": (*CHANNEL_FIELDS, "spatial_source")}
    return dict.fromkeys(names[parts])
