"""Attention pooling along one axis: u = w . x + b;  a = softmax of u along i;  y = sum of a * x along i."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from parity.oracle._linear import Weights, pointwise, pointwise_gradient
from parity.oracle._map import attend, summed
from parity.oracle._measured import Measured
from parity.oracle._softmax import softmax, softmax_gradient
from parity.spec import AttentionPoolingSpec


def forward(
    spec: AttentionPoolingSpec, weights: Weights, x: Measured, training: bool
) -> tuple[Measured, SimpleNamespace]:
    """y, and what the gradient needs."""
    axis = spec.pooled_axis("channels_first")
    a = softmax(pointwise(x, weights, "score"), axis)
    return summed(attend(x, [a]), (axis,)), SimpleNamespace(axis=axis, x=x, a=a, updated={})


def gradient(
    spec: AttentionPoolingSpec, weights: Weights, t: SimpleNamespace, dy: Measured
) -> tuple[Measured, Weights]:
    """The gradients of x and of the weights of <dy, y>."""
    everywhere = dy.move(lambda array: np.expand_dims(array, t.axis))
    da = (everywhere * t.x).sum((1,), keepdims=True)
    du = softmax_gradient(da, t.a, t.axis)
    dx, gradients = pointwise_gradient(du, t.x, weights, "score")
    return dx + everywhere * t.a, gradients
