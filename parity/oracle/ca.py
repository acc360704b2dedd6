"""Coordinate attention.

z_i = mean of x over the other axes;  f = activation(norm(W z + b));  g_i = gate(W_i f_i + b_i);  y = x * g_1 * .. *
g_d.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from parity.oracle._gate import activation, activation_derivative, gate, gate_derivative
from parity.oracle._linear import Weights, dense, dense_gradient
from parity.oracle._map import attend, joined, mean
from parity.oracle._measured import Measured, join
from parity.oracle._norm import batch_norm, batch_norm_gradient
from parity.spec import CoordinateAttentionSpec, spatial_axes


def forward(
    spec: CoordinateAttentionSpec, weights: Weights, x: Measured, training: bool
) -> tuple[Measured, SimpleNamespace]:
    """y, and what the gradient needs."""
    t = SimpleNamespace(x=x, updated={})
    t.axes = spatial_axes(spec.spatial_dims, "channels_first")
    zs = [mean(x, _others(t, axis), name) for name, axis in zip(spec.axis_names, t.axes, strict=True)]
    t.z = joined([_rows(z) for z in zs], 1)  # (N, L, C)
    t.u = dense(t.z, weights, "reduce")
    if spec.norm:
        t.u, t.norm = batch_norm(t.u, weights, "norm", spec.norm, training)
        t.updated = t.norm.updated
    t.f = _split(activation(t.u, spec.activation), x)
    t.v, t.g = [], []
    for name, part, axis in zip(spec.axis_names, t.f, t.axes, strict=True):
        t.v.append(dense(part, weights, f"expand.{name}"))
        t.g.append(_spread(gate(t.v[-1], spec.gate, f"expand.{name}"), t, axis))
    y = attend(x, t.g)
    return (y + x if spec.residual else y), t


def gradient(
    spec: CoordinateAttentionSpec, weights: Weights, t: SimpleNamespace, dy: Measured
) -> tuple[Measured, Weights]:
    """The gradients of x and of the weights of <dy, y>."""
    gradients: Weights = {}
    df = []
    for i, (name, axis) in enumerate(zip(spec.axis_names, t.axes, strict=True)):
        rest = _product([t.x, *t.g[:i], *t.g[i + 1 :]])
        dg = _rows((dy * rest).sum(_others(t, axis)))
        dv = dg * gate_derivative(t.v[i], spec.gate)
        part, of_expand = dense_gradient(dv, t.f[i], weights, f"expand.{name}")
        df.append(part)
        gradients |= of_expand
    du = join(df, 1) * activation_derivative(t.u, spec.activation)
    if spec.norm:
        du, of_norm = batch_norm_gradient(du, t.norm, "norm")
        gradients |= of_norm
    dz, of_reduce = dense_gradient(du, t.z, weights, "reduce")
    dx = _product([dy, *t.g])
    dx = dx + dy if spec.residual else dx
    for part, axis in zip(_split(dz, t.x), t.axes, strict=True):
        area = math.prod(t.x.value.shape[other] for other in _others(t, axis))
        dx = dx + _spread(part, t, axis) * (1 / area)
    return dx, of_reduce | gradients


def _others(t: SimpleNamespace, axis: int) -> tuple[int, ...]:
    return tuple(other for other in t.axes if other != axis)


def _rows(z: Measured) -> Measured:
    """(N, C, S_i) to (N, S_i, C)."""
    return z.move(lambda array: array.swapaxes(1, 2))


def _split(f: Measured, x: Measured) -> list[Measured]:
    """The parts of (N, L, c) that belong to each spatial axis of x."""
    ends = np.cumsum(x.value.shape[2:])
    return [f[:, end - size : end] for end, size in zip(ends, x.value.shape[2:], strict=True)]


def _spread(g: Measured, t: SimpleNamespace, axis: int) -> Measured:
    """(N, S_i, C) to (N, C, 1.., S_i, 1..)."""
    return _rows(g).move(lambda array: np.expand_dims(array, _others(t, axis)))


def _product(factors: list[Measured]) -> Measured:
    result, *others = factors
    for other in others:
        result = result * other
    return result
