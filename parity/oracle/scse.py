"""Concurrent spatial and channel squeeze and excitation.

c = gate(MLP(mean_S x));  s = gate(w . x + b);  y = max(x * c, x * s), or x * c + x * s.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

from parity.oracle._gate import gate, gate_derivative
from parity.oracle._linear import Weights, excite, excite_gradient, pointwise, pointwise_gradient
from parity.oracle._map import attend, maximum, mean, spread
from parity.oracle._measured import Measured, given, join
from parity.spec import SCSESpec, spatial_axes


def forward(spec: SCSESpec, weights: Weights, x: Measured, training: bool) -> tuple[Measured, SimpleNamespace]:
    """y, and what the gradient needs."""
    t = SimpleNamespace(x=x, updated={})
    t.axes = spatial_axes(spec.spatial_dims, "channels_first")
    t.z = mean(x, t.axes, "channel")
    t.v = excite([t.z], weights, spec.activation, "channel")
    t.c_map = spread(gate(t.v, spec.gate, "channel"), spec.spatial_dims)
    t.u = pointwise(x, weights, "spatial.fc")
    t.s_map = gate(t.u, spec.gate, "spatial")
    t.refined = join([attend(x, [m], path)[None] for m, path in ((t.c_map, "channel"), (t.s_map, "spatial"))], 0)
    y = maximum(t.refined, (0,), "merge") if spec.merge == "max" else t.refined.sum((0,))
    return y, t


def gradient(spec: SCSESpec, weights: Weights, t: SimpleNamespace, dy: Measured) -> tuple[Measured, Weights]:
    """The gradients of x and of the weights of <dy, y>."""
    dchannel, dspatial = dy, dy
    if spec.merge == "max":
        share = given(t.refined.share((0,)))
        dchannel, dspatial = dy * share[0], dy * share[1]
    dv = (dchannel * t.x).sum(t.axes) * gate_derivative(t.v, spec.gate)
    (dz,), of_channel = excite_gradient(dv, [t.z], weights, spec.activation, "channel")
    du = (dspatial * t.x).sum((1,), keepdims=True) * gate_derivative(t.u, spec.gate)
    dx, of_spatial = pointwise_gradient(du, t.x, weights, "spatial.fc")
    area = math.prod(t.x.value.shape[2:])
    dx = dx + dchannel * t.c_map + dspatial * t.s_map + spread(dz, spec.spatial_dims) * (1 / area)
    return dx, of_channel | of_spatial
