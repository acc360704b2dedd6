"""Convolutional block attention module.

c = gate(MLP(mean_S x) + MLP(max_S x));  x' = x * c;  p = [mean_C x', max_C x'];  m = gate(norm(K * p + b));  y = x' *
m.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from parity.oracle._gate import apply_activation, apply_gate
from parity.oracle._linear import Weights, convolution, convolution_gradient, dense, dense_gradient
from parity.oracle._measured import Measured, given, join
from parity.oracle._norm import batch_norm, batch_norm_gradient
from parity.spec import CBAMSpec, spatial_axes


def forward(spec: CBAMSpec, weights: Weights, x: Measured, training: bool) -> tuple[Measured, SimpleNamespace]:
    """y, and what the gradient needs."""
    t = SimpleNamespace(x=x, updated={})
    t.axes = spatial_axes(spec.spatial_dims, "channels_first")
    t.refined = x
    if spec.has_channel:
        t.c_map = _channel(spec, weights, t)[(..., *(None,) * spec.spatial_dims)]
        t.refined = x * t.c_map
    y = t.refined
    if spec.has_spatial:
        t.m_map = _spatial(spec, weights, t, training)[:, None]
        y = t.refined * t.m_map
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
    z_mean = t.x.mean(t.axes)
    z_max, t.share = t.x.max(t.axes)
    t.z = [join([z_mean, z_max], 1)] if spec.channel_merge == "concat" else [z_mean, z_max]
    t.h, t.dh_du = [], []
    v: Any = None
    for z in t.z:
        h, dh_du = apply_activation(dense(z, weights, "channel.fc1"), spec.activation)
        t.h.append(h)
        t.dh_du.append(dh_du)
        passed = dense(h, weights, "channel.fc2")
        v = passed if v is None else v + passed
    c, t.dc_dv = apply_gate(v, spec.gate)
    return c


def _channel_gradient(spec: CBAMSpec, weights: Weights, t: SimpleNamespace, dc: Measured) -> tuple[Measured, Weights]:
    dv = dc * t.dc_dv
    dz: list[Measured] = []
    gradients: Weights = {}
    for z, h, dh_du in zip(t.z, t.h, t.dh_du, strict=True):
        dh, of_fc2 = dense_gradient(dv, h, weights, "channel.fc2")
        dz_one, of_fc1 = dense_gradient(dh * dh_du, z, weights, "channel.fc1")
        dz.append(dz_one)
        for name, value in (of_fc1 | of_fc2).items():  # one MLP, used once for each pool
            gradients[name] = gradients[name] + value if name in gradients else value
    channels = t.x.value.shape[1]
    dmean, dmax = (dz[0][:, :channels], dz[0][:, channels:]) if spec.channel_merge == "concat" else dz
    spread = (..., *(None,) * spec.spatial_dims)
    return dmean[spread] * (1 / t.x.value[0, 0].size) + dmax[spread] * given(t.share), gradients


def _spatial(spec: CBAMSpec, weights: Weights, t: SimpleNamespace, training: bool) -> Measured:
    t.source = t.x if spec.spatial_source == "input" else t.refined
    t.p = t.source
    if spec.spatial_features == "pooled":
        highest, t.spatial_share = t.source.max((1,))
        t.p = join([t.source.mean((1,))[:, None], highest[:, None]], 1)
    u = convolution(t.p, weights, "spatial.conv")
    if spec.spatial_norm:
        u, t.norm = batch_norm(u[..., None], weights, "spatial.norm", spec.spatial_norm, training)
        u, t.updated = u[..., 0], t.norm.updated
    m, t.dm_du = apply_gate(u, spec.gate)
    return m


def _spatial_gradient(spec: CBAMSpec, weights: Weights, t: SimpleNamespace, dm: Measured) -> tuple[Measured, Weights]:
    du, gradients = dm * t.dm_du, Weights()
    if spec.spatial_norm:
        du, gradients = batch_norm_gradient(du[..., None], t.norm, "spatial.norm")
        du = du[..., 0]
    dp, of_conv = convolution_gradient(du, t.p, weights, "spatial.conv")
    if spec.spatial_features == "pooled":
        channels = t.x.value.shape[1]
        dp = dp[:, :1] * (1 / channels) + dp[:, 1:] * given(t.spatial_share)
    return dp, of_conv | gradients
