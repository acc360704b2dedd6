"""What both styles share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

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
