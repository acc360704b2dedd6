"""Checkpoints in several files: an index, and the files that it names."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np

from fuzz import change
from fuzz._target import Target, opened_by, pack, unpack
from fuzz.targets import _safetensors, pytorch

INDEX = "model.safetensors.index.json"
SHARDS = ("one.safetensors", "two.safetensors", "three.bin", "four")
WORDS = (
    "weight_map",
    "metadata",
    *SHARDS,
    "missing.safetensors",
    "one.safetensors/",
    "./one.safetensors",
    INDEX,
    "a",
    "c",
)

# Files that are no files: what a part says that begins so.
LINK, PIPE = b"\0link:", b"\0pipe"
LINKS = (
    "../outside/canary",
    "/dev/zero",
    "/etc/passwd",
    "one.safetensors",
    "two.safetensors",
    ".",
    "..",
    "missing",
    "four",
)


def lay(data: bytes, folder: str) -> str:
    """The parts that have the name of the index or of a shard, as files, links or pipes."""
    parts = unpack(data)
    for name in (INDEX, *SHARDS):
        path = os.path.join(folder, name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        part = parts.get(name)
        if part is None:
            continue
        if part.startswith(LINK):
            os.symlink(os.fsdecode(part.removeprefix(LINK).replace(b"\0", b"") or b"."), path)
        elif part == PIPE:
            os.mkfifo(path)
        else:
            Path(path).write_bytes(part)
    return os.path.join(folder, INDEX)


def seeds(folder: Path) -> Iterator[bytes]:
    """Shards of each kind, alone and together, and a link inside of the folder."""
    import torch

    file = io.BytesIO()
    torch.save({"d": torch.ones(2)}, file)
    one = _safetensors.bytes_of({"a": np.ones(2), "b": np.ones((1, 2), np.float16)}, {"format": "pt"})
    two = _safetensors.bytes_of({"c": np.ones(3, np.float32)}, {})
    shards = {"one.safetensors": one, "two.safetensors": two, "three.bin": file.getvalue()}
    names = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors", "d": "three.bin"}
    for chosen in (list(shards), ["one.safetensors"], ["three.bin"]):
        weight_map = {name: shard for name, shard in names.items() if shard in chosen}
        yield pack({INDEX: _index(weight_map), **{shard: shards[shard] for shard in chosen}})
    yield pack({INDEX: _index({"d": "four"}), "four": LINK + b"three.bin", "three.bin": shards["three.bin"]})


def _index(weight_map: dict[str, str]) -> bytes:
    return json.dumps({"metadata": {"total_size": 9}, "weight_map": weight_map}).encode()


def mutate(data: bytes, rng: Random) -> bytes:
    """A change of the index, of a shard, or of what kind of file a shard is."""
    parts = unpack(data)
    index = change.load_json(parts.get(INDEX, b""))
    kind = rng.randrange(8)
    if kind < 4 and isinstance(index, list):
        parts[INDEX] = change.dump_json(change.change_json(index, rng, WORDS))
    elif kind == 4:
        parts[rng.choice(SHARDS)] = rng.choice((PIPE, *(LINK + link.encode() for link in LINKS)))
    elif kind == 5 and parts:
        parts.pop(rng.choice(list(parts)))
    elif parts:
        name = rng.choice(list(parts))
        changes = {".json": change.change_bytes, ".safetensors": _safetensors.mutate, ".bin": pytorch.mutate}
        parts[name] = changes.get(os.path.splitext(name)[1], change.change_bytes)(parts[name], rng)
    return pack(parts)


TARGET = Target(
    "sharded",
    ("parity.files.sharded", "parity.exchange", "parity.files.pytorch", "parity.files._zip"),
    seeds,
    mutate,
    opened_by("sharded"),
    lay,
)
