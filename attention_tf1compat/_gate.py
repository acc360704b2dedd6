"""Gates and activations."""

from __future__ import annotations

import tensorflow as tf

from parity.spec import Gate


def apply_gate(u: tf.Tensor, gate: Gate) -> tf.Tensor:
    """gate(u), element by element."""
    if gate.kind == "sigmoid":
        return tf.sigmoid(u)
    if gate.kind == "hard_sigmoid":
        return tf.clip_by_value(gate.slope * u + gate.offset, 0, 1)
    return u


def apply_activation(u: tf.Tensor, activation: str) -> tf.Tensor:
    """activation(u), element by element."""
    if activation == "relu":
        return tf.nn.relu(u)
    if activation == "silu":
        # Not tf.nn.silu: it registers its gradient in the process, so that an imported MetaGraph would have none.
        return u * tf.sigmoid(u)
    if activation == "hard_swish":
        return u * apply_gate(u, Gate("hard_sigmoid"))
    return u
