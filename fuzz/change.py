"""Changes that mutations are made of: boundary values instead of numbers, names, bytes, JSON values and zip members."""

from __future__ import annotations

import copy
import io
import json
import math
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

BITS = (7, 8, 15, 16, 31, 32, 53, 63, 64)
NUMBERS = (0, 1, 2, 3, 255, *(sign * (1 << bits) + step for bits in BITS for sign in (1, -1) for step in (-1, 0, 1)))

# Where a reader would go if it followed a name out of a file; the canary is there (see `_judge`).
ESCAPES = ("../outside/canary", "../outside/created", "/etc/passwd", "/dev/zero", "..", ".", "/", "//", "C:\\a", "\\")
NAMES = (
    *ESCAPES,
    *("", " ", "a", "a/b", "a.b", "a\0b", "\0", "\n", "\ud800", "\U0001f600", "e\u0301", "\u202ea", "%s", "{0}"),
    *(
        "__metadata__",
        "__class__",
        "__proto__",
        "None",
        "a" * 300,
        "n" * 5000,
        "a/" * 500,
        "*",
        "[",
        "extras:",
        "probe:",
    ),
)
WORDS = (b"\0", b"\xff", b"{", b"}", b"[", b"]", b'"', b"..", b"/", b"\\", b"NaN", b"Infinity", b"-1", b"1e999", b"PK")


def number(rng: Random) -> int:
    """A number at which something may break."""
    return rng.choice(NUMBERS) if rng.random() < 0.8 else rng.randrange(1 << rng.choice(BITS))


def near(value: int, rng: Random) -> int:
    """A number near `value`, or one at which something may break."""
    steps = (1, -1, 2, -2, 4, -4, 8, -8, 64, value, -value, 1 << 32)
    return value + rng.choice(steps) if rng.random() < 0.6 else number(rng)


