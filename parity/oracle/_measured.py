"""Float64 arithmetic that knows how much rounding it would suffer.

A `Measured` array carries beside its value a magnitude: the size of the terms that were added up to make it, so that
one unit of relative rounding anywhere upstream moves the value by about that much times the unit. Where terms cancel,
the magnitude stays and the value does not: a gradient that is zero by theory is then judged by what was cancelled.
(Running error analysis; Higham, "Accuracy and Stability of Numerical Algorithms", section 3.3.)

It also carries a margin: how near, relative to the magnitude, any comparison upstream (a maximum, the sign before a
ReLU) came to going the other way. Below a few units of rounding two correct implementations may honestly disagree
there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float64, always


@dataclass(frozen=True, eq=False)
class Measured:
    """A float64 array, its magnitude element by element, and its margin."""

    value: Array
    magnitude: Array
    margin: float = math.inf
    exact: bool = False  # given, not computed: no rounding lies before it

    def __add__(self, other: Measured) -> Measured:
        return Measured(self.value + other.value, self.magnitude + other.magnitude, _margin(self, other))

    def __sub__(self, other: Measured) -> Measured:
        return Measured(self.value - other.value, self.magnitude + other.magnitude, _margin(self, other))

    def __mul__(self, other: Measured | float) -> Measured:
        if not isinstance(other, Measured):
            return Measured(self.value * other, self.magnitude * abs(other), self.margin)
        # The first-order rule: the rounding of each factor is scaled by the other. The worse of the two counts.
        worse = np.maximum(self.magnitude * np.abs(other.value), np.abs(self.value) * other.magnitude)
        return Measured(self.value * other.value, worse, _margin(self, other))

    def __getitem__(self, key: Any) -> Measured:
        return self.move(lambda array: array[key])

    def move(self, function: Callable[[Array], Array]) -> Measured:
        """`function`, which only moves elements about, on value and magnitude alike."""
        return Measured(function(self.value), function(self.magnitude), self.margin, self.exact)

    def sum(self, axes: Sequence[int], keepdims: bool = False) -> Measured:
        """The sum over `axes`."""
        return Measured(
            total(self.value, axes, keepdims), self.magnitude.sum(tuple(axes), keepdims=keepdims), self.margin
        )

    def mean(self, axes: Sequence[int], keepdims: bool = False) -> Measured:
        """The mean over `axes`; over no axes, the array itself."""
        return self.sum(axes, keepdims) * (1 / math.prod(self.value.shape[axis] for axis in axes))

    def max(self, axes: Sequence[int]) -> Measured:
        """The maximum over `axes`."""
        axes = tuple(axes)
        top = self.value.max(axes, keepdims=True)
        won = self.value == top
        size = np.where(won, self.magnitude, 0).max(axes)
        margin = self.margin
        if not self.exact:
            runner_up = np.where(won, -np.inf, self.value).max(axes)
            margin = min(margin, _nearest(top.reshape(runner_up.shape) - runner_up, size))
        return Measured(top.reshape(size.shape), size, margin)

    def share(self, axes: Sequence[int]) -> Array:
        """Each element's share in the gradient of the maximum over `axes`: tied maxima share it evenly."""
        won = self.value == self.value.max(tuple(axes), keepdims=True)
        return won / won.sum(tuple(axes), keepdims=True)

    def apply(self, function: Callable[[Array], Array], derivative: Callable[[Array], Array]) -> Measured:
        """`function` of each element; its derivative says what becomes of the rounding before it."""
        value = function(self.value)
        carried = np.abs(derivative(self.value)) * self.magnitude
        return Measured(value, np.maximum(np.abs(value), carried), self.margin)

    def away_from(self, *kinks: float) -> Measured:
        """The same array with the margin to points where a function of it has a kink."""
        nearest = [_nearest(self.value - kink, self.magnitude) for kink in kinks]
        return Measured(self.value, self.magnitude, min(self.margin, *nearest))

    def contract(self, subscripts: str, other: Measured) -> Measured:
        """`numpy.einsum` of this array and another."""
        value = np.einsum(subscripts, self.value, other.value, optimize=True)
        # What is exact has its absolute value for a magnitude, so that the other side's errors are the larger ones.
        sides = [(np.abs(self.value), other.magnitude)] if not other.exact else []
        sides += [(self.magnitude, np.abs(other.value))] if not self.exact or not sides else []
        magnitudes = [np.einsum(subscripts, *pair, optimize=True) for pair in sides]
        return Measured(value, functools.reduce(np.maximum, magnitudes), _margin(self, other))

    def join(self, others: Sequence[Measured], axis: int) -> Measured:
        """This array and the others one after another along `axis`."""
        parts = [self, *others]
        value = np.concatenate([part.value for part in parts], axis)
        magnitude = np.concatenate([part.magnitude for part in parts], axis)
        return Measured(value, magnitude, _margin(*parts))

    def detached(self) -> Measured:
        """The same array, through which no gradient passes; here nothing is recorded."""
        return self

    def pulled(self, change: Callable[[Array], Array]) -> Measured:
        """The same array, whose gradient `change` alters on its way back; here nothing is recorded."""
        return self


def given(value: object) -> Measured:
    """A `Measured` array of input: its magnitude is its absolute value."""
    array = np.asarray(value, dtype=np.float64)
    return Measured(array, np.abs(array), exact=True)


def contract(subscripts: str, a: Measured, b: Measured) -> Measured:
    """`numpy.einsum` of two operands."""
    return a.contract(subscripts, b)


def total(array: Array, axes: Sequence[int], keepdims: bool = False) -> Array:
    """The sum over `axes`, in pairs: NumPy adds up in pairs only along the axis that is contiguous in memory, and one
    after the other it would lose more digits than a framework may.
    """
    axes = tuple(axis % array.ndim for axis in axes)
    if not axes:
        return array
    kept = tuple(axis for axis in range(array.ndim) if axis not in axes)
    shape = tuple(array.shape[axis] for axis in kept)
    rows = array.transpose(kept + axes).reshape(*shape, math.prod(array.shape[axis] for axis in axes))
    result = np.ascontiguousarray(rows).sum(-1)
    return np.expand_dims(result, axes) if keepdims else result


def join(parts: Sequence[Measured], axis: int) -> Measured:
    """The parts one after another along `axis`."""
    return parts[0].join(parts[1:], axis)


def _margin(*arrays: Measured) -> float:
    return min(array.margin for array in arrays)


def _nearest(distance: Array, magnitude: Array) -> float:
    # Where nothing was rounded (an exact zero of zeros) no comparison can go the other way.
    ratio = np.abs(distance) / np.where(magnitude > 0, magnitude, 1)
    return float(np.where(magnitude > 0, ratio, np.inf).min(initial=np.inf))
