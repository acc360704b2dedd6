"""The only numbers: how far a backend may be from the oracle.

An array agrees when each element is within ``tolerance * max(max|expected|, max magnitude)`` of what the oracle says;
the magnitude is the size of what was added up to make it, so that what cancels to nothing is judged by what was
cancelled (`parity.oracle`).
"""

from __future__ import annotations

from dataclasses import dataclass

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23}

DTYPES = tuple(EPSILON)

# A regular case's comparisons (a maximum, the sign before a ReLU) stay this many epsilons away from going the other
# way.
MARGIN = 256

QUANTITIES = ("output", "input gradient", "parameter gradient", "statistic", "step")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        tolerance: relative to the scale of the array.
        measured: the worst error seen over the whole matrix, in the same unit, or None where it has not been measured.
    """

    tolerance: float
    measured: float | None


def _epsilons(count: float, measured: float | None, dtype: str = "float32") -> Row:
    return Row(count * EPSILON[dtype], None if measured is None else measured * EPSILON[dtype])


# (quantity, dtype, device).
TABLE: dict[tuple[str, str, str], Row] = {
    ("output", "float64", "cpu"): Row(1e-12, None),
    ("input gradient", "float64", "cpu"): Row(1e-10, None),
    ("parameter gradient", "float64", "cpu"): Row(1e-10, None),
    ("statistic", "float64", "cpu"): Row(1e-12, None),
    ("step", "float64", "cpu"): Row(1e-12, None),
    ("output", "float32", "cpu"): _epsilons(16, None),
    ("input gradient", "float32", "cpu"): _epsilons(16, None),
    ("parameter gradient", "float32", "cpu"): _epsilons(16, None),
    ("statistic", "float32", "cpu"): _epsilons(16, None),
    ("step", "float32", "cpu"): _epsilons(16, None),
}


def quantity(name: str) -> str:
    """The kind of a result by its name: "grad.fc1.kernel" is a parameter gradient."""
    if name == "grad.input":
        return "input gradient"
    kinds = {"output": "output", "grad": "parameter gradient", "after": "statistic"}
    return kinds.get(name.partition(".")[0], "step")


def tolerance(name: str, dtype: str, device: str) -> float:
    """The tolerance for the result `name`, relative to the scale of its array."""
    return TABLE[quantity(name), dtype, device].tolerance