def change_bytes(data: bytes, rng: Random) -> bytes:
    """One change that knows nothing of the structure: bits, bytes, integers; parts taken out, doubled, moved."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((1, 2, 4, 8, 16, 64, 256)))
    part = data[start:end]
    kind = rng.randrange(8)
    if kind == 0 and part:
        return data[:start] + bytes([part[0] ^ 1 << rng.randrange(8)]) + data[start + 1 :]
    if kind == 1:
        return data[:start] + data[end:]
    if kind == 2:
        return data[:end] + part + data[end:]
    if kind == 3:
        return data[:start]
    if kind == 4:
        at = rng.randrange(len(data) + 1)
        return data[:at] + part + data[at:]
    if kind == 5:
        word = rng.choice(WORDS)
        return data[:start] + word + data[start + rng.choice((0, len(word))) :]
    width = rng.choice((1, 2, 4, 8))
    value = (number(rng) % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))
    return data[:start] + value + data[start + width :]


def replace_at(data: bytes, start: int, value: bytes) -> bytes:
    """`data` with the bytes from `start` on overwritten."""
    return data[:start] + value + data[start + len(value) :]


def pack_number(code: str, value: int) -> bytes:
    """`value` as the integer that `struct` calls `code`, cut to its size."""
    width = struct.calcsize("<" + code)
    return (value % (1 << 8 * width)).to_bytes(width, "little")


# JSON


class Raw(str):
    """A text that goes into JSON as it is, not as a string."""


class Pairs(list):
    """An object of JSON as pairs, which may name anything twice."""


def load_json(text: bytes) -> Any:
    """The value of a text of JSON, its objects as `Pairs`; None where it is none."""
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: Pairs(map(list, pairs)))
    except (ValueError, RecursionError):
        return None


def dump_json(value: Any) -> bytes:
    """`value` as text, which is JSON only if it is one."""
    try:
        return _dumped(value).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * 3000


def _dumped(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(":".join(map(_dumped, pair)) if _is_pair(pair) else _dumped(pair) for pair in value) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_dumped, value)) + "]"
    return json.dumps(value, ensure_ascii=isinstance(value, str) and len(value) % 2 == 0)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and not isinstance(value, Pairs)


RAW = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-0",
        "-0.0",
        "1.0",
        "1.5",
        "00",
        "0x1",
        "1_0",
        "'a'",
        "",
        "//",
        "\ufeff1",
    ),
    *('"\\ud800"', '"\\u0000"', '"\\', '"a', "tru", "null", "true", "9" * 400, "9" * 5000, "0." + "3" * 400),
    *(
        "[" * depth + "]" * depth for depth in (60, 900, 970, 985)
    ),  # the last that are not too deep for a reader of JSON
    *("[" * 1000 + "]" * 1000, "[" * 60_000, '{"a":' * 1000 + "1" + "}" * 1000, '{"a":' * 10_000),
)


# The first is too great for a floating-point number, and the last are none of JSON.
REALS = (10**400, -(10**400), 1e308, 5e-324, -0.0, 0.1, -0.5, 1 + 2**-52, Raw("1e999"), Raw("NaN"), Raw("-Infinity"))


def json_value(rng: Random, depth: int = 2) -> Any:
    """Any value of JSON, or something that is nearly one."""
    kind = rng.randrange(7 if depth else 5)
    if kind == 0:
        return number(rng)
    if kind == 1:
        return rng.choice(NAMES)
    if kind == 2:
        return rng.choice((None, True, False, 0.5, -1e300))
    if kind in (3, 4):
        return Raw(rng.choice(RAW))
    count = rng.choice((0, 1, 2, 3, 70))
    if kind == 5:
        return [json_value(rng, depth - 1) for _ in range(count)]
    return Pairs([rng.choice(NAMES), json_value(rng, depth - 1)] for _ in range(count))


def change_json(value: Any, rng: Random, words: Sequence[Any] = ()) -> Any:
    """`value` with one of its parts, at any depth, replaced, removed, doubled, renamed or exchanged with another.

    `words` are values that mean something at some place of this kind of JSON.
    """
    places: list[tuple[list[Any], int]] = []
    root = [value]
    queue: list[list[Any]] = [root]
    for parent in queue:  # it grows while it is walked
        for index, item in enumerate(parent):
            places.append((parent, index))
            if isinstance(item, list) and len(places) < 5000:
                queue.append(item)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change_place(*rng.choice(places), rng, words, places)
    return root[0] if root else None


def _other_number(value: float, rng: Random) -> Any:
    is_whole = isinstance(value, int) or (math.isfinite(value) and value.is_integer())
    return near(int(value), rng) if is_whole and rng.random() < 0.6 else rng.choice(REALS)


def _change_place(parent: list[Any], index: int, rng: Random, words: Sequence[Any], places: list[Any]) -> None:
    if index >= len(parent):
        return
    item, kind = parent[index], rng.randrange(8)
    if kind == 0:
        parent[index] = json_value(rng)
    elif kind == 1 and words:
        parent[index] = copy.deepcopy(rng.choice(words))
    elif kind == 2:
        parent[index] = _other_number(item, rng) if isinstance(item, int | float) else rng.choice(NAMES)
    elif kind == 3 and len(parent) > 1:
        del parent[index]
    elif kind == 4:
        parent.insert(index, item)
    elif kind == 5:
        other, at = rng.choice(places)
        if at < len(other) and not isinstance(item, list) and not isinstance(other[at], list):
            parent[index], other[at] = other[at], item
    elif kind == 6 and isinstance(item, str):
        parent[index] = item + rng.choice(NAMES)
    elif isinstance(item, Pairs):
        item.append(
            [
                rng.choice((rng.choice(NAMES), *(pair[0] for pair in item if isinstance(pair, list) and pair))),
                json_value(rng),
            ]
        )
    else:
        parent[index] = Raw(rng.choice(RAW))


# Zip archives

# Of the records of an archive: the fields after the signature, by their codes in `struct`.
ZIP_RECORDS = {b"PK\x03\x04": "HHHHHIIIHH", b"PK\x01\x02": "HHHHHHIIIHHHHHII", b"PK\x05\x06": "HHHHIIH"} | {
    b"PK\x06\x06": "QHHIIQQQQ",
    b"PK\x06\x07": "IQI",
    b"PK\x07\x08": "III",
}


def change_zip(data: bytes, rng: Random) -> bytes:
    """`data` with one field of one record of the archive (a length, a place, a size, a flag) at a boundary value."""
    found = [(at, record) for record in ZIP_RECORDS for at in _places(data, record)]
    if not found:
        return change_bytes(data, rng)
    at, record = rng.choice(found)
    codes = ZIP_RECORDS[record]
    field = rng.randrange(len(codes))
    start = at + 4 + struct.calcsize("<" + codes[:field])
    width = struct.calcsize("<" + codes[field])
    value = near(int.from_bytes(data[start : start + width], "little"), rng)
    return replace_at(data, start, pack_number(codes[field], value))


def _places(data: bytes, word: bytes) -> list[int]:
    places, at = [], data.find(word)
    while at >= 0:
        places.append(at)
        at = data.find(word, at + 1)
    return places


Change = Callable[[bytes, Random], bytes]


def any_of(*changes: Change) -> Change:
    """A change that is one of `changes`."""
    return lambda data, rng: rng.choice(changes)(data, rng)


Members = list[tuple[str, bytes, int]]  # name, content, how it is compressed


def zip_members(data: bytes) -> Members:
    """The members of an archive; none where it is none, or a bomb."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > 1 << 20 or len(infos) > 2000:
            return []
        return [(info.filename, archive.read(info), info.compress_type) for info in infos]
    except Exception:  # a damaged archive is none
        return []


def make_zip(members: Members) -> bytes:
    """The archive of `members`, whatever they are called."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, part, kind in members:
            info = zipfile.ZipInfo("a")
            info.filename = name.encode("utf-8", "replace").decode()[: 1 << 15]
            archive.writestr(info, part, kind if kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else None)
    return file.getvalue()


def change_members(members: Members, rng: Random) -> Members:
    """`members` with one of them renamed, removed, doubled, emptied, compressed or blown up, or with others beside."""
    at, kind = rng.randrange(len(members)), rng.randrange(8)
    name, part, compression = members[at]
    folder = name.rpartition("/")[0]
    if kind == 0:
        changed = [(rng.choice((*ESCAPES, *NAMES, f"{folder}/../{name}", f"/{name}", f"{name}/")), part, compression)]
    elif kind == 1:
        changed = []
    elif kind == 2:
        changed = [members[at]] * 2
    elif kind == 3:
        changed = [(name, b"", compression)]
    elif kind == 4:
        changed = [(name, part, zipfile.ZIP_DEFLATED)]
    elif kind == 5:
        changed = [(name, bytes(rng.choice((1 << 16, 1 << 22))), zipfile.ZIP_DEFLATED)]
    elif kind == 6:
        changed = [
            members[at],
            *((f"{folder}/{number}", b"", zipfile.ZIP_STORED) for number in range(rng.choice((1, 300)))),
        ]
    else:
        changed = [(name, change_bytes(part, rng), compression)]
    return [*members[:at], *changed, *members[at + 1 :]]
