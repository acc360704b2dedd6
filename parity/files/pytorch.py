"""PyTorch checkpoints: tensors by name, read without PyTorch and without running anything that they name.

A checkpoint is a pickle, which is a program. This reader follows the few instructions that build dictionaries and
tensors and calls nothing: a function that the program names is a word to it. Words that it does not know are refused.
The numbers lie beside the pickle, in the zip archive of ``torch.save`` or behind each other in the files of PyTorch
before 1.6, and come back as views of the mapped file.
"""

from __future__ import annotations

import io
import math
import pickletools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from reprlib import Repr
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from parity.errors import FormatError
from parity.files import Contents
from parity.files._map import mapped, tensor
from parity.files._zip import members, place

KIND = "PyTorch checkpoint"
REMEDY = "save model.state_dict() alone: torch.save(model.state_dict(), path)"

# A state of a hundred thousand tensors takes three million instructions.
MAX_INSTRUCTIONS = 10_000_000
MAX_PICKLE_BYTES = 1 << 28
MAX_NAME_BYTES = 1 << 26  # of all names together: a pickle may hold one text and use it often
MAX_WORD_BYTES = 256  # the longest known name has 51
MAX_IDENTITY = 6  # the parts that tell a storage
MAX_DEPTH = 16
MAX_RANK = 64

# For messages: short, however large a thing the pickle has built of itself.
SHORT = Repr()
SHORT.maxlevel = 2

# What opens a file of PyTorch before 1.6: a number, then the version of the format.
MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001

DTYPES = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
    "ComplexDouble": np.complex128,
    "ComplexFloat": np.complex64,
    "Untyped": np.uint8,
    # Quantised numbers, which no tensor here is made of; the name of the tensor is told.
    "QInt8": np.int8,
    "QInt32": np.int32,
    "QUInt8": np.uint8,
    "QUInt4x2": np.uint8,
    "QUInt2x4": np.uint8,
}
STORAGES = {f"torch.{kind}Storage": np.dtype(dtype) for kind, dtype in DTYPES.items()} | {
    f"torch.cuda.{kind}Storage": np.dtype(dtype) for kind, dtype in DTYPES.items()
}
STORAGES["torch.storage.UntypedStorage"] = np.dtype(np.uint8)

# Kinds of numbers that have no storage class of their own; the ones above have these names too.
NUMBERS = {
    "torch.uint16": np.uint16,
    "torch.uint32": np.uint32,
    "torch.uint64": np.uint64,
    "torch.float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "torch.float8_e5m2": ml_dtypes.float8_e5m2,
    "torch.float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "torch.float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "torch.float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
}

