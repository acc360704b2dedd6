"""Squeeze and excitation: z = mean_S x;  s = gate(W2 activation(W1 z + b1) + b2);  y = x * s."""

from __future__ import annotations

from types import SimpleNamespace

from parity.oracle._gate import apply_activation, apply_gate
from parity.oracle._linear import Weights, dense, dense_gradient
from parity.oracle._measured import Measured
from parity.spec import SqueezeExcitationSpec, spatial_axes


def forward(
    spec: SqueezeExcitationSpec, weights: Weights, x: Measured, training: bool
) -> tuple[Measured, SimpleNamespace]:
    """y, and what the gradient needs."""
    axes = spatial_axes(spec.spatial_dims, "channels_first")
    z = x.mean(axes)
    h, dh_du = apply_activation(dense(z, weights, "fc1"), spec.activation)
    s, ds_dv = apply_gate(dense(h, weights, "fc2"), spec.gate)
    s_map = s[(..., *(None,) * spec.spatial_dims)]
    return x * s_map, SimpleNamespace(axes=axes, x=x, z=z, h=h, dh_du=dh_du, ds_dv=ds_dv, s_map=s_map, updated={})


def gradient(
    spec: SqueezeExcitationSpec, weights: Weights, t: SimpleNamespace, dy: Measured
) -> tuple[Measured, Weights]:
    """The gradients of x and of the weights of <dy, y>."""
    dv = (dy * t.x).sum(t.axes) * t.ds_dv
    dh, of_fc2 = dense_gradient(dv, t.h, weights, "fc2")
    dz, of_fc1 = dense_gradient(dh * t.dh_du, t.z, weights, "fc1")
    area = t.x.value[0, 0].size
    dx = dy * t.s_map + dz[(..., *(None,) * spec.spatial_dims)] * (1 / area)
    return dx, of_fc1 | of_fc2
