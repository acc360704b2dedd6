"""TensorFlow's checkpoints taken apart and put together with the right checksums, so that changes get past these.

An index is a sorted table in blocks: the first entry is a header, each other one tells of a variable; ``.data-`` files
hold the numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from fuzz import change

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES, TRAILER_BYTES = 48, 5
GRAPH = b"_CHECKPOINTABLE_OBJECT_GRAPH"
DATA = ".data-00000-of-00001"
STRING = 7

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


# Checksums and integers


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC_TABLE = _table()


def crc(data: bytes, value: int = 0) -> int:
    """CRC-32C."""
    value ^= 0xFFFFFFFF
    for byte in data:
        value = CRC_TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def masked(value: int) -> int:
    """A checksum as it is stored."""
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    """An integer in groups of seven bits."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _take(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


# Tables


def entries(index: bytes) -> list[tuple[bytes, bytes]]:
    """The keys and values of an index; raises an IndexError for a damaged one."""
    footer = index[-FOOTER_BYTES:]
    at = 0
    for _ in range(2):
        _, at = _take(footer, at)
    start, at = _take(footer, at)
    size, _ = _take(footer, at)
    found = []
    for _, handle in _block(index[start : start + size]):
        start, at = _take(handle, 0)
        size, _ = _take(handle, at)
        found += list(_block(index[start : start + size]))
    return found


