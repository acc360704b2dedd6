"""Convolutional block attention module.

c = gate(MLP(mean_S x) + MLP(max_S x));  x' = x * c;  p = [mean_C x', max_C x'];  m = gate(norm(K * p + b));  y = x' *
m.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

from parity.oracle._gate import gate, gate_derivative
from parity.oracle._linear import Weights, convolution, convolution_gradient, excite, excite_gradient
from parity.oracle._map import attend, joined, maximum, mean, spread
from parity.oracle._measured import Measured, given
from parity.oracle._norm import batch_norm, batch_norm_gradient
from parity.spec import CBAMSpec, spatial_axes


def forward(spec: CBAMSpec, weights: Weights, x: Measured, training: bool) -> tuple[Measured, SimpleNamespace]:
    """y, and what the gradient needs."""
    t = SimpleNamespace(x=x, updated={})
    t.axes = spatial_axes(spec.spatial_dims, "channels_first")
    t.refined = x
    if spec.has_channel:
        t.c_map = spread(_channel(spec, weights, t), spec.spatial_dims)
        t.refined = attend(x, [t.c_map], "channel")
    y = t.refined
    if spec.has_spatial:
        t.m_map = _spatial(spec, weights, t, training)[:, None]
        y = attend(t.refined, [t.m_map], "spatial")
    return (y + x if spec.residual else y), t


def gradient(spec: CBAMSpec, weights: Weights, t: SimpleNamespace, dy: Measured) -> tuple[Measured, Weights]:
    """The gradients of x and of the weights of <dy, y>."""
    gradients: Weights = {}
    drefined, dx = dy, dy if spec.residual else None
    if spec.has_spatial:
        dsource, of_spatial = _spatial_gradient(spec, weights, t, (dy * t.refined).sum((1,)))
        gradients |= of_spatial
        drefined = dy * t.m_map
        if spec.spatial_source == "input":
            dx = dsource if dx is None else dx + dsource
        else:
            drefined = drefined + dsource
    if spec.has_channel:
        dpooled, of_channel = _channel_gradient(spec, weights, t, (drefined * t.x).sum(t.axes))
        gradients = of_channel | gradients
        drefined = drefined * t.c_map + dpooled
    return (drefined if dx is None else dx + drefined), gradients


def _channel(spec: CBAMSpec, weights: Weights, t: SimpleNamespace) -> Measured:
    t.z = [mean(t.x, t.axes, "channel"), maximum(t.x, t.axes, "channel")]
    if spec.channel_merge == "concat":
        t.z = [joined(t.z, 1, "channel")]
    t.v = excite(t.z, weights, spec.activation, "channel")
    return gate(t.v, spec.gate, "channel")


def _channel_gradient(spec: CBAMSpec, weights: Weights, t: SimpleNamespace, dc: Measured) -> tuple[Measured, Weights]:
    dv = dc * gate_derivative(t.v, spec.gate)
    dz, gradients = excite_gradient(dv, t.z, weights, spec.activation, "channel")
    channels, dims = t.x.value.shape[1], spec.spatial_dims
    dmean, dmax = (dz[0][:, :channels], dz[0][:, channels:]) if spec.channel_merge == "concat" else dz
    area = math.prod(t.x.value.shape[2:])
    return spread(dmean, dims) * (1 / area) + spread(dmax, dims) * given(t.x.share(t.axes)), gradients


def _spatial(spec: CBAMSpec, weights: Weights, t: SimpleNamespace, training: bool) -> Measured:
    t.source = t.x if spec.spatial_source == "input" else t.refined
    t.p = t.source
    if spec.spatial_features == "pooled":
        planes = mean(t.source, (1,), "spatial"), maximum(t.source, (1,), "spatial")
        t.p = joined([plane[:, None] for plane in planes], 1, "spatial")
    t.u = convolution(t.p, weights, "spatial.conv")
    if spec.spatial_norm:
        u, t.norm = batch_norm(t.u[..., None], weights, "spatial.norm", spec.spatial_norm, training)
        t.u, t.updated = u[..., 0], t.norm.updated
    return gate(t.u, spec.gate, "spatial")


def _spatial_gradient(spec: CBAMSpec, weights: Weights, t: SimpleNamespace, dm: Measured) -> tuple[Measured, Weights]:
    du, gradients = dm * gate_derivative(t.u, spec.gate), Weights()
    if spec.spatial_norm:
        du, gradients = batch_norm_gradient(du[..., None], t.norm, "spatial.norm")
        du = du[..., 0]
    dp, of_conv = convolution_gradient(du, t.p, weights, "spatial.conv")
    if spec.spatial_features == "pooled":
        channels = t.x.value.shape[1]
        dp = dp[:, :1] * (1 / channels) + dp[:, 1:] * given(t.source.share((1,)))
    return dp, of_conv | gradients
