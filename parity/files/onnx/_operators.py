"""What each operator makes of what is known: one pass over the nodes, in order, without recursion.

An operator that no block is made of, or that is used as none uses it, gives a tensor of unknown origin. So whatever is
recognised has been followed through every operator between, under whatever spelling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from parity.errors import FormatError, ParityError
from parity.files.onnx._model import Graph, Node, array
from parity.files.onnx._values import (
    MAX_PARTS,
    MAX_RANK,
    Axes,
    Clamp,
    Const,
    Cut,
    Dense,
    Dim,
    Entry,
    Filter,
    Form,
    Item,
    Join,
    Label,
    Linear,
    Norm,
    Padded,
    Part,
    Pool,
    Product,
    Room,
    SelfGated,
    Sigmoid,
    Sizes,
    Sum,
    Taps,
    Value,
    equals,
    fresh,
    label_size,
    prefixes,
    reshaped,
    same,
    total,
)

HUGE = 2**31 - 1  # exporters write "to the end" as any number from here on
LARGEST = 2**63 - 1  # of the sizes that a graph can compute
# What copies of weights may take: these times the bytes of the file, and this much for nothing.
COPIES, FREE_BYTES = 4, 1 << 24
UNBOUNDED = 3e38  # and "no bound" as the largest float32


def _operators(names: str) -> frozenset[str]:
    return frozenset(names.split())


# Operators that keep the shape of their first input, and of which no block is made.
ELEMENTWISE = _operators(
    """Abs Celu Ceil Cos Elu Erf Exp Floor Gelu InstanceNormalization GroupNormalization LayerNormalization LeakyRelu
    Log LpNormalization LRN MeanVarianceNormalization Mish Neg PRelu QuantizeLinear DequantizeLinear Reciprocal Round
    Selu Sign Sin Softmax LogSoftmax Hardmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu"""
)
# Those that keep the number of axes of their first input.
SAME_RANK = _operators(
    """AveragePool MaxPool LpPool GlobalLpPool Resize Upsample Slice Pad Concat Tile DepthToSpace SpaceToDepth CumSum
    ReverseSequence ScatterND Trilu Split"""
)
BROADCAST = _operators("Add Sub Mul Div Pow Min Max PRelu Where And Or Mod")


ItemT = TypeVar("ItemT", bound=Item)


class Walk:
    """What is known of each tensor of a graph.

    `layouts` has the axes of each tensor as its node made it, whatever other layouts its numbers are used in later.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.room = Room(graph.path, FREE_BYTES + COPIES * graph.size)
        self.items: dict[str, Item] = {name: Const(value, name, self.room) for name, value in graph.weights.items()}
        self.layouts: dict[str, Axes] = {}
        self.makers: dict[str, Node] = {}
        for name in graph.inputs:
            self.items[name] = self.unknown(name, None)

    def step(self, node: Node) -> None:
        """Take in the outputs of `node`."""
        if not node.outputs or not node.outputs[0]:
            return
        self.makers |= dict.fromkeys(node.outputs, node)
        try:
            self._take_in(node)
        except ParityError:
            raise
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise FormatError(
                f"{self.graph.path}: {node} cannot be read ({error})", "inputs and attributes of its operator"
            ) from error

    def _take_in(self, node: Node) -> None:
        results = OPERATORS[node.op](self, node) if node.op in OPERATORS else None
        results = results if isinstance(results, list) else [results]
        for name, result in zip(node.outputs, [*results, *[None] * len(node.outputs)], strict=False):
            known = result is not None and not (isinstance(result, Value) and len(result.axes) > MAX_RANK)
            self.items[name] = self._placed(name, result) if known else self.unknown(name, node)

    def get(self, node: Node, position: int) -> Item:
        """What is known of an input; None for an absent one."""
        names = node.inputs
        return self.items.get(names[position]) if position < len(names) and names[position] else None

    def value(self, node: Node, position: int = 0) -> Value | None:
        """The input, if it is computed from the graph's inputs."""
        item = self.get(node, position)
        return item if isinstance(item, Value) else None

    def const(self, node: Node, position: int) -> Const | None:
        """The input, if the file holds it."""
        item = self.get(node, position)
        return item if isinstance(item, Const) else None

    def has(self, node: Node, position: int) -> bool:
        """Whether the input is given at all."""
        return position < len(node.inputs) and bool(node.inputs[position])

    def make(self, node: Node, axes: Axes, form: Form | None, output: int = 0) -> Value:
        """A tensor with numbers of its own."""
        return Value(node.outputs[output], axes, form)

    def unknown(self, name: str, node: Node | None) -> Value | None:
        """A tensor of which no more than its axes is known, or not even these."""
        stated = self.graph.shapes.get(name)
        axes = self._axes(node) if node else None
        if axes is None and stated is not None:
            axes = fresh(stated)
        return None if axes is None or len(axes) > MAX_RANK else self._placed(name, Value(name, axes))

    def _placed(self, name: str, item: ItemT) -> ItemT:
        if isinstance(item, Value):
            self.layouts.setdefault(item.tensor, item.axes)
            stated = self.graph.shapes.get(name, ())
            for label, size in zip(item.axes, stated, strict=False):
                if size is not None and len(label) == 1 and len(stated) == len(item.axes):
                    label[0].agrees(size)
        return item

    def _axes(self, node: Node) -> Axes | None:
        """The axes of the first output of an operator of which no block is made."""
        x = self.value(node)
        if node.op == "Conv" and (kernel := self.const(node, 1)) is not None and kernel.array.ndim > 2:
            outputs, _, *sizes = kernel.array.shape
            if x is None or len(x.axes) != kernel.array.ndim:
                return fresh([None, outputs, *[None] * len(sizes)])
            return (x.axes[0], (Dim(outputs),), *_moved_over(node, x, sizes))
        if node.op == "ConvTranspose" and (kernel := self.const(node, 1)) is not None:
            return fresh([None] * kernel.array.ndim)
        if node.op in BROADCAST:
            return broadcast([self.get(node, position) for position in range(len(node.inputs))])
        if node.op == "Reshape" and (shape := self.sizes(node, 1)) is not None:
            return fresh([entry if isinstance(entry, int) and entry > 0 else None for entry in shape.entries])
        if x is None:
            return None
        if node.op in ELEMENTWISE | KEEPING:
            return x.axes
        if node.op in ("AveragePool", "MaxPool") and len(node.attributes.get("kernel_shape", ())) == len(x.axes) - 2:
            return (*x.axes[:2], *_moved_over(node, x, node.attributes["kernel_shape"]))
        if node.op == "Transpose":
            return tuple(x.axes[i] for i in _permutation(node, len(x.axes)) or range(len(x.axes)))
        return fresh([None] * len(x.axes)) if node.op in SAME_RANK else None

    def sizes(self, node: Node, position: int) -> Sizes | None:
        """The input as sizes: computed from shapes, or integers in the file."""
        item = self.get(node, position)
        if isinstance(item, Const) and item.array.dtype.kind in "iu" and item.array.ndim < 2 and item.array.size < 64:
            return Sizes(tuple(int(entry) for entry in np.atleast_1d(item.array)), scalar=item.array.ndim == 0)
        return item if isinstance(item, Sizes) else None

    def integers(self, node: Node, name: str, position: int) -> list[int] | None:
        """An attribute, in later versions of its operator an input, that holds integers; None where it is absent."""
        if name in node.attributes:
            given = node.attributes[name]
            return list(given) if isinstance(given, Sequence) and not isinstance(given, bytes) else [given]
        sizes = self.sizes(node, position)
        if sizes is None or not all(isinstance(entry, int) for entry in sizes.entries):
            return None
        return [entry for entry in sizes.entries if isinstance(entry, int)]


