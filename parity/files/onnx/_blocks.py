"""Which of the products in a graph are blocks: of a map with gates that were computed from it."""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.block import Block, same_view
from parity.errors import DialectError, ParityError
from parity.files.onnx._model import Graph, Node
from parity.files.onnx._operators import Walk
from parity.files.onnx._values import (
    Axes,
    Clamp,
    Const,
    Dense,
    Dim,
    Filter,
    Join,
    Label,
    Norm,
    Part,
    Pool,
    Product,
    SelfGated,
    Sigmoid,
    Sum,
    Taps,
    Value,
    same,
)
from parity.spec import AXIS_NAMES, SPECS, BatchNorm, Gate


@dataclass(frozen=True, eq=False)
class Found:
    """A block in a graph.

    Args:
        kind: a key of `parity.spec.SPECS`.
        facts: the fields of its spec that shapes do not tell.
        tensors: its parameters by canonical name, in canonical layout.
        source, output: the tensors in the graph that are x and y.
        source_axes, output_axes: where the axes of (N, C, *spatial) lie in them.
        completes: the output of the block that was found on the way to this one, and is a part of it.
    """

    kind: str
    facts: Mapping[str, Any]
    tensors: Mapping[str, Const]
    source: str
    output: str
    source_axes: tuple[int, ...]
    output_axes: tuple[int, ...]
    completes: str = ""
    name: str = ""

    def block(self) -> Block:
        """The block itself; raises a `ParityError` where the weights are none that its spec could have."""
        shapes = {name: value.array.shape for name, value in self.tensors.items()}
        spec = SPECS[self.kind].infer(shapes, **self.facts)
        return Block(self.name, spec, {name: value.array for name, value in self.tensors.items()})

    @property
    def origins(self) -> tuple[str, ...]:
        """The names under which the file holds the weights."""
        return tuple(value.origin for value in self.tensors.values())


@dataclass(frozen=True)
class Map:
    """The dims of a map by their meaning, and where (N, C, *spatial) lie in the tensor and in the product."""

    batch: Dim
    channel: Dim
    spatial: tuple[Dim, ...]

    @property
    def dims(self) -> tuple[Dim, ...]:
        """In the order (N, C, *spatial)."""
        return (self.batch, self.channel, *self.spatial)


def find(graph: Graph) -> tuple[list[Found], Walk]:
    """The blocks of a graph in its order, named, and what was known of every tensor."""
    walk, found = Walk(graph), dict[str, Found]()
    for node in graph.nodes:
        walk.step(node)
        value = walk.items.get(node.outputs[0]) if node.outputs else None
        if isinstance(value, Value) and value.tensor == node.outputs[0]:
            _take_in(walk, value, found)
    return _named(walk, _first_uses(list(found.values()))), walk


def _take_in(walk: Walk, value: Value, found: dict[str, Found]) -> None:
    """Add the block whose output is `value` to `found`, in the place of the half or the block that it completes."""
    try:
        block = _matched(walk, value, found)
        if block is not None:
            block.block()
    except DialectError:
        raise
    except ParityError:  # numbers that no block could have: an even kernel, an epsilon of 0
        return
    if block is not None:
        found.pop(block.completes, None)
        found[value.tensor] = block


def _matched(walk: Walk, value: Value, found: dict[str, Found]) -> Found | None:
    if isinstance(value.form, Sum):
        return _residual(walk, value, found)
    if not isinstance(value.form, Product):
        return None
    left, right = value.form.left, value.form.right
    for base, gated in ((left, right), (right, left)):
        for match in (_squeeze_excitation, _efficient, _channel_half, _spatial_half):
            block = match(walk, value, base, gated, found)
            if block is not None:
                return block
    return _coordinate(walk, value)


# What gates are made of


def _gate(value: Value) -> tuple[Gate, Value]:
    """The gate that made `value`, and its logits."""
    form = value.form
    if isinstance(form, Sigmoid):
        return Gate("sigmoid"), form.inner
    if isinstance(form, Clamp) and form.low == 0 and _is_one(form.high * form.scale) and form.slope > 0:
        return Gate("hard_sigmoid", form.slope * form.scale, form.offset * form.scale), form.inner
    return Gate("identity"), value


def _is_one(value: float) -> bool:
    """Whether a product of numbers of the file is one, their rounding to float32 aside."""
    return bool(np.float32(value) == 1)


