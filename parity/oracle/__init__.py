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
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from parity.errors import InputError
from parity.oracle._measured import Measured, given
from parity.oracle._norm import zeroed
from parity.spec import Spec


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
) -> dict[str, Measured]:
    """What a block makes of x, by name, each array with its magnitude.

    Args:
        spec: which function.
        tensors: its weights by canonical name; any float type, taken as float64.
        x: the input, in `data_format`.
        cotangent: of the output's shape: adds the gradients of <cotangent, output>.
        training: whether a norm uses and updates its statistics.
        steps: this many steps of gradient descent on the same batch, with `learning_rate`.

    Returns:
        "output"; with a cotangent "grad.input" and "grad.<parameter>"; in training mode "after.<statistic>"; for each
        step i from 1 "step<i>.<parameter or statistic>" after it.

    Raises:
        InputError: for a map, or a cotangent, that does not fit.
    """
    module = importlib.import_module(f"parity.oracle.{spec.block}")
    x = np.asarray(x)
    spec.check_input(x.shape, data_format)
    last = data_format == "channels_last"
    source = given(np.moveaxis(x, -1, 1) if last else x)
    back = (lambda a: np.moveaxis(a, 1, -1)) if last else (lambda a: a)
    weights = {name: given(tensors[name]) for name in spec.parameters()}

    y, trace = module.forward(spec, weights, source, training)
    result = {"output": y.move(back)}
    if cotangent is not None:
        dy = _cotangent(cotangent, x.shape, last)
        dx, gradients = _gradients(module, spec, weights, trace, dy, training)
        result["grad.input"] = dx.move(back)
        result |= {f"grad.{name}": gradients[name] for name in spec.parameters() if name in gradients}
    result |= {f"after.{name}": value for name, value in trace.updated.items()}
    for step in range(1, steps + 1):
        if step > 1:
            _, trace = module.forward(spec, weights, source, training)
            _, gradients = _gradients(module, spec, weights, trace, dy, training)
        moved = {name: weights[name] - gradient * learning_rate for name, gradient in gradients.items()}
        weights = weights | moved | trace.updated
        result |= {f"step{step}.{name}": value for name, value in weights.items()}
    return result


def _cotangent(cotangent: ArrayLike, shape: tuple[int, ...], last: bool) -> Measured:
    array = np.asarray(cotangent)
    if array.shape != shape:
        raise InputError(f"received a cotangent of shape {array.shape}", f"the output's shape {shape}")
    return given(np.moveaxis(array, -1, 1) if last else array)


def _gradients(
    module: Any, spec: Spec, weights: dict[str, Measured], trace: Any, dy: Measured, training: bool
) -> tuple[Measured, dict[str, Measured]]:
    dx, gradients = module.gradient(spec, weights, trace, dy)
    inert = spec.inert(training)
    return dx, {name: zeroed(value) if name in inert else value for name, value in gradients.items()}


__all__ = ["Measured", "evaluate"]
