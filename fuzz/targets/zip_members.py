"""Zip archives: where the members' bytes lie, of archives of any kind."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

from fuzz import change
from fuzz._target import Target
from parity.errors import FormatError
from parity.files import _zip

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def seeds(folder: Path) -> Iterator[bytes]:
    """Stored and compressed members, of odd names, with extra fields and comments, of 64 bits, written as a stream."""
    yield change.make_zip(
        [("a/data.pkl", b"abc", STORED), ("a/data/0", bytes(64), STORED), ("a/b", b"x" * 99, DEFLATED)]
    )
    yield change.make_zip([("é", b"", STORED), ("folder/", b"", STORED), ("../x", b"a", STORED)])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = b"a comment"
        info = zipfile.ZipInfo("large")
        info.extra, info.comment = b"\x34\x12\x04\x00abcd", b"c"
        with archive.open(info, "w", force_zip64=True) as member:
            member.write(b"abc")
    yield file.getvalue()
    stream = _Stream()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("streamed", b"abc")
    yield bytes(stream.data)
    yield b"before" + change.make_zip([("a", b"abc", STORED)])
    yield change.make_zip([])


class _Stream(io.RawIOBase):
    """A file without places, so that sizes follow the members."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += data
        return len(data)


def mutate(data: bytes, rng: Random) -> bytes:
    """A change of a record, of the members, or of bytes."""
    members = change.zip_members(data)
    kind = rng.randrange(5)
    if kind < 3:
        return change.change_zip(data, rng)
    if kind == 3 and members:
        return change.make_zip(change.change_members(members, rng))
    return change.change_bytes(data, rng)


def read(path: str) -> None:
    """Find the members, and the bytes of each, which must lie in the file."""
    refused = None
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        for info in _zip.members(path, file).values():
            try:
                start = _zip.place(path, file, info)
            except FormatError as error:  # the other members may be whole
                refused = error
                continue
            if not 0 <= start <= start + info.file_size <= size:
                raise AssertionError(f"{info.filename!r} lies outside of the file")
    if refused:
        raise refused


TARGET = Target("zip_members", ("parity.files._zip", "zipfile"), seeds, mutate, read)