def _activation(value: Value) -> tuple[str, Value]:
    """The activation that made `value`, and what it was applied to."""
    form = value.form
    if isinstance(form, Clamp) and (form.slope, form.offset, form.low, form.high, form.scale) == (1, 0, 0, np.inf, 1):
        return "relu", form.inner
    if isinstance(form, SelfGated) and form.gate is None and form.scale == 1:
        return "silu", form.inner
    if isinstance(form, SelfGated) and form.gate is not None and _is_hard_swish(form.gate, form.scale):
        return "hard_swish", form.inner
    return "identity", value


def _is_hard_swish(gate: Clamp, scale: float) -> bool:
    scale *= gate.scale
    sixth = np.float32(gate.slope * scale) == np.float32(1 / 6)
    return bool(sixth and gate.low == 0 and _is_one(gate.high * scale) and gate.offset * scale == 0.5)


@dataclass(frozen=True)
class _Perceptron:
    """W2 activation(W1 z + b1) + b2."""

    first: Dense
    second: Dense
    activation: str

    @property
    def inner(self) -> Value:
        return self.first.inner

    def fits(self, channels: Dim) -> bool:
        """Whether it gives back as many features as there are channels."""
        outputs, hidden = self.second.kernel.array.shape
        return channels.size == outputs and self.first.kernel.array.shape[0] == hidden and self._is_biased_alike()

    def _is_biased_alike(self) -> bool:
        return (self.first.bias is None) == (self.second.bias is None)

    def tensors(self, path: str = "") -> dict[str, Const]:
        return _layer(f"{path}fc1", self.first) | _layer(f"{path}fc2", self.second)


def _layer(path: str, layer: Dense | Filter | Taps) -> dict[str, Const]:
    return {f"{path}.kernel": layer.kernel} | ({f"{path}.bias": layer.bias} if layer.bias else {})


def _perceptron(value: Value) -> _Perceptron | None:
    second = value.form
    if not isinstance(second, Dense):
        return None
    activation, hidden = _activation(second.inner)
    first = hidden.form
    if not isinstance(first, Dense) or second.contracted != first.features:
        return None
    return _Perceptron(first, second, activation)


# What maps are


def _map(walk: Walk, tensor: str, spatial: frozenset[Dim] | None, channel: Dim | None = None) -> Map | None:
    """The meaning of the dims of a tensor whose spatial dims, or whose channels, are known."""
    layout = walk.layouts.get(tensor, ())
    dims = [label[0] for label in layout if len(label) == 1]
    if len(dims) != len(layout) or len(set(dims)) != len(dims) or not 3 <= len(dims) <= 5:
        return None
    rest = [dim for dim in dims[1:] if (dim not in spatial if spatial is not None else dim is channel)]
    if len(rest) != 1 or (spatial is not None and not spatial <= set(dims[1:])):
        return None
    return Map(dims[0], rest[0], tuple(dim for dim in dims[1:] if dim is not rest[0]))


def _axes(layout: Axes, dims: Map) -> tuple[int, ...] | None:
    """Where the axes of (N, C, *spatial) lie in a tensor."""
    places = {label[0]: place for place, label in enumerate(layout) if len(label) == 1}
    return tuple(places[dim] for dim in dims.dims) if all(dim in places for dim in dims.dims) else None


def _spreads(gated: Value, base: Value, dims: Map, seen: Sequence[Dim]) -> bool:
    """Whether a gate meets the map on the dims `seen`, each on its own axis, and is the same along the others."""
    pad = len(base.axes) - len(gated.axes)
    if pad < 0:
        return False
    met = []
    for label, own in zip(gated.axes, base.axes[pad:], strict=True):
        if not label:
            continue
        if len(own) != 1 or own[0] not in seen or not (label == own or (own[0] is dims.channel and same(label, own))):
            return False
        met.append(own[0])
    return all(dim in met or dim.size == 1 for dim in seen)


def _found(
    walk: Walk, value: Value, base: Value, dims: Map, kind: str, facts: dict[str, Any], tensors: dict[str, Const]
) -> Found | None:
    source_axes, output_axes = _axes(walk.layouts[base.tensor], dims), _axes(base.axes, dims)
    if source_axes is None or output_axes is None or len(value.axes) != len(base.axes):
        return None
    return Found(kind, facts, tensors, base.tensor, value.tensor, source_axes, output_axes)


