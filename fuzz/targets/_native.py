"""The readers that the product runs in a process of their own: here they run in the process that is watched."""

from __future__ import annotations

import os
import signal
from typing import Any
from unittest import mock

from fuzz._target import look
from parity import files
from parity.errors import FormatError
from parity.files import _child

PATIENCE = 60  # seconds that a copy of the process may take


def read_here(reader: str, path: str) -> Any:
    """`_child.read`, both sides in this process: what the child does, and what its caller makes of the answer."""
    folder = os.path.join(os.path.dirname(path), "answer")
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    _child.answer(reader, path, folder)
    return _child.taken(path, folder, "it did not answer")


def read_here_if_survived(reader: str, path: str) -> Any:
    """`read_here`, after a copy of this process has lived through it.

    TensorFlow ends its process over many damaged files, and takes long to import: so it is imported once.
    """
    import tensorflow  # noqa: F401

    copy = os.fork()
    if not copy:
        try:
            signal.alarm(PATIENCE)
            read_here(reader, path)
        finally:
            os._exit(0)
    death = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
    if death:
        raise FormatError(f"{path} cannot be read: its reader ended with {death}", "a whole, undamaged file")
    return read_here(reader, path)


def open_here(path: str) -> None:
    """Open the file at `path` without a process, and look at its tensors."""
    with mock.patch.object(_child, "read", read_here):
        look(files.open(path))


def open_here_if_survived(path: str) -> None:
    """The same, where the library may end the process."""
    with mock.patch.object(_child, "read", read_here_if_survived):
        look(files.open(path))
