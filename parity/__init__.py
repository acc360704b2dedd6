"""The Rosetta stone of convolutional attention: one function, four styles, one truth.

blocks = parity.read("model.safetensors")             any supported file -> list of Block
parity.write("model.safetensors", blocks)            the exchange file
parity.load_into(model, "model.safetensors")         a torch module, a Keras model or layer, a TF1 session
parity.evaluate(block, x, backend="torch")           outputs, gradients and statistics of any backend
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.block import Block
    from parity.client import evaluate
    from parity.errors import ParityError
    from parity.exchange import write
    from parity.port import blocks_of, load_into
    from parity.reading import read

# Public names and where they live. Resolved on first use: the backends import parity.spec, and must not pay for, or
# need, anything else.
_HOMES = {
    "Block": "parity.block",
    "ParityError": "parity.errors",
    "blocks_of": "parity.port",
    "evaluate": "parity.client",
    "load_into": "parity.port",
    "read": "parity.reading",
    "write": "parity.exchange",
}

__all__ = ["Block", "ParityError", "blocks_of", "evaluate", "load_into", "read", "write"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
