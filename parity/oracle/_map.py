"""What is taken from a feature map, and what is done to it in the end."""

from __future__ import annotations

from collections.abc import Sequence

from parity.oracle._measured import Measured, join
from parity.oracle._steps import step


@step
def mean(x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """The mean of x over `axes`."""
    return x.mean(axes)


@step
def maximum(x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """The maximum of x over `axes`; tied maxima share the gradient evenly."""
    return x.max(axes)


@step
def summed(x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """The sum of x over `axes`."""
    return x.sum(axes)


@step
def joined(parts: Sequence[Measured], axis: int, path: str = "") -> Measured:
    """The parts one after another along `axis`."""
    return join(parts, axis)


@step
def attend(x: Measured, maps: Sequence[Measured], path: str = "") -> Measured:
    """x * m1 * m2 * ..., each map broadcast along the axes in which it has size 1."""
    for m in maps:
        x = x * m
    return x


def spread(s: Measured, dims: int) -> Measured:
    """(N, C) to (N, C, 1, ..), with `dims` more axes."""
    return s[(..., *(None,) * dims)]
