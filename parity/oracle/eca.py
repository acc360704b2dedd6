"""Efficient channel attention: z = mean_S x;  s_c = gate(sum_j w_j z_(c + j - k // 2) + b);  y = x * s."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from parity.oracle._gate import apply_gate
from parity.oracle._linear import Weights
from parity.oracle._measured import Measured, contract
from parity.spec import ECASpec, spatial_axes


def forward(spec: ECASpec, weights: Weights, x: Measured, training: bool) -> tuple[Measured, SimpleNamespace]:
    """y, and what the gradient needs."""
    axes = spatial_axes(spec.spatial_dims, "channels_first")
    z = x.mean(axes)
    taps = _neighbours(spec, x.value.shape[1])
    # One column beyond the channels holds the zeros of the padding.
    seen = z.move(lambda array: np.pad(array, ((0, 0), (0, 1)))[:, taps])
    u = contract("nck,k->nc", seen, weights["conv.kernel"][0, 0])
    u = u + weights["conv.bias"] if spec.bias else u
    s, ds_du = apply_gate(u, spec.gate)
    s_map = s[(..., *(None,) * spec.spatial_dims)]
    return x * s_map, SimpleNamespace(axes=axes, x=x, taps=taps, seen=seen, ds_du=ds_du, s_map=s_map, updated={})


def gradient(spec: ECASpec, weights: Weights, t: SimpleNamespace, dy: Measured) -> tuple[Measured, Weights]:
    """The gradients of x and of the weights of <dy, y>."""
    du = (dy * t.x).sum(t.axes) * t.ds_du
    gradients = {"conv.kernel": contract("nc,nck->k", du, t.seen)[None, None]}
    if spec.bias:
        gradients["conv.bias"] = du.sum((0, 1)).move(lambda array: array.reshape(1))
    spread = contract("nc,k->nck", du, weights["conv.kernel"][0, 0])

    def gather(array: np.ndarray) -> np.ndarray:
        total = np.zeros((array.shape[0], array.shape[1] + 1))
        np.add.at(total, (slice(None), t.taps), array)  # type: ignore[arg-type]
        return total[:, :-1]

    dz = Measured(gather(spread.value), gather(spread.magnitude), spread.margin)
    area = t.x.value[0, 0].size
    return dy * t.s_map + dz[(..., *(None,) * spec.spatial_dims)] * (1 / area), gradients


def _neighbours(spec: ECASpec, channels: int) -> np.ndarray:
    """(C, k): the channel that each tap sees; `channels` itself stands for a zero."""
    index = np.arange(channels)[:, None] + np.arange(spec.kernel_size) - spec.kernel_size // 2
    if spec.padding == "circular":
        return index % channels
    return np.where((index >= 0) & (index < channels), index, channels)
