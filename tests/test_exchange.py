"""The exchange file: bitwise, deterministic, atomic, and every damaged file a named error."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from parity import exchange
from parity.block import Block, Probe
from parity.errors import (
    FormatError,
    InputError,
    MissingTensorError,
    SpecError,
    TensorShapeError,
    UnexpectedTensorError,
    VersionError,
)
from parity.spec import CBAMOptions, CoordinateAttentionOptions, ECAOptions, Gate, SqueezeExcitationOptions

FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def bits(value):
    """The bytes of an array in C order, with what they mean."""
    value = np.asarray(value)
    return value.shape, value.dtype.newbyteorder("="), value.astype(value.dtype.newbyteorder("=")).tobytes()


def same(a, b):
    """Whether two blocks are equal bit for bit."""
    contents = [{k: bits(v) for k, v in part.items()} for block in (a, b) for part in (block.tensors, block.extras)]
    return (a.name, a.spec, *contents[:2]) == (b.name, b.spec, *contents[2:])


def random_bits(shape, dtype, seed):
    """An array of random bits: NaN payloads, infinities, negative zeros and subnormal numbers included."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def block_of(spec, dtype=np.float64, seed=0, name="stage1/attn", **extras):
    tensors = {key: random_bits(shape, dtype, seed + i) for i, (key, shape) in enumerate(spec.parameters().items())}
    return Block(name, spec, tensors, extras)


SPECS = [
    SqueezeExcitationOptions(reduction=4, gate=Gate("hard_sigmoid", slope=0.2)).resolve(12),
    CBAMOptions(reduction=5, kernel_size=3).resolve(10, 3),
    ECAOptions(kernel_size=5, bias=True).resolve(None),
    CoordinateAttentionOptions(hidden_channels=3).resolve(7, 1),
]

BLOCK = block_of(ECAOptions(kernel_size=3, bias=True).resolve(None), name="eca")


@settings(max_examples=60, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(["C", "F", "reversed", "strided", "big-endian", "read-only"]),
    seed=st.integers(0, 2**32 - 9),
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    count=st.integers(-(2**63), 2**63 - 1),
)
def test_round_trip_is_bitwise(tmp_path_factory, spec, dtype, layout, seed, name, count):
    def laid_out(value):
        if layout == "big-endian":
            return value.astype(value.dtype.newbyteorder(">"))
        if layout == "strided":
            wide = np.zeros((*value.shape[:-1], 2 * value.shape[-1]), value.dtype)
            wide[..., ::2] = value
            return wide[..., ::2]
        value = value.copy("F" if layout == "F" else "C")
        value.flags.writeable = layout != "read-only"
        return value[..., ::-1] if layout == "reversed" else value

    extras = {"norm.num_batches_tracked": np.array(count), "empty": np.empty((0, 3), np.float32)}
    raw = block_of(spec, dtype, seed, name)
    block = Block(name, spec, {key: laid_out(value) for key, value in raw.tensors.items()}, extras)
    path = tmp_path_factory.mktemp("exchange") / "a.safetensors"
    exchange.write(path, block)
    (back,) = exchange.read(path)
    assert same(back, block)
    assert layout in ("reversed", "F") or same(Block(name, spec, back.tensors), raw)


def test_special_numbers_survive(tmp_path):
    for dtype in FLOATS:
        special = np.array([-0.0, np.nan, -np.inf], dtype).reshape(1, 1, 3)
        block = Block("", ECAOptions(kernel_size=3).resolve(None), {"conv.kernel": special})
        exchange.write(tmp_path / "a", block)
        (back,) = exchange.read(tmp_path / "a")
        assert np.signbit(back.tensors["conv.kernel"][0, 0, 0])
        assert same(back, block)


def test_safetensors_corrupts_what_we_do_not(tmp_path):
    """safetensors 0.8.0 writes the raw memory of a transposed array under its logical shape; ours must not."""
    value = np.arange(6.0).reshape(2, 3).T
    tensors = {"w": value}
    save_file(tensors, tmp_path / "theirs")
    theirs = load_file(tmp_path / "theirs")["w"]
    raw_memory = np.arange(6.0).reshape(3, 2)
    assert np.array_equal(theirs, raw_memory) or np.array_equal(theirs, value), "a third behaviour"
    assert not np.array_equal(raw_memory, value)
    exchange.write_tensors(tmp_path / "ours", tensors, {})
    assert np.array_equal(load_file(tmp_path / "ours")["w"], value)


