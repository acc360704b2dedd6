"""What the oracle makes of a training: NumPy float64 throughout, differentiated by its tape.

>>> from parity.training.networks import initial, network
>>> from parity.training.optimizers import SGD
>>> result = train(initial(network("se")), SGD, "torch", steps=2)
>>> result.losses.shape, result.logits.shape
((2,), (360, 10))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parity import oracle
from parity.block import Block
from parity.oracle._measured import given
from parity.oracle._tape import Taped
from parity.spec import is_statistic
from parity.training.data import Digits, batches, digits
from parity.training.optimizers import Optimizer


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a training.

    Args:
        losses: the batch's mean cross-entropy before each step, (steps,).
        weights: the parameters and running statistics after the last one, by canonical name.
        logits: of the test images, in inference mode.
        velocity: of SGD after the last step: v <- momentum v + g.
    """

    losses: NDArray
    weights: Mapping[str, NDArray]
    logits: NDArray
    velocity: Mapping[str, NDArray]

    @property
    def classes(self) -> NDArray:
        """What the network takes each test image for."""
        return self.logits.argmax(-1)

    @property
    def correct(self) -> int:
        """How many of the test images it takes for what they are."""
        return int((self.classes == digits().test_labels).sum())


def train(block: Block, optimizer: Optimizer, framework: str, *, steps: int) -> Trained:
    """Train the network of `block` as `framework` means `optimizer`.

    Parameters that are inert in training stay where they are: their gradient is exactly zero.
    """
    images = digits()
    from threadpoolctl import threadpool_limits  # scikit-learn brings it

    # Arrays are small: threads of the linear algebra would wait for each other most of the time.
    with threadpool_limits(1):
        return _train(block, optimizer, framework, images, batches(steps))


def _train(block: Block, optimizer: Optimizer, framework: str, images: Digits, chosen_by_step: NDArray) -> Trained:
    spec = block.spec
    weights = {name: np.asarray(value, np.float64) for name, value in block.tensors.items()}
    step, inert, losses = optimizer.begin(framework), spec.inert(True), []
    for chosen in chosen_by_step:
        source = Taped(images.x[chosen])
        tensors: oracle.Weights = {name: Taped(value) for name, value in weights.items()}
        logits, trace = oracle.forward(spec, tensors, source, True)
        loss, cotangent = cross_entropy(logits.value, images.labels[chosen])
        _, found = oracle.by_tape(spec, tensors, source, logits, trace, given(cotangent), True)
        gradients = {name: slope.value for name, slope in found.items() if not is_statistic(name) and name not in inert}
        weights |= {name: value.value for name, value in trace.updated.items()}
        weights |= step(weights, gradients)
        losses.append(loss)
    logits, _ = oracle.forward(
        spec, {name: given(value) for name, value in weights.items()}, given(images.test_x), False
    )
    velocity = {name: step.velocity.get(name, np.zeros_like(value)) for name, value in weights.items()}
    return Trained(np.array(losses), weights, logits.value, velocity if optimizer.name == "sgd" else {})


def cross_entropy(logits: NDArray, labels: NDArray) -> tuple[float, NDArray]:
    """The batch's mean of log sum_j e^(y_j) - y_label, and its gradient after the logits.

    Example:
        >>> loss, gradient = cross_entropy(np.zeros((1, 2)), np.array([1]))
        >>> round(loss, 6), gradient.tolist()
        (0.693147, [[0.5, -0.5]])
    """
    shifted = logits - logits.max(-1, keepdims=True)
    total = np.exp(shifted).sum(-1, keepdims=True)
    hot = np.eye(logits.shape[-1])[labels]
    loss = (np.log(total[:, 0]) - (shifted * hot).sum(-1)).mean()
    return float(loss), (np.exp(shifted) / total - hot) / len(labels)
