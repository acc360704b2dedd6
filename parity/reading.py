"""Blocks from anywhere: files of every kind, and mappings of arrays."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from parity import detection, files
from parity.block import Block, native
from parity.detection import Detection, Doubt
from parity.dialects import Dialect
from parity.errors import DialectError, FormatError, TensorShapeError
from parity.files import Contents
from parity.spec import Spec


def read(
    source: Any,
    dialect: str | Dialect | None = None,
    hints: Mapping[str, Any] | None = None,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[Block]:
    """The blocks of `source`, with canonical names and layouts; what belongs to no block is passed over.

    Args:
        source: a path (`parity.files` lists the kinds), or a mapping of arrays such as a PyTorch state dict. Arrays of
            a file are read-only views of it where the format allows.
        dialect: the id of the implementation that the weights come from (`parity.dialects.DIALECTS`), or a pattern of
            ids ("timm/*"), whose defaults then hold; None to tell it from names and shapes, which rarely tell the gate.
        hints: spec fields by name, in their JSON form, for what names and shapes cannot tell: ``{"gate":
            "hard_sigmoid"}``. For some blocks only: ``{"<name, or pattern as of fnmatch>": {...}}``.
        include: patterns of the names of blocks; if any, the others are left out. Names the layers that are attention
            where they could be plain perceptrons.
        exclude: patterns of the names of blocks to leave out.

    Raises:
        FormatError: for a file of no supported kind, or a damaged one.
        DialectError: for weights that fit no dialect, or several; for facts that only a hint can tell; and for hints
            that contradict weights or dialect.
        MissingTensorError, UnexpectedTensorError, TensorShapeError: naming the tensors.

    Example:
        >>> weights = {"fc.0.weight": np.ones((6, 24)), "fc.2.weight": np.ones((24, 6))}
        >>> read(weights)[0].spec.hidden_channels
        6
    """
    contents, found = _detected(source, dialect, hints, include, exclude)
    return [*contents.blocks, *(found.blocks() if found else [])]


def read_with_probes(
    source: Any,
    dialect: str | Dialect | None = None,
    hints: Mapping[str, Any] | None = None,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Callable[[str], None] = lambda name: None,
) -> list[Block]:
    """`read`, with a probe for each block: what the file itself can say of the source's output, else the oracle's.

    A recording holds its input and output; of an ONNX graph, ONNX Runtime runs the block. Weights alone compute
    nothing: the oracle's output then proves that they arrive whole, and nothing about the hints. `progress` is called
    with the name of each block that the oracle is about to probe.
    """
    from parity import probe  # it reads, too

    contents, found = _detected(source, dialect, hints, include, exclude)
    blocks = [*contents.blocks, *(found.blocks() if found else [])]
    if contents.prove is not None:
        return contents.prove(blocks)
    probed = probe.with_probes([block for block in blocks if block.probe is None], progress=progress)
    by_name = {block.name: block for block in probed}
    return [by_name.get(block.name, block) for block in blocks]


@dataclass(frozen=True, eq=False)
class Inspected:
    """One block of a source, as far as it can be told.

    Args:
        name: of the block.
        dialects: the ids of the dialects that it fits; none where the file tells its own meaning.
        spec: what the weights mean if every doubt falls to the dialect's default.
        doubts: what is open.
        fault: why it cannot be read however the doubts are settled; or None.
        proved: who computed the output stored with the block; None where there is none.
    """

    name: str
    dialects: tuple[str, ...]
    spec: Spec | None
    doubts: tuple[Doubt, ...] = ()
    fault: str | None = None
    proved: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object of the same."""
        doubts = {doubt.fact: {"values": list(doubt.values), "reason": doubt.reason} for doubt in self.doubts}
        return {
            "name": self.name,
            "dialects": list(self.dialects),
            "spec": self.spec.to_json() if self.spec else None,
            "doubts": doubts,
            "fault": self.fault,
            "probe": self.proved,
        }


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a source holds: its kind, its blocks with their doubts, and the tensors of no block with their shapes."""

    kind: str
    blocks: tuple[Inspected, ...]
    rest: Mapping[str, tuple[int, ...]]

    def to_json(self) -> dict[str, Any]:
        """A JSON object of the same."""
        return {
            "kind": self.kind,
            "blocks": [block.to_json() for block in self.blocks],
            "rest": {name: list(shape) for name, shape in self.rest.items()},
        }


def inspect(
    source: Any,
    dialect: str | Dialect | None = None,
    hints: Mapping[str, Any] | None = None,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Inspection:
    """What `read` would find in `source`, and what it would ask; the arguments are those of `read`."""
    contents, found = _detected(source, dialect, hints, include, exclude, needed=False)
    own = [
        Inspected(block.name, (), block.spec, proved=block.probe.source if block.probe else None)
        for block in contents.blocks
    ]
    theirs = [
        Inspected(
            one.name,
            tuple(fit.dialect.id for fit in one.readings),
            one.spec,
            one.doubts,
            str(one.fault) if one.fault else None,
        )
        for one in (found.found if found else ())
    ]
    rest = found.rest if found else tuple(contents.tensors)
    return Inspection(contents.kind, (*own, *theirs), {name: contents.tensors[name].shape for name in rest})


def matches(
    source: Mapping[str, Any], dialect: str | Dialect | None = None, hints: Mapping[str, Any] | None = None
) -> Detection:
    """The blocks of a mapping of foreign arrays, with the keys that they came from."""
    return detection.detect(arrays_of(source), dialect, _checked(hints))


def _detected(
    source: Any,
    dialect: str | Dialect | None,
    hints: Mapping[str, Any] | None,
    include: Sequence[str],
    exclude: Sequence[str],
    needed: bool = True,
) -> tuple[Contents, Detection | None]:
    """What `source` holds, and the blocks that had to be found in it; None if there are none and none are `needed`."""
    given = _checked(hints)
    include, exclude = _patterns("include", include), _patterns("exclude", exclude)
    contents = _contents(source)
    if contents.blocks:
        if dialect is not None or given:
            raise DialectError(f"received a dialect or hints for an {contents.kind}", "neither: it tells its own specs")
        detection.check_included(include, [block.name for block in contents.blocks])
        blocks = tuple(block for block in contents.blocks if detection.chosen(block.name, include, exclude))
        return replace(contents, blocks=blocks), None
    if dialect is None:
        dialect = contents.dialect
    try:
        return contents, detection.detect(contents.tensors, dialect, {**contents.hints, **given}, include, exclude)
    except detection.NothingFoundError:
        if needed:
            raise
        return contents, None


def _contents(source: Any) -> Contents:
    if isinstance(source, Mapping):
        return Contents("mapping of arrays", arrays_of(source))
    if isinstance(source, str | os.PathLike):
        contents = files.open(source)
        return replace(contents, tensors=arrays_of(contents.tensors))
    received = f"received a {type(source).__module__}.{type(source).__qualname__}"
    raise FormatError(received, "a path, or a mapping of arrays", "parity.blocks_of takes live models")


def _checked(hints: Mapping[str, Any] | None) -> dict[str, Any]:
    if hints is None:
        return {}
    if not isinstance(hints, Mapping) or not all(isinstance(name, str) for name in hints):
        raise DialectError(f"received hints={hints!r}", "a mapping of spec fields by name", "as {'gate': 'sigmoid'}")
    return dict(hints)


def _patterns(argument: str, patterns: Any) -> tuple[str, ...]:
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise DialectError(f"received {argument}={patterns!r}", "a list of patterns of names", "as ['layer1.*']")
    return tuple(patterns)


def arrays_of(source: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A mapping of tensors of any framework as NumPy arrays, under the names that TensorFlow's ":0" is taken off."""
    strange = [key for key in source if not isinstance(key, str)]
    if strange:
        raise DialectError(f"received a mapping with the keys {strange!r}", "names of tensors")
    arrays = {key.removesuffix(":0"): _array(key, value) for key, value in source.items()}
    twice = [key for key in source if f"{key}:0" in source]
    if twice:
        raise DialectError(f"received both of {', '.join(f'{key} and {key}:0' for key in twice)}", "one name a tensor")
    return arrays


def _array(key: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a PyTorch tensor, maybe on a GPU
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            # NumPy knows bfloat16 through ml_dtypes, and PyTorch does not know those.
            return value.view(sys.modules["torch"].uint16).numpy().view(ml_dtypes.bfloat16)
    try:
        array = native(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TensorShapeError(f"received {key} of type {type(value).__name__} ({error})", "an array") from error
    if array.dtype.kind in "OSU":
        raise TensorShapeError(f"received {key} of type {type(value).__name__}", "an array of numbers")
    return array