def _check_certain(pools: Sequence[Pool], path: str) -> None:
    for pool in pools:
        if pool.doubt:
            raise DialectError(
                f"{path}: {pool.doubt}, in what looks like an attention block",
                "a window that covers the whole map",
                "export the model with the shapes of its tensors (onnx.shape_inference.infer_shapes adds them)",
            )


# Blocks


def _squeeze_excitation(
    walk: Walk, value: Value, base: Value, gated: Value, found: Mapping[str, Found]
) -> Found | None:
    gate, logits = _gate(gated)
    mlp = _perceptron(logits)
    pool = mlp.inner.form if mlp else None
    if mlp is None or not isinstance(pool, Pool) or pool.kind != "mean" or pool.tensor != base.tensor:
        return None
    dims = _map(walk, base.tensor, pool.reduced)
    if dims is None or mlp.first.contracted != _label(dims.channel) or not mlp.fits(dims.channel):
        return None
    if not _spreads(gated, base, dims, (dims.batch, dims.channel)):
        return None
    _check_certain([pool], walk.graph.path)
    facts = {"spatial_dims": len(dims.spatial), "activation": mlp.activation, "gate": gate}
    return _found(walk, value, base, dims, "se", facts, mlp.tensors())


def _label(dim: Dim) -> Label:
    return (dim,)


def _efficient(walk: Walk, value: Value, base: Value, gated: Value, found: Mapping[str, Found]) -> Found | None:
    gate, logits = _gate(gated)
    taps = logits.form
    pool = taps.inner.form if isinstance(taps, Taps) else None
    if not isinstance(taps, Taps) or not isinstance(pool, Pool) or pool.kind != "mean" or pool.tensor != base.tensor:
        return None
    dims = _map(walk, base.tensor, pool.reduced)
    if dims is None or [label for label in taps.inner.axes if label] != [_label(dims.batch), _label(dims.channel)]:
        return None
    if not _spreads(gated, base, dims, (dims.batch, dims.channel)):
        return None
    _check_certain([pool], walk.graph.path)
    facts = {"spatial_dims": len(dims.spatial), "channels": dims.channel.size, "padding": taps.padding, "gate": gate}
    return _found(walk, value, base, dims, "eca", facts, _layer("conv", taps))


def _channel_half(walk: Walk, value: Value, base: Value, gated: Value, found: Mapping[str, Found]) -> Found | None:
    gate, logits = _gate(gated)
    merged = _added(logits) or _concatenated(logits)
    if merged is None:
        return None
    mlp, pools, merge = merged
    pool = pools[0]
    if sorted(one.kind for one in pools) != ["max", "mean"] or any(
        one.tensor != base.tensor or one.reduced != pool.reduced for one in pools
    ):
        return None
    dims = _map(walk, base.tensor, pool.reduced)
    if dims is None or not mlp.fits(dims.channel) or not _spreads(gated, base, dims, (dims.batch, dims.channel)):
        return None
    channels, wide = dims.channel.size or 0, mlp.first.contracted
    if merge == "concat" and (len(wide) != 1 or wide[0].parts != (_label(dims.channel),) * 2):
        return None
    if merge == "add" and wide != _label(dims.channel):
        return None
    tensors = mlp.tensors("channel.")
    if merge == "concat" and pools[0].kind == "max":  # canonical is [mean, max]
        kernel = tensors["channel.fc1.kernel"]
        swapped = np.concatenate([kernel.array[:, channels:], kernel.array[:, :channels]], axis=1)
        tensors["channel.fc1.kernel"] = kernel.view(swapped)
    _check_certain(pools, walk.graph.path)
    facts = {"spatial_dims": len(dims.spatial), "activation": mlp.activation, "channel_merge": merge, "gate": gate}
    return _found(walk, value, base, dims, "cbam", facts, tensors)


