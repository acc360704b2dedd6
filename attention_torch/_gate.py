"""Gates and activations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from parity.spec import Gate


def apply_gate(u: Tensor, gate: Gate) -> Tensor:
    """gate(u), element by element."""
    if gate.kind == "sigmoid":
        return torch.sigmoid(u)
    if gate.kind == "hard_sigmoid":
        return (number(gate.slope, u) * u + number(gate.offset, u)).clamp(0, 1)
    return u


def number(value: float, u: Tensor) -> Tensor | float:
    """`value` as the ONNX exporter keeps all its digits in float64: plain floats it rounds to float32."""
    return torch.tensor(value, dtype=u.dtype) if u.dtype == torch.float64 else value


def apply_activation(u: Tensor, activation: str) -> Tensor:
    """activation(u), element by element."""
    if activation == "relu":
        return functional.relu(u)
    if activation == "silu":
        return functional.silu(u)
    if activation == "hard_swish":
        # Not functional.hardswish: on a GPU its sixth is a float32 number in float64 too.
        return u * (u / 6 + 0.5).clamp(0, 1)
    return u
