"""ONNX graphs: protobuf, weights in it and beside it, and an analysis that follows every operator."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from google.protobuf.message import Error as MessageError

from fuzz import change
from fuzz._target import Target, look, pack, several_files, unpack
from parity import files
from parity.files.onnx import _operators

MODEL, OUTSIDE = "model.onnx", "weights.bin"

OPERATORS = sorted({*_operators.OPERATORS, *_operators.ELEMENTWISE, *_operators.SAME_RANK, *_operators.BROADCAST})
CONTROL = ("If", "Loop", "Scan", "own::Half", "Constant", "ConstantOfShape", "Range", "Einsum", "LSTM", "")
ATTRIBUTES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("axes", "perm", "pads", "strides", "dilations", "kernel_shape", "split", "shape"), ([], [1], [2, 3])
    ),
    **dict.fromkeys(("starts", "ends", "steps", "value_ints", "output_padding"), ([0], [1], [-1, 0])),
    **dict.fromkeys(
        ("axis", "keepdims", "group", "allowzero", "start", "end", "to", "transA", "transB"), (0, 1, 2, -1)
    ),
    **dict.fromkeys(("training_mode", "spatial", "ceil_mode", "num_outputs", "value_int"), (0, 1, 3)),
    **dict.fromkeys(("alpha", "beta", "epsilon", "momentum", "min", "max", "value_float"), (0.2, 1 / 6, 0.0, 6.0)),
    "auto_pad": ("SAME_UPPER", "VALID", "NOTSET", "?"),
    "mode": ("constant", "wrap", "reflect"),
}
NUMBERS = (0, 1, 2, 3, 4, 5, 6, -1, 0.2, 0.5, 1 / 6, 3.0, 6.0, float("nan"), float("inf"), -1e30, 3.4e38)
SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (1,),
    (0,),
    (-1,),
    (0, -1),
    (0, 0, -1),
    (1, -1, 1, 1),
    (0, -1, 1, 1),
    (1,) * 20,
)

Change = Callable[[Any, Random], None]


# Seeds


def seeds(folder: Path) -> Iterator[bytes]:
    """What exporters write of each block, other spellings, functions, weights outside of the file, graphs in nodes."""
    yield from map(_packed, _exported(folder))
    yield from (_packed(_model(nodes, weights)) for nodes, weights in SPELLINGS)
    yield _packed(_with_function(_model(*SPELLINGS[0])))
    yield _packed(_with_branches(_model(*SPELLINGS[0])))
    model = _model(*SPELLINGS[0])
    content = bytes(16)
    for tensor in model.graph.initializer:
        if tensor.data_type == tensor.FLOAT:
            start, raw = len(content), tensor.raw_data
            content += raw
            tensor.ClearField("raw_data")
            tensor.data_location = tensor.EXTERNAL
            for key, value in {"location": OUTSIDE, "offset": start, "length": len(raw)}.items():
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(value)
    yield pack({MODEL: model.SerializeToString(), OUTSIDE: content})


def _packed(model: Any) -> bytes:
    return pack({MODEL: model.SerializeToString()})


def _exported(folder: Path) -> Iterator[Any]:
    import torch

    import attention_torch

    kinds = {
        "SqueezeExcitation": ({"gate": "hard_sigmoid"}, {"activation": "silu", "spatial_dims": 1}),
        "CBAM": (
            {"residual": True},
            {"channel_merge": "concat", "spatial_features": "full", "spatial_source": "input"},
        ),
        "ECA": ({}, {"padding": "circular", "bias": True}),
        "CoordinateAttention": ({}, {"spatial_dims": 3, "activation": "relu"}),
    }
    for kind, choices in kinds.items():
        for options in choices:
            sizes = {"kernel_size": 3} if kind in ("ECA", "CBAM") else {}
            sizes |= {"hidden_channels": 2} if kind != "ECA" else {}
            module = getattr(attention_torch, kind)(4, **sizes, **options).eval()
            x = torch.randn(1, 4, *(5, 6, 7)[: module.spec.spatial_dims])
            axes = {"x": {axis: f"s{axis}" for axis in range(x.ndim) if axis != 1}}
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    module, (x,), folder / "m.onnx", dynamo=False, input_names=["x"], dynamic_axes=axes, verbose=False
                )
            yield onnx.load(folder / "m.onnx")


def _node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(op, inputs.split(), output.split(), name=f"/net/block/{output}", **attributes)


def _ones(*shape: int) -> np.ndarray:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


SE_WEIGHTS = {
    "net.se.fc1.weight": _ones(2, 4, 1, 1),
    "net.se.fc2.weight": _ones(4, 2, 1, 1),
    "net.se.fc1.bias": _ones(2),
}
SPELLINGS: tuple[tuple[list[Any], dict[str, np.ndarray]], ...] = (
    (
        [
            _node("GlobalAveragePool", "x", "p"),
            _node("Conv", "p net.se.fc1.weight net.se.fc1.bias", "a"),
            _node("Relu", "a", "r"),
            _node("Conv", "r net.se.fc2.weight net.se.fc2.bias", "u"),
            _node("HardSigmoid", "u", "s", alpha=1 / 6),
            _node("Mul", "x s", "y"),
        ],
        SE_WEIGHTS | {"net.se.fc2.bias": _ones(4)},
    ),
    (
        [
            _node("ReduceMean", "x", "p", axes=[2, 3], keepdims=0),
            _node("Gemm", "p w1 b1", "a", transB=1, alpha=0.5, beta=2.0),
            _node("Sigmoid", "a", "g"),
            _node("Mul", "g a", "r"),
            _node("Transpose", "w2", "t", perm=[1, 0]),
            _node("MatMul", "r t", "v"),
            _node("Add", "v b2", "u"),
            _node("Add", "u three", "u3"),
            _node("Clip", "u3 zero six", "c"),
            _node("Div", "c six", "s"),
            _node("Unsqueeze", "s last", "e"),
            _node("Shape", "x", "shape"),
            _node("Expand", "e shape", "w"),
            _node("Cast", "w", "f", to=1),
            _node("Mul", "f x", "y"),
        ],
        {
            **{"w1": _ones(2, 4), "b1": _ones(2), "w2": _ones(4, 2), "b2": _ones(4), "last": _ints(2, 3)},
            **{"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
        },
    ),
    (
        [
            _node("GlobalAveragePool", "x", "p"),
            _node("Shape", "x", "shape"),
            _node("Gather", "shape zero", "n"),
            _node("Unsqueeze", "n first", "n1"),
            _node("Mul", "n1 one", "n2"),
            _node("Concat", "n2 minus one", "target", axis=0),
            _node("Reshape", "p target", "q"),
            _node("Transpose", "q", "t", perm=[0, 2, 1]),
            _node("Pad", "t pads", "padded", mode="wrap"),
            _node("Conv", "padded w", "v"),
            _node("Add", "v b", "u"),
            _node("Transpose", "u", "z", perm=[0, 2, 1]),
            _node("Sigmoid", "z", "s"),
            _node("Unsqueeze", "s last", "e"),
            _node("Identity", "e", "i"),
            _node("Mul", "x i", "y"),
        ],
        {
            **{"zero": np.array(0), "first": _ints(0), "one": _ints(1), "minus": _ints(-1), "last": _ints(3)},
            **{"pads": _ints(0, 0, 1, 0, 0, 1), "w": _ones(1, 1, 3), "b": _ones(1)},
        },
    ),
    (
        [
            _node("ReduceMean", "x", "ph", axes=[3], keepdims=1),
            _node("ReduceMean", "x", "pw0", axes=[2], keepdims=1),
            _node("Transpose", "pw0", "pw", perm=[0, 1, 3, 2]),
            _node("Concat", "ph pw", "j", axis=2),
            _node("Conv", "j w", "v"),
            _node("BatchNormalization", "v scale offset mean variance", "n"),
            _node("HardSwish", "n", "f"),
            _node("Shape", "x", "shape"),
            _node("Slice", "shape two three", "h"),
            _node("Slice", "f zero h axis", "fh"),
            _node("Slice", "f h huge axis", "fw0"),
            _node("Transpose", "fw0", "fw", perm=[0, 1, 3, 2]),
            _node("Conv", "fh wh", "uh"),
            _node("Conv", "fw ww", "uw"),
            _node("Sigmoid", "uh", "sh"),
            _node("Sigmoid", "uw", "sw"),
            _node("Mul", "sh sw", "s"),
            _node("Mul", "x s", "m"),
            _node("Add", "x m", "y"),
        ],
        {
            **{"w": _ones(2, 4, 1, 1), "wh": _ones(4, 2, 1, 1), "ww": _ones(4, 2, 1, 1), "scale": _ones(2)},
            **{
                "offset": _ones(2),
                "mean": _ones(2),
                "variance": np.float32([1, 2]),
                "two": _ints(2),
                "three": _ints(3),
            },
            **{"zero": _ints(0), "axis": _ints(2), "huge": _ints(2**63 - 1)},
        },
    ),
    (
        [
            _node("ReduceMax", "x", "max", axes=[1], keepdims=1),
            _node("ReduceMean", "x", "mean", axes=[1], keepdims=1),
            _node("Concat", "max mean", "j", axis=1),
            _node("Conv", "j w", "v", pads=[1, 1, 1, 1]),
            _node("Sigmoid", "v", "s"),
            _node("Mul", "s x", "refined"),
            _node("AveragePool", "refined", "p", kernel_shape=[5, 6], strides=[5, 6]),
            _node("Flatten", "p", "q"),
            _node("Gemm", "q w1", "a"),
            _node("Max", "a zero", "r"),
            _node("Gemm", "r w2", "u"),
            _node("Sigmoid", "u", "gate"),
            _node("Reshape", "gate target", "e"),
            _node("Mul", "refined e", "y"),
        ],
        {
            **{"w": _ones(1, 2, 3, 3), "w1": _ones(4, 2), "w2": _ones(2, 4), "zero": np.float32(0)},
            "target": _ints(0, -1, 1, 1),
        },
    ),
)


def _model(nodes: Sequence[Any], weights: dict[str, np.ndarray]) -> Any:
    ends = [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", ["n", 4, 5, 6]), ("y", None))]
    held = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _with_function(model: Any) -> Any:
    """`model` after a function that calls another one."""
    bodies = {"Half": [_node("Sigmoid", "a", "b"), _node("Mul", "a b", "y")], "Whole": [_node("Half", "a", "y")]}
    bodies["Whole"][0].domain = "own"
    for name, nodes in bodies.items():
        function = onnx.helper.make_function("own", name, ["a"], ["y"], nodes, model.opset_import)
        model.functions.append(function)
    return _before(model, _node("Whole", "x", "before", domain="own"))


def _with_branches(model: Any) -> Any:
    """`model` after a node with graphs inside."""
    branch = onnx.helper.make_graph(
        [_node("Relu", "x", "b")], "b", [], [onnx.helper.make_tensor_value_info("b", 1, None)]
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "which"))
    return _before(model, _node("If", "which", "before", then_branch=branch, else_branch=branch))


def _before(model: Any, node: Any) -> Any:
    nodes = list(model.graph.node)
    for other in nodes:
        for place, name in enumerate(other.input):
            other.input[place] = "before" if name == "x" else name
    del model.graph.node[:]
    model.graph.node.extend([node, *nodes])
    return model


# Changes


def mutate(data: bytes, rng: Random) -> bytes:
    """One change of the graph; now and then of a file's bytes, or of the file of weights beside it."""
    parts = unpack(data)
    model = onnx.ModelProto()
    kind = rng.random()
    if kind < 0.05:
        return change.change_bytes(data, rng)
    if kind < 0.1 and OUTSIDE in parts:
        return pack(parts | {OUTSIDE: change.change_bytes(parts[OUTSIDE], rng)})
    try:
        model.ParseFromString(parts.get(MODEL, b""))
    except DecodeError:
        model.Clear()
    if kind < 0.2 or not model.graph.node:
        return pack(parts | {MODEL: change.change_bytes(parts.get(MODEL, b""), rng)})
    with contextlib.suppress(ValueError, TypeError, MessageError):  # what protobuf does not take
        rng.choice(CHANGES)(model, rng)
        return pack(parts | {MODEL: model.SerializeToString()})
    return data


