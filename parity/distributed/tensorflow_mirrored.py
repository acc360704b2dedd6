"""Keras on TensorFlow under `tf.distribute.MirroredStrategy`: two virtual CPUs in one process.

The optimizer sums the gradients over the replicas, so the loss is that of each replica's part as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from parity.backends import Adapter
from parity.distributed import _keras
from parity.distributed._replica import REPLICAS, Record, Task, Train, load, parts, serve
from parity.spec import is_statistic


def main(folder: str, backend: str, device: str, rank: str) -> None:
    """Train as both replicas."""

    def begin() -> Train:
        (processor,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)
        strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(REPLICAS)])
        return lambda adapter, task: train(adapter, task, backend, strategy)

    serve(Path(folder), backend, begin)


def train(
    adapter: Adapter, task: Task, backend: str, strategy: tf.distribute.Strategy
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The results of both replicas."""
    with strategy.scope():
        model = _keras.build(backend, task)
        variables = load(adapter, model, task.block).variables
        optimizer = keras.optimizers.SGD(task.learning_rate)
        optimizer.build(model.trainable_variables)
    names = [name for name in variables if not is_statistic(name)]
    x, cotangent = (_shared_out(strategy, batch) for batch in (task.x, task.cotangent))

    @tf.function
    def step(x: Any, cotangent: Any) -> Any:
        return strategy.run(replica, (x, cotangent))

    def replica(x: Any, cotangent: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
            loss = tf.reduce_sum(y * cotangent)
        slope, *slopes = tape.gradient(loss, [x, *(variables[name].value for name in names)])
        by_variable = {id(variables[name]): slope for name, slope in zip(names, slopes, strict=True)}
        optimizer.apply_gradients([(by_variable[id(v)], v) for v in model.trainable_variables])
        total = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, slopes)
        return y, slope, total

    records = [Record(adapter) for _ in range(REPLICAS)]
    for _ in range(task.steps):
        results = step(x, cotangent)
        for number, record in enumerate(records):
            own = tf.nest.map_structure(lambda value: _of(strategy, value, number), results)  # noqa: B023
            state = {name: _of(strategy, variable.value, number) for name, variable in variables.items()}
            record.add(own[0], own[1], dict(zip(names, own[2], strict=True)), state)
    yield from enumerate(record.results for record in records)


def _shared_out(strategy: tf.distribute.Strategy, batch: Any) -> Any:
    """A value that has a part of the batch on each replica."""
    own = parts(batch)
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(own[context.replica_id_in_sync_group])
    )


def _of(strategy: tf.distribute.Strategy, value: Any, number: int) -> Any:
    """What a replica holds of a value."""
    return strategy.experimental_local_results(value)[number].numpy()


if __name__ == "__main__":
    main(*sys.argv[1:])
