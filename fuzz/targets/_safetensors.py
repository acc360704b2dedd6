"""What exchange files, recordings and shards share: eight bytes of length, a header of JSON, tensors."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import ml_dtypes
import numpy as np

from fuzz import change
from parity import exchange

DTYPES = (*exchange.READABLE, "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "C64", "F128", "f32", "", "I128")
SHAPES: tuple[list[Any], ...] = (
    [],
    [0],
    [1],
    [0, 1 << 62],
    [1 << 32, 1 << 32],
    [1 << 63],
    [-1],
    [1, -1],
    [1] * 33,
    [1] * 70,
    [2.0],
    ["1"],
    [True],
)
FLOATS = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)


def bytes_of(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file."""
    with tempfile.TemporaryDirectory() as folder:
        exchange.write_tensors(Path(folder) / "a", tensors, metadata, durable=False)
        return (Path(folder) / "a").read_bytes()


def parts(data: bytes) -> tuple[Any, bytes]:
    """The header, None where it is none, and what follows it."""
    end = 8 + int.from_bytes(data[:8], "little")
    return change.load_json(data[8:end]), data[end:]


def joined(header: Any, body: bytes) -> bytes:
    """The file of a header and what follows it."""
    text = change.dump_json(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def mutate(data: bytes, rng: Random, words: tuple[Any, ...] = ()) -> bytes:
    """One change: of the header, of a text of JSON in its metadata, of its length, of a tensor's entry, of the rest."""
    header, body = parts(data)
    if not isinstance(header, list):
        return change.change_bytes(data, rng)
    kind = rng.randrange(7)
    if kind == 0:
        return change.near(int.from_bytes(data[:8], "little"), rng).to_bytes(17, "little", signed=True)[:8] + data[8:]
    if kind == 1:
        return joined(change.change_json(header, rng, (*DTYPES, *SHAPES, *words)), body)
    if kind in (2, 3):
        return joined(_inner(header, rng, words), body)
    if kind == 4:
        return joined(header, change.change_bytes(body, rng))
    if kind == 5:
        return joined(_added(header, len(body), rng), body + bytes(8))
    return joined(_retyped(header, rng), body)


def _inner(header: Any, rng: Random, words: tuple[Any, ...]) -> Any:
    """`header` with a change in the JSON that its metadata hold as text."""
    held = [pair for pair in header if isinstance(pair, list) and len(pair) == 2 and pair[0] == "__metadata__"]
    texts = [pair for pair in held[0][1] if isinstance(pair, list)] if held and isinstance(held[0][1], list) else []
    texts = [pair for pair in texts if len(pair) == 2 and isinstance(pair[1], str)]
    if texts:
        pair = rng.choice(texts)
        value = change.load_json(pair[1].encode("utf-8", "surrogatepass"))
        changed = rng.choice(change.NAMES) if value is None else _text(change.change_json(value, rng, words))
        pair[1] = changed
    return header


def _text(value: Any) -> str:
    return change.dump_json(value).decode("utf-8", "surrogatepass")


def _added(header: Any, start: int, rng: Random) -> Any:
    """`header` with one more tensor of eight bytes, under a name of trouble or of an old tensor's like."""
    names = [pair[0] for pair in header if isinstance(pair, list) and pair and isinstance(pair[0], str)] or ["a"]
    old = rng.choice(names)
    beginnings = (old.rpartition("/")[0] + "/", old + "/", old, "")
    name = rng.choice(
        (old, rng.choice(beginnings) + rng.choice((*change.NAMES, "extras:a", "probe:input", "kernel", "a")))
    )
    kind, shape = rng.choice(
        (("F64", []), ("F32", [2]), ("BF16", [2, 2]), ("U8", [8]), ("I64", [1, 1, 1]), ("BOOL", [8]))
    )
    entry = change.Pairs([["dtype", kind], ["shape", shape], ["data_offsets", [start, start + 8]]])
    return change.Pairs([*header, [name, entry]])


def _retyped(header: Any, rng: Random) -> Any:
    """`header` with a tensor of another kind or shape over the same bytes, so that its length is still right."""
    entries = [pair[1] for pair in header if _is_pair(pair) and isinstance(pair[1], list)]
    found = [(entry, dict(entry)) for entry in entries if all(map(_is_pair, entry))]
    found = [(entry, field) for entry, field in found if "data_offsets" in field]
    if not found:
        return header
    entry, field = rng.choice(found)
    try:
        size = int(field["data_offsets"][1]) - int(field["data_offsets"][0])
    except (TypeError, ValueError, IndexError, KeyError):
        return header
    kind = rng.choice(list(exchange.READABLE))
    count = size // exchange.READABLE[kind].itemsize
    shape = rng.choice(([count], [1, count], [count, 1, 1], [math.isqrt(max(count, 0)) or 1, 1], rng.choice(SHAPES)))
    for pair in entry:
        pair[1] = {"dtype": kind, "shape": shape}.get(pair[0], pair[1])
    return header


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
