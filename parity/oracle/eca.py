"""Efficient channel attention: z = mean_S x;  s_c = gate(sum_j w_j z_(c + j - k // 2) + b);  y = x * s."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from parity.oracle._gate import gate, gate_derivative
from parity.oracle._linear import Weights, biased, padded, windows
from parity.oracle._map import attend, mean, spread
from parity.oracle._measured import Measured, contract
from parity.spec import ECASpec, spatial_axes


def forward(spec: ECASpec, weights: Weights, x: Measured, training: bool) -> tuple[Measured, SimpleNamespace]:
    """y, and what the gradient needs."""
    axes = spatial_axes(spec.spatial_dims, "channels_first")
    z = mean(x, axes)
    taps = (spec.kernel_size,)
    seen = windows(padded(z, taps, spec.padding, "conv"), taps)  # (N, C, k)
    u = biased(contract("nck,k->nc", seen, weights["conv.kernel"][0, 0]), weights, "conv")
    s_map = spread(gate(u, spec.gate), spec.spatial_dims)
    return attend(x, [s_map]), SimpleNamespace(axes=axes, x=x, seen=seen, u=u, s_map=s_map, updated={})


def gradient(spec: ECASpec, weights: Weights, t: SimpleNamespace, dy: Measured) -> tuple[Measured, Weights]:
    """The gradients of x and of the weights of <dy, y>."""
    du = (dy * t.x).sum(t.axes) * gate_derivative(t.u, spec.gate)
    gradients = {"conv.kernel": contract("nc,nck->k", du, t.seen)[None, None]}
    if spec.bias:
        gradients["conv.bias"] = du.sum((0, 1)).move(lambda array: array.reshape(1))
    spread_out = contract("nc,k->nck", du, weights["conv.kernel"][0, 0])
    taps = _neighbours(spec, t.x.value.shape[1])

    def gather(array: np.ndarray) -> np.ndarray:
        total = np.zeros((array.shape[0], array.shape[1] + 1))
        np.add.at(total, (slice(None), taps), array)  # type: ignore[arg-type]
        return total[:, :-1]

    dz = Measured(gather(spread_out.value), gather(spread_out.magnitude), spread_out.margin)
    area = math.prod(t.x.value.shape[2:])
    return dy * t.s_map + spread(dz, spec.spatial_dims) * (1 / area), gradients


def _neighbours(spec: ECASpec, channels: int) -> np.ndarray:
    """(C, k): the channel that each tap sees; `channels` itself stands for a zero."""
    index = np.arange(channels)[:, None] + np.arange(spec.kernel_size) - spec.kernel_size // 2
    if spec.padding == "circular":
        return index % channels
    return np.where((index >= 0) & (index < channels), index, channels)
