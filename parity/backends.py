"""The registry of backends: which package, which environment, how it is found."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from parity.errors import BackendMissingError
from parity.modes import PLAIN
from parity.spec import LiveBlock, LiveNetwork, Spec

# The last is a GPU whose float32 products are rounded to TF32 first, as many users' programs have it.
DEVICES = ("cpu", "gpu", "gpu-tf32")
ANY = "any"  # of a worker that only describes what it sees


class Trainer(Protocol):
    """A live model in training. Its loss is the batch's mean cross-entropy, as its framework computes it."""

    def step(self, x: Any, labels: Any) -> float:
        """One step on a batch; the loss before it. A norm uses the batch, and updates its running statistics."""

    def predict(self, x: Any) -> Any:
        """The logits in inference mode."""

    def velocity(self) -> dict[str, Any]:
        """The v of SGD of each parameter by canonical name, in PyTorch's convention whatever the framework's own is: a
        step is v <- momentum v + g and w <- w - rate v.
        """

    def set_velocity(self, values: Mapping[str, Any]) -> None:
        """Go on from this `velocity`."""


class Adapter(Protocol):
    """What a backend's package offers to the harness, as functions of its module ``adapter``.

    Arrays are NumPy; gradients and variables are in the framework's own layout, named by canonical parameter. bfloat16
    comes in as arrays of ml_dtypes, and goes out as those or as its bits, uint16.
    """

    KERNELS_LAST: bool
    """Whether kernels are (*spatial, in, out), as in Keras and TensorFlow, rather than canonical."""

    def describe(self) -> dict[str, Any]:
        """The framework, its version, and its devices: {"cpu": name, "gpu": name}."""

    def prepare(self, tf32: bool) -> dict[str, Any]:
        """Make this process deterministic and, but for TF32 where it is asked for, exact; the switches that it set."""

    def owns(self, model: Any) -> bool:
        """Whether `model` is a live model of this framework."""

    def build(self, spec: Spec, *, shape: tuple[int | None, ...], data_format: str, dtype: str, device: str) -> Any:
        """A live model that is one block, for maps of `shape`, where None is any size; `dtype` is one of
        `parity.tolerances.PRECISIONS`.
        """

    def find_blocks(self, model: Any, wanted: Mapping[str, Spec]) -> dict[str, LiveBlock]:
        """The blocks of a live model by name; `wanted` helps where the model does not carry specs."""

    def find_layers(self, model: Any) -> LiveNetwork:
        """All that holds variables in a live model."""

    def record(
        self, model: Any, inputs: Sequence[Any], names: Collection[str]
    ) -> tuple[list[Any], list[tuple[str, Any, Any]]]:
        """Run a live model in inference mode: its outputs, and (name, input, output) of each call of `names`."""

    def read_variable(self, model: Any, variable: Any) -> Any:
        """The value of a variable; a bfloat16 one as its bits, uint16."""

    def write_variables(self, model: Any, values: Iterable[tuple[Any, Any]]) -> None:
        """Set variables to arrays of their shapes."""

    def stepper(
        self,
        model: Any,
        variables: Mapping[str, Any],
        *,
        training: bool,
        data_format: str,
        learning_rate: float,
        mode: str = PLAIN,
    ) -> Callable[[Any, Any, bool], tuple[Any, dict[str, Any]]]:
        """A function (x, cotangent or None, update) -> (output, gradients of <cotangent, output>), run in `mode`."""

    def trainer(
        self,
        model: Any,
        variables: Mapping[str, Any],
        *,
        data_format: str,
        optimizer: str,
        learning_rate: float,
        momentum: float,
    ) -> Trainer:
        """A live model whose output are logits, in training by the framework's own `optimizer` ("sgd", "adam")."""

    def layer_outputs(self, model: Any, x: Any, names: Collection[str], *, data_format: str) -> dict[str, Any]:
        """What the parts `names` of a network (`parity.spec.NetworkSpec.layers`) give for x: NumPy arrays by name.

        `model` is what `build` made of the network's spec. It runs as in the plain mode, for inference: no statistic
        moves, and what `stepper` gives afterwards is the same. x and the arrays are in `data_format`.
        """


@dataclass(frozen=True)
class Backend:
    """One way to run a block.

    Args:
        id: what users and reports call it.
        package: holds the blocks, and a module ``adapter`` (see `Adapter`).
        requires: the modules that must be installed; the first is the one whose live models it understands.
        environment: variables of its process.
    """

    id: str
    package: str
    requires: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def missing(self) -> list[str]:
        """The required modules that are not installed."""
        return [name for name in self.requires if importlib.util.find_spec(name) is None]

    def adapter(self) -> Adapter:
        """The adapter, imported into this process."""
        return importlib.import_module(f"{self.package}.adapter")  # type: ignore[return-value]


def _keras(style: str, engine: str) -> Backend:
    environment = MappingProxyType({"KERAS_BACKEND": engine})
    return Backend(f"keras-{style}@{engine}", f"attention_keras.{style}", ("keras", engine), environment)


# A new backend is one line here.
BACKENDS: dict[str, Backend] = {
    backend.id: backend
    for backend in (
        Backend("torch", "attention_torch", ("torch",)),
        _keras("functional", "tensorflow"),
        _keras("functional", "jax"),
        _keras("functional", "torch"),
        _keras("layers", "tensorflow"),
        _keras("layers", "jax"),
        _keras("layers", "torch"),
        Backend("tf1compat", "attention_tf1compat", ("tensorflow",)),
    )
}

# Of every worker: one thread and no reordering kernels, so that a run repeats bit by bit; quiet logs; GPU memory taken
# as needed.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}

NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
# XLA folds the factor behind a convolution into cuDNN's, rounded to float32 in float64 too: a hard sigmoid of slope
# 0.2 behind ECA's convolution is then off by 1e-8.
NO_FOLDING = {"XLA_FLAGS": "--xla_disable_hlo_passes=cudnn-fused-convolution-rewriter"}

DEVICE_ENVIRONMENT = {
    # So that a CPU run on a machine with a GPU cannot stray onto it.
    "cpu": NO_TF32 | {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"},
    "gpu": NO_TF32 | NO_FOLDING,
    "gpu-tf32": NO_FOLDING | {"JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32"},
    ANY: {},
}


def kind_of(device: str) -> str:
    """What an adapter knows of one of `DEVICES`: "cpu" or "gpu"."""
    return device.removesuffix("-tf32")


def find(name: str) -> Backend:
    """The backend `name`; raises `BackendMissingError` when there is none, or when its packages are not installed."""
    if name not in BACKENDS:
        raise BackendMissingError(f"received backend {name!r}", f"one of {', '.join(BACKENDS)}")
    missing = BACKENDS[name].missing()
    if missing:
        raise BackendMissingError(
            f"backend {name!r} needs {' and '.join(missing)}, not installed here",
            remedy=f"pip install {' '.join(missing)}, or see `parity doctor`",
        )
    return BACKENDS[name]


def adapter_of(model: Any) -> Adapter | None:
    """The adapter that owns a live model, or None. A framework that nobody imported cannot, and stays unimported."""
    # PyTorch last: on its torch engine, a Keras model is a torch module too.
    for backend in reversed(BACKENDS.values()):
        if backend.requires[0] in sys.modules and not backend.missing():
            adapter = backend.adapter()
            if adapter.owns(model):
                return adapter
    return None
