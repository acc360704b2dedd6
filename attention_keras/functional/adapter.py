"""What the harness calls for the functional style."""

from __future__ import annotations

from typing import Any

import keras

from attention_keras import adapter, functional
from attention_keras._training import trainer
from attention_keras.adapter import (
    KERNELS_LAST,
    describe,
    find_blocks,
    find_layers,
    layer_outputs,
    owns,
    prepare,
    read_variable,
    record,
    stepper,
    write_variables,
)
from parity.spec import Spec

__all__ = [
    "KERNELS_LAST",
    "build",
    "describe",
    "find_blocks",
    "find_layers",
    "layer_outputs",
    "owns",
    "prepare",
    "read_variable",
    "record",
    "stepper",
    "trainer",
    "write_variables",
]


def build(spec: Spec, *, shape: tuple[int | None, ...], data_format: str, dtype: str, device: str) -> keras.Model:
    """A model that is the one block of `spec`, named "block", for an input of `shape`."""

    function = getattr(functional, spec.options_class.function_name)

    def block(x: Any) -> Any:
        return function(x, spec=spec, data_format=data_format, dtype=dtype, name="block")

    return adapter.build(block, shape=shape, dtype=dtype, device=device)