def test_several_blocks_keep_their_order(tmp_path):
    blocks = [block_of(spec, np.float32, seed, f"b{9 - seed}/x") for seed, spec in enumerate(SPECS)]
    exchange.write(tmp_path / "a", blocks)
    assert all(same(a, b) for a, b in zip(exchange.read(tmp_path / "a"), blocks, strict=True))


def test_file_is_what_the_design_says(tmp_path):
    exchange.write(tmp_path / "a", [BLOCK, block_of(SPECS[0], name="a/b", count=np.int64(7))])
    tensors, metadata = exchange.read_tensors(tmp_path / "a")
    assert {"eca/conv.kernel", "eca/conv.bias", "a/b/fc1.kernel", "a/b/extras:count"} <= tensors.keys()
    assert list(metadata) == ["attention-parity"]
    semantics = json.loads(metadata["attention-parity"])
    assert semantics == {"version": 1, "blocks": {"eca": BLOCK.spec.to_json(), "a/b": SPECS[0].to_json()}}


def test_bytes_are_deterministic_and_aligned(tmp_path):
    odd = ECAOptions(kernel_size=5, bias=True).resolve(None)
    blocks = [block_of(odd, np.float16, name="h", one=np.int8(1)), block_of(SPECS[0], name="d")]
    shuffled = Block("h", odd, dict(reversed(blocks[0].tensors.items())), blocks[0].extras)
    exchange.write(tmp_path / "a", blocks)
    exchange.write(tmp_path / "b", [shuffled, blocks[1]])
    raw = (tmp_path / "a").read_bytes()
    assert raw == (tmp_path / "b").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8 : 8 + size])
    sizes = {"F64": 8, "F16": 2, "I8": 1}
    entries.pop("__metadata__")
    assert size % 8 == 0
    assert all(entry["data_offsets"][0] % sizes[entry["dtype"]] == 0 for entry in entries.values())


# Atomicity


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failure):
    path = tmp_path / "a.safetensors"
    exchange.write(path, BLOCK)
    old, calls, payload = path.read_bytes(), [], exchange.payload

    def failing(value):
        calls.append(sorted(os.listdir(tmp_path)))
        if len(calls) == 2:
            raise failure
        return payload(value)

    monkeypatch.setattr(exchange, "payload", failing)
    with pytest.raises(FormatError if isinstance(failure, OSError) else KeyboardInterrupt):
        exchange.write(path, block_of(SPECS[1]))
    assert len(calls[1]) == 2, "the temporary file lies beside the target"
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert path.read_bytes() == old


