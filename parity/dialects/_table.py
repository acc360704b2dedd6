"""What a dialect is: a table of names and layouts, and the two functions that go through it in either direction."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.block import kernels_first, kernels_last
from parity.errors import DialectError, UnexpectedTensorError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """How a foreign tensor lies: a permutation of its elements into the canonical one, and the inverse."""

    ranks: Sequence[int]
    to_canonical: Callable[[np.ndarray], np.ndarray] = lambda w: w
    from_canonical: Callable[[np.ndarray], np.ndarray] = lambda w: w

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of `shape` can lie like this."""
        return len(shape) in self.ranks


@dataclass(frozen=True)
class Pointwise(Layout):
    """A convolution over single positions: its spatial sizes are all one."""

    def accepts(self, shape: Sequence[int]) -> bool:
        return super().accepts(shape) and set(shape[2:]) == {1}


LAYOUTS: dict[str, Layout] = {
    "scalar": Layout((0,)),
    "vector": Layout((1,)),
    "linear": Layout((2,)),  # (out, in)
    "dense": Layout((2,), np.transpose, np.transpose),  # (in, out)
    "conv1x1": Pointwise((4,), lambda w: w[:, :, 0, 0], lambda w: w[:, :, None, None]),  # (out, in, 1, 1)
    "conv": Layout((3, 4, 5)),  # (out, in, *spatial)
    "conv_last": Layout(  # (*spatial, in, out)
        (3, 4, 5), lambda w: kernels_first("kernel", w), lambda w: kernels_last("kernel", w)
    ),
    "swap_planes": Layout((3, 4, 5), lambda w: w[:, ::-1], lambda w: w[:, ::-1]),  # canonical, planes [max, mean]
}


@dataclass(frozen=True)
class Tensor:
    """One row of a dialect's table.

    Args:
        key: the foreign name, without the block's prefix; a ``*`` stands for the part of a layer's name that the
            author of the network chooses, the same text in every row.
        canonical: the canonical parameter.
        layout: a key of `LAYOUTS`, or several, applied from left to right on the way to the canonical layout.
        optional: whether a block may lack it.
        extra: whether it has no canonical meaning and travels in `Block.extras`.
        shape: for what `Spec.infer` does not see, the foreign shape as text: ``"C C 1 1"``. Numbers are sizes, equal
            letters are equal sizes, within the row and between rows.
    """

    key: str
    canonical: str
    layout: str
    optional: bool = False
    extra: bool = False
    shape: str = ""

    @property
    def steps(self) -> list[Layout]:
        """The layouts in the order in which they are applied."""
        return [LAYOUTS[name] for name in self.layout.split()]

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether a foreign tensor of `shape` can be this one."""
        return self.steps[0].accepts(shape)

    def to_canonical(self, value: np.ndarray) -> np.ndarray:
        """The foreign array in canonical layout."""
        if not self.accepts(value.shape):
            raise DialectError(f"received {self.key} of shape {value.shape}", f"the layout {self.layout!r}")
        for step in self.steps:
            value = step.to_canonical(value)
        return value

    def from_canonical(self, value: np.ndarray) -> np.ndarray:
        """The inverse of `to_canonical`."""
        for step in reversed(self.steps):
            value = step.from_canonical(value)
        return value


@dataclass(frozen=True)
class Dialect:
    """How one foreign implementation names and lays out a block's weights, and what its code takes for granted.

    Args:
        id: ``project/class``.
        block: the block that it is, or is nearest to, a key of `parity.spec.SPECS`.
        source: the project and the version whose code this table was read from.
        tensors: the table.
        facts: spec fields that the code fixes; a hint that says otherwise is an error.
        defaults: spec fields as the class has them by default; hints override them.
        doubtful: the defaults that users of the class do set and weights do not show: they are asked for when the
            dialect was detected, and taken when it was named.
        numbered: for layers that Keras names by itself: their names in `tensors`, in the order of creation, and the
            names that Keras gives them (``dense``, ``dense_1``, ...), less the number.
        inline: whether its layers are members of the module around them, so that other tensors lie beside them.
        refused: why its weights cannot become those of `block` without loss; empty where they can. Its table then only
            serves to recognise it.
        detected: whether keys and shapes say enough to look for it where no dialect is named.
    """

    id: str
    block: str
    tensors: tuple[Tensor, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    doubtful: tuple[str, ...] = ()
    numbered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inline: bool = False
    refused: str = ""
    detected: bool = True
    source: str = ""

    @property
    def exactness(self) -> str:
        """What a user may expect of it: ``lossless``, or ``refused: <reason>``."""
        return f"refused: {self.refused}" if self.refused else "lossless"

    @property
    def separator(self) -> str:
        """What stands between a block's name and its keys."""
        return "/" if any("/" in tensor.key for tensor in self.tensors) else "."

    def spelling(self, keys: Sequence[str]) -> dict[str, str]:
        """The key in `keys` of each key of the table, as far as they are there, in either spelling."""
        own = {tensor.key for tensor in self.tensors}
        named = {key: key for key in keys if key in own}
        if named or not self.numbered:
            return named
        layers = _numbered_layers(self.numbered, keys)
        parts = {key: key.partition("/") for key in keys}
        renamed = {f"{layers.get(layer)}/{leaf}": key for key, (layer, _, leaf) in parts.items()}
        return {name: key for name, key in renamed.items() if name in own}


