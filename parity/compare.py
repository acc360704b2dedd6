"""A result against the oracle: how far off, how much was allowed, and one paragraph that explains a failure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity.oracle import Measured
from parity.tolerances import PRECISIONS, by_norm_tolerance, is_gradient, tolerance


@dataclass(frozen=True)
class Comparison:
    """One array of a result against what was expected.

    Args:
        name: the result's name: "output", "grad.fc1.kernel", ...
        ratio: the worst error as a share of the allowed one; above 1 is a failure, infinite where nothing compares.
        epsilons: the worst error in units of the dtype's epsilon at the scale of the array; by norm, the error's norm
            in such units at the norm of the array.
        condition: how much larger than the array the terms are that were added up to make it.
        failure: empty when they agree, else what is wrong.
        by_norm: whether it was judged by its norm.
    """

    name: str
    ratio: float
    epsilons: float
    condition: float
    failure: str = ""
    by_norm: bool = False

    def to_json(self) -> dict[str, Any]:
        """Everything, for a script."""
        return {name: for_json(value) for name, value in asdict(self).items()}


def for_json(value: Any) -> Any:
    """`value`; a number that JSON has not, as a text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def compare(
    expected: Mapping[str, Measured],
    got: Mapping[str, NDArray],
    *,
    dtype: str,
    device: str,
    by_norm: bool = False,
    network: bool = False,
) -> list[Comparison]:
    """Each expected array against the one of its name; one that is missing, or that nobody expected, is a failure.

    Args:
        expected: what the oracle says, by name.
        got: what a backend says.
        dtype: one of `parity.tolerances.PRECISIONS`.
        device: one of `parity.backends.DEVICES`.
        by_norm: whether gradients, and the steps that follow them, are judged by ``||got - expected|| / ||expected||``:
            where rounding may turn a maximum or the sign before a ReLU, single elements tell nothing.
        network: whether they are of a network, whose rows of the table are its own.
    """
    judged = _Judged(dtype, device, by_norm, network)
    results = [_compare(name, wanted, got.get(name), judged) for name, wanted in expected.items()]
    unexpected = [name for name in got if name not in expected]
    return results + [_broken(name, f"{name}: not expected, but the backend returned it") for name in unexpected]


@dataclass(frozen=True)
class _Judged:
    """How arrays are judged, as `compare` tells."""

    dtype: str
    device: str
    by_norm: bool
    network: bool


def _compare(name: str, expected: Measured, got: NDArray | None, how: _Judged) -> Comparison:
    precision = PRECISIONS[how.dtype]
    if got is None:
        return _broken(name, f"{name}: missing from the result")
    if got.shape != expected.value.shape:
        return _broken(name, f"{name}: got shape {got.shape}, expected {expected.value.shape}")
    if str(got.dtype) != precision.dtype_of(name):
        return _broken(name, f"{name}: got {got.dtype}, expected {precision.dtype_of(name)}")
    got = got.astype(np.float64)
    if how.by_norm and is_gradient(name):
        return _compare_norms(name, expected, got, how)
    size = _largest(expected.value)
    scale = max(size, _largest(expected.magnitude))
    allowed = tolerance(name, how.dtype, how.device, how.network) * scale + precision.floor
    error = _errors(expected.value, got)
    worst = float(error.max(initial=0))
    return Comparison(
        name,
        ratio=_share(worst, allowed),
        epsilons=_share(worst, precision.epsilon * scale),
        condition=scale / size if size else 1.0,
        failure=_explain(name, expected.value, got, error, allowed) if worst > allowed else "",
    )


def _compare_norms(name: str, expected: Measured, got: NDArray, how: _Judged) -> Comparison:
    precision = PRECISIONS[how.dtype]
    # What is not finite is judged by the elements, not by a norm that it would swallow.
    size = _norm(expected.value) or _norm(expected.magnitude)
    error = float(np.linalg.norm(_errors(expected.value, got)))
    tolerated = by_norm_tolerance(how.dtype, how.device, how.network)
    allowed = tolerated * size + precision.floor * math.sqrt(got.size)
    return Comparison(
        name,
        ratio=_share(error, allowed),
        epsilons=_share(error, precision.epsilon * size),
        condition=1.0,
        failure=f"{name}: off by {error:.3g} in the L2 norm, allowed {allowed:.3g}" if error > allowed else "",
        by_norm=True,
    )


def _errors(expected: NDArray, got: NDArray) -> NDArray:
    """How far off each element is: NaN on one side, or infinities that differ, are as wrong as can be; the same on both
    sides is agreement.
    """
    with np.errstate(invalid="ignore"):
        error = np.abs(got - expected)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf))


def _norm(array: NDArray) -> float:
    """Of the finite elements."""
    return float(np.linalg.norm(np.where(np.isfinite(array), array, 0.0)))


def _share(error: float, unit: float) -> float:
    """Where theory says that nothing can be, anything is infinitely wrong."""
    return error / unit if unit else math.inf if error else 0.0


def _largest(array: NDArray) -> float:
    """Of the finite elements: one NaN must not make everything else agree."""
    return float(np.abs(array).max(initial=0, where=np.isfinite(array)))


def _explain(name: str, expected: NDArray, got: NDArray, error: NDArray, allowed: float) -> str:
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), error.shape))
    return (
        f"{name}: {int((error > allowed).sum())} of {error.size} elements differ; the worst at {list(index)}: "
        f"got {got[index]:.9g}, expected {expected[index]:.9g}, off by {error[index]:.3g}, allowed {allowed:.3g}"
    )


def _broken(name: str, failure: str) -> Comparison:
    return Comparison(name, ratio=float("inf"), epsilons=float("inf"), condition=1.0, failure=failure)
