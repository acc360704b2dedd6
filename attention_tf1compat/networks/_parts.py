"""What the networks share: convolutions with norms behind them, pools, and the blocks inside.

All of it is channels last, whatever the layout of a network's x: on CPU, TensorFlow has no channels-first convolution
of float64 or float16.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import tensorflow as tf

from attention_tf1compat._block import add_bias, kernel_and_bias, widen
from attention_tf1compat._norm import batch_norm
from parity.spec import BatchNorm, Spec

# The graph collections of what the parts of a network put out, one tensor for each call of the network, channels last:
# "attention_tf1compat/layers/<the network's scope>/<the part>".
LAYERS = "attention_tf1compat/layers"


def block_of(spec: Spec | None, name: str, training: bool | tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """The block that `spec` describes, with variables under the scope `name`; None for none."""
    if spec is None:
        return None
    package = importlib.import_module("attention_tf1compat")  # which imports this module before it has all its names
    function: Callable[..., tf.Tensor] = getattr(package, spec.options_class.function_name)
    return lambda u: function(u, training=training, data_format="channels_last", dtype=u.dtype, scope=name, spec=spec)


def convolution(
    name: str,
    inputs: int,
    outputs: int,
    size: int,
    stride: int,
    dims: int,
    dtype: tf.DType,
    *,
    padding: str = "symmetric",
    bias: bool = False,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A convolution that pads size // 2 zeros at both ends of every axis, or as TensorFlow's "same"."""
    w, b = kernel_and_bias(name, (size,) * dims + (inputs, outputs), bias, dtype)
    # Where nothing is strided, TensorFlow's "same" is symmetric.
    if padding == "tensorflow" or stride == 1:
        return lambda u: add_bias(tf.nn.convolution(u, w, stride, "SAME"), b)
    return lambda u: add_bias(tf.nn.convolution(pad(u, size // 2, size // 2), w, stride, "VALID"), b)


def normed_convolution(
    name: str,
    inputs: int,
    outputs: int,
    size: int,
    stride: int,
    dims: int,
    dtype: tf.DType,
    norm: BatchNorm,
    training: bool | tf.Tensor,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """norm(K * x): the stem of a network, and the shortcut of a unit."""

    def normed(x: tf.Tensor) -> tf.Tensor:
        """The map behind the norm."""
        with tf.compat.v1.variable_scope(name):
            conv = convolution("conv", inputs, outputs, size, stride, dims, dtype)
            return batch_norm(conv(x), norm, training)

    return normed


def max_pool(x: tf.Tensor) -> tf.Tensor:
    """The maximum over windows of 3, with stride 2 and a padding that never is the maximum.

    Behind a ReLU, where ties are zeros, it does not matter which of them the gradient goes to.
    """
    # Not tf.nn.pool: on CPU, it has no maximum over 3-D maps of float64 or float16. One axis after the other will do.
    u = pad(x, 1, 1, x.dtype.min)
    for axis in range(1, x.shape.rank - 1):
        u = functools.reduce(tf.maximum, windows(u, axis, 3, 2))
    return u


def average_pool(x: tf.Tensor, stride: int) -> tf.Tensor:
    """The mean over windows of `stride`, at the border over the positions that are there."""
    if stride == 1:
        return x
    # Not tf.nn.pool: on CPU, it has no mean over 3-D maps of float64 or float16, and its "same" lacks positions at both
    # ends.
    u = widen(x)
    there = tf.ones_like(u[:1, ..., :1])
    return tf.cast(sum_pool(u, stride) / sum_pool(there, stride), x.dtype)


def sum_pool(x: tf.Tensor, stride: int) -> tf.Tensor:
    """The sum over windows of `stride`, at the border over the positions that are there."""
    u = pad(x, 0, stride - 1)  # which is enough for any size
    for axis in range(1, x.shape.rank - 1):
        u = tf.add_n(windows(u, axis, stride, stride))
    return u


def windows(u: tf.Tensor, axis: int, size: int, stride: int) -> list[tf.Tensor]:
    """The first position of each window that fits in along one axis, the second, and so on."""
    ends = [(first, first - size + 1 or None) for first in range(size)]
    return [u[(slice(None),) * axis + (slice(first, end, stride),)] for first, end in ends]


def pad(u: tf.Tensor, before: int, after: int, value: float = 0) -> tf.Tensor:
    """u with as many values put in before and after its positions, along every spatial axis."""
    if not before and not after:
        return u
    return tf.pad(u, [[0, 0], *([[before, after]] * (u.shape.rank - 2)), [0, 0]], constant_values=value)


def to_channels_last(x: tf.Tensor, data_format: str) -> tf.Tensor:
    """The map x, in `data_format`, with its channels last."""
    return x if data_format == "channels_last" else tf.transpose(x, [0, *range(2, x.shape.rank), 1])


def from_channels_last(y: tf.Tensor, data_format: str) -> tf.Tensor:
    """The inverse of `to_channels_last`."""
    return y if data_format == "channels_last" else tf.transpose(y, [0, y.shape.rank - 1, *range(1, y.shape.rank - 1)])


def keep_layer(name: str, u: tf.Tensor) -> None:
    """Have the graph keep u as what the part `name` puts out, of the network whose scope is open."""
    tf.compat.v1.add_to_collection(layer_collection(tf.compat.v1.get_variable_scope().name, name), u)


def layer_collection(scope: str, name: str) -> str:
    """The collection of what the part `name` of the network in `scope` puts out."""
    return f"{LAYERS}/{scope}/{name}"
