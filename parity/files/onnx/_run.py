"""A block cut out of its graph, and run by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.errors import BackendMissingError, DialectError, InputError
from parity.files.onnx._blocks import Found, between, shape_of_source
from parity.files.onnx._model import Node, library, subgraphs
from parity.files.onnx._operators import Walk


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


def run(walk: Walk, found: Found, x: np.ndarray) -> np.ndarray:
    """y of the block for the map x, (N, C, *spatial), as the graph computes it: every node as it is, nothing fused."""
    ort = runtime()
    model = _cut(walk, found, x.dtype)
    given = np.ascontiguousarray(np.transpose(x, np.argsort(found.source_axes)))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # what fails is raised
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (y,) = session.run([found.output], {found.source: given})
    except Exception as error:  # the runtime raises classes of its own that share no base
        raise InputError(
            f"{walk.graph.path}: block {found.name!r} does not run on an input of shape {x.shape} and dtype {x.dtype}: "
            f"{error}",
            "an input that its graph takes: of the sizes, batch and dtype that it was exported with",
        ) from error
    return np.transpose(np.asarray(y), found.output_axes)


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
