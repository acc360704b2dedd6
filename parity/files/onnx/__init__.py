"""ONNX graphs: the blocks in them, found by what their nodes compute and never by a name.

Every tensor of the graph is followed from x through pools, layers, gates and whatever layout lies between, under every
spelling that exporters use; a product of x with what became of it is then a block, with the gate and the slope that
its own nodes have. What is almost a block is none. What an inference graph does not hold takes the defaults of
`parity.spec`: how a training step would estimate a norm's running variance. A batch norm that the exporter has folded
into a convolution is not told from a convolution with a bias; the block then has a bias and no norm, which is the same
function in inference.

Slopes, offsets and epsilons are read as their author wrote them, not as float32 rounded them: the simplest decimal that
rounds to the number in the file, and 1/6 where that does.

    >>> read("model.onnx").blocks[0].spec.gate  # doctest: +SKIP
    Gate(kind='hard_sigmoid', slope=0.2, offset=0.5)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from parity.block import FLOAT_DTYPES, Block, Probe
from parity.errors import MissingTensorError
from parity.files import Contents
from parity.files.onnx import _run
from parity.files.onnx._blocks import Found, find
from parity.files.onnx._model import Graph
from parity.files.onnx._operators import Walk
from parity.files.onnx._values import Const

# What the rest of a file holds besides floating-point numbers: quantised weights, which are no block's.
QUANTISED = tuple(map(np.dtype, (np.int8, np.uint8)))


def read(path: str) -> Contents:
    """The blocks of the ONNX file at `path`, and its other weights by name.

    Raises:
        BackendMissingError: where onnx is not installed.
        FormatError: for a damaged file, and for external data that is no plain file in the same folder.
        DialectError: for what is a block only if a fact holds that the graph does not tell.
    """
    found, walk = find(Graph(path))
    blocks = tuple(block.block() for block in found)
    by_name = {block.name: block for block in found}

    def prove(chosen: list[Block]) -> list[Block]:
        from parity.probe import probe_input  # it reads files, too

        return _with_probes(walk, [(by_name[block.name], probe_input(block)) for block in chosen])

    return Contents("ONNX graph", dict(_rest(walk, found)), blocks, prove=prove)


def run_block(path: str, name: str, x: np.ndarray) -> np.ndarray:
    """What the nodes of the block `name` of the ONNX file at `path` make of x, (N, C, *spatial), in ONNX Runtime.

    Raises:
        BackendMissingError: where onnx or onnxruntime is not installed.
        MissingTensorError: for a block that is not in the file.
        FormatError: where ONNX Runtime hangs, crashes or needs too much memory over them.
        InputError: for an x that the nodes do not take.
        DialectError: for a block whose nodes need more of the graph than x.
    """
    return with_probes(path, {name: x})[0].probe.output  # type: ignore[union-attr]


def with_probes(path: str, inputs: Mapping[str, np.ndarray]) -> list[Block]:
    """The blocks that `inputs` names, each with what ONNX Runtime made of its input as its probe; as `run_block`."""
    found, walk = find(Graph(path))
    named = {block.name: block for block in found}
    missing = [name for name in inputs if name not in named]
    if missing:
        raise MissingTensorError(
            f"{path} holds no block {', '.join(map(repr, missing))}", f"of {', '.join(map(repr, named)) or 'none'}"
        )
    return _with_probes(walk, [(named[name], np.asarray(x)) for name, x in inputs.items()])


def source() -> str:
    """Who computes the probes: "onnxruntime 1.31.1"."""
    return f"onnxruntime {_run.runtime().__version__}"


def _with_probes(walk: Walk, wanted: Sequence[tuple[Found, np.ndarray]]) -> list[Block]:
    computed_by, blocks = source(), [found.block() for found, _ in wanted]
    for block, (_, x) in zip(blocks, wanted, strict=True):
        block.spec.check_input(x.shape, "channels_first")
    outputs = _run.run(walk, wanted)
    return [
        replace(block, probe=Probe(x, y, computed_by)) for block, (_, x), y in zip(blocks, wanted, outputs, strict=True)
    ]


def _rest(walk: Walk, found: list[Found]) -> Iterator[tuple[str, np.ndarray]]:
    used = {origin for block in found for origin in block.origins}
    for name, item in walk.items.items():
        if not isinstance(item, Const) or item.origin != name or name in used:
            continue
        weight = name in walk.graph.weights or item.array.size > 1  # constants of one number belong to operators
        if weight and item.array.dtype in FLOAT_DTYPES + QUANTISED:
            yield name, item.array


__all__ = ["read", "run_block", "source", "with_probes"]
