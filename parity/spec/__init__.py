"""The contract: what each block's options mean, and which weights it then has.

`Options` are what a constructor takes; `Options.resolve(channels, spatial_dims)` gives the `Spec`, which holds what the
weights need (resolved sizes, never the rule that gave them). Standard library only, so that every backend can lean on
it.

    >>> from parity.spec import CBAMOptions
    >>> spec = CBAMOptions(reduction=16, kernel_size=7).resolve(channels=64, spatial_dims=2)
    >>> spec.hidden_channels
    4
    >>> spec.parameters()["spatial.conv.kernel"]
    (1, 2, 7, 7)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.errors import InputError, ModeMissingError, ParityError, SpecError
from parity.spec._base import Options, Spec, check_spec_of, differing, is_statistic
from parity.spec._gate import ACTIVATIONS, Gate
from parity.spec._layout import AXIS_NAMES, DATA_FORMATS, channel_axis, check_data_format, spatial_axes
from parity.spec._live import LiveBlock, LiveLayer, LiveNetwork
from parity.spec._norm import BatchNorm
from parity.spec.attention_pooling import AttentionPoolingOptions, AttentionPoolingSpec
from parity.spec.ca import CoordinateAttentionOptions, CoordinateAttentionSpec
from parity.spec.cbam import CBAMOptions, CBAMSpec
from parity.spec.conv_attention import ConvolutionAttentionOptions, ConvolutionAttentionSpec
from parity.spec.eca import ECAOptions, ECASpec
from parity.spec.ese import EffectiveSqueezeExcitationOptions, EffectiveSqueezeExcitationSpec
from parity.spec.multi_head_eca import MultiHeadECAOptions, MultiHeadECASpec
from parity.spec.networks import (
    NETWORKS,
    NetworkSpec,
    PlainNetworkOptions,
    PlainNetworkSpec,
    ResidualUnitOptions,
    ResidualUnitSpec,
    ResNetOptions,
    ResNetSpec,
)
from parity.spec.scse import SCSEOptions, SCSESpec
from parity.spec.se import SqueezeExcitationOptions, SqueezeExcitationSpec

# The registry of blocks. A new block is one line here; its key is the name of its file in every package.
SPECS: dict[str, type[Spec]] = {
    "se": SqueezeExcitationSpec,
    "cbam": CBAMSpec,
    "eca": ECASpec,
    "ca": CoordinateAttentionSpec,
    "ese": EffectiveSqueezeExcitationSpec,
    "scse": SCSESpec,
    "attention_pooling": AttentionPoolingSpec,
    "conv_attention": ConvolutionAttentionSpec,
    "multi_head_eca": MultiHeadECASpec,
}


def parameters(spec: Spec) -> dict[str, tuple[int, ...]]:
    """The canonical name and shape of every weight and running statistic of `spec`, in canonical order."""
    return spec.parameters()


def spec_from_json(value: Mapping[str, Any]) -> Spec:
    """The `Spec` that `Spec.to_json` wrote; raises `SpecError` for anything else."""
    known = SPECS | NETWORKS
    if not isinstance(value, Mapping) or value.get("block") not in list(known):  # a list: any JSON value compares
        raise SpecError(f"received {value!r} as a spec", f"a mapping whose 'block' is one of {', '.join(known)}")
    return known[value["block"]].from_json(value)


__all__ = [
    "ACTIVATIONS",
    "AXIS_NAMES",
    "DATA_FORMATS",
    "NETWORKS",
    "SPECS",
    "AttentionPoolingOptions",
    "AttentionPoolingSpec",
    "BatchNorm",
    "CBAMOptions",
    "CBAMSpec",
    "ConvolutionAttentionOptions",
    "ConvolutionAttentionSpec",
    "CoordinateAttentionOptions",
    "CoordinateAttentionSpec",
    "ECAOptions",
    "ECASpec",
    "EffectiveSqueezeExcitationOptions",
    "EffectiveSqueezeExcitationSpec",
    "Gate",
    "InputError",
    "LiveBlock",
    "LiveLayer",
    "LiveNetwork",
    "ModeMissingError",
    "MultiHeadECAOptions",
    "MultiHeadECASpec",
    "NetworkSpec",
    "Options",
    "ParityError",
    "PlainNetworkOptions",
    "PlainNetworkSpec",
    "ResNetOptions",
    "ResNetSpec",
    "ResidualUnitOptions",
    "ResidualUnitSpec",
    "SCSEOptions",
    "SCSESpec",
    "Spec",
    "SpecError",
    "SqueezeExcitationOptions",
    "SqueezeExcitationSpec",
    "channel_axis",
    "check_data_format",
    "check_spec_of",
    "differing",
    "is_statistic",
    "parameters",
    "spatial_axes",
    "spec_from_json",
]
