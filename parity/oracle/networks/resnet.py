"""ResNet: a stem, stages of residual units, the mean over the positions, and a dense layer."""

from __future__ import annotations

from types import SimpleNamespace

from parity.oracle._gate import activation
from parity.oracle._linear import Weights, dense
from parity.oracle._map import mean
from parity.oracle._measured import Measured
from parity.oracle.networks._parts import convolved, inside, max_pool, normed
from parity.spec import ResNetSpec, spatial_axes


def forward(spec: ResNetSpec, weights: Weights, x: Measured, training: bool) -> tuple[Measured, SimpleNamespace]:
    """y, the updated statistics, and the outputs of the layers."""
    t = SimpleNamespace(updated={}, layers={})
    imagenet = spec.stem == "imagenet"
    u = convolved(x, weights, "stem.conv", 2 if imagenet else 1)
    u, t.updated = normed(u, weights, "stem.norm", spec.norm, training)
    u = t.layers["stem"] = activation(u, "relu", "stem")
    u = max_pool(u, 3, 2, "stem") if imagenet else u
    for number, stage in enumerate(spec.units(), 1):
        for place, unit in enumerate(stage, 1):
            name = f"stage{number}.unit{place}"
            u, updated = inside(name, unit, weights, u, training)
            t.updated |= updated
            t.layers[name] = u
    return dense(mean(u, spatial_axes(spec.spatial_dims, "channels_first"), "head"), weights, "head"), t