def test_file_and_folder_are_synced_around_the_rename(tmp_path, monkeypatch):
    events, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.path.isdir(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    exchange.write(tmp_path / "a", BLOCK)
    assert events[1] == "replace"
    assert len(events) == (3 if os.name == "posix" else 2)


def test_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    exchange.write(tmp_path / "link", BLOCK)
    assert (tmp_path / "link").is_symlink()
    assert same(exchange.read(tmp_path / "real")[0], BLOCK)


def test_files_for_a_moment_are_not_synced(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("synced"))
    exchange.write_tensors(tmp_path / "a", {"w": np.ones(2)}, {}, durable=False)
    assert exchange.read_tensors(tmp_path / "a")[0].keys() == {"w"}


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_replaced_file_keeps_its_permissions(tmp_path, monkeypatch, mode):
    path, seen, payload = tmp_path / "a", [], exchange.payload

    def looking(value):
        seen.extend(os.stat(tmp_path / name).st_mode & 0o777 for name in os.listdir(tmp_path))
        return payload(value)

    exchange.write(path, BLOCK)
    path.chmod(mode)
    monkeypatch.setattr(exchange, "payload", looking)
    exchange.write(path, BLOCK)
    assert path.stat().st_mode & 0o777 == mode
    assert set(seen) == {mode}, "nor may others read it while it is written"


# What is refused on writing


@pytest.mark.parametrize("strange", [None, {"a": 1}, "abc", [BLOCK, 7]])
def test_what_is_no_block(tmp_path, strange):
    with pytest.raises(SpecError, match=r"^received .* to write; expected a parity\.Block, or several; parity\.read"):
        exchange.write(tmp_path / "a", strange)
    assert os.listdir(tmp_path) == []


def test_nothing_to_write(tmp_path):
    with pytest.raises(MissingTensorError, match=r"^received no block to write; expected at least one$"):
        exchange.write(tmp_path / "a", [])


def test_two_blocks_of_one_name(tmp_path):
    with pytest.raises(UnexpectedTensorError, match="several blocks named 'eca'; expected distinct names; rename with"):
        exchange.write(tmp_path / "a", [BLOCK, BLOCK])
    assert os.listdir(tmp_path) == []


def test_tensor_named_metadata(tmp_path):
    with pytest.raises(UnexpectedTensorError, match="received a tensor named '__metadata__'; expected another name"):
        exchange.write_tensors(tmp_path / "a", {"__metadata__": np.ones(1)}, {})


def test_number_that_the_format_lacks(tmp_path):
    with pytest.raises(FormatError, match="received w of dtype complex128; expected one of float64"):
        exchange.write_tensors(tmp_path / "a", {"w": np.ones(1, complex)}, {})


def test_name_that_is_no_unicode(tmp_path):
    with pytest.raises(FormatError, match="expected valid Unicode"):
        exchange.write(tmp_path / "a", Block("\ud800", BLOCK.spec, BLOCK.tensors))


@pytest.mark.parametrize("path", ["missing/folder/a", "."])
def test_path_that_cannot_be_written(tmp_path, path):
    with pytest.raises(FormatError, match=r"cannot be written: .*; expected a file in a writable folder"):
        exchange.write(tmp_path / path, BLOCK)
    assert os.listdir(tmp_path) == []


# What is refused on reading


@pytest.fixture
def damaged(tmp_path):
    """A function that writes the block with its metadata or tensors changed."""

    def write(change=lambda semantics, tensors: None, text=None):
        tensors = {f"eca/{name}": value for name, value in BLOCK.tensors.items()}
        semantics = {"version": 1, "blocks": {"eca": BLOCK.spec.to_json()}}
        change(semantics, tensors)
        text = json.dumps(semantics) if text is None else text
        exchange.write_tensors(tmp_path / "damaged", tensors, {"attention-parity": text})
        return tmp_path / "damaged"

    assert same(exchange.read(write())[0], BLOCK)
    return write


def test_every_truncation_is_a_format_error(tmp_path):
    exchange.write(tmp_path / "a", BLOCK)
    whole = (tmp_path / "a").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(FormatError, match="cannot be read as a safetensors file: "):
            exchange.read(tmp_path / "a")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_changed_byte_raises_anything_else(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("exchange") / "a"
    exchange.write(path, BLOCK)
    raw = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(FormatError, MissingTensorError, UnexpectedTensorError, TensorShapeError):
        exchange.read(path)


def test_no_safetensors_file(tmp_path):
    (tmp_path / "a").write_bytes(b"PK\x03\x04 a zip file, as PyTorch writes them")
    for path in (tmp_path / "a", tmp_path / "absent", tmp_path):
        with pytest.raises(
            FormatError, match=r"cannot be read as a safetensors file: .*; expected a whole, readable file"
        ):
            exchange.read(path)


def test_dtype_that_nothing_here_knows(tmp_path):
    entries = {"w": {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [0, 3]}}
    header = json.dumps(entries).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + b"abc")
    with pytest.raises(FormatError, match=r"a holds w of dtype F8_E4M3; expected one of F64, F32, F16, BF16, "):
        exchange.read_tensors(tmp_path / "a")


@pytest.mark.parametrize("second", ["a", "\\u0061"])
def test_two_tensors_of_one_name(tmp_path, second):
    entries = [f'"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' for name in ("a", second)]
    header = "{" + ",".join(entries) + "}"
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
    with pytest.raises(FormatError, match="it names 'a' twice"):
        exchange.read_tensors(tmp_path / "a")


def test_complex_numbers_beside_weights(tmp_path):
    save_file({"w": np.ones(2, np.complex64)}, tmp_path / "a")
    assert exchange.read_tensors(tmp_path / "a")[0]["w"].dtype == np.complex64


def test_other_safetensors_file(tmp_path):
    exchange.write_tensors(tmp_path / "a", {"w": np.ones(2)}, {})
    with pytest.raises(
        FormatError, match="is a safetensors file but no exchange file; expected the key 'attention-par"
    ):
        exchange.read(tmp_path / "a")


def test_newer_version(damaged):
    path = damaged(lambda semantics, _: semantics.update(version=2))
    sentence = "has format version 2; expected at most 1, the newest that this release knows; upgrade attention-parity"
    with pytest.raises(VersionError, match=sentence):
        exchange.read(path)
    with pytest.raises(VersionError, match=sentence):
        exchange.read(damaged(text='{"version": 2}'))


@pytest.mark.parametrize("version", ["1", 0, True, None, 1.0])
def test_version_that_is_none(damaged, version):
    with pytest.raises(FormatError, match=re.escape(f"has format version {version!r}; expected 1")):
        exchange.read(damaged(lambda semantics, _: semantics.update(version=version)))


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"version": 1}', "[" * 100_000])
def test_metadata_that_is_no_json(damaged, text):
    with pytest.raises(FormatError, match=r"has unreadable metadata .*; expected JSON with 'version' and 'blocks'"):
        exchange.read(damaged(text=text))


