"""This project's own styles, whose blocks carry their spec while they live and lose it in a bare state dict.

What their weights do not tell is all in doubt: every option is there to be used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from parity.dialects._table import (
    CBAM,
    CONVOLUTION,
    ECA,
    ESE,
    ONE_HEAD,
    OPTIONAL,
    SE,
    TAPS,
    TAPS_LAST,
    TORCH_NORM,
    Dialect,
    Tensor,
    batch_norm,
    keras_batch_norm,
    keras_layer,
    layer,
    pair,
    projections,
)

PARTS = ("query", "key", "value", "output")

Rows = Callable[..., tuple[Tensor, ...]]

CA = {"gate": "sigmoid", "activation": "hard_swish", "norm": TORCH_NORM, "residual": False}
CBAM_DEFAULTS: dict[str, Any] = {**CBAM, "spatial_source": "refined", "residual": False}
CBAM_DEFAULTS["spatial_norm"] = {**TORCH_NORM, "update_rate": 0.01}

# Of the halves of a CBAM, and of one that has both.
CHANNEL_DOUBTS = ("gate", "activation", "residual")
SPATIAL_DOUBTS = ("gate", "spatial_norm", "residual")
CBAM_DOUBTS = ("gate", "activation", "spatial_norm", "spatial_source", "residual")


def _se(id: str, rows: Rows, keys: str, layout: str) -> Dialect:
    tensors = pair(rows, keys, layout, bias=OPTIONAL)
    return Dialect(id=id, block="se", tensors=tensors, defaults=SE, doubtful=("gate", "activation"))


def _cbam(id: str, channel: tuple[Tensor, ...], spatial: tuple[Tensor, ...]) -> tuple[Dialect, Dialect, Dialect]:
    """The block, and either half alone."""
    both = Dialect(id=id, block="cbam", tensors=channel + spatial, defaults=CBAM_DEFAULTS, doubtful=CBAM_DOUBTS)
    return (
        both,
        replace(both, id=f"{id}-channel", tensors=channel, facts={"parts": "channel"}, doubtful=CHANNEL_DOUBTS),
        replace(both, id=f"{id}-spatial", tensors=spatial, facts={"parts": "spatial"}, doubtful=SPATIAL_DOUBTS),
    )


def _ca(id: str, reduce: tuple[Tensor, ...], rows: Rows, head: str, layout: str) -> Dialect:
    """Its heads are those of the axes that the maps have."""
    tensors = reduce
    for axis in "dhw":
        added = rows(head + axis, f"expand.{axis}", layout, bias=OPTIONAL)
        tensors += added if axis == "w" else tuple(replace(row, optional=True) for row in added)
    doubts = ("gate", "activation", "norm", "residual")
    return Dialect(id=id, block="ca", tensors=tensors, defaults=CA, doubtful=doubts)


def _ese(id: str, fc: tuple[Tensor, ...]) -> Dialect:
    return Dialect(id=id, block="ese", tensors=fc, defaults=ESE, doubtful=("gate",))


def _scse(id: str, rows: Rows, path: Callable[[str], str], layout: str) -> Dialect:
    mlp = f"{path('channel.fc1')} {path('channel.fc2')}"
    tensors = pair(rows, mlp, layout, bias=OPTIONAL, path="channel.")
    tensors += rows(path("spatial.fc"), "spatial.fc", layout, bias=OPTIONAL)
    defaults = {**SE, "merge": "max"}
    return Dialect(id=id, block="scse", tensors=tensors, defaults=defaults, doubtful=("gate", "activation", "merge"))


def _attention_pooling(id: str, score: tuple[Tensor, ...]) -> Dialect:
    """A linear layer to one number: its keys are those of any that scores something."""
    return Dialect(
        id=id,
        block="attention_pooling",
        tensors=score,
        defaults={"spatial_dims": 2, "axis": None},
        doubtful=("axis",),
        detected=False,
    )


def _conv_attention(id: str, conv: tuple[Tensor, ...], attention: tuple[Tensor, ...]) -> Dialect:
    return Dialect(
        id=id,
        block="conv_attention",
        tensors=conv + attention,
        defaults={**CONVOLUTION, **ONE_HEAD},
        doubtful=tuple(CONVOLUTION),
        asked=("num_heads",),
    )


def _multi_head_eca(id: str, conv: tuple[Tensor, ...], attention: tuple[Tensor, ...]) -> Dialect:
    return Dialect(
        id=id,
        block="multi_head_eca",
        tensors=conv + attention,
        defaults={**ECA, **ONE_HEAD, "scale": 2.0, "offset": 1.0},
        doubtful=("gate", "scale", "offset"),
        asked=("num_heads",),
    )


def _torch() -> tuple[Dialect, ...]:
    style = "attention_torch"
    channel = pair(layer, "channel.fc1 channel.fc2", "linear", bias=OPTIONAL, path="channel.")
    spatial = layer("spatial.conv", "spatial.conv", "conv", bias=OPTIONAL)
    reduce = layer("reduce", "reduce", "linear", bias=OPTIONAL) + batch_norm("norm", "norm", optional=True)
    keys = " ".join(f"attention.{part}" for part in PARTS)
    attention = projections(layer, keys, "linear", "attention")
    return (
        _se(f"{style}/SqueezeExcitation", layer, "fc1 fc2", "linear"),
        *_cbam(f"{style}/CBAM", channel, spatial + batch_norm("spatial.norm", "spatial.norm", optional=True)),
        Dialect(
            id=f"{style}/ECA",
            block="eca",
            tensors=layer("conv", "conv", "conv", bias=OPTIONAL, shape=TAPS),
            defaults={**ECA, "padding": "zeros"},
            doubtful=("gate", "padding"),
            detected=False,  # its keys are those of every other in PyTorch, whose gate is beyond doubt
        ),
        _ca(f"{style}/CoordinateAttention", reduce, layer, "expand.", "linear"),
        _ese(f"{style}/EffectiveSqueezeExcitation", layer("fc", "fc", "linear", bias=OPTIONAL, shape="C C")),
        _scse(f"{style}/SCSE", layer, str, "linear"),
        _attention_pooling(f"{style}/AttentionPooling", layer("score", "score", "linear", bias=OPTIONAL)),
        _conv_attention(f"{style}/ConvolutionAttention", layer("conv", "conv", "conv", bias=OPTIONAL), attention),
        _multi_head_eca(f"{style}/MultiHeadECA", layer("conv", "conv", "conv", bias=False, shape=TAPS), attention),
    )


def _keras(style: str, names: Sequence[str], separator: str, head: str, prefix: str = "") -> tuple[Dialect, ...]:
    """The styles with Keras' leaves: `separator` joins the path of a layer, `prefix` what stands before it."""
    se, cbam, eca, ca, ese, scse, pooling, conv_attention, multi_head_eca = names

    def path(name: str) -> str:
        return prefix + name.replace(".", separator)

    mlp = f"{path('channel.fc1')} {path('channel.fc2')}"
    channel = pair(keras_layer, mlp, "dense", bias=OPTIONAL, path="channel.")
    spatial = keras_layer(path("spatial.conv"), "spatial.conv", "conv_last", bias=OPTIONAL)
    spatial += keras_batch_norm(path("spatial.norm"), "spatial.norm", optional=True)
    reduce = keras_layer(path("reduce"), "reduce", "dense", bias=OPTIONAL)
    reduce += keras_batch_norm(path("norm"), "norm", optional=True)
    keys = " ".join(path(f"attention.{part}") for part in PARTS)
    attention = projections(keras_layer, keys, "dense", "attention")
    return (
        _se(f"{style}/{se}", keras_layer, f"{path('fc1')} {path('fc2')}", "dense"),
        *_cbam(f"{style}/{cbam}", channel, spatial),
        Dialect(
            id=f"{style}/{eca}",
            block="eca",
            tensors=keras_layer(path("conv"), "conv", "conv_last", bias=OPTIONAL, shape=TAPS_LAST),
            defaults={**ECA, "padding": "zeros"},
            doubtful=("gate", "padding"),
        ),
        _ca(f"{style}/{ca}", reduce, keras_layer, prefix + head, "dense"),
        _ese(f"{style}/{ese}", keras_layer(path("fc"), "fc", "dense", bias=OPTIONAL, shape="C C")),
        _scse(f"{style}/{scse}", keras_layer, path, "dense"),
        _attention_pooling(f"{style}/{pooling}", keras_layer(path("score"), "score", "dense", bias=OPTIONAL)),
        _conv_attention(
            f"{style}/{conv_attention}", keras_layer(path("conv"), "conv", "conv_last", bias=OPTIONAL), attention
        ),
        _multi_head_eca(
            f"{style}/{multi_head_eca}",
            keras_layer(path("conv"), "conv", "conv_last", bias=False, shape=TAPS_LAST),
            attention,
        ),
    )


CLASSES = (
    *("SqueezeExcitation", "CBAM", "ECA", "CoordinateAttention", "EffectiveSqueezeExcitation", "SCSE"),
    *("AttentionPooling", "ConvolutionAttention", "MultiHeadECA"),
)
FUNCTIONS = (
    *("squeeze_excitation", "cbam", "eca", "coordinate_attention", "effective_squeeze_excitation", "scse"),
    *("attention_pooling", "convolution_attention", "multi_head_eca"),
)

STYLES = (
    *_torch(),
    *_keras("attention_keras", CLASSES, "/", "expand_"),
    *(replace(one, inline=True) for one in _keras("attention_keras", FUNCTIONS, "_", "expand_", "*_")),
    *_keras("attention_tf1compat", FUNCTIONS, "/", "expand/"),
)

DIALECTS = tuple(replace(one, source="this project") for one in STYLES)
