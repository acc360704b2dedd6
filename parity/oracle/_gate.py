"""Gates and activations with their derivatives."""

from __future__ import annotations

import numpy as np

from parity.oracle._measured import Array, Measured
from parity.spec import Gate


def apply_gate(u: Measured, gate: Gate) -> tuple[Measured, Measured]:
    """gate(u) and gate'(u), element by element."""
    if gate.kind == "sigmoid":
        return u.apply(sigmoid, _sigmoid_1), u.apply(_sigmoid_1, _sigmoid_2)
    if gate.kind == "hard_sigmoid":
        u = u.away_from(-gate.offset / gate.slope, (1 - gate.offset) / gate.slope)

        def ramp(u: Array) -> Array:
            return gate.slope * u + gate.offset

        def inside(u: Array) -> Array:
            return gate.slope * ((ramp(u) > 0) & (ramp(u) < 1))

        return u.apply(lambda u: np.clip(ramp(u), 0, 1), inside), u.apply(inside, np.zeros_like)
    return u, u.apply(np.ones_like, np.zeros_like)


def apply_activation(u: Measured, activation: str) -> tuple[Measured, Measured]:
    """activation(u) and activation'(u), element by element."""
    if activation == "relu":
        u = u.away_from(0)
        return u.apply(lambda u: np.maximum(u, 0), _step), u.apply(_step, np.zeros_like)
    if activation == "silu":
        return u.apply(lambda u: u * sigmoid(u), _silu_1), u.apply(_silu_1, _silu_2)
    if activation == "hard_swish":
        u = u.away_from(-3, 3)
        return u.apply(_hard_swish, _hard_swish_1), u.apply(_hard_swish_1, lambda u: (np.abs(u) < 3) / 3)
    return u, u.apply(np.ones_like, np.zeros_like)


def sigmoid(u: Array) -> Array:
    """1 / (1 + exp(-u)), without overflow."""
    e = np.exp(-np.abs(u))
    return np.where(u >= 0, 1, e) / (1 + e)


def _sigmoid_1(u: Array) -> Array:
    return sigmoid(u) * sigmoid(-u)


def _sigmoid_2(u: Array) -> Array:
    return _sigmoid_1(u) * (1 - 2 * sigmoid(u))


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
