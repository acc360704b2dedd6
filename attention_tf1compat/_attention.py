"""Multi-head attention in single operations: softmax(q k^T / sqrt(head size)) v between four projections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import tensorflow as tf

from attention_tf1compat._moments import SAME

# By part, the scopes that hold it: as in Keras, in PyTorch, in tensor2tensor, and in short.
PARTS = {
    "query": ("query", "q"),
    "key": ("key", "k"),
    "value": ("value", "v"),
    "output": ("output", "attention_output", "output_projection", "out_proj", "output_transform", "out", "o"),
}
PRODUCTS = ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")
# An attention is some twenty operations between its projections; what is deeper is none.
STEPS = 64
FLAT = ("*", "features")  # the heads one after the other, behind one or more axes


@dataclass(frozen=True)
class Projection:
    """A product with a kernel.

    Args:
        op: the product.
        x: what goes in.
        y: what comes out, behind the bias.
        rank: of the kernel.
        size: the number of heads times their size.
    """

    op: tf.Operation
    x: tf.Tensor
    y: tf.Tensor
    rank: int
    size: int


@dataclass(frozen=True)
class View:
    """What a tensor between the projections is.

    Args:
        what: "query", "key", "value", "logits", "weights" or "result".
        axes: what its axes are: "batch", "query", "key", "heads", "size".
        scale: the factor so far; None where nobody can tell.
        heads: their number; None where nobody can tell.
        mask: whether something is added to the logits.
    """

    what: str
    axes: tuple[str, ...]
    scale: float | None = 1.0
    heads: int | None = None
    mask: bool = False


def find_attention(parts: Mapping[str, Projection]) -> dict[str, object] | None:
    """What the graph tells of the attention between four projections; None where they are none that is known.

    Its `scale` is shown where nobody can tell whether it is one over the root of the head size, and `mask` where
    something is added to the logits.
    """
    output = parts["output"]
    view = _Reader(parts).view(output.x)
    if view is None or view.what != "result":
        return None
    if output.rank == 2 and view.axes != FLAT:
        return None
    if output.rank == 3 and not _contracts_heads(output.op, view.axes):
        return None
    shown: dict[str, object] = {"add_zero_attn": False}
    shown |= {"mask": "added"} if view.mask else {}
    if view.heads is None:
        return shown | {"scale": view.scale}
    size = parts["query"].size // view.heads
    if view.scale is None:
        shown["scale"] = None
    elif not math.isclose(view.scale, size**-0.5, rel_tol=2.0**-20):  # it may have been rounded to float32
        return None
    return shown | {"heads": view.heads, "head_size": size}


class _Reader:
    """The axes of every tensor between the projections.

    Args:
        parts: the projections.
    """

    def __init__(self, parts: Mapping[str, Projection]) -> None:
        self.parts = parts
        self.ends = {parts[name].y.ref(): name for name in ("query", "key", "value")}
        self.known: dict[object, View | None] = {}
        self.depth = 0

    def view(self, tensor: tf.Tensor) -> View | None:
        """What `tensor` is; None where it is no step of an attention."""
        if tensor.ref() in self.ends:
            return self._projected(self.ends[tensor.ref()])
        if tensor.ref() not in self.known and self.depth < STEPS:
            self.depth += 1
            self.known[tensor.ref()] = self._computed(tensor)
            self.depth -= 1
        return self.known.get(tensor.ref())

    def _computed(self, tensor: tf.Tensor) -> View | None:
        op = tensor.op
        if op.type in SAME and op.inputs:
            return self.view(op.inputs[0])
        if op.type in PRODUCTS:
            return _product(op, *map(self.view, op.inputs)) if len(op.inputs) == 2 else None
        if op.type in ("Mul", "RealDiv", "Add", "AddV2"):
            return self._combined(op)
        if op.type not in ("Reshape", "Transpose", "Softmax"):
            return None
        view = self.view(op.inputs[0])
        if view is None:
            return None
        if op.type == "Softmax":
            is_over_keys = view.what == "logits" and view.axes[-1] == "key"
            return replace(view, what="weights") if is_over_keys else None
        if op.type == "Reshape":
            return self._reshaped(view, tensor)
        order = tf.get_static_value(op.inputs[1])
        if order is None or len(order) != len(view.axes) or view.axes == FLAT:
            return None
        return replace(view, axes=tuple(view.axes[int(axis)] for axis in order))

    def _projected(self, name: str) -> View | None:
        part = self.parts[name]
        if part.rank == 2:
            return View(name, FLAT)
        return None if part.y.shape.rank != 4 else View(name, _in_heads(name), heads=part.y.shape[-2])

    def _reshaped(self, view: View, tensor: tf.Tensor) -> View | None:
        """Into heads, or out of them; a flat one may stay flat."""
        shape = tensor.shape
        if shape.rank is None:
            return None
        if view.axes == ("batch", "query", "heads", "size") and view.what == "result":
            return replace(view, axes=FLAT) if shape.rank < 4 and shape[-1] is not None else None
        if view.axes != FLAT:
            return None
        size = self.parts["output" if view.what == "result" else view.what].size
        if shape.rank < 4:
            return view if shape[-1] == size else None
        if shape.rank > 4 or view.what == "result":
            return None
        heads = shape[2] if shape[2] is not None or not shape[3] else size // shape[3]
        if heads is not None and (size % heads or (shape[3] is not None and shape[3] * heads != size)):
            return None
        return replace(view, axes=_in_heads(view.what), heads=heads)

    def _combined(self, op: tf.Operation) -> View | None:
        one, other = map(self.view, op.inputs)
        found, rest = (one, op.inputs[1]) if one is not None else (other, op.inputs[0])
        if found is None or (one is not None and other is not None):
            return None
        if op.type in ("Add", "AddV2"):
            return replace(found, mask=True) if found.what == "logits" else None
        if (
            found.what not in ("query", "key", "logits")
            or rest.shape.rank != 0
            or (op.type == "RealDiv" and one is None)
        ):
            return None
        number = _number(rest)
        if number is None or found.scale is None or not number:
            return replace(found, scale=None)
        return replace(found, scale=found.scale / number if op.type == "RealDiv" else found.scale * number)


def _in_heads(name: str) -> tuple[str, ...]:
    return ("batch", "query" if name == "query" else "key", "heads", "size")


def _product(op: tf.Operation, one: View | None, other: View | None) -> View | None:
    """Logits of query and key, or the result of weights and value."""
    if one is None or other is None:
        return None
    kinds = {one.what, other.what}
    what = {frozenset(("query", "key")): "logits", frozenset(("weights", "value")): "result"}.get(frozenset(kinds))
    axes = None if FLAT in (one.axes, other.axes) else _product_axes(op, one.axes, other.axes)
    heads = {view.heads for view in (one, other) if view.heads is not None}
    gone = {"logits": "size", "result": "key"}
    if what is None or axes is None or len(heads) > 1:
        return None
    expected = {"batch", "heads", "query", "key", "size"} - {gone[what]}
    if len(axes) != 4 or set(axes) != expected:
        return None
    scale = None if one.scale is None or other.scale is None else one.scale * other.scale
    return View(what, axes, scale, heads.pop() if heads else None, one.mask or other.mask)


def _product_axes(op: tf.Operation, one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...] | None:
    if op.type == "Einsum":
        return _summed(op.get_attr("equation").decode(), one, other)
    one = (*one[:-2], one[-1], one[-2]) if op.get_attr("adj_x") else one
    other = (*other[:-2], other[-1], other[-2]) if op.get_attr("adj_y") else other
    fits = one[:-2] == other[:-2] and one[-1] == other[-2]
    return (*one[:-1], other[-1]) if fits else None


def _summed(equation: str, *inputs: tuple[str, ...]) -> tuple[str, ...] | None:
    """The axes of an Einstein sum's output; None where one letter stands for two axes, or one axis has two letters."""
    given, _, wanted = equation.partition("->")
    names: dict[str, str] = {}
    for letters, axes in zip(given.split(","), inputs, strict=True):
        if len(letters) != len(axes) or any(
            names.setdefault(*pair) != pair[1] for pair in zip(letters, axes, strict=True)
        ):
            return None
    return tuple(names[letter] for letter in wanted) if len(set(names.values())) == len(names) else None


def _contracts_heads(op: tf.Operation, axes: tuple[str, ...]) -> bool:
    """Whether the product with a kernel (heads, size, out) sums over heads and their size, and over nothing else."""
    if op.type != "Einsum" or len(axes) != 4:
        return False
    kernel = ("heads", "size", "out")
    return _summed(op.get_attr("equation").decode(), axes, kernel) == ("batch", "query", "out")


def _number(tensor: tf.Tensor) -> float | None:
    """The value of a scalar that is computed from constants and known sizes."""
    value = tf.get_static_value(tensor)
    if value is not None:
        return float(value)
    op = tensor.op
    if op.type == "StridedSlice" and op.inputs[0].op.type == "Shape":
        begin, shape = tf.get_static_value(op.inputs[1]), op.inputs[0].op.inputs[0].shape
        size = None if begin is None or len(begin) != 1 or shape.rank is None else shape[int(begin[0])]
        return None if size is None else float(size)
    functions = {"Sqrt": math.sqrt, "Rsqrt": lambda x: x**-0.5, "Cast": float, "Identity": float}
    inner = _number(op.inputs[0]) if op.type in functions else None
    return functions[op.type](inner) if inner is not None and inner > 0 else None
