"""Files of every kind that weights come in: what is in them, as arrays by name, and nothing else of them.

A new kind is one module here and one line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.block import Block


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds.

    Args:
        kind: what kind of file it is, for people: "PyTorch checkpoint", "Keras archive".
        tensors: the arrays by name, as the framework that wrote them names them: "layer1.0.se.fc1.weight",
            "stage1/dense/kernel". Large ones are read-only views of the mapped file, so that they cost no memory.
        blocks: the blocks whose meaning the file itself tells (an exchange file, an ONNX graph); their tensors are not
            in `tensors`.
        dialect: the dialect that the file names (a recording), or None.
        hints: spec fields that the file tells, as `parity.read` takes them: by field, or by block name.
    """

    kind: str
    tensors: Mapping[str, np.ndarray]
    blocks: tuple[Block, ...] = ()
    dialect: str | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)
