"""Readers in a process of their own: their native libraries can hang, crash and take memory on damaged files.

``python -m parity.files._child READER PATH FOLDER`` runs ``parity.files.READER.collect(PATH)`` and leaves its answer in
FOLDER; `read` is the other end. Tensors that lie in the file as they are come back as their place in it; the others are
written one by one into a file that the caller maps. ONNX Runtime runs the blocks of a graph in the same way.
"""

from __future__ import annotations

import importlib
import json
import math
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
# Of a processor, which others do not slow down, it takes fewer: HDF5 walks in circles where a heap's sizes are damaged.
PROCESSOR_SECONDS = {"hdf5": 15.0, "keras_archive": 15.0, "tensorflow": 60.0, "onnx._run": 60.0}

# The address space that each library was measured to need on a small file (0.11, 1.8 and 0.2 GiB), with room to grow;
# beside that, the process may hold its file twice, and ONNX Runtime what a block's nodes make of a map on their way.
GIB = 1 << 30
MEMORY = {"hdf5": 1 * GIB, "keras_archive": 1 * GIB, "tensorflow": 8 * GIB, "onnx._run": 2 * GIB}
COPIES_HELD = {"onnx._run": 8}

# Where a tensor's bytes are: in the file that was asked for, or in one beside the answer.
ORIGINAL, COPIES = "original", "copies"
ALIGNMENT = 64
MAX_ANSWER = 1 << 26  # bytes; names can be many times as long as their file

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
    more = SECONDS_A_GIGABYTE * size / GIB
    seconds = SECONDS + more
    with tempfile.TemporaryDirectory(prefix="parity-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-P", "-m", "parity.files._child", reader, path, folder]
        memory = MEMORY[reader] + COPIES_HELD.get(reader, 2) * size
        limits = [str(int(memory)), str(math.ceil(PROCESSOR_SECONDS[reader] + more))]
        try:
            death = _run(command + limits, os.path.join(folder, "complaints"), seconds)
        except subprocess.TimeoutExpired as error:
            raise _damaged(path, f"its reader did not answer within {seconds:.0f} seconds") from error
        return taken(path, folder, death)


def taken(path: str, folder: str, death: str) -> Contents:
    """What was answered in `folder`; `death` is how the reader ended, where it left no answer."""
    answer = _answer(folder)
    if answer is None:
        raise _damaged(path, death)
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return _contents(path, folder, answer)


def _run(command: list[str], complaints: str, seconds: float) -> str:
    """Run the child; how it ended, in words. What it writes goes into a file, so that it costs no memory here."""
    with open(complaints, "w+b") as file:
        process = subprocess.run(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            timeout=seconds,
        )
        last = _last_line(file)
    return _death(process.returncode) + (f": {last}" if last else "")


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
    except (OSError, ValueError, RecursionError):
        return None


def _death(status: int) -> str:
    if status == -signal.SIGXCPU:
        return "its reader computed without end"
    if status == -signal.SIGKILL:
        return "its reader was killed (SIGKILL), as a system does that runs out of memory"
    if status < 0:
        return f"its reader crashed ({signal.Signals(-status).name})"
    return f"its reader failed with status {status}"


def _last_line(file: BinaryIO) -> str:
    file.seek(-min(file.seek(0, 2), 4096), 2)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:400] if lines else ""


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
    """Answer within bounds."""
    _limit(int(memory), int(seconds))
    answer(reader, path, folder)


def answer(reader: str, path: str, folder: str) -> None:
    """Leave in `folder` what `reader` finds, or the reason why it finds nothing."""
    try:
        text = _text(_collect(reader, path, folder))
        if len(text) > MAX_ANSWER:
            raise FormatError(f"{path} holds names of {len(text)} bytes", f"at most {MAX_ANSWER}")
    except ParityError as error:
        text = _refusal(type(error).__name__, str(error))
    except MemoryError:
        text = _refusal("FormatError", str(_damaged(path, "its reader ran out of memory")))
    except Exception as error:  # whatever a library raises over a damaged file
        # Long messages of libraries repeat themselves.
        text = _refusal("FormatError", str(_damaged(path, f"{type(error).__name__}: {error}"[:400])))
    with open(os.path.join(folder, "answer.json"), "wb") as file:
        file.write(text)


def _text(found: Mapping[str, Any]) -> bytes:
    """JSON; a name that is no text is a UnicodeEncodeError."""
    return json.dumps(found, ensure_ascii=False).encode()


def _refusal(kind: str, message: str) -> bytes:
    return _text({"error": kind, "message": message.encode(errors="backslashreplace").decode()})


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
