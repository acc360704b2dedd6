"""PyTorch checkpoints: a pickle in a zip archive, several in a row with the numbers behind them, and tar archives."""

from __future__ import annotations

import argparse
import io
import pickle
import pickletools
import struct
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz import change
from fuzz._target import Target, opened_by

# What pickles name that do harm when they are made: the canary tells of it.
FILE = "../outside/created"
CODE = (
    *(("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("builtins", "exec")),
    *(("builtins", "eval"), ("builtins", "getattr"), ("builtins", "open"), ("builtins", "__import__"), ("io", "open")),
    *(("torch", "load"), ("torch.hub", "load"), ("torch.storage", "_load_from_bytes"), ("torch.jit", "load")),
    *(("torch.utils.collect_env", "run"), ("torch._utils", "_import_dotted_name"), ("numpy", "load")),
    *(("numpy", "fromfile"), ("numpy", "memmap"), ("numpy.testing._private.utils", "runstring"), ("pickle", "loads")),
    *(
        ("ctypes", "CDLL"),
        ("importlib", "import_module"),
        ("runpy", "run_path"),
        ("pty", "spawn"),
        ("socket", "socket"),
    ),
    *(("torch", "FloatStorage.from_file"), ("torch", "UntypedStorage"), ("builtins", "object.__class__"), ("", "")),
    *(("torch._utils", "_rebuild_tensor_v2.__globals__"), ("numpy.dtypes", "x"), ("numpy.dtypes", "__loader__.exec")),
)
KNOWN = (
    *(("torch._utils", f"_rebuild_{kind}") for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter", "qtensor")),
    *(("torch._utils", f"_rebuild_{kind}") for kind in ("sparse_tensor", "meta_tensor_no_storage", "nested_tensor")),
    *(("torch._utils", "_rebuild_parameter_with_state"), ("torch._tensor", "_rebuild_from_type_v2")),
    *(("torch", f"{kind}Storage") for kind in ("Float", "Double", "Half", "BFloat16", "Byte", "QInt8", "QUInt4x2")),
    *(("torch", kind) for kind in ("float32", "float8_e4m3fn", "uint16", "Tensor", "Size", "device", "int4", "quint8")),
    *(("collections", kind) for kind in ("OrderedDict", "defaultdict", "deque", "Counter")),
    *(("builtins", kind) for kind in ("dict", "list", "set", "bytearray", "range", "complex", "object")),
    *(("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")),
    *(("torch.nn.parameter", "Parameter"), ("torch.storage", "UntypedStorage"), ("__builtin__", "set")),
)
LONG = 2**20
MAX_SLICES = 20_000


def seeds(folder: Path) -> Iterator[bytes]:
    """Every layout and protocol, kinds of numbers, views, and what training scripts keep beside the weights."""
    import torch

    views = torch.arange(12.0)
    state = {
        "conv.weight": torch.ones(2, 3, 1, 1),
        "conv.bias": torch.zeros(2, dtype=torch.float64),
        "norm.num_batches_tracked": torch.tensor(7),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "part": views[3:9:2],
        "turned": views.reshape(3, 4).T,
        "tied": torch.nn.Parameter(torch.ones(3)),
        "wide": torch.arange(3).to(torch.uint16),
        "pair": torch.ones(2, dtype=torch.complex64),
    }
    training = {
        "state_dict": {"w": torch.ones(3), "v": torch.ones(2, 2)},
        "ema": {"w": torch.ones(3)},
        "optimizer": {"param_groups": [{"params": [0]}], "state": {0: {"step": torch.tensor(1.0)}}},
        "arguments": argparse.Namespace(lr=0.1, shape=torch.Size([3])),
        "history": [np.zeros(3), {1, 2}, 1e-3, None, True, b"x", 2**70, np.float64(1)],
    }
    for value in (state, training):
        for options in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}, {"pickle_protocol": 5}):
            file = io.BytesIO()
            torch.save(value, file, **options)
            yield file.getvalue()
    yield from _odd(torch)


def _odd(torch: Any) -> Iterator[bytes]:
    """Files that are told from checkpoints, and refused."""
    tagged = torch.nn.Parameter(torch.ones(2))
    tagged.tag = "kept"
    for value in (
        torch.nn.Linear(2, 1),
        {"a": torch.eye(2).to_sparse()},
        {"a": torch.empty(2, device="meta")},
        {"a": torch.ones(1).expand(9)},
        {"a.w": torch.ones(1), "a": {"w": torch.ones(1)}},
        {"epoch": 3},
        {"a": tagged, "b": torch.ones(2).as_subclass(torch.nn.Buffer)},
    ):
        file = io.BytesIO()
        torch.save(value, file)
        yield file.getvalue()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is of yesterday, and so are many files
        torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), file)
    yield file.getvalue()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    yield file.getvalue()
    yield pickle.dumps({"w": [1.0]}, 2)


