"""What the networks share: convolutions with norms behind them, and the blocks inside. Their maps are channels-last."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from keras import layers

from attention_keras._maps import pad_symmetric
from attention_keras._norm import BatchNormalization
from attention_keras.functional._block import Block
from parity.spec import BatchNorm, Spec

CONVOLUTIONS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}


def attend(u: Any, spec: Spec | None, block: Block, path: str, synchronized: bool) -> Any:
    """a(u), for the block that `spec` describes at the canonical `path`, where it ends in a layer of that name; u for
    None.
    """
    if spec is None:
        return u
    package = importlib.import_module("attention_keras.functional")  # which imports this before it has all its names
    function = getattr(package, spec.options_class.function_name)
    has_norm = "synchronized" in inspect.signature(function).parameters
    shared = {"synchronized": synchronized} if has_norm else {}
    y = function(u, spec=spec, data_format="channels_last", **shared, **block.named(path))
    return landmark(y, block, path)


def landmark(u: Any, block: Block, path: str) -> Any:
    """u as the output of a layer that is named after the part at `path`, as users of a model look for it."""
    return block.activation(path, "identity")(u)  # not Keras' Identity, which no file keeps that has a dtype policy


def convolution(
    outputs: int,
    size: int,
    stride: int,
    dims: int,
    *,
    padding: str | None = None,
    bias: bool = False,
    **kwargs: Any,
) -> Any:
    """A convolution that, behind `pad_symmetric`, pads size // 2 zeros at both ends of every axis, or as Keras'
    `padding` says.
    """
    padding = padding or ("same" if stride == 1 else "valid")
    return CONVOLUTIONS[dims](
        outputs, size, strides=stride, padding=padding, data_format="channels_last", use_bias=bias, **kwargs
    )


def normed_convolution(
    u: Any,
    outputs: int,
    size: int,
    stride: int,
    norm: BatchNorm,
    *,
    block: Block,
    paths: tuple[str, str],
    synchronized: bool,
) -> Any:
    """norm(K * u), with the layers of both at the canonical `paths`."""
    conv_path, norm_path = paths
    conv = convolution(outputs, size, stride, len(u.shape) - 2, **block.named(conv_path))
    shared = {"synchronized": synchronized} | block.named(norm_path)
    return BatchNormalization(norm, **shared)(conv(pad_symmetric(u, size, stride)))
