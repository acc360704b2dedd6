"""HDF5 files of Keras: half of them made anew by h5py with something odd in them, half with changed bytes."""

from __future__ import annotations

import contextlib
import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

from fuzz import change
from fuzz._target import MIB, Target, one_file
from fuzz.targets._native import open_here

# What the structures of a file begin with, and what many of its messages hold.
WORDS = re.compile(rb"TREE|SNOD|HEAP|OHDR|OCHK|FRHP|FHDB|FHIB|BTHD|BTLF|GCOL|FSHD|\x89HDF|deflate|vars|name")
MAX_BYTES = 1 << 16
GROUPS = ("/", "/", "layers", "layers/dense", "layers/dense/vars", "model_weights", "model_weights/dense")
LINKS = ("/", "/layers", ".", "..", "layers/dense", "nowhere", "/layers/dense/vars/0")
NAMES = ("dense", "kernel", "vars", "0", "1", "layers", "optimizer", "model_weights")
NAMES += tuple(name for name in change.NAMES if len(name) < 400)


# Seeds


def seeds(folder: Path) -> Iterator[bytes]:
    """Both layouts of Keras, as libraries old and new store them."""
    for version in ("earliest", "latest"):
        yield file(version)
        yield _file(version, _keras_2)


def file(version: str) -> bytes:
    """The weights of a small network of Keras 3, as the library of that version stores them."""
    return _file(version, _keras_3)


def _file(version: str, fill: Any) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w", libver=version) as file:
        fill(file)
    return content.getvalue()


def _keras_3(file: Any) -> None:
    layers = {"dense": ((3, 2), (2,)), "batch_normalization": ((2,),) * 4, "dense_1/fc/se": ((2, 2),)}
    for layer, shapes in layers.items():
        variables = file.create_group(f"layers/{layer}/vars")
        variables.attrs["name"] = f"own_{layer.rpartition('/')[2]}"
        for number, shape in enumerate(shapes):
            packing = "gzip" if number == 1 else None
            variables.create_dataset(str(number), data=np.ones(shape, "float32"), compression=packing)
    file["layers/half/vars/0"] = np.ones(3, "V2")
    file["optimizer/vars/0"] = np.array(3)
    file.create_group("seed_generators")


def _keras_2(file: Any) -> None:
    group = file.create_group("model_weights")
    file.attrs["model_config"] = '{"class_name": "Functional", "config": {"layers": []}}'
    group.attrs["layer_names0"], group.attrs["layer_names1"] = [b"dense"], ["conv2d"]
    for layer in ("dense", "conv2d"):
        names = [f"{layer}/kernel:0", f"{layer}/bias:0"]
        group.create_group(layer).attrs["weight_names"] = [name.encode() for name in names]
        for name, dtype in zip(names, (">f4", "float16"), strict=True):
            group[layer].create_dataset(name, data=np.ones((2, 3), dtype))
    file["optimizer_weights/Adam/iterations:0"] = 3


# Changes


def mutate(data: bytes, rng: Random) -> bytes:
    """A field near a structure of the file, any byte, or a new file with something in it that none should have."""
    kind = rng.random()
    if kind < 0.3 and len(new := made(rng)) <= MAX_BYTES:
        return new
    if kind < 0.7 and (found := list(WORDS.finditer(data))):
        start = rng.choice(found).end() + rng.randrange(64)
    else:
        start = rng.randrange(len(data) + 1) & -8
    if kind > 0.9:
        return change.change_bytes(data, rng)
    code = rng.choice("BHIQ")
    width = struct.calcsize(code)
    value = change.near(int.from_bytes(data[start : start + width], "little"), rng)
    value = rng.randrange(len(data) + 1) if rng.random() < 0.2 else value  # addresses
    return change.replace_at(data, start, change.pack_number(code, value))[: len(data) + 8]


