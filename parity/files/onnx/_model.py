"""An ONNX file as a checked graph: protobuf, weights and external data, before anything is made of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from parity.errors import BackendMissingError, FormatError
from parity.files import _map
from parity.files.onnx._values import MAX_RANK

MAX_BYTES = 2**31 - 1  # of a protobuf message; larger models keep their weights in external data
# What the functions of a model may become when they are put in place of their calls: these times the bytes of the file,
# this much for nothing, and never more than the last; and what a node takes beside its bytes in the file.
INLINED, FREE_INLINED_BYTES, MAX_INLINED_BYTES = 64, 1 << 24, 1 << 28
NODE_BYTES = 256

WHOLE = "a whole, readable ONNX file"


def library() -> Any:
    """The onnx package; raises `BackendMissingError` where it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise BackendMissingError(
            "received an ONNX file, but onnx is not installed", remedy="pip install 'attention-parity[onnx]'"
        ) from error
    return onnx


@dataclass(frozen=True, eq=False)
class Node:
    """One operator call.

    Args:
        number: its place in the graph.
        op: the operator of the standard domain; of another domain "<domain>::<operator>".
        attributes: by name: numbers, lists of numbers, bytes, tensors.
    """

    number: int
    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    proto: Any

    def __str__(self) -> str:
        return f"node {self.number} ({self.op} {self.name or ', '.join(self.outputs)!r})"


class Graph:
    """The main graph of the ONNX file at `path`: nodes in order, weights by name, and what is said of its tensors.

    Raises:
        BackendMissingError: where onnx is not installed.
        FormatError: for a file that is none, is damaged, or points out of its folder.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.proto = _inlined(path, _parsed(path))
        graph = self.proto.graph
        self.opset = max((entry.version for entry in self.proto.opset_import if entry.domain in STANDARD), default=0)
        self.weights = dict(_weights(path, graph))
        self.size = os.path.getsize(path) + sum(map(os.path.getsize, _places(path, graph)))
        self.inputs = [value.name for value in graph.input if value.name not in self.weights]
        self.outputs = [value.name for value in graph.output]
        _check_text(path, *self.inputs, *self.outputs)
        self.nodes = [_node(path, number, proto) for number, proto in enumerate(graph.node)]
        self._check_order()

    @cached_property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shapes that the file states, by tensor; None for a size that it leaves open."""
        graph = self.proto.graph
        stated: dict[str, tuple[int | None, ...]] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            if kind.HasField("shape") and len(kind.shape.dim) <= MAX_RANK:
                stated[value.name] = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
        return stated

    @cached_property
    def kinds(self) -> dict[str, int]:
        """The element types that the file states, by tensor."""
        graph = self.proto.graph
        return {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}

    @cached_property
    def users(self) -> dict[str, int]:
        """How many nodes and graph outputs use each tensor."""
        counts: dict[str, int] = {}
        for name in (*(name for node in self.nodes for name in node.inputs), *self.outputs):
            counts[name] = counts.get(name, 0) + 1
        return counts

    def _check_order(self) -> None:
        known = {"", *self.inputs, *self.weights, *_sparse(self.proto.graph)}
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in known]
            if missing:
                raise FormatError(
                    f"{self.path}: {node} uses {missing[0]!r}, which nothing before it makes",
                    "nodes in the order of their data, without cycles",
                )
            twice = [name for name in node.outputs if name and name in known]
            if twice:
                raise FormatError(f"{self.path}: {node} makes {twice[0]!r} again", "each tensor once")
            known.update(node.outputs)


STANDARD = ("", "ai.onnx")


def _parsed(path: str) -> Any:
    onnx = library()
    try:
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise FormatError(f"{path} has {size} bytes", f"at most {MAX_BYTES}, the limit of a protobuf message")
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except FormatError:
        raise
    except Exception as error:  # protobuf's own errors, of several classes
        raise FormatError(f"{path} cannot be read as an ONNX file: {error}", WHOLE) from error
    if not model.HasField("graph") or model.ir_version < 1 or not model.opset_import:
        raise FormatError(f"{path} holds no ONNX graph with a version", WHOLE)
    return model


def _inlined(path: str, model: Any) -> Any:
    """`model` with its own functions in the place of their calls."""
    if not model.functions:
        return model
    functions = {(function.domain, function.name, function.overload): function for function in model.functions}
    sizes: dict[Call, int] = {}
    total = sum(_size(path, call, functions, sizes) for call in _calls(model.graph.node))
    limit = min(MAX_INLINED_BYTES, FREE_INLINED_BYTES + INLINED * os.path.getsize(path))
    if total > limit:
        raise FormatError(f"{path} is too large once its functions are inlined", f"at most {limit} bytes")
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # the inliner is native, and raises what its checks say
        raise FormatError(f"{path} has functions that cannot be inlined: {error}", WHOLE) from error


Call: TypeAlias = "tuple[str, str, str]"  # domain, name and overload of a function


def _calls(nodes: Iterable[Any]) -> list[Call]:
    """What nodes call, and those in the graphs inside them."""
    queue = list(nodes)
    for node in queue:  # it grows while it is walked
        queue += [inner for graph in subgraphs(node) for inner in graph.node]
    return [(node.domain, node.op_type, node.overload) for node in queue]


def _size(path: str, call: Call, functions: Mapping[Call, Any], sizes: dict[Call, int]) -> int:
    """How many bytes a call becomes; without recursion, since the calls may be as deep as the file says."""
    stack, open_calls = [call], set()
    while stack:
        top = stack[-1]
        if top in sizes or top not in functions:
            stack.pop()
            continue
        inner = _calls(functions[top].node)
        left = [one for one in inner if one in functions and one not in sizes]
        if not left:
            sizes[top] = functions[top].ByteSize() + sum(sizes.get(one, NODE_BYTES) for one in inner)
            open_calls.discard(top)
            stack.pop()
            continue
        open_calls.add(top)
        if open_calls & set(left):
            raise FormatError(f"{path} has the function {top[1]!r}, which calls itself", WHOLE)
        stack += left
    return sizes.get(call, NODE_BYTES)


