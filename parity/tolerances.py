"""The only numbers: how far a backend may be from the oracle.

An array agrees when each element is within ``tolerance * max(max|expected|, max magnitude)`` of what the oracle says;
the magnitude is the size of what was added up to make it, so that what cancels to nothing is judged by what was
cancelled (`parity.oracle`).
"""

from __future__ import annotations

from dataclasses import dataclass

# Of the dtypes that probes, networks and recordings are compared in.
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23}

DTYPES = tuple(EPSILON)

HALF_EPSILON = {"bfloat16": 2.0**-7, "float16": 2.0**-10}

# A regular case's comparisons (a maximum, the sign before a ReLU) stay this many epsilons away from going the other
# way.
MARGIN = 256

# The same in half precision, where 256 would be the size of the numbers themselves.
HALF_MARGIN = 8


@dataclass(frozen=True)
class Precision:
    """What a block computes in.

    Args:
        compute: the dtype of the map, the output, the gradient of the map, and what lies between.
        variables: the dtype of the weights and statistics, and of the gradients of the weights.
    """

    compute: str
    variables: str

    @property
    def is_half(self) -> bool:
        """Whether it computes with 16 bits."""
        return self.compute in HALF_EPSILON

    @property
    def epsilon(self) -> float:
        """The distance from 1 to the next number of the compute dtype."""
        return (EPSILON | HALF_EPSILON)[self.compute]

    @property
    def margin(self) -> float:
        """How far, relative to what was added up, the comparisons of a case must be from going the other way."""
        return (HALF_MARGIN if self.is_half else MARGIN) * self.epsilon

    @property
    def floor(self) -> float:
        """The absolute error that is always allowed: the smallest normal number of the compute dtype."""
        return {"float64": 2.0**-1022, "float16": 2.0**-24}.get(self.compute, 2.0**-126)

    def dtype_of(self, name: str) -> str:
        """The dtype of the result `name`."""
        return self.compute if name in ("output", "grad.input") else self.variables


# By the name that a case, `parity.evaluate` and Keras' dtype policies have for them.
PRECISIONS = {name: Precision(name, name) for name in (*EPSILON, *HALF_EPSILON)} | {
    f"mixed_{name}": Precision(name, "float32") for name in HALF_EPSILON
}
HALF_DTYPES = tuple(name for name, precision in PRECISIONS.items() if precision.is_half)

QUANTITIES = ("output", "input gradient", "parameter gradient", "statistic", "step", "network")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        tolerance: relative to the scale of the array.
        measured: the worst error seen, in the same unit; None where nothing has been measured yet.
    """

    tolerance: float
    measured: float | None


def _rows(dtype: str, device: str, **rows: tuple[float, float | None]) -> dict[tuple[str, str, str], Row]:
    """Rows from numbers of epsilons: (tolerance, measured)."""
    unit = PRECISIONS[dtype].epsilon
    return {
        (name.replace("_", " "), dtype, device): Row(allowed * unit, None if worst is None else worst * unit)
        for name, (allowed, worst) in rows.items()
    }


# (quantity, dtype, device). Measured with `parity run` on 2026-11-20: on the CPU over every backend (torch 2.13.0,
# TensorFlow 2.21.0, Keras 3.15.1, JAX 0.10.2), on an NVIDIA H200 over those of torch and JAX (docs/evidence). The worst
# outputs and input gradients are plain sums over a map of 3,136 positions: TensorFlow's on the CPU, JAX's on the GPU.
# A network is a chain of layers whose roundings add up; the worst is timm's ecaresnet26t, ported to Keras.
TABLE: dict[tuple[str, str, str], Row] = {
    **_rows(
        "float64",
        "cpu",
        output=(4096, 11.8),
        input_gradient=(4096, 14.3),
        parameter_gradient=(4096, 13.9),
        statistic=(4096, 1.5),
        step=(4096, 1.9),
        network=(4096, 11.3),
    ),
    **_rows(
        "float32",
        "cpu",
        output=(16, 13.2),
        input_gradient=(32, 13.6),
        parameter_gradient=(32, 7.9),
        statistic=(8, 1.3),
        step=(8, 1.5),
        network=(80, 8.8),
    ),
    **_rows(
        "float64",
        "gpu",
        output=(4096, 79.9),
        input_gradient=(4096, 93.5),
        parameter_gradient=(4096, 13.4),
        statistic=(4096, 0.9),
        step=(4096, 1.9),
        network=(4096, None),
    ),
    **_rows(
        "float32",
        "gpu",
        output=(16, 2.5),
        input_gradient=(16, 2.0),
        parameter_gradient=(16, 2.0),
        statistic=(8, 0.8),
        step=(8, 1.3),
        network=(80, None),
    ),
    **{
        key: row
        for dtype in HALF_DTYPES
        for device in ("cpu", "gpu")
        for key, row in _rows(
            dtype, device, output=(64, None), input_gradient=(64, None), parameter_gradient=(64, None),
            gradient_by_norm=(64, None), statistic=(64, None), step=(64, None)).items()
    },
}


def quantity(name: str) -> str:
    """The kind of a result by its name: "grad.fc1.kernel" is a parameter gradient."""
    if name == "grad.input":
        return "input gradient"
    kinds = {"output": "output", "grad": "parameter gradient", "after": "statistic", "network": "network"}
    return kinds.get(name.partition(".")[0], "step")


def is_gradient(name: str) -> bool:
    """Whether the result `name` is a gradient, or what a step along it led to."""
    return quantity(name) in ("input gradient", "parameter gradient", "step")


def by_norm_tolerance(dtype: str, device: str) -> float:
    """The tolerance for the relative L2 error of a gradient."""
    return TABLE["gradient by norm", dtype, device].tolerance


def tolerance(name: str, dtype: str, device: str) -> float:
    """The tolerance for the result `name`, relative to the scale of its array."""
    return TABLE[quantity(name), dtype, device].tolerance
