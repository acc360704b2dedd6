"""Standard layers of any TF1 graph: found by the operations that read its variables, and recorded while it runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from attention_tf1compat._attention import PARTS, Projection, find_attention
from attention_tf1compat._moments import find_norm
from parity.spec import InputError, LiveLayer, LiveNetwork

# What stands between a variable and the operation that computes with it.
READS = ("ReadVariableOp", "Identity", "ExpandDims", "Cast", "Switch", "Enter")

# By operation that has a kernel: which of its inputs the kernel is, which the map is, and the kind of the layer.
KERNELS = {
    "Conv2D": (1, 0, "convolution"),
    "Conv3D": (1, 0, "convolution"),
    "DepthwiseConv2dNative": (1, 0, "convolution"),
    "Conv2DBackpropInput": (1, 2, "transposed convolution"),
    "Conv3DBackpropInputV2": (1, 2, "transposed convolution"),
    "MatMul": (1, 0, "dense"),
    "BatchMatMulV2": (1, 0, "dense"),
    "ResourceGather": (0, 1, "embedding"),
    "GatherV2": (0, 1, "embedding"),
}
# What projects into heads and out of them, and the attributes that turn its factors.
PROJECTIONS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")
TURNS = ("transpose_a", "transpose_b", "adj_x", "adj_y")
SUMS = ("BiasAdd", "Add", "AddV2")
FUSED = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
NORM_LEAVES = {"gamma": "scale", "beta": "offset", "moving_mean": "mean", "moving_variance": "variance"}
# Of norms without running statistics: as in TensorFlow and Keras, in Sonnet, and in GPT-2's code.
AFFINE_LEAVES = {"gamma": "scale", "beta": "offset", "scale": "scale", "offset": "offset", "g": "scale", "b": "offset"}


@dataclass(frozen=True)
class Place:
    """Where a layer stands in the graph: the tensors that go in and come out; None where nobody can tell."""

    x: tf.Tensor | None
    y: tf.Tensor | None


Found = tuple[LiveLayer, Place]


class Graph:
    """The graph of a model, as far as its output hangs on it.

    Args:
        model: a session, or (session, input, output), where input and output may be lists of tensors.
    """

    def __init__(self, model: Any) -> None:
        session, inputs, outputs = model if isinstance(model, tuple) else (model, None, None)
        self.session = session
        self.number = {op: number for number, op in enumerate(session.graph.get_operations())}
        self.inputs = self._inputs() if inputs is None else _tensors(inputs)
        self.outputs = self._ends() if outputs is None else _tensors(outputs)
        self.is_clear = outputs is not None or len(self.outputs) == 1
        self.alive = self._before(self.outputs) if self.is_clear else set(self.number)

    def _inputs(self) -> list[tf.Tensor]:
        return [op.outputs[0] for op in self.number if op.type == "Placeholder"]

    def _ends(self) -> list[tf.Tensor]:
        """The tensors that hang on an input and that nothing reads."""
        reached: set[tf.Operation] = set()
        rest = [tensor.op for tensor in self.inputs]
        while rest:
            op = rest.pop()
            if op not in reached:
                reached.add(op)
                rest += [consumer for tensor in op.outputs for consumer in tensor.consumers()]
        ends = [op for op in self.number if op in reached and op.outputs and op.type != "Placeholder"]
        return [op.outputs[0] for op in ends if not any(tensor.consumers() for tensor in op.outputs)]

    def _before(self, tensors: Sequence[tf.Tensor]) -> set[tf.Operation]:
        found: set[tf.Operation] = set()
        rest = [tensor.op for tensor in tensors]
        while rest:
            op = rest.pop()
            if op not in found:
                found.add(op)
                rest += [tensor.op for tensor in op.inputs]
        return found

    def variables(self) -> dict[str, tf.Variable]:
        """The variables that the output reads, by name; where it is not known, all but the slots of optimizers."""
        found = {
            variable.op.name: variable
            for variable in self.session.graph.get_collection(tf.compat.v1.GraphKeys.GLOBAL_VARIABLES)
        }
        if self.is_clear:
            return {name: variable for name, variable in found.items() if variable.op in self.alive}
        # A slot is named after its variable: conv/kernel/Momentum.
        parents = {name: [name[:end] for end, letter in enumerate(name) if letter == "/"] for name in found}
        return {name: variable for name, variable in found.items() if not found.keys() & set(parents[name])}

    def uses(self, tensor: tf.Tensor) -> list[tuple[tf.Operation, int]]:
        """The operations that compute with a tensor, in the order of the graph, and as which input."""
        found: list[tuple[tf.Operation, int]] = []
        for op in tensor.consumers():
            if op not in self.alive:
                continue
            if op.type in READS and op.inputs[0] is tensor:
                found += self.uses(op.outputs[0])
            else:
                found += [(op, index) for index, one in enumerate(op.inputs) if one is tensor]
        return sorted(set(found), key=lambda use: (self.number[use[0]], use[1]))

    def next(self, tensor: tf.Tensor, kinds: Collection[str]) -> tf.Operation | None:
        """The first of the operations of `kinds` that read a tensor."""
        return next((op for op, _ in self.uses(tensor) if op.type in kinds), None)


def _tensors(value: Any) -> list[tf.Tensor]:
    return list(value) if isinstance(value, list | tuple) else [value]


def find_layers(model: Any) -> LiveNetwork:
    """The layers of the session's graph by the name of their variable scope."""
    graph = Graph(model)
    scopes = _scopes(graph)
    found = {scope: _layer(graph, leaves)[0] for scope, leaves in scopes.items()}
    layers: dict[str, LiveLayer] = {}
    wholes = _attentions(graph, scopes)
    owners = {part: name for name, (parts, _) in wholes.items() for part in parts.values()}
    for scope, layer in found.items():
        name = owners.get(scope)
        if name is None:
            layers[scope] = layer
        elif name not in layers:
            layers[name] = wholes[name][1][0]
    return LiveNetwork(layers, graph.variables())