def _tensors(model: Any) -> list[str]:
    graph = model.graph
    names = [value.name for value in graph.input] + [tensor.name for tensor in graph.initializer]
    return [*names, *(name for node in graph.node for name in node.output)]


def _operator(model: Any, rng: Random) -> None:
    rng.choice(model.graph.node).op_type = rng.choice(OPERATORS if rng.random() < 0.95 else CONTROL)


def _rewire(model: Any, rng: Random) -> None:
    node = rng.choice(model.graph.node)
    name = rng.choice(_tensors(model)) if rng.random() < 0.95 else rng.choice(("", *change.NAMES))
    if node.input and rng.random() < 0.8:
        node.input[rng.randrange(len(node.input))] = name
    elif rng.random() < 0.5 or not node.output:
        node.input.append(name)
    else:
        node.output[rng.randrange(len(node.output))] = name


def _swap_inputs(model: Any, rng: Random) -> None:
    node = rng.choice(model.graph.node)
    names = list(node.input)
    rng.shuffle(names)
    del node.input[:]
    node.input.extend(names)


def _attribute(model: Any, rng: Random) -> None:
    node = rng.choice(model.graph.node)
    name = rng.choice(list(ATTRIBUTES))
    if node.attribute and rng.random() < 0.7:
        entry = rng.choice(node.attribute)
        name = entry.name
        if rng.random() < 0.1:
            node.attribute.remove(entry)
            return
        if _change_list(entry, rng):
            return
        node.attribute.remove(entry)
    kinds = rng.choice(list(ATTRIBUTES.values())) if rng.random() < 0.2 else ATTRIBUTES.get(name, (0,))
    node.attribute.append(onnx.helper.make_attribute(name, rng.choice(kinds), attr_type=None if kinds[0] != [] else 7))


