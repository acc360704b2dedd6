"""Files of every kind that weights come in: what is in them, as arrays by name, and nothing else of them.

A new kind is one module here, which `read`s a path, one line in `_kind` and one in `SUPPORTED`. All files are foreign:
nothing in them is run, nothing outside of them is followed, and no more memory is taken than they have bytes.
"""

from __future__ import annotations

import builtins
import importlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.block import Block
from parity.errors import FormatError


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds.

    Args:
        kind: what kind of file it is, for people: "PyTorch checkpoint", "Keras archive".
        tensors: the arrays by name, as the framework that wrote them names them: "layer1.0.se.fc1.weight",
            "stage1/dense/kernel". Large ones are read-only views of the mapped file, so that they cost no memory.
        blocks: the blocks whose meaning the file itself tells (an exchange file, an ONNX graph); their tensors are not
            in `tensors`.
        dialect: the dialect that the file names (a recording), or None.
        hints: spec fields that the file tells, as `parity.read` takes them: by field, or by block name.
        prove: gives its blocks probes of what the file itself holds or computes; None for weights alone.
    """

    kind: str
    tensors: Mapping[str, np.ndarray]
    blocks: tuple[Block, ...] = ()
    dialect: str | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)
    prove: Callable[[list[Block]], list[Block]] | None = None


# The files whose tensors are read; each is a module here.
SUPPORTED = (
    "an exchange file",
    ".safetensors (one file, or the index of several)",
    ".pth, .pt and .bin of PyTorch",
    ".weights.h5, .h5 and .keras of Keras",
    "the prefix of a TensorFlow checkpoint",
    "a SavedModel folder",
    ".onnx",
)
KINDS = ", ".join(SUPPORTED)

# What the files of a kind are called, for those whose content does not tell it: their reader says what is wrong.
NAMES = {
    ".weights.h5": "hdf5",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".keras": "keras_archive",
    ".pth": "pytorch",
    ".pt": "pytorch",
    ".bin": "pytorch",
    ".safetensors": "recordings",
    ".index.json": "sharded",
    ".onnx": "onnx",
}

HDF5, ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"


def open(path: str | os.PathLike[str]) -> Contents:
    """What the file, folder or checkpoint prefix at `path` holds: its kind is told by its content, then by its name.

    Raises:
        FormatError: for a file of no supported kind, a damaged one, and one that reaches out of itself.
        BackendMissingError: where the library that reads it is not installed.

    Example:
        >>> from parity import golden
        >>> open(golden.path("torchvision-se")).kind
        'recording'
    """
    path = os.fspath(path)
    try:
        return _reader(path)
    except (OSError, UnicodeEncodeError) as error:
        raise FormatError(f"{path} cannot be read: {error}", "a whole, readable file") from error


def _reader(path: str) -> Contents:
    if "\0" in path:
        raise FormatError(f"received the path {path!r}", KINDS)
    path = path.rstrip("/") or path
    prefix = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path)
    if prefix != path or not os.path.exists(path):
        if os.path.isfile(f"{prefix}.index"):
            return _module("tensorflow").read(prefix)
        if os.path.islink(path):
            raise FormatError(f"received {path!r}, a link to nothing", KINDS)
    if os.path.isdir(path):
        return _folder(path)
    if not os.path.isfile(path):  # a pipe would keep its reader waiting
        raise FormatError(f"received {path!r}, which is no file", KINDS)
    return _module(_kind(path)).read(path)


def _module(name: str) -> Any:
    return importlib.import_module(f"parity.files.{name}")


def _kind(path: str) -> str:
    """The module that reads the file at `path`."""
    from parity.files._zip import members

    with builtins.open(path, "rb") as file:
        head, size = file.read(512), file.seek(0, 2)
        names = members(path, file) if head.startswith(ZIP) else {}
    if not size:
        raise FormatError(f"received {path!r}, an empty file", KINDS)
    header_bytes = int.from_bytes(head[:8], "little")
    signs = {
        "hdf5": head.startswith(HDF5),
        "keras_archive": bool({"config.json", "model.weights.h5"} & names.keys()),
        # Before the pickles: a header of 640 bytes begins as one does.
        "recordings": head[8:9] == b"{" and 0 < header_bytes < size,
        "pytorch": any(name.endswith("data.pkl") for name in names) or _is_pickle(head),
        "sharded": head.lstrip()[:1] == b"{",
        # The version of its format, then one of the next fields of a model.
        "onnx": head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x3a", b"\x42"),
    }
    by_content = [kind for kind, is_it in signs.items() if is_it]
    by_name = [kind for ending, kind in NAMES.items() if path.endswith(ending)]
    if not by_content and not by_name:
        raise FormatError(f"received {path!r}, a file of unknown kind", KINDS)
    return (by_content or by_name)[0]


def _is_pickle(head: bytes) -> bool:
    return head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or head[257:262] == b"ustar"


def _folder(path: str) -> Contents:
    """What a folder holds: a SavedModel, the latest of a series of checkpoints, or a checkpoint of several files."""
    if os.path.isfile(os.path.join(path, "saved_model.pb")):
        return _module("tensorflow").read(os.path.join(path, "variables", "variables"))
    if os.path.isfile(os.path.join(path, "checkpoint")):
        return _module("tensorflow").read(_module("tensorflow").latest(path))
    indexes = [
        name for name in sorted(os.listdir(path)) if name.endswith((".safetensors.index.json", ".bin.index.json"))
    ]
    if len(indexes) == 1:
        return _module("sharded").read_folder(path, indexes[0])
    held = f"with {len(indexes)} indexes of checkpoints" if indexes else "of no known kind"
    raise FormatError(f"received {path!r}, a folder {held}", KINDS, "pass the path of the file itself")
