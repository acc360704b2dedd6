"""What the networks of both styles do to maps: the layout they compute in, pads and pools.

Networks run channels-last in both formats, and a channels-first map is transposed once on its way in: TensorFlow has no
channels-first convolution on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

from keras import ops

from attention_keras._block import is_half

# Not Keras' own pools: TensorFlow's of 3-D maps know neither float64 nor float16 on the CPU, and "same" pools pad
# otherwise than the networks do.


def channels_last(x: Any, data_format: str) -> Any:
    """A map in `data_format`, with its channels last."""
    return ops.moveaxis(x, 1, -1) if data_format == "channels_first" else x


def channels_back(x: Any, data_format: str) -> Any:
    """The inverse of `channels_last`."""
    return ops.moveaxis(x, -1, 1) if data_format == "channels_first" else x


def max_pool(x: Any) -> Any:
    """The maximum over windows of 3, with stride 2 and a padding that never is the maximum.

    Behind a ReLU no number is less than the zeros that pad, and where they tie it passes no gradient on: it does not
    matter to which of them it goes.
    """
    x = zero_padded(x, 1, 1)
    for axis in spatial_axes(x):
        x = reduce(ops.maximum, strided(x, axis, 3, 2))
    return x


def average_pool(x: Any, stride: int) -> Any:
    """The mean over windows of `stride`, at the border over the positions that are there."""
    if stride == 1:
        return x
    u = ops.cast(x, "float32") if is_half(x) else x  # the sum of a window may overflow where its mean does not
    mean = total(u, stride) / total(ops.ones_like(u[..., :1]), stride)
    return ops.cast(mean, x.dtype) if is_half(x) else mean


def total(x: Any, stride: int) -> Any:
    """The sum over windows of `stride`, the last of which may reach beyond the border."""
    x = zero_padded(x, 0, stride - 1)
    for axis in spatial_axes(x):
        x = reduce(add, strided(x, axis, stride, stride))
    return x


def pad_symmetric(x: Any, size: int, stride: int) -> Any:
    """x with the size // 2 zeros at both ends of every axis that a convolution of that stride does not itself add."""
    return x if stride == 1 or size == 1 else zero_padded(x, size // 2, size // 2)


def strided(x: Any, axis: int, size: int, stride: int) -> Iterator[Any]:
    """The first position of each window of `size` along `axis`, the second, and so on."""
    for place in range(size):
        steps = slice(place, place + 1 - size or None, stride)  # the end counts from the last: sizes may be unknown
        yield x[(slice(None),) * axis + (steps,)]


def zero_padded(x: Any, before: int, after: int) -> Any:
    """x with zeros before and after each spatial axis."""
    return ops.pad(x, [(0, 0), *((before, after) for _ in spatial_axes(x)), (0, 0)])


def spatial_axes(x: Any) -> tuple[int, ...]:
    """The spatial axes of a channels-last map."""
    return tuple(range(1, len(x.shape) - 1))
