"""SavedModel folders: of these only the variables are read, never the graph."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np

from fuzz import change
from fuzz._target import MIB, Target, pack, several_files, unpack
from fuzz.targets import _bundles
from fuzz.targets._native import open_here_if_survived

GRAPH, INDEX, DATA = (
    "model/saved_model.pb",
    "model/variables/variables.index",
    f"model/variables/variables{_bundles.DATA}",
)
FILES = (INDEX, DATA, "model/assets/words", "model/fingerprint.pb", "model/variables/checkpoint", "model/checkpoint")


def seeds(folder: Path) -> Iterator[bytes]:
    """A module with variables, a function and an asset."""
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(np.ones((2, 3), "float32"), name="kernel")
    module.other = tf.Variable(np.ones((2, 3), "float32"), name="kernel")
    (folder / "words").write_text("a\nb\n")
    module.words = tf.saved_model.Asset(str(folder / "words"))
    module.call = tf.function(lambda x: x @ module.kernel, [tf.TensorSpec((None, 2))])
    tf.saved_model.save(module, str(folder / "model"))
    names = (GRAPH, *FILES)
    yield pack({name: (folder / name).read_bytes() for name in names if (folder / name).is_file()})


def mutate(data: bytes, rng: Random) -> bytes:
    """A change of the variables, mostly; or of the graph, or of any byte."""
    parts = unpack(data)
    kind = rng.random()
    if kind < 0.05:
        return change.change_bytes(data, rng)
    if kind < 0.15:
        name = rng.choice((GRAPH, *FILES))
        return pack(parts | {name: change.change_bytes(parts.get(name, bytes(64)), rng)})
    index, numbers = _bundles.changed(parts.get(INDEX, b""), parts.get(DATA, b""), rng)
    return pack(parts | {INDEX: index, DATA: numbers})


def lay(data: bytes, folder: str) -> str:
    """The folder."""
    return os.path.dirname(several_files(GRAPH, FILES)(data, folder))


TARGET = Target(
    "saved_model",
    ("parity.files.tensorflow", "parity.files._child", "parity.files._map"),
    seeds,
    mutate,
    open_here_if_survived,
    lay,
    contained=True,
    events=("os.fork",),
    megabytes=2048,
    seconds=20.0,
    fixed_bytes=512 * MIB,
)