def _scopes(graph: Graph) -> dict[str, dict[str, tf.Variable]]:
    """The variables of each scope by their own names."""
    scopes: dict[str, dict[str, tf.Variable]] = {}
    for name, variable in graph.variables().items():
        scope, _, leaf = name.rpartition("/")
        scopes.setdefault(scope, {})[leaf] = variable
    return scopes


def _found(graph: Graph) -> dict[str, Found]:
    """Every layer and the parts of those that are wholes."""
    scopes = _scopes(graph)
    wholes = {name: found for name, (_, found) in _attentions(graph, scopes).items()}
    return {scope: _layer(graph, leaves) for scope, leaves in scopes.items()} | wholes


def _attentions(
    graph: Graph, scopes: Mapping[str, Mapping[str, tf.Variable]]
) -> dict[str, tuple[dict[str, str], Found]]:
    """The scopes of the projections, and the attention between them, by the name of the scope that holds all four."""
    found = {}
    for name in dict.fromkeys(scope.rpartition("/")[0] for scope in scopes):
        prefix = f"{name}/" if name else ""
        candidates = {part: [own for one in names if (own := prefix + one) in scopes] for part, names in PARTS.items()}
        if name in scopes or any(len(places) != 1 for places in candidates.values()):
            continue
        parts = {part: places[0] for part, places in candidates.items()}
        attention = _attention(graph, {part: scopes[scope] for part, scope in parts.items()})
        if attention is not None:
            found[name] = parts, attention
    return found


def _attention(graph: Graph, scopes: Mapping[str, Mapping[str, tf.Variable]]) -> Found | None:
    parts, variables, layouts = {}, dict[str, Any](), dict[str, str]()
    for part, leaves in scopes.items():
        projection = _projection(graph, part, leaves)
        if projection is None:
            return None
        parts[part], kernel, bias = projection
        variables[f"{part}.kernel"] = kernel
        layouts[f"{part}.kernel"] = _head_layout(part, kernel)
        if bias is not None:
            variables[f"{part}.bias"] = bias
            layouts |= {f"{part}.bias": "heads"} if len(bias.shape) == 2 else {}
    shown = find_attention(parts)
    if shown is None:
        return None
    place = Place(_unflattened(parts["query"].x), _in_sequences(graph, parts["output"].y))
    return LiveLayer("attention", shown, variables, layouts, origin="four projections and a softmax"), place


def _unflattened(x: tf.Tensor) -> tf.Tensor:
    """The sequences of which `x` may be all positions as one batch."""
    if x.op.type != "Reshape" or x.shape.rank != 2:
        return x
    before = x.op.inputs[0]
    return before if before.shape.rank is not None and before.shape[-1] == x.shape[-1] is not None else x


