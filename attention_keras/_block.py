"""What both styles share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from parity.spec import AXIS_NAMES, InputError, Options, channel_axis, check_data_format


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
