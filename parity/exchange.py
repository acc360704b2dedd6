"""The weight-exchange file: the only module that touches its bytes.

One safetensors file. Tensors are named ``<block name>/<canonical parameter>``; what has no canonical meaning is
``<block name>/extras:<name>``; a recorded probe is ``<block name>/probe:input`` and ``<block name>/probe:output``, maps
(N, C, *spatial). ``__metadata__`` has one key, ``attention-parity``, whose value is one JSON text::

    {"version": 1, "blocks": {"<block name>": <the spec, as Spec.to_json gives it>, ...},
     "probes": {"<block name>": {"source": "<who computed the output>"}, ...}}

``probes`` is absent where no block has one. Canonical parameters hold no slash, so the last slash of a tensor's name
ends the block's name, which may hold some.

Tensors stream: they are written one by one, and read as views of the mapped file, so that neither side needs memory for
more than the one tensor that has to be laid out anew. A mapped file may be renamed, removed or replaced by another (as
every writer here does); one that is overwritten in place changes under its arrays, and one that is cut short ends the
process that looks at them.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import secrets
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from parity.block import Block, Probe
from parity.errors import FormatError, MissingTensorError, SpecError, UnexpectedTensorError, VersionError
from parity.spec import Spec, spec_from_json

VERSION = 1
METADATA_KEY = "attention-parity"
EXTRAS = "extras:"
PROBE = "probe:"

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

# Complex numbers are no weights, but may lie beside them.
READABLE = {name: kind for kind, name in DTYPES.items()} | {"C64": np.dtype(np.complex64)}

CACHE_LINE_BYTES = 64

Path = str | os.PathLike[str]


def write(path: Path, blocks: Block | Iterable[Block], progress: Callable[[int], None] | None = None) -> None:
    """Write `blocks` as an exchange file: the same blocks give the same bytes, and a failure leaves the old file.

    `progress` is called with the size of each tensor when it is written.

    Raises:
        SpecError: for anything but blocks.
        MissingTensorError: for no block at all.
        UnexpectedTensorError: for two blocks of one name.
        FormatError: where the file cannot be written.
    """
    blocks = checked(blocks)
    semantics: dict[str, Any] = {"version": VERSION, "blocks": {block.name: block.spec.to_json() for block in blocks}}
    probes = {block.name: {"source": block.probe.source} for block in blocks if block.probe is not None}
    semantics |= {"probes": probes} if probes else {}
    text = json.dumps(semantics, allow_nan=False, separators=(",", ":"))
    write_tensors(
        path,
        {name: value for block in blocks for name, value in _named(block)},
        {METADATA_KEY: text},
        progress=progress,
    )


def checked(blocks: Block | Iterable[Block]) -> list[Block]:
    """`blocks` as a list of at least one, of distinct names; raises what `write` tells."""
    blocks = list(blocks) if isinstance(blocks, Iterable) else [blocks]
    strange = [block for block in blocks if not isinstance(block, Block)]
    if strange:
        raise SpecError(f"received {strange[0]!r} to write", "a parity.Block, or several", "parity.read makes them")
    names = [block.name for block in blocks]
    if not names:
        raise MissingTensorError("received no block to write", "at least one")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UnexpectedTensorError(
            f"received several blocks named {', '.join(map(repr, twice))}",
            "distinct names",
            "rename with dataclasses.replace(block, name=...)",
        )
    return blocks


def _named(block: Block) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in block.tensors.items():
        yield f"{block.name}/{name}", value
    for name, value in block.extras.items():
        yield f"{block.name}/{EXTRAS}{name}", value
    if block.probe is not None:
        yield f"{block.name}/{PROBE}input", block.probe.x
        yield f"{block.name}/{PROBE}output", block.probe.output


def read(path: Path) -> list[Block]:
    """The blocks of an exchange file, in the order in which they were written.

    Their arrays are read-only views of the mapped file: reading costs no memory; copy what is to be changed.

    Raises:
        FormatError: for a file that is no exchange file, or a damaged one.
        VersionError: for one of a newer format.
        MissingTensorError, UnexpectedTensorError, TensorShapeError: where tensors and specs disagree.
    """
    return blocks_of(path, *read_tensors(path, mapped=True))


def blocks_of(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> list[Block]:
    """`read`, of a file whose tensors and metadata are read already."""
    semantics = _semantics(path, metadata)
    specs, sources = _specs(path, semantics), _sources(path, semantics)
    parts: dict[str, dict[str, dict[str, Any]]] = {name: {"": {}, EXTRAS: {}, PROBE: {}} for name in specs}
    for full_name, value in tensors.items():
        owner, slash, name = full_name.rpartition("/")
        if not slash or owner not in parts:
            raise UnexpectedTensorError(
                f"{path} holds the tensor {full_name!r} of no block", f"one of the blocks {', '.join(map(repr, specs))}"
            )
        kind = next((prefix for prefix in (EXTRAS, PROBE) if name.startswith(prefix)), "")
        parts[owner][kind][name.removeprefix(kind)] = value
    probes = {name: _probe(path, name, parts[name][PROBE], sources.get(name)) for name in specs}
    return [Block(name, spec, parts[name][""], parts[name][EXTRAS], probes[name]) for name, spec in specs.items()]


def _probe(path: Path, name: str, arrays: Mapping[str, np.ndarray], source: str | None) -> Probe | None:
    if source is None and not arrays:
        return None
    parts = {"input": "input" in arrays, "output": "output" in arrays, "source": source is not None}
    missing = [part for part, present in parts.items() if not present]
    unexpected = [f"{PROBE}{part}" for part in arrays if part not in parts or part == "source"]
    if missing or unexpected:
        faults = [f"lacks its {', '.join(missing)}"] if missing else []
        faults += [f"has the unexpected {', '.join(unexpected)}"] if unexpected else []
        kind = MissingTensorError if missing else UnexpectedTensorError
        raise kind(f"{path}: the probe of block {name!r} {' and '.join(faults)}", f"exactly {', '.join(parts)}")
    return Probe(arrays["input"], arrays["output"], str(source))


def _sources(path: Path, semantics: Mapping[str, Any]) -> dict[str, str]:
    """The source of each probe."""
    probes = semantics.get("probes", {})
    known = semantics["blocks"]
    if not isinstance(probes, dict) or not all(
        isinstance(probe, dict) and isinstance(probe.get("source"), str) and len(probe) == 1
        for probe in probes.values()
    ):
        raise FormatError(f"{path} has the 'probes' {probes!r}", "an object of {'source': <text>} by block name")
    strange = [name for name in probes if name not in known]
    if strange:
        blocks = ", ".join(map(repr, known))
        raise UnexpectedTensorError(f"{path} has probes of {', '.join(map(repr, strange))}", f"of the blocks {blocks}")
    return {name: probe["source"] for name, probe in probes.items()}


def _semantics(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if METADATA_KEY not in metadata:
        raise FormatError(
            f"{path} is a safetensors file but no exchange file",
            f"the key {METADATA_KEY!r} in its metadata",
            "parity.read reads foreign weights too, and parity.write makes exchange files",
        )
    try:
        semantics = strict_json(metadata[METADATA_KEY])
        version = semantics["version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"{path} has unreadable metadata ({error!r})", "JSON with 'version' and 'blocks'") from error
    _check_version(path, version)  # first: another version may hold anything else
    if "blocks" not in semantics:
        raise FormatError(f"{path} has unreadable metadata (no 'blocks')", "JSON with 'version' and 'blocks'")
    return semantics


def _specs(path: Path, semantics: Mapping[str, Any]) -> dict[str, Spec]:
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


def read_tensors(path: Path, mapped: bool = False) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata of any safetensors file; every failure is a `FormatError`.

    Args:
        path: the file.
        mapped: whether the arrays are read-only views of the mapped file, which cost no memory however large it is,
            rather than copies of their own.
    """
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size = int.from_bytes(data[:8], "little")
        with safe_open(os.fspath(path), framework="np") as whole:  # it proves the header, which is then only read
            kinds = {name: whole.get_slice(name).get_dtype() for name in whole.keys()}  # noqa: SIM118 (no mapping)
            metadata = whole.metadata() or {}
        strange = [f"{name} of dtype {kind}" for name, kind in kinds.items() if kind not in READABLE]
        if strange:
            raise FormatError(f"{path} holds {', '.join(strange)}", f"one of {', '.join(READABLE)}")
        header = strict_json(data[8 : 8 + size])
        views = {name: _view(data, 8 + size, header[name], kind) for name, kind in kinds.items()}
        return views if mapped else {name: view.copy() for name, view in views.items()}, metadata
    except FormatError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise FormatError(f"{path} cannot be read as a safetensors file: {error}", "a whole, readable file") from error


