"""Effective squeeze and excitation: z = mean_S x;  s = gate(W z + b);  y = x * s."""

from __future__ import annotations

import math
from types import SimpleNamespace

from parity.oracle._gate import gate, gate_derivative
from parity.oracle._linear import Weights, dense, dense_gradient
from parity.oracle._map import attend, mean, spread
from parity.oracle._measured import Measured
from parity.spec import EffectiveSqueezeExcitationSpec, spatial_axes


def forward(
    spec: EffectiveSqueezeExcitationSpec, weights: Weights, x: Measured, training: bool
) -> tuple[Measured, SimpleNamespace]:
    """y, and what the gradient needs."""
    axes = spatial_axes(spec.spatial_dims, "channels_first")
    z = mean(x, axes)
    v = dense(z, weights, "fc")
    s_map = spread(gate(v, spec.gate), spec.spatial_dims)
    return attend(x, [s_map]), SimpleNamespace(axes=axes, x=x, z=z, v=v, s_map=s_map, updated={})


def gradient(
    spec: EffectiveSqueezeExcitationSpec, weights: Weights, t: SimpleNamespace, dy: Measured
) -> tuple[Measured, Weights]:
    """The gradients of x and of the weights of <dy, y>."""
    dv = (dy * t.x).sum(t.axes) * gate_derivative(t.v, spec.gate)
    dz, gradients = dense_gradient(dv, t.z, weights, "fc")
    area = math.prod(t.x.value.shape[2:])
    return dy * t.s_map + spread(dz, spec.spatial_dims) * (1 / area), gradients
