"""The steps that networks have beside those of blocks, and the blocks inside of them."""

from __future__ import annotations

import numpy as np

from parity import oracle
from parity.oracle._linear import Weights, convolve, windows, zero_padded
from parity.oracle._measured import Measured, given
from parity.oracle._norm import batch_norm
from parity.oracle._steps import step
from parity.spec import BatchNorm, Spec


def inside(path: str, spec: Spec | None, weights: Weights, x: Measured, training: bool) -> tuple[Measured, Weights]:
    """What the block `spec`, whose weights lie under `path`, makes of x, and its updated statistics; x for None."""
    if spec is None:
        return x, {}
    own = {name: weights[f"{path}.{name}"] for name in spec.parameters()}
    y, trace = oracle.forward(spec, own, x, training)
    return y, {f"{path}.{name}": value for name, value in trace.updated.items()}


def normed(u: Measured, weights: Weights, path: str, norm: BatchNorm, training: bool) -> tuple[Measured, Weights]:
    """The batch norm of a map (N, C, *S), and its updated statistics."""
    y, trace = batch_norm(u.move(lambda array: np.moveaxis(array, 1, -1)), weights, path, norm, training)
    return y.move(lambda array: np.moveaxis(array, -1, 1)), trace.updated


def convolved(x: Measured, weights: Weights, path: str, stride: int) -> Measured:
    """A convolution that pads k // 2 zeros at both ends of every axis."""
    sizes = weights[f"{path}.kernel"].value.shape[2:]
    return convolve(x, weights, path, [stride] * len(sizes), [(size // 2, size // 2) for size in sizes])


def convolved_as_tensorflow(x: Measured, weights: Weights, path: str, stride: int) -> Measured:
    """A convolution that pads as many zeros as its last window lacks, the odd one at the end."""
    sizes = weights[f"{path}.kernel"].value.shape[2:]
    padding = []
    for extent, size in zip(x.value.shape[2:], sizes, strict=True):
        lacking = max((-(-extent // stride) - 1) * stride + size - extent, 0)
        padding.append((lacking // 2, lacking - lacking // 2))
    return convolve(x, weights, path, [stride] * len(sizes), padding)


@step
def max_pool(x: Measured, size: int, stride: int, path: str = "") -> Measured:
    """The maximum over windows of a map, size // 2 beyond each border, where nothing is.

    For maps of no negative numbers, such as those behind a ReLU: zeros stand for what is not there.
    """
    dims = x.value.ndim - 2
    seen = windows(zero_padded(x, [(size // 2, size // 2)] * dims, path), [size] * dims)
    return _thinned(seen, stride, dims).max(tuple(range(2 + dims, 2 + 2 * dims)))


@step
def average_pool(x: Measured, stride: int, path: str = "") -> Measured:
    """The mean over windows of `stride` that do not overlap, at the far border over the positions that are there."""
    dims = x.value.ndim - 2
    padding = [(0, -size % stride) for size in x.value.shape[2:]]
    axes = tuple(range(2 + dims, 2 + 2 * dims))

    def total(one: Measured) -> Measured:
        return _thinned(windows(zero_padded(one, padding, path), [stride] * dims), stride, dims).sum(axes)

    return total(x) * given(1 / total(given(np.ones_like(x.value))).value)


def _thinned(seen: Measured, stride: int, dims: int) -> Measured:
    """Every `stride`-th window along each spatial axis."""
    return seen[(slice(None), slice(None), *(slice(None, None, stride),) * dims)]


@step
def positions_first(x: Measured, path: str = "") -> Measured:
    """(N, C, *S) to (N, P C): over the positions first, then over the channels."""
    return x.move(lambda array: np.moveaxis(array, 1, -1).reshape(len(array), -1))


@step
def class_probabilities(logits: Measured, path: str = "") -> Measured:
    """softmax over the last axis."""
    e = (logits - given(logits.value.max(-1, keepdims=True))).apply(np.exp, np.exp)
    return e * e.sum((1,), keepdims=True).apply(lambda total: 1 / total, lambda total: -1 / total**2)
