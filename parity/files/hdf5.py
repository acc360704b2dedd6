"""HDF5 files of Keras: weights of Keras 3, and what Keras 2, tf.keras and Keras 3's old writer leave.

`read` is for everybody; `collect` runs in the child process.

Keras 3 stores ``layers/dense_1/vars/0``: groups are numbered by class, variables by the order of their making. The
attribute ``name`` of ``vars`` is the layer's own name. The older format stores ``dense_1/dense_1/kernel:0`` and the
lists ``layer_names`` and ``weight_names``. Both become ``dense_1/kernel``.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from parity.errors import BackendMissingError, FormatError
from parity.files import Contents, _child, _keras
from parity.files._child import Found, Stored

# Compressed or never written data may unfold to so many times the bytes that are stored, and to this much for nothing.
EXPANSION = 100
FREE_BYTES = 1 << 20
MAX_DEPTH = 64

# Where optimizers keep their state; nobody reads it.
OPTIMIZERS = ("optimizer", "optimizer_weights")
MAX_CONFIG_BYTES = 1 << 26


def read(path: str) -> Contents:
    """What the HDF5 file at `path` holds; read in a child process.

    Raises:
        FormatError: for a damaged file, one that reaches out of itself, or one of no known layout.
        BackendMissingError: where h5py is not installed.
    """
    return _child.read("hdf5", path)


def collect(path: str) -> Found:
    """The same, in this process."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
    return of_file(path, path, 0, size, {})


def of_file(path: str, source: Any, start: int | None, size: int, config: Mapping[str, Any]) -> Found:
    """What an HDF5 file holds that begins at the byte `start` of the file at `path`.

    Args:
        path: for messages.
        source: a path or an open file, as h5py takes it.
        start: where it begins; None where the file at `path` does not hold its bytes as they are.
        size: its bytes.
        config: the model's configuration, where another file tells it.
    """
    try:
        import h5py
    except ImportError as error:
        raise BackendMissingError(
            f"received {path!r}, an HDF5 file, but h5py is not installed", remedy="pip install h5py"
        ) from error
    root = h5py.File(source, "r")
    groups, found = _tree(root)
    datasets = {name: _stored(name, dataset, start) for name, dataset in found.items()}
    total = sum(_bytes(stored.shape, stored.dtype) for stored in datasets.values())
    if total > EXPANSION * (size + FREE_BYTES):
        raise FormatError(f"{path} declares {total} bytes of data in a file of {size}", "data that is there")
    if "model_weights" in groups or _strings(root, "layer_names"):
        config = config or _json(root.attrs.get("model_config"))
        prefix = "model_weights/" if "model_weights" in groups else ""
        return Found("Keras 2 HDF5 file", _legacy(groups, prefix, datasets), _keras.hints(config))
    if any(re.search(r"(^|/)vars/\d+$", name) for name in datasets):
        return Found("Keras 3 weights", _keras.named(datasets, _names(groups, datasets), config), _keras.hints(config))
    raise FormatError(
        f"{path} is an HDF5 file without the layout of Keras",
        "'layer_names', 'model_weights' or groups 'vars'",
        "open it with h5py and pass a mapping of its arrays",
    )


# Datasets


