"""Multi-head self-attention over the positions of a map, made of stock layers."""

from __future__ import annotations

from typing import Any

from keras import layers

from attention_keras._self_attention import attend, merge, split
from attention_keras._shown import Layers, bias_of, field
from attention_keras.functional._block import Block


def self_attention(u: Any, block: Block) -> Any:
    """Wo [softmax(q k^T / sqrt(D)) v of each head] + bo over the positions of a map (N, S1..Sd, C), of its shape."""
    spec, channels = block.spec, u.shape[-1]
    query = layers.Dense(channels, use_bias=spec.attention_bias, **block.named("attention.query"))
    key = layers.Dense(channels, use_bias=spec.attention_bias, **block.named("attention.key"))
    value = layers.Dense(channels, use_bias=spec.attention_bias, **block.named("attention.value"))
    output = layers.Dense(channels, use_bias=spec.attention_bias, **block.named("attention.output"))
    heads = layers.Reshape((-1, spec.num_heads, channels // spec.num_heads), **block.named("attention.heads"))

    q, k, v = split(query(u), spec.num_heads), heads(key(u)), heads(value(u))
    return output(merge(attend(q, k, v)))


def shown_attention(layers: Layers) -> dict[str, Any]:
    """What the configuration of the attention's layers shows of a block's spec; None where it does not."""
    heads = field(layers, "attention.heads", "target_shape")
    return {"num_heads": heads[1] if heads else None, "attention_bias": bias_of(layers, "attention.query")}