def test_blocks_that_are_no_object(damaged):
    with pytest.raises(FormatError, match="has list as its 'blocks'"):
        exchange.read(damaged(lambda semantics, _: semantics.update(blocks=[])))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("gate", "tanh", "the spec of block 'eca' is invalid: received gate='tanh'"),
        ("kernel_size", 4, "the spec of block 'eca' is invalid: received kernel_size=4; expected an odd integer"),
        ("new", 1, "the spec of block 'eca' is invalid: received a ECASpec with unknown 'new'"),
        (
            "block",
            "sk",
            "the spec of block 'eca' is invalid: received .* expected a mapping whose 'block' is one of se",
        ),
    ],
)
def test_bad_spec(damaged, field, value, sentence):
    with pytest.raises(FormatError, match=sentence):
        exchange.read(damaged(lambda semantics, _: semantics["blocks"]["eca"].update({field: value})))


def test_missing_tensor(damaged):
    with pytest.raises(
        MissingTensorError, match=r"^block 'eca' lacks conv\.bias; expected exactly conv\.kernel, conv\.b"
    ):
        exchange.read(damaged(lambda _, tensors: tensors.pop("eca/conv.bias")))


def test_unexpected_tensor(damaged):
    with pytest.raises(UnexpectedTensorError, match="block 'eca' has the unexpected fc1; expected exactly conv"):
        exchange.read(damaged(lambda _, tensors: tensors.update({"eca/fc1": np.ones(1)})))


@pytest.mark.parametrize("name", ["ca/conv.kernel", "conv.kernel"])
def test_tensor_of_no_block(damaged, name):
    sentence = f"holds the tensor '{name}' of no block; expected one of the blocks 'eca'"
    with pytest.raises(UnexpectedTensorError, match=sentence):
        exchange.read(damaged(lambda _, tensors: tensors.update({name: np.ones(1)})))


def test_mis_shaped_tensor(damaged):
    with pytest.raises(TensorShapeError, match=r"block 'eca' has conv\.bias of shape \(2,\) instead of \(1,\)"):
        exchange.read(damaged(lambda _, tensors: tensors.update({"eca/conv.bias": np.ones(2)})))


# Mapped files


def test_mapped_arrays_are_views_of_the_file(tmp_path):
    exchange.write(tmp_path / "a", [block_of(SPECS[1], np.float32), BLOCK])
    copies, _ = exchange.read_tensors(tmp_path / "a")
    views, _ = exchange.read_tensors(tmp_path / "a", mapped=True)
    assert list(views) == list(copies)
    for name, view in views.items():
        assert bits(view) == bits(copies[name])
        assert not view.flags.writeable
        assert not view.flags.owndata
        assert copies[name].flags.writeable, "what evaluate gives back is the caller's own"


def test_blocks_of_a_file_own_no_memory(tmp_path):
    exchange.write(tmp_path / "a", BLOCK)
    (back,) = exchange.read(tmp_path / "a")
    assert not any(value.flags.owndata or value.flags.writeable for value in back.tensors.values())


