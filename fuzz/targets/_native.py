"""The readers that the product runs in a process of their own: here they run in the process that is watched."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from fuzz._target import look
from parity import files
from parity.files import _child


def read_here(reader: str, path: str) -> Any:
    """`_child.read`, both sides in this process: what the child does, and what its caller makes of the answer."""
    folder = os.path.join(os.path.dirname(path), "answer")
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    _child.answer(reader, path, folder)
    return _child.taken(path, folder, "it did not answer")


def open_here(path: str) -> None:
    """Open the file at `path` without a process, and look at its tensors."""
    with mock.patch.object(_child, "read", read_here):
        look(files.open(path))
