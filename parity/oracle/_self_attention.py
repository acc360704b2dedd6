"""Multi-head self-attention over the positions of a map: softmax(q k^T / sqrt(D)) v of each head of D channels."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from parity.oracle._linear import Weights, dense, dense_gradient
from parity.oracle._measured import Measured, contract
from parity.oracle._softmax import softmax, softmax_gradient
from parity.oracle._steps import step


@step
def self_attention(
    t: Measured, weights: Weights, heads: int, path: str = "attention"
) -> tuple[Measured, SimpleNamespace]:
    """What the attention makes of t, (N, T, C) to (N, T, C), and what its gradient needs."""
    q, k, v = (split(dense(t, weights, f"{path}.{part}"), heads, path) for part in ("query", "key", "value"))
    a = softmax(scores(q, k, path), -1, path)  # (N, H, T, T): of each position, how much it takes of each
    joined = merged(weighed(a, v, path), path)
    return dense(joined, weights, f"{path}.output"), SimpleNamespace(t=t, q=q, k=k, v=v, a=a, joined=joined)


def self_attention_gradient(
    dy: Measured, weights: Weights, trace: SimpleNamespace, path: str = "attention"
) -> tuple[Measured, Weights]:
    """The gradients of t and of the four layers' weights, given that of y."""
    djoined, gradients = dense_gradient(dy, trace.joined, weights, f"{path}.output")
    dz = split(djoined, trace.q.value.shape[1], path)
    da = contract("nhqd,nhkd->nhqk", dz, trace.v)
    ds = softmax_gradient(da, trace.a, -1) * _scale(trace.q)
    slopes = {
        "query": contract("nhqk,nhkd->nhqd", ds, trace.k),
        "key": contract("nhqk,nhqd->nhkd", ds, trace.q),
        "value": contract("nhqk,nhqd->nhkd", trace.a, dz),
    }
    parts = []
    for part, slope in slopes.items():
        dt, of_part = dense_gradient(merged(slope, path), trace.t, weights, f"{path}.{part}")
        parts.append(dt)
        gradients |= of_part
    return parts[0] + parts[1] + parts[2], gradients


# Sizes are told, not left to NumPy: of an empty batch it could not tell them.


@step
def tokens(u: Measured, path: str = "attention") -> Measured:
    """A map (N, C, *S) as one row of channels a position, (N, T, C), positions in C order."""
    return u.move(lambda array: np.moveaxis(array.reshape(*array.shape[:2], math.prod(array.shape[2:])), 1, 2))


def as_map(t: Measured, sizes: tuple[int, ...]) -> Measured:
    """The inverse of `tokens` for a map of these spatial sizes."""
    return t.move(lambda array: np.moveaxis(array, 2, 1).reshape(len(array), array.shape[2], *sizes))


@step
def split(u: Measured, heads: int, path: str = "") -> Measured:
    """(N, T, C) to (N, H, T, D): the first D channels are those of the first head."""
    return u.move(lambda array: np.moveaxis(array.reshape(*array.shape[:2], heads, array.shape[2] // heads), 2, 1))


@step
def merged(z: Measured, path: str = "") -> Measured:
    """The inverse of `split`."""
    _, heads, positions, size = z.value.shape
    return z.move(lambda array: np.moveaxis(array, 1, 2).reshape(len(array), positions, heads * size))


@step
def scores(q: Measured, k: Measured, path: str = "") -> Measured:
    """q . k / sqrt(D) of each two positions: (N, H, T, T), the last axis that of k."""
    return contract("nhqd,nhkd->nhqk", q, k) * _scale(q)


@step
def weighed(a: Measured, v: Measured, path: str = "") -> Measured:
    """The sum of the values, each times its weight."""
    return contract("nhqk,nhkd->nhqd", a, v)


def _scale(q: Measured) -> float:
    return 1 / math.sqrt(q.value.shape[-1])
