"""Attention pooling along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from attention_keras._block import pointwise, softmax, weighed
from attention_keras.layers._block import Block
from parity.spec import AttentionPoolingOptions


@keras.saving.register_keras_serializable(package="attention_keras")
class AttentionPooling(Block):
    """Attention pooling along one axis (Lin et al., "A Structured Self-Attentive Sentence Embedding", ICLR 2017,
    equations 5 to 7, with one row of attention and a linear score; every position of the other axes is pooled alone).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, and one spatial axis i of size S_i::

        u = w . x + b at each position    (N, S1..Sd)
        a = softmax of u along i          (N, S1..Sd)
        y = sum of a * x along i          the shape of x without S_i

    The axis is gone from y: with d = 1 it has shape (N, C). A shift of u changes no softmax, so b moves nothing and its
    gradient is zero; trained weights have one nevertheless. The S_i may be unknown (None) when the model is made.

    Args:
        axis: i by its name: "w"; "h" or "w"; "d", "h" or "w". None for the first.
        bias: whether b exists.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        kwargs: of every Keras layer: name, dtype, trainable.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> AttentionPooling(axis="h", data_format="channels_last")(keras.Input((5, 7, 24))).shape
        (None, 7, 24)
    """

    def __init__(
        self,
        *,
        axis: str | None = None,
        bias: bool = True,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        options = AttentionPoolingOptions(axis=axis, bias=bias)
        super().__init__(options, data_format=data_format, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        spec = self.spec
        self.axis = spec.pooled_axis(self.data_format)
        self.score = pointwise(1, spec.spatial_dims, self.data_format, use_bias=spec.bias, **self.named("score"))
        self.score.build(input_shape)

    def call(self, x: Any) -> Any:
        """y, of the shape of x without the axis."""
        self.check_input(x)
        u = ops.expand_dims(ops.squeeze(self.score(x), -1), self.channel_axis)
        a = softmax(u, self.axis)
        return weighed(x, a, self.axis)
