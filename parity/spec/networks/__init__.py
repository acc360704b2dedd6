"""Networks: blocks made of blocks. Their specs are specs like those of blocks, so that files, models, the oracle and
the harness take them alike; the registry of blocks does not hold them.
"""

from __future__ import annotations

from parity.spec._base import Spec
from parity.spec.networks._parts import NetworkSpec
from parity.spec.networks.plain import PlainNetworkOptions, PlainNetworkSpec
from parity.spec.networks.residual import ResidualUnitOptions, ResidualUnitSpec
from parity.spec.networks.resnet import ResNetOptions, ResNetSpec

# The registry of networks. A new network is one line here; its key is the name of its file in every package.
NETWORKS: dict[str, type[Spec]] = {
    "residual": ResidualUnitSpec,
    "resnet": ResNetSpec,
    "plain": PlainNetworkSpec,
}

__all__ = [
    "NETWORKS",
    "NetworkSpec",
    "PlainNetworkOptions",
    "PlainNetworkSpec",
    "ResNetOptions",
    "ResNetSpec",
    "ResidualUnitOptions",
    "ResidualUnitSpec",
]
