"""Multi-head self-attention over the positions of a map, as a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import layers, ops

from attention_keras._self_attention import attend, merge, split
from attention_keras.layers._block import sublayer


class SelfAttention(layers.Layer):
    """Wo [softmax(q k^T / sqrt(D)) v of each head] + bo over the positions of a map (N, S1..Sd, C), of its shape."""

    def __init__(self, num_heads: int, bias: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.bias = bias

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights."""
        channels: Any = input_shape[-1]
        self.query = layers.Dense(channels, use_bias=self.bias, **sublayer(self, "query"))
        self.key = layers.Dense(channels, use_bias=self.bias, **sublayer(self, "key"))
        self.value = layers.Dense(channels, use_bias=self.bias, **sublayer(self, "value"))
        self.last = layers.Dense(channels, use_bias=self.bias, **sublayer(self, "output"))
        for layer in (self.query, self.key, self.value, self.last):
            layer.build(tuple(input_shape))

    def call(self, u: Any) -> Any:
        """y, of the shape of u."""
        q, k, v = split(self.query(u), self.num_heads), self.heads(self.key(u)), self.heads(self.value(u))
        return self.last(merge(attend(q, k, v)))

    @property
    def output(self) -> Any:
        """The last projection, as its path says; of other layers, Keras means by this what a functional graph has."""
        return self.last

    def heads(self, z: Any) -> Any:
        """(N, S1..Sd, C) to (N, T, H, D)."""
        batch, *sizes, channels = ops.shape(z)
        return ops.reshape(z, (batch, math.prod(sizes), self.num_heads, channels // self.num_heads))
