"""The Rosetta stone of convolutional attention: one function, four styles, one truth.

blocks = parity.read("model.pth")                    any supported file -> list of Block
parity.inspect("model.pth")                          what is in it, and what it does not tell
parity.write("model.safetensors", blocks)            the exchange file; or any other, in any dialect
parity.load_into(model, "model.safetensors")         a torch module, a Keras model or layer, a TF1 session
parity.port(source_model, target_model)              a whole network, across frameworks
parity.with_probes(blocks, model)                    blocks that carry what their source computes
parity.verify("model.safetensors")                   whether every backend computes the same
parity.evaluate(block, x, backend="torch")           outputs, gradients and statistics of any backend
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.block import Block
    from parity.client import evaluate
    from parity.errors import ParityError
    from parity.loading import blocks_of, load_into
    from parity.network import port
    from parity.probe import with_probes
    from parity.reading import inspect, read
    from parity.verification import verify
    from parity.writing import write

# Public names and where they live. Resolved on first use: the backends import parity.spec, and must not pay for, or
# need, anything else.
_HOMES = {
    "Block": "parity.block",
    "ParityError": "parity.errors",
    "blocks_of": "parity.loading",
    "evaluate": "parity.client",
    "inspect": "parity.reading",
    "load_into": "parity.loading",
    "port": "parity.network",
    "read": "parity.reading",
    "verify": "parity.verification",
    "with_probes": "parity.probe",
    "write": "parity.writing",
}

__all__ = [
    "Block",
    "ParityError",
    "blocks_of",
    "evaluate",
    "inspect",
    "load_into",
    "port",
    "read",
    "verify",
    "with_probes",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
