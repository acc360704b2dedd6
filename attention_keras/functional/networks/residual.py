"""Residual unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention_keras._maps import average_pool, channels_back, channels_last
from attention_keras._shown import Layers, attention_of, field, norm_of, one_of, stride_of
from attention_keras.functional._block import Block
from attention_keras.functional.networks._parts import attend, normed_convolution
from parity.spec import BatchNorm, ResidualUnitOptions, ResidualUnitSpec


def residual_unit(
    x: Any,
    *,
    out_channels: int | None = None,
    stride: int = 1,
    bottleneck: bool = False,
    attention: str | None = None,
    attention_options: Mapping[str, Any] | None = None,
    placement: str = "before_addition",
    shortcut: str = "convolution",
    norm: BatchNorm | Mapping[str, Any] = BatchNorm(),
    data_format: str | None = None,
    synchronized: bool = False,
    dtype: Any = None,
    name: str | None = None,
    spec: ResidualUnitSpec | None = None,
) -> Any:
    """Residual unit (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, equations 1 and 2, figure
    5), with an attention block where Hu et al. ("Squeeze-and-Excitation Networks", CVPR 2018, section 6.5) put it.

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, O output channels, stride s, kernels K of 3 and L of
    1 position along each axis, and an attention a::

        f(u) = norm2(K2 * relu(norm1(K1 * u)))                     (N, O, S1/s..Sd/s)   K1 strided
        f(u) = norm3(L3 * relu(norm2(K2 * relu(norm1(L1 * u)))))   the same             bottleneck: K2 strided
        i = x, or norm(L * x) where s > 1 or O differs from C      (N, O, S1/s..Sd/s)   L strided
        y = relu(a(f(x)) + i)          before_addition             (N, O, S1/s..Sd/s)
        y = a(relu(f(x) + i))          after_addition
        y = relu(f(a(x)) + i)          before_unit
        y = relu(f(x) + a(i))          identity
        y = relu(f(x) + i + a(i))      beside_identity

    Sizes are divided rounding up. Every convolution is zero padded by k // 2 at both ends of every axis and has no
    bias. A bottleneck is O // 4 channels wide. A channels-first map is transposed on its way in and back on its way
    out, once: inside, everything is channels-last.

    Args:
        x: a Keras tensor.
        out_channels: O; None for C.
        stride: s.
        bottleneck: whether f is the second one.
        attention: a, a key of `parity.spec.SPECS`: "se", "cbam", ...; None for a(u) = u.
        attention_options: a mapping of the options of that block; None for its defaults.
        placement: where a is, as above.
        shortcut: "convolution" as above; "average": i = norm(L * pool x) with L not strided, where pool takes the mean
            over each s^d window; of a window at the border over the positions that are there.
        norm: of all norms, a `parity.spec.BatchNorm` or its JSON form.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        synchronized: whether replicas that train together share the norms' statistics, as Keras' own
            `BatchNormalization` has it. Not part of the spec: alone, a replica computes the same.
        dtype: a Keras dtype policy or its name, never taken from x; None for the global policy.
        name: the prefix of the layers' names, ``<name>_conv1``, ``<name>_attention_fc1``; None for a new one.
        spec: a `parity.spec.ResidualUnitSpec` instead of the options above.

    Returns:
        y, of shape (N, O, *spatial) or (N, *spatial, O).

    Raises:
        SpecError: for an option outside its domain, or a spec beside options, and for a block that does not keep the
            shape of its map. A `ValueError`.
        InputError: for a map of another rank or number of channels, and from the model for one value per channel
            before a norm in training mode. A `ValueError`.

    Example:
        >>> import keras
        >>> unit = residual_unit(
        ...     keras.Input((5, 7, 12)), out_channels=24, stride=2, attention="se", data_format="channels_last"
        ... )
        >>> unit.shape
        (None, 3, 4, 24)
    """
    options = ResidualUnitOptions(
        out_channels=out_channels,
        stride=stride,
        bottleneck=bottleneck,
        attention=attention,
        attention_options=attention_options,
        placement=placement,
        shortcut=shortcut,
        norm=norm,
    )
    block = Block(x, options, spec=spec, data_format=data_format, dtype=dtype, name=name)
    spec = block.spec

    def attended(u: Any) -> Any:
        """a(u)."""
        return attend(u, spec.attention, block, "attention", synchronized)

    x = channels_last(block.cast(x), block.data_format)
    where = spec.placement
    f = branch(attended(x) if where == "before_unit" else x, block, synchronized)
    i = identity(x, block, synchronized)
    if where == "before_addition":
        f = attended(f)
    if where == "identity":
        i = attended(i)
    if where == "beside_identity":
        f, i = f + i, attended(i)
    y = block.activation("activation", "relu")(f + i)
    return channels_back(attended(y) if where == "after_addition" else y, block.data_format)


def branch(u: Any, block: Block, synchronized: bool) -> Any:
    """f(u)."""
    spec = block.spec
    for number, (_, outputs, size, step) in enumerate(spec.convolutions, 1):
        shared: dict[str, Any] = {"block": block, "synchronized": synchronized}
        u = normed_convolution(u, outputs, size, step, spec.norm, paths=(f"conv{number}", f"norm{number}"), **shared)
        u = block.activation(f"activation{number}", "relu")(u) if number < len(spec.convolutions) else u
    return u


def identity(x: Any, block: Block, synchronized: bool) -> Any:
    """i."""
    spec = block.spec
    if not spec.projects:
        return x
    x = average_pool(x, spec.stride) if spec.shortcut == "average" else x
    step = 1 if spec.shortcut == "average" else spec.stride
    shared: dict[str, Any] = {"block": block, "synchronized": synchronized}
    return normed_convolution(
        x, spec.out_channels, 1, step, spec.norm, paths=("shortcut.conv", "shortcut.norm"), **shared
    )


def shown(layers: Layers, spec: ResidualUnitSpec) -> dict[str, Any]:
    """What the configuration of a unit's layers shows of its spec; None where it does not."""
    paths = layers.numbered("conv")
    kernel, size = field(layers, "conv1", "kernel"), field(layers, "conv1", "kernel_size")
    strides = [step for path in paths if (step := stride_of(layers, path))]
    stride, step = max(strides, default=None), stride_of(layers, "shortcut.conv")
    norms = (norm_of(layers, path) for path in (*layers.numbered("norm"), "shortcut.norm"))
    return {
        "channels": kernel.shape[-2] if kernel is not None else None,
        "spatial_dims": len(size) if size else None,
        "out_channels": field(layers, paths[-1], "filters") if paths else None,
        "stride": stride,
        "bottleneck": len(paths) == 3 if paths else None,
        "attention": attention_of(layers, "attention", spec.attention),
        "shortcut": ("convolution" if step == stride else "average") if step else None,
    } | ({"norm": one_of(norms, spec.norm.to_json())} if paths else {})