def mutate(data: bytes, rng: Random) -> bytes:
    """One change: of instructions of a pickle, of a record of the archive, of the members, of bytes."""
    kind = rng.randrange(10)
    if kind == 0:
        return change.change_bytes(data, rng)
    members = change.zip_members(data)
    if not members:
        return _legacy(data, rng)
    if kind == 1:
        return change.change_zip(data, rng)
    if kind == 2:
        return change.make_zip(change.change_members(members, rng))
    changed = [
        (name, _pickle(part, rng) if name.endswith("data.pkl") and part else part, kind) for name, part, kind in members
    ]
    return change.make_zip(changed)


def _legacy(data: bytes, rng: Random) -> bytes:
    """A change in one of the pickles in a row, or of a count of numbers behind them."""
    ends, stream = [0], io.BytesIO(data)
    try:
        while len(ends) < 8 and data[ends[-1] : ends[-1] + 1] == b"\x80":
            for _ in pickletools.genops(stream):
                pass
            ends.append(stream.tell())
    except Exception:  # a damaged pickle is none
        pass
    if len(ends) == 1 or rng.random() < 0.1:
        return change.change_bytes(data, rng)
    if rng.random() < 0.15:
        at = ends[-1]
        return change.replace_at(
            data, at, change.pack_number("Q", change.near(int.from_bytes(data[at : at + 8], "little"), rng))
        )
    at = rng.randrange(len(ends) - 1)
    start, end = ends[at], ends[at + 1]
    return data[:start] + _pickle(data[start:end], rng) + data[end:]


def slices(program: bytes) -> list[bytes]:
    """The instructions of a pickle, each with its argument; what cannot be told is one more."""
    starts: list[int] = []
    try:
        for _, _, at in pickletools.genops(program):
            starts.append(at or 0)
            if len(starts) > MAX_SLICES:
                break
    except Exception:  # a damaged pickle
        pass
    starts = starts or [0]
    return [program[start:end] for start, end in zip(starts, [*starts[1:], len(program)], strict=True)]


def _pickle(program: bytes, rng: Random) -> bytes:
    """`program` with instructions inserted, removed, exchanged, doubled, or with another argument."""
    parts = slices(program)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, kind = rng.randrange(len(parts)), rng.randrange(8)
        if kind in (0, 1):
            parts.insert(at, _snippet(rng))
        elif kind == 2 and len(parts) > 1:
            del parts[at]
        elif kind == 3:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif kind == 4:
            parts[at : at + 1] = parts[at : at + 1] * rng.choice((2, 3, 100))
        elif kind == 5:
            end = at + rng.choice((2, 5, 20))
            place = rng.randrange(len(parts))
            parts[place:place] = parts[at:end]
        else:
            parts[at] = _argument(parts[at], rng, parts)
    return b"".join(parts)


def _argument(part: bytes, rng: Random, parts: Sequence[bytes]) -> bytes:
    """An instruction with another argument of its kind."""
    code = part[:1]
    if code in b"KMJIL" or part[:1] in (b"\x8a", b"\x8b"):
        return integer(change.number(rng) if rng.random() < 0.5 else rng.randrange(12), rng)
    if code in b"X\x8c":
        texts = [other for other in parts if other[:1] == code]
        return text(rng.choice(change.NAMES)) if rng.random() < 0.5 else rng.choice(texts)
    if code in b"hjqr":
        return rng.choice((b"h", b"q")) + bytes([rng.randrange(256)])
    if code == b"c":
        return word(*rng.choice(KNOWN if rng.random() < 0.7 else CODE))
    return bytes([rng.randrange(256)]) + part[1:] if rng.random() < 0.5 else _snippet(rng)


def text(letters: str) -> bytes:
    """An instruction that pushes a text."""
    data = letters.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def word(module: str, name: str) -> bytes:
    """An instruction that pushes a function or a class."""
    return f"c{module}\n{name}\n".encode()


def integer(value: int, rng: Random) -> bytes:
    """An instruction that pushes a number, in one of the ways to."""
    ways = [f"I{value}\n".encode(), f"L{value}L\n".encode()]
    ways += [b"K" + bytes([value])] if 0 <= value < 256 else []
    ways += [b"J" + struct.pack("<i", value)] if -(1 << 31) <= value < 1 << 31 else []
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    ways += [b"\x8a" + bytes([len(data)]) + data, b"\x8b" + struct.pack("<i", len(data)) + data]
    return rng.choice(ways)


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """Instructions that call a function."""
    return word(module, name) + b"(" + b"".join(arguments) + b"tR"