def broadcast(items: Sequence[Item]) -> Axes | None:
    """The axes of what elementwise arithmetic makes of `items`; None where one has unknown axes."""
    lists: list[Axes] = []
    for item in items:
        if isinstance(item, Value):
            lists.append(item.axes)
        elif isinstance(item, Const):
            lists.append(tuple((Dim(size),) if size != 1 else () for size in item.array.shape))
        else:
            return None
    rank = max(map(len, lists), default=0)
    padded = [((),) * (rank - len(axes)) + tuple(axes) for axes in lists]
    return tuple(_broadcast_label(labels) for labels in zip(*padded, strict=True))


def _broadcast_label(labels: Sequence[Label]) -> Label:
    wide = [label for label in labels if label and label_size(label) != 1]
    if not wide:
        return next((label for label in labels if label), ())
    first = wide[0]
    if all(same(first, label) for label in wide[1:]):
        return first
    return (Dim(next((label_size(label) for label in wide if label_size(label) is not None), None)),)


# Numbers


def number(value: Any, dtype: Any = np.float32) -> float:
    """A number of the file as its author wrote it: the simplest that rounds to it, 1/6 included."""
    kind = np.dtype(dtype).type
    if kind is np.float64 or not np.isfinite(value):
        return float(value)
    return 1 / 6 if kind(1 / 6) == kind(value) else float(str(kind(value)))


def _scalar(item: Item) -> float | None:
    if not isinstance(item, Const) or item.array.size != 1 or not item.is_float:
        return None
    return number(item.array.reshape(())[()], item.array.dtype)


# Layout


def _relabelled(x: Value, axes: Axes) -> Value:
    return Value(x.tensor, axes, x.form)


def _identity(walk: Walk, node: Node) -> Item:
    return walk.get(node, 0)


def _cast(walk: Walk, node: Node) -> Item:
    item = walk.get(node, 0)
    if isinstance(item, Const):  # the same numbers, unless there is less room for them
        target = _cast_target(node)
        if item.is_float and target is not None:
            return item if target.itemsize >= item.array.dtype.itemsize else None
        return item if item.array.dtype.kind in "iu" and target is not None and target.kind in "iu" else None
    if isinstance(item, Sizes):
        return item
    target = _cast_target(node)
    return item if target is not None and target.kind not in "iub" else None


def _cast_target(node: Node) -> np.dtype | None:
    from onnx import helper

    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(node.attributes.get("to", 0)))
    except (KeyError, TypeError, ValueError):
        return None


def _dropout(walk: Walk, node: Node) -> Item:
    mode = walk.get(node, 2)
    training = isinstance(mode, Const) and mode.array.size == 1 and not mode.array.reshape(())[()]
    return walk.get(node, 0) if mode is None or training else None


def _constant(walk: Walk, node: Node) -> Item:
    given = node.attributes
    if "value" in given:
        return Const(array(walk.graph.path, given["value"]), node.outputs[0], walk.room)
    for name, dtype in {"value_float": np.float32, "value_floats": np.float32}.items():
        if name in given:
            return Const(np.asarray(given[name], dtype), node.outputs[0], walk.room)
    for name in ("value_int", "value_ints"):
        if name in given:
            return Const(np.asarray(given[name], np.int64), node.outputs[0], walk.room)
    return None


def _permutation(node: Node, rank: int) -> list[int] | None:
    order = list(node.attributes.get("perm", range(rank)[::-1]))
    return order if sorted(order) == list(range(rank)) else None