def _tree(root: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The groups and the datasets by their paths; nothing is followed but the hard links of the file itself.

    Whatever else the file names is looked up in these, and never in the file: a path could lead through other links.
    """
    import h5py

    groups, datasets, seen = {"": root}, {}, set()
    queue = deque([("", root)])
    while queue:
        path, group = queue.popleft()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or path.count("/") > MAX_DEPTH:
            raise FormatError(f"the group {path!r} holds itself, or is more than {MAX_DEPTH} groups deep", "a tree")
        seen.add(address)
        for name in group:
            if not isinstance(name, str) or "/" in name:
                raise FormatError(f"the group {path!r} holds {name!r}", "names of text without '/'")
            link, full = group.get(name, getlink=True), f"{path}{name}"
            if not isinstance(link, h5py.HardLink):
                raise FormatError(f"{full!r} is a {type(link).__name__}", "data of the file itself")
            if path == "" and name in OPTIMIZERS:
                continue
            child = group[name]
            if isinstance(child, h5py.Group):
                groups[full] = child
                queue.append((f"{full}/", child))
            elif isinstance(child, h5py.Dataset):
                datasets[full] = child
    return groups, datasets


def _stored(name: str, dataset: Any, start: int | None) -> Stored:
    if dataset.external or dataset.is_virtual:
        raise FormatError(f"the data of {name!r} lies in another file", "data of the file itself")
    shape, dtype = dataset.shape, _dtype(name, dataset)
    if shape is None:
        raise FormatError(f"{name!r} is empty", "numbers")
    if (count := _bytes(shape, dtype)) > FREE_BYTES + EXPANSION * dataset.id.get_storage_size():
        raise FormatError(f"{name!r} declares {count} bytes, many times those that are stored", "data that is there")
    offset = dataset.id.get_offset() if _is_plain(dataset) else None
    place = None if offset is None or start is None else start + offset
    return Stored(dtype, shape, lambda: dataset[()].view(dtype), place)


def _is_plain(dataset: Any) -> bool:
    """Whether its numbers are stored as NumPy holds them: HDF5 knows many more kinds, which it converts."""
    import h5py

    return dataset.dtype.kind == "V" or dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype)


def _bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _dtype(name: str, dataset: Any) -> np.dtype:
    if dataset.dtype == np.dtype("V2"):  # so Keras writes bfloat16
        return np.dtype(ml_dtypes.bfloat16)
    if dataset.dtype.kind not in "biuf" or dataset.dtype.subdtype:
        raise FormatError(f"{name!r} has the dtype {dataset.dtype}", "numbers")
    return dataset.dtype


# Attributes


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _strings(group: Any, name: str) -> list[str]:
    """The list of texts `name`, which Keras cuts into `name`0, `name`1, .. where it is long."""
    if name in group.attrs:
        return [_text(value) for value in np.ravel(group.attrs[name])]
    chunks = [name + str(number) for number in range(len(group.attrs)) if name + str(number) in group.attrs]
    return [_text(value) for chunk in chunks for value in np.ravel(group.attrs[chunk])]


def _json(value: Any) -> dict[str, Any]:
    text = _text(value) if value is not None else "{}"
    try:
        found = json.loads(text) if len(text) < MAX_CONFIG_BYTES else {}
    except (ValueError, RecursionError):
        return {}  # only hints are lost
    return found if isinstance(found, dict) else {}


# Names


def _legacy(groups: Mapping[str, Any], prefix: str, datasets: Mapping[str, Stored]) -> dict[str, Stored]:
    preferred = {}
    for layer in [*_strings(groups[prefix.rstrip("/")], "layer_names"), "top_level_model_weights"]:
        if (group := groups.get(f"{prefix}{layer}")) is None:
            if layer != "top_level_model_weights":
                raise FormatError(f"the layer {layer!r} is named and not there", "a whole file")
            continue
        for weight in _strings(group, "weight_names"):
            path = f"{prefix}{layer}/{weight}"
            if path not in datasets:
                raise FormatError(f"the weight {path!r} is named and not there", "a whole file")
            preferred[path] = _legacy_name("" if layer == "top_level_model_weights" else layer, weight)
    fallbacks = {path: path.removeprefix(prefix).removesuffix(":0") for path in preferred}
    return {name: datasets[path] for path, name in _keras.distinct(preferred, fallbacks).items()}


def _legacy_name(layer: str, weight: str) -> str:
    """``dense/kernel:0`` and ``model/dense/kernel:0`` of the layer ``dense`` are both ``dense/kernel``."""
    name = weight.removesuffix(":0")
    parents, _, leaf = f"/{name}".rpartition("/")
    if layer and f"{parents}/".find(f"/{layer}/") >= 0:
        name = f"{parents}/".partition(f"/{layer}/")[2] + leaf
    return f"{layer}/{name}" if layer else name


def _names(groups: Mapping[str, Any], datasets: Mapping[str, Stored]) -> dict[str, str]:
    """The names that layers had, by the path of their group; "" is the model's own."""
    owners = {path.rpartition("/vars/")[0] for path in datasets if "/vars/" in path}
    paths = {owner[:end] for owner in owners for end in (*_slashes(owner), len(owner))}
    found = {}
    for path in sorted(paths):
        variables = groups.get(f"{path}/vars" if path else "vars")
        name = variables.attrs.get("name") if variables is not None else None
        if name is not None:
            found[path] = _text(name)
    return found


def _slashes(path: str) -> list[int]:
    return [end for end, letter in enumerate(path) if letter == "/"]
