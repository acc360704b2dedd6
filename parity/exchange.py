"""The weight-exchange file: the only module that touches its bytes.

One safetensors file. Tensors are named ``<block name>/<canonical parameter>``; what has no canonical meaning is
``<block name>/extras:<name>``. ``__metadata__`` has one key, ``attention-parity``, whose value is one JSON text::

    {"version": 1, "blocks": {"<block name>": <the spec, as Spec.to_json gives it>, ...}}

Canonical parameters hold no slash, so the last slash of a tensor's name ends the block's name, which may hold some.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from parity.block import Block
from parity.errors import FormatError, MissingTensorError, SpecError, UnexpectedTensorError, VersionError
from parity.spec import Spec, spec_from_json

VERSION = 1
METADATA_KEY = "attention-parity"
EXTRAS = "extras:"

DTYPES = {
    np.dtype(kind): name
    for name, kind in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U64": np.uint64,
        "U32": np.uint32,
        "U16": np.uint16,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}

READABLE = (*DTYPES.values(), "C64")  # complex numbers are no weights, but may lie beside them

Path = str | os.PathLike[str]


def write(path: Path, blocks: Block | Iterable[Block]) -> None:
    """Write `blocks` as an exchange file: the same blocks give the same bytes, and a failure leaves the old file.

    Raises:
        SpecError: for anything but blocks.
        MissingTensorError: for no block at all.
        UnexpectedTensorError: for two blocks of one name.
        FormatError: where the file cannot be written.
    """
    blocks = list(blocks) if isinstance(blocks, Iterable) else [blocks]
    strange = [block for block in blocks if not isinstance(block, Block)]
    if strange:
        raise SpecError(f"received {strange[0]!r} to write", "a parity.Block, or several", "parity.read makes them")
    names = [block.name for block in blocks]
    if not names:
        raise MissingTensorError("received no block to write", "at least one")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnexpectedTensorError(
            f"received several blocks named {', '.join(map(repr, twice))}",
            "distinct names",
            "rename with dataclasses.replace(block, name=...)",
        )
    semantics = {"version": VERSION, "blocks": {block.name: block.spec.to_json() for block in blocks}}
    text = json.dumps(semantics, allow_nan=False, separators=(",", ":"))
    write_tensors(path, {name: value for block in blocks for name, value in _named(block)}, {METADATA_KEY: text})


def _named(block: Block) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in block.tensors.items():
        yield f"{block.name}/{name}", value
    for name, value in block.extras.items():
        yield f"{block.name}/{EXTRAS}{name}", value


def read(path: Path) -> list[Block]:
    """The blocks of an exchange file, in the order in which they were written.

    Raises:
        FormatError: for a file that is no exchange file, or a damaged one.
        VersionError: for one of a newer format.
        MissingTensorError, UnexpectedTensorError, TensorShapeError: where tensors and specs disagree.
    """
    tensors, metadata = read_tensors(path)
    specs = _specs(path, metadata)
    parts: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {name: ({}, {}) for name in specs}
    for full_name, value in tensors.items():
        owner, slash, name = full_name.rpartition("/")
        if not slash or owner not in parts:
            raise UnexpectedTensorError(
                f"{path} holds the tensor {full_name!r} of no block", f"one of the blocks {', '.join(map(repr, specs))}"
            )
        parts[owner][name.startswith(EXTRAS)][name.removeprefix(EXTRAS)] = value
    return [Block(name, spec, *parts[name]) for name, spec in specs.items()]


def _specs(path: Path, metadata: Mapping[str, str]) -> dict[str, Spec]:
    if METADATA_KEY not in metadata:
        raise FormatError(
            f"{path} is a safetensors file but no exchange file",
            f"the key {METADATA_KEY!r} in its metadata",
            "parity.read reads foreign weights too, and parity.write makes exchange files",
        )
    try:
        semantics = json.loads(metadata[METADATA_KEY])
        version = semantics["version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"{path} has unreadable metadata ({error!r})", "JSON with 'version' and 'blocks'") from error
    _check_version(path, version)  # first: another version may hold anything else
    if "blocks" not in semantics:
        raise FormatError(f"{path} has unreadable metadata (no 'blocks')", "JSON with 'version' and 'blocks'")
    blocks = semantics["blocks"]
    if not isinstance(blocks, dict):
        raise FormatError(f"{path} has {type(blocks).__name__} as its 'blocks'", "an object of specs by block name")
    return {name: _spec(path, name, value) for name, value in blocks.items()}


def _check_version(path: Path, version: Any) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise FormatError(f"{path} has format version {version!r}", f"{VERSION}")
    if version > VERSION:
        raise VersionError(
            f"{path} has format version {version}",
            f"at most {VERSION}, the newest that this release knows",
            "upgrade attention-parity",
        )


def _spec(path: Path, name: str, value: Any) -> Spec:
    try:
        return spec_from_json(value)
    except SpecError as error:
        raise FormatError(f"{path}: the spec of block {name!r} is invalid: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata of any safetensors file; every failure is a `FormatError`."""
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
            strange = [f"{name} of dtype {kind}" for name, kind in kinds.items() if kind not in READABLE]
            if strange:
                raise FormatError(f"{path} holds {', '.join(strange)}", f"one of {', '.join(READABLE)}")
            return {name: file.get_tensor(name) for name in kinds}, file.metadata() or {}
    except FormatError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} cannot be read as a safetensors file: {error}", "a whole, readable file") from error


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], durable: bool = True
) -> None:
    """Write any safetensors file: header first, then tensor after tensor, into a file that replaces `path` when whole.

    Unless `durable`, nobody waits until the disk holds it: for files that another process reads and forgets.

    Not `safetensors.numpy.save_file`: 0.8.0 writes the raw memory of non-contiguous arrays under their logical shape,
    and it wants every tensor in memory at once.
    """
    if "__metadata__" in tensors:
        raise UnexpectedTensorError(
            "received a tensor named '__metadata__'", "another name", "safetensors keeps it for the metadata"
        )
    # Wide numbers first, as safetensors does: every tensor then starts at a multiple of its item size.
    ordered = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    header = _header({name: tensors[name] for name in ordered}, metadata)
    with _replacing(path, durable) as file:
        file.write(header)
        for name in ordered:
            file.write(_payload(tensors[name]))


