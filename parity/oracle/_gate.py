"""Gates and activations with their derivatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parity.oracle._measured import Array, Measured
from parity.oracle._steps import step
from parity.spec import Gate


@step
def gate(u: Measured, how: Gate, path: str = "") -> Measured:
    """The gate of u, element by element."""
    if how.kind == "sigmoid":
        return u.apply(sigmoid, _sigmoid_1)
    if how.kind == "hard_sigmoid":
        return _from_corners(u, how).apply(lambda u: np.clip(_ramp(u, how), 0, 1), lambda u: _inside(u, how))
    return u


def gate_derivative(u: Measured, how: Gate) -> Measured:
    """The derivative of the gate at u."""
    if how.kind == "sigmoid":
        slope, s = u.apply(_sigmoid_1, _sigmoid_2), sigmoid(u.value)
        # Every framework has it as s (1 - s): near 1, what s was rounded by is more than what u was.
        return replace(slope, magnitude=np.maximum(slope.magnitude, s * np.abs(1 - 2 * s)))
    if how.kind == "hard_sigmoid":
        return _from_corners(u, how).apply(lambda u: _inside(u, how), np.zeros_like)
    return u.apply(np.ones_like, np.zeros_like)


@step
def activation(u: Measured, how: str, path: str = "") -> Measured:
    """The activation of u, element by element."""
    if how == "relu":
        return u.away_from(0).apply(lambda u: np.maximum(u, 0), _step)
    if how == "silu":
        return u.apply(lambda u: u * sigmoid(u), _silu_1)
    if how == "hard_swish":
        return u.away_from(-3, 3).apply(_hard_swish, _hard_swish_1)
    return u


def activation_derivative(u: Measured, how: str) -> Measured:
    """The derivative of the activation at u."""
    if how == "relu":
        return u.away_from(0).apply(_step, np.zeros_like)
    if how == "silu":
        return u.apply(_silu_1, _silu_2)
    if how == "hard_swish":
        return u.away_from(-3, 3).apply(_hard_swish_1, lambda u: (np.abs(u) < 3) / 3)
    return u.apply(np.ones_like, np.zeros_like)


def sigmoid(u: Array) -> Array:
    """1 / (1 + exp(-u)), without overflow."""
    e = np.exp(-np.abs(u))
    return np.where(u >= 0, 1, e) / (1 + e)


def _sigmoid_1(u: Array) -> Array:
    return sigmoid(u) * sigmoid(-u)


def _sigmoid_2(u: Array) -> Array:
    return _sigmoid_1(u) * (1 - 2 * sigmoid(u))


def _from_corners(u: Measured, how: Gate) -> Measured:
    return u.away_from(-how.offset / how.slope, (1 - how.offset) / how.slope)


def _ramp(u: Array, how: Gate) -> Array:
    return how.slope * u + how.offset


def _inside(u: Array, how: Gate) -> Array:
    return how.slope * ((_ramp(u, how) > 0) & (_ramp(u, how) < 1))


def _step(u: Array) -> Array:
    return (u > 0).astype(np.float64)


def _silu_1(u: Array) -> Array:
    return sigmoid(u) * (1 + u * sigmoid(-u))


def _silu_2(u: Array) -> Array:
    return _sigmoid_1(u) * (2 + u * (1 - 2 * sigmoid(u)))


def _hard_swish(u: Array) -> Array:
    return u * np.clip(u / 6 + 0.5, 0, 1)


def _hard_swish_1(u: Array) -> Array:
    return np.clip(u / 6 + 0.5, 0, 1) + u / 6 * (np.abs(u) < 3)
