"""The only numbers: how far a backend may be from the oracle.

An array agrees when each element is within ``tolerance * max(max|expected|, max magnitude)`` of what the oracle says;
the magnitude is the size of what was added up to make it, so that what cancels to nothing is judged by what was
cancelled (`parity.oracle`). A gradient that may hang on a comparison which rounding turns agrees when its relative L2
error is within "gradient by norm". An absolute error of `Precision.floor` is always allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

# Of the dtypes that probes, networks and recordings are compared in.
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23}

DTYPES = tuple(EPSILON)

HALF_EPSILON = {"bfloat16": 2.0**-7, "float16": 2.0**-10}

# Of the factors of float32 products on a GPU that may round them to TF32.
TF32_EPSILON = 2.0**-10

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
        """The absolute error that is always allowed: the smallest normal number of the compute dtype, as TensorFlow and
        JAX flush what is smaller to zero. In float16 nobody does: there it is the smallest step.
        """
        return {"float64": 2.0**-1022, "float16": 2.0**-24}.get(self.compute, 2.0**-126)

    def dtype_of(self, name: str) -> str:
        """The dtype of the result `name`."""
        computed = name in ("output", "grad.input") or name.startswith("layer.")
        return self.compute if computed else self.variables


# By the name that a case, `parity.evaluate` and Keras' dtype policies have for them.
PRECISIONS = {name: Precision(name, name) for name in (*EPSILON, *HALF_EPSILON)} | {
    f"mixed_{name}": Precision(name, "float32") for name in HALF_EPSILON
}
HALF_DTYPES = tuple(name for name, precision in PRECISIONS.items() if precision.is_half)

# The same of networks, relative to the array itself: a ReLU behind some layers is decided when what their roundings
# come to cannot turn it.
NETWORK_MARGIN = 32

# Of the gradients of a network's case: how many times as large as the roundings on the way they may be off.
NETWORK_CONDITION = 64
DEEP_NETWORK_CONDITION = 1024  # in float64 alone

QUANTITIES = ("output", "input gradient", "parameter gradient", "statistic", "step", "network")

# Of the cases of networks (`parity.network_cases`), whose gradients, and the steps along them, are judged by norm. The
# "network" among the others is one that `parity.port` carried across.
NETWORK_QUANTITIES = ("network output", "network layer", "network statistic", "network gradient")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        tolerance: relative to the scale of the array.
        measured: the worst error seen, in the same unit; None where nothing has been measured yet.
    """

    tolerance: float
    measured: float | None


def _rows(
    dtype: str, device: str, unit: float | None = None, **rows: tuple[float, float | None]
) -> dict[tuple[str, str, str], Row]:
    """Rows from numbers of epsilons, or of another `unit`: (tolerance, measured)."""
    unit = unit or PRECISIONS[dtype].epsilon
    return {
        (name.replace("_", " "), dtype, device): Row(allowed * unit, None if worst is None else worst * unit)
        for name, (allowed, worst) in rows.items()
    }


