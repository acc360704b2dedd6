"""Convolutional block attention module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import layers, ops

from attention_keras._block import add, maximum, scale
from attention_keras._norm import BatchNormalization
from attention_keras._shown import Layers, activation_of, field, gate_of, norm_of
from attention_keras.functional._block import Block
from parity.spec import BatchNorm, CBAMOptions, CBAMSpec, Gate

CONVOLUTIONS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}


def cbam(
    x: Any,
    *,
    reduction: int = 16,
    hidden_channels: int | None = None,
    mlp_bias: bool = True,
    activation: str = "relu",
    channel_merge: str = "add",
    kernel_size: int = 7,
    spatial_bias: bool = False,
    spatial_norm: BatchNorm | Mapping[str, Any] | None = BatchNorm(update_rate=0.01),
    spatial_features: str = "pooled",
    spatial_source: str = "refined",
    parts: str = "both",
    gate: Gate | str | Mapping[str, Any] = "sigmoid",
    residual: bool = False,
    data_format: str | None = None,
    synchronized: bool = False,
    dtype: Any = None,
    name: str | None = None,
    spec: CBAMSpec | None = None,
) -> Any:
    """Convolutional block attention module (Woo et al., "CBAM", ECCV 2018, equations 1 to 3).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, h hidden channels and a kernel K of k positions
    along each axis::

        c = gate(MLP(mean_S x) + MLP(max_S x))    (N, C)       MLP(z) = W2 activation(W1 z + b1) + b2
        x' = x * c                                the shape of x
        p = [mean_C x', max_C x']                 (N, S1..Sd, 2)
        m = gate(norm(K * p + b))                 (N, S1..Sd, 1)
        y = x' * m                                the shape of x

    The convolution is zero padded to keep the size. Plane 0 is the mean and plane 1 the maximum, always. Tied maxima
    share the gradient evenly. The defaults are the authors' code.

    Args:
        x: a Keras tensor.
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        mlp_bias: whether b1 and b2 exist.
        activation: of the MLP: "relu", "silu", "hard_swish" or "identity".
        channel_merge: "add" as above; "concat": c = gate(MLP([mean_S x, max_S x])), one pass, W1 is (h, 2 C).
        kernel_size: k, odd.
        spatial_bias: whether b exists.
        spatial_norm: a `parity.spec.BatchNorm` (or its JSON form) after the convolution, or None.
        spatial_features: "pooled" as above; "full": the convolution sees all C channels instead of the two planes.
        spatial_source: "refined" as above; "input": the planes are taken from x instead of x'.
        parts: "both", or "channel" (y = x') or "spatial" (x' = x) alone.
        gate: of both halves: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        residual: whether x is added to y.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        synchronized: whether replicas that train together share the norm's statistics, as Keras' own
            `BatchNormalization` has it. Not part of the spec: alone, a replica computes the same.
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_channel_fc1``, ``<name>_spatial_conv``; None for a new one.
        spec: a `parity.spec.CBAMSpec` instead of the options above.

    Returns:
        y, of the shape of x.

    Raises:
        SpecError: for an option outside its domain, or a spec beside options. A `ValueError`.
        InputError: for a map of another rank or number of channels, and from the model for one value per channel before
            the norm in training mode. A `ValueError`.

    Example:
        >>> import keras
        >>> cbam(keras.Input((5, 7, 24)), reduction=4, data_format="channels_last").shape
        (None, 5, 7, 24)
    """
    options = CBAMOptions(
        reduction=reduction,
        hidden_channels=hidden_channels,
        mlp_bias=mlp_bias,
        activation=activation,
        channel_merge=channel_merge,
        kernel_size=kernel_size,
        spatial_bias=spatial_bias,
        spatial_norm=spatial_norm,
        spatial_features=spatial_features,
        spatial_source=spatial_source,
        parts=parts,
        gate=gate,
        residual=residual,
    )
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec

    x = block.cast(x)
    refined = scale(x, channel_attention(x, block)) if spec.has_channel else x
    source = x if spec.spatial_source == "input" else refined
    y = scale(refined, spatial_attention(source, block, synchronized)) if spec.has_spatial else refined
    return layers.Add(**block.named("residual"))([y, x]) if spec.residual else y


def channel_attention(x: Any, block: Block) -> Any:
    """The channel half: c of shape (N, C), with axes of size one for the spatial ones, from x."""
    spec = block.spec
    fc1 = layers.Dense(spec.hidden_channels, use_bias=spec.mlp_bias, **block.named("channel.fc1"))
    fc2 = layers.Dense(spec.channels, use_bias=spec.mlp_bias, **block.named("channel.fc2"))
    activation = block.activation("channel.activation", spec.activation)

    def mlp(z: Any) -> Any:
        """W2 activation(W1 z + b1) + b2."""
        return fc2(activation(fc1(z)))

    z_mean, z_max = ops.mean(x, block.spatial_axes), maximum(x, block.spatial_axes)
    is_joined = spec.channel_merge == "concat"
    u = mlp(ops.concatenate([z_mean, z_max], axis=1)) if is_joined else add(mlp(z_mean), mlp(z_max))
    c = block.gate("channel.gate", spec.gate)(u)
    return ops.expand_dims(c, block.spatial_axes)


def spatial_attention(x: Any, block: Block, synchronized: bool) -> Any:
    """The spatial half: m, of size one along the channels, from the map that it is to judge."""
    spec, axis = block.spec, block.channel_axis
    # The planes are channels-last in both formats: TensorFlow has no channels-first convolution on the CPU.
    if spec.spatial_features == "pooled":
        p = ops.stack([ops.mean(x, axis), maximum(x, axis)], axis=-1)
    else:
        p = ops.moveaxis(x, axis, -1)
    u = CONVOLUTIONS[spec.spatial_dims](
        1,
        spec.kernel_size,
        padding="same",
        data_format="channels_last",
        use_bias=spec.spatial_bias,
        **block.named("spatial.conv"),
    )(p)
    shared = {"synchronized": synchronized} | block.named("spatial.norm")
    u = BatchNormalization(spec.spatial_norm, **shared)(u) if spec.spatial_norm else u
    m = block.gate("spatial.gate", spec.gate)(u)
    return ops.expand_dims(ops.squeeze(m, -1), axis)


def shown(layers: Layers) -> dict[str, Any]:
    """What the configuration of a block's layers shows of its spec; None where it does not."""
    halves = {"channel": "channel.fc1" in layers or "channel.fc2" in layers, "spatial": "spatial.conv" in layers}
    channels, kernel = field(layers, "channel.fc2", "units"), field(layers, "spatial.conv", "kernel")
    planes, size = kernel.shape[-2] if kernel is not None else None, field(layers, "spatial.conv", "kernel_size")
    mlp = field(layers, "channel.fc1", "kernel")
    inputs = mlp.shape[0] if mlp is not None else None
    # Two channels and two pooled planes look alike.
    is_told = planes is not None and (planes != 2 or channels not in (None, 2))
    found = {
        "channels": channels or (planes if is_told else None),
        "spatial_dims": len(size) if size else None,
        "parts": "both" if all(halves.values()) else next((half for half, there in halves.items() if there), None),
        "hidden_channels": field(layers, "channel.fc1", "units"),
        "mlp_bias": field(layers, "channel.fc1", "use_bias"),
        "activation": activation_of(layers, "channel.activation", "channel.fc1"),
        "channel_merge": ("concat" if inputs == 2 * channels else "add") if channels and inputs else None,
        "kernel_size": size[-1] if size else None,
        "spatial_bias": field(layers, "spatial.conv", "use_bias"),
        "spatial_features": ("pooled" if planes == 2 else "full") if is_told else None,
        "residual": "residual" in layers or None,  # a sum of another name may be there
        "gates": [gate_of(layers, "channel.gate"), gate_of(layers, "spatial.gate", "spatial.conv")],
    }
    return found | ({"spatial_norm": norm_of(layers, "spatial.norm")} if halves["spatial"] else {})
