"""Blocks into files of every kind that others read: what would be lost is found before the first byte is written."""

from __future__ import annotations

import contextlib
import glob
import heapq
import importlib
import json
import math
import os
import re
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from parity import dialects, exchange
from parity.block import Block, same_view
from parity.dialects import Dialect, NetworkDialect
from parity.errors import BackendMissingError, DialectError, FormatError, ParityError, SpecError, UnexpectedTensorError
from parity.spec import SPECS, Spec

Path = str | os.PathLike[str]
Arrays = Mapping[str, np.ndarray]
Progress = Callable[[int], None]  # told how many bytes more have gone into the file

EXCHANGE = "exchange file"

# A part of a TensorFlow checkpoint is made in memory: this much, or the largest tensor.
PART_BYTES = 64 * 2**20

# The alignment that PyTorch and TensorFlow want in order to use an array where it lies.
ALIGNMENT = 64


@dataclass(frozen=True)
class Written:
    """What `write` did.

    Args:
        path: the file; of a TensorFlow checkpoint the prefix.
        kind: what kind of file it is, for people.
        dialects: the id of each block's dialect, by block; none in an exchange file, or through a model.
        tensors: how many there are.
        bytes: the size of the file, or files.
        hints: what `parity.read` must be told to read the same blocks back, because the file cannot tell it.
        dropped: what the file has no place for and no output depends on: extras, ``<block>/<extra>``, and probes,
            ``<block>/probe``.
    """

    path: str
    kind: str
    dialects: Mapping[str, str]
    tensors: int
    bytes: int
    hints: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [f"{self.path}, {self.kind}: {self.tensors} tensors, {self.bytes:,} bytes"]
        if self.dialects:
            parts.append(f"in the names of {', '.join(sorted(set(self.dialects.values())))}")
        if self.hints:
            parts.append(f"{json.dumps(self.hints)} is not in the file: read it back with these hints")
        if self.dropped:
            parts.append(f"without {', '.join(self.dropped)}, for which it has no place")
        return "; ".join(parts)


@dataclass(frozen=True)
class Kind:
    """A kind of file that can be written.

    Args:
        name: for people.
        pattern: of the end of its names, a regular expression.
        shown: the same for people.
        save: writes arrays by name; None where it takes a live model.
        own: the style of this project whose names blocks have where no dialect is given; "" where there is none.
    """

    name: str
    pattern: str
    shown: str
    save: Callable[[str, Arrays, Progress], None] | None
    own: str = ""


