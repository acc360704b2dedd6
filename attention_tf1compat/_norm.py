"""Batch norm with both estimators of the running variance."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from attention_tf1compat._block import static_training, variable, widen
from parity.spec import BatchNorm, InputError


def batch_norm(u: tf.Tensor, norm: BatchNorm, training: bool | tf.Tensor, name: str = "norm") -> tf.Tensor:
    """`parity.spec.BatchNorm` over the last axis of u, with variables under the scope `name`.

    In training mode the update of the running statistics joins `tf.compat.v1.GraphKeys.UPDATE_OPS`. A tensor decides
    when the graph runs: inference then computes no moments and updates nothing.
    """
    # Not fused_batch_norm: it refuses float64 and knows the unbiased running variance alone.
    channels = u.shape.as_list()[-1:]
    training = static_training(training)
    with tf.compat.v1.variable_scope(name):
        zeros, ones = tf.compat.v1.zeros_initializer(), tf.compat.v1.ones_initializer()
        gamma = variable("gamma", channels, u.dtype, ones)
        beta = variable("beta", channels, u.dtype, zeros)
        moving = (
            variable("moving_mean", channels, u.dtype, zeros, trainable=False),
            variable("moving_variance", channels, u.dtype, ones, trainable=False),
        )
        # Not counted in inference: an operation that nobody reads would pass for an output of the graph.
        wide, count = widen(u), 0 if training is False else count_values(u)

        def batch_moments() -> tuple[tf.Tensor, tf.Tensor]:
            return moments(wide, count, norm)

        def moving_moments() -> tuple[tf.Tensor, tf.Tensor]:
            return widen(moving[0].read_value()), widen(moving[1].read_value())

        m, v = choose(training, batch_moments, moving_moments)
        if training is not False:
            add_update(moving, (m, v), count, norm, training)
        y = (wide - m) * (widen(gamma) / tf.sqrt(v + norm.epsilon)) + widen(beta)
        return tf.cast(y, u.dtype)


def choose(training: bool | tf.Tensor, true: Any, false: Any) -> Any:
    """true() or false(), decided now if it can be."""
    if isinstance(training, bool):
        return true() if training else false()
    return tf.cond(training, true, false)


def count_values(u: tf.Tensor) -> int | tf.Tensor:
    """The number of values per channel of u, as an int where the shape tells it."""
    count = 1
    for size in u.shape.as_list()[:-1]:
        if size is None:
            return tf.reduce_prod(tf.shape(u, tf.int64)[:-1])
        count *= size
    return count


def moments(u: tf.Tensor, count: int | tf.Tensor, norm: BatchNorm) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean and biased variance of each channel, in two passes: E[u^2] - E[u]^2 would cancel."""
    axes = list(range(u.shape.rank - 1))
    with tf.control_dependencies(check_count(count, norm)):
        m = tf.reduce_mean(u, axes)
        return m, tf.reduce_mean(tf.square(u - m), axes)


def check_count(count: int | tf.Tensor, norm: BatchNorm) -> list[tf.Operation]:
    """Refuse one value per channel: now if the count is known, else by an assertion when the graph runs."""
    if isinstance(count, int):
        norm.check_count(count)
        return []
    try:
        norm.check_count(1)
    except InputError as error:  # for its sentence, which lives in the contract
        return [tf.debugging.assert_greater(count, tf.constant(1, count.dtype), str(error))]
    raise AssertionError("BatchNorm.check_count lets one value per channel pass")


def add_update(
    moving: tuple[tf.Variable, tf.Variable],
    batch: tuple[tf.Tensor, tf.Tensor],
    count: int | tf.Tensor,
    norm: BatchNorm,
    training: bool | tf.Tensor,
) -> None:
    """Add the update of the moving mean and variance to UPDATE_OPS, after the one of an earlier call."""

    def update() -> tf.Tensor:
        m, v = batch
        if norm.unbiased_variance:
            n = count if isinstance(count, int) else tf.cast(count, v.dtype)
            v = v * (n / (n - 1))
        with tf.control_dependencies([step(moving[0], m, norm), step(moving[1], v, norm)]):
            return tf.constant(True, name="updated")

    # Two calls that share a scope both count, as a torch module called twice: the second reads what the first wrote.
    graph = tf.compat.v1.get_default_graph()
    earlier = getattr(moving[0], "_attention_update", None)
    with tf.control_dependencies([earlier] if earlier is not None and earlier.graph is graph else []):
        if not isinstance(training, bool):
            # Branches of the old control flow drop control inputs from outside, but wait for their predicate.
            training = tf.identity(training)
        latest = choose(training, update, lambda: tf.constant(False, name="kept")).op
    # On the variable, and not in a dictionary of graphs, so that it lives as long as its graph.
    moving[0]._attention_update = latest
    tf.compat.v1.add_to_collection(tf.compat.v1.GraphKeys.UPDATE_OPS, latest)


def step(variable: tf.Variable, value: tf.Tensor, norm: BatchNorm) -> tf.Operation:
    """Move a running statistic towards that of the batch."""
    old = widen(variable.read_value())
    return variable.assign(tf.cast(old + norm.update_rate * (value - old), variable.dtype), read_value=False)
