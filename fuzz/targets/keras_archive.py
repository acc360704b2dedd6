"""Archives of Keras 3: a zip file of JSON and HDF5."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from fuzz import change
from fuzz._target import MIB, Target, one_file
from fuzz.targets import hdf5
from fuzz.targets._native import open_here

MAX_BYTES = 1 << 16
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
GATE = change.Pairs([["kind", "hard_sigmoid"], ["slope", 0.2], ["offset", 0.5]])
WORDS: tuple[Any, ...] = (
    *("attention_keras>CBAM", "attention_keras>ECA", "CBAM", "Lambda", "Functional", "Dense", "BatchNormalization"),
    *("os", "builtins", "eval", "module", "class_name", "registered_name", "config", "layers", "layer", "build_config"),
    *("input_shape", "name", "dense", "gate", "padding", None, 1, True, [1, 2, 3, 4], [], GATE, change.Raw("NaN")),
    change.Pairs([["config", change.Pairs([["layers", []]])]]),
    ["4wEAAAAAAAAAAAAAAAEAAAADAAAA8woAAACXAHwAUwA=", None, None],
)


def seeds(folder: Path) -> Iterator[bytes]:
    """An archive as Keras writes it, one of a nested model, and one that others packed again."""
    parts = {CONFIG: json.dumps(_model(_LAYERS)).encode(), "metadata.json": b"{}", WEIGHTS: hdf5.file("earliest")}
    yield packed(parts, zipfile.ZIP_STORED)
    nested = _layer("Functional", {"name": "inner", **_model(_LAYERS)["config"]})
    wrapped = _layer("TimeDistributed", {"name": "td", "layer": _LAYERS[2]})
    parts[CONFIG] = json.dumps(_model([nested, wrapped, *_LAYERS])).encode()
    yield packed(parts, zipfile.ZIP_DEFLATED)
    yield packed({CONFIG: b"{}", WEIGHTS: hdf5.file("latest")}, zipfile.ZIP_STORED)


def _layer(kind: str, config: Mapping[str, Any], package: str = "") -> dict[str, Any]:
    return {
        "module": package or "keras.layers",
        "class_name": kind,
        "config": config,
        "registered_name": f"{package}>{kind}" if package else None,
        "build_config": {"input_shape": [None, 8, 8, 4]},
    }


_GATE = {"kind": "hard_sigmoid", "slope": 0.2, "offset": 0.5}
_LAYERS = [
    _layer("Dense", {"name": "own_dense", "use_bias": True}),
    _layer("BatchNormalization", {"name": "norm", "scale": True, "center": True}),
    _layer("CBAM", {"name": "stage1_cbam", "gate": _GATE, "reduction": 4}, "attention_keras"),
    _layer("Lambda", {"name": "lambda", "function": {"class_name": "__lambda__", "config": {"code": "4wEA"}}}),
]


def _model(layers: list[Any]) -> dict[str, Any]:
    return _layer("Functional", {"name": "model", "layers": layers})


def packed(parts: Mapping[str, bytes], method: int) -> bytes:
    """A zip archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, part in parts.items():
            archive.writestr(zipfile.ZipInfo(name), part, method)
    return content.getvalue()


def mutate(data: bytes, rng: Random) -> bytes:
    """A change of a record of the archive, of its configuration, its weights, its members; or of any byte."""
    kind = rng.random()
    parts = _parts(data)
    if kind < 0.2 or parts is None:
        return change.change_zip(data, rng)
    if kind < 0.25:
        return change.change_bytes(data, rng)
    if kind < 0.6:
        config = change.load_json(parts.get(CONFIG, b"{}"))
        parts[CONFIG] = change.dump_json(change.change_json(config, rng, WORDS))
    elif kind < 0.85:
        parts[WEIGHTS] = hdf5.mutate(parts.get(WEIGHTS, b""), rng)
    else:
        return _members(parts, rng)
    new = packed(parts, METHODS[0] if rng.random() < 0.8 else rng.choice(METHODS))
    return new if len(new) <= MAX_BYTES else data


def _parts(data: bytes) -> dict[str, bytes] | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {info.filename: archive.read(info) for info in archive.infolist() if info.file_size < MAX_BYTES}
    except Exception:  # of many classes, for a damaged archive
        return None


def _members(parts: Mapping[str, bytes], rng: Random) -> bytes:
    """Members of other names, twice, or that unfold to much."""
    content = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w") as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        names = [name for name in (*change.NAMES, CONFIG, WEIGHTS) if "\ud800" not in name]
        for name, part in [*parts.items(), (rng.choice(names), bytes(rng.choice((0, 9, 1 << 20))))]:
            new = rng.choice(names) if rng.random() < 0.1 else name
            archive.writestr(zipfile.ZipInfo(new), part, rng.choice(METHODS[:2]))
            if rng.random() < 0.1:
                archive.writestr(zipfile.ZipInfo(new), part, rng.choice(METHODS))
    return content.getvalue()


TARGET = Target(
    "keras_archive",
    (
        "parity.files.keras_archive",
        "parity.files.hdf5",
        "parity.files._keras",
        "parity.files._child",
        "parity.files._zip",
    ),
    seeds,
    mutate,
    open_here,
    one_file("input.keras"),
    contained=True,
    folders=(tempfile.gettempdir(),),  # where a member is unpacked, into a file without a name
    megabytes=1024,
    seconds=3.0,
    fixed_bytes=512 * MIB,
    max_bytes=MAX_BYTES,
)