# What training scripts keep beside the weights. Nothing of it is made; it is passed over.
HARMLESS = {
    "_codecs.encode",
    "argparse.Namespace",
    "collections.Counter",
    "collections.defaultdict",
    "collections.deque",
    "copyreg._reconstructor",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "datetime.timezone",
    "numpy.dtype",
    "numpy.ndarray",
    "torch.Generator",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.per_channel_affine",
    "torch.per_channel_affine_float_qparams",
    "torch.per_channel_symmetric",
    "torch.per_tensor_affine",
    "torch.per_tensor_symmetric",
    "torch.nn.parameter.Buffer",
    "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
    "torch.torch_version.TorchVersion",
    "types.SimpleNamespace",
    *(f"builtins.{name}" for name in ("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int")),
    *(f"builtins.{name}" for name in ("list", "object", "range", "set", "slice", "str", "tuple")),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath")),
    *(f"pathlib.{name}" for name in ("PureWindowsPath", "_local.Path", "_local.PosixPath", "_local.WindowsPath")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
}
HARMLESS_MODULES = ("numpy.dtypes.",)

# Names that Python 2 gave to modules.
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def shown(value: Any) -> str:
    """`value` for a message."""
    try:
        return SHORT.repr(value)
    except ValueError:  # Python does not write numbers of more than some thousand digits
        return f"a great {type(value).__name__}"


@dataclass(frozen=True)
class Word:
    """A function or a class that the pickle names: only its name."""

    name: str


@dataclass(frozen=True, eq=False)
class Thing:
    """An object that is no dictionary and no tensor; nothing is known of it but what it would have been."""

    kind: str


@dataclass(frozen=True, eq=False)
class Storage:
    """The numbers that tensors are views of, by their key in the file; `start` counts them."""

    dtype: np.dtype
    key: str
    count: int
    start: int = 0


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor: its place in a storage, and what its numbers are."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True, eq=False)
class Strange:
    """A tensor that is no plain array of numbers; `by` is what makes it so, and shown only where it is told of."""

    kind: str
    by: Any = None


Bytes = Callable[[Storage], np.ndarray]  # the bytes of a storage


def read(path: str) -> Contents:
    """The named tensors of a PyTorch checkpoint, as views of the mapped file.

    Of a checkpoint of several parts (weights, optimizer, epoch) those are taken that hold weights: the names of the
    only one as they are, those of several after the part's own: ``ema.conv.weight``.

    Raises:
        FormatError: for a damaged file, one that names code, a whole module, a TorchScript archive, and for tensors
            that are no plain arrays (quantised, sparse, without data, of other classes).
    """
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        root, storage_bytes = (_zipped if is_zip else _legacy)(path, file)
    return Contents(KIND, {name: _array(path, name, part, storage_bytes) for name, part in _named(path, root).items()})


# The two layouts of files


def _zipped(path: str, file: BinaryIO) -> tuple[Any, Bytes]:
    found = members(path, file)
    pickles = [name for name in found if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        held = ", ".join(list(found)[:8])
        raise FormatError(f"{path} is a zip archive of {held}", "data.pkl, as torch.save writes it")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in found:
        raise FormatError(
            f"{path} is a TorchScript archive", "a checkpoint", "save torch.jit.load(path).state_dict() with torch.save"
        )
    data = mapped(path)

    def member(name: str) -> np.ndarray:
        if name not in found:
            raise FormatError(f"{path} does not hold {name!r}", "a whole file")
        start = place(path, file, found[name])
        return data[start : start + found[name].file_size]

    order = member(f"{folder}byteorder").tobytes() if f"{folder}byteorder" in found else b"little"
    if order not in (b"little", b"big"):
        raise FormatError(f"{path} has the byte order {order[:16]!r}", "'little' or 'big'")
    if found[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise FormatError(f"{path} has a pickle of {found[pickles[0]].file_size} bytes", f"at most {MAX_PICKLE_BYTES}")
    root = _run(path, _Limited(io.BytesIO(member(pickles[0]).tobytes())), ">" if order == b"big" else "<")
    # The places are found now, while the file is open.
    places = {name: member(name) for name in found if name.startswith(f"{folder}data/")}

    def storage_bytes(storage: Storage) -> np.ndarray:
        if (name := f"{folder}data/{storage.key}") not in places:
            raise FormatError(f"{path} does not hold {name!r}", "a whole file")
        return places[name]

    return root, storage_bytes


def _legacy(path: str, file: BinaryIO) -> tuple[Any, Bytes]:
    if file.read(262)[257:] == b"ustar":
        raise FormatError(
            f"{path} is a tar archive of PyTorch 0.1",
            "a checkpoint of PyTorch 0.2 or later",
            "load it with torch.load where you trust it, and save model.state_dict() anew",
        )
    file.seek(0)
    stream = _Limited(file)
    if _run(path, stream) != MAGIC or _run(path, stream) != LEGACY_VERSION:
        raise FormatError(f"{path} is a pickle, but none that torch.save wrote", "a PyTorch checkpoint", REMEDY)
    system = _run(path, stream)
    order = ">" if isinstance(system, dict) and system.get("little_endian") is False else "<"
    storages: dict[str, Storage] = {}
    root = _run(path, stream, order, storages)
    data, places = mapped(path), {}
    keys, start = _run(path, stream), file.tell()
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key not in storages or start + 8 > len(data):
            raise FormatError(f"{path} ends before the storage {shown(key)}, or has no use for it", "a whole file")
        end = start + 8 + int.from_bytes(data[start : start + 8].tobytes(), "little") * storages[key].dtype.itemsize
        places[key] = data[start + 8 : end]
        start = end

    def storage_bytes(storage: Storage) -> np.ndarray:
        if storage.key not in places:
            raise FormatError(f"{path} does not hold the storage {storage.key!r}", "a whole file")
        return places[storage.key]

    return root, storage_bytes


class _Limited:
    """A file that gives no more at once than it has, nor than a pickle may have."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, start = file, file.tell()
        self.most = min(MAX_PICKLE_BYTES, file.seek(0, io.SEEK_END))
        file.seek(start)

    def read(self, count: int) -> bytes:
        if count > self.most:  # Python makes room for all that is asked for before it reads
            raise ValueError(f"a text of {count} bytes")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline(MAX_PICKLE_BYTES)

    def tell(self) -> int:
        return self.file.tell()


# The pickle


def _run(path: str, stream: _Limited, order: str = "<", storages: dict[str, Storage] | None = None) -> Any:
    """What one pickle describes, in dictionaries, lists, texts, numbers, tensors and things."""
    machine = _Machine(path, order, {} if storages is None else storages)
    try:
        # It wants a file of the standard library, and uses these methods alone.
        for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.count(1)
            machine.follow(opcode.name, argument)
    except FormatError:
        raise
    # What a pickle can do wrong: jumble its stack, name what is not there, take one kind of thing for another.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}"[:400]) from error
    raise _damaged(path, "it does not end")


def _damaged(path: str, reason: str) -> FormatError:
    return FormatError(f"{path} cannot be read as a pickle of tensors: {reason}", "a whole, undamaged file")


class _Machine:
    """The state of a pickle that is followed: its stack, the marks in it, and what it remembers by number."""

    def __init__(self, path: str, order: str, storages: dict[str, Storage]) -> None:
        self.path, self.order, self.storages = path, order, storages
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memory: dict[int, Any] = {}
        self.steps = 0

    def count(self, steps: int) -> None:
        """Count instructions, and what takes as long."""
        self.steps += steps
        if self.steps > MAX_INSTRUCTIONS:
            raise ValueError(f"more than {MAX_INSTRUCTIONS} instructions")

    def follow(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memory[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memory[len(self.memory)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memory[argument])
        elif name == "GLOBAL":
            self.stack.append(self.word(*argument.split(" ", 1)))
        elif name not in ("PROTO", "FRAME"):
            instruction = getattr(self, f"do_{name.lower()}", None)
            if instruction is None:
                raise ValueError(f"the instruction {name}")
            instruction()

    def taken(self) -> list[Any]:
        """Everything above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def do_mark(self) -> None:
        self.marks.append(len(self.stack))

    def do_pop(self) -> None:
        self.stack.pop()

    def do_pop_mark(self) -> None:
        self.taken()

    def do_dup(self) -> None:
        self.stack.append(self.stack[-1])

    def do_list(self) -> None:
        self.stack.append(self.taken())

    do_frozenset = do_list  # nothing here needs sets to be sets

    def do_tuple(self) -> None:
        self.stack.append(tuple(self.taken()))

    def do_dict(self) -> None:
        items = self.taken()
        self.stack.append({})
        self.fill(items)

    def do_tuple1(self) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def do_tuple2(self) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def do_tuple3(self) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def do_append(self) -> None:
        self.extend([self.stack.pop()])

    def do_appends(self) -> None:
        self.extend(self.taken())

    do_additems = do_appends

    def extend(self, items: Any) -> None:
        if isinstance(self.stack[-1], Thing):
            return
        self.stack[-1].extend(items)

    def do_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.fill([key, value])

    def do_setitems(self) -> None:
        self.fill(self.taken())

    def fill(self, items: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, Thing):
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Names alone matter; the number of a parameter in an optimizer must not become one. Other keys are not
            # looked into: a deeply nested tuple cannot be hashed.
            target[key if isinstance(key, str) else Thing("key")] = value

    def word(self, module: str, name: str) -> Word:
        """The function or class `name` of `module`, if it is one of those that checkpoints name."""
        if len(module) + len(name) > MAX_WORD_BYTES:  # one text may be named again and again
            raise ValueError(f"the function {shown(name)} of {shown(module)}")
        full = f"{RENAMED.get(module, module)}.{name}"
        is_known = full in MAKERS or full in STORAGES or full in NUMBERS or full in HARMLESS
        if not is_known and not full.startswith(HARMLESS_MODULES) and not _is_number(full):
            raise FormatError(
                f"{self.path} names {full}, which a reader of tensors does not run or make", "tensors by name", REMEDY
            )
        return Word(full)

    def do_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError(f"the function {shown(name)} of {shown(module)}")
        self.stack.append(self.word(module, name))

    def do_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.made(function, arguments))

    do_newobj = do_reduce

    def do_newobj_ex(self) -> None:
        self.stack.pop()
        self.do_reduce()

    def do_obj(self) -> None:
        function, *arguments = self.taken()
        self.stack.append(self.made(function, tuple(arguments)))

    def do_build(self) -> None:
        self.stack.pop()  # the attributes of an object, which nobody looks at

    def made(self, function: Any, arguments: Any) -> Any:
        """What calling `function` would make, told without calling it."""
        if not isinstance(function, Word) or not isinstance(arguments, tuple):
            raise ValueError("a call of no function")
        self.count(len(arguments))  # they are handed over one by one, and may be used again and again
        maker = MAKERS.get(function.name)
        return maker(self, *arguments) if maker else Thing(function.name)

    def do_binpersid(self) -> None:
        identity = self.stack.pop()
        if len(identity) > MAX_IDENTITY:
            raise ValueError(f"the storage {shown(identity)}")
        kind, storage_type, key, _, count, *view = identity
        if kind != "storage" or not isinstance(storage_type, Word) or storage_type.name not in STORAGES:
            raise FormatError(f"{self.path} names {shown(kind)} {shown(storage_type)}", "storages of numbers", REMEDY)
        start = 0
        if view and view[0] is not None:  # a part of another storage, in files of old
            _, start, count = view[0]
        if not isinstance(key, str) or not _are_counts(count, start):
            raise ValueError(f"the storage {shown(key)} of {shown(count)} numbers")
        storage = Storage(STORAGES[storage_type.name].newbyteorder(self.order), key, count, start)
        self.storages.setdefault(key, storage)
        self.stack.append(storage)


LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}


def _is_number(name: str) -> bool:
    """Whether `name` is a kind of number, a memory layout or a scheme of quantisation: words without a meaning here."""
    module, _, kind = name.rpartition(".")
    return module == "torch" and kind.rstrip("0123456789") in WORDS


WORDS = {"float", "bfloat", "half", "double", "int", "uint", "long", "short", "bool", "complex", "cfloat", "cdouble"}


# What the functions make that a checkpoint names


def _ordered_dict(machine: _Machine, pairs: Any = ()) -> dict[str, Any]:
    machine.count(len(pairs))  # the same ones may be used again and again
    return {key: value for key, value in pairs if isinstance(key, str)}


def _tensor(machine: _Machine, storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> Tensor | Strange:
    # requires_grad, hooks, and a dictionary that says whether the numbers are to be conjugated or negated
    if len(more) > 2 and more[2]:
        return Strange("lazily changed", more[2])
    return _typed_tensor(machine, storage, offset, shape, strides, storage.dtype)


def _tensor_of_kind(
    machine: _Machine, storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, kind: Any, *more: Any
) -> Tensor | Strange:
    if kind.name not in NUMBERS:
        return Strange(f"of {kind.name}")
    return _typed_tensor(
        machine, storage, offset, shape, strides, np.dtype(NUMBERS[kind.name]).newbyteorder(machine.order)
    )


def _typed_tensor(machine: _Machine, storage: Any, offset: Any, shape: Any, strides: Any, dtype: np.dtype) -> Tensor:
    is_whole = len(shape) == len(strides) <= MAX_RANK and _are_counts(offset, *shape, *strides)
    if not isinstance(storage, Storage) or not is_whole:
        raise ValueError(f"a tensor of shape {shown(shape)} and strides {shown(strides)} at {shown(offset)}")
    return Tensor(storage, offset, tuple(shape), tuple(strides), dtype)


def _are_counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value <= sys.maxsize for value in values)


def _of_class(machine: _Machine, function: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    if kind.name in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"):
        return machine.made(function, arguments)
    return Strange(f"of class {kind.name}")


def _same(machine: _Machine, value: Any, *more: Any) -> Any:
    return value


def _strange(kind: str) -> Callable[..., Strange]:
    return lambda *arguments: Strange(kind)


MAKERS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda machine, factory=None: {},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_kind,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch._tensor._rebuild_from_type_v2": _of_class,
    "torch._utils._rebuild_qtensor": _strange("quantised"),
    "torch._utils._rebuild_sparse_tensor": _strange("sparse"),
    "torch._utils._rebuild_meta_tensor_no_storage": _strange("without data (on the meta device)"),
    "torch._utils._rebuild_nested_tensor": _strange("nested"),
    "torch._utils._rebuild_wrapper_subclass": _strange("of a class of its own"),
    "torch._utils._rebuild_device_tensor_from_numpy": _strange("of a device that is no GPU"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _strange("of a device that is no GPU"),
}


# Names


def _named(path: str, root: Any) -> dict[str, Tensor | Strange]:
    """The tensors by name, of all mappings that hold weights."""
    if not isinstance(root, dict):
        raise FormatError(f"{path} holds {_kind(root)}", "tensors by name", REMEDY)
    parts = _parts(root)
    if not parts:
        raise FormatError(f"{path} holds no named tensor", "tensors by name", REMEDY)
    if len(parts) == 1:
        return parts[0][1]
    if sum(len(tensors) * sum(map(len, keys)) for keys, tensors in parts) > MAX_NAME_BYTES:
        raise FormatError(f"{path} holds tensors under names of more than {MAX_NAME_BYTES} bytes", "names", REMEDY)
    found: dict[str, Tensor | Strange] = {}
    for keys, tensors in parts:
        for name, value in tensors.items():
            if found.setdefault(".".join((*keys, name)), value) is not value:
                raise FormatError(f"{path} holds {'.'.join((*keys, name))!r} twice", "distinct names", REMEDY)
    return found


def _parts(root: dict[str, Any]) -> list[tuple[tuple[str, ...], dict[str, Tensor | Strange]]]:
    """The mappings with tensors by their keys, without optimizers, and without mere counters if there are weights."""
    found: list[tuple[tuple[str, ...], dict[str, Tensor | Strange]]] = []
    queue: list[tuple[tuple[str, ...], dict[Any, Any]]] = [((), root)]
    seen = {id(root)}
    for keys, mapping in queue:  # it grows while it is walked
        if "param_groups" in mapping:  # the state of an optimizer
            continue
        tensors = {name: value for name, value in mapping.items() if isinstance(value, Tensor | Strange)}
        tensors = {name: value for name, value in tensors.items() if isinstance(name, str)}
        if tensors:
            found.append((keys, tensors))
        for name, value in mapping.items():
            if isinstance(name, str) and isinstance(value, dict) and id(value) not in seen and len(keys) < MAX_DEPTH:
                seen.add(id(value))
                queue.append(((*keys, name), value))
    weights = [(keys, tensors) for keys, tensors in found if any(_is_weight(value) for value in tensors.values())]
    return weights or found


def _is_weight(value: Tensor | Strange) -> bool:
    # Of whole numbers alone are counters, and the states of random generators.
    return isinstance(value, Strange) or (value.shape != () and value.dtype.kind not in "biu")


def _kind(value: Any) -> str:
    kinds = {Thing: "an object", Tensor: "a tensor without a name", Strange: "a tensor without a name"}
    found = f" ({value.kind})" if isinstance(value, Thing | Strange) else ""
    return kinds.get(type(value), f"a {type(value).__name__}") + found


def _array(path: str, name: str, part: Tensor | Strange, storage_bytes: Bytes) -> np.ndarray:
    if isinstance(part, Strange):
        kind = part.kind if part.by is None else f"{part.kind} ({shown(part.by)})"
        raise FormatError(f"{path} holds the tensor {name!r}, which is {kind}", "plain tensors", "leave it out")
    storage, size = part.storage, part.dtype.itemsize
    data = storage_bytes(storage)
    held = storage.count * storage.dtype.itemsize // size
    count = math.prod(part.shape)
    if count > held > 0:
        raise FormatError(
            f"{path} holds the tensor {name!r} of {count} elements over a storage of {held}",
            "a number of its own for each element",
            "save it .contiguous(), where the file is whole",
        )
    last = part.offset + sum((length - 1) * stride for length, stride in zip(part.shape, part.strides, strict=True))
    if storage.start * storage.dtype.itemsize + held * size > len(data) or (count and last >= held):
        raise FormatError(
            f"{path} holds the tensor {name!r} of shape {part.shape}, beyond the {len(data)} bytes of its storage",
            "a whole, undamaged file",
        )
    start = storage.start * storage.dtype.itemsize + part.offset * size if count else 0
    try:
        return tensor(data, start, part.dtype, part.shape, [stride * size for stride in part.strides])
    except ValueError as error:
        raise FormatError(f"{path} holds the tensor {name!r} of shape {part.shape} ({error})", "a tensor") from error
