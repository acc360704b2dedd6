"""What is known of a graph's tensors: which function of which map each is, and what each of its axes runs over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from parity.block import FLOAT_DTYPES
from parity.errors import FormatError

# More axes than a tensor of a block has, and more parts than one of its axes: what has more is followed no further.
MAX_RANK, MAX_PARTS = 16, 16


class Dim:
    """What an axis runs over: the batch, the channels or a spatial axis of a map, or the features of a layer.

    Two axes with the same `Dim` have the same size and the same meaning. Several labels joined by a concatenation make
    one dim with `parts`.
    """

    def __init__(self, size: int | None = None, parts: tuple[Label, ...] = ()) -> None:
        self.parts = parts
        self.size = size
        self.count: int = sum(max(1, sum(dim.count for dim in label)) for label in parts) or 1  # of parts of parts

    def agrees(self, size: int) -> bool:
        """Whether it can have this size; from then on it has."""
        if self.size is None:
            self.size = size
        return self.size == size


Label: TypeAlias = "tuple[Dim, ...]"  # of an axis: several dims where a reshape has merged them, none for a size of one
Axes: TypeAlias = "tuple[Label, ...]"
Entry: TypeAlias = "int | Label | None"  # one size: a number, the sum of the sizes of dims, or unknown


class Room:
    """The bytes that copies of a file's numbers may still take: a small node can ask for another of a large weight."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.left = path, size

    def take(self, size: int) -> None:
        """Raises `FormatError` where there is no more room."""
        self.left -= size
        if self.left < 0:
            raise FormatError(f"{self.path} lays out its weights anew, many times over", "about as much as it holds")


@dataclass(frozen=True, eq=False)
class Const:
    """Numbers that the file holds, in whatever layout; `origin` is the name under which it holds them."""

    array: np.ndarray
    origin: str
    room: Room

    def view(self, array: np.ndarray) -> Const:
        """The same numbers, laid out anew."""
        if not np.may_share_memory(array, self.array):
            self.room.take(array.nbytes)
        return Const(array, self.origin, self.room)

    @property
    def is_float(self) -> bool:
        """Whether a block may hold them."""
        return self.array.dtype in FLOAT_DTYPES


@dataclass(frozen=True, eq=False)
class Sizes:
    """A tensor of sizes that is computed from the shapes of others; `scalar` if it has no axis."""

    entries: tuple[Entry, ...]
    scalar: bool = False


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that is computed from the graph's inputs.

    Args:
        tensor: the tensor whose numbers these are; others may hold the same numbers in another layout.
        axes: what each axis runs over.
        form: how it was made, as far as a block could be made so.
    """

    tensor: str
    axes: Axes
    form: Form | None = None


@dataclass(frozen=True, eq=False)
class Pool:
    """The mean, or the maximum, of a tensor over some of its dims; `doubt` says what the graph leaves open."""

    kind: str
    tensor: str
    reduced: frozenset[Dim]
    doubt: str = ""


@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix (out, in) applied to one dim."""

    inner: Value
    kernel: Const
    bias: Const | None
    contracted: Label
    features: Label  # the label that the result has instead


@dataclass(frozen=True, eq=False)
class Filter:
    """A convolution to one map, "same" padded with zeros."""

    inner: Value
    kernel: Const
    bias: Const | None


@dataclass(frozen=True, eq=False)
class Taps:
    """A convolution of one filter along one axis, "same" padded; kernel (1, 1, k)."""

    inner: Value
    kernel: Const
    bias: Const | None
    padding: str


@dataclass(frozen=True, eq=False)
class Padded:
    """`inner` with `before` and `after` more elements along each axis: "zeros" or "circular"."""

    inner: Value
    mode: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Cut:
    """`inner` from `start` to `stop` along `axis`."""

    inner: Value
    axis: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Norm:
    """Batch norm with running statistics: scale, offset, mean, variance."""

    inner: Value
    tensors: tuple[Const, Const, Const, Const]
    epsilon: float
    update_rate: float


@dataclass(frozen=True, eq=False)
class Linear:
    """slope * inner + offset; `constant` is the array that was added, if nothing else happened."""

    inner: Value
    slope: float
    offset: float
    constant: Const | None = None


@dataclass(frozen=True, eq=False)
class Clamp:
    """scale * clip(slope * inner + offset, low, high)."""

    inner: Value
    slope: float
    offset: float
    low: float
    high: float
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Sigmoid:
    """sigmoid(inner)."""

    inner: Value


@dataclass(frozen=True, eq=False)
class SelfGated:
    """scale * inner * gate(inner): with a sigmoid (`gate` None) or a clamp."""

    inner: Value
    gate: Clamp | None
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Sum:
    """left + right."""

    left: Value
    right: Value


@dataclass(frozen=True, eq=False)
class Product:
    """left * right, one of them broadcast."""

    left: Value
    right: Value