def _numbered_layers(numbered: Mapping[str, tuple[str, ...]], keys: Sequence[str]) -> dict[str, str]:
    """Which of the table's layers each numbered layer is; none where their count differs."""
    names: dict[str, list[str]] = {}
    for layer, kinds in numbered.items():
        for kind in kinds:
            names.setdefault(kind, []).append(layer)
    layers: dict[str, str] = {}
    for kind, ours in names.items():
        theirs = {key.partition("/")[0] for key in keys if re.fullmatch(rf"{kind}(_\d+)?/\w+", key)}
        if len(theirs) == len(ours):
            layers |= dict(zip(sorted(theirs, key=_number), ours, strict=True))
    return layers


def _number(layer: str) -> int:
    return int(layer.rpartition("_")[2]) if "_" in layer else 0


def to_canonical(dialect: Dialect, state: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The tensors and the extras of one block, by canonical name and in canonical layout.

    Weights or gradients of them: layouts are permutations. Keys may be absent; one that the table does not know raises
    `UnexpectedTensorError`.
    """
    spelling = dialect.spelling(list(state))
    unknown = [key for key in state if key not in spelling.values()]
    if unknown:
        raise UnexpectedTensorError(f"received {', '.join(unknown)}", f"keys of the dialect {dialect.id}")
    parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    for tensor in dialect.tensors:
        if tensor.key in spelling:
            parts[tensor.extra][tensor.canonical] = tensor.to_canonical(state[spelling[tensor.key]])
    return parts


def from_canonical(dialect: Dialect, tensors: Arrays, extras: Arrays | None = None) -> dict[str, np.ndarray]:
    """The inverse of `to_canonical`, in the spelling of the table; raises `DialectError` for what it has no key for."""
    rows = {(tensor.canonical, tensor.extra): tensor for tensor in dialect.tensors}
    given = {(name, False): value for name, value in tensors.items()}
    given |= {(name, True): value for name, value in (extras or {}).items()}
    homeless = [name for name, extra in given if (name, extra) not in rows]
    if homeless:
        raise DialectError(f"received {', '.join(homeless)}", f"what the dialect {dialect.id} has keys for")
    return {rows[name].key: rows[name].from_canonical(value) for name, value in given.items()}


def layer(key: str, canonical: str, layout: str, *, bias: bool) -> tuple[Tensor, ...]:
    """The rows of one PyTorch layer: ``<key>.weight`` and, with `bias`, ``<key>.bias``."""
    rows = (Tensor(f"{key}.weight", f"{canonical}.kernel", layout),)
    return (*rows, Tensor(f"{key}.bias", f"{canonical}.bias", "vector")) if bias else rows


def keras_layer(key: str, canonical: str, layout: str, *, bias: bool) -> tuple[Tensor, ...]:
    """The rows of one Keras or TensorFlow layer: ``<key>/kernel`` and, with `bias`, ``<key>/bias``."""
    rows = (Tensor(f"{key}/kernel", f"{canonical}.kernel", layout),)
    return (*rows, Tensor(f"{key}/bias", f"{canonical}.bias", "vector")) if bias else rows


def batch_norm(key: str, canonical: str) -> tuple[Tensor, ...]:
    """The rows of one PyTorch batch norm."""
    leaves = {"weight": "scale", "bias": "offset", "running_mean": "mean", "running_var": "variance"}
    counter = "num_batches_tracked"
    return (
        *(Tensor(f"{key}.{leaf}", f"{canonical}.{ours}", "vector") for leaf, ours in leaves.items()),
        # PyTorch before 0.4.1 wrote none.
        Tensor(f"{key}.{counter}", f"{canonical}.{counter}", "scalar", optional=True, extra=True),
    )
