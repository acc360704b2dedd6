"""TensorFlow's checkpoints: of tf.compat.v1 Savers, of objects (tf.train.Checkpoint), and those inside SavedModels.

`read` is for everybody; `collect` runs in the child process, so that TensorFlow stays out of the caller's.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from parity.errors import BackendMissingError, FormatError
from parity.files import Contents, _child
from parity.files._child import Found, Stored
from parity.files._links import homes

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "VARIABLE_VALUE"
MAX_STATE_BYTES = 1 << 20
MAX_PATH_BYTES = 1 << 26  # of all paths of attributes: a small graph can make many long ones

# The children that a node of an optimizer has: of Keras 3 and tf.keras 2.11 and later, and of older ones.
OPTIMIZERS = ({"_iterations", "_learning_rate"}, {"iter", "learning_rate"})
TRAINED = ("_trainable_variables",)


def read(prefix: str) -> Contents:
    """The variables of the checkpoint at `prefix`, without the slots of optimizers.

    Raises:
        FormatError: for a damaged checkpoint.
        BackendMissingError: where TensorFlow is not installed.
    """
    if not os.path.isfile(f"{prefix}.index"):
        raise FormatError(f"{prefix}.index is no file", "a checkpoint with variables", "fetch its other files too")
    for path in (f"{prefix}.index", *_shards(prefix)):
        _check_inside(prefix, path)
    return _child.read("tensorflow", prefix)


def _shards(prefix: str) -> list[str]:
    """The files that hold the numbers of the checkpoint at `prefix`."""
    folder, name = os.path.split(prefix)
    names = [entry for entry in os.listdir(folder or ".") if entry.startswith(f"{name}.data-")]
    return [os.path.join(folder, entry) for entry in sorted(names)]


def _check_inside(prefix: str, path: str) -> None:
    """Refuse what is no file, and what lies elsewhere than beside the checkpoint or in the store of a downloader."""
    if not os.path.isfile(path):  # a pipe would keep its reader waiting
        raise FormatError(f"{path} is no file", "a checkpoint of plain files", "fetch it again")
    folder = os.path.dirname(os.path.abspath(prefix))
    model = os.path.dirname(folder) if _is_model(prefix) else folder
    if os.path.dirname(os.path.realpath(path)) not in homes(folder, model):
        raise FormatError(f"{path} is a link out of its folder", "a checkpoint of plain files", "put copies there")


def _is_model(prefix: str) -> bool:
    folder = os.path.dirname(os.path.dirname(os.path.abspath(prefix)))
    return os.path.isfile(os.path.join(folder, "saved_model.pb"))


def latest(folder: str) -> str:
    """The prefix that the state file of a folder of checkpoints names; of a path, its last part, in this folder.

    Raises:
        FormatError: for a state file that names no checkpoint.
    """
    path = os.path.join(folder, "checkpoint")
    with open(path, "rb") as file:
        text = file.read(MAX_STATE_BYTES).decode("utf-8", "replace")
    found = re.search(r'^model_checkpoint_path: "([^"]*)"$', text, re.MULTILINE)
    name = os.path.basename(found[1]) if found else ""
    if not name or "\\" in name or "\0" in name:
        raise FormatError(
            f"{path} names the checkpoint {name!r}",
            "the name of one beside it",
            "pass the prefix of the checkpoint",
        )
    return os.path.join(folder, name)


def collect(prefix: str) -> Found:
    """The same, in this process."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise BackendMissingError(
            f"received {prefix!r}, a TensorFlow checkpoint, but TensorFlow is not installed",
            remedy="pip install 'attention-parity[tf1]'",
        ) from error
    try:
        # `load_checkpoint` would follow the state file of a folder of this name; and "gs://" would be another machine.
        reader = tf.compat.v1.train.NewCheckpointReader(os.path.abspath(prefix))
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        graph = reader.get_tensor(GRAPH) if GRAPH in shapes else None
    except Exception as error:  # the reader raises TensorFlow's own errors and bare RuntimeErrors
        reason = f"{prefix} cannot be read as a TensorFlow checkpoint: {error}"
        raise FormatError(reason, "whole, readable files") from error
    stored = {
        key: Stored(np.dtype(dtypes[key].as_numpy_dtype), tuple(shapes[key]), _loader(prefix, reader, key))
        for key in sorted(shapes)
        if dtypes[key].is_floating or dtypes[key].is_integer or dtypes[key].is_bool
    }
    declared = sum(math.prod(one.shape) * one.dtype.itemsize for one in stored.values())
    held = sum(map(os.path.getsize, _shards(prefix)))
    if declared > held:
        raise FormatError(f"{prefix} declares {declared} bytes of data in files of {held}", "whole, readable files")
    if graph is None:
        return Found("TensorFlow Saver checkpoint", _without_slots(stored))
    return Found("SavedModel" if _is_model(prefix) else "TensorFlow object checkpoint", _by_objects(stored, graph))


