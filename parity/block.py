"""A block's weights with their meaning: what files hold, what models take, what the harness runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from parity.errors import MissingTensorError, ParityError, SpecError, TensorShapeError, UnexpectedTensorError
from parity.spec import Spec

LISTED = 12  # in one message, at most: no block has more tensors, but a network has hundreds

FLOAT_DTYPES = tuple(np.dtype(kind) for kind in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16))


@dataclass(frozen=True, eq=False)
class Probe:
    """What a block's source made of one input: the proof that its weights still mean the same function.

    Args:
        x: the input, (N, C, *spatial).
        output: what came out, of the same shape.
        source: who computed it: "oracle", "onnxruntime 1.31.1", "timm.layers.SEModule in torch 2.13.0".
    """

    x: np.ndarray
    output: np.ndarray
    source: str


@dataclass(frozen=True, eq=False)
class Block:
    """A named block: its spec, and a NumPy array for each of its canonical parameters.

    Args:
        name: where the block sits: the key prefix of a checkpoint, the path in a model; "" at the root.
        spec: what the weights mean.
        tensors: float64, float32, float16 or bfloat16 arrays by canonical name, in any order and memory layout.
        extras: arrays without canonical meaning that must survive a round trip (PyTorch's ``num_batches_tracked``).
        probe: what the source of the weights made of one input, or None.

    Raises:
        MissingTensorError, UnexpectedTensorError, TensorShapeError: where the tensors are not those of the spec. The
            message lists the first faults of each kind; the class is that of the first kind present.
        SpecError: for a name that is no string, or a spec that is none.

    Example:
        >>> from parity.spec import ECAOptions
        >>> Block("attn", ECAOptions(kernel_size=3).resolve(None), {"conv.kernel": np.ones((1, 1, 3))}).name
        'attn'
    """

    name: str
    spec: Spec
    tensors: Mapping[str, np.ndarray]
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    probe: Probe | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise SpecError(f"received {self.name!r} as a block's name", "a string")
        if not isinstance(self.spec, Spec):
            raise SpecError(f"received {self.spec!r} as the spec of block {self.name!r}", "a parity.spec.Spec")
        tensors = {name: native(value) for name, value in self.tensors.items()}
        extras = {name: native(value) for name, value in self.extras.items()}
        _check_tensors(f"block {self.name!r}", self.spec.parameters(), tensors)
        _check_extras(f"block {self.name!r}", extras)
        if self.probe is not None:
            _check_probe(f"block {self.name!r}", self.spec, self.probe)
        object.__setattr__(self, "tensors", {name: tensors[name] for name in self.spec.parameters()})
        object.__setattr__(self, "extras", extras)


def listed(texts: Iterable[str], sign: str = ", ", most: int = LISTED) -> str:
    """The first of many names, or faults, and how many more there are."""
    every = list(texts)
    return sign.join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def native(value: Any) -> np.ndarray:
    """`value` as an array in this machine's byte order, bit for bit; no copy where none is needed."""
    array = np.asarray(value)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def same_view(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are the same elements at the same addresses; their numbers are not looked at."""
    views = [(array.ctypes.data, array.shape, array.strides, array.dtype) for array in (a, b)]
    return views[0] == views[1]


def kernels_last(name: str, value: np.ndarray) -> np.ndarray:
    """The canonical parameter `name` as Keras and TensorFlow hold it: kernels (out, in, *s) become (*s, in, out)."""
    return np.moveaxis(value, (0, 1), (-1, -2)) if name.endswith("kernel") else value


def kernels_first(name: str, value: np.ndarray) -> np.ndarray:
    """The inverse of `kernels_last`."""
    return np.moveaxis(value, (-1, -2), (0, 1)) if name.endswith("kernel") else value


def _check_tensors(owner: str, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray]) -> None:
    missing = [name for name in shapes if name not in tensors]
    unexpected = [name for name in tensors if name not in shapes]
    wrong = [fault for name in shapes if name in tensors for fault in _faults(name, shapes[name], tensors[name])]
    kinds: list[tuple[type[ParityError], str, list[str]]] = [
        (MissingTensorError, "lacks", missing),
        (UnexpectedTensorError, "has the unexpected", unexpected),
        (TensorShapeError, "has", wrong),
    ]
    present = [kind for kind in kinds if kind[2]]
    if present:
        received = " and ".join(f"{verb} {listed(names)}" for _, verb, names in present)
        raise present[0][0](f"{owner} {received}", f"exactly {listed(shapes)}")


def _faults(name: str, shape: tuple[int, ...], value: np.ndarray) -> list[str]:
    faults = [] if value.shape == shape else [f"{name} of shape {value.shape} instead of {shape}"]
    if value.dtype not in FLOAT_DTYPES:
        faults.append(f"{name} of dtype {value.dtype} instead of {', '.join(map(str, FLOAT_DTYPES))}")
    return faults


def _check_extras(owner: str, extras: Mapping[str, np.ndarray]) -> None:
    for name, value in extras.items():
        if not isinstance(name, str) or "/" in name:
            raise UnexpectedTensorError(f"{owner} has an extra named {name!r}", "a string without '/'")
        if value.dtype.kind not in "biuf" and value.dtype not in FLOAT_DTYPES:
            raise TensorShapeError(f"{owner} has the extra {name} of dtype {value.dtype}", "numbers")


def _check_probe(owner: str, spec: Spec, probe: Any) -> None:
    if not isinstance(probe, Probe) or not isinstance(probe.source, str):
        raise SpecError(f"{owner} has the probe {probe!r}", "a parity.block.Probe")
    for name, value in {"input": probe.x, "output": probe.output}.items():
        if not isinstance(value, np.ndarray) or value.dtype not in FLOAT_DTYPES:
            kind = f"{type(value).__name__} of {getattr(value, 'dtype', 'no dtype')}"
            raise TensorShapeError(f"{owner} has a probe whose {name} is a {kind}", "floating-point arrays")
    spec.check_input(probe.x.shape, "channels_first")
    shape = spec.output_shape(probe.x.shape, "channels_first")
    if probe.output.shape != shape:
        raise TensorShapeError(f"{owner} has a probe whose output is of shape {probe.output.shape}", str(shape))
