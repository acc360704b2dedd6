"""Rank and layout as data: where the channels and the spatial axes of a feature map are."""

from __future__ import annotations

from parity.spec import _check

DATA_FORMATS = ("channels_first", "channels_last")

# The names of the spatial axes by their number; the last one is always the width.
AXIS_NAMES = {1: ("w",), 2: ("h", "w"), 3: ("d", "h", "w")}


def check_data_format(data_format: str) -> str:
    """`data_format` if it is known, else a `SpecError`."""
    return _check.choice("data_format", data_format, DATA_FORMATS)


def channel_axis(spatial_dims: int, data_format: str) -> int:
    """The axis of the channels: 1, or the last one."""
    return 1 if check_data_format(data_format) == "channels_first" else spatial_dims + 1


def spatial_axes(spatial_dims: int, data_format: str) -> tuple[int, ...]:
    """The spatial axes in order: (2, 3) for a channels-first image, (1, 2) for a channels-last one."""
    first = 2 if check_data_format(data_format) == "channels_first" else 1
    return tuple(range(first, first + spatial_dims))