def _in_sequences(graph: Graph, y: tf.Tensor) -> tf.Tensor:
    """The sequences that all positions `y` become."""
    after = graph.next(y, ("Reshape",)) if y.shape.rank == 2 else None
    shape = y.shape if after is None else after.outputs[0].shape
    return y if after is None or shape.rank is None or shape[-1] != y.shape[-1] else after.outputs[0]


def _head_layout(part: str, kernel: tf.Variable) -> str:
    if len(kernel.shape) == 2:
        return "kernel last"
    return "heads in" if part == "output" else "heads out"


def _projection(
    graph: Graph, part: str, leaves: Mapping[str, tf.Variable]
) -> tuple[Projection, tf.Variable, tf.Variable | None] | None:
    """The product with the one kernel of a scope and the sum with its bias; None where it holds anything else."""
    uses = {leaf: op for leaf, variable in leaves.items() if (op := _product_use(graph, variable)) is not None}
    biases = [leaf for leaf in leaves if leaf not in uses]
    if len(uses) != 1 or len(biases) > 1:
        return None
    ((leaf, op),) = uses.items()
    kernel, bias = leaves[leaf], leaves[biases[0]] if biases else None
    is_output = part == "output"
    inner, outer = (kernel.shape[:-1], kernel.shape[-1:]) if is_output else (kernel.shape[1:], kernel.shape[:1])
    is_tensordot = op.name.rpartition("/")[0].rpartition("/")[2].startswith("Tensordot")
    x, product = (_begin(op, op.inputs[0]), _end(graph, op)) if is_tensordot else (op.inputs[0], op.outputs[0])
    last = product
    if bias is not None:
        added = graph.next(_handle(bias), SUMS)
        if added is None or bias.shape != (outer if is_output else inner):
            return None
        if not any(one is product for one in added.inputs):
            return None
        last = added.outputs[0]
    return Projection(op, x, last, len(kernel.shape), inner.num_elements()), kernel, bias


def _product_use(graph: Graph, variable: tf.Variable) -> tf.Operation | None:
    """The product whose second factor a kernel is, as it lies: (in, heads * size) or (in, heads, size)."""
    op = next((op for op, index in graph.uses(_handle(variable)) if index == 1 and op.type in PROJECTIONS), None)
    rank = len(variable.shape)
    if op is None or rank not in (2, 3) or any(_attribute(op, name) for name in TURNS):
        return None
    if op.type == "Einsum":
        return op if _is_projection(op.get_attr("equation").decode(), rank) else None
    return op if rank == 2 else None


def _is_projection(equation: str, rank: int) -> bool:
    """Whether the last axes of the input become the last axes of the kernel, in their order."""
    (x, _, kernel), y = equation.partition("->")[0].partition(","), equation.partition("->")[2]
    sizes = [size for size in range(1, rank) if x.endswith(kernel[:size]) and y == x[: len(x) - size] + kernel[size:]]
    return len(kernel) == rank and len(set(x + kernel)) == len(x) + rank - (sizes[0] if sizes else 0) and bool(sizes)


def _layer(graph: Graph, leaves: Mapping[str, tf.Variable]) -> Found:
    if leaves.keys() <= NORM_LEAVES.keys() and {"moving_mean", "moving_variance"} <= leaves.keys():
        return _batch_norm(graph, leaves)
    if leaves.keys() <= AFFINE_LEAVES.keys() and all(len(variable.shape) == 1 for variable in leaves.values()):
        return _plain_norm(graph, leaves)
    kernels = {leaf: use for leaf, variable in leaves.items() if (use := _kernel_use(graph, variable)) is not None}
    sums = {leaf: op for leaf, variable in leaves.items() if (op := graph.next(_handle(variable), SUMS)) is not None}
    if len(kernels) == 1 and len(leaves) <= 2 and leaves.keys() == kernels.keys() | sums.keys():
        (kernel,) = kernels
        biases = [leaf for leaf in leaves if leaf != kernel]
        if all(len(leaves[leaf].shape) == 1 for leaf in biases):
            bias = biases[0] if biases else None
            return _with_kernel(
                graph, kernels[kernel], leaves[kernel], leaves[bias] if bias else None, sums[bias] if bias else None
            )
    return _unknown(leaves)


