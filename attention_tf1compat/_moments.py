"""Layer and group norms in single operations: y = (x - mean) / sqrt(variance + epsilon) * scale + offset."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import tensorflow as tf

SAME = ("ReadVariableOp", "Identity", "StopGradient", "Cast", "ExpandDims", "Switch", "Enter")
ARITHMETIC = ("Mul", "Add", "AddV2", "BiasAdd", "Sub", "Neg", "RealDiv")
SUMS = ("Add", "AddV2", "BiasAdd")
ROOTS = ("Rsqrt", "Sqrt")
# A norm is five operations; what is larger is none, and is not worth the time.
STEPS, TERMS = 8, 8

Terms = dict[str, int]  # the coefficient of each product of letters


@dataclass(frozen=True)
class Norm:
    """A norm in the graph.

    Args:
        kind: "layer norm", "group norm", or empty where it is neither.
        shown: epsilon and groups, as far as the graph tells them.
        channels: "first" or "last" in its output; empty where nobody can tell.
        x: the map that goes in.
        y: the map that comes out.
        axes: those of the map of which mean and variance are; empty where nobody can tell.
    """

    kind: str
    shown: Mapping[str, float | int]
    channels: str
    x: tf.Tensor
    y: tf.Tensor
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Moments:
    """One over the root of a variance and an epsilon, and whose variance it is."""

    root: tf.Tensor
    x: tf.Tensor
    axes: tuple[int, ...]
    epsilon: float | None


def find_norm(parameters: Mapping[str, tf.Tensor], alive: Collection[tf.Operation]) -> Norm | None:
    """The norm of the `parameters`, "scale" and "offset" or one of them, whose algebra is that of a norm alone."""
    letters = {tensor.ref(): name[0] for name, tensor in parameters.items()}
    for y in _sums(parameters, alive):
        for root in _roots(y):
            moments = _moments(root)
            if moments is None:
                continue
            flat, deep = _Algebra(letters, moments, False), _Algebra(letters, moments, True)
            wanted = _wanted(parameters)
            if flat.terms(y) == wanted:
                return _norm(y, moments, moments.x, flat.used)
            if deep.terms(y) == wanted and moments.x.op.type == "Reshape":
                return _norm(y, moments, moments.x.op.inputs[0], deep.used)
    return None


def _wanted(parameters: Collection[str]) -> Terms:
    scale = "s" if "scale" in parameters else ""
    return {f"r{scale}x": 1, f"mr{scale}": -1} | ({"o": 1} if "offset" in parameters else {})


def _sums(parameters: Mapping[str, tf.Tensor], alive: Collection[tf.Operation]) -> list[tf.Tensor]:
    """What all the parameters go into by arithmetic alone, in few steps, nearest first."""
    reached = []
    for parameter in parameters.values():
        steps: dict[tf.Operation, int] = {}
        rest = [(parameter, 0)]
        for tensor, step in rest:
            for op in tensor.consumers():
                if op in steps or op not in alive or op.type not in (*SAME, "Reshape", *ARITHMETIC) or step > STEPS:
                    continue
                steps[op] = step
                rest.append((op.outputs[0], step + (op.type in ARITHMETIC)))
        reached.append({op: step for op, step in steps.items() if op.type in ARITHMETIC})
    common = [op for op in reached[0] if all(op in steps for steps in reached)]
    return [op.outputs[0] for op in sorted(common, key=lambda op: max(steps[op] for steps in reached))]


def _roots(y: tf.Tensor) -> Iterator[tf.Tensor]:
    """The roots that `y` is computed from by arithmetic alone, in few steps."""
    seen, rest = set(), [(y, 0)]
    for tensor, step in rest:
        op = tensor.op
        if op in seen or step > STEPS:
            continue
        seen.add(op)
        if op.type in ROOTS:
            yield tensor
        elif op.type in (*SAME, "Reshape", *ARITHMETIC):
            rest += [(one, step + 1) for one in op.inputs]


def _moments(root: tf.Tensor) -> Moments | None:
    added = _plain(root.op.inputs[0]).op
    if added.type not in SUMS:
        return None
    for variance, epsilon in (tuple(added.inputs), tuple(added.inputs)[::-1]):
        found = _mean_of(variance)
        x = None if found is None else _deviating(*found)
        if found is not None and x is not None:
            value = tf.get_static_value(_plain(epsilon))
            number = float(f"{float(value):.7g}") if value is not None and value.size == 1 else None
            return Moments(root, x, found[1], number)
    return None


def _mean_of(tensor: tf.Tensor) -> tuple[tf.Tensor, tuple[int, ...]] | None:
    """What `tensor` is the mean of, and over which axes; None where it is no mean that keeps its axes."""
    op = _plain(tensor).op
    if op.type != "Mean" or not op.get_attr("keep_dims"):
        return None
    value, rank = tf.get_static_value(op.inputs[1]), op.inputs[0].shape.rank
    if value is None:
        return None
    axes = [int(axis) for axis in value.reshape(-1)]
    return _plain(op.inputs[0]), tuple(sorted(axes if rank is None else {axis % rank for axis in axes}))


def _deviating(squares: tf.Tensor, axes: tuple[int, ...]) -> tf.Tensor | None:
    """The map of which `squares` are the squared deviations from its mean over `axes`."""
    op = squares.op
    if op.type == "SquaredDifference":
        one, other = op.inputs
    elif op.type == "Square" or (op.type == "Mul" and op.inputs[0] is op.inputs[1]):
        difference = _plain(op.inputs[0]).op
        if difference.type != "Sub":
            return None
        one, other = difference.inputs
    else:
        return None
    for x, mean in ((_plain(one), other), (_plain(other), one)):
        if _is_mean(mean, x, axes):
            return x
    return None


def _is_mean(tensor: tf.Tensor, x: tf.Tensor, axes: tuple[int, ...]) -> bool:
    found = _mean_of(tensor)
    return found is not None and found[0] is x and found[1] == axes


def _plain(tensor: tf.Tensor, more: tuple[str, ...] = ()) -> tf.Tensor:
    """The tensor whose values `tensor` has."""
    while tensor.op.type in (*SAME, *more) and tensor.op.type != "ReadVariableOp":
        tensor = tensor.op.inputs[0]
    return tensor


@dataclass
class _Algebra:
    """What a tensor is as a sum of products: of s(cale), o(ffset), x, its m(ean) and the r(oot), and of other tensors.

    Args:
        letters: of the parameters.
        moments: the root, its map and its axes.
        through: whether to look through a change of shape, as before and behind a norm of groups.
        used: the parameters in the shape in which they were used.
    """

    letters: Mapping[object, str]
    moments: Moments
    through: bool
    used: dict[str, tf.Tensor] = field(default_factory=dict)

    def terms(self, tensor: tf.Tensor, depth: int = 0) -> Terms | None:
        """The sum; None where it is larger than a norm's."""
        letter = self._letter(tensor)
        if letter:
            return {letter: 1}
        op = tensor.op
        if op.type in (*SAME, *(("Reshape",) if self.through else ())):
            return self.terms(op.inputs[0], depth)
        if op.type not in ARITHMETIC or depth > STEPS:
            return {f"<{tensor.name}>": 1}
        if op.type == "RealDiv":
            is_root = self.moments.root.op.type == "Sqrt" and _plain(op.inputs[1]) is self.moments.root
            parts = [self.terms(op.inputs[0], depth + 1), {"r": 1} if is_root else {f"</{op.inputs[1].name}>": 1}]
        else:
            parts = [self.terms(one, depth + 1) for one in op.inputs]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        found = _combined(op.type, known)
        return found if len(found) <= TERMS else None

    def _letter(self, tensor: tf.Tensor) -> str:
        plain = _plain(tensor)
        if plain is self.moments.x:
            return "x"
        if plain is self.moments.root and plain.op.type == "Rsqrt":
            return "r"
        if _is_mean(tensor, self.moments.x, self.moments.axes):
            return "m"
        source = tensor
        while source.op.type in (*SAME, "Reshape") and source.ref() not in self.letters:
            source = source.op.inputs[0]
        letter = self.letters.get(source.ref(), "")
        if letter:
            self.used[letter] = tensor
        return letter


