"""Keras on JAX under `keras.distribution.DataParallel`: two virtual CPUs in one process.

One program over arrays that are sharded along the batch: the loss is that of the joined batch, and so is every sum.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np

from parity.backends import Adapter
from parity.distributed import _keras
from parity.distributed._replica import REPLICAS, Record, Task, Train, load, serve
from parity.spec import is_statistic


def main(folder: str, backend: str, device: str, rank: str) -> None:
    """Train as both replicas."""

    def begin() -> Train:
        devices = keras.distribution.list_devices("cpu")
        if len(devices) != REPLICAS:
            raise RuntimeError(f"received {len(devices)} devices; expected {REPLICAS}: see XLA_FLAGS")
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
        return lambda adapter, task: train(adapter, task, backend)

    serve(Path(folder), backend, begin)


def train(adapter: Adapter, task: Task, backend: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The results of both replicas."""
    model = _keras.build(backend, task)
    variables = load(adapter, model, task.block).variables
    names = [name for name in variables if not is_statistic(name)]
    trained = {id(variable): number for number, variable in enumerate(model.trainable_variables)}
    frozen = {id(variable): number for number, variable in enumerate(model.non_trainable_variables)}

    def loss(values: list, x: Any, states: list, cotangent: Any) -> Any:
        y, states = model.stateless_call(values, states, x, training=True)
        return (y * cotangent).sum(), (y, states)

    @jax.jit
    def step(values: list, states: list, x: Any, cotangent: Any) -> Any:
        (slopes, slope), (y, states) = jax.grad(loss, (0, 1), has_aux=True)(values, x, states, cotangent)
        moved = [value - task.learning_rate * slope for value, slope in zip(values, slopes, strict=True)]
        return y, slope, slopes, moved, states

    values = [variable.value for variable in model.trainable_variables]
    states = [variable.value for variable in model.non_trainable_variables]
    x, cotangent = _shared_out(task.x), _shared_out(task.cotangent)
    records = [Record(adapter) for _ in range(REPLICAS)]
    for _ in range(task.steps):
        y, slope, slopes, values, states = step(values, states, x, cotangent)
        for number, record in enumerate(records):
            gradients = {name: _of(slopes[trained[id(variables[name])]], number) for name in names}
            state = {
                name: _of(states[frozen[id(variable)]] if is_statistic(name) else values[trained[id(variable)]], number)
                for name, variable in variables.items()
            }
            record.add(_of(y, number), _of(slope, number), gradients, state)
    yield from enumerate(record.results for record in records)


def _shared_out(batch: Any) -> Any:
    """The batch as one array, a part of it on each device: as `fit` hands it to the model."""
    layout = keras.distribution.distribution().get_data_layout(batch.shape)
    return keras.src.distribution.distribution_lib.distribute_tensor(batch, layout)


def _of(value: Any, number: int) -> Any:
    """What a device holds of an array."""
    shards = sorted(value.addressable_shards, key=lambda shard: shard.device.id)
    if len(shards) != REPLICAS:
        raise RuntimeError(f"received an array on {len(shards)} devices; expected {REPLICAS}")
    return np.asarray(shards[number].data)


if __name__ == "__main__":
    main(*sys.argv[1:])
