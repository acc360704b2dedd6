"""What a target says of itself."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

MIB = 1 << 20


def opened_by(reader: str) -> Callable[[str], Any]:
    """Opens a path as `parity.files` does for its reader `reader`, whatever the content looks like, and looks at it."""

    def read(path: str) -> Any:
        from parity import files

        kind, files._kind = files._kind, lambda path: reader
        try:
            contents = files.open(path)
        finally:
            files._kind = kind
        look(contents)
        return contents

    return read


def look(contents: Any) -> None:
    """Look at the first and the last element of each tensor of `contents`."""
    for value in contents.tensors.values():
        if value.size:
            np.array([value[(place,) * value.ndim] for place in (0, -1)])  # .flat ends at 32 axes


def one_file(name: str) -> Callable[[bytes, str], str]:
    """Lays an input out as the one file `name` of the folder."""

    def lay(data: bytes, folder: str) -> str:
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    return lay


INPUT = one_file("input")


def several_files(first: str, names: Iterable[str]) -> Callable[[bytes, str], str]:
    """Lays a `pack`ed input out as those files of the folder that have one of `names`; `first` is what is read."""
    known = (first, *names)

    def lay(data: bytes, folder: str) -> str:
        parts = unpack(data)
        for name in known:
            path = os.path.join(folder, name)
            if name in parts:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                Path(path).write_bytes(parts[name])
            elif os.path.exists(path):
                os.unlink(path)
        return os.path.join(folder, first)

    return lay


def pack(parts: Mapping[str, bytes]) -> bytes:
    """Several files as one input: a line of JSON with their names and sizes, then one after the other."""
    return json.dumps([[name, len(part)] for name, part in parts.items()]).encode() + b"\n" + b"".join(parts.values())


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of a `pack`ed input; where it is damaged, those that can be told."""
    head, _, rest = data.partition(b"\n")
    parts: dict[str, bytes] = {}
    try:
        for name, size in json.loads(head):
            parts[str(name)], rest = rest[: int(size)], rest[int(size) :]
    except (ValueError, TypeError, RecursionError, OverflowError):
        pass
    return parts


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Args:
        name: as it is typed; that of its module in ``fuzz/targets``.
        modules: the modules whose code guides the search, by name; a package stands for all of its modules.
        seeds: makes the small valid inputs that all others come from; it may write into the empty folder that it is
            given. They are read once before anything is watched, so that what a valid file imports is imported.
        mutate: one change of an input by someone who knows its structure. It has to bear any input, and the same
            `Random` gives the same change.
        read: reads the path that `lay` gives, as far as a user would; raises `ParityError` for what it refuses.
        lay: puts an input into the folder, and gives the path to be read.
        contained: whether the product runs this reader in a process of its own, which may die: a crash, too much memory
            or time are then counted as "given up" and are no findings.
        megabytes: that the process may grow by, in all.
        seconds: of processor time that one file may take; ten times as many of the clock end the process.
        fixed_bytes, file_bytes: the memory, as Python and NumPy tell it, that one file may take: `fixed_bytes`, and
            `file_bytes` for each byte of the input.
        events: audit events (or their beginnings) that a valid file causes, and that are no findings.
        folders: where the reader may open files beside its own folder, such as those of a library.
        max_bytes: of an input.
    """

    name: str
    modules: tuple[str, ...]
    seeds: Callable[[Path], Iterable[bytes]]
    mutate: Callable[[bytes, Random], bytes]
    read: Callable[[str], Any]
    lay: Callable[[bytes, str], str] = INPUT
    contained: bool = False
    megabytes: int = 512
    seconds: float = 2.0
    fixed_bytes: int = 2 * MIB
    file_bytes: int = 256
    events: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    max_bytes: int = 1 << 16


def names() -> list[str]:
    """The names of all targets; a module whose name begins with "_" is what several share."""
    from fuzz import targets as package

    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return sorted(name for name in names if not name.startswith("_"))


def find(name: str) -> Target:
    """The target `name`; one with a dot is that of a module anywhere."""
    return importlib.import_module(name if "." in name else f"fuzz.targets.{name}").TARGET