def _unknown(leaves: Mapping[str, tf.Variable], remark: str = "") -> Found:
    origin = f"the variables {', '.join(leaves)} of one scope{remark}"
    return LiveLayer("unknown", {}, dict(leaves), origin=origin), Place(None, None)


def _handle(variable: tf.Variable) -> tf.Tensor:
    return variable.op.outputs[0]


def _kernel_use(graph: Graph, variable: tf.Variable) -> tf.Operation | None:
    uses = graph.uses(_handle(variable))
    return next((op for op, index in uses if op.type in KERNELS and KERNELS[op.type][0] == index), None)


def _with_kernel(
    graph: Graph, op: tf.Operation, kernel: tf.Variable, bias: tf.Variable | None, last: tf.Operation | None
) -> Found:
    _, index, kind = KERNELS[op.type]
    x, y = op.inputs[index], last.outputs[0] if last is not None else _end(graph, op)
    place, origin = Place(_begin(op, x), y), op.type
    biases = {"bias": bias} if bias is not None else {}
    if kind == "embedding":
        return LiveLayer(kind, {"max_norm": None}, {"embeddings": kernel}, origin=origin), place
    if kind == "dense":
        turned = any(_attribute(op, name) for name in ("transpose_b", "adj_y"))
        layouts = {} if turned else {"kernel": "kernel last"}
        return LiveLayer(kind, {}, {"kernel": kernel, **biases}, layouts, origin=origin), place
    layout = "depthwise" if op.type == "DepthwiseConv2dNative" else "kernel last"
    return (
        LiveLayer(
            kind,
            _window(op, kernel, x),
            {"kernel": kernel, **biases},
            {"kernel": layout},
            channels=_channels(op),
            origin=origin,
        ),
        place,
    )


def _begin(op: tf.Operation, x: tf.Tensor) -> tf.Tensor:
    """The map before what the functions of `tf.nn` do to it for the sake of `op`."""
    scope = op.name.rpartition("/")[0]
    while x.op.type in ("ExpandDims", "SpaceToBatchND", "Reshape", "Transpose"):
        if not x.op.name.startswith((f"{op.name}/", f"{scope}/") if scope else f"{op.name}/"):
            break
        x = x.op.inputs[0]
    return x


def _end(graph: Graph, op: tf.Operation) -> tf.Tensor:
    """The map behind what the functions of `tf.nn` do to it for the sake of `op`."""
    y, scope = op.outputs[0], op.name.rpartition("/")[0]
    after = graph.next(y, ("Squeeze", "BatchToSpaceND", "Reshape"))
    is_own = after is not None and (after.name == scope or after.name.startswith((f"{op.name}/", f"{scope}/")))
    return after.outputs[0] if after is not None and is_own else y


def _channels(op: tf.Operation) -> str:
    """Where the channels of the operation's output are."""
    return "first" if _attribute(op, "data_format").startswith(b"NC") else "last"


def _attribute(op: tf.Operation, name: str) -> Any:
    return op.get_attr(name) if name in op.node_def.attr else b""


def _window(op: tf.Operation, kernel: tf.Variable, x: tf.Tensor) -> dict[str, Any]:
    rank, first = len(kernel.shape) - 2, 2 if _channels(op) == "first" else 1
    window = slice(first, first + len(op.inputs[1].shape) - 2)
    shown: dict[str, Any] = {"strides": list(op.get_attr("strides"))[window][-rank:]}
    channels = x.shape[1 if first == 2 else -1] if x.shape.rank is not None else None
    if op.type == "DepthwiseConv2dNative":
        shown["groups"] = int(kernel.shape[-2])
    elif op.type not in ("Conv2D", "Conv3D"):
        shown["groups"] = 1
    elif channels is not None:
        shown["groups"] = int(channels) // int(kernel.shape[-2])
    if x.op.type == "SpaceToBatchND":  # an old way to dilate: the padding stands in there as well
        return shown
    shown["dilation"] = list(op.get_attr("dilations"))[window][-rank:]
    if op.type in ("Conv2D", "Conv3D", "DepthwiseConv2dNative"):
        padding = _padding(op, list(map(int, kernel.shape[:rank])), shown, window)
        shown |= {} if padding is None else {"padding": padding}
    return shown


