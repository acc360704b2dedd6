"""Plain network: u_i = a_i(activation(norm_i(K_i * u_(i-1) + b_i)));  y = softmax(W z + b), z the last u, flat or its
mean.
"""

from __future__ import annotations

from types import SimpleNamespace

from parity.oracle._gate import activation
from parity.oracle._linear import Weights, dense
from parity.oracle._map import mean
from parity.oracle._measured import Measured
from parity.oracle.networks._parts import (
    class_probabilities,
    convolved,
    convolved_as_tensorflow,
    inside,
    normed,
    positions_first,
)
from parity.spec import PlainNetworkSpec, spatial_axes


def forward(spec: PlainNetworkSpec, weights: Weights, x: Measured, training: bool) -> tuple[Measured, SimpleNamespace]:
    """y, the updated statistics, and the outputs of the layers."""
    t = SimpleNamespace(updated={}, layers={})
    convolution = convolved_as_tensorflow if spec.padding == "tensorflow" else convolved
    u = x
    for number, (stride, attention) in enumerate(zip(spec.strides, spec.attention, strict=True), 1):
        u = t.layers[f"conv{number}"] = convolution(u, weights, f"conv{number}", stride)
        if spec.norm:
            u, updated = normed(u, weights, f"norm{number}", spec.norm, training)
            t.updated |= updated
        u = activation(u, spec.activation, f"conv{number}")
        if attention:
            u, updated = inside(f"attention{number}", attention, weights, u, training)
            t.updated |= updated
            t.layers[f"attention{number}"] = u
    if spec.ends_in_map:
        axes = spatial_axes(u.value.ndim - 2, "channels_first")  # the last block may take one away
        u = positions_first(u, "head") if spec.head == "flatten" else mean(u, axes, "head")
    y = dense(u, weights, "head")
    return (class_probabilities(y, "head") if spec.output == "softmax" else y), t