def _added(logits: Value) -> tuple[_Perceptron, list[Pool], str] | None:
    """One perceptron, applied to two pools: the same numbers, whether the file holds them once or twice."""
    if not isinstance(logits.form, Sum):
        return None
    left, right = _perceptron(logits.form.left), _perceptron(logits.form.right)
    if left is None or right is None or left.activation != right.activation:
        return None
    pools = [one for one in (left.inner.form, right.inner.form) if isinstance(one, Pool)]
    ours, theirs = left.tensors(), right.tensors()
    if len(pools) != 2 or ours.keys() != theirs.keys() or left.first.contracted != right.first.contracted:
        return None
    alike = all(_equal(ours[name], theirs[name]) for name in ours)
    aligned = all(same(a, b) for a, b in zip(logits.form.left.axes, logits.form.right.axes, strict=False))
    aligned = aligned and len(logits.form.left.axes) == len(logits.form.right.axes)
    return (left, pools, "add") if alike and aligned else None


def _equal(left: Const, right: Const) -> bool:
    return same_view(left.array, right.array) or (
        left.array.dtype == right.array.dtype and np.array_equal(left.array, right.array)
    )


def _concatenated(logits: Value) -> tuple[_Perceptron, list[Pool], str] | None:
    mlp = _perceptron(logits)
    if mlp is None or not isinstance(mlp.inner.form, Join):
        return None
    pools = [part.form for part in mlp.inner.form.parts if isinstance(part.form, Pool)]
    return (mlp, pools, "concat") if len(pools) == len(mlp.inner.form.parts) == 2 else None


def _normed(value: Value) -> tuple[Norm | None, Value]:
    return (value.form, value.form.inner) if isinstance(value.form, Norm) else (None, value)


def _norm_tensors(path: str, norm: Norm | None) -> dict[str, Const]:
    leaves = ("scale", "offset", "mean", "variance")
    return {f"{path}.{leaf}": value for leaf, value in zip(leaves, norm.tensors, strict=True)} if norm else {}


def _norm_spec(norm: Norm | None) -> BatchNorm | None:
    return BatchNorm(epsilon=norm.epsilon, update_rate=norm.update_rate) if norm else None


def _spatial_half(walk: Walk, value: Value, base: Value, gated: Value, found: dict[str, Found]) -> Found | None:
    gate, logits = _gate(gated)
    norm, convolved = _normed(logits)
    layer = convolved.form
    if not isinstance(layer, Filter | Dense) or layer.kernel.array.shape[0] != 1:
        return None
    before = found.get(base.tensor)
    channel = before if before and before.kind == "cbam" and _parts(before) == "channel" else None
    planes = _planes(layer)
    tensor = planes[0].tensor if planes else layer.inner.tensor
    if tensor not in (base.tensor, channel.source if channel else None):
        return None
    dims = _map(walk, tensor, None, _channel_of(layer, planes))
    if dims is None or not _looks_across(layer, dims, planes):
        return None
    meets = replace(dims, channel=_map_like(walk, base, dims).channel)
    if not _spreads(gated, base, meets, (dims.batch, *dims.spatial)):
        return None
    tensors = _spatial_tensors(layer, dims, planes) | _norm_tensors("spatial.norm", norm)
    facts = {
        "spatial_dims": len(dims.spatial),
        "spatial_features": "pooled" if planes else "full",
        "spatial_norm": _norm_spec(norm),
        "gate": gate,
    }
    if channel is None or channel.facts["gate"] != gate:
        if tensor != base.tensor:
            return None
        return _found(walk, value, base, dims, "cbam", facts | {"channels": dims.channel.size}, tensors)
    output_axes = _axes(base.axes, meets)
    if output_axes is None:
        return None
    facts |= {**channel.facts, "spatial_source": "input" if tensor == channel.source else "refined"}
    return replace(
        channel,
        facts=facts,
        tensors={**channel.tensors, **tensors},
        output=value.tensor,
        output_axes=output_axes,
        completes=base.tensor,
    )


def _parts(found: Found) -> str:
    halves = {name.partition(".")[0] for name in found.tensors}
    return halves.pop() if len(halves) == 1 else "both"


def _map_like(walk: Walk, base: Value, dims: Map) -> Map:
    """The dims of a refined map: those of the map, but for the channels, which the gate may have brought."""
    others = [label[0] for label in base.axes if len(label) == 1 and label[0] not in (dims.batch, *dims.spatial)]
    return replace(dims, channel=others[0]) if len(others) == 1 else dims