def _change_list(entry: Any, rng: Random) -> bool:
    """Change one number of an attribute; whether it has any."""
    if entry.ints:
        place = rng.randrange(len(entry.ints))
        value = rng.choice((0, 1, 2, 3, -1, -2)) if rng.random() < 0.7 else _int64(change.near(entry.ints[place], rng))
        entry.ints[place] = value
        if rng.random() < 0.2:
            entry.ints.extend([value] * rng.choice((1, 2, 40)))
        return True
    if entry.type == entry.INT:
        entry.i = rng.choice((0, 1, 2, 3, -1, -2)) if rng.random() < 0.7 else _int64(change.near(entry.i, rng))
        return True
    if entry.type == entry.FLOAT:
        entry.f = rng.choice(NUMBERS)
        return True
    if entry.type == entry.TENSOR:
        _change_tensor(entry.t, rng)
        return True
    return False


def _int64(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _weight(model: Any, rng: Random) -> None:
    if model.graph.initializer:
        _change_tensor(rng.choice(model.graph.initializer), rng)


def _change_tensor(tensor: Any, rng: Random) -> None:
    kind = rng.randrange(8)
    if kind == 0:
        place = rng.randrange(len(tensor.dims) + 1)
        if place < len(tensor.dims):
            tensor.dims[place] = _int64(change.near(tensor.dims[place], rng))
        else:
            tensor.dims.append(_int64(change.number(rng)))
    elif kind == 1:
        tensor.data_type = rng.choice((*range(28), -1, 1 << 30))
    elif kind == 2:
        tensor.raw_data = change.change_bytes(tensor.raw_data, rng)
    elif kind == 3:
        _outside(tensor, rng)
    elif kind == 4 and tensor.data_type == tensor.INT64:
        values = rng.choice(SHAPES) if rng.random() < 0.5 else tuple(rng.choice((0, 1, -1, 4)) for _ in range(4))
        _set(tensor, np.array(values if rng.random() < 0.9 else _int64(change.number(rng)), np.int64))
    elif kind == 5:
        _set(tensor, np.asarray(rng.choice(NUMBERS), rng.choice((np.float32, np.float64, np.float16))))
    elif kind == 6 and np.prod(tensor.dims, dtype=object) < 4096:
        shape = list(tensor.dims)
        rng.shuffle(shape)
        del tensor.dims[:]
        tensor.dims.extend(shape if rng.random() < 0.5 else [*shape, 1] if rng.random() < 0.5 else shape[1:] or [1])
    else:
        tensor.name = rng.choice(change.NAMES)


def _set(tensor: Any, value: np.ndarray) -> None:
    name = tensor.name
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, name))