def _combined(kind: str, parts: list[Terms]) -> Terms:
    if kind in ("Mul", "RealDiv"):
        one, other = parts
        pairs = [(_product(a, b), x * y) for a, x in one.items() for b, y in other.items()]
    else:
        signs = {"Sub": (1, -1), "Neg": (-1,)}.get(kind, (1, 1))
        pairs = [(name, sign * x) for sign, part in zip(signs, parts, strict=True) for name, x in part.items()]
    found: Terms = {}
    for name, value in pairs:
        found[name] = found.get(name, 0) + value
    return {name: value for name, value in found.items() if value}


def _product(one: str, other: str) -> str:
    is_plain = "<" not in one + other
    return "".join(sorted(one + other)) if is_plain else f"<{one}*{other}>"


def _norm(y: tf.Tensor, moments: Moments, x: tf.Tensor, used: Mapping[str, tf.Tensor]) -> Norm:
    """What kind of norm it is: by the axes of its moments, and by the one that its parameters lie on."""
    places = {_place(tensor.shape, y.shape.rank) for tensor in used.values()}
    size = next(iter(used.values())).shape.num_elements()
    kind, groups, channels = "", None, ""
    if len(places) == 1 and size is not None:
        kind, groups, channels = _kind(y.shape, moments, x, places.pop(), size)
    shown: dict[str, float | int] = {} if moments.epsilon is None else {"epsilon": moments.epsilon}
    shown |= {} if groups is None else {"groups": groups}
    return Norm(kind, shown, _outside(channels, x, y), x, y, moments.axes)


