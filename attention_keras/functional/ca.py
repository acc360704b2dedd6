"""Coordinate attention."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from keras import layers, ops

from attention_keras._block import scale
from attention_keras._norm import BatchNormalization
from attention_keras._shown import Layers, activation_of, field, gate_of, norm_of
from attention_keras.functional._block import Block
from parity.spec import AXIS_NAMES, BatchNorm, CoordinateAttentionOptions, CoordinateAttentionSpec, Gate


def coordinate_attention(
    x: Any,
    *,
    reduction: int = 32,
    hidden_channels: int | None = None,
    bias: bool = True,
    head_bias: bool = True,
    activation: str = "hard_swish",
    norm: BatchNorm | Mapping[str, Any] | None = BatchNorm(),
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    residual: bool = False,
    data_format: str | None = None,
    synchronized: bool = False,
    dtype: Any = None,
    name: str | None = None,
    spec: CoordinateAttentionSpec | None = None,
) -> Any:
    """Coordinate attention (Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
    equations 4 to 9).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, and h hidden channels::

        z_i = mean of x over the spatial axes but i  (N, S_i, C)           for each spatial axis i
        f = activation(norm(W z + b))                (N, S1 + .. + Sd, h)  z: the z_i joined along length, in axis order
        g_i = gate(W_i f_i + b_i)                    (N, S_i, C)           f_i: the part of f that came from z_i
        y = x * g_1 * .. * g_d                       the shape of x        each g_i the same along the other axes

    The norm sees N (S1 + .. + Sd) values per channel. With d = 1 there is no other axis: a channel gate for each
    position. The S_i may be unknown (None) when the model is made.

    Args:
        x: a Keras tensor.
        reduction: h = max(8, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        bias: whether b exists.
        head_bias: whether the b_i exist.
        activation: "relu", "silu", "hard_swish" or "identity".
        norm: a `parity.spec.BatchNorm` (or its JSON form), or None.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        residual: whether x is added to y.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        synchronized: whether replicas that train together share the norm's statistics, as Keras' own
            `BatchNormalization` has it. Not part of the spec: alone, a replica computes the same.
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_reduce``, ``<name>_expand_h``; None for a new one.
        spec: a `parity.spec.CoordinateAttentionSpec` instead of the options above.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an option outside its domain, or a spec beside options. A `ValueError`.
        InputError: for a map of another rank or number of channels, and from the model for one value per channel before
            the norm in training mode. A `ValueError`.

    Example:
        >>> import keras
        >>> coordinate_attention(keras.Input((None, None, 24)), reduction=4, data_format="channels_last").shape
        (None, None, None, 24)
    """
    options = CoordinateAttentionOptions(
        reduction=reduction,
        hidden_channels=hidden_channels,
        bias=bias,
        head_bias=head_bias,
        activation=activation,
        norm=norm,
        gate=gate,
        residual=residual,
    )
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec
    reduce = layers.Dense(spec.hidden_channels, use_bias=spec.bias, **block.named("reduce"))
    gated = block.gate("gate", spec.gate)

    x = block.cast(x)
    pools = [pool(x, axis, block) for axis in block.spatial_axes]
    f = reduce(ops.concatenate(pools, axis=1))
    shared = {"synchronized": synchronized} | block.named("norm")
    f = BatchNormalization(spec.norm, **shared)(f) if spec.norm else f
    f = block.activation("activation", spec.activation)(f)
    y = x
    for axis, axis_name, part in zip(block.spatial_axes, spec.axis_names, split(f, pools), strict=True):
        expand = layers.Dense(spec.channels, use_bias=spec.head_bias, **block.named(f"expand.{axis_name}"))
        y = scale(y, place(gated(expand(part)), axis, block))
    return layers.Add(**block.named("residual"))([y, x]) if spec.residual else y


def pool(x: Any, axis: int, block: Block) -> Any:
    """The mean of x over the spatial axes but `axis`, as (N, S_i, C)."""
    others = [other for other in block.spatial_axes if other != axis]
    z = ops.mean(x, others) if others else x
    return ops.moveaxis(z, 1, 2) if block.channel_axis == 1 else z


def split(f: Any, pools: list[Any]) -> list[Any]:
    """f cut along its length into parts as long as the `pools`."""
    lengths = [z.shape[1] for z in pools]
    if len(pools) == 1:
        return [f]
    if None not in lengths:
        return ops.split(f, list(accumulate(lengths[:-1])), axis=1)
    # A slice of unknown length would silently keep everything: it is None while the graph is drawn. So each part is
    # gathered by its positions, which the running graph counts: ones as many as it is long, of an empty batch, too.
    ones = [ops.prod(ops.ones_like(z[:, :, :1], dtype="int32"), axis=(0, 2)) for z in pools]
    ends = accumulate(ops.sum(one) for one in ones)
    return [
        ops.take(f, end - ops.flip(ops.cumsum(one, axis=0), axis=0), axis=1)
        for one, end in zip(ones, ends, strict=True)
    ]


def place(g: Any, axis: int, block: Block) -> Any:
    """g of shape (N, S_i, C) with axes of size one put in, so that it multiplies a map along its `axis`."""
    others = [other for other in block.spatial_axes if other != axis]
    g = ops.moveaxis(g, 2, 1) if block.channel_axis == 1 else g
    return ops.expand_dims(g, others) if others else g


def shown(layers: Layers) -> dict[str, Any]:
    """What the configuration of a block's layers shows of its spec; None where it does not."""
    heads = layers.among(f"expand.{axis}" for axis in AXIS_NAMES[max(AXIS_NAMES)])
    found = {
        "channels": field(layers, "expand.w", "units"),
        "spatial_dims": len(heads) or None,
        "hidden_channels": field(layers, "reduce", "units"),
        "bias": field(layers, "reduce", "use_bias"),
        "head_bias": field(layers, "expand.w", "use_bias"),
        "activation": activation_of(layers, "activation"),
        "residual": "residual" in layers or None,  # a sum of another name may be there
        "gates": [gate_of(layers, "gate"), *(gate_of(layers, "gate", path) for path in heads)],
    }
    return found | ({"norm": norm_of(layers, "norm")} if "reduce" in layers else {})
