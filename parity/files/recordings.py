"""safetensors files: exchange files, recordings of what somebody's implementation computed, plain weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from parity import dialects, exchange
from parity.block import Block, Probe
from parity.errors import FormatError, MissingTensorError
from parity.files import Contents
from parity.spec import SPECS

GOLDEN = "attention-golden/1"
GOLDEN_ONNX = "attention-golden-onnx/1"


def read(path: str) -> Contents:
    """What a safetensors file holds.

    Raises:
        FormatError: for a damaged file, or a recording with unreadable metadata.
    """
    tensors, metadata = exchange.read_tensors(path, mapped=True)
    if exchange.METADATA_KEY in metadata:
        return Contents("exchange file", {}, tuple(exchange.blocks_of(path, tensors, metadata)))
    return recording(path, tensors, metadata)


def recording(path: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Contents:
    """The weights of a recording, with the dialect and the hints that it names; of any other file, all tensors."""
    try:
        if metadata.get("format") == GOLDEN:
            return _golden(tensors, metadata)
        if metadata.get("format") == GOLDEN_ONNX:
            return _golden_onnx(tensors, metadata)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path} is a recording with unreadable metadata ({error!r})") from error
    return Contents("safetensors file", tensors)


def _golden(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Contents:
    state = {name.removeprefix("state/"): tensors[name] for name in tensors if name.startswith("state/")}
    dialect, hints = metadata["dialect"], exchange.strict_json(metadata.get("hints", "{}"))
    if not isinstance(hints, dict):
        raise TypeError(f"hints of type {type(hints).__name__}")
    known = dialects.DIALECTS.get(dialect)
    if known is not None and known.block in SPECS and SPECS[known.block].rankless and "input" in tensors:
        hints = {"spatial_dims": tensors["input"].ndim - 2} | hints
    return Contents("recording", state, dialect=dialect, hints=hints, prove=_prover(tensors, metadata))


def _prover(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Callable[[list[Block]], list[Block]]:
    """What gives blocks the recorded inputs and outputs as their probes."""
    last, source = metadata["input_layout"] == "channels_last", f"recording of {metadata['source']}"

    def first(name: str) -> np.ndarray:
        if name not in tensors:
            raise MissingTensorError(f"received a {source} without {name!r}", "an input and an output of each block")
        value = tensors[name]
        return np.moveaxis(value, -1, 1) if last and value.ndim > 1 else value  # a probe says what is wrong with others

    def prove(blocks: list[Block]) -> list[Block]:
        proved = []
        for block in blocks:
            trained = f"{block.name}/input" in tensors
            x, y = (f"{block.name}/input", f"{block.name}/output") if trained else ("input", "eval/output")
            proved.append(replace(block, probe=Probe(first(x), first(y), source)))
        return proved

    return prove


def _golden_onnx(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Contents:
    state = {name: value for name, value in tensors.items() if not name.endswith(("/input", "/output"))}
    hints = {block["name"]: {"gate": _gate(block)} for block in exchange.strict_json(metadata["blocks"])}
    if not all(isinstance(name, str) for name in hints):
        raise TypeError("a block's name that is no string")
    return Contents(
        "recording", state, dialect="torchvision/SqueezeExcitation", hints=hints, prove=_prover(tensors, metadata)
    )


def _gate(block: Mapping[str, Any]) -> dict[str, Any] | str:
    if block["gate"] == "HardSigmoid":
        return {"kind": "hard_sigmoid", "slope": block["alpha"], "offset": block["beta"]}
    return block["gate"].lower()