def _loader(prefix: str, reader: Any, key: str) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        try:
            return np.asarray(reader.get_tensor(key))
        except Exception as error:
            reason = f"{prefix} cannot be read as a TensorFlow checkpoint: {key}: {error}"
            raise FormatError(reason, "whole, readable files") from error

    return load


def _without_slots(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Without what an optimizer names after a variable: cbam_block1/mlp_1/kernel/Momentum."""
    slots, last = set(), None
    for name in sorted(stored, key=lambda name: name.split("/")):  # what is named after a variable follows it
        if last is not None and name.startswith(f"{last}/"):
            slots.add(name)
        else:
            last = name
    return {name: value for name, value in stored.items() if name not in slots}


# Object graphs


def _by_objects(stored: Mapping[str, Stored], graph: bytes) -> dict[str, Stored]:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    try:
        nodes = TrackableObjectGraph.FromString(graph).nodes
    except (DecodeError, TypeError) as error:
        raise FormatError(f"the checkpoint has an unreadable graph of objects: {error}", "a whole file") from error
    found: dict[str, tuple[str, str]] = {}  # checkpoint key -> the variable's own name, and its attribute path
    for path, node in _reached(nodes):
        for attribute in node.attributes:
            if attribute.name == VALUE and attribute.checkpoint_key in stored and path != "save_counter":
                found.setdefault(attribute.checkpoint_key, (re.sub(r":0$", "", attribute.full_name), path))
    found = _without_copies(found, stored)
    counts = Counter(name for name, _ in found.values())
    return {name if name and counts[name] == 1 else path: stored[key] for key, (name, path) in found.items()}


def _reached(nodes: Any) -> Iterator[tuple[str, Any]]:
    """The nodes but the state of optimizers, each with the shortest path of attributes to it."""
    slots = {slot.slot_variable_node_id for node in nodes for slot in node.slot_variables}
    seen, queue, letters = {0}, [("", 0)], 0
    for path, number in queue:  # it grows while it is walked
        letters += len(path)
        if not 0 <= number < len(nodes) or letters > MAX_PATH_BYTES:
            raise FormatError("the checkpoint has a graph of objects that leads nowhere", "a whole file")
        node = nodes[number]
        yield path, node
        for child in node.children:
            # An optimizer lists the weights that it trains, some of which nothing else may lead to.
            is_state = _is_optimizer(node) and child.local_name not in TRAINED
            if child.node_id not in seen and child.node_id not in slots and not is_state:
                seen.add(child.node_id)
                queue.append((f"{path}/{child.local_name}" if path else child.local_name, child.node_id))


def _is_optimizer(node: Any) -> bool:
    names = {child.local_name for child in node.children}
    return bool(node.slot_variables) or any(signs <= names for signs in OPTIMIZERS)


def _without_copies(found: Mapping[str, tuple[str, str]], stored: Mapping[str, Stored]) -> dict[str, tuple[str, str]]:
    """One of the variables that have one name and one value: `model.export` stores each twice."""
    kinds = {key: (name, stored[key].dtype, stored[key].shape) for key, (name, _) in found.items()}
    counts = Counter(kinds.values())
    # Each is read once, and only if there is another that it may be the same as.
    signs = {key: (kind, _digest(stored[key]) if kind[0] and counts[kind] > 1 else key) for key, kind in kinds.items()}
    firsts = {sign: key for key, sign in reversed(signs.items())}
    return {key: names for key, names in found.items() if firsts[signs[key]] == key}


def _digest(variable: Stored) -> str:
    return hashlib.blake2b(np.asarray(variable.load(), order="C").reshape(-1).view(np.uint8).data).hexdigest()
