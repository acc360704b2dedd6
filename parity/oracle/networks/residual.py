"""Residual unit: f is two or three convolutions with norms, i the identity;  y = relu(f(x) + i) with the attention a in
one of five places.
"""

from __future__ import annotations

from types import SimpleNamespace

from parity.oracle._gate import activation
from parity.oracle._linear import Weights
from parity.oracle._measured import Measured
from parity.oracle.networks._parts import average_pool, convolved, inside, normed
from parity.spec import ResidualUnitSpec


def forward(spec: ResidualUnitSpec, weights: Weights, x: Measured, training: bool) -> tuple[Measured, SimpleNamespace]:
    """y, and the updated statistics."""
    t = SimpleNamespace(updated={}, layers={})

    def attend(u: Measured) -> Measured:
        y, updated = inside("attention", spec.attention, weights, u, training)
        t.updated |= updated
        return y

    f = _branch(spec, weights, attend(x) if spec.placement == "before_unit" else x, t, training)
    i = _identity(spec, weights, x, t, training)
    if spec.placement == "before_addition":
        f = attend(f)
    if spec.placement == "identity":
        i = attend(i)
    if spec.placement == "beside_identity":
        f, i = f + i, attend(i)
    y = activation(f + i, "relu")
    return (attend(y) if spec.placement == "after_addition" else y), t


def _branch(spec: ResidualUnitSpec, weights: Weights, u: Measured, t: SimpleNamespace, training: bool) -> Measured:
    count = len(spec.convolutions)
    for number, (_, _, _, stride) in enumerate(spec.convolutions, 1):
        u = convolved(u, weights, f"conv{number}", stride)
        u, updated = normed(u, weights, f"norm{number}", spec.norm, training)
        t.updated |= updated
        u = activation(u, "relu", f"norm{number}") if number < count else u
    return u


def _identity(spec: ResidualUnitSpec, weights: Weights, x: Measured, t: SimpleNamespace, training: bool) -> Measured:
    if not spec.projects:
        return x
    average = spec.shortcut == "average"
    i = average_pool(x, spec.stride, "shortcut") if average else x
    i = convolved(i, weights, "shortcut.conv", 1 if average else spec.stride)
    i, updated = normed(i, weights, "shortcut.norm", spec.norm, training)
    t.updated |= updated
    return i