def _header(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, value in tensors.items():
        kind = DTYPES.get(value.dtype.newbyteorder("="))
        if kind is None:
            raise FormatError(f"received {name} of dtype {value.dtype}", f"one of {', '.join(map(str, DTYPES))}")
        entries[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [start, start + value.nbytes]}
        start += value.nbytes
    try:
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise FormatError(
            f"received the name {error.object[error.start - 8 : error.end]!r}", "valid Unicode"
        ) from error
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _payload(value: np.ndarray) -> memoryview:
    # np.ascontiguousarray would turn 0-d into 1-d; the bytes of a 0-d array need an axis to be seen through.
    contiguous = np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C")
    return contiguous.reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def _replacing(path: Path, durable: bool) -> Iterator[BinaryIO]:
    """A new file beside `path` that takes its place when the block ends, and vanishes when the block raises.

    It has the permissions of the file that it replaces from its first byte on.
    """
    target = os.path.realpath(path)  # a link stays one, and what it points at is replaced
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        mode = stat.S_IMODE(os.stat(target).st_mode) & 0o777 if os.path.isfile(target) else None
        first = 0o666 if mode is None else mode
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, first)) as file:
            if mode is not None:
                os.chmod(temporary, mode)  # what the umask took away
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, target)
        if durable:
            _sync_folder(folder)
    except OSError as error:
        raise FormatError(f"{path} cannot be written: {error}", "a file in a writable folder") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _sync_folder(folder: str) -> None:
    if os.name != "posix":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