def _outside(tensor: Any, rng: Random) -> None:
    """Let a tensor lie in another file, or elsewhere in it."""
    tensor.data_location = tensor.EXTERNAL
    places = (OUTSIDE, MODEL, *change.ESCAPES)
    values = {"location": places, "offset": change.NUMBERS, "length": change.NUMBERS, "checksum": ("",)}
    key = rng.choice(list(values)) if tensor.external_data else "location"
    entry = (
        rng.choice(tensor.external_data) if tensor.external_data and rng.random() < 0.7 else tensor.external_data.add()
    )
    entry.key, entry.value = key, str(rng.choice(values[key]))


def _insert(model: Any, rng: Random) -> None:
    """A node between one that makes a tensor and those that use it."""
    graph = model.graph
    names = _tensors(model)
    name, op = rng.choice(names), rng.choice(OPERATORS)
    made = [i for i, node in enumerate(graph.node) if name in node.output]
    new = f"{name}_{rng.randrange(1000)}"
    inputs = [name, *(rng.choice(names) for _ in range(rng.choice((0, 0, 1, 2))))]
    inputs = [name, name] if op in ("Concat", "Mul", "Add") and rng.random() < 0.5 else inputs
    node = onnx.helper.make_node(op, inputs, [new])
    for key in rng.sample(list(ATTRIBUTES), rng.choice((0, 0, 1, 1, 2))):
        kind = 7 if ATTRIBUTES[key][0] == [] else None
        node.attribute.append(onnx.helper.make_attribute(key, rng.choice(ATTRIBUTES[key]), attr_type=kind))
    nodes = list(graph.node)
    start = made[0] + 1 if made else 0
    for later in nodes[start:]:
        for place, used in enumerate(later.input):
            later.input[place] = new if used == name and rng.random() < 0.8 else used
    del graph.node[:]
    graph.node.extend([*nodes[:start], node, *nodes[start:]])


