"""Float64 arithmetic that remembers how each array was made, so that gradients need no derivation.

The hand-derived gradients judge; a tape gives those of a computation that nobody derived by hand: one with a mistake in
it (`parity.mistakes`). Of a computation without one both give the same.

>>> x = Taped(np.array([3.0, -1.0]))
>>> (gradient,) = gradients_of((x * x).sum((0,)), np.array(1.0), [x])
>>> gradient.tolist()
[6.0, -2.0]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parity.oracle._measured import Array, Measured, total

Pull = Callable[[Array], Array]  # from the gradient of what was made to that of what it was made of


class Taped(Measured):
    """A float64 array with what it was made of. It carries no magnitude, and its margin is that of the one comparison
    that made it, relative to the largest number among those compared.

    Args:
        value: the numbers.
        parents: each array that it was made of, and how a gradient passes on to it.
        margin: of the comparison, if it was made by one.
    """

    parents: tuple[tuple[Taped, Pull], ...]

    def __init__(self, value: Array, *parents: tuple[Measured, Pull], margin: float = math.inf) -> None:
        super().__init__(value, value, margin)
        object.__setattr__(self, "parents", parents)

    def __add__(self, other: Measured) -> Taped:
        return Taped(self.value + other.value, (self, _summed_to(self)), (other, _summed_to(other)))

    def __sub__(self, other: Measured) -> Taped:
        return self + other * -1.0

    def __mul__(self, other: Measured | float) -> Taped:
        if not isinstance(other, Measured):
            return Taped(self.value * other, (self, lambda g: g * other))
        a, b = _summed_to(self), _summed_to(other)
        one, two = self.value, other.value
        return Taped(one * two, (self, lambda g: a(g * two)), (other, lambda g: b(g * one)))

    def move(self, function: Callable[[Array], Array]) -> Taped:
        shape, size = self.value.shape, self.value.size

        def back(g: Array) -> Array:
            # `function` only moves elements about: on their numbers it tells where each went, 0 being a padding.
            went = function(np.arange(1, size + 1).reshape(shape))
            return np.bincount(went.ravel(), g.ravel(), size + 1)[1:].reshape(shape)

        return Taped(function(self.value), (self, back))

    def sum(self, axes: Sequence[int], keepdims: bool = False) -> Taped:
        axes, shape = tuple(axes), self.value.shape
        value = total(self.value, axes, keepdims)
        return Taped(value, (self, lambda g: np.broadcast_to(g if keepdims else np.expand_dims(g, axes), shape)))

    def max(self, axes: Sequence[int]) -> Taped:
        axes = tuple(axes)
        top = self.value.max(axes, keepdims=True)
        # Exact ties are none that rounding could turn: zeros behind a ReLU.
        runner_up = np.where(self.value == top, -np.inf, self.value).max(axes, keepdims=True)
        pull = (self, lambda g: np.expand_dims(g, axes) * self.share(axes))
        return Taped(np.squeeze(top, axes), pull, margin=_relative(top - runner_up, self.value))

    def apply(self, function: Callable[[Array], Array], derivative: Callable[[Array], Array]) -> Taped:
        return Taped(function(self.value), (self, lambda g: g * derivative(self.value)))

    def away_from(self, *kinks: float) -> Taped:
        nearest = min(_relative(self.value - kink, self.value) for kink in kinks)
        return Taped(self.value, (self, lambda g: g), margin=nearest)

    def contract(self, subscripts: str, other: Measured) -> Taped:
        terms, result = subscripts.split("->")
        one, two = terms.split(",")
        a, b = self.value, other.value
        return Taped(
            np.einsum(subscripts, a, b, optimize=True),
            (self, lambda g: np.einsum(f"{result},{two}->{one}", g, b, optimize=True)),
            (other, lambda g: np.einsum(f"{result},{one}->{two}", g, a, optimize=True)),
        )

    def join(self, others: Sequence[Measured], axis: int) -> Taped:
        parts = [self, *others]
        ends = np.cumsum([part.value.shape[axis] for part in parts])
        pulls = [_taken(axis, end - part.value.shape[axis], end) for part, end in zip(parts, ends, strict=True)]
        return Taped(np.concatenate([part.value for part in parts], axis), *zip(parts, pulls, strict=True))

    def detached(self) -> Taped:
        return Taped(self.value)

    def pulled(self, change: Pull) -> Taped:
        return Taped(self.value, (self, change))


def _summed_to(operand: Measured) -> Pull:
    """The gradient of an operand that was broadcast: summed over the axes in which it was."""
    shape = operand.value.shape

    def back(g: Array) -> Array:
        lead = g.ndim - len(shape)
        axes = tuple(range(lead)) + tuple(lead + i for i, size in enumerate(shape) if g.shape[lead + i] != size)
        return g.sum(axes, keepdims=True).reshape(shape) if axes else g

    return back


def _taken(axis: int, start: int, end: int) -> Pull:
    """The gradient of a part that was joined with others."""
    return lambda g: g.take(range(start, end), axis)


def _relative(distance: Array, compared: Array) -> float:
    size = np.abs(compared).max(initial=0)
    return float(np.abs(distance).min(initial=np.inf) / size) if size else math.inf


def margin_of(y: Measured) -> float:
    """The smallest margin of all comparisons that y hangs on."""
    return min(node.margin for node in _history(y))


def gradients_of(y: Measured, dy: Array, sources: Sequence[Measured]) -> list[Array]:
    """The gradients of <dy, y> after each of the sources; zeros where y was not made of it."""
    gradients: dict[int, Array] = {id(y): dy}
    for node in reversed(_history(y)):
        for parent, pull in node.parents:
            if id(node) in gradients and isinstance(parent, Taped):
                passed = pull(gradients[id(node)])
                gradients[id(parent)] = gradients[id(parent)] + passed if id(parent) in gradients else passed
    return [gradients.get(id(source), np.zeros_like(source.value)) for source in sources]


def _history(y: Any) -> list[Taped]:
    """y and all that it was made of, each after everything that it was made of."""
    order: dict[int, Taped] = {}
    rest: list[tuple[Taped, bool]] = [(y, False)]
    while rest:
        node, ready = rest.pop()
        if ready:
            order.setdefault(id(node), node)
        elif id(node) not in order:
            rest.append((node, True))
            rest += [(parent, False) for parent, _ in node.parents if isinstance(parent, Taped)]
    return list(order.values())
