"""A model of one block for the replicas of Keras, made as a user makes it."""

from __future__ import annotations

from typing import Any

import keras

from attention_keras import functional, layers
from parity.distributed._replica import Task


def build(backend: str, task: Task) -> keras.Model:
    """A model that is the one block, named "block", with a synchronised norm where the task says so."""
    spec = task.block.spec
    options: dict[str, Any] = {"data_format": task.data_format, "dtype": task.dtype, "name": "block"}
    options |= {"synchronized": True} if task.synchronized else {}
    x = keras.Input(task.x.shape[1:], dtype=task.dtype)
    if backend.startswith("keras-layers"):
        return keras.Model(x, getattr(layers, spec.options_class.class_name).from_spec(spec, **options)(x))
    return keras.Model(x, getattr(functional, spec.options_class.function_name)(x, spec=spec, **options))
