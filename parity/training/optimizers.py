"""The optimisers: what is asked of each framework, and what each of them makes of it, in NumPy float64.

SGD with momentum is one formula in every framework. Adam is not: PyTorch adds its epsilon to the root of the corrected
second moment, TensorFlow and Keras to that of the moment itself ("epsilon hat" in Kingma and Ba, "Adam: A Method for
Stochastic Optimization", ICLR 2015, end of section 2), and their defaults differ, too.

>>> step = SGD.begin("torch")
>>> step({"w": np.array([1.0])}, {"w": np.array([16.0])}), step.velocity
({'w': array([0.])}, {'w': array([16.])})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity.errors import SpecError
from parity.spec import PlainNetworkSpec

Arrays = dict[str, NDArray]

BETAS = (0.9, 0.999)  # of Adam, in every framework


@dataclass(frozen=True)
class AdamFormula:
    """What a framework makes of Adam, unless its users say otherwise.

    Args:
        corrected: whether epsilon is added to the root of the corrected second moment, or to that of the moment itself.
        epsilon: the framework's default.
    """

    corrected: bool
    epsilon: float

    def __str__(self) -> str:
        return f"{'corrected' if self.corrected else 'plain'}, epsilon {self.epsilon:g}"


# By the name that an adapter gives its framework.
ADAM_FORMULAS = {
    "torch": AdamFormula(True, 1e-8),
    "keras": AdamFormula(False, 1e-7),
    "tensorflow": AdamFormula(False, 1e-8),
}


@dataclass(frozen=True)
class Optimizer:
    """What is asked of a framework.

    Args:
        name: "sgd" or "adam".
        learning_rate: a power of two, so that it is the same in every dtype.
        momentum: of SGD.
    """

    name: str
    learning_rate: float
    momentum: float = 0.0

    def begin(self, framework: str, velocity: Mapping[str, NDArray] | None = None) -> Steps:
        """Its steps as `framework` takes them; SGD may go on from a `velocity`."""
        if self.name == "sgd":
            return Descent(self, dict(velocity or {}))
        if framework not in ADAM_FORMULAS:
            raise SpecError(
                f"received framework {framework!r}",
                f"one of {', '.join(ADAM_FORMULAS)}",
                "add its formula to parity.training.optimizers.ADAM_FORMULAS",
            )
        return Adam(self, ADAM_FORMULAS[framework])

    def to_json(self) -> dict[str, Any]:
        """What an adapter's `trainer` takes."""
        return {"optimizer": self.name, "learning_rate": self.learning_rate, "momentum": self.momentum}


SGD = Optimizer("sgd", 2.0**-4, 0.9)
ADAM = Optimizer("adam", 2.0**-7)
OPTIMIZERS = {optimizer.name: optimizer for optimizer in (SGD, ADAM)}

# Of networks with a self-attention that no shortcut passes by: at the full rate their training is chaotic, and
# roundings of float32 grow almost a millionfold within 200 steps.
CALM = 2.0**-2


def optimizer_of(name: str, spec: PlainNetworkSpec) -> Optimizer:
    """The optimizer `name` at the rate at which the network of `spec` learns.

    Raises:
        SpecError: for a name that is none.
    """
    if name not in OPTIMIZERS:
        raise SpecError(f"received optimizer {name!r}", f"one of {', '.join(OPTIMIZERS)}")
    optimizer = OPTIMIZERS[name]
    calm = any(one is not None and one.quadratic for one in spec.attention)
    return replace(optimizer, learning_rate=optimizer.learning_rate * CALM) if calm else optimizer


class Descent:
    """v <- momentum v + g;  w <- w - rate v."""

    def __init__(self, optimizer: Optimizer, velocity: Arrays) -> None:
        self.optimizer, self.velocity = optimizer, velocity

    def __call__(self, weights: Mapping[str, NDArray], gradients: Mapping[str, NDArray]) -> Arrays:
        """The weights after one more step."""
        momentum, rate = self.optimizer.momentum, self.optimizer.learning_rate
        for name, g in gradients.items():
            self.velocity[name] = momentum * self.velocity.get(name, np.zeros_like(g)) + g
        return {name: weights[name] - rate * self.velocity[name] for name in gradients}


class Adam:
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  and w, as the formula has it."""

    def __init__(self, optimizer: Optimizer, formula: AdamFormula) -> None:
        self.velocity: Arrays = {}  # of SGD alone
        self.optimizer, self.formula, self.time = optimizer, formula, 0
        self.moments: dict[str, tuple[NDArray, NDArray]] = {}

    def __call__(self, weights: Mapping[str, NDArray], gradients: Mapping[str, NDArray]) -> Arrays:
        """The weights after one more step."""
        self.time += 1
        (b1, b2), after = BETAS, {}
        # What the moments lack because they began as zeros.
        first, second = 1 - b1**self.time, 1 - b2**self.time
        for name, g in gradients.items():
            m, v = self.moments.get(name, (np.zeros_like(g), np.zeros_like(g)))
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            self.moments[name] = m, v
            if self.formula.corrected:
                change = (m / first) / (np.sqrt(v / second) + self.formula.epsilon)
            else:
                change = (np.sqrt(second) / first) * m / (np.sqrt(v) + self.formula.epsilon)
            after[name] = weights[name] - self.optimizer.learning_rate * change
        return after


Steps = Descent | Adam
