"""A file's bytes as an array that costs no memory, and tensors as views of it."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import numpy as np

from parity.errors import FormatError


def mapped(path: str) -> np.ndarray:
    """The bytes of the file at `path`: a read-only array over the mapped file.

    Raises:
        FormatError: where the file cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            if not file.seek(0, 2):
                return np.empty(0, np.uint8)  # nothing can be mapped of an empty file
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read: {error}", "a whole, readable file") from error


def tensor(
    data: np.ndarray,
    start: int,
    dtype: np.dtype,
    shape: Sequence[int],
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """The tensor whose bytes begin at `start` of `data`, with `strides` in bytes: a view, wherever it may lie.

    Raises:
        ValueError: where it does not lie inside.
    """
    if start < 0 or start + math.prod(shape) * dtype.itemsize > len(data):
        raise ValueError(f"a tensor of shape {tuple(shape)} at byte {start} of {len(data)}")
    found = np.ndarray(tuple(shape), dtype, data, start, strides if strides is None else tuple(strides))
    found.flags.writeable = False
    return found