def _outside(channels: str, x: tf.Tensor, y: tf.Tensor) -> str:
    """Where the channels are outside of what turns the map for the norm's sake."""
    if x.op.type != "Transpose":
        return channels
    order, back = tf.get_static_value(x.op.inputs[1]), [op for op in y.consumers() if op.type == "Transpose"]
    if not channels or order is None or not back:
        return ""
    return {1: "first", len(order) - 1: "last"}.get(int(order[1 if channels == "first" else -1]), "")


def _place(shape: tf.TensorShape, rank: int | None) -> tuple[int, ...]:
    """The axes of a map of `rank` on which a parameter lies, counted from behind where the rank is not known."""
    if shape.rank == 1:
        return (-1 if rank is None else rank - 1,)
    return tuple(axis for axis, dim in enumerate(shape) if dim != 1) if shape.rank == rank else ()


Kind = tuple[str, int | None, str]


def _kind(shape: tf.TensorShape, moments: Moments, x: tf.Tensor, place: tuple[int, ...], size: int) -> Kind:
    neither: Kind = "", None, ""
    dims, axes = moments.x.shape, moments.axes
    if x is moments.x and place == axes and len(place) == 1:
        return "layer norm", None, _side(place[0], shape.rank)
    if dims.rank is None or shape.rank is None or 0 in axes:
        return neither
    apart = [axis for axis in range(1, dims.rank) if axis not in axes]
    if len(place) == 2 and x is moments.x:  # the map is still in its groups
        first, last = place
        is_split = apart == [first] and last == first + 1
        return (
            ("group norm", dims[first], _side(last if last == dims.rank - 1 else first, dims.rank))
            if is_split
            else neither
        )
    if (
        len(place) != 1
        or x.shape.rank != shape.rank
        or not x.shape.is_compatible_with(shape)
        or place[0] not in (1, shape.rank - 1)
    ):
        return neither
    channels = _side(place[0], shape.rank)
    if not apart:
        return _of_whole(moments.x, x, place[0], size, channels)
    if x is moments.x:
        return ("group norm", size, channels) if apart == list(place) else neither
    return (
        ("group norm", _groups(dims, apart, place[0], size), channels)
        if _is_split(dims, apart, x, place, size)
        else neither
    )


def _side(axis: int, rank: int | None) -> str:
    return "last" if axis == -1 or axis + 1 == rank else "first"


def _of_whole(inside: tf.Tensor, x: tf.Tensor, place: int, size: int, channels: str) -> Kind:
    """A norm over all axes but the first, of the map as it is or made flat."""
    if inside is x:
        return "group norm", 1, channels
    if inside.shape[-1] == size and channels == "last":  # each position became a sample
        return "layer norm", None, channels
    sizes = x.shape[1:].as_list()
    whole = None not in sizes and inside.shape.rank == 2 and inside.shape[1] == math.prod(sizes)
    return ("group norm", 1, channels) if whole else ("", None, "")


def _is_split(dims: tf.TensorShape, apart: list[int], x: tf.Tensor, place: tuple[int, ...], size: int) -> bool:
    """Whether the axis at `place` of `x` became two in `dims`, of which the first stays `apart`."""
    (axis,) = place
    if len(apart) != 1 or x.shape[axis] != size or not x.shape[:1].is_compatible_with(dims[:1]):
        return False
    if axis == x.shape.rank - 1:
        inside = dims[-1]
        known = dims[apart[0]]
        return apart[0] == dims.rank - 2 and inside is not None and (known is None or known * inside == size)
    return apart[0] == 1 and (dims[1] is None or size % dims[1] == 0)


def _groups(dims: tf.TensorShape, apart: list[int], place: int, size: int) -> int | None:
    groups = dims[apart[0]]
    is_last = apart[0] == dims.rank - 2 and place != 1
    return size // dims[-1] if groups is None and is_last and dims[-1] else groups
