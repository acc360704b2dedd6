"""The one judge: what every block means, in NumPy float64, with gradients derived by hand.

>>> from parity.spec import SqueezeExcitationOptions
>>> import numpy as np
>>> spec = SqueezeExcitationOptions(reduction=2, bias=False, gate="identity").resolve(channels=2, spatial_dims=1)
>>> weights = {"fc1.kernel": np.ones((1, 2)), "fc2.kernel": np.ones((2, 1))}
>>> evaluate(spec, weights, np.ones((1, 2, 3)))["output"].value.tolist()
[[[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]]
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from parity.errors import InputError
from parity.oracle._measured import Measured, given
from parity.oracle._norm import zeroed
from parity.oracle._steps import step
from parity.oracle._tape import Taped, gradients_of, margin_of
from parity.spec import NETWORKS, Spec, is_statistic

Weights = dict[str, Measured]

# A way to the gradients of <dy, y> after x and the weights: spec, weights, x, y, the forward's trace, dy, training.
Differentiation = Callable[[Spec, Weights, Measured, Measured, Any, Measured, bool], tuple[Measured, Weights]]


@step
def forward(spec: Spec, weights: Weights, x: Measured, training: bool) -> tuple[Measured, Any]:
    """What the block makes of x, channels first, and what its gradient needs."""
    return _module(spec).forward(spec, weights, x, training)


def _module(spec: Spec) -> Any:
    """The file of a block, or of a network."""
    return importlib.import_module(f"parity.oracle.{'networks.' * (spec.block in NETWORKS)}{spec.block}")


def by_hand(
    spec: Spec, weights: Weights, x: Measured, y: Measured, trace: Any, dy: Measured, training: bool
) -> tuple[Measured, Weights]:
    """The gradients as the block's file derives them; those of inert parameters are exactly zero."""
    dx, gradients = _module(spec).gradient(spec, weights, trace, dy)
    inert = spec.inert(training)
    return dx, {name: zeroed(value) if name in inert else value for name, value in gradients.items()}


def by_tape(
    spec: Spec, weights: Weights, x: Measured, y: Measured, trace: Any, dy: Measured, training: bool
) -> tuple[Measured, Weights]:
    """The gradients of what was computed, whatever it was."""
    names = [name for name in weights if not is_statistic(name)]
    dx, *gradients = map(Taped, gradients_of(y, dy.value, [x, *(weights[name] for name in names)]))
    return dx, dict(zip(names, gradients, strict=True))


def evaluate(
    spec: Spec,
    tensors: Mapping[str, ArrayLike],
    x: ArrayLike,
    *,
    cotangent: ArrayLike | None = None,
    training: bool = False,
    data_format: str = "channels_first",
    steps: int = 0,
    learning_rate: float = 0.0,
    differentiate: Differentiation = by_hand,
) -> dict[str, Measured]:
    """What a block makes of x, by name, each array with its magnitude.

    Args:
        spec: which function.
        tensors: its weights by canonical name; any float type, taken as float64.
        x: the input, in `data_format`.
        cotangent: of the output's shape: adds the gradients of <cotangent, output>.
        training: whether a norm uses and updates its statistics.
        steps: this many steps of gradient descent on the same batch, with `learning_rate`.
        differentiate: `by_hand`, or `by_tape`, which follows replaced steps too and gives no magnitudes. Networks,
            whose files have no gradient, always go by the tape: the magnitude of an array is then its absolute value
            (of an inert parameter's gradient the largest gradient), and its margin is relative to what was compared.

    Returns:
        "output"; of a network in inference mode "layer.<part>" (`NetworkSpec.layers`); with a cotangent "grad.input"
        and "grad.<parameter>"; in training mode "after.<statistic>"; for each step i from 1 "step<i>.<parameter or
        statistic>" after it.

    Raises:
        InputError: for a map, or a cotangent, that does not fit.
    """
    x = np.asarray(x)
    spec.check_input(x.shape, data_format)
    last = data_format == "channels_last"
    derived = hasattr(_module(spec), "gradient")
    differentiate = differentiate if derived else by_tape
    made: Callable[[Any], Measured] = given if differentiate is by_hand else lambda a: Taped(given(a).value)
    source = made(np.moveaxis(x, -1, 1) if last else x)

    def back(value: Measured) -> Measured:
        return value.move(lambda a: np.moveaxis(a, 1, -1)) if last else value

    weights = {name: made(tensors[name]) for name in spec.parameters()}

    y, trace = forward(spec, weights, source, training)
    margin = math.inf if derived else margin_of(y)
    result = {"output": back(y)}
    if not training:
        result |= {f"layer.{name}": back(value) for name, value in getattr(trace, "layers", {}).items()}
    if cotangent is not None:
        dy = given(_cotangent(cotangent, spec.output_shape(x.shape, data_format), last))
        dx, gradients = differentiate(spec, weights, source, y, trace, dy, training)
        result["grad.input"] = back(dx)
        result |= {f"grad.{name}": gradients[name] for name in spec.parameters() if name in gradients}
    # A norm that is left out, or frozen, by mistake updates nothing.
    statistics = [name for name in weights if is_statistic(name)] if training else []
    updated = {name: trace.updated.get(name, weights[name]) for name in statistics}
    result |= {f"after.{name}": value for name, value in updated.items()}
    for number in range(1, steps + 1):
        if number > 1:
            y, trace = forward(spec, weights, source, training)
            margin = margin if derived else min(margin, margin_of(y))
            _, gradients = differentiate(spec, weights, source, y, trace, dy, training)
            updated = {name: trace.updated.get(name, weights[name]) for name in statistics}
        moved = {name: weights[name] - gradient * learning_rate for name, gradient in gradients.items()}
        weights = {name: value.detached() for name, value in (weights | moved | updated).items()}
        result |= {f"step{number}.{name}": value for name, value in weights.items()}
    return result if derived else _judging(spec, result, training, margin)


def _judging(spec: Spec, result: Mapping[str, Measured], training: bool, margin: float) -> dict[str, Measured]:
    """What the tape gave, without the tape, with magnitudes by which it can judge."""
    inert = {f"grad.{name}" for name in spec.inert(training)}
    largest = max(
        (np.abs(value.value).max(initial=0) for name, value in result.items() if "grad." in name), default=0.0
    )
    judging = {}
    for name, value in result.items():
        judging[name] = Measured(value.value, np.abs(value.value), margin)
        if name in inert:
            judging[name] = zeroed(Measured(value.value, np.full_like(value.value, largest), margin))
    return judging


def _cotangent(cotangent: ArrayLike, shape: tuple[int | None, ...], last: bool) -> np.ndarray:
    array = np.asarray(cotangent)
    if array.shape != shape:
        raise InputError(f"received a cotangent of shape {array.shape}", f"the output's shape {shape}")
    return np.moveaxis(array, -1, 1) if last else array


__all__ = ["Measured", "Weights", "by_hand", "by_tape", "evaluate"]
