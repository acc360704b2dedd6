"""Which reader a file, a folder or a prefix goes to; those with native libraries only say that they were asked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np

from fuzz import change
from fuzz._target import Target, look
from fuzz.targets import _safetensors, pytorch
from parity import files
from parity.files import Contents
from parity.files import pytorch as _pytorch  # imported before anything is watched
from parity.files import recordings as _recordings
from parity.files import sharded as _sharded

# How the input is called: its first byte tells. What has a folder is read by that.
PLACES = (
    *("a", "a.h5", "a.weights.h5", "a.keras", "a.pth", "a.bin", "a.safetensors", "a.index.json", "a.onnx", "a.index"),
    *(
        "a.ckpt.index",
        "a.ckpt.data-00000-of-00001",
        "model/saved_model.pb",
        "model/checkpoint",
        "model/x.bin.index.json",
    ),
    *("model/y.safetensors.index.json", "model/other", "a b\u00e9\n.pt"),
)
HEADS = (
    *(
        files.HDF5,
        files.ZIP,
        b"\x80\x02",
        b"\x80\x04",
        b"\x80\x05",
        b"{",
        b" {",
        b"\x08\x08\x12",
        b"\x08\x07:",
        b"\x08\x06\x1a",
    ),
    *(
        b"PK\x05\x06" + bytes(18),
        b"\x80\x02\0\0\0\0\0\0{",
        b"\xef\xbb\xbf{",
        bytes(257) + b"ustar",
        b"\x1f\x8b",
        b"\0asm",
    ),
)
PURE = {"recordings": _recordings, "pytorch": _pytorch, "sharded": _sharded}


def lay(data: bytes, folder: str) -> str:
    """The input under the name that its first byte tells, and nothing else."""
    for entry in os.scandir(folder):
        shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)
    place = PLACES[data[0] % len(PLACES)] if data else "a"
    path = Path(folder, place)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data[1:])
    if "/" in place:
        return str(path.parent)
    return str(path).removesuffix(".index") if data and data[0] % 2 else str(path)


def seeds(folder: Path) -> Iterator[bytes]:
    """A file of each kind, under its name and under another one."""
    contents = [
        *HEADS,
        _safetensors.bytes_of({"a": np.ones(2)}, {}),
        change.make_zip([("config.json", b"{}", 0), ("model.weights.h5", files.HDF5, 0)]),
        change.make_zip([("a/data.pkl", b"\x80\x02}.", 0)]),
        b'{"weight_map": {"a": "a"}}',
        b'model_checkpoint_path: "a"\n',
    ]
    for number, content in enumerate(contents):
        for place in range(number % 3, len(PLACES), 3):
            yield bytes([place]) + content


def mutate(data: bytes, rng: Random) -> bytes:
    """Another name, another beginning, or a change of the content."""
    kind = rng.randrange(6)
    if kind == 0:
        return bytes([rng.randrange(256)]) + data[1:]
    if kind == 1:
        return data[:1] + rng.choice(HEADS) + data[1 + rng.choice((0, 8)) :]
    if kind == 2:
        return data[:1] + rng.choice(HEADS)[: rng.randrange(12)]
    content = rng.choice((pytorch.mutate, _safetensors.mutate, change.change_bytes))(data[1:], rng)
    return data[:1] + content


def read(path: str) -> None:
    """Open the file, without the libraries of others."""
    real = files._module

    def module(name: str) -> Any:
        return PURE.get(name, SimpleNamespace(read=lambda path: Contents(name, {}), latest=lambda path: path))

    files._module = module  # type: ignore[assignment]
    try:
        look(files.open(path))
    finally:
        files._module = real


TARGET = Target("dispatch", ("parity.files", "parity.files._zip"), seeds, mutate, read, lay)
