"""Blocks cut out of their graph, and run by ONNX Runtime in a process of its own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from parity.errors import BackendMissingError, DialectError, FormatError, InputError
from parity.exchange import read_tensors, write_tensors
from parity.files import _child
from parity.files.onnx._blocks import Found, between, shape_of_source
from parity.files.onnx._model import Node, library, subgraphs
from parity.files.onnx._operators import Walk

# What the cut graphs may weigh in all: these times the bytes of the file, and this much for nothing. Blocks may share
# nodes and weights, of which each has a copy here.
CUT, FREE_CUT_BYTES = 8, 1 << 26


def runtime() -> Any:
    """The onnxruntime package; raises `BackendMissingError` where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissingError(
            "received the wish to run an ONNX graph, but onnxruntime is not installed",
            remedy="pip install 'attention-parity[onnx]'",
        ) from error
    return onnxruntime


def run(walk: Walk, wanted: Sequence[tuple[Found, np.ndarray]]) -> list[np.ndarray]:
    """y of each block for its map x, (N, C, *spatial), as the graph computes it: every node as it is, nothing fused.

    One child process runs them all: what nodes compute may take any memory and time, and ONNX Runtime may crash.
    """
    if not wanted:
        return []
    tensors: dict[str, np.ndarray] = {}
    labels: dict[str, str] = {}
    left = FREE_CUT_BYTES + CUT * walk.graph.size
    for number, (found, x) in enumerate(wanted):
        tensors[f"{number}/model"] = model = np.frombuffer(_cut(walk, found, x.dtype).SerializeToString(), np.uint8)
        tensors[f"{number}/x"] = np.transpose(x, np.argsort(found.source_axes))
        shape = [x.shape[axis] for axis in np.argsort(found.output_axes)]
        labels[str(number)] = json.dumps([f"{walk.graph.path}: block {found.name!r}", shape])
        left -= len(model)
        if left < 0:
            raise FormatError(f"{walk.graph.path} has blocks that share too much to be run", "smaller blocks")
    with tempfile.TemporaryDirectory(prefix="parity-", ignore_cleanup_errors=True) as folder:
        path = os.path.join(folder, "blocks")
        write_tensors(path, tensors, labels, durable=False)
        try:
            outputs = _child.read("onnx._run", path).tensors
        except FormatError as error:  # the process died
            raise FormatError(str(error).replace(path, walk.graph.path)) from error
    return [np.transpose(outputs[str(number)], found.output_axes) for number, (found, _) in enumerate(wanted)]


def collect(path: str) -> _child.Found:
    """What ONNX Runtime makes of the graphs and maps that `run` has put into a file; in the child process."""
    tensors, labels = read_tensors(path, mapped=True)
    stored = {}
    for number, text in labels.items():
        label, shape = json.loads(text)
        model, x = tensors[f"{number}/model"], tensors[f"{number}/x"]
        stored[number] = _child.Stored(x.dtype, tuple(shape), partial(_output, label, model, x, tuple(shape)))
    return _child.Found("ONNX graph", stored)


def _output(label: str, model: np.ndarray, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    ort = runtime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # what fails is raised
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.tobytes(), options, providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {session.get_inputs()[0].name: x.copy()})
        if y.shape != shape:
            raise ValueError(f"its output has the shape {y.shape}")
    except Exception as error:  # the runtime raises classes of its own that share no base
        raise InputError(
            f"{label} does not run on an input of shape {x.shape} and dtype {x.dtype}: {error}",
            "an input that its graph takes: of the sizes, batch and dtype that it was exported with",
        ) from error
    return y


def _cut(walk: Walk, found: Found, dtype: np.dtype) -> Any:
    onnx, graph = library(), walk.graph
    nodes = between(walk, found)
    inner = [node for node in nodes if subgraphs(node.proto)]
    if inner:  # a loop may have no end
        raise DialectError(
            f"{graph.path}: block {found.name!r} holds graphs inside {inner[0]}",
            "nodes that compute something of their inputs",
            "run the whole graph instead",
        )
    shapes = {node.number: shape_of_source(walk, found, node) for node in nodes}
    used = {name for node in nodes if shapes[node.number] is None for name in node.inputs} - {found.source}
    outside = [name for name in graph.inputs if name in used]
    if outside:
        raise DialectError(
            f"{graph.path}: block {found.name!r} takes sizes from the graph's input {outside[0]!r}",
            "nodes that see nothing but the block's input",
            "run the whole graph instead",
        )
    names = sorted(used & graph.weights.keys())
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    cut = onnx.helper.make_graph(
        [proto for node in nodes for proto in _protos(onnx, found, node, shapes[node.number])],
        "block",
        [onnx.helper.make_tensor_value_info(found.source, kind, [None] * len(found.source_axes))],
        [onnx.helper.make_tensor_value_info(found.output, kind, None)],
        [onnx.numpy_helper.from_array(np.asarray(graph.weights[name]), name) for name in names],
    )
    return onnx.helper.make_model(cut, opset_imports=graph.proto.opset_import, ir_version=graph.proto.ir_version)


def _protos(onnx: Any, found: Found, node: Node, axes: list[int] | None) -> list[Any]:
    """The node as it is; but the sizes of x are asked of x, not of a tensor before it."""
    if axes is None:
        return [node.proto]
    shape, places = f"{node.outputs[0]}/shape", f"{node.outputs[0]}/axes"
    return [
        onnx.helper.make_node("Shape", [found.source], [shape]),
        onnx.helper.make_node("Constant", [], [places], value=onnx.numpy_helper.from_array(np.asarray(axes, np.int64))),
        onnx.helper.make_node("Gather", [shape, places], [node.outputs[0]]),
    ]
