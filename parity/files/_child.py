"""Readers in a process of their own: their native libraries can hang, crash and take memory on damaged files.

``python -m parity.files._child READER PATH FOLDER`` runs ``parity.files.READER.collect(PATH)`` and leaves its answer in
FOLDER; `read` is the other end. Tensors that lie in the file as they are come back as their place in it; the others are
written one by one into a file that the caller maps.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from parity import errors
from parity.errors import FormatError, ParityError
from parity.files import Contents
from parity.files._map import mapped, tensor

# A damaged file is given up after these seconds and these for each gigabyte; a library takes seconds to import.
SECONDS, SECONDS_A_GIGABYTE = 120.0, 60.0

# The address space that each library was measured to need on a small file (0.11 and 1.8 GiB), with room to grow; beside
# that, the process may hold its file twice.
GIB = 1 << 30
MEMORY = {"hdf5": 1 * GIB, "keras_archive": 1 * GIB, "tensorflow": 8 * GIB}

# Where a tensor's bytes are: in the file that was asked for, or in one beside the answer.
ORIGINAL, COPIES = "original", "copies"
ALIGNMENT = 64

ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HDF5_PLUGIN_PRELOAD": "::",  # no filters from shared libraries that the environment names
    "HDF5_USE_FILE_LOCKING": "FALSE",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor that its library has not read yet.

    Args:
        dtype: its dtype.
        shape: its shape.
        load: reads it.
        start: the byte of the file where it begins, or None where the file does not hold its bytes in a row.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    start: int | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """What a reader found: as `Contents`, but its tensors are still to be read."""

    kind: str
    tensors: Mapping[str, Stored]
    hints: Mapping[str, Any] = field(default_factory=dict)


def read(reader: str, path: str) -> Contents:
    """What `reader` finds in the file (or at the prefix) `path`, as views of mapped files.

    Raises:
        FormatError: where the reader refuses the file, hangs, crashes or needs too much memory.
        BackendMissingError: where its library is not installed.
    """
    size = _size(path)
    seconds = SECONDS + SECONDS_A_GIGABYTE * size / GIB
    with tempfile.TemporaryDirectory(prefix="parity-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-P", "-m", "parity.files._child", reader, path, folder]
        limits = [str(int(MEMORY[reader] + 2 * size)), str(int(seconds) + 1)]
        try:
            process = subprocess.run(
                command + limits, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds
            )
        except subprocess.TimeoutExpired as error:
            raise _damaged(path, f"its reader did not answer within {seconds:.0f} seconds") from error
        answer = _answer(folder)
        if answer is None:
            raise _damaged(path, _death(process))
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        return _contents(path, folder, answer)


def _size(path: str) -> int:
    """The bytes of a file, or of the files of a checkpoint."""
    folder = os.path.dirname(path)
    names = [path] if os.path.isfile(path) else [os.path.join(folder, name) for name in os.listdir(folder or ".")]
    return sum(os.path.getsize(name) for name in names if name.startswith(path) and os.path.isfile(name))


def _environment() -> dict[str, str]:
    # The modules that this process would import, and none that lie beside the file.
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return os.environ | ENVIRONMENT | {"PYTHONPATH": path}


def _damaged(path: str, reason: str) -> FormatError:
    return FormatError(f"{path} cannot be read: {reason}", "a whole, undamaged file")


def _answer(folder: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(folder, "answer.json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _death(process: subprocess.CompletedProcess[bytes]) -> str:
    if process.returncode == -signal.SIGXCPU:
        return "its reader computed without end"
    if process.returncode < 0:
        return f"its reader crashed ({signal.Signals(-process.returncode).name})"
    lines = process.stderr.decode(errors="replace").strip().splitlines()
    return f"its reader failed with status {process.returncode}{': ' + lines[-1] if lines else ''}"


def _contents(path: str, folder: str, answer: Mapping[str, Any]) -> Contents:
    sources = {ORIGINAL: path, COPIES: os.path.join(folder, COPIES)}
    used = {place[0] for place in answer["places"].values()}
    data = {name: mapped(source) for name, source in sources.items() if name in used}
    try:
        tensors = {
            name: tensor(data[source], start, _dtype(kind), shape)
            for name, (source, start, kind, shape) in answer["places"].items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error)) from error
    return Contents(answer["kind"], tensors, hints=answer["hints"])


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


# The child's side


def main(reader: str, path: str, folder: str, memory: str, seconds: str) -> None:
    """Answer, or leave the reason why not."""
    _limit(int(memory), int(seconds))
    try:
        answer = _collect(reader, path, folder)
    except ParityError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        answer = {"error": "FormatError", "message": str(_damaged(path, "its reader ran out of memory"))}
    except Exception as error:  # whatever a library raises over a damaged file
        # Long messages of libraries repeat themselves.
        reason = f"{type(error).__name__}: {error}"[:400]
        answer = {"error": "FormatError", "message": str(_damaged(path, reason))}
    with open(os.path.join(folder, "answer.json"), "w", encoding="utf-8") as file:
        json.dump(answer, file)


def _limit(memory: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has the time limit alone
        return
    for kind, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, hard))


def _collect(reader: str, path: str, folder: str) -> dict[str, Any]:
    found: Found = importlib.import_module(f"parity.files.{reader}").collect(path)
    with open(os.path.join(folder, COPIES), "wb") as copies:
        places = {name: _place(stored, copies) for name, stored in found.tensors.items()}
    return {"kind": found.kind, "hints": dict(found.hints), "places": places}


def _place(stored: Stored, copies: BinaryIO) -> list[Any]:
    """Where the bytes of a tensor are: in the file itself, else in the file of copies, where they are put now."""
    kind = "bfloat16" if stored.dtype == ml_dtypes.bfloat16 else stored.dtype.str
    if stored.start is not None:
        return [ORIGINAL, stored.start, kind, stored.shape]
    copies.write(bytes(-copies.tell() % ALIGNMENT))
    start, value = copies.tell(), np.asarray(stored.load(), dtype=stored.dtype, order="C")
    copies.write(value.reshape(-1).view(np.uint8).data)
    return [COPIES, start, kind, stored.shape]


if __name__ == "__main__":
    main(*sys.argv[1:])
