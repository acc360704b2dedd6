"""Training as Keras' users do it: `keras.optimizers` and the sparse categorical cross-entropy, compiled where the
engine compiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from attention_keras.adapter import ENGINES, split, write_variables
from parity.spec import InputError, is_statistic

OPTIMIZERS = ("sgd", "adam")

Loss = Callable[[Any, Any], Any]  # of a batch: x, labels
Step = Callable[[Any, Any], Any]  # the same, which also moves the variables


class Trainer:
    """A model whose output are logits, in training; see `parity.backends.Trainer`."""

    def __init__(
        self,
        model: keras.Model,
        variables: Mapping[str, keras.Variable],
        optimizer: str,
        learning_rate: float,
        momentum: float,
    ) -> None:
        self.model = model
        self.names = [name for name in variables if not is_statistic(name)]
        self.parameters, statistics = split(variables)
        dtype = self.parameters[0].dtype
        engine = keras.backend.backend()
        self.device = ENGINES[engine].device(self.parameters[0])
        # The class, not the function of the same name: only it takes a dtype, and else computes in float32.
        entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
        with keras.device(self.device):
            self.optimizer = made(optimizer, learning_rate, momentum, dtype)
            self.optimizer.build(self.parameters)
            compile_step = {"tensorflow": tensorflow_step, "jax": jax_step, "torch": torch_step}[engine]
            self._step = compile_step(
                lambda x, labels: entropy(labels, model(x, training=True)), self.optimizer, self.parameters, statistics
            )

    def step(self, x: Any, labels: Any) -> float:
        """One step on a batch; its mean cross-entropy before the step."""
        with keras.device(self.device):
            return float(ops.convert_to_numpy(self._step(ops.convert_to_tensor(x), ops.convert_to_tensor(labels))))

    def predict(self, x: Any) -> Any:
        """The logits in inference mode."""
        with keras.device(self.device):
            return ops.convert_to_numpy(self.model(ops.convert_to_tensor(x), training=False))

    def velocity(self) -> dict[str, Any]:
        """v of each parameter by name, where a step is v <- momentum v + g and w <- w - rate v. Keras holds -rate v."""
        return {name: ops.convert_to_numpy(slot) / -self._rate() for name, slot in self._slots().items()}

    def set_velocity(self, values: Mapping[str, Any]) -> None:
        """Go on from this `velocity`."""
        slots = self._slots()
        write_variables(self.model, [(slots[name], values[name] * -self._rate()) for name in slots])

    def _slots(self) -> dict[str, keras.Variable]:
        return dict(zip(self.names, self.optimizer.momentums, strict=True))

    def _rate(self) -> float:
        return float(ops.convert_to_numpy(self.optimizer.learning_rate))


def made(optimizer: str, learning_rate: float, momentum: float, dtype: str) -> keras.optimizers.Optimizer:
    """The optimizer. On TensorFlow, Keras casts its floats by way of float32, whatever the weights are: 0.9 is then off
    by 2e-8 in float64. NumPy's keep their digits.
    """
    exact: Callable[[float], float] = np.float64 if dtype == "float64" else float
    if optimizer == "sgd":
        return keras.optimizers.SGD(exact(learning_rate), exact(momentum))
    defaults = keras.optimizers.Adam()
    return keras.optimizers.Adam(exact(learning_rate), exact(defaults.beta_1), exact(defaults.beta_2))


def tensorflow_step(loss: Loss, optimizer: Any, parameters: Sequence, statistics: Sequence) -> Step:
    """As `model.fit` does it on TensorFlow: one `tf.function`."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def step(x: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(x, labels)
        slopes = tape.gradient(value, [one.value for one in parameters], unconnected_gradients="zero")
        optimizer.apply(slopes, parameters)
        return value

    return step


def jax_step(loss: Loss, optimizer: Any, parameters: Sequence, statistics: Sequence) -> Step:
    """As `model.fit` does it on JAX: one pure function of all variables, compiled."""
    import jax

    def forward(values: list, states: list, x: Any, labels: Any) -> tuple[Any, list]:
        mapping = zip([*parameters, *statistics], [*values, *states], strict=True)
        with keras.StatelessScope(list(mapping)) as scope:
            value = loss(x, labels)
        return value, [scope.get_current_value(one) for one in statistics]

    @jax.jit
    def pure(values: list, states: list, slots: list, x: Any, labels: Any) -> tuple[Any, list, list, list]:
        (value, states), slopes = jax.value_and_grad(forward, has_aux=True)(values, states, x, labels)
        values, slots = optimizer.stateless_apply(slots, slopes, values)
        return value, values, states, slots

    groups = (parameters, statistics, optimizer.variables)

    def step(x: Any, labels: Any) -> Any:
        value, *after = pure(*([one.value for one in group] for group in groups), x, labels)
        for group, moved in zip(groups, after, strict=True):
            for variable, one in zip(group, moved, strict=True):
                variable.assign(one)
        return value

    return step


def torch_step(loss: Loss, optimizer: Any, parameters: Sequence, statistics: Sequence) -> Step:
    """As `model.fit` does it on PyTorch: `backward`, and Keras' optimizer."""
    import torch

    def step(x: Any, labels: Any) -> Any:
        value = loss(x, labels)
        slopes = torch.autograd.grad(value, [one.value for one in parameters], materialize_grads=True)
        with torch.no_grad():
            optimizer.apply(slopes, parameters)
        return value.detach()

    return step


def trainer(
    model: keras.Model,
    variables: Mapping[str, keras.Variable],
    *,
    data_format: str,
    optimizer: str,
    learning_rate: float,
    momentum: float,
) -> Trainer:
    """The model in training by Keras' own `optimizer`; x is in the `data_format` that the model was built for.

    Raises:
        InputError: for an optimizer that this package does not know. A `ValueError`.
    """
    if optimizer not in OPTIMIZERS:
        raise InputError(f"received optimizer {optimizer!r}", f"one of {', '.join(OPTIMIZERS)}")
    return Trainer(model, variables, optimizer, learning_rate, momentum)
