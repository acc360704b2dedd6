"""What the networks share: convolutions with norms behind them, and the blocks inside. Their maps are channels-last."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from keras import layers

from attention_keras._maps import pad_symmetric
from attention_keras._norm import BatchNormalization
from attention_keras.layers._block import Block, sublayer
from parity.spec import BatchNorm, Spec

CONVOLUTIONS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}


def block_of(spec: Spec | None, **kwargs: Any) -> Block | None:
    """The block that `spec` describes, built; None for none."""
    if spec is None:
        return None
    package = importlib.import_module("attention_keras.layers")  # which imports this module before it has all its names
    block: type[Block] = getattr(package, spec.options_class.class_name)
    return block.from_spec(spec, data_format="channels_last", **kwargs)


def convolution(
    inputs: int | None,
    outputs: int,
    size: int,
    stride: int,
    dims: int,
    *,
    padding: str | None = None,
    bias: bool = False,
    **kwargs: Any,
) -> Any:
    """A built convolution that, behind `pad_symmetric`, pads size // 2 zeros at both ends of every axis, or as Keras'
    `padding` says.
    """
    padding = padding or ("same" if stride == 1 else "valid")
    conv = CONVOLUTIONS[dims](
        outputs, size, strides=stride, padding=padding, data_format="channels_last", use_bias=bias, **kwargs
    )
    conv.build((None,) * (dims + 1) + (inputs,))
    return conv


def normalization(channels: int, dims: int, norm: BatchNorm, **kwargs: Any) -> BatchNormalization:
    """A built batch norm."""
    made = BatchNormalization(norm, **kwargs)
    made.build((None,) * (dims + 1) + (channels,))
    return made


class NormedConvolution(layers.Layer):
    """norm(K * x): the stem of a network, and the shortcut of a unit."""

    def __init__(
        self, outputs: int, size: int, stride: int, norm: BatchNorm, *, synchronized: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.outputs, self.size, self.stride = outputs, size, stride
        self.batch_norm = norm
        self.synchronized = synchronized

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights."""
        inputs, dims = input_shape[-1], len(input_shape) - 2
        shared = {"synchronized": self.synchronized} | sublayer(self, "norm")
        self.conv = convolution(inputs, self.outputs, self.size, self.stride, dims, **sublayer(self, "conv"))
        self.norm = normalization(self.outputs, dims, self.batch_norm, **shared)

    def call(self, x: Any, training: bool | None = None) -> Any:
        """The map behind the norm."""
        return self.norm(self.conv(pad_symmetric(x, self.size, self.stride)), training=training)