def _transpose(walk: Walk, node: Node) -> Item:
    item = walk.get(node, 0)
    if not isinstance(item, Value | Const):
        return None
    rank = len(item.axes) if isinstance(item, Value) else item.array.ndim
    order = _permutation(node, rank)
    if order is None:
        return None
    if isinstance(item, Const):
        return item.view(item.array.transpose(order))
    return _relabelled(item, tuple(item.axes[axis] for axis in order))


def _squeeze(walk: Walk, node: Node) -> Item:
    item, axes = walk.get(node, 0), walk.integers(node, "axes", 1)
    if isinstance(item, Sizes):
        return Sizes(item.entries, scalar=True) if len(item.entries) == 1 else None
    if item is None or axes is None:
        return None
    rank = len(item.axes) if isinstance(item, Value) else item.array.ndim
    places = {axis % rank for axis in axes} if rank else set()
    if isinstance(item, Const):
        fits = all(item.array.shape[place] == 1 for place in places)
        return item.view(item.array.reshape(_without(item.array.shape, places))) if fits else None
    if any(item.axes[place] and label_size(item.axes[place]) != 1 for place in places):
        return None
    return _relabelled(item, _without(item.axes, places))


def _without(things: tuple[Any, ...], places: set[int]) -> tuple[Any, ...]:
    return tuple(thing for place, thing in enumerate(things) if place not in places)


def _unsqueeze(walk: Walk, node: Node) -> Item:
    item, axes = walk.get(node, 0), walk.integers(node, "axes", 1)
    if isinstance(item, Sizes):
        return Sizes(item.entries) if item.scalar else None
    if item is None or axes is None:
        return None
    rank = (len(item.axes) if isinstance(item, Value) else item.array.ndim) + len(axes)
    places = {axis % rank for axis in axes}
    if rank > MAX_RANK or len(places) != len(axes):
        return None
    if isinstance(item, Const):
        left = iter(item.array.shape)
        return item.view(item.array.reshape([1 if place in places else next(left) for place in range(rank)]))
    labels = iter(item.axes)
    return _relabelled(item, tuple(() if place in places else next(labels) for place in range(rank)))


def _reshape(walk: Walk, node: Node) -> Item:
    item, shape = walk.get(node, 0), walk.sizes(node, 1)
    if "shape" in node.attributes:  # before version 5 of the operator
        shape = Sizes(tuple(node.attributes["shape"]))
    if shape is None or item is None:
        return None
    if isinstance(item, Sizes):
        return Sizes(item.entries) if len(shape.entries) == 1 else None
    zero = bool(node.attributes.get("allowzero", 0))
    if isinstance(item, Value):
        axes = reshaped(item.axes, shape.entries, zero)
        return None if axes is None else _relabelled(item, axes)
    sizes = [
        item.array.shape[i] if entry == 0 and i < item.array.ndim else entry for i, entry in enumerate(shape.entries)
    ]
    try:
        array = item.array.reshape([size for size in sizes if isinstance(size, int)])
    except (ValueError, TypeError):
        return None
    return item.view(array)


def _flatten(walk: Walk, node: Node) -> Item:
    x, axis = walk.value(node), node.attributes.get("axis", 1)
    if x is None or not -len(x.axes) <= axis <= len(x.axes):
        return None
    axis = axis % len(x.axes) if axis < 0 else axis
    return _relabelled(
        x, tuple(tuple(dim for label in part for dim in label) for part in (x.axes[:axis], x.axes[axis:]))
    )


def _expand(walk: Walk, node: Node) -> Item:
    """The same numbers; what they are spread over is seen where they meet the map."""
    x, shape = walk.value(node), walk.sizes(node, 1)
    if x is None:
        return None
    stated = walk.graph.shapes.get(node.outputs[0])
    rank = len(shape.entries) if shape else len(stated) if stated else None
    return None if rank is None else _relabelled(x, ((),) * max(0, rank - len(x.axes)) + x.axes)


# Sizes


def _shape(walk: Walk, node: Node) -> Item:
    x = walk.value(node)
    if x is None:
        return None
    entries: list[Entry] = [1 if not label else total([label]) for label in x.axes]
    start, end = node.attributes.get("start", 0), node.attributes.get("end", len(entries))
    return Sizes(tuple(entries[start:end]))


def _gather(walk: Walk, node: Node) -> Item:
    item, index = walk.get(node, 0), walk.sizes(node, 1)
    if index is None or not all(isinstance(entry, int) for entry in index.entries):
        return None
    places = [entry for entry in index.entries if isinstance(entry, int)]
    if isinstance(item, Sizes):
        if not all(-len(item.entries) <= place < len(item.entries) for place in places):
            return None
        return Sizes(tuple(item.entries[place] for place in places), index.scalar)
    if not isinstance(item, Value) or not item.axes or places not in ([0], [-1]):
        return None
    axis = node.attributes.get("axis", 0) % len(item.axes)
    if item.axes[axis]:
        return None
    return _relabelled(item, _without(item.axes, {axis})) if index.scalar else item


def _arithmetic_of_sizes(walk: Walk, node: Node) -> Item:
    left, right = walk.sizes(node, 0), walk.sizes(node, 1)
    if left is None or right is None or len(left.entries) != len(right.entries):
        return None
    pairs = zip(left.entries, right.entries, strict=True)
    return Sizes(tuple(_entry(node.op, a, b) for a, b in pairs), left.scalar and right.scalar)


