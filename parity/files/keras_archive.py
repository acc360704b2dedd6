"""Keras 3 archives: a zip file of the model's configuration and an HDF5 file of its weights.

`read` is for everybody; `collect` runs in the child process. Nothing is extracted to a path that the archive names.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from parity import exchange
from parity.errors import FormatError
from parity.files import Contents, _child, hdf5
from parity.files._child import Found
from parity.files._zip import members, place
from parity.files.hdf5 import EXPANSION, FREE_BYTES

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MAX_CONFIG_BYTES = 1 << 26


def read(path: str) -> Contents:
    """What the archive at `path` holds, with the options of its attention_keras blocks as hints.

    Raises:
        FormatError: for a damaged archive, or one without weights in HDF5.
        BackendMissingError: where h5py is not installed.
    """
    return _child.read("keras_archive", path)


def collect(path: str) -> Found:
    """The same, in this process."""
    file = open(path, "rb")  # noqa: SIM115 (its tensors are read after this)
    found = members(path, file)
    if CONFIG not in found or WEIGHTS not in found:
        raise FormatError(
            f"{path} is a zip archive of {', '.join(list(found)[:8])}",
            f"{CONFIG} and {WEIGHTS}, as model.save('name.keras') writes them",
        )
    config, info = _config(path, file, found[CONFIG]), found[WEIGHTS]
    if info.compress_type == zipfile.ZIP_STORED:
        start = place(path, file, info)
        inner = hdf5.of_file(path, _Window(file, info.file_size, start), start, info.file_size, config)
    else:  # packed again by other hands
        inner = hdf5.of_file(path, _unpacked(path, file, info), None, info.file_size, config)
    return Found("Keras archive", inner.tensors, inner.hints)


def _config(path: str, file: BinaryIO, info: zipfile.ZipInfo) -> Mapping[str, Any]:
    with _unpacked(path, file, info) as unpacked:
        try:
            found = json.loads(unpacked.read(MAX_CONFIG_BYTES), object_pairs_hook=exchange.distinct)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path} has an unreadable {CONFIG}: {error}", "the JSON of a model") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path} has an unreadable {CONFIG}", "a JSON object")
    return found


def _unpacked(path: str, file: BinaryIO, info: zipfile.ZipInfo) -> BinaryIO:
    """A member as a file of its own, which has no name."""
    if info.file_size > FREE_BYTES + EXPANSION * info.compress_size:
        raise FormatError(
            f"{path} holds {info.filename!r}, which unfolds to {info.file_size} bytes", "data that is there"
        )
    target = tempfile.TemporaryFile()  # noqa: SIM115 (the caller's)
    try:
        with zipfile.ZipFile(file) as archive, archive.open(info) as member:
            shutil.copyfileobj(member, target, 1 << 20)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise FormatError(f"{path} cannot be read: {info.filename!r}: {error}", "a whole, undamaged file") from error
    target.seek(0)
    return target  # type: ignore[return-value]


class _Window(io.RawIOBase):
    """The part of an open file that begins at `start`, as a file."""

    def __init__(self, file: BinaryIO, size: int, start: int) -> None:
        self.file, self.size, self.start, self.position = file, size, start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.start + self.position)
        wanted = max(0, min(len(buffer), self.size - self.position))
        count = self.file.readinto(memoryview(buffer)[:wanted])  # type: ignore[attr-defined]
        self.position += count
        return count