def _padding(op: tf.Operation, sizes: list[int], shown: Mapping[str, Any], window: slice) -> list[list[int]] | None:
    """(before, after) of each spatial axis; None where it hangs on the size of the map."""
    kind = op.get_attr("padding")
    if kind == b"VALID":
        return [[0, 0] for _ in sizes]
    if kind == b"EXPLICIT":
        flat = list(op.get_attr("explicit_paddings"))
        return [flat[2 * axis : 2 * axis + 2] for axis in range(window.start, window.stop)][-len(sizes) :]
    if set(shown["strides"]) != {1}:
        return None
    whole = [step * (size - 1) for step, size in zip(shown["dilation"], sizes, strict=True)]
    return [[size // 2, size - size // 2] for size in whole]


def _batch_norm(graph: Graph, leaves: Mapping[str, tf.Variable]) -> Found:
    variables = {NORM_LEAVES[leaf]: variable for leaf, variable in leaves.items()}
    variance = _handle(leaves["moving_variance"])
    fused, shown, place, channels = graph.next(variance, FUSED), {}, Place(None, None), "last"
    if fused is not None:
        shown["epsilon"] = _decimal(fused.get_attr("epsilon"))
        place, channels = Place(fused.inputs[0], fused.outputs[0]), _channels(fused)
    else:
        added = graph.next(variance, SUMS)
        values = [tf.get_static_value(one) for one in added.inputs] if added is not None else []
        numbers = [float(value) for value in values if value is not None and value.size == 1]
        shown |= {"epsilon": _decimal(numbers[0])} if numbers else {}
        place = Place(None, _shifted(graph, leaves.get("beta")))
    return LiveLayer("batch norm", shown, variables, channels=channels, origin="moving_mean and moving_variance"), place


def _plain_norm(graph: Graph, leaves: Mapping[str, tf.Variable]) -> Found:
    """A layer or a group norm; never a batch norm, whose moments are those of the whole batch."""
    variables = {AFFINE_LEAVES[leaf]: variable for leaf, variable in leaves.items()}
    norm = find_norm({name: _handle(variable) for name, variable in variables.items()}, graph.alive)
    if norm is None:
        return _unknown(leaves, ", in which no norm of tf.nn.moments over kept axes is seen")
    if not norm.kind:
        axes = ", ".join(map(str, norm.axes))
        return _unknown(leaves, f", a norm over the axes {axes}, which is neither a layer norm nor a group norm")
    place = Place(norm.x, norm.y)
    return LiveLayer(norm.kind, norm.shown, variables, channels=norm.channels, origin="moments and affine"), place


def _decimal(value: float) -> float:
    """A number that went through float32, as it was written."""
    return float(f"{value:.7g}")


def _shifted(graph: Graph, beta: tf.Variable | None) -> tf.Tensor | None:
    """What comes out of a norm of single operations: the sum that its beta ends in."""
    if beta is None:
        return None
    handle = _handle(beta)
    shift = graph.next(handle, ("Sub",))
    last = graph.next(handle if shift is None else shift.outputs[0], SUMS)
    return None if last is None else last.outputs[0]


def record(model: Any, inputs: Sequence[Any], names: Collection[str]) -> tuple[list[Any], list[tuple[str, Any, Any]]]:
    """Run the session's graph on NumPy `inputs`, as they are, and as its own defaults say (training or not).

    Returns:
        Its outputs, and (name, input, output) of every layer of `names` in the order of the graph; all NumPy, None for
        a tensor that nobody can tell.
    """
    graph = Graph(model)
    if len(graph.inputs) != len(inputs) or not graph.is_clear:
        raise InputError(
            f"received a session whose graph has {len(graph.inputs)} placeholders and {len(graph.outputs)} ends, and "
            f"{len(inputs)} arrays",
            "a placeholder for each array, and one end",
            "pass (session, input tensor, output tensor) as the model",
        )
    places = {name: place for name, (_, place) in _found(graph).items() if name in names and place.y is not None}
    order = sorted(places, key=lambda name: graph.number[places[name].y.op])  # type: ignore[union-attr]
    fetches = [[tensor for tensor in (places[name].x, places[name].y) if tensor is not None] for name in order]
    outputs, values = graph.session.run([graph.outputs, fetches], dict(zip(graph.inputs, inputs, strict=True)))
    return list(map(_array, outputs)), [
        (name, _array(found[0]) if len(found) == 2 else None, _array(found[-1]))
        for name, found in zip(order, values, strict=True)
    ]


def _array(value: Any) -> Any:
    return value.astype("float32") if value.dtype.name == "bfloat16" else value