def made(rng: Random) -> bytes:
    """A file of Keras with a few odd things."""

    def fill(file: Any) -> None:
        (_keras_3 if rng.random() < 0.5 else _keras_2)(file)
        for _ in range(rng.choice((1, 1, 2, 4))):
            with contextlib.suppress(Exception):  # what h5py does not write
                rng.choice(ODD)(file[rng.choice(GROUPS)], rng.choice(NAMES), rng)

    return _file(rng.choice(("earliest", "latest")), fill)


def _link(group: Any, name: str, rng: Random) -> None:
    target = rng.choice((*LINKS, *change.ESCAPES))
    kind = rng.randrange(3)
    group[name] = h5py.SoftLink(target) if kind == 0 else h5py.ExternalLink(target, rng.choice(LINKS))
    if kind == 2:
        del group[name]
        group[name] = rng.choice((group, group.file, group.file["/"]))


def _elsewhere(group: Any, name: str, rng: Random) -> None:
    source = rng.choice((*change.ESCAPES, "input"))
    if rng.random() < 0.5:
        group.create_dataset(name, (3,), "f4", external=[(source, 0, 12)])
        return
    layout = h5py.VirtualLayout((3,), "f4", maxshape=(None,))
    layout[:] = h5py.VirtualSource(source, "/layers/dense/vars/1", (3,), maxshape=(None,))
    group.create_virtual_dataset(name, layout, fillvalue=1)


def _data(group: Any, name: str, rng: Random) -> None:
    shape = tuple(rng.choice((0, 1, 2, 3, 1 << 20, 1 << 40, 1 << 60)) for _ in range(rng.choice((0, 1, 2, 3, 32))))
    dtype = rng.choice(("f4", ">f8", "f2", "?", "i1", ">u8", "V2", "V3", "S4", "c8", "i4,f4", "(2,2)f4", "f16"))
    options: dict[str, Any] = {"fillvalue": rng.choice((None, 1))}
    if rng.random() < 0.5:
        options["chunks"] = tuple(min(max(size, 1), 4) for size in shape) or None
        options["compression"] = rng.choice((None, "gzip", "lzf", "szip"))
        options["shuffle"], options["fletcher32"] = rng.random() < 0.5, rng.random() < 0.5
    group.create_dataset(name, shape, dtype, **options)


def _bomb(group: Any, name: str, rng: Random) -> None:
    group.create_dataset(name, data=np.zeros(rng.choice((1 << 18, 1 << 22)), "i1"), compression="gzip")


def _objects(group: Any, name: str, rng: Random) -> None:
    kind = rng.choice((h5py.string_dtype(), h5py.vlen_dtype(np.int32), h5py.ref_dtype, h5py.enum_dtype({"a": 1})))
    group.create_dataset(name, (2,), kind)


def _attribute(group: Any, name: str, rng: Random) -> None:
    values: tuple[Any, ...] = ("dense", [b"dense"], ["x"], 3, 2.5, np.ones((2, 2)), "", b"\xff", "n" * 9000)
    values += (
        [rng.choice(NAMES).encode("utf-8", "replace")] * 3,
        h5py.Empty("f4"),
        '{"config": ' * 500,
        '{"config": {"layers": [{"config": {}, "class_name": 5}]}}',
    )
    names = ("layer_names", "layer_names0", "weight_names", "weight_names0", "name", "model_config", name)
    group.attrs[rng.choice(names)] = rng.choice(values)


def _deep(group: Any, name: str, rng: Random) -> None:
    group.create_group("a/" * rng.choice((5, 30, 70)) + "vars")["0"] = np.ones(3)


def _kind(group: Any, name: str, rng: Random) -> None:
    group[name] = np.dtype("f4")
    group[f"{name}_"] = group.file["/"]


ODD = (_link, _link, _elsewhere, _data, _data, _bomb, _objects, _attribute, _attribute, _attribute, _deep, _kind)

TARGET = Target(
    "hdf5",
    ("parity.files.hdf5", "parity.files._keras", "parity.files._child", "parity.files._map"),
    seeds,
    mutate,
    open_here,
    one_file("input.h5"),
    contained=True,
    megabytes=1024,
    seconds=3.0,
    fixed_bytes=512 * MIB,
    max_bytes=MAX_BYTES,
)
