"""What both styles share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from parity.spec import AXIS_NAMES, InputError, Options, channel_axis, check_data_format

# The lowest number of a dtype: an infinity would be no JSON in the configuration of a model.
LOWEST = {"float32": -(2 - 2.0**-23) * 2.0**127, "float64": -(2 - 2.0**-52) * 2.0**1023}


def choose_data_format(data_format: str | None) -> str:
    """`data_format`, or Keras' own setting for None; raises `SpecError` for an unknown one."""
    return check_data_format(keras.config.image_data_format() if data_format is None else data_format)


def resolve(options: Options, shape: Sequence[int | None], data_format: str) -> Any:
    """The spec of a block of `options` for maps of `shape`; raises `InputError` where there is none."""
    spatial_dims = len(shape) - 2
    if spatial_dims not in AXIS_NAMES:
        raise InputError(
            f"received an input of shape {tuple(shape)}", "3, 4 or 5 axes: batch, channels, and 1 to 3 more"
        )
    axis = channel_axis(spatial_dims, data_format)
    channels = shape[axis]
    if channels is None:
        raise InputError(
            f"received an input of shape {tuple(shape)}, unknown channels on axis {axis}",
            f"a known number of channels for data_format={data_format!r}",
        )
    spec = options.resolve(channels, spatial_dims)
    spec.check_input(shape, data_format)
    return spec


def is_half(x: Any) -> bool:
    """Whether x is of half precision."""
    return keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16")


def maximum(x: Any, axes: int | Sequence[int]) -> Any:
    """The maximum of x over `axes`; tied elements share the gradient evenly."""
    # Not max pooling, which gives all of it to one.
    if keras.backend.backend() == "torch":
        return ops.amax(x, axes)  # not ops.max, which refuses an empty batch
    if is_half(x):
        # The gradient divides by the number of ties, which TensorFlow and JAX count in the dtype of x.
        return ops.cast(maximum(ops.cast(x, "float32"), axes), x.dtype)
    if keras.backend.backend() == "tensorflow":
        # Without an initial value, an eager TensorFlow refuses an empty batch.
        return ops.max(x, axes, initial=LOWEST[keras.backend.standardize_dtype(x.dtype)])
    return ops.max(x, axes)


def add(u: Any, v: Any) -> Any:
    """u + v, both of shape (N, C)."""
    if keras.backend.backend() == "tensorflow":
        return ops.sum(ops.stack([u, v]), axis=0)  # ops.add takes an empty batch for a bias, and refuses it
    return u + v


def scale(x: Any, s: Any) -> Any:
    """x * s, for a map x and a gate s that is broadcast over it."""
    if is_half(x) and keras.backend.backend() == "jax":
        # The gradient of s is a sum over the map, which XLA adds up in the dtype of the product. The casts it fuses.
        return ops.cast(ops.cast(x, "float32") * ops.cast(s, "float32"), x.dtype)
    return x * s


def total(c: Any, s: Any) -> Any:
    """c + s, for gates that are broadcast over a map and over each other."""
    if is_half(c) and keras.backend.backend() == "jax":
        return ops.cast(c, "float32") + ops.cast(s, "float32")  # for `scale`, and for the same reason
    return c + s


def larger(x: Any, c: Any, s: Any) -> Any:
    """The larger of x * c and x * s, element by element; where both are the same they share the gradient evenly."""
    if keras.backend.backend() == "tensorflow":
        # Its maximum gives the gradient of a tie to the first of both: here each of them is the first of a half.
        one, two = x * (c * 0.5), x * (s * 0.5)
        return ops.maximum(one, two) + ops.maximum(two, one)
    return ops.maximum(scale(x, c), scale(x, s))


def pointwise(outputs: int, spatial_dims: int, data_format: str, *, use_bias: bool, **kwargs: Any) -> Any:
    """The stock layer that is W x + b at each position of a map x; its result is channels-last in both formats.

    Args:
        outputs: the rows of W.
        spatial_dims: d of x.
        data_format: of x.
        use_bias: whether b exists.
        kwargs: of every Keras layer.
    """
    if data_format == "channels_last":
        return layers.Dense(outputs, use_bias=use_bias, **kwargs)
    # The map is contracted as it lies: TensorFlow transposes it unless its batch is an ellipsis, and has no
    # channels-first convolution on the CPU.
    axes = "".join(AXIS_NAMES[spatial_dims])
    shape = (*(None,) * spatial_dims, outputs)
    return layers.EinsumDense(f"...c{axes},co->...{axes}o", shape, bias_axes="o" if use_bias else None, **kwargs)


def softmax(u: Any, axis: int) -> Any:
    """The softmax of u along `axis`, in float32 at least: half precision would lose what many small terms come to."""
    u = ops.cast(u, "float32") if is_half(u) else u
    if keras.backend.backend() == "tensorflow" and len(u.shape) > 5:  # its kernel by oneDNN knows no more axes
        e = ops.exp(u - ops.stop_gradient(ops.expand_dims(maximum(u, axis), axis)))
        return e / ops.sum(e, axis, keepdims=True)
    return ops.softmax(u, axis)


def weighed(x: Any, a: Any, axis: int) -> Any:
    """The sum of a * x along `axis`, accumulated in float32 at least, and so are the gradients; in the dtype of x."""
    if is_half(x):
        return ops.cast(ops.sum(ops.cast(x, "float32") * ops.cast(a, "float32"), axis), x.dtype)
    return ops.sum(x * a, axis)
