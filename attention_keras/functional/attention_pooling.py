"""Attention pooling along one axis."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from attention_keras._block import pointwise, weighed
from attention_keras._shown import Layers, bias_of, field
from attention_keras.functional._block import Block
from parity.spec import AXIS_NAMES, AttentionPoolingOptions, AttentionPoolingSpec

NAMES = AXIS_NAMES[max(AXIS_NAMES)]


def attention_pooling(
    x: Any,
    *,
    axis: str | None = None,
    bias: bool = True,
    data_format: str | None = None,
    dtype: Any = None,
    name: str | None = None,
    spec: AttentionPoolingSpec | None = None,
) -> Any:
    """Attention pooling along one axis (Lin et al., "A Structured Self-Attentive Sentence Embedding", ICLR 2017,
    equations 5 to 7, with one row of attention and a linear score; every position of the other axes is pooled alone).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, and one spatial axis i of size S_i::

        u = w . x + b at each position    (N, S1..Sd)
        a = softmax of u along i          (N, S1..Sd)
        y = sum of a * x along i          the shape of x without S_i

    The axis is gone from y: with d = 1 it has shape (N, C). A shift of u changes no softmax, so b moves nothing and its
    gradient is zero; trained weights have one nevertheless. The S_i may be unknown (None) when the model is made.

    Args:
        x: a Keras tensor.
        axis: i by its name: "w"; "h" or "w"; "d", "h" or "w". None for the first.
        bias: whether b exists.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_score``, ``<name>_softmax``; None for a new one.
        spec: a `parity.spec.AttentionPoolingSpec` instead of the options above.

    Returns:
        y, of the shape of x without the axis.

    Raises:
        SpecError: for an option outside its domain, or a spec beside options. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> attention_pooling(keras.Input((5, 7, 24)), axis="h", data_format="channels_last").shape
        (None, 7, 24)
    """
    options = AttentionPoolingOptions(axis=axis, bias=bias)
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec
    score = pointwise(1, spec.spatial_dims, block.data_format, use_bias=spec.bias, **block.named("score"))
    # Counted from the end, so that the layer's configuration tells the axis whatever the rank.
    softmax = layers.Softmax(NAMES.index(spec.axis) - len(NAMES), **block.precise("softmax"))

    x = block.cast(x)
    u = ops.squeeze(score(x), -1)
    a = ops.expand_dims(softmax(u), block.channel_axis)
    return weighed(x, a, spec.pooled_axis(block.data_format))


def shown(layers: Layers) -> dict[str, Any]:
    """What the configuration of a block's layers shows of its spec; None where it does not."""
    axis = field(layers, "softmax", "axis")
    return {
        "axis": NAMES[axis] if axis in range(-len(NAMES), 0) else None,
        "bias": bias_of(layers, "score"),
    }