def _entry(op: str, left: Entry, right: Entry) -> Entry:
    if left is None or right is None:
        return None
    if isinstance(left, int) and isinstance(right, int):
        if op == "Div":
            return left // right if right > 0 and left >= 0 else None
        size = {"Add": left + right, "Sub": left - right, "Mul": left * right}[op]
        return size if abs(size) <= LARGEST else None
    if op == "Add":
        if isinstance(left, tuple) and isinstance(right, tuple):
            return (*left, *right) if len(left) + len(right) < MAX_PARTS else None
        return left if right == 0 else right if left == 0 else None
    if op == "Sub" and isinstance(left, tuple):
        rest = list(left)
        for dim in right if isinstance(right, tuple) else ():
            if dim not in rest:
                return None
            rest.remove(dim)
        return tuple(rest) if rest and (isinstance(right, tuple) or right == 0) else None
    return None


# Pools


def _reduce(kind: str) -> Callable[[Walk, Node], Item]:
    def pool(walk: Walk, node: Node) -> Item:
        x, axes = walk.value(node), walk.integers(node, "axes", 1)
        if x is None or not axes or not all(-len(x.axes) <= axis < len(x.axes) for axis in axes):
            return None
        return _pool(walk, node, kind, x, {axis % len(x.axes) for axis in axes}, node.attributes.get("keepdims", 1))

    return pool


def _global(kind: str) -> Callable[[Walk, Node], Item]:
    def pool(walk: Walk, node: Node) -> Item:
        x = walk.value(node)
        return None if x is None else _pool(walk, node, kind, x, set(range(2, len(x.axes))), True)

    return pool


def _window(kind: str) -> Callable[[Walk, Node], Item]:
    """A pool with a window, where the window is as large as the map along each axis that it moves along."""

    def pool(walk: Walk, node: Node) -> Item:
        x, kernel = walk.value(node), node.attributes.get("kernel_shape", [])
        if x is None or len(kernel) != len(x.axes) - 2 or len(node.outputs) > 1:
            return None
        if any(node.attributes.get("pads", [])) or node.attributes.get("auto_pad", b"NOTSET") not in (
            b"NOTSET",
            b"VALID",
        ):
            return None
        if set(node.attributes.get("dilations", [])) - {1}:
            return None
        strides, doubt, places = node.attributes.get("strides", [1] * len(kernel)), "", set()
        for axis, (size, stride) in enumerate(zip(kernel, strides, strict=False), 2):
            known = label_size(x.axes[axis])
            if size == 1 and (stride == 1 or known == 1):
                continue
            if known is None:
                doubt = f"{node} covers {list(kernel)} positions of a map whose size the graph does not tell"
            elif known != size:
                return None
            places.add(axis)
        return _pool(walk, node, kind, x, places, True, doubt) if places else None

    return pool


def _pool(walk: Walk, node: Node, kind: str, x: Value, places: set[int], keep: bool, doubt: str = "") -> Item:
    dims = frozenset(dim for place in places for dim in x.axes[place])
    form = Pool(kind, x.tensor, dims, doubt)
    if isinstance(x.form, Pool) and x.form.kind == kind:  # one axis after the other
        form = Pool(kind, x.form.tensor, dims | x.form.reduced, doubt or x.form.doubt)
    axes = tuple(() if place in places else label for place, label in enumerate(x.axes))
    return walk.make(node, axes if keep else _without(axes, places), form)


# Layers


