"""The softmax and its derivative."""

from __future__ import annotations

import numpy as np

from parity.oracle._measured import Measured
from parity.oracle._steps import step


@step
def softmax(u: Measured, axis: int, path: str = "") -> Measured:
    """exp(u) / sum exp(u) along `axis`."""
    # A shift changes nothing, and so neither which element is the largest, nor its gradient: no comparison is close.
    largest = u.value.argmax(axis, keepdims=True)
    top = u.move(lambda array: np.take_along_axis(array, largest, axis)).detached()
    e = (u - top).apply(np.exp, np.exp)
    return e * e.sum((axis,), keepdims=True).apply(np.reciprocal, lambda total: -(total**-2.0))


def softmax_gradient(da: Measured, a: Measured, axis: int) -> Measured:
    """The gradient of u, given that of a = softmax(u)."""
    return a * (da - (a * da).sum((axis,), keepdims=True))