def test_mapped_arrays_outlive_their_file(tmp_path):
    exchange.write(tmp_path / "a", BLOCK)
    (old,) = exchange.read(tmp_path / "a")
    exchange.write(tmp_path / "a", block_of(SPECS[1]))  # takes its place
    assert same(old, BLOCK)
    (tmp_path / "a").unlink()
    assert same(old, BLOCK)


def test_blocks_may_be_written_over_the_file_that_they_are_views_of(tmp_path):
    exchange.write(tmp_path / "a", [BLOCK, block_of(SPECS[0])])
    blocks = exchange.read(tmp_path / "a")
    exchange.write(tmp_path / "a", blocks[::-1])
    assert all(same(a, b) for a, b in zip(exchange.read(tmp_path / "a"), [block_of(SPECS[0]), BLOCK], strict=True))


@pytest.mark.parametrize("mapped", [True, False])
def test_tensors_anywhere_in_a_file(tmp_path, mapped):
    """The format lets a tensor start at any byte, be empty, and have no axes."""
    tensors = {"byte": np.array([7], np.uint8), "w": np.arange(6.0).reshape(2, 3), "half": np.array(-2.5, np.float16)}
    tensors |= {"none": np.empty((0, 3), np.float64), "b": np.array([1.5, -0.0], ml_dtypes.bfloat16)}
    entries, body = {}, b""
    for name, value in tensors.items():
        kind = exchange.DTYPES[value.dtype]
        offsets = [len(body), len(body) + value.nbytes]
        entries[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": offsets}
        body += value.tobytes()
    header = json.dumps(entries).encode()
    header += b" " * ((1 - len(header)) % 8)  # so that the float64 numbers start at no multiple of 8
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + body)
    back, _ = exchange.read_tensors(tmp_path / "a", mapped=mapped)
    assert {name: bits(value) for name, value in back.items()} == {name: bits(v) for name, v in tensors.items()}
    assert np.array_equal(back["w"] * 2, tensors["w"] * 2)
    exchange.write_tensors(tmp_path / "b", back, {})
    assert {name: bits(value) for name, value in load_file(tmp_path / "b").items() if name != "b"} == {
        name: bits(value) for name, value in tensors.items() if name != "b"
    }


def test_file_replaced_between_two_looks(tmp_path, monkeypatch):
    """The header that was proved and the bytes that are mapped may be of two files: never wrong numbers."""
    exchange.write_tensors(tmp_path / "a", {"w": np.ones(2)}, {})
    exchange.write_tensors(tmp_path / "b", {"w": np.ones(3, np.float32)}, {})
    opened = exchange.safe_open
    monkeypatch.setattr(exchange, "safe_open", lambda path, **options: opened(tmp_path / "b", **options))
    with pytest.raises(FormatError, match="cannot be read as a safetensors file"):
        exchange.read_tensors(tmp_path / "a", mapped=True)


def test_progress_adds_up(tmp_path):
    told = []
    exchange.write(tmp_path / "a", block_of(SPECS[1]), progress=told.append)
    assert len(told) == len(SPECS[1].parameters())
    assert sum(told) == sum(value.nbytes for value in block_of(SPECS[1]).tensors.values())


# Probes


def probed(spec=SPECS[0], name="stage1/attn", dtype=np.float32, channels=12):
    shape = (2, channels, *range(5, 5 + spec.spatial_dims))
    x, output = random_bits(shape, dtype, 1), random_bits(shape, dtype, 2)
    return replace(block_of(spec, name=name), probe=Probe(x[:, :, ::-1], output, "timm 1.0.31"))


@pytest.mark.parametrize("dtype", FLOATS)
def test_probe_round_trip_is_bitwise(tmp_path, dtype):
    blocks = [probed(name="", dtype=dtype), BLOCK]
    exchange.write(tmp_path / "a", blocks)
    back, bare = exchange.read(tmp_path / "a")
    assert same(back, blocks[0])
    assert (bits(back.probe.x), bits(back.probe.output)) == (bits(blocks[0].probe.x), bits(blocks[0].probe.output))
    assert back.probe.source == "timm 1.0.31"
    assert bare.probe is None
    exchange.write(tmp_path / "b", [back, bare])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_file_without_probes_says_nothing_of_them(tmp_path):
    exchange.write(tmp_path / "a", replace(probed(), probe=None))
    assert b"probe" not in (tmp_path / "a").read_bytes()
    exchange.write(tmp_path / "a", probed())
    tensors, metadata = exchange.read_tensors(tmp_path / "a")
    assert {"stage1/attn/probe:input", "stage1/attn/probe:output"} <= tensors.keys()
    assert json.loads(metadata["attention-parity"])["probes"] == {"stage1/attn": {"source": "timm 1.0.31"}}


