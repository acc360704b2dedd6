"""The members of a zip archive, and where their bytes lie in it."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

from parity.errors import FormatError

HEADER_BYTES, SIGNATURE = 30, b"PK\x03\x04"


def members(path: str, file: BinaryIO) -> Mapping[str, zipfile.ZipInfo]:
    """What the archive `file` holds, by name.

    Raises:
        FormatError: for a damaged archive, or one with two members of one name.
    """
    try:
        infos = zipfile.ZipFile(file).infolist()
    # A damaged extra field is a struct.error, and a member of an unknown version is not implemented.
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError, OverflowError) as error:
        raise FormatError(f"{path} cannot be read as a zip archive: {error}", "a whole, undamaged file") from error
    found = {info.filename: info for info in infos}
    if len(found) != len(infos):
        raise FormatError(f"{path} holds two members of one name", "distinct names")
    return found


def place(path: str, file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """The byte of `file` where the data of a stored member begins; they lie inside the file.

    Raises:
        FormatError: for a member that is compressed, encrypted or not where its archive says.
    """
    size = file.seek(0, 2)
    is_stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
    if not is_stored or info.compress_size != info.file_size:
        raise FormatError(f"{path} holds {info.filename!r} compressed or encrypted", "members stored as they are")
    header = b""
    if 0 <= info.header_offset < size:
        file.seek(info.header_offset)
        header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(SIGNATURE):
        raise FormatError(f"{path} does not hold {info.filename!r} where it says", "a whole, undamaged file")
    # The header's own lengths of name and extra field, which may differ from the directory's.
    start = info.header_offset + HEADER_BYTES + sum(struct.unpack("<HH", header[26:30]))
    if start + info.file_size > size:
        raise FormatError(f"{path} ends before {info.filename!r} does", "a whole, undamaged file")
    return start
