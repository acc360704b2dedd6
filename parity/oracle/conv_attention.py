"""Convolution with self-attention: u = K * x + b;  y = Wo [softmax(q k^T / sqrt(D)) v of each head] + bo over the
positions of u.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from parity.oracle._linear import Weights, convolve, convolve_gradient
from parity.oracle._measured import Measured
from parity.oracle._self_attention import as_map, self_attention, self_attention_gradient, tokens
from parity.spec import ConvolutionAttentionSpec


def forward(
    spec: ConvolutionAttentionSpec, weights: Weights, x: Measured, training: bool
) -> tuple[Measured, SimpleNamespace]:
    """y, and what the gradient needs."""
    u = convolve(x, weights, "conv", **_window(spec))
    z, attention = self_attention(tokens(u), weights, spec.num_heads)
    sizes = u.value.shape[2:]
    return as_map(z, sizes), SimpleNamespace(x=x, sizes=sizes, attention=attention, updated={})


def gradient(
    spec: ConvolutionAttentionSpec, weights: Weights, t: SimpleNamespace, dy: Measured
) -> tuple[Measured, Weights]:
    """The gradients of x and of the weights of <dy, y>."""
    dt, of_attention = self_attention_gradient(tokens(dy), weights, t.attention)
    dx, of_convolution = convolve_gradient(as_map(dt, t.sizes), t.x, weights, "conv", **_window(spec))
    return dx, of_convolution | of_attention


def _window(spec: ConvolutionAttentionSpec) -> dict[str, Any]:
    """How the kernel goes over the map."""
    dims = spec.spatial_dims
    return {
        "strides": (spec.stride,) * dims,
        "padding": ((spec.padding, spec.padding),) * dims,
        "dilation": (spec.dilation,) * dims,
        "groups": spec.groups,
    }