def _block(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    end = len(data) - 4 - 4 * int.from_bytes(data[-4:], "little")
    at, key = 0, b""
    while at < end:
        shared, at = _take(data, at)
        own, at = _take(data, at)
        size, at = _take(data, at)
        key = key[:shared] + data[at : at + own]
        yield key, data[at + own : at + own + size]
        at += own + size


def table(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """An index of `pairs`, in their order."""
    content = b""

    def added(pairs: list[tuple[bytes, bytes]]) -> bytes:
        nonlocal content
        block, restarts = b"", []
        for key, value in pairs:
            restarts.append(len(block))
            block += b"\0" + varint(len(key)) + varint(len(value)) + key + value
        restarts = restarts or [0]
        block += b"".join(start.to_bytes(4, "little") for start in (*restarts, len(restarts)))
        handle = varint(len(content)) + varint(len(block))
        content += block + b"\0" + masked(crc(block + b"\0")).to_bytes(4, "little")
        return handle

    data = added(pairs)
    handles = added([]) + added([(pairs[-1][0] + b"\xff" if pairs else b"", data)])
    return content + handles.ljust(FOOTER_BYTES - 8, b"\0") + MAGIC.to_bytes(8, "little")


# Changes


def changed(index: bytes, data: bytes, rng: Random) -> tuple[bytes, bytes]:
    """Index and data with one entry, the graph of objects or some numbers changed; checksums mostly right."""
    try:
        pairs = entries(index)
    except (IndexError, MemoryError):
        pairs = []
    if not pairs or rng.random() < 0.1:
        return change.change_bytes(index, rng), data
    place = rng.randrange(len(pairs))
    key, value = pairs[place]
    kind = rng.random()
    held = dict(pairs)
    if kind < 0.35 and GRAPH in held:
        pairs, data = _with_graph(pairs, data, rng)
    elif kind < 0.45:
        new = rng.choice(
            (*change.NAMES, "a", "a/b", "a/b/c", "_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter", "/" * 3000)
        )
        pairs[place] = (new.encode("utf-8", "replace"), value)
        pairs = pairs if rng.random() < 0.2 else sorted(dict(pairs).items())
    elif kind < 0.5:
        del pairs[place]
    elif kind < 0.6:
        new = change.change_bytes(value, rng)
        # TensorFlow ends its process over what is no message, which is soon known.
        pairs[place] = (key, new if rng.random() < 0.05 or _is_message(new) else _entry(value, data, rng))
    elif kind < 0.65:
        data = change.change_bytes(data, rng)
    elif key:
        pairs[place] = (key, _entry(value, data, rng))
    else:
        pairs[place] = (key, _header(value, rng))
    return table(pairs), data


def _message(kind: str, value: bytes) -> Any:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import tensor_bundle_pb2

    message = getattr(tensor_bundle_pb2, kind)()
    try:
        message.ParseFromString(value)
    except DecodeError:
        message.Clear()
    return message


def _is_message(value: bytes) -> bool:
    return not value or bool(_message("BundleEntryProto", value).ByteSize())


def _int64(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _header(value: bytes, rng: Random) -> bytes:
    header = _message("BundleHeaderProto", value)
    kind = rng.randrange(3)
    if kind == 0:
        header.num_shards = rng.choice((0, -1, 2, 1_000_000, (1 << 31) - 1))
    elif kind == 1:
        header.endianness = rng.choice((0, 1, 2))
    else:
        header.version.producer, header.version.min_consumer = rng.choice(((0, 0), (1, 99), (-1, -1)))
    return header.SerializeToString()


def _entry(value: bytes, data: bytes, rng: Random) -> bytes:
    entry = _message("BundleEntryProto", value)
    kind = rng.randrange(7)
    if kind == 0:
        entry.dtype = rng.choice((*range(26), 101, 99, -1))
    elif kind == 1:
        dims = entry.shape.dim
        size = rng.choice((0, 1, -1, 1 << 20, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1))
        if dims and rng.random() < 0.7:
            rng.choice(dims).size = size
        else:
            for _ in range(rng.choice((1, 2, 9, 254, 300))):
                dims.add().size = rng.choice((1, size))
        entry.shape.unknown_rank = rng.random() < 0.05
    elif kind == 2:
        entry.shard_id = rng.choice((1, -1, 1_000_000, (1 << 31) - 1))
    elif kind == 3:
        entry.offset = _int64(change.near(entry.offset, rng))
    elif kind == 4:
        entry.size = _int64(change.near(entry.size, rng))
    elif kind == 5:
        extent = entry.slices.add().extent.add()
        extent.start, extent.length = _int64(change.number(rng)), _int64(change.number(rng))
    else:
        entry.crc32c = rng.randrange(1 << 32)
        return entry.SerializeToString()
    if 0 <= entry.offset <= entry.offset + entry.size <= len(data) and entry.dtype != STRING:
        entry.crc32c = masked(crc(data[entry.offset : entry.offset + entry.size]))
    return entry.SerializeToString()


def _with_graph(pairs: list[tuple[bytes, bytes]], data: bytes, rng: Random) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """`pairs` and `data` with a change in the graph of objects, which is stored anew behind the other data."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    entry = _message("BundleEntryProto", dict(pairs)[GRAPH])
    stored = data[entry.offset : entry.offset + entry.size] if entry.offset >= 0 and entry.size >= 0 else b""
    graph = TrackableObjectGraph()
    try:
        _, at = _take(stored, 0)
        graph.ParseFromString(stored[at + 4 :])
    except (IndexError, DecodeError):
        graph.Clear()
    text = change.change_bytes(graph.SerializeToString(), rng)
    if rng.random() < 0.9:
        _change_graph(graph, rng)
        text = graph.SerializeToString()
    length = masked(crc(len(text).to_bytes(4, "little"))).to_bytes(4, "little")
    new = varint(len(text)) + length + text
    entry.offset, entry.size = len(data), len(new)
    entry.crc32c = masked(crc(text, crc(length, crc(len(text).to_bytes(4, "little")))))
    found = [(key, entry.SerializeToString() if key == GRAPH else value) for key, value in pairs]
    return found, data + new


def _change_graph(graph: Any, rng: Random) -> None:
    names = [name for name in change.NAMES if "\ud800" not in name]
    names += ["iter", "learning_rate", "_iterations", "_trainable_variables", "save_counter", "layer-0", "kernel"]
    if not graph.nodes or rng.random() < 0.1:
        graph.nodes.add()
    node, numbers = rng.choice(graph.nodes), (0, 1, -1, len(graph.nodes) - 1, len(graph.nodes), (1 << 31) - 1)
    kind = rng.randrange(5)
    if kind == 0:
        child = rng.choice(node.children) if node.children and rng.random() < 0.7 else node.children.add()
        child.node_id = rng.choice(numbers)
    elif kind == 1:
        child = rng.choice(node.children) if node.children and rng.random() < 0.7 else node.children.add()
        child.local_name = rng.choice(names)
    elif kind == 2:
        slot = node.slot_variables.add()
        slot.slot_variable_node_id, slot.original_variable_node_id = rng.choice(numbers), rng.choice(numbers)
    elif kind == 3:
        attribute = rng.choice(node.attributes) if node.attributes else node.attributes.add()
        attribute.name = rng.choice(("VARIABLE_VALUE", "", "OBJECT_CONFIG_JSON"))
        attribute.full_name = rng.choice(names)
        attribute.checkpoint_key = rng.choice((attribute.checkpoint_key, *names))
    else:
        for _ in range(rng.choice((1, 40))):
            last = len(graph.nodes) - 1
            graph.nodes.add()
            child = graph.nodes[last].children.add()
            child.node_id, child.local_name = last + 1, rng.choice(names)


# Seeds


def parts_of(folder: Path, prefix: str) -> Mapping[str, bytes]:
    """The files of a checkpoint in `folder`, named ``model``."""
    files = sorted(folder.glob(f"{prefix}.index")) + sorted(folder.glob(f"{prefix}.data-*"))
    return {file.name.replace(prefix, "model", 1): file.read_bytes() for file in files}