def write(
    path: Path,
    blocks: Block | Iterable[Block],
    dialect: str | Dialect | Mapping[str, str] | None = None,
    *,
    model: Any = None,
    overwrite: bool = True,
    dry_run: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Written:
    """Write `blocks` as a file of the kind that the end of `path` says.

    ``.safetensors``: without a dialect the exchange file, which carries what its weights mean; with one a plain file
    under that implementation's names. ``.pth``, ``.pt``: a PyTorch state dict. No ending, or ``.ckpt``: the prefix of a
    TensorFlow checkpoint, as ``tf.compat.v1.train.Saver`` restores it. Both take the names of a dialect, or without one
    those of `attention_torch` and `attention_tf1compat`. ``.keras``, ``.weights.h5``: through a live Keras model.

    Tensors go into the file one by one; what was there before stays until the new file is whole.

    Args:
        path: where to.
        blocks: one or several, of distinct names.
        dialect: the id of the implementation that shall read the file (`parity.dialects.DIALECTS`), or ids by block
            name (patterns as of fnmatch). It must be lossless for the block.
        model: the Keras model to load the blocks into, and then to save; for its two kinds of file alone.
        overwrite: whether an existing file is replaced.
        dry_run: whether everything is done but the writing; no model is touched, and the size is that of the tensors.
        progress: called with how many of the blocks are written, as a number that need not be whole.

    Raises:
        FormatError: for a path of no such kind, a file that exists, and where the file cannot be written.
        DialectError: where a dialect is refused, or has no room for what a block holds or computes.
        SpecError, MissingTensorError, UnexpectedTensorError: for no blocks, equal names, equal keys.

    Example:
        >>> from parity.spec import SqueezeExcitationOptions
        >>> spec = SqueezeExcitationOptions(reduction=2, bias=False, gate="hard_sigmoid").resolve(4)
        >>> block = Block("se", spec, {"fc1.kernel": np.ones((2, 4)), "fc2.kernel": np.ones((4, 2))})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(f"{folder}/a.safetensors", block, "tutorial-pytorch/SEAttention").hints["gate"]["kind"]
        'hard_sigmoid'
    """
    path, kind = _target(path, overwrite)
    blocks = exchange.checked(blocks)
    if (model is None) == (kind.save is None):
        raise _model_error(path, kind)
    if kind.save is None and dialect is not None:
        raise DialectError(f"received a dialect for {path}", "none: the model says how it names its weights")
    if dialect is None and kind.own:
        forms = [_own_form(block, kind.own) for block in blocks]
    else:
        forms = [] if dialect is None else [_form(block, one) for block, one in _dialects(blocks, dialect)]
    size = sum(value.nbytes for block in blocks for value in (*block.tensors.values(), *block.extras.values()))
    saved = _saver(path, kind, blocks, forms, model)
    if not dry_run:
        saved(_counting(progress, len(blocks), size))
        size = sum(map(os.path.getsize, _files(path, kind)))
    used = {form.block.name: form.dialect.id for form in forms}
    homeless = [f"{form.block.name}/{name}" for form in forms for name in form.dropped]
    count = sum(len(block.tensors) + len(block.extras) for block in blocks) - len(homeless)
    if _is_exchange(kind, forms):
        return Written(path, EXCHANGE, used, count, size)
    homeless += [f"{block.name}/probe" for block in blocks if block.probe is not None]
    return Written(path, kind.name, used, count, size, _hints(forms), tuple(homeless))


def _saver(path: str, kind: Kind, blocks: list[Block], forms: list[Form], model: Any) -> Callable[[Progress], None]:
    """What writes the file; every check is done before it is called."""
    save = kind.save
    if save is None:
        _check_model(model)
        return lambda wrote: _save_keras(path, blocks, model, wrote)
    if _is_exchange(kind, forms):
        return lambda wrote: exchange.write(path, blocks, wrote)
    state = _joined(forms)
    return lambda wrote: save(path, state, wrote)


def _is_exchange(kind: Kind, forms: list[Form]) -> bool:
    return kind.save is _save_safetensors and not forms


def _counting(progress: Callable[[float], None] | None, blocks: int, size: int) -> Progress:
    """A function that adds up bytes and tells them as a number of blocks."""
    done = 0

    def wrote(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(blocks * min(1.0, done / max(1, size)))

    return wrote


# Where to


def check_target(path: Path, overwrite: bool = True) -> None:
    """Raise the `FormatError` that `write` would raise for `path`, before the work."""
    _target(path, overwrite)


def _target(path: Path, overwrite: bool) -> tuple[str, Kind]:
    """The path as text, and the kind of file that it names; everything about it that can be wrong is found here."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str) or "\0" in os.fspath(path):
        raise FormatError(f"received {path!r} as a path", "a string or a pathlib.Path")
    path = os.fspath(path)
    kind = next((kind for kind in KINDS if re.search(rf"{kind.pattern}\Z", os.path.basename(path).lower())), None)
    if os.path.isdir(path) or not os.path.basename(path):
        raise FormatError(f"{path} cannot be written: it is a folder", "the name of a file")
    if kind is None:
        known = "; ".join(f"{kind.shown} for a {kind.name}" for kind in KINDS)
        raise FormatError(f"received {path}, which can be no file to write", f"one of: {known}")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise FormatError(f"{path} cannot be written: {os.path.dirname(path)} is no folder", "a file in a folder")
    if not overwrite and _files(path, kind):
        raise FormatError(f"{path} exists", "a new file", "choose another path, or allow it to be overwritten")
    return path, kind


def _files(path: str, kind: Kind) -> list[str]:
    """The files of that name which exist: one, or those of a TensorFlow checkpoint."""
    if kind.save is _save_tf1:
        return _checkpoint_files(path)
    return [path] if os.path.lexists(path) else []


def _checkpoint_files(prefix: str) -> list[str]:
    folder, name = os.path.split(prefix)
    parts = re.compile(re.escape(name) + r"\.(index|data-\d{5}-of-\d{5})")
    return [os.path.join(folder, entry) for entry in sorted(os.listdir(folder or ".")) if parts.fullmatch(entry)]


def _model_error(path: str, kind: Kind) -> FormatError:
    if kind.save is None:
        return FormatError(
            f"received {path}, a {kind.name}, without a model",
            "model=, a Keras model that holds these blocks",
            "build one with attention_keras; the file holds all of its weights",
        )
    return FormatError(
        f"received a model for {path}, a {kind.name}", "a .keras or .weights.h5 file", "leave model= out"
    )


# Dialects


@dataclass(frozen=True, eq=False)
class Form:
    """A block in the names and layouts of a dialect, proved to lose nothing but what it tells.

    Args:
        hints: the fields of the spec that its reader must be told.
        dropped: the extras for which it has no key.
    """

    block: Block
    dialect: Dialect
    state: Arrays
    hints: Mapping[str, Any]
    dropped: tuple[str, ...]


def _dialects(blocks: list[Block], given: Any) -> list[tuple[Block, Dialect]]:
    """Each block with its dialect."""
    if not isinstance(given, Mapping):
        return [(block, dialects.get(given)) for block in blocks]
    known = {name: dialects.get(one) for name, one in given.items()}
    fitting = {block.name: [name for name in known if fnmatchcase(block.name, name)] for block in blocks}
    idle = [name for name in known if not any(name in names for names in fitting.values())]
    if idle:
        names = ", ".join(map(repr, fitting))
        raise DialectError(f"received a dialect for {', '.join(map(repr, idle))}", f"for one of the blocks {names}")
    for name, patterns in fitting.items():
        ids = sorted({known[pattern].id for pattern in patterns})
        if len(ids) != 1:
            raise DialectError(f"received {' and '.join(ids) or 'no dialect'} for the block {name!r}", "one dialect")
    return [(block, known[fitting[block.name][0]]) for block in blocks]


def _own_form(block: Block, style: str) -> Form:
    """The block in the names that a model of this project's `style` has for it."""
    parameters = set(block.spec.parameters())
    for dialect in dialects.DIALECTS.values():
        rows = {tensor.canonical: tensor.optional for tensor in dialect.tensors if not tensor.extra}
        needed = {name for name, optional in rows.items() if not optional}
        if (
            dialect.id.startswith(f"{style}/")
            and dialect.block == block.spec.block
            and needed <= parameters <= set(rows)
        ):
            return _form(replace(block, name=_own_name(block.name, dialect.separator)), dialect)
    raise DialectError(f"received block {block.name!r} of kind {block.spec.block!r}", f"one that {style} has names for")


def _own_name(name: str, separator: str) -> str:
    """The path of a module or scope; a name that has its separator may hold the other framework's as well."""
    return name if separator in name else name.replace("/" if separator == "." else ".", separator)


def _form(block: Block, dialect: Dialect) -> Form:
    where = f"block {block.name!r} as {dialect.id}"
    if dialect.refused:
        raise DialectError(f"{where} is refused: {dialect.refused}", remedy="choose another dialect, or none")
    if block.spec.block != dialect.block:
        raise DialectError(f"{where}: received a block of kind {block.spec.block!r}", f"{dialect.block!r}")
    network = dialect if isinstance(dialect, NetworkDialect) else None
    if network:
        dialect = network.table(block.spec)
    else:
        _check_facts(where, block.spec, dialect)
    rows = {tensor.canonical for tensor in dialect.tensors if tensor.extra}
    extras = {name: value for name, value in block.extras.items() if name in rows}
    prefix, star = _place(block.name, dialect)
    try:
        state = dialects.from_canonical(dialect, block.tensors, extras, star=star, spec=block.spec)
        back = dialects.to_canonical(dialect, state)
    except (ParityError, IndexError, ValueError) as error:  # of a layout that has no room for a tensor of this rank
        raise DialectError(f"{where} does not work out: {error}") from error
    keys = {tensor.key.replace("*", star): tensor for tensor in dialect.tensors}
    missing = [key for key, tensor in keys.items() if not tensor.optional and key not in state]
    if missing:
        raise DialectError(f"{where} lacks {', '.join(missing)}", "a block that has all tensors of its implementation")
    for part, expected in zip(back, (block.tensors, extras), strict=True):
        lost = [name for name in expected if name not in part or not _same(part[name], expected[name])]
        if lost:
            raise DialectError(f"{where} would not give {', '.join(lost)} back", "tensors for which it has room")
    dropped = tuple(name for name in block.extras if name not in extras)
    keyed = {f"{prefix}{key}": value for key, value in state.items()}
    shapes = {key: value.shape for key, value in state.items()}
    hints = network.hints(block.spec, shapes) if network else _hidden(where, block.spec, dialect)
    return Form(block, dialect, keyed, hints, dropped)


def _place(name: str, dialect: Dialect) -> tuple[str, str]:
    """The prefix of a block's keys, and the text of the star in them: the last part of its name, where there is one."""
    if any("*" in tensor.key for tensor in dialect.tensors):
        end = max(name.rfind("."), name.rfind("/")) + 1
        return name[:end], name[end:]
    return f"{name}{dialect.separator}" if name else "", ""


def _check_facts(where: str, spec: Spec, dialect: Dialect) -> None:
    """Raise `DialectError` where the code of `dialect` computes something else than `spec` says."""
    try:
        fixed = type(spec).from_json({**spec.to_json(), **dialect.facts})
        differences = spec.differences(fixed)
    except SpecError as error:
        raise DialectError(f"{where} does not work out: {error}", "a block that computes what its code does") from error
    if differences:
        raise DialectError(f"{where} would compute something else (block, {dialect.id}): {'; '.join(differences)}")


def _hidden(where: str, spec: Spec, dialect: Dialect) -> dict[str, Any]:
    """The fields of `spec` that weights in `dialect` do not tell, where they are not its defaults, or are asked for."""
    shapes, now = spec.parameters(), spec.to_json()
    facts = {**dialect.facts, **{name: now[name] for name in dialect.sizes.values()}}
    read = _inferred(where, spec, shapes, {**dialect.defaults, **facts}).to_json()
    told = {
        name: value
        for name, value in now.items()
        if name in dialect.asked or (name in dialect.defaults and value != read[name])
    }
    differences = spec.differences(_inferred(where, spec, shapes, {**dialect.defaults, **told, **facts}))
    if differences:
        fields = "; ".join(differences)
        raise DialectError(
            f"{where} would compute something else (block, {dialect.id}): {fields}", "a block that agrees"
        )
    return told


def _inferred(where: str, spec: Spec, shapes: Mapping[str, tuple[int, ...]], facts: Mapping[str, Any]) -> Spec:
    try:
        return SPECS[spec.block].infer(shapes, **facts)
    except SpecError as error:
        raise DialectError(f"{where} does not work out: {error}", "a block that computes what its code does") from error


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal bit for bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    # Layouts are views: what is the same need not be looked at, however much it is.
    return same_view(a, b) or np.asarray(a, order="C").tobytes() == np.asarray(b, order="C").tobytes()


def _hints(forms: Sequence[Form]) -> dict[str, Any]:
    """What `parity.read` must be told: fields where all blocks want the same, else fields by block."""
    if all(form.hints == forms[0].hints for form in forms):
        return dict(forms[0].hints) if forms else {}
    return {glob.escape(form.block.name): dict(form.hints) for form in forms if form.hints}


def _joined(forms: Iterable[Form]) -> dict[str, np.ndarray]:
    """All arrays by key; `UnexpectedTensorError` where two have one."""
    joined: dict[str, np.ndarray] = {}
    owners: dict[str, str] = {}
    for form in forms:
        for key, value in form.state.items():
            if key in joined:
                raise UnexpectedTensorError(
                    f"received the blocks {owners[key]!r} and {form.block.name!r}, which both have the key {key!r}",
                    "distinct keys",
                    "rename with dataclasses.replace(block, name=...)",
                )
            joined[key], owners[key] = value, form.block.name
    return joined


# Files


def _save_safetensors(path: str, state: Arrays, wrote: Progress) -> None:
    exchange.write_tensors(path, state, {}, progress=wrote)


def _save_torch(path: str, state: Arrays, wrote: Progress) -> None:
    torch = _library(path, "torch", "torch")
    with _explained(path), exchange.replacing(path) as file:
        arrays = _contiguous(state, os.path.dirname(os.path.realpath(path)))
        tensors = OrderedDict((key, _torch_tensor(torch, value)) for key, value in arrays.items())
        torch.save(tensors, _Counted(file, wrote))  # not by its name, which PyTorch would write into the file


class _Counted:
    """A file to write that tells how much was written."""

    def __init__(self, file: BinaryIO, wrote: Progress) -> None:
        self._file, self._wrote = file, wrote

    def write(self, data: Any) -> int:
        count = self._file.write(data)
        self._wrote(count)
        return count

    def flush(self) -> None:
        self._file.flush()


def _torch_tensor(torch: Any, value: np.ndarray) -> Any:
    """A PyTorch tensor over the memory of `value`."""
    if not value.size:  # no element has an address, but it may be that of another tensor's first, which PyTorch refuses
        value = value.copy()
    bits = value.view(np.uint16) if value.dtype == ml_dtypes.bfloat16 else value
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # nobody writes into it
        tensor = torch.from_numpy(bits)
    return tensor.view(torch.bfloat16) if value.dtype == ml_dtypes.bfloat16 else tensor


def _contiguous(arrays: Arrays, folder: str) -> dict[str, np.ndarray]:
    """`arrays` in C order, for a writer that wants all of them at once.

    What needs a copy is written to a nameless file in `folder` and mapped, so that it costs no memory.
    """
    odd = {name: value for name, value in arrays.items() if not value.flags.c_contiguous}
    mapped: dict[str, np.ndarray] = {}
    with tempfile.TemporaryFile(dir=folder) as file:
        for name, value in odd.items():
            start = file.seek(math.ceil(file.tell() / ALIGNMENT) * ALIGNMENT)
            file.write(exchange.payload(value))
            file.flush()
            mapped[name] = np.memmap(file, value.dtype, "r", start, value.shape)
    return {name: mapped.get(name, value) for name, value in arrays.items()}


def _save_tf1(path: str, state: Arrays, wrote: Progress) -> None:
    tf = _library(path, "tensorflow", "tf1")
    old = _checkpoint_files(path)
    parts = _parts(state, {int(file[-5:]) for file in old if not file.endswith(".index")})
    with _explained(path), _staging(path) as stage:
        prefixes = [os.path.join(stage, f"part{number}") for number in range(len(parts))]
        for prefix, names in zip(prefixes, parts, strict=True):
            _save_part(tf, prefix, {name: state[name] for name in names})
            wrote(sum(state[name].nbytes for name in names))
        whole = os.path.join(stage, os.path.basename(path))
        _run_tf(
            tf,
            tf.raw_ops.MergeV2Checkpoints,
            checkpoint_prefixes=prefixes,
            destination_prefix=whole,
            delete_old_dirs=False,
        )
        _publish_checkpoint(path, _checkpoint_files(whole), old)


def _parts(state: Arrays, taken: Iterable[int]) -> list[list[str]]:
    """The names in `state`, dealt out to as many parts as their size asks for.

    A part becomes a file whose name tells their number. One that is not `taken` by the checkpoint to be replaced lets
    both stand side by side until the index is renamed; only where a lone tensor replaces a lone file is there none.
    """
    wanted = max(1, math.ceil(sum(value.nbytes for value in state.values()) / PART_BYTES))
    wanted = min(wanted, len(state))
    counts = [*range(wanted, len(state) + 1), *range(wanted - 1, 0, -1)]
    count = next((count for count in counts if count not in set(taken)), wanted)
    parts: list[tuple[int, int, list[str]]] = [(0, number, []) for number in range(count)]
    for name in sorted(state, key=lambda name: -state[name].nbytes):  # the largest first, each to the emptiest part
        size, number, names = parts[0]
        # At least one byte: TensorFlow refuses a part without tensors.
        heapq.heapreplace(parts, (size + max(1, state[name].nbytes), number, [*names, name]))
    return [names for _, _, names in sorted(parts, key=lambda part: part[1])]


def _save_part(tf: Any, prefix: str, state: Arrays) -> None:
    arrays = [_aligned(value) for value in state.values()]
    names, whole = list(state), [""] * len(arrays)
    _run_tf(tf, tf.raw_ops.SaveV2, arrays, prefix=prefix, tensor_names=names, shape_and_slices=whole)


def _run_tf(tf: Any, operation: Callable[..., Any], arrays: Sequence[np.ndarray] = (), **attributes: Any) -> None:
    """Run one operation in a graph of its own: users of TensorFlow 1 have turned eager execution off."""
    with tf.Graph().as_default() as graph, tf.device("/CPU:0"):
        tensors = [tf.compat.v1.placeholder(value.dtype, value.shape) for value in arrays]
        target = operation(**attributes, **({"tensors": tensors} if tensors else {}))
    with tf.compat.v1.Session(graph=graph, config=tf.compat.v1.ConfigProto(device_count={"GPU": 0})) as session:
        session.run(target, dict(zip(tensors, arrays, strict=True)))


def _aligned(value: np.ndarray) -> np.ndarray:
    """`value` in C order, where TensorFlow uses it as it lies; it would copy what we have just copied."""
    if value.flags.c_contiguous and value.ctypes.data % ALIGNMENT == 0:
        return value
    room = np.empty(value.nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return exchange.copy_into(room[start : start + value.nbytes].view(value.dtype).reshape(value.shape), value)


def _publish_checkpoint(path: str, new: list[str], old: list[str]) -> None:
    """Put the files of a whole checkpoint in their places: the index last, which makes them one."""
    folder = os.path.dirname(path)
    index, *data = sorted(new, key=lambda file: not file.endswith(".index"))
    targets = {file: os.path.join(folder, os.path.basename(file)) for file in (*data, index)}
    if set(targets.values()) & set(old) - {f"{path}.index"}:
        _remove([f"{path}.index"])  # the same name: rather none for a moment than the one's numbers under the other's
    try:
        for file, target in targets.items():
            _move(file, target)
    except BaseException:
        _remove(target for target in targets.values() if target not in old)
        raise
    _remove(file for file in old if file not in targets.values())
    exchange.sync_folder(folder or ".")


def _save_keras(path: str, blocks: list[Block], model: Any, wrote: Progress) -> None:
    from parity.loading import load_into

    load_into(model, blocks)
    with _explained(path), _staging(path) as stage:
        file = os.path.join(stage, os.path.basename(path))
        (model.save if path.lower().endswith(".keras") else model.save_weights)(file)
        wrote(os.path.getsize(file))
        _move(file, os.path.realpath(path))
        exchange.sync_folder(os.path.dirname(os.path.realpath(path)))


def _check_model(model: Any) -> None:
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise FormatError(f"received a {kind} as the model", "a keras.Model", "parity.load_into takes any model")


def _library(path: str, name: str, extra: str) -> Any:
    """The library that writes such files, imported only now."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendMissingError(
            f"received {path} to write, but {name} is not installed", remedy=f"pip install 'attention-parity[{extra}]'"
        ) from error


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """What a library raises while it writes, most often for a full disk, as a `FormatError`."""
    try:
        yield
    except ParityError:
        raise
    except Exception as error:
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FormatError(
            f"{path} cannot be written: {what}", "a file in a writable folder with room for it"
        ) from error


@contextlib.contextmanager
def _staging(path: str) -> Iterator[str]:
    """A folder beside `path`, for a library that writes files by their names."""
    folder, name = os.path.split(os.path.realpath(path))
    with tempfile.TemporaryDirectory(prefix=f".{name}.", suffix=".tmp", dir=folder) as stage:
        yield stage


def _move(file: str, target: str) -> None:
    """Put a whole file in the place of `target`, with the permissions of what was there."""
    with open(file, "rb") as written:
        os.fsync(written.fileno())
    if os.path.isfile(target):
        os.chmod(file, os.stat(target).st_mode & 0o777)
    os.replace(file, target)


def _remove(files: Iterable[str]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            os.unlink(file)


KINDS = (
    Kind("safetensors file", r"\.safetensors", ".safetensors", _save_safetensors),
    Kind("PyTorch checkpoint", r"\.(pth|pt)", ".pth or .pt", _save_torch, "attention_torch"),
    Kind("Keras archive", r"\.keras", ".keras", None),
    Kind("Keras weights file", r"\.weights\.h5", ".weights.h5", None),
    Kind("TensorFlow checkpoint", r"(^[^.]+|\.ckpt(-\d+)?)", ".ckpt or no ending", _save_tf1, "attention_tf1compat"),
)
