"""Training as TensorFlow 1 had it: `tf.compat.v1.train` in a graph, updates of norms before the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from attention_tf1compat.adapter import INPUT, OUTPUT, _training_output, write_variables
from parity.spec import InputError, is_statistic

OPTIMIZERS = ("sgd", "adam")

# Of Adam, TensorFlow's own.
BETAS, EPSILON = (0.9, 0.999), 1e-8


class Trainer:
    """A graph whose output are logits, in training; see `parity.backends.Trainer`."""

    def __init__(
        self,
        model: tf.compat.v1.Session,
        variables: Mapping[str, tf.Variable],
        data_format: str,
        optimizer: str,
        learning_rate: float,
        momentum: float,
    ) -> None:
        self.model = model
        self.parameters = {name: variable for name, variable in variables.items() if not is_statistic(name)}
        graph = model.graph
        (x,) = graph.get_collection(INPUT)
        with graph.as_default(), tf.device(x.device):
            logits = _training_output(graph, x, data_format)
            labels = tf.compat.v1.placeholder(tf.int64, (None,), "labels")
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            loss = tf.reduce_mean(losses)
            gradients = tf.gradients(loss, list(self.parameters.values()), unconnected_gradients="zero")
            self.optimizer = made(optimizer, learning_rate, momentum)
            updates = graph.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS)
            # A bias may be read after its own gradient is known: nothing moves before everything is read.
            with tf.control_dependencies([loss, *gradients, *updates]):
                step = self.optimizer.apply_gradients(zip(gradients, self.parameters.values(), strict=True))
            model.run(tf.compat.v1.variables_initializer(self.optimizer.variables()))
        self._step = model.make_callable([loss, step], [x, labels])
        self._predict = model.make_callable(graph.get_collection(OUTPUT)[0], [x])

    def step(self, x: Any, labels: Any) -> float:
        """One step on a batch; its mean cross-entropy before the step."""
        return float(self._step(x, labels)[0])

    def predict(self, x: Any) -> Any:
        """The logits in inference mode."""
        return self._predict(x)

    def velocity(self) -> dict[str, Any]:
        """v of each parameter by name, where a step is v <- momentum v + g and w <- w - rate v."""
        return self.model.run(self._slots())

    def set_velocity(self, values: Mapping[str, Any]) -> None:
        """Go on from this `velocity`."""
        write_variables(self.model, [(slot, values[name]) for name, slot in self._slots().items()])

    def _slots(self) -> dict[str, tf.Variable]:
        return {name: self.optimizer.get_slot(variable, "momentum") for name, variable in self.parameters.items()}


def made(optimizer: str, learning_rate: float, momentum: float) -> tf.compat.v1.train.Optimizer:
    """The optimizer. Python's floats would become float32 here, whatever the weights are: 0.9 is then off by 2e-8."""

    def exact(value: float) -> tf.Tensor:
        return tf.constant(value, tf.float64)

    if optimizer == "sgd":
        return tf.compat.v1.train.MomentumOptimizer(exact(learning_rate), exact(momentum))
    return tf.compat.v1.train.AdamOptimizer(exact(learning_rate), *map(exact, BETAS), exact(EPSILON))


def trainer(
    model: tf.compat.v1.Session,
    variables: Mapping[str, tf.Variable],
    *,
    data_format: str,
    optimizer: str,
    learning_rate: float,
    momentum: float,
) -> Trainer:
    """The graph in training by the framework's own `optimizer`.

    Raises:
        InputError: for an optimizer that this package does not know. A `ValueError`.
    """
    if optimizer not in OPTIMIZERS:
        raise InputError(f"received optimizer {optimizer!r}", f"one of {', '.join(OPTIMIZERS)}")
    return Trainer(model, variables, data_format, optimizer, learning_rate, momentum)
