"""Batch norm: forward, running statistics, gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parity.oracle._linear import Weights
from parity.oracle._measured import Measured
from parity.oracle._steps import step
from parity.spec import BatchNorm


@dataclass(frozen=True)
class Trace:
    """What the gradient needs, and the running statistics after the pass."""

    axes: tuple[int, ...]
    normalized: Measured
    rate: Measured  # 1 / sqrt(v + epsilon)
    scale: Measured
    training: bool
    updated: Weights


@step
def batch_norm(u: Measured, weights: Weights, path: str, norm: BatchNorm, training: bool) -> tuple[Measured, Trace]:
    """scale * (u - m) / sqrt(v + epsilon) + offset over the last axis of u, as `parity.spec.BatchNorm` says."""
    axes = tuple(range(u.value.ndim - 1))
    m, v, updated = weights[f"{path}.mean"], weights[f"{path}.variance"], Weights()
    if training:
        count = math.prod(u.value.shape[:-1])
        norm.check_count(count)
        m, v = moments(u, axes, path)
        updated = running(weights, path, m, v, count, norm)
    rate = v.apply(lambda v: (v + norm.epsilon) ** -0.5, lambda v: -0.5 * (v + norm.epsilon) ** -1.5)
    normalized = (u - m) * rate
    y = normalized * weights[f"{path}.scale"] + weights[f"{path}.offset"]
    return y, Trace(axes, normalized, rate, weights[f"{path}.scale"], training, updated)


@step
def moments(u: Measured, axes: Sequence[int], path: str) -> tuple[Measured, Measured]:
    """The mean and the biased variance of u over `axes`."""
    m = u.mean(axes)
    return m, ((u - m) * (u - m)).mean(axes)


@step
def running(weights: Weights, path: str, m: Measured, v: Measured, count: int, norm: BatchNorm) -> Weights:
    """The running statistics after a batch of mean m and biased variance v."""
    seen = v * (count / (count - 1)) if norm.unbiased_variance else v
    return {
        f"{path}.mean": weights[f"{path}.mean"] * (1 - norm.update_rate) + m * norm.update_rate,
        f"{path}.variance": weights[f"{path}.variance"] * (1 - norm.update_rate) + seen * norm.update_rate,
    }


def batch_norm_gradient(dy: Measured, trace: Trace, path: str) -> tuple[Measured, Weights]:
    """The gradients of u and of scale and offset."""
    gradients = {f"{path}.scale": (dy * trace.normalized).sum(trace.axes), f"{path}.offset": dy.sum(trace.axes)}
    dn = dy * trace.scale
    if trace.training:  # the batch's own mean and variance move with u
        spread = trace.normalized * (dn * trace.normalized).mean(trace.axes)
        dn = dn - dn.mean(trace.axes) - spread
    return dn * trace.rate, gradients


def zeroed(gradient: Measured) -> Measured:
    """The gradient of an inert parameter: exactly zero, judged by the size of what cancelled."""
    return Measured(np.zeros_like(gradient.value), gradient.magnitude, gradient.margin)
