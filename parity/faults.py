"""What became of a process, in words: killed, ended by itself, hung, out of memory."""

from __future__ import annotations

import os
import re
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

from parity.errors import InputError

# Longer than any framework takes to import, or any case to run, on a slow machine.
PATIENCE_SECONDS = 600.0

GIB = 2**30

# The kinds of error and the texts with which Python, PyTorch, TensorFlow, XLA, CUDA and the C and C++ libraries below
# them say that memory ran out.
OUT_OF_MEMORY = re.compile(
    r"MemoryError|OutOfMemory|ResourceExhausted|RESOURCE_EXHAUSTED|bad_alloc|OOM when allocating|out of memory"
    r"|can(?:'t|not) allocate memory|(?:unable|failed) to allocate|memory allocation .*failed",
    re.IGNORECASE,
)

KILLED_FOR_MEMORY = "the system kills processes when memory runs out, or somebody did"
KILLED_BY_LIMIT = "perhaps by its memory limit: not all code looks whether it got the memory that it asked for"

TAIL = 2**16  # bytes of what a process wrote that are looked at
TOLD = 2000  # characters of them that are shown


@dataclass(frozen=True)
class Limits:
    """What a worker may take before it is given up.

    Args:
        patience: seconds for one answer; a process that takes longer is ended as hung. To start it has at least
            `PATIENCE_SECONDS`.
        memory: GiB of data that a worker on the CPU may hold, its framework included; None for no limit. A GPU's
            driver maps far more than it uses, so there it is not applied.

    Raises:
        InputError: for a number that is not positive.
    """

    patience: float = PATIENCE_SECONDS
    memory: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("patience", self.patience), ("memory", self.memory)):
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"received {name}={value!r}", "a positive number")

    def impose(self, process: int) -> None:
        """Set the memory limit of a running process; raises `InputError` where the system has no such limit.

        Of its data, not of its address space: frameworks reserve far more addresses than they fill.
        """
        if self.memory is None:
            return
        if not hasattr(resource, "prlimit"):
            raise InputError("received a memory limit on a system that cannot impose one", "Linux", "leave it out")
        size = int(self.memory * GIB)
        resource.prlimit(process, resource.RLIMIT_DATA, (size, size))


NORMAL = Limits()


def is_out_of_memory(text: str) -> bool:
    """Whether an error's kind and message, or what a process wrote before it ended, say that memory ran out."""
    return bool(OUT_OF_MEMORY.search(text))


def tail(file: Path) -> str:
    """The end of what a process wrote; its reason may stand above a long trace of the stack."""
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL))
        return stream.read().decode(errors="replace").strip()


def ending(status: int, written: str, limits: Limits = NORMAL) -> str:
    """How a process ended, from its exit status (a signal's number below zero) and what it wrote to standard error."""
    if is_out_of_memory(written):
        return f"ran out of memory ({_how(status)})"
    if status == -signal.SIGKILL:
        return f"was killed by SIGKILL ({KILLED_FOR_MEMORY})"
    why = f" ({KILLED_BY_LIMIT})" if status < 0 and limits.memory is not None else ""
    return f"was killed by {_how(status)}{why}" if status < 0 else f"ended by itself ({_how(status)})"


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-status}"
