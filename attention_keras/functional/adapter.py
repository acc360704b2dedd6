"""What the harness calls for the functional style."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from attention_keras import adapter, functional
from attention_keras.adapter import (
    KERNELS_LAST,
    describe,
    find_blocks,
    owns,
    prepare,
    read_variable,
    stepper,
    write_variables,
)
from parity.spec import SPECS, Spec

__all__ = [
    "KERNELS_LAST",
    "build",
    "describe",
    "find_blocks",
    "owns",
    "prepare",
    "read_variable",
    "stepper",
    "write_variables",
]

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "se": functional.squeeze_excitation,
    "cbam": functional.cbam,
    "eca": functional.eca,
    "ca": functional.coordinate_attention,
}
assert FUNCTIONS.keys() == SPECS.keys()


def build(spec: Spec, *, shape: tuple[int, ...], data_format: str, dtype: str, device: str) -> keras.Model:
    """A model that is the one block of `spec`, named "block", for an input of `shape`."""

    def block(x: Any) -> Any:
        return FUNCTIONS[spec.block](x, spec=spec, data_format=data_format, dtype=dtype, name="block")

    return adapter.build(block, shape=shape, dtype=dtype, device=device)
