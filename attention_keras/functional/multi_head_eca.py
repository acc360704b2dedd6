"""Efficient channel attention with self-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import layers, ops

from attention_keras._block import scale as gated
from attention_keras._maps import channels_back, channels_last
from attention_keras._shown import Layers, field, gate_of
from attention_keras.functional._block import Block
from attention_keras.functional._self_attention import self_attention, shown_attention
from parity.spec import Gate, MultiHeadECAOptions, MultiHeadECASpec

LINE = ("scale", "offset")  # of a rescaling


def multi_head_eca(
    x: Any,
    *,
    kernel_size: int | None = 3,
    num_heads: int = 4,
    attention_bias: bool = True,
    scale: float = 2.0,
    offset: float = 1.0,
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    data_format: str | None = None,
    dtype: Any = None,
    name: str | None = None,
    spec: MultiHeadECASpec | None = None,
) -> Any:
    """Efficient channel attention (Wang et al., "ECA-Net", CVPR 2020, equations 5 to 8), then multi-head self-attention
    over positions (Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.2).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, a kernel w of k taps, and H heads of
    D = C / H channels::

        z = mean_S x                                         (N, C)
        s_c = gate(sum_j w_j z_(c + j - k // 2))             (N, C)
        t = x * s, one row a position                        (N, T, C)      T = S1 .. Sd
        q, k, v = Wq t + bq, Wk t + bk, Wv t + bv            (N, H, T, D)   head h: channels h D to h D + D - 1
        u = Wo [softmax(q k^T / sqrt(D)) v of each head] + bo     (N, C, S1..Sd)
        y = scale * u + offset                               (N, C, S1..Sd)

    Beyond the first and last channel there are zeros.

    Args:
        x: a Keras tensor.
        kernel_size: k, odd; None for the rule of `eca` with gamma=2 and beta=1.
        num_heads: H, which divides C.
        attention_bias: whether bq, bk, bv and bo exist.
        scale: a number, no parameter.
        offset: likewise.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_conv``, ``<name>_attention_query``; None for a new one.
        spec: a `parity.spec.MultiHeadECASpec` instead of the options above.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an option outside its domain, or a spec beside options. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> multi_head_eca(keras.Input((5, 7, 16)), num_heads=4, data_format="channels_last").shape
        (None, 5, 7, 16)
    """
    options = MultiHeadECAOptions(
        kernel_size=kernel_size,
        num_heads=num_heads,
        attention_bias=attention_bias,
        scale=scale,
        offset=offset,
        gate=gate,
    )
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec
    conv = layers.Conv1D(
        1, spec.kernel_size, padding="same", data_format="channels_last", use_bias=False, **block.named("conv")
    )
    rescale = layers.Rescaling(block.number(spec.scale), block.number(spec.offset), **block.named("rescale"))

    x = block.cast(x)
    z = ops.mean(x, block.spatial_axes)
    s = block.gate("gate", spec.gate)(ops.squeeze(conv(ops.expand_dims(z, -1)), -1))
    u = channels_last(gated(x, ops.expand_dims(s, block.spatial_axes)), block.data_format)
    return rescale(channels_back(self_attention(u, block), block.data_format))


def shown(layers: Layers) -> dict[str, Any]:
    """What the configuration of a block's layers shows of its spec; None where it does not."""
    size, scale, offset = field(layers, "conv", "kernel_size"), *(field(layers, "rescale", name) for name in LINE)
    return {
        "channels": field(layers, "attention.query", "units"),
        "kernel_size": size[0] if size else None,
        "scale": None if scale is None else float(scale),
        "offset": None if offset is None else float(offset),
        "gates": [gate_of(layers, "gate", "conv")],
    } | shown_attention(layers)