def strict_json(text: str | bytes) -> Any:
    """The value of a text of JSON that every reader takes for the same: no name twice, no NaN, no infinity.

    Raises:
        ValueError: for any other text.
        RecursionError: for one that is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=distinct, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, which may not name anything twice: readers differ in which of two they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"it names {name!r} twice")
    return found


def _view(data: mmap.mmap, start: int, entry: Mapping[str, Any], kind: str) -> np.ndarray:
    """One tensor of a mapped file. Its place need not be a multiple of its item size."""
    first, last = entry["data_offsets"]
    dtype, shape = READABLE[kind].newbyteorder("<"), tuple(entry["shape"])
    if last - first != dtype.itemsize * math.prod(shape):  # another file has taken the place of the one that was proved
        raise ValueError(f"{shape} of {kind} in {last - first} bytes")
    return np.ndarray(shape, dtype, data, start + first)


def write_tensors(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    durable: bool = True,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write any safetensors file: header first, then tensor after tensor, into a file that replaces `path` when whole.

    Unless `durable`, nobody waits until the disk holds it: for files that another process reads and forgets. `progress`
    is called with the size of each tensor when it is written.

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
    with replacing(path, durable) as file:
        file.write(header)
        for name in ordered:
            file.write(payload(tensors[name]))
            if progress is not None:
                progress(tensors[name].nbytes)


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


def payload(value: np.ndarray) -> memoryview:
    """The bytes of an array as the file holds them: little-endian, in C order; copied only where they lie otherwise."""
    dtype = value.dtype.newbyteorder("<")
    if not value.flags.c_contiguous or value.dtype != dtype:
        value = copy_into(np.empty(value.shape, dtype), value)
    # np.ascontiguousarray would turn 0-d into 1-d; the bytes of a 0-d array need an axis to be seen through.
    return value.reshape(-1).view(np.uint8).data


def copy_into(target: np.ndarray, value: np.ndarray) -> np.ndarray:
    """`target`, in C order, with the elements of `value`, which may be a transposed view of a file.

    The view is read in the order of its own memory, a cache line of the copy at a time: several times as fast as to
    walk through it in the order of the copy, and without a jump in a file that is not in memory yet.
    """
    steps = [abs(step) * (size > 1) for step, size in zip(value.strides, value.shape, strict=True)]
    slowest = steps.index(max(steps)) if steps else 0
    if not slowest:
        target[...] = value
        return target
    line = CACHE_LINE_BYTES // value.itemsize
    to, source = np.moveaxis(target, slowest, 0), np.moveaxis(value, slowest, 0)
    for start in range(0, len(source), line):
        to[start : start + line] = source[start : start + line]
    return target


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
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
            sync_folder(folder)
    except OSError as error:
        raise FormatError(f"{path} cannot be written: {error}", "a file in a writable folder") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def sync_folder(folder: str) -> None:
    """Wait until the disk holds the names in `folder`."""
    if os.name != "posix":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