LYING = (
    *(code + struct.pack("<I", size) + b"abc" for code in (b"X", b"B", b"T") for size in (4, 1 << 20, 0xFFFFFFFF)),
    *(
        code + struct.pack("<Q", size) + b"a"
        for code in (b"\x8d", b"\x8e", b"\x96", b"\x95")
        for size in (2, 1 << 40, 1 << 63)
    ),
    *(b"\x8b" + struct.pack("<i", size) + b"ab" for size in (3, 1 << 20, (1 << 31) - 1, -1, -(1 << 31))),
    *(
        b"r\xff\xff\xff\x7f",
        b"j\xff\xff\xff\x7f",
        b"p999999999999\n",
        b"g999999999999\n",
        b"p-1\n",
        b"\x82\x01",
        b"\x84\0\0\0\1",
    ),
    *(
        b"I" + b"9" * 5000 + b"\n",
        b"L" + b"9" * 5000 + b"L\n",
        b"F1e999\n",
        b"Fnan\n",
        b"I01\n",
        b"S'a\n",
        b"V\\ud800\n",
    ),
)
RECURSIVE = (
    b"]q\xfah\xfaa",
    b"}q\xfbh\xfbh\xfbs",
    b"}q\xfb(" + text("a") + b"h\xfbu",
    b"(]q\xfch\xfct",
    b")\x85" * 60,
    b"]" * 500,
)
TENSOR = (
    (word("torch._utils", "_rebuild_tensor_v2") + b"((" + text("storage") + word("torch", "FloatStorage") + text("0"))
    + text("cpu")
    + b"K\x06tQK\0(K\x02K\x03t(K\x03K\x01t\x89"
    + word("collections", "OrderedDict")
    + b")RtR"
)


def _snippet(rng: Random) -> bytes:
    """Instructions of trouble: calls of code, bombs, lies, things that hold themselves, tensors at another place."""
    kind = rng.randrange(12)
    if kind == 0:
        return call(*rng.choice(CODE), text(f"touch {FILE}")) + b"0"
    if kind == 1:
        return call(*rng.choice(KNOWN), *(_snippet(rng) for _ in range(rng.randrange(3))))
    if kind == 2:
        return rng.choice(LYING)
    if kind == 3:
        return rng.choice(RECURSIVE)
    if kind == 4:
        return _laughs(rng)
    if kind == 5:
        return text(rng.choice(change.NAMES)) + b"Q"  # a persistent id that is a path
    if kind == 6:
        key = rng.choice(("0", "1", "../0", "/etc/passwd", FILE, ""))
        return (
            b"("
            + text("storage")
            + word("torch", "FloatStorage")
            + text(key)
            + text("cpu")
            + integer(rng.choice((0, 1, 6, 1 << 62, -1)), rng)
            + b"tQ"
        )
    if kind == 7:
        return b"".join(
            rng.choice(
                (b"(", b"0", b"1", b"2", b"t", b"l", b"d", b"s", b"u", b"e", b"a", b"b", b"R", b"\x81", b"o", b"\x92")
            )
            for _ in range(4)
        )
    if kind == 8:
        return text(rng.choice(change.NAMES)) + TENSOR.replace(b"K\0(", integer(change.number(rng), rng) + b"(") + b"s"
    if kind == 9:
        sizes = (
            b"(" + b"".join(integer(rng.choice((0, 1, 2, 3, 6, 1 << 31, 1 << 62, -1)), rng) for _ in range(2)) + b"t"
        )
        return text(rng.choice("abc")) + TENSOR.replace(b"(K\x02K\x03t", sizes) + b"s"
    if kind == 10:
        return word(*rng.choice(CODE)) if rng.random() < 0.3 else word(*rng.choice(KNOWN))
    return bytes([rng.randrange(256)])


def _laughs(rng: Random) -> bytes:
    """A list of lists of the same list, or a call of a call of a call."""
    depth, width = rng.choice((3, 8, 30)), rng.choice((2, 10))
    if rng.random() < 0.5:
        return b"](K\x01e" + b"".join(
            b"q%c](%be" % (0xE0 + level % 16, b"h%c" % (0xE0 + level % 16) * width) for level in range(depth)
        )
    one = word("collections", "OrderedDict")
    return (one + b"(") * depth + b"]" + b"tR" * depth


TARGET = Target(
    "pytorch",
    ("parity.files.pytorch", "parity.files._zip", "parity.files._map", "pickletools", "zipfile"),
    seeds,
    mutate,
    opened_by("pytorch"),
)