def _planes(layer: Filter | Dense) -> list[Pool]:
    """The two pools over the channels that a spatial convolution sees; none where it sees all channels."""
    join = layer.inner.form
    if not isinstance(join, Join):
        return []
    pools = [part.form for part in join.parts if isinstance(part.form, Pool)]
    kinds = sorted(pool.kind for pool in pools)
    alike = all((pool.tensor, pool.reduced) == (pools[0].tensor, pools[0].reduced) for pool in pools)
    return pools if len(join.parts) == 2 and kinds == ["max", "mean"] and alike else []


def _channel_of(layer: Filter | Dense, planes: list[Pool]) -> Dim | None:
    if planes:
        return next(iter(planes[0].reduced)) if len(planes[0].reduced) == 1 else None
    label = layer.contracted if isinstance(layer, Dense) else layer.inner.axes[1]
    return label[0] if len(label) == 1 else None


def _looks_across(layer: Filter | Dense, dims: Map, planes: list[Pool]) -> bool:
    """Whether the convolution's axes are those of the map, in order."""
    label = layer.contracted if isinstance(layer, Dense) else layer.inner.axes[1]
    if planes and (len(label) != 1 or label[0].parts != ((), ())):
        return False
    if not planes and label != _label(dims.channel):
        return False
    rest = [axis for axis in layer.inner.axes if axis != label]
    return rest == [_label(dims.batch), *map(_label, dims.spatial)]


def _spatial_tensors(layer: Filter | Dense, dims: Map, planes: list[Pool]) -> dict[str, Const]:
    kernel = layer.kernel.array
    if isinstance(layer, Dense):
        kernel = kernel.reshape(*kernel.shape, *(1,) * len(dims.spatial))
    if planes and planes[0].kind == "max":  # plane 0 is the mean
        kernel = kernel[:, ::-1]
    return _layer("spatial.conv", layer) | {"spatial.conv.kernel": layer.kernel.view(kernel)}


def _residual(walk: Walk, value: Value, found: dict[str, Found]) -> Found | None:
    """x + y, where y is used nowhere else."""
    form = value.form
    for y, x in ((form.left, form.right), (form.right, form.left)) if isinstance(form, Sum) else ():
        before = found.get(y.tensor)
        if before is None or before.kind not in ("cbam", "ca") or x.tensor != before.source:
            continue
        if before.facts.get("residual") or walk.graph.users.get(y.tensor, 0) != 1 or len(x.axes) != len(y.axes):
            continue
        layout = walk.layouts[x.tensor]
        order = tuple(layout.index(label) for label in x.axes if label in layout)
        if tuple(order.index(place) for place in before.source_axes if place in order) != before.output_axes:
            continue
        return replace(before, facts={**before.facts, "residual": True}, output=value.tensor, completes=y.tensor)
    return None


# Coordinate attention


@dataclass(frozen=True, eq=False)
class _Head:
    gate: Gate
    layer: Dense
    shared: Value  # f, of which it sees a part
    label: Label | None  # of that part; None where it sees all
    value: Value


def _head(value: Value) -> _Head | None:
    gate, logits = _gate(value)
    layer = logits.form
    if not isinstance(layer, Dense):
        return None
    inner = layer.inner
    if isinstance(inner.form, Part):
        return _Head(gate, layer, inner.form.inner, inner.form.label, value)
    return _Head(gate, layer, inner, None, value)


@dataclass(frozen=True, eq=False)
class _Trunk:
    activation: str
    norm: Norm | None
    layer: Dense


def _trunk(shared: Value) -> _Trunk | None:
    activation, value = _activation(shared)
    norm, value = _normed(value)
    return _Trunk(activation, norm, value.form) if isinstance(value.form, Dense) else None


def _source(trunk: _Trunk) -> str | None:
    """The tensor whose positions the shared layer sees."""
    form = trunk.layer.inner.form
    parts = form.parts if isinstance(form, Join) else ()
    pools = [part.form for part in parts if isinstance(part.form, Pool) and part.form.kind == "mean"]
    if not parts:
        return trunk.layer.inner.tensor
    return pools[0].tensor if len(pools) == len(parts) and len({pool.tensor for pool in pools}) == 1 else None