def _repeat(model: Any, rng: Random) -> None:
    """One node many times in a row, each of what the one before made."""
    node = rng.choice(model.graph.node)
    if not node.input or not node.output:
        return
    last = node.output[0]
    for number in range(rng.choice((2, 30, 300))):
        model.graph.node.add().CopyFrom(node)
        new = model.graph.node[-1]
        inputs = [last if name == node.input[0] else name for name in node.input]
        del new.input[:], new.output[:]
        new.input.extend(inputs)
        last = f"{node.output[0]}_{rng.randrange(1 << 30)}_{number}"
        new.output.append(last)


def _order(model: Any, rng: Random) -> None:
    nodes = list(model.graph.node)
    i, j = rng.randrange(len(nodes)), rng.randrange(len(nodes))
    if rng.random() < 0.5:
        nodes[i], nodes[j] = nodes[j], nodes[i]
    elif rng.random() < 0.5:
        del nodes[i]
    else:
        nodes.insert(i, nodes[j])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _shape(model: Any, rng: Random) -> None:
    """What is stated of the shape of an input, an output, or of any other tensor."""
    stated = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if rng.random() < 0.3 or not stated:
        shape = [rng.choice((None, 0, 1, 2, 4, 5, 1 << 40)) for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 40)))]
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(rng.choice(_tensors(model)), 1, shape))
        return
    kind = rng.choice(stated).type.tensor_type
    kind.elem_type = rng.choice((1, 1, 1, 7, 10, 11, 0, 99))
    if kind.shape.dim and rng.random() < 0.8:
        rng.choice(kind.shape.dim).dim_value = rng.choice((0, 1, 2, 4, 5, -1, (1 << 63) - 1))
    else:
        kind.shape.dim.add().dim_param = "n"


