"""TensorFlow's checkpoints: of Savers and of objects, by their prefix and by a folder's state file."""

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

INDEX, DATA, STATE = "model.index", f"model{_bundles.DATA}", "checkpoint"
# The last two would be read by who follows the state file of a folder that is named like the checkpoint.
FILES = (DATA, STATE, "model.data-00000-of-00002", "model.data-00001-of-00002", "model/checkpoint", "model/other")


def seeds(folder: Path) -> Iterator[bytes]:
    """A Saver's checkpoint with slots and a variable in parts; one of objects with an optimizer's state."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        ones = tf.compat.v1.ones_initializer()
        for name in ("block/kernel", "block/kernel/Momentum", "block/bias"):
            tf.compat.v1.get_variable(name, (2, 3), initializer=ones)
        parts = tf.compat.v1.fixed_size_partitioner(2)
        tf.compat.v1.get_variable("parts", (4, 3), initializer=ones, partitioner=parts)
        tf.compat.v1.get_variable("half", (3,), tf.bfloat16, initializer=ones)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(folder / "saver"), write_meta_graph=False, write_state=False)
    saver = dict(_bundles.parts_of(folder, "saver"))
    yield pack(saver)
    yield pack(saver | {STATE: b'model_checkpoint_path: "model"\nall_model_checkpoint_paths: "model"\n'})
    root, block = tf.Module(), tf.Module()
    root.block, root.twin = block, block
    block.kernel, block.bias = tf.Variable(np.ones((2, 3), "float32"), name="kernel"), tf.Variable(np.ones(3))
    root.optimizer = tf.Module()
    root.optimizer.iter, root.optimizer.learning_rate = tf.Variable(3), tf.Variable(0.1)
    tf.train.Checkpoint(root=root).write(str(folder / "objects"))
    yield pack(_bundles.parts_of(folder, "objects"))


def mutate(data: bytes, rng: Random) -> bytes:
    """A change of the index or of the data behind its checksums; now and then of the state file, or of any byte."""
    parts = unpack(data)
    kind = rng.random()
    if kind < 0.05:
        return change.change_bytes(data, rng)
    if kind < 0.1:
        name = rng.choice(FILES)
        names = [text for text in change.NAMES if "\ud800" not in text]
        text = f'model_checkpoint_path: "{rng.choice((*names, "model", "/dev/shm/model"))}"\n'.encode()
        return pack(parts | {name: text if name.endswith(STATE) else parts.get(name, b"") or bytes(64)})
    index, numbers = _bundles.changed(parts.get(INDEX, b""), parts.get(DATA, b""), rng)
    return pack(parts | {INDEX: index, DATA: numbers})


def lay(data: bytes, folder: str) -> str:
    """The files; what is read is the folder, if it has a state file, else the prefix."""
    path = several_files(INDEX, FILES)(data, folder)
    if os.path.isdir(inner := os.path.join(folder, "model")) and not os.listdir(inner):
        os.rmdir(inner)
    return folder if os.path.isfile(os.path.join(folder, STATE)) else path.removesuffix(".index")


TARGET = Target(
    "tensorflow",
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