def _coordinate(walk: Walk, value: Value) -> Found | None:
    source = next((source for source, _ in map(_origin, _factors(value, 2)) if source), None)
    if source is None:
        return None
    leaves = list(_factors(value, 4, source))
    bases = [leaf for leaf in leaves if leaf.tensor == source]
    heads = [_head(leaf) for leaf in leaves if leaf.tensor != source]
    trunk = _trunk(heads[0].shared) if heads and heads[0] else None
    if len(bases) != 1 or trunk is None or not all(heads):
        return None
    return _coordinated(walk, value, bases[0], trunk, [head for head in heads if head])


def _factors(value: Value, depth: int, stop: str = "") -> Iterator[Value]:
    """The factors of a product of products, but for those of the tensor `stop`."""
    if not isinstance(value.form, Product) or not depth or value.tensor == stop:
        yield value
        return
    yield from _factors(value.form.left, depth - 1, stop)
    yield from _factors(value.form.right, depth - 1, stop)


def _origin(value: Value) -> tuple[str | None, _Head | None]:
    head = _head(value)
    trunk = _trunk(head.shared) if head else None
    return (_source(trunk) if trunk else None), head


def _coordinated(walk: Walk, value: Value, base: Value, trunk: _Trunk, heads: list[_Head]) -> Found | None:
    join = trunk.layer.inner.form
    parts = join.parts if isinstance(join, Join) else ()
    dims = _map(walk, base.tensor, None, trunk.layer.contracted[0] if len(trunk.layer.contracted) == 1 else None)
    if dims is None or len(heads) != len(dims.spatial) or len(parts) != (len(dims.spatial) if parts else 0):
        return None
    if not parts and len(dims.spatial) != 1:
        return None
    spatial = set(dims.spatial)
    pools = [part.form for part in parts if isinstance(part.form, Pool)]
    kept = [next(iter(spatial - pool.reduced)) if len(spatial - pool.reduced) == 1 else None for pool in pools]
    if parts and (set(kept) != spatial or any(not pool.reduced <= spatial for pool in pools)):
        return None
    if len({head.gate for head in heads}) != 1 or len({head.shared.tensor for head in heads}) != 1:
        return None
    tensors = _layer("reduce", trunk.layer) | _norm_tensors("norm", trunk.norm)
    names = AXIS_NAMES[len(dims.spatial)]
    by_axis = {}
    for head in heads:
        dim = head.label[0] if head.label and len(head.label) == 1 else dims.spatial[0] if not parts else None
        outputs = head.layer.kernel.array.shape[0]
        if dim not in dims.spatial or outputs != dims.channel.size or head.layer.contracted != trunk.layer.features:
            return None
        if not _spreads(head.value, base, dims, (dims.batch, dims.channel, dim)):
            return None
        by_axis[names[dims.spatial.index(dim)]] = head.layer
    for name in names:
        if name not in by_axis:
            return None
        tensors |= _layer(f"expand.{name}", by_axis[name])
    _check_certain(pools, walk.graph.path)
    facts = {"activation": trunk.activation, "norm": _norm_spec(trunk.norm), "gate": heads[0].gate}
    return _found(walk, value, base, dims, "ca", facts, tensors)


# Names


def _first_uses(found: list[Found]) -> list[Found]:
    """`found` without the second and later uses of the same weights."""
    uses: dict[tuple[Any, ...], list[Found]] = {}
    for block in found:
        twins = uses.setdefault((block.kind, str(block.facts), tuple(block.tensors), block.origins), [])
        if not any(all(_equal(twin.tensors[name], block.tensors[name]) for name in block.tensors) for twin in twins):
            twins.append(block)
    kept = {block for twins in uses.values() for block in twins}
    return [block for block in found if block in kept]


# What exporters call the tensors that have no name of their own.
ANONYMOUS = re.compile(
    r"(val|node|n|t|tmp|onnx|helper|Constant)?[_.:]*\d*(::.*)?|.*Constant.*|helper\..*|onnx::.*",
    re.DOTALL,  # or a line's end in a long name is looked for again from each of its letters
)


def _named(walk: Walk, found: list[Found]) -> list[Found]:
    """`found` with names: of their own weights, else of their own nodes, else their kind and number."""
    weights = sorted(name for name, item in walk.items.items() if isinstance(item, Const) and item.origin == name)
    own = [_prefixes(walk, weights, block) for block in found]
    shared = Counter(name for names in own for name in set(names))
    numbers: Counter[str] = Counter()
    taken, named = set[str](), []
    for block, names in zip(found, own, strict=True):
        name = next((name for name in names if name and shared[name] == 1), f"{block.kind}_{numbers[block.kind]}")
        numbers[block.kind] += 1
        while name in taken:
            name += "_"
        taken.add(name)
        named.append(replace(block, name=name))
    return named


