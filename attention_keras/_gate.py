"""Gates and activations."""

from __future__ import annotations

from typing import Any

import keras
from keras import activations, ops

from parity.spec import ACTIVATIONS, Gate

# What Keras calls the activations of the contract.
KERAS_NAMES = {"relu": "relu", "silu": "silu", "hard_swish": "hard_silu", "identity": "linear"}
assert KERAS_NAMES.keys() == set(ACTIVATIONS)


def apply_gate(u: Any, gate: Gate) -> Any:
    """gate(u), element by element."""
    if gate.kind == "sigmoid":
        return ops.sigmoid(u)
    if gate.kind == "hard_sigmoid":
        return ops.clip(number(gate.slope, u) * u + number(gate.offset, u), 0, 1)
    return u


def number(value: float, u: Any) -> Any:
    """`value` as PyTorch's ONNX exporter keeps all its digits in float64: plain floats it rounds to float32."""
    is_double = keras.backend.standardize_dtype(u.dtype) == "float64"
    return ops.convert_to_tensor(value, dtype="float64") if is_double else value


def apply_activation(u: Any, activation: str) -> Any:
    """activation(u), element by element."""
    if activation == "hard_swish":
        # Not Keras' hard_silu: PyTorch's kernel for GPUs takes a float32 sixth in float64 too.
        return u * apply_gate(u, Gate("hard_sigmoid"))
    return activations.get(KERAS_NAMES[activation])(u)
