"""Checkpoints in several files: the index names the shard of each tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from parity import exchange
from parity.errors import FormatError, MissingTensorError, UnexpectedTensorError
from parity.files import Contents, pytorch
from parity.files._links import homes

MAX_INDEX_BYTES = 1 << 28


def read(path: str) -> Contents:
    """The tensors of all shards that the index file at `path` names, as views of the mapped files.

    Raises:
        FormatError: for a damaged index or shard, and for a shard that is no plain file of the same folder.
        MissingTensorError, UnexpectedTensorError: where index and shards disagree.
    """
    folder, weight_map = os.path.dirname(path), _weight_map(path)
    shards = {
        shard: _tensors(_inside(f"{path} names the shard", folder, shard)) for shard in sorted(set(weight_map.values()))
    }
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
            weight_map = exchange.strict_json(file.read())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        expected = "JSON with a 'weight_map' of shards by tensor name"
        raise FormatError(f"{path} cannot be read as the index of a checkpoint: {error}", expected) from error
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise FormatError(f"{path} has another 'weight_map'", "the names of shards by tensor name")
    if not weight_map:
        raise FormatError(f"{path} maps no tensor", "at least one")
    return weight_map


def read_folder(folder: str, index: str) -> Contents:
    """`read`, of the file `index` of a folder, which may not be a link out of it, nor a device or a pipe.

    Raises:
        FormatError: for such a file; and what `read` raises.
    """
    return read(_inside(f"{folder} holds", folder, index))


def _inside(said: str, folder: str, name: str) -> str:
    """The path of the file `name`, which may not leave `folder`; who `said` it begins the message."""
    expected = "plain names of files beside it"
    if not name or name != os.path.basename(name) or "\\" in name or "\0" in name or name in (".", ".."):
        raise FormatError(f"{said} {name!r}", expected)
    path = os.path.join(folder, name)
    if os.path.dirname(os.path.realpath(path)) not in homes(folder):
        raise FormatError(f"{said} {name!r}, a link out of its folder", expected)
    if not os.path.isfile(path):
        raise FormatError(f"{said} {name!r}, which is no file", expected, "fetch the files again")
    return path


def _tensors(path: str) -> Mapping[str, np.ndarray]:
    return exchange.read_tensors(path, mapped=True)[0] if path.endswith(".safetensors") else pytorch.read(path).tensors


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
