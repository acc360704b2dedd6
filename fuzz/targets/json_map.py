"""``--map`` of the command line, a file of JSON, and ``--hint``, whose values are JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np

from fuzz import change
from fuzz._target import Target
from parity import exchange
from parity.block import Block
from parity.cli import weights
from parity.spec import ECAOptions

SPEC = ECAOptions(kernel_size=3).resolve(None)
BLOCKS = [Block(name, SPEC, {"conv.kernel": np.ones((1, 1, 3))}) for name in ("a", "stage1/b", "")]
WORDS = ("a", "stage1/b", "", "b", "a/b", "gate=hard_sigmoid", "*:activation=silu", 'gate={"kind": "hard_sigmoid"}')


def seeds(folder: Path) -> Iterator[bytes]:
    """Maps of one name, of all, of none; texts of hints."""
    for value in ({}, {"a": "x"}, {"a": "stage1/b", "stage1/b": "a", "": "root"}, {"a": "é", "stage1/b": "\n"}):
        yield json.dumps(value).encode()
    yield json.dumps({"a": "x"}, indent=1).encode("utf-8-sig")
    yield b'gate=hard_sigmoid\nstage1.*:gate={"kind": "hard_sigmoid", "slope": 0.2}\nnum_heads=4'


def mutate(data: bytes, rng: Random) -> bytes:
    """A change of the JSON, or of bytes."""
    value = change.load_json(data)
    if value is None or rng.random() < 0.2:
        return change.change_bytes(data, rng)
    return change.dump_json(change.change_json(value, rng, WORDS))


def read(path: str) -> None:
    """Rename blocks by the map and write them; where it is none, take its lines as hints."""
    text = Path(path).read_bytes()
    if b"=" in text and not text.lstrip().startswith(b"{"):
        weights._hints(text.decode("utf-8", "surrogateescape").split("\n"))
        return
    names = weights._names(Path(path))
    renamed = exchange.checked(weights._renamed(BLOCKS, names))
    exchange.write(f"{path}.safetensors", renamed)
    for block, again in zip(renamed, exchange.read(f"{path}.safetensors"), strict=True):
        if block.name != again.name:
            raise AssertionError(f"{block.name!r} came back as {again.name!r}")


TARGET = Target("json_map", ("parity.cli.weights", "parity.exchange"), seeds, mutate, read)
