"""Checkpoints in several files: the index names the shard of each tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import numpy as np

from parity import exchange
from parity.errors import FormatError, MissingTensorError, UnexpectedTensorError
from parity.files import Contents, pytorch

MAX_INDEX_BYTES = 1 << 28


def read(path: str) -> Contents:
    """The tensors of all shards that the index file at `path` names, as views of the mapped files.

    Raises:
        FormatError: for a damaged index or shard, and for a shard that is no plain file of the same folder.
        MissingTensorError, UnexpectedTensorError: where index and shards disagree.
    """
    folder, weight_map = os.path.dirname(path), _weight_map(path)
    shards = {shard: _tensors(_inside(path, folder, shard)) for shard in sorted(set(weight_map.values()))}
    missing = [f"{name} in {shard}" for name, shard in weight_map.items() if name not in shards[shard]]
    if missing:
        raise MissingTensorError(f"{path} maps {_some(missing)}", "tensors that are there", "fetch the shards again")
    strange = [f"{name} in {shard}" for shard in shards for name in shards[shard] if weight_map.get(name) != shard]
    if strange:
        raise UnexpectedTensorError(f"{path} does not map {_some(strange)}", "every tensor of its shards, once")
    tensors = {name: shards[shard][name] for name, shard in weight_map.items()}
    return Contents(f"checkpoint of {len(shards)} shards", tensors)


def _weight_map(path: str) -> dict[str, str]:
    try:
        if os.path.getsize(path) > MAX_INDEX_BYTES:
            raise ValueError(f"it has more than {MAX_INDEX_BYTES} bytes")
        with open(path, encoding="utf-8") as file:
            index = json.load(file, object_pairs_hook=exchange.distinct)
        weight_map = index["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        expected = "JSON with a 'weight_map' of shards by tensor name"
        raise FormatError(f"{path} cannot be read as the index of a checkpoint: {error}", expected) from error
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise FormatError(f"{path} has another 'weight_map'", "the names of shards by tensor name")
    if not weight_map:
        raise FormatError(f"{path} maps no tensor", "at least one")
    return weight_map


def _inside(index: str, folder: str, shard: str) -> str:
    """The path of `shard`, which may not leave the folder of its index."""
    expected = "plain names of files beside it"
    if not shard or shard != os.path.basename(shard) or "\\" in shard or "\0" in shard or shard in (".", ".."):
        raise FormatError(f"{index} names the shard {shard!r}", expected)
    path = os.path.join(folder, shard)
    if os.path.dirname(os.path.realpath(path)) not in _homes(folder):
        raise FormatError(f"{index} names the shard {shard!r}, a link out of its folder", expected)
    if not os.path.isfile(path):
        raise FormatError(f"{index} names the shard {shard!r}, which is no file", expected, "fetch the shards again")
    return path


def _homes(folder: str) -> list[str]:
    """Where a shard's bytes may lie: its folder, or the store that a downloader's snapshots of a model link to."""
    folder = os.path.realpath(folder)
    snapshots = os.path.dirname(folder)
    store = os.path.join(os.path.dirname(snapshots), "blobs")
    return [folder, os.path.realpath(store)] if os.path.basename(snapshots) == "snapshots" else [folder]


def _tensors(path: str) -> Mapping[str, np.ndarray]:
    return exchange.read_tensors(path, mapped=True)[0] if path.endswith(".safetensors") else pytorch.read(path).tensors


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