# (quantity, dtype, device). Measured with `parity run`: on the CPU over every backend (torch 2.13.0, TensorFlow 2.21.0,
# Keras 3.15.1, JAX 0.10.2) on 2026-11-20 on an AMD EPYC and on 2026-11-21 on an Intel Xeon, whose wider registers make
# PyTorch's float32 running mean of 1,792 values worse (9.9 epsilons, 1.3 on the other); on 2026-11-20 on an NVIDIA H200
# over the backends of torch and JAX (docs/evidence). The worst
# outputs and input gradients are plain sums over a map of 3,136 positions: TensorFlow's on the CPU, JAX's on GPUs. In
# the GPU's float64 figures up to 80 epsilons are the oracle's, which then added up such maps one by one. A network is a
# chain of layers whose roundings add up; the worst is timm's ecaresnet26t, ported to Keras.
TABLE: dict[tuple[str, str, str], Row] = {
    **_rows(
        "float64",
        "cpu",
        output=(4096, 91.9),
        input_gradient=(4096, 14.3),
        parameter_gradient=(4096, 28.4),
        statistic=(4096, 1.5),
        step=(4096, 2.2),
        network=(4096, 11.3),
    ),
    **_rows(
        "float32",
        "cpu",
        output=(16, 13.2),
        input_gradient=(32, 13.6),
        parameter_gradient=(32, 14.0),
        statistic=(16, 9.9),
        step=(16, 9.9),
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
    **_rows(
        "float64",
        "gpu-tf32",
        output=(4096, None),
        input_gradient=(4096, None),
        parameter_gradient=(4096, None),
        statistic=(4096, None),
        step=(4096, None),
        network=(4096, None),
    ),
    # Not measured on a GPU yet: five times the worst of the standard cases (0.34, 0.32, 0.41, 0.17, 0.17) when the
    # oracle itself rounds the factors of every product with a weight to TF32.
    **_rows(
        "float32",
        "gpu-tf32",
        TF32_EPSILON,
        output=(2, None),
        input_gradient=(2, None),
        parameter_gradient=(2, None),
        statistic=(1, None),
        step=(1, None),
        network=(16, None),
    ),
}

# In half precision the last rounding of a result, half an epsilon, is most of its error, and the few intermediate
# results that are rounded too are the rest: the rows are about twice the worst, which a mistake in a weight or a gate
# still exceeds. What is worse on the CPU is TensorFlow's: it adds up in bfloat16 the gradients of a bias (over 896 rows
# of coordinate attention) and of a convolution's kernel (by norm, over 50,176 positions). By norm, a sum that nearly
# cancels (the offset of a norm of one channel) is a few hundredths off in every backend. Measured with `parity run` on
# 2026-11-20 on the CPU, over more cases than the standard ones; on GPUs not yet.
HALF_TOLERANCES: dict[str, float] = {
    "output": 4,
    "input_gradient": 4,
    "parameter_gradient": 8,
    "gradient_by_norm": 64,
    "statistic": 2,
    "step": 4,
}
HALF_MEASURED: dict[str, tuple[float, ...]] = {
    "bfloat16": (1.2, 1.2, 3.4, 52.0, 0.6, 1.6),
    "float16": (0.9, 1.6, 2.6, 29.7, 0.4, 1.2),
    "mixed_bfloat16": (1.7, 0.9, 4.7, 61.9, 0.4, 0.4),
    "mixed_float16": (1.1, 1.3, 3.2, 27.7, 0.1, 0.1),
}


def _half_rows(dtype: str, device: str) -> dict[tuple[str, str, str], Row]:
    seen = HALF_MEASURED[dtype] if device == "cpu" else (None,) * len(HALF_TOLERANCES)
    pairs = zip(HALF_TOLERANCES.items(), seen, strict=True)
    return _rows(dtype, device, None, **{name: (allowed, worst) for (name, allowed), worst in pairs})


# Of networks, in epsilons: (tolerance, measured). Measured over the whole product on the CPU, with torch 2.13.0 and
# TensorFlow 2.21.0's raw graphs. The worst in float64 are those of fifty layers; of small networks they are a tenth of
# that, gradients a third.
NETWORK_ROWS: dict[str, dict[str, tuple[float, float | None]]] = {
    "float64": {
        "network_output": (4096, 224.6),
        "network_layer": (4096, 253.3),
        "network_statistic": (4096, 32.7),
        "network_gradient": (4096, 1084.1),
    },
    "float32": {
        "network_output": (64, 15.8),
        "network_layer": (64, 12.3),
        "network_statistic": (32, 2.8),
        "network_gradient": (1024, 164.2),
    },
}
# Of TF32, in its epsilons; not measured on a GPU yet. What is near a ReLU's zero turns.
NETWORK_TF32: dict[str, tuple[float, float | None]] = {
    "network_output": (16, None),
    "network_layer": (16, None),
    "network_statistic": (8, None),
    "network_gradient": (256, None),
}


def _network_rows(dtype: str, device: str) -> dict[tuple[str, str, str], Row]:
    if dtype == "float32" and device == "gpu-tf32":
        return _rows(dtype, device, TF32_EPSILON, **NETWORK_TF32)
    rows = {
        name: (allowed, worst if device == "cpu" else None) for name, (allowed, worst) in NETWORK_ROWS[dtype].items()
    }
    return _rows(dtype, device, None, **rows)


for _dtype, _device in product(NETWORK_ROWS, {device for _, _, device in TABLE}):
    TABLE |= _network_rows(_dtype, _device)

for _dtype, _device in product(HALF_DTYPES, {device for _, _, device in TABLE}):
    TABLE |= _half_rows(_dtype, _device)


def quantity(name: str) -> str:
    """The kind of a result by its name: "grad.fc1.kernel" is a parameter gradient."""
    if name == "grad.input":
        return "input gradient"
    kinds = {"output": "output", "grad": "parameter gradient", "after": "statistic", "network": "network"}
    return kinds.get(name.partition(".")[0], "step")


def network_quantity(name: str) -> str:
    """The kind of a network's result by its name: "layer.stem" is a network layer."""
    kinds = {"output": "network output", "layer": "network layer", "after": "network statistic"}
    return kinds.get(name.partition(".")[0], "network gradient")


def is_gradient(name: str) -> bool:
    """Whether the result `name` is a gradient, or what a step along it led to."""
    return quantity(name) in ("input gradient", "parameter gradient", "step")


def by_norm_tolerance(dtype: str, device: str, network: bool = False) -> float:
    """The tolerance for the relative L2 error of a gradient."""
    return TABLE["network gradient" if network else "gradient by norm", dtype, device].tolerance


def tolerance(name: str, dtype: str, device: str, network: bool = False) -> float:
    """The tolerance for the result `name`, of a block or of a network, relative to the scale of its array."""
    return TABLE[network_quantity(name) if network else quantity(name), dtype, device].tolerance


@dataclass(frozen=True)
class Envelope:
    """How far a training may be from the oracle's.

    Args:
        loss: at each step, absolute: a loss begins at 2.3, that of ten classes that are equally likely.
        weights: after the last step, relative to the largest number of each tensor; running statistics, too.
        logits: of the test images, relative to the largest.
        images: how many of the test images may be taken for something else.
    """

    loss: Row
    weights: Row
    logits: Row
    images: int


def _envelope(images: int, **rows: tuple[float, float | None]) -> Envelope:
    return Envelope(**{name: Row(*row) for name, row in rows.items()}, images=images)


# (optimizer, dtype) of `parity.training`, for 200 steps. Roundings grow from step to step as long as training makes
# progress, and faster the larger its steps; so the room above the measured is larger than in the table of blocks.
TRAINING: dict[tuple[str, str], Envelope] = {
    ("sgd", "float64"): _envelope(0, loss=(1e-10, 3.6e-14), weights=(1e-9, 2.7e-13), logits=(1e-9, 4.2e-13)),
    ("adam", "float64"): _envelope(0, loss=(1e-10, 5.2e-14), weights=(1e-9, 3.7e-13), logits=(1e-9, 5.5e-13)),
    ("sgd", "float32"): _envelope(2, loss=(1e-4, 7.3e-6), weights=(1e-3, 1.1e-5), logits=(1e-3, 6.9e-5)),
    ("adam", "float32"): _envelope(2, loss=(1e-4, 1.1e-5), weights=(1e-3, 7.9e-5), logits=(1e-3, 4.5e-5)),
}

# In float32, of a network that takes maxima: which of two numbers is the larger one turns on a rounding once in a
# training or two, and from there on the curves part.
TRAINING_WITH_MAXIMA: dict[tuple[str, str], Envelope] = TRAINING | {
    ("sgd", "float32"): _envelope(36, loss=(0.25, 6.5e-5), weights=(1.0, 9.9e-3), logits=(0.5, 7.0e-4)),
    ("adam", "float32"): _envelope(36, loss=(0.25, 0.034), weights=(1.0, 0.30), logits=(0.5, 0.16)),
}

# How far Adam's formulas lead apart by themselves, in the loss at any step: the oracle's own figures.
ADAM_FORMULAS_APART = Row(0.25, 0.036)


def training_envelope(optimizer: str, dtype: str, with_maxima: bool) -> Envelope:
    """How far a training may be from the oracle's."""
    return (TRAINING_WITH_MAXIMA if with_maxima else TRAINING)[optimizer, dtype]
