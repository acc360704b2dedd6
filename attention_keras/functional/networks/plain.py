"""Plain network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras import layers, ops

from attention_keras._maps import channels_last, pad_symmetric, spatial_axes
from attention_keras._norm import BatchNormalization
from attention_keras._shown import Layers, activation_of, attention_of, field, norm_of, one_of, stride_of
from attention_keras.functional._block import Block
from attention_keras.functional.networks._parts import attend, convolution
from parity.spec import BatchNorm, PlainNetworkOptions, PlainNetworkSpec


def plain_network(
    x: Any,
    *,
    filters: Sequence[int] = (64, 128, 256),
    strides: Sequence[int] = (1, 2, 2),
    kernel_size: int = 3,
    conv_bias: bool = True,
    padding: str = "tensorflow",
    norm: BatchNorm | Mapping[str, Any] | None = None,
    activation: str = "identity",
    attention: str | None = "cbam",
    attention_options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
    attention_after: str = "each",
    head: str = "flatten",
    map_sizes: Sequence[int] | None = None,
    classes: int = 10,
    output: str = "softmax",
    data_format: str | None = None,
    synchronized: bool = False,
    dtype: Any = None,
    name: str | None = None,
    spec: PlainNetworkSpec | None = None,
) -> Any:
    """Plain network: convolutions one after the other, an attention block behind them, one dense layer (a network
    without shortcuts, as He et al., CVPR 2016, section 3.3, call it plain; Keras tutorials on attention build theirs
    so).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, kernels K_i of size k with F_i filters and stride
    s_i, attentions a_i, and u_0 = x::

        u_i = a_i(activation(norm_i(K_i * u_(i-1) + b_i)))    (N, F_i, S1/s_1../s_i, ..)
        z = flatten u_n                                       (N, P F_n)     over positions first, then over channels
        y = softmax(W z + b)                                  (N, classes)

    Sizes are divided rounding up. Convolutions are zero padded. The order of z is that of a channels-last map, in every
    layout: TensorFlow's. A channels-first map is transposed on its way in, once: inside, everything is channels-last.

    Args:
        x: a Keras tensor.
        filters: F_1..F_n.
        strides: s_1..s_n.
        kernel_size: k, odd.
        conv_bias: whether the b_i exist.
        padding: "tensorflow": as TensorFlow's "same", the odd one of the zeros at the end, as many as a stride needs;
            "symmetric": k // 2 zeros at both ends.
        norm: of every norm, a `parity.spec.BatchNorm` or its JSON form; None for none.
        activation: "relu", "silu", "hard_swish" or "identity".
        attention: a_i, a key of `parity.spec.SPECS`; None for none.
        attention_options: a mapping of the options of that block, or a sequence with one for each convolution; None for
            its defaults.
        attention_after: "each" convolution, or the "last" alone. A block that does not give back a map can only be
            behind the last.
        head: "flatten" as above; "mean": z = mean_S u_n, (N, F_n). Where the last block takes the positions away, z is
            what is left.
        map_sizes: S1..Sd, which "flatten" needs. Of an x of unknown sizes (None) the model checks their product alone.
        classes: of the output.
        output: "softmax", or "logits": y = W z + b.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        synchronized: whether replicas that train together share the norms' statistics, as Keras' own
            `BatchNormalization` has it. Not part of the spec: alone, a replica computes the same.
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_conv1``, ``<name>_attention1_channel_fc1``; None for a new one.
        spec: a `parity.spec.PlainNetworkSpec` instead of the options above.

    Returns:
        y, of shape (N, classes).

    Raises:
        SpecError: for an option outside its domain, or a spec beside options. A `ValueError`.
        InputError: for a map of another rank or number of channels, or of another size than the head's weights are for,
            and from the model for one value per channel before a norm in training mode. A `ValueError`.

    Example:
        >>> import keras
        >>> options = {"filters": (8, 16), "strides": (1, 2), "attention": "se", "map_sizes": (5, 7)}
        >>> plain_network(keras.Input((5, 7, 3)), **options, data_format="channels_last").shape
        (None, 10)
    """
    options = PlainNetworkOptions(
        filters=filters,
        strides=strides,
        kernel_size=kernel_size,
        conv_bias=conv_bias,
        padding=padding,
        norm=norm,
        activation=activation,
        attention=attention,
        attention_options=attention_options,
        attention_after=attention_after,
        head=head,
        map_sizes=map_sizes,
        classes=classes,
        output=output,
    )
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec

    u = channels_last(block.cast(x), block.data_format)
    for number, outputs in enumerate(spec.filters, 1):
        stride = spec.strides[number - 1]
        conv = convolution(
            outputs,
            spec.kernel_size,
            stride,
            spec.spatial_dims,
            padding="same" if spec.padding == "tensorflow" else None,
            bias=spec.conv_bias,
            **block.named(f"conv{number}"),
        )
        u = pad_symmetric(u, spec.kernel_size, stride) if spec.padding == "symmetric" else u
        u = conv(u)
        shared = {"synchronized": synchronized} | block.named(f"norm{number}")
        u = BatchNormalization(spec.norm, **shared)(u) if spec.norm else u
        u = block.activation(f"activation{number}", spec.activation)(u)
        u = attend(u, spec.attention[number - 1], block, f"attention{number}", synchronized)
    y = layers.Dense(spec.classes, **block.named("head"))(features(u, block))
    return layers.Activation("softmax", **block.named("output"))(y) if spec.output == "softmax" else y


def features(u: Any, block: Block) -> Any:
    """z, of shape (N, features)."""
    spec = block.spec
    if not spec.ends_in_map:
        return u
    if spec.head == "flatten":
        return layers.Reshape((spec.features,), **block.named("flatten"))(u)
    return ops.mean(u, spatial_axes(u))


def shown(layers: Layers, spec: PlainNetworkSpec) -> dict[str, Any]:
    """What the configuration of a network's layers shows of its spec; None where it does not."""
    paths = layers.numbered("conv")
    kernel, size = field(layers, "conv1", "kernel"), field(layers, "conv1", "kernel_size")
    strides = [stride_of(layers, path) for path in paths]
    # Without a stride both paddings are one.
    paddings = [field(layers, path, "padding") for path, step in zip(paths, strides, strict=True) if step != 1]
    padding = (
        {"same": "tensorflow", "valid": "symmetric"}.get(paddings[0]) if paddings and size != (1,) * len(size) else None
    )
    blocks = [attention_of(layers, f"attention{number}", one) for number, one in enumerate(spec.attention, 1)]
    told = [one or (expected and expected.to_json()) for one, expected in zip(blocks, spec.attention, strict=True)]
    found = {
        "channels": kernel.shape[-2] if kernel is not None else None,
        "spatial_dims": len(size) if size else None,
        "filters": [field(layers, path, "filters") for path in paths] or None,
        "strides": strides or None,
        "kernel_size": size[0] if size else None,
        "conv_bias": field(layers, "conv1", "use_bias"),
        "padding": padding,
        "activation": activation_of(layers, "activation1", "conv1"),
        "attention": told if any(blocks) else None,
        "head": "flatten" if "flatten" in layers else None,
        "classes": field(layers, "head", "units"),
        "output": "softmax" if "output" in layers else None,
    }
    norms = (norm_of(layers, f"norm{number}") for number in range(1, len(paths) + 1))
    return found | ({"norm": one_of(norms, spec.norm and spec.norm.to_json())} if paths else {})