def _prefixes(walk: Walk, weights: Sequence[str], block: Found) -> tuple[str, ...]:
    """The names that a block could have, best first."""
    by_weights, by_nodes = _prefix_of_weights(weights, block), _prefix_of_nodes(walk, block)
    # Where an exporter has made some weights anew, those that kept their names may all lie in one part of the block.
    if by_weights.startswith(f"{by_nodes}.") and any(map(ANONYMOUS.fullmatch, block.origins)):
        return by_nodes, by_weights
    return by_weights, by_nodes


def _clean(name: str) -> str:
    return re.sub(r"[^\w./-]", "_", name, flags=re.ASCII).strip("./_-")


def _prefix_of_weights(weights: Sequence[str], block: Found) -> str:
    """What the names of a block's weights begin with, where no other weight's name does."""
    names = sorted({name for name in block.origins if not ANONYMOUS.fullmatch(name)})
    if not names:
        return ""
    layers = sorted({re.sub(r"[./][^./]*$", "", name) for name in names})
    common = _common(layers[0], layers[-1], "./") if len(layers) > 1 else re.sub(r"(^|[./])[^./]*$", "", layers[0])
    if not common and len(names) > 1:
        common = _common(names[0], names[-1], "_")
    return _clean(common) if common and _count(weights, common) == _count(names, common) else ""


def _count(names: Sequence[str], beginning: str) -> int:
    """How many of sorted names begin so, and go on with a separator."""
    starts = [beginning + mark for mark in "./_"]
    ends = [start[:-1] + chr(ord(start[-1]) + 1) for start in starts]
    pairs = zip(starts, ends, strict=True)
    return sum(bisect.bisect_left(names, end) - bisect.bisect_left(names, start) for start, end in pairs)


def _common(first: str, last: str, separators: str) -> str:
    """The longest common beginning that ends before a separator in both."""
    size = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    longer = (first + separators[0])[size] in separators and (last + separators[0])[size] in separators
    end = size if longer else max(first.rfind(mark, 0, size) for mark in separators)
    return first[: max(end, 0)]


def _prefix_of_nodes(walk: Walk, block: Found) -> str:
    """The scope that the nodes from x to y share: "/layer1/layer1.0/se/fc1/Conv" and the like lie in "layer1.0.se"."""
    names = sorted(node.name for node in between(walk, block, limit=256) if node.name and node.op != "Constant")
    if not names or "/" not in names[0]:
        return ""
    scopes = [name.rpartition("/")[0] for name in names]
    parts = _common(min(scopes), max(scopes), "/").strip("/").split("/")
    # PyTorch repeats the path of a container in its children.
    kept = [part for part, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{part}.")]
    torch_like = names[0].startswith("/")
    return _clean(("." if torch_like else "/").join(kept))


def between(walk: Walk, block: Found, limit: int | None = None) -> list[Node]:
    """The nodes that make y from x, in the graph's order; what comes before x is left out.

    With a `limit`, at most so many, of each node's inputs the first so many, and only nodes that come after x.
    """
    start = walk.makers[block.source].number if limit and block.source in walk.makers else -1
    wanted, seen = [block.output], {"", block.source}
    nodes: dict[int, Node] = {}
    while wanted and len(nodes) != limit:
        name = wanted.pop()
        node = walk.makers.get(name)
        if name in seen or node is None or node.number < start:
            continue
        seen.add(name)
        nodes[node.number] = node
        wanted += node.inputs[:limit] if shape_of_source(walk, block, node) is None else ()
    return [nodes[number] for number in sorted(nodes)]


def shape_of_source(walk: Walk, block: Found, node: Node) -> list[int] | None:
    """The axes of x whose sizes a Shape node gives, of whatever tensor it takes them; None where it gives others."""
    value = walk.value(node) if node.op == "Shape" else None
    if value is None:
        return None
    start, end = node.attributes.get("start", 0), node.attributes.get("end", len(value.axes))
    layout = walk.layouts[block.source]
    labels = value.axes[start:end]
    return [layout.index(label) for label in labels] if all(label and label in layout for label in labels) else None