PROBE = {"eca/probe:input": np.ones((1, 4, 2, 2)), "eca/probe:output": np.ones((1, 4, 2, 2))}


@pytest.mark.parametrize(
    ("tensors", "probes", "kind", "sentence"),
    [
        (PROBE, {}, MissingTensorError, "the probe of block 'eca' lacks its source; expected exactly input, output"),
        ({}, {"eca": {"source": "x"}}, MissingTensorError, "the probe of block 'eca' lacks its input, output; "),
        ({**PROBE, "eca/probe:input": None}, {"eca": {"source": "x"}}, MissingTensorError, "lacks its input; "),
        ({**PROBE, "eca/probe:x": np.ones(1)}, {"eca": {"source": "x"}}, UnexpectedTensorError, "unexpected probe:x; "),
        (PROBE, {"ca": {"source": "x"}}, UnexpectedTensorError, "has probes of 'ca'; expected of the blocks 'eca'"),
        ({"ca/probe:input": np.ones(1)}, {}, UnexpectedTensorError, "the tensor 'ca/probe:input' of no block"),
        (PROBE, {"eca": {"source": 1}}, FormatError, "has the 'probes' {'eca': {'source': 1}}; expected an object of"),
        (PROBE, ["eca"], FormatError, r"has the 'probes' \['eca'\]; expected an object"),
        (
            {**PROBE, "eca/probe:output": np.ones((1, 4, 2, 3))},
            {"eca": {"source": "x"}},
            TensorShapeError,
            "whose output",
        ),
        ({**PROBE, "eca/probe:input": np.ones((1, 4), int)}, {"eca": {"source": "x"}}, TensorShapeError, "whose input"),
    ],
)
def test_damaged_probe(damaged, tensors, probes, kind, sentence):
    def change(semantics, all_tensors):
        semantics["probes"] = probes
        all_tensors |= {name: value for name, value in tensors.items() if value is not None}

    with pytest.raises(kind, match=sentence):
        exchange.read(damaged(change))


def test_probe_of_another_rank(damaged):
    maps = {name: np.ones((1, 4, 2)) for name in PROBE}
    semantics = {"probes": {"eca": {"source": "x"}}}
    with pytest.raises(InputError, match=r"received an input of shape \(1, 4, 2\); expected 4 axes"):
        exchange.read(damaged(lambda old, tensors: (old.update(semantics), tensors.update(maps))))


# Blocks


def test_block_orders_its_tensors():
    block = Block("eca", BLOCK.spec, dict(reversed(BLOCK.tensors.items())))
    assert list(block.tensors) == ["conv.kernel", "conv.bias"]


def test_block_lists_every_fault():
    with pytest.raises(MissingTensorError) as caught:
        Block("x", BLOCK.spec, {"conv.kernel": np.ones((1, 1, 3), int), "w": np.ones(1)})
    assert str(caught.value) == (
        "block 'x' lacks conv.bias and has the unexpected w and has conv.kernel of dtype int64 instead of float64, "
        "float32, float16, bfloat16; expected exactly conv.kernel, conv.bias"
    )


def test_block_refuses_strange_names_and_extras():
    with pytest.raises(SpecError, match="received 7 as a block's name; expected a string"):
        Block(7, BLOCK.spec, BLOCK.tensors)
    with pytest.raises(SpecError, match="received 'eca' as the spec of block 'x'"):
        Block("x", "eca", BLOCK.tensors)
    with pytest.raises(
        UnexpectedTensorError, match="block 'x' has an extra named 'a/b'; expected a string without '/'"
    ):
        Block("x", BLOCK.spec, BLOCK.tensors, {"a/b": np.ones(1)})
    with pytest.raises(TensorShapeError, match="block 'x' has the extra a of dtype <U1; expected numbers"):
        Block("x", BLOCK.spec, BLOCK.tensors, {"a": np.array("b")})
