"""Efficient channel attention with self-attention: y = scale * attention(eca(x)) + offset, over positions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from parity.oracle import eca
from parity.oracle._linear import Weights
from parity.oracle._measured import Measured
from parity.oracle._self_attention import as_map, self_attention, self_attention_gradient, tokens
from parity.oracle._steps import step
from parity.spec import MultiHeadECASpec


def forward(spec: MultiHeadECASpec, weights: Weights, x: Measured, training: bool) -> tuple[Measured, SimpleNamespace]:
    """y, and what the gradient needs."""
    gated, of_eca = eca.forward(spec.eca, weights, x, training)
    z, attention = self_attention(tokens(gated), weights, spec.num_heads)
    u = as_map(z, x.value.shape[2:])
    return rescaled(u, spec.scale, spec.offset), SimpleNamespace(eca=of_eca, attention=attention, updated={})


def gradient(spec: MultiHeadECASpec, weights: Weights, t: SimpleNamespace, dy: Measured) -> tuple[Measured, Weights]:
    """The gradients of x and of the weights of <dy, y>."""
    dt, of_attention = self_attention_gradient(tokens(dy * spec.scale), weights, t.attention)
    dx, of_eca = eca.gradient(spec.eca, weights, t.eca, as_map(dt, dy.value.shape[2:]))
    return dx, of_eca | of_attention


@step
def rescaled(u: Measured, scale: float, offset: float) -> Measured:
    """scale * u + offset."""
    return u * scale + u.apply(lambda array: np.full_like(array, offset), np.zeros_like)