def _function(model: Any, rng: Random) -> None:
    """A function of nodes of the graph, or of calls of functions, that is called somewhere."""
    names = [function.name for function in model.functions]
    name = rng.choice(("Half", "Whole", "Other", *names))
    body = [rng.choice(model.graph.node) for _ in range(rng.choice((1, 2, 5)))]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in body]
    if rng.random() < 0.5:
        nodes = [onnx.helper.make_node(rng.choice(("Half", "Whole", "Other")), ["a"], ["y"], domain="own")] * len(nodes)
    function = onnx.helper.make_function("own", name, ["a"], ["y"], nodes, model.opset_import)
    if model.functions and rng.random() < 0.5:
        model.functions[rng.randrange(len(model.functions))].CopyFrom(function)
    else:
        model.functions.append(function)
    if rng.random() < 0.7:
        node = rng.choice(model.graph.node)
        node.domain, node.op_type = "own", name


def _graph_inside(model: Any, rng: Random) -> None:
    inner, node = onnx.GraphProto.FromString(model.graph.SerializeToString()), rng.choice(model.graph.node)
    del inner.initializer[:]
    for _ in range(rng.choice((1, 1, 5, 40))):
        outer = onnx.helper.make_node("If", ["which"], ["z"], then_branch=inner)
        inner = onnx.helper.make_graph([outer], "g", [], [])
    node.attribute.append(onnx.helper.make_attribute("body", inner))


def _versions(model: Any, rng: Random) -> None:
    if model.opset_import and rng.random() < 0.8:
        rng.choice(model.opset_import).version = rng.choice((1, 5, 7, 9, 11, 13, 18, 22, 0, -1, (1 << 63) - 1))
    else:
        model.ir_version = rng.choice((0, 1, 3, 10, (1 << 63) - 1))


def _name(model: Any, rng: Random) -> None:
    node = rng.choice(model.graph.node)
    if rng.random() < 0.5:
        node.name = rng.choice((*change.NAMES, "/a/b/c", "/a.b/a.b.c/x", "a/" * 50))
    else:
        new = rng.choice((*change.NAMES, "se_0", "a.b.weight", "onnx::Conv_1", ":" * 500 + "\n"))
        old = rng.choice(_tensors(model))
        for names in (*(node.input for node in model.graph.node), *(node.output for node in model.graph.node)):
            for place, name in enumerate(names):
                names[place] = new if name == old else name
        for tensor in model.graph.initializer:
            tensor.name = new if tensor.name == old else tensor.name


CHANGES: tuple[Change, ...] = (
    *(_operator, _operator, _rewire, _rewire, _swap_inputs, _attribute, _attribute, _attribute, _weight, _weight),
    *(_insert, _insert, _insert, _repeat, _order, _shape, _function, _graph_inside, _versions, _name),
)


def read(path: str) -> None:
    """Read the blocks and the other weights, and look at them as their user would."""
    contents = files.open(path)
    look(contents)
    for block in contents.blocks:
        block.spec.to_json()
        for value in block.tensors.values():
            value.tobytes()


TARGET = Target(
    "onnx",
    ("parity.files.onnx", "parity.block", "parity.spec"),
    seeds,
    mutate,
    read,
    several_files(MODEL, [OUTSIDE]),
    fixed_bytes=24 << 20,  # what copies of weights may take
)