def _conv(walk: Walk, node: Node) -> Item:
    x, kernel, bias = walk.value(node), walk.const(node, 1), walk.const(node, 2)
    if x is None or kernel is None or not kernel.is_float or kernel.array.ndim != len(x.axes) or kernel.array.ndim < 3:
        return None
    if walk.has(node, 2) and not _is_bias(bias, kernel.array.shape[0]):
        return None
    if node.attributes.get("group", 1) != 1 or {
        *node.attributes.get("strides", []),
        *node.attributes.get("dilations", []),
    } - {1}:
        return None
    outputs, inputs, *sizes = kernel.array.shape
    pads = _pads(node, sizes)
    if pads is None:
        return None
    inner, mode = x, "zeros"
    if isinstance(x.form, Padded) and not any(x.form.before[:2] + x.form.after[:2]):
        before, after = x.form.before[2:], x.form.after[2:]
        mode = x.form.mode
        if mode == "circular" and any(pads):
            return None
        pads = [a + b for a, b in zip(pads, (*before, *after), strict=True)]
        inner = x.form.inner
    if not all(size % 2 for size in sizes) or pads != [size // 2 for size in sizes] * 2:
        return None
    if inputs == outputs == 1 and not inner.axes[1] and sum(bool(label) for label in inner.axes[2:]) == 1:
        return _taps(walk, node, inner, kernel, bias, mode)
    if mode != "zeros" or not _holds(inner.axes[1], inputs):
        return None
    if set(sizes) == {1}:
        return _dense(walk, node, inner, 1, kernel.view(kernel.array.reshape(outputs, inputs)), bias)
    if outputs == 1 and len(set(sizes)) == 1:
        axes = (inner.axes[0], (), *inner.axes[2:])
        return walk.make(node, axes, Filter(inner, kernel, bias))
    return None


def _moved_over(node: Node, x: Value, sizes: Sequence[int]) -> Axes:
    """The spatial axes after a window of `sizes` has moved over x: the same where it keeps them, else of known size."""
    ones = [1] * len(sizes)
    pads, strides = _pads(node, sizes), node.attributes.get("strides", ones)
    if pads is None or node.attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or node.attributes.get("ceil_mode"):
        return fresh([None] * len(sizes))
    axes: list[Label] = []
    for i, (label, dilation) in enumerate(zip(x.axes[2:], node.attributes.get("dilations", ones), strict=True)):
        grown, known = pads[i] + pads[i + len(sizes)] - dilation * (sizes[i] - 1), label_size(label)
        free = None if known is None else known + grown - 1
        count = None if free is None or free < 0 else free // strides[i] + 1
        axes.append(label if grown == 0 and strides[i] == 1 else (Dim(count),))
    return tuple(axes)


def _taps(walk: Walk, node: Node, x: Value, kernel: Const, bias: Const | None, mode: str) -> Item:
    sizes = kernel.array.shape[2:]
    if any(size > 1 and not label for size, label in zip(sizes, x.axes[2:], strict=True)):
        return None
    if any(size == 1 and label for size, label in zip(sizes, x.axes[2:], strict=True)) and math.prod(sizes) > 1:
        return None
    form = Taps(x, kernel.view(kernel.array.reshape(1, 1, -1)), bias, mode)
    return walk.make(node, x.axes, form)


def _pads(node: Node, sizes: Sequence[int]) -> list[int] | None:
    auto = node.attributes.get("auto_pad", b"NOTSET")
    if auto in (b"NOTSET", b""):
        pads = list(node.attributes.get("pads", [0] * 2 * len(sizes)))
        return pads if len(pads) == 2 * len(sizes) else None
    if auto == b"VALID":
        return [0] * 2 * len(sizes)
    return [size // 2 for size in sizes] * 2 if auto in (b"SAME_UPPER", b"SAME_LOWER") else None


def _holds(label: Label, size: int) -> bool:
    """Whether an axis of this label can have `size` elements, all of one kind."""
    if len(label) == 1 and label[0].size is None and label[0].parts:
        return equals(size, label[0].parts) and label[0].agrees(size)
    return label[0].agrees(size) if len(label) == 1 else not label and size == 1


def _is_bias(bias: Const | None, outputs: int) -> bool:
    return bias is not None and bias.is_float and bias.array.shape == (outputs,)


def _dense(walk: Walk, node: Node, x: Value, axis: int, kernel: Const, bias: Const | None) -> Item:
    """The matrix `kernel` (out, in) along `axis` of x."""
    x = _with_bias(x)
    outputs, inputs = kernel.array.shape
    if not _holds(x.axes[axis], inputs):
        return None
    features: Label = (Dim(outputs),) if outputs != 1 else ()
    axes = tuple(features if place == axis else label for place, label in enumerate(x.axes))
    return walk.make(node, axes, Dense(x, kernel, bias, x.axes[axis], features))


def _gemm(walk: Walk, node: Node) -> Item:
    x, kernel, bias = walk.value(node), walk.const(node, 1), walk.const(node, 2)
    given = node.attributes
    if x is None or len(x.axes) != 2 or given.get("transA", 0) or kernel is None or kernel.array.ndim != 2:
        return None
    if not kernel.is_float or (walk.has(node, 2) and bias is None):
        return None
    matrix = kernel if given.get("transB", 0) else kernel.view(kernel.array.T)
    matrix = _scaled(matrix, given.get("alpha", 1.0))
    if bias is not None:
        outputs = matrix.array.shape[0]
        if not bias.is_float or bias.array.size != outputs or bias.array.shape[-1:] not in ((outputs,), ()):
            return None
        bias = _scaled(bias.view(bias.array.reshape(-1)), given.get("beta", 1.0))
    return _dense(walk, node, x, 1, matrix, bias)


def _scaled(weights: Const, factor: float) -> Const:
    return weights if factor == 1 else weights.view(weights.array * weights.array.dtype.type(factor))


def _matmul(walk: Walk, node: Node) -> Item:
    left, right = walk.get(node, 0), walk.get(node, 1)
    if isinstance(left, Value) and isinstance(right, Const) and right.array.ndim == 2 and right.is_float and left.axes:
        return _dense(walk, node, left, len(left.axes) - 1, right.view(right.array.T), None)
    if isinstance(left, Const) and isinstance(right, Value) and left.array.ndim == 2 and left.is_float:
        return _dense(walk, node, right, len(right.axes) - 2, left, None) if len(right.axes) > 1 else None
    return None


def _batch_norm(walk: Walk, node: Node) -> Item:
    x, tensors = walk.value(node), [walk.const(node, position) for position in range(1, 5)]
    if x is None or node.attributes.get("training_mode", 0) or not node.attributes.get("spatial", 1):
        return None
    x, found = _with_bias(x), tuple(tensor for tensor in tensors if tensor is not None and tensor.is_float)
    if len(found) < 4 or len({tensor.array.shape for tensor in found}) > 1 or len(x.axes) < 2:
        return None
    if not isinstance(x.form, Dense | Filter) or found[0].array.shape != (x.form.kernel.array.shape[0],):
        return None
    if isinstance(x.form, Dense) and x.axes[1] != x.form.features:
        return None
    epsilon = number(node.attributes.get("epsilon", 1e-5))
    rate = round(1 - number(node.attributes.get("momentum", 0.9)), 9)
    return walk.make(node, x.axes, Norm(x, found, epsilon, rate))  # type: ignore[arg-type]


# Arithmetic


def _with_bias(x: Value) -> Value:
    """x, where a number that was added to the one output of a layer is that layer's bias."""
    form = x.form
    if not isinstance(form, Linear) or form.constant is None or not isinstance(form.inner.form, Dense | Filter | Taps):
        return x
    layer = form.inner.form
    if layer.bias is not None or layer.kernel.array.shape[0] != 1:
        return x
    bias = form.constant.view(form.constant.array.reshape(1))
    return Value(x.tensor, x.axes, _biased(layer, bias))


def _biased(layer: Dense | Filter | Taps, bias: Const) -> Form:
    if isinstance(layer, Dense):
        return Dense(layer.inner, layer.kernel, bias, layer.contracted, layer.features)
    if isinstance(layer, Filter):
        return Filter(layer.inner, layer.kernel, bias)
    return Taps(layer.inner, layer.kernel, bias, layer.padding)


def _operands(walk: Walk, node: Node) -> tuple[Value, Const] | None:
    """The computed and the stored operand of a binary operator, in either order."""
    left, right = walk.get(node, 0), walk.get(node, 1)
    if isinstance(left, Value) and isinstance(right, Const):
        return left, right
    return (right, left) if isinstance(right, Value) and isinstance(left, Const) else None


def _add(walk: Walk, node: Node) -> Item:
    left, right = walk.get(node, 0), walk.get(node, 1)
    if isinstance(left, Value) and isinstance(right, Value):
        axes = broadcast([left, right])
        return None if axes is None else walk.make(node, axes, Sum(left, right))
    mixed = _operands(walk, node)
    if mixed is None:
        return _arithmetic_of_sizes(walk, node)
    x, constant = mixed
    return _layer_bias(walk, node, x, constant) or _shifted(walk, node, x, _scalar(constant), constant)


def _layer_bias(walk: Walk, node: Node, x: Value, constant: Const) -> Item:
    layer, shape = x.form, constant.array.shape
    if not isinstance(layer, Dense | Filter | Taps) or layer.bias is not None or not constant.is_float:
        return None
    size = layer.kernel.array.shape[0]
    if constant.array.size != size or (size == 1 and len(shape) != len(x.axes)) or len(shape) > len(x.axes):
        return None  # a single number without the axes of a map may as well belong to the gate
    if size > 1:
        axis = next((len(shape) - place for place, length in enumerate(shape) if length > 1), 0)
        if not isinstance(layer, Dense) or x.axes[len(x.axes) - axis] != layer.features:
            return None
    return walk.make(node, x.axes, _biased(layer, constant.view(constant.array.reshape(-1))))


def _shifted(walk: Walk, node: Node, x: Value, offset: float | None, constant: Const | None = None) -> Item:
    if offset is None or (constant is not None and constant.array.ndim > len(x.axes)):
        return None
    form = x.form
    if isinstance(form, Linear):
        return walk.make(node, x.axes, Linear(form.inner, form.slope, form.offset + offset))
    return walk.make(node, x.axes, Linear(x, 1.0, offset, constant))


def _sub(walk: Walk, node: Node) -> Item:
    left, right = walk.get(node, 0), walk.get(node, 1)
    if isinstance(left, Value) and (scalar := _scalar(right)) is not None and _fits(right, left):
        return _shifted(walk, node, left, -scalar)
    return _arithmetic_of_sizes(walk, node)


def _fits(item: Item, x: Value) -> bool:
    return isinstance(item, Const) and item.array.ndim <= len(x.axes)


def _mul(walk: Walk, node: Node) -> Item:
    left, right = walk.get(node, 0), walk.get(node, 1)
    if isinstance(left, Value) and isinstance(right, Value):
        return _self_gated(walk, node, left, right) or _product(walk, node, left, right)
    mixed = _operands(walk, node)
    if mixed is None:
        return _arithmetic_of_sizes(walk, node)
    factor = _scalar(mixed[1])
    return _times(walk, node, mixed[0], factor, lambda a, b: a * b) if factor and _fits(mixed[1], mixed[0]) else None


def _div(walk: Walk, node: Node) -> Item:
    left, right = walk.get(node, 0), walk.get(node, 1)
    divisor = _scalar(right)
    if isinstance(left, Value) and divisor and _fits(right, left):
        return _times(walk, node, left, divisor, lambda a, b: a / b)
    return _arithmetic_of_sizes(walk, node)


def _times(walk: Walk, node: Node, x: Value, factor: float, scaled: Callable[[float, float], float]) -> Item:
    form = x.form
    if isinstance(form, Clamp) and factor > 0:
        new = Clamp(form.inner, form.slope, form.offset, form.low, form.high, scaled(form.scale, factor))
        return walk.make(node, x.axes, new)
    if isinstance(form, SelfGated):
        return walk.make(node, x.axes, SelfGated(form.inner, form.gate, scaled(form.scale, factor)))
    if isinstance(form, Linear):
        new_linear = Linear(form.inner, scaled(form.slope, factor), scaled(form.offset, factor))
        return walk.make(node, x.axes, new_linear)
    return walk.make(node, x.axes, Linear(x, scaled(1.0, factor), 0.0))


def _self_gated(walk: Walk, node: Node, left: Value, right: Value) -> Item:
    """x * sigmoid(x), or x * clip(slope x + offset): the same x in the same layout."""
    for x, gate in ((left, right), (right, left)):
        form = gate.form
        if not isinstance(form, Sigmoid | Clamp):
            continue
        inner = _with_bias(x)
        if form.inner.tensor in (x.tensor, inner.tensor) and form.inner.axes == x.axes == gate.axes:
            return walk.make(node, x.axes, SelfGated(inner, form if isinstance(form, Clamp) else None))
    return None


def _product(walk: Walk, node: Node, left: Value, right: Value) -> Item:
    axes = broadcast([left, right])
    return None if axes is None else walk.make(node, axes, Product(left, right))


def _relu(walk: Walk, node: Node) -> Item:
    x = walk.value(node)
    return None if x is None else _clipped(walk, node, x, 0.0, math.inf)


def _clip(walk: Walk, node: Node) -> Item:
    x = walk.value(node)
    bounds = [_bound(walk, node, "min", 1, -math.inf), _bound(walk, node, "max", 2, math.inf)]
    return None if x is None or None in bounds else _clipped(walk, node, x, *bounds)  # type: ignore[arg-type]


def _bound(walk: Walk, node: Node, name: str, position: int, absent: float) -> float | None:
    if name in node.attributes:
        value: float | None = number(node.attributes[name])
    else:
        value = _scalar(walk.get(node, position)) if walk.has(node, position) else absent
    return value if value is None or abs(value) < UNBOUNDED else math.copysign(math.inf, value)


def _extreme(walk: Walk, node: Node) -> Item:
    mixed = _operands(walk, node) if len(node.inputs) == 2 else None
    bound = _scalar(mixed[1]) if mixed and _fits(mixed[1], mixed[0]) else None
    if mixed is None or bound is None:
        return None
    return _clipped(walk, node, mixed[0], *((bound, math.inf) if node.op == "Max" else (-math.inf, bound)))


def _clipped(walk: Walk, node: Node, x: Value, low: float, high: float) -> Item:
    if low == 0 and high == math.inf:
        x = _with_bias(x)
    form = x.form
    if isinstance(form, Clamp) and form.scale == 1:
        if low > form.high or high < form.low:
            return None
        low, high = max(low, form.low), min(high, form.high)
        return walk.make(node, x.axes, Clamp(form.inner, form.slope, form.offset, low, high))
    return walk.make(node, x.axes, _clamp(x, 1.0, 0.0, low, high))


def _clamp(x: Value, slope: float, offset: float, low: float, high: float) -> Clamp:
    form = x.form
    if isinstance(form, Linear):
        return Clamp(form.inner, slope * form.slope, slope * form.offset + offset, low, high)
    return Clamp(x, slope, offset, low, high)


def _sigmoid(walk: Walk, node: Node) -> Item:
    x = walk.value(node)
    return None if x is None else walk.make(node, x.axes, Sigmoid(_with_bias(x)))


def _hard_sigmoid(walk: Walk, node: Node) -> Item:
    x = walk.value(node)
    slope, offset = number(node.attributes.get("alpha", 0.2)), number(node.attributes.get("beta", 0.5))
    return None if x is None else walk.make(node, x.axes, _clamp(_with_bias(x), slope, offset, 0.0, 1.0))


def _hard_swish(walk: Walk, node: Node) -> Item:
    x = walk.value(node)
    if x is None:
        return None
    x = _with_bias(x)
    return walk.make(node, x.axes, SelfGated(x, Clamp(x, 1 / 6, 0.5, 0.0, 1.0)))


def _swish(walk: Walk, node: Node) -> Item:
    x = walk.value(node)
    if x is None or node.attributes.get("alpha", 1.0) != 1:
        return None
    x = _with_bias(x)
    return walk.make(node, x.axes, SelfGated(x, None))


# Joined axes


def _concat(walk: Walk, node: Node) -> Item:
    items = [walk.get(node, position) for position in range(len(node.inputs))]
    sizes = [walk.sizes(node, position) for position in range(len(node.inputs))]
    if all(one is not None and not one.scalar for one in sizes):
        return Sizes(tuple(entry for one in sizes if one is not None for entry in one.entries)[:64])
    parts = tuple(item for item in items if isinstance(item, Value))
    if len(parts) != len(items) or len({len(part.axes) for part in parts}) != 1 or not parts[0].axes:
        return None
    if len(parts) == 1:
        return parts[0]
    axis = node.attributes.get("axis", 1) % len(parts[0].axes)
    wrapped = _wrapped(walk, node, parts, axis)
    if wrapped is not None:
        return wrapped
    first = parts[0].axes
    others = [place for place in range(len(first)) if place != axis]
    if len(parts) > 3 or not all(first[place] == part.axes[place] for part in parts for place in others):
        return None
    labels = tuple(part.axes[axis] for part in parts)
    known = [label_size(label) for label in labels]
    joined = Dim(None if None in known else sum(known), labels)  # type: ignore[arg-type]
    if joined.count > MAX_PARTS:
        return None
    return walk.make(node, (*first[:axis], (joined,), *first[axis + 1 :]), Join(parts))


def _wrapped(walk: Walk, node: Node, parts: tuple[Value, ...], axis: int) -> Item:
    """The end, the whole and the beginning of one tensor: circular padding."""
    if len(parts) != 3:
        return None
    end, whole, beginning = parts[0].form, parts[1], parts[2].form
    if not isinstance(end, Cut) or not isinstance(beginning, Cut) or end.axis != axis or beginning.axis != axis:
        return None
    if not all(cut.inner.tensor == whole.tensor and cut.inner.axes == whole.axes for cut in (end, beginning)):
        return None
    size = label_size(whole.axes[axis])
    count = beginning.stop
    start = end.start if end.start < 0 or size is None else end.start - size
    reaches_end = end.stop >= (HUGE if size is None else size)
    if beginning.start != 0 or start != -count or not reaches_end or count < 1 or (size is not None and count > size):
        return None
    pads = tuple(count if place == axis else 0 for place in range(len(whole.axes)))
    axes = tuple((Dim(),) if place == axis else label for place, label in enumerate(whole.axes))
    return walk.make(node, axes, Padded(whole, "circular", pads, pads))


def _pad(walk: Walk, node: Node) -> Item:
    x, pads = walk.value(node), walk.integers(node, "pads", 1)
    mode = {b"constant": "zeros", b"wrap": "circular"}.get(node.attributes.get("mode", b"constant"))
    fill = _scalar(walk.get(node, 2)) if walk.has(node, 2) else node.attributes.get("value", 0.0)
    if x is None or pads is None or mode is None or (mode == "zeros" and fill != 0) or min(pads, default=0) < 0:
        return None
    places = list(range(len(x.axes)))
    if walk.has(node, 3):
        given = walk.integers(node, "axes", 3)
        if given is None or not all(-len(places) <= axis < len(places) for axis in given):
            return None
        places = [axis % len(x.axes) for axis in given]
    if len(pads) != 2 * len(places) or len(set(places)) != len(places):
        return None
    before, after = [0] * len(x.axes), [0] * len(x.axes)
    for place, left, right in zip(places, pads[: len(places)], pads[len(places) :], strict=True):
        before[place], after[place] = left, right
    axes = tuple((Dim(),) if before[i] or after[i] else label for i, label in enumerate(x.axes))
    return walk.make(node, axes, Padded(x, mode, tuple(before), tuple(after)))


def _split(walk: Walk, node: Node) -> Any:
    x, sizes = walk.value(node), walk.sizes(node, 1)
    if "split" in node.attributes:
        sizes = Sizes(tuple(node.attributes["split"]))
    if x is None or not x.axes:
        return None
    axis = node.attributes.get("axis", 0) % len(x.axes)
    if len(node.outputs) == 1:
        return x
    label = x.axes[axis]
    if len(label) != 1 or len(label[0].parts) != len(node.outputs):
        return None
    parts = label[0].parts
    if sizes is None and not walk.has(node, 1):
        fits = len({label_size(part) for part in parts}) == 1 and label_size(parts[0]) is not None
    else:
        entries = sizes.entries if sizes else ()
        fits = len(entries) == len(parts) and all(
            equals(entry, [part]) for entry, part in zip(entries, parts, strict=True)
        )
    return [_part(walk, node, x, axis, part, output) for output, part in enumerate(parts)] if fits else None


def _part(walk: Walk, node: Node, x: Value, axis: int, label: Label, output: int) -> Value:
    axes = (*x.axes[:axis], label, *x.axes[axis + 1 :])
    return walk.make(node, axes, Part(x, label), output)


def _slice(walk: Walk, node: Node) -> Item:
    item = walk.get(node, 0)
    given = [
        Sizes(tuple(node.attributes[name])) if name in node.attributes else None for name in ("starts", "ends", "axes")
    ]
    found = [own or walk.sizes(node, position) for position, own in enumerate(given, 1)]
    steps = walk.integers(node, "steps", 4) if walk.has(node, 4) else [1]
    starts, ends, places = found
    if starts is None or ends is None or steps != [1] or not len(starts.entries) == len(ends.entries) == 1:
        return None
    axis = places.entries[0] if places else 0
    start, end = starts.entries[0], ends.entries[0]
    if not isinstance(axis, int) or (walk.has(node, 3) and places is None):
        return None
    if isinstance(item, Sizes):
        return Sizes(item.entries[start:end]) if isinstance(start, int) and isinstance(end, int) else None
    if not isinstance(item, Value) or not -len(item.axes) <= axis < len(item.axes):
        return None
    return _sliced(walk, node, item, axis % len(item.axes), start, end)


def _given(walk: Walk, node: Node, name: str, position: int) -> Sizes | None:
    return Sizes(tuple(node.attributes[name])) if name in node.attributes else walk.sizes(node, position)


def _sliced(walk: Walk, node: Node, x: Value, axis: int, start: Entry, end: Entry) -> Item:
    label = x.axes[axis]
    to_end = isinstance(end, int) and end >= HUGE
    parts = label[0].parts if len(label) == 1 else ()
    if parts:
        for part, (before, up_to) in zip(parts, prefixes(label), strict=True):
            last = part is parts[-1] and up_to == parts
            at_start = start == 0 if not before else equals(start, before)
            if at_start and ((last and to_end) or equals(end, up_to)):
                return _part(walk, node, x, axis, part, 0)
    elif start == 0 and (to_end or equals_now(end, label)):
        return x
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    axes = (*x.axes[:axis], (Dim(),), *x.axes[axis + 1 :])
    return walk.make(node, axes, Cut(x, axis, start, end))


def equals_now(entry: Entry, label: Label) -> bool:
    """Whether `entry` is the size of a label, without learning it."""
    return equals(entry, [label]) if isinstance(entry, tuple) else entry == label_size(label)


OPERATORS: dict[str, Callable[[Walk, Node], Any]] = {
    "Identity": _identity,
    "Cast": _cast,
    "Dropout": _dropout,
    "Constant": _constant,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "Shape": _shape,
    "Gather": _gather,
    "ReduceMean": _reduce("mean"),
    "ReduceMax": _reduce("max"),
    "GlobalAveragePool": _global("mean"),
    "GlobalMaxPool": _global("max"),
    "AveragePool": _window("mean"),
    "MaxPool": _window("max"),
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Relu": _relu,
    "Clip": _clip,
    "Max": _extreme,
    "Min": _extreme,
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Swish": _swish,
    "Concat": _concat,
    "Pad": _pad,
    "Split": _split,
    "Slice": _slice,
}
# Those of them that keep the shape of their input where no block is made of them.
KEEPING = _operators("Identity Cast Dropout BatchNormalization Relu Clip Sigmoid HardSigmoid HardSwish Swish Expand")