def _node(path: str, number: int, proto: Any) -> Node:
    onnx = library()
    if not proto.op_type:
        raise FormatError(f"{path}: node {number} calls no operator", WHOLE)
    op = proto.op_type if proto.domain in STANDARD else f"{proto.domain}::{proto.op_type}"
    try:
        simple = [entry for entry in proto.attribute if entry.type not in (entry.GRAPH, entry.GRAPHS)]
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in simple}
    except ValueError as error:
        raise FormatError(f"{path}: node {number} ({op}) has an unreadable attribute: {error}", WHOLE) from error
    inner = _outer_names(proto)
    _check_text(path, proto.domain, proto.op_type, proto.name, *proto.input, *proto.output, *inner)
    return Node(number, op, proto.name, (*proto.input, *inner), tuple(proto.output), attributes, proto)


def _check_text(path: str, *names: Any) -> None:
    strange = [name for name in names if not isinstance(name, str)]  # protobuf gives bytes that are no text as they are
    if strange:
        raise FormatError(f"{path} holds the name {strange[0]!r}", "valid UTF-8", "fetch the file again")


def _outer_names(proto: Any) -> tuple[str, ...]:
    """What the graphs inside a node (If, Loop) take from outside: nobody looks into them, but it counts as used."""
    graphs = subgraphs(proto)
    names: dict[str, None] = {}
    inside: set[str] = set()
    while graphs:
        graph = graphs.pop()
        inside |= {value.name for value in (*graph.input, *graph.initializer)}
        for node in graph.node:
            names |= dict.fromkeys(node.input)
            inside |= set(node.output)
            graphs += subgraphs(node)
        names |= dict.fromkeys(value.name for value in graph.output)
    return tuple(name for name in names if name and name not in inside)


def subgraphs(proto: Any) -> list[Any]:
    """The graphs inside a node: branches of an If, the body of a Loop."""
    return [
        graph for entry in proto.attribute for graph in (*entry.graphs, *([entry.g] if entry.HasField("g") else []))
    ]


def _sparse(graph: Any) -> list[str]:
    return [tensor.values.name for tensor in graph.sparse_initializer]


def _weights(path: str, graph: Any) -> Iterator[tuple[str, np.ndarray]]:
    names: set[str] = set()
    for tensor in graph.initializer:
        _check_text(path, tensor.name)
        if tensor.name in names:
            raise FormatError(f"{path} has two initializers named {tensor.name!r}", "distinct names")
        names.add(tensor.name)
        yield tensor.name, array(path, tensor)


def _places(path: str, graph: Any) -> list[str]:
    """The files of external data of a graph whose weights have been read."""
    outside = (tensor for tensor in graph.initializer if tensor.data_location == tensor.EXTERNAL)
    names = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    return [os.path.join(os.path.dirname(path), name) for name in names]


def array(path: str, tensor: Any) -> np.ndarray:
    """The numbers of a TensorProto of the file at `path`; an empty object array for what holds no numbers."""
    onnx = library()
    shape = tuple(tensor.dims)
    if tensor.data_type == tensor.STRING:
        return np.empty(0, object)
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if min(shape, default=0) < 0:
            raise ValueError(f"the shape {shape}")
        if tensor.data_location == tensor.EXTERNAL:
            return _external(path, tensor, dtype, shape)
        raw = len(tensor.raw_data) if tensor.HasField("raw_data") else None
        if raw is not None and dtype.itemsize * math.prod(shape) != raw and dtype not in PACKED:
            raise ValueError(f"{raw} bytes for the shape {shape}")
        value = onnx.numpy_helper.to_array(tensor)
        if value.shape != shape:
            raise ValueError(f"{value.shape} instead of the shape {shape}")
    except FormatError:
        raise
    except Exception as error:  # NumPy's and the library's, for sizes that do not fit
        raise FormatError(f"{path} has a damaged tensor {tensor.name!r}: {error}", WHOLE) from error
    return value


# Kinds of numbers of less than a byte: raw data holds several in one.
PACKED = tuple(
    np.dtype(getattr(ml_dtypes, name))
    for name in ("int4", "uint4", "int2", "uint2", "float4_e2m1fn")
    if hasattr(ml_dtypes, name)
)


def _external(path: str, tensor: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A view of the mapped file beside the model that holds the tensor's bytes."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    _check_text(path, *entries, *entries.values())
    location = entries.get("location", "")
    if location in ("", ".", "..") or any(mark in location for mark in ("/", "\\", "\0", ":")):
        raise FormatError(
            f"{path} keeps {tensor.name!r} in {location!r}", "the plain name of a file beside it, and no path"
        )
    folder = os.path.realpath(os.path.dirname(path) or ".")
    target = os.path.join(folder, location)
    if os.path.realpath(target) != target or not os.path.isfile(target):
        raise FormatError(
            f"{path} keeps {tensor.name!r} in {location!r}, which is no plain file beside it",
            "the file of external data in the model's folder",
            "fetch it again, and put a copy there instead of a link",
        )
    start, length = int(entries.get("offset", 0)), math.prod(shape) * dtype.itemsize
    if dtype in PACKED or int(entries.get("length", length)) != length:
        raise ValueError(f"{entries.get('length')} bytes for the shape {shape} of {dtype}")
    return _map.tensor(_map.mapped(target), start, dtype, shape)