@dataclass(frozen=True, eq=False)
class Join:
    """Tensors one after the other along an axis."""

    parts: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """What a label brought into a joined axis of `inner`."""

    inner: Value
    label: Label


Form: TypeAlias = (
    "Pool | Dense | Filter | Taps | Padded | Cut | Norm | Linear | Clamp | Sigmoid | SelfGated | Sum | Product | Join"
    "| Part"
)
Item: TypeAlias = "Const | Sizes | Value | None"  # None: nothing is known, not even how many axes there are


def fresh(sizes: Sequence[int | None]) -> Axes:
    """Axes that are not those of any other tensor."""
    return tuple((Dim(size),) for size in sizes)


def same(left: Label, right: Label) -> bool:
    """Whether two labels run over the same things, as far as sizes and origins tell."""
    if left == right:
        return True
    features = len(left) == len(right) == 1 and left[0].size is not None
    return features and left[0].size == right[0].size and not left[0].parts and not right[0].parts


def label_size(label: Label) -> int | None:
    """How many elements an axis of this label has; None where a size is not known."""
    sizes = [dim.size for dim in label]
    return None if None in sizes else math.prod(sizes)  # type: ignore[arg-type]


def total(labels: Iterable[Label]) -> Label | None:
    """The dims whose sizes add up to that of labels in a row; None where they do not simply add up."""
    dims: list[Dim] = []
    for label in labels:
        if len(label) != 1:
            return None
        dims += (total(label[0].parts) or label) if label[0].parts else label
    return tuple(dims)


def equals(entry: Entry, labels: Sequence[Label]) -> bool:
    """Whether `entry` is the size of `labels` in a row; one size that nothing else tells is learned from it."""
    if entry is None:
        return False
    if isinstance(entry, int):
        return _learn(entry, labels)
    dims = total(labels)
    if dims is None:
        return False
    return same(dims, entry) or sorted(map(id, dims)) == sorted(map(id, entry))


def _learn(size: int, labels: Sequence[Label]) -> bool:
    known = [label_size(label) for label in labels]
    left = size - sum(number for number in known if number is not None)
    if None not in known:
        return left == 0
    label = labels[known.index(None)]
    return known.count(None) == 1 and len(label) == 1 and left > 0 and label[0].agrees(left)


def reshaped(axes: Axes, entries: Sequence[Entry], allow_zero: bool = False) -> Axes | None:
    """The axes after a reshape to sizes `entries`; None where that scrambles, or is open.

    As in ONNX, 0 is the size that the axis had before, -1 is what is left; so is one unknown size.
    """
    atoms = [dim for label in axes for dim in label]
    shape: list[Entry | list[Dim]] = [-1 if entry is None else entry for entry in entries]
    if shape.count(-1) > 1 or (allow_zero and 0 in shape):
        return None
    # A kept axis may be a merged one: the product of its dims, where a tuple is their sum.
    shape = [list(axes[i]) or 1 if entry == 0 and i < len(axes) else entry for i, entry in enumerate(shape)]
    head = _walk(atoms, shape[: shape.index(-1)] if -1 in shape else shape)
    if head is None or -1 not in shape:
        return head[0] if head is not None and len(head[1]) == 0 else None
    tail = _walk(head[1][::-1], shape[shape.index(-1) + 1 :][::-1])
    if tail is None:
        return None
    return (*head[0], tuple(tail[1][::-1]), *(label[::-1] for label in tail[0][::-1]))


def _walk(atoms: Sequence[Dim], shape: Sequence[Entry | list[Dim]]) -> tuple[Axes, Sequence[Dim]] | None:
    """The labels that sizes one by one take off the front of `atoms`, and what is left."""
    labels: list[Label] = []
    for entry in shape:
        taken = _take(atoms, entry)
        if taken is None:
            return None
        labels.append(tuple(atoms[:taken]))
        atoms = atoms[taken:]
    return tuple(labels), atoms


def _take(atoms: Sequence[Dim], entry: Entry | list[Dim]) -> int | None:
    """How many dims make up an axis of this size; None where none can."""
    if isinstance(entry, list):
        front = list(atoms[: len(entry)])
        return len(entry) if front in (entry, entry[::-1]) else None
    if isinstance(entry, tuple):
        return 1 if atoms and equals(entry, [(atoms[0],)]) else None
    if entry == 1:
        return 1 if atoms and atoms[0].size == 1 else 0
    count, size = 0, 1
    while size != entry:
        if count == len(atoms) or entry is None:
            return None
        known = atoms[count].size
        if known is None:
            return count + 1 if entry % size == 0 and atoms[count].agrees(entry // size) else None
        size, count = size * known, count + 1
        if size > entry:
            return None
    return count


def prefixes(label: Label) -> list[tuple[Sequence[Label], Sequence[Label]]]:
    """For each part of a joined label what lies before it, and that with it."""
    parts = label[0].parts
    return [(parts[:i], parts[: i + 1]) for i in range(len(parts))]
