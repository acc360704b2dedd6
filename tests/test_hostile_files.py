"""Planted attacks on the readers that need no native library: pickles, archives, headers, indexes."""

import io
import json
import os
import pickle
import struct
import sys
import threading
import tracemalloc
import zipfile

import numpy as np
import pytest

from parity import exchange, files, golden, reading
from parity.block import Block
from parity.errors import FormatError, MissingTensorError, ParityError, UnexpectedTensorError
from parity.files import pytorch
from parity.spec import ECAOptions

MIB = 1 << 20
SPEC = ECAOptions(kernel_size=3).resolve(None)
BLOCK = Block("eca", SPEC, {"conv.kernel": np.ones((1, 1, 3))})


class Watch:
    """What happens while a file is read: code that runs, files that are opened. Hooks stay; this one can be quiet."""

    CODE = ("exec", "compile", "import", "os.system", "subprocess.", "os.posix_spawn", "os.exec", "pickle.", "ctypes.")

    def __init__(self):
        self.on, self.code, self.opened = False, [], []
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        if self.on and event.startswith(self.CODE):
            self.code.append((event, str(arguments[:1])))
        elif self.on and event == "open":
            self.opened.append(str(arguments[0]))


WATCH = Watch()


def refused(path, *words, kind=FormatError, most=4 * MIB, beside=()):
    """Opening `path` is refused in these `words`, runs nothing, opens nothing else, and takes little memory."""
    with pytest.raises(ParityError):
        files.open(path)  # imports what it needs
    tracemalloc.start()
    WATCH.code.clear(), WATCH.opened.clear()
    WATCH.on = True
    try:
        with pytest.raises(kind) as caught:
            files.open(path)
    finally:
        WATCH.on = False
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    for word in words:
        assert word in str(caught.value), str(caught.value)[:1000]
    assert not WATCH.code
    assert set(WATCH.opened) <= {str(path), *map(str, beside)}
    assert peak < most
    assert len(str(caught.value)) < 10_000


def opened(path, most=4 * MIB):
    """What `path` holds, which takes little memory."""
    files.open(path)
    tracemalloc.start()
    try:
        contents = files.open(path)
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
    return contents


# Pickles


def text(letters):
    return b"X" + struct.pack("<I", len(letters)) + letters.encode()


def call(module, name, *arguments):
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def legacy(program, keys=b"]"):
    """A file of PyTorch before 1.6 whose state is `program`, and whose storages have these `keys`."""
    magic, version, system = (pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
    return magic + version + system + b"\x80\x02" + program + b"." + b"\x80\x02" + keys + b"."


def zipped(program, *more):
    """A file of PyTorch since 1.6."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + program + b".")
        archive.writestr("a/data/0", np.arange(4, dtype=np.float32).tobytes())
        for name, data in more:
            archive.writestr(name, data)
    return file.getvalue()


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0K\x04\x85K\x01\x85\x89NtR"
PLANT = text("planted")

CALLS = {
    "exec": call("builtins", "exec", text("open('planted', 'w')")),
    "eval of Python 2": call("__builtin__", "eval", text("open('planted', 'w')")),
    "open": call("builtins", "open", PLANT, text("w")),
    "popen": call("subprocess", "Popen", b"]" + text("touch") + b"a" + PLANT + b"a"),
    "torch.load": call("torch", "load", PLANT),
    "storage of bytes": call("torch.storage", "_load_from_bytes", b"C\x01."),
    "mapped by torch": call("torch", "FloatStorage.from_file", PLANT, b"\x88K\x04"),
    "torch.hub": call("torch.hub", "load", text("owner/repository"), text("model")),
    "numpy.load": call("numpy", "load", PLANT, b"N\x88"),
    "numpy.memmap": call("numpy", "memmap", PLANT, text("u1"), text("w+")),
    "numpy.save": call("numpy", "save", PLANT, b"K\x01"),
    "shared library": call("ctypes", "CDLL", PLANT),
    "import": call("importlib", "import_module", PLANT),
    "a method of a known class": call("torch", "Tensor.tofile", PLANT),
    "attribute of a known function": call("torch._utils", "_rebuild_tensor_v2.__globals__"),
    "what a call gave": call("builtins", "getattr", call("builtins", "__import__", text("os")), text("system"))
    + b"("
    + text("touch planted")
    + b"tR",
    "new object": b"cos\nsystem\n" + b"(" + text("touch planted") + b"t\x81",
    "new object of old": b"(" + text("touch planted") + b"ios\nsystem\n",
    "object of a class": b"(cos\nsystem\n" + text("touch planted") + b"o",
}


@pytest.mark.parametrize("layout", [legacy, zipped])
@pytest.mark.parametrize("name", CALLS)
def test_calls_are_neither_made_nor_looked_up(tmp_path, monkeypatch, name, layout):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pth"
    path.write_bytes(layout(b"}" + text("w") + CALLS[name] + b"s"))
    refused(path, "the instruction INST" if name.endswith("old") else "reader of tensors does not run or make")
    assert os.listdir() == ["a.pth"]


@pytest.mark.parametrize(
    "state",
    [
        TENSOR + b"}" + text("__setstate__") + b"cbuiltins\nexec\nsb",  # attributes of a tensor
        b"ctorch\nTensor\n)\x81}" + text("__reduce__") + b"cos\nsystem\nsb",
    ],
    ids=["tensor", "object"],
)
def test_state_of_an_object_is_no_road_to_code(tmp_path, state):
    (tmp_path / "a.pth").write_bytes(zipped(b"}" + text("w") + state + b"s"))
    refused(tmp_path / "a.pth", "does not run or make")


@pytest.mark.parametrize(
    "identity",
    [
        text("/etc/passwd") + b"Q",
        b"P/etc/passwd\n",
        b"(" + text("storage") + text("/etc/passwd") + text("0") + text("cpu") + b"K\x04tQ",
        b"(" + text("module") + b"ctorch\nFloatStorage\n" + text("/etc/passwd") + b"NK\x04tQ",
    ],
)
def test_persistent_ids_name_no_files(tmp_path, identity):
    (tmp_path / "a.pth").write_bytes(zipped(b"}" + text("w") + identity + b"s"))
    refused(tmp_path / "a.pth", "a.pth")


@pytest.mark.parametrize("key", ["../../planted", "/etc/passwd", "../data/0", "..", "0/../0", "0\0", ""])
def test_keys_of_storages_are_names_of_members_alone(tmp_path, key):
    tensor = TENSOR.replace(text("0"), text(key))
    (tmp_path / "a.pth").write_bytes(zipped(b"}" + text("w") + tensor + b"s"))
    refused(tmp_path / "a.pth", "does not hold")


def laughs(depth, width=10):
    """Instructions for a list of lists of .. the same list, `width` to the power of `depth` in all."""
    levels = (b"q%c](" % level + b"h%c" % level * width + b"e" for level in range(depth))
    return b"](K\x01e" + b"".join(levels)


def test_key_of_a_storage_that_is_a_tree_without_end(tmp_path):
    # Its message showed the key, and so the whole tree: minutes, and gigabytes.
    (tmp_path / "a.pth").write_bytes(legacy(b"}", b"]" + laughs(12) + b"a"))
    refused(tmp_path / "a.pth", "has no use for it")


def test_calls_of_calls_without_end(tmp_path):
    chain = b"ccollections\nOrderedDict\n(" * 1000 + b"]" + b"tR" * 1000
    (tmp_path / "a.pth").write_bytes(zipped(b"}" + text("w") + chain + b"s"))
    refused(tmp_path / "a.pth", "holds no named tensor")


def test_dictionary_that_holds_itself(tmp_path):
    (tmp_path / "a.pth").write_bytes(zipped(b"}q\0" + text("me") + b"h\0s" + text("w") + TENSOR + b"s"))
    contents = opened(tmp_path / "a.pth")
    assert contents.tensors["w"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "lie",
    [b"X\0\0\0\x08", b"\x8b\0\0\0\x08", b"T\0\0\0\x08", b"\x8d" + struct.pack("<Q", 1 << 27), b"B\0\0\0\x08"],
)
@pytest.mark.parametrize("layout", [legacy, zipped])
def test_lengths_that_lie_cost_no_memory(tmp_path, lie, layout):
    # Python makes room for all that is asked for before it reads: 128 MiB for a file of 100 bytes.
    (tmp_path / "a.pth").write_bytes(layout(lie))
    refused(tmp_path / "a.pth", "a text of 134217728 bytes")


@pytest.mark.parametrize("memory", [b"q\0" * 3 + b"r\xff\xff\xff\x7f", b"p2147483647\n", b"\x80\x04\x94" * 100])
def test_great_numbers_of_memories_cost_no_memory(tmp_path, memory):
    (tmp_path / "a.pth").write_bytes(zipped(b"}" + memory + text("w") + TENSOR + b"s"))
    assert opened(tmp_path / "a.pth").tensors.keys() == {"w"}


@pytest.mark.parametrize("beginning", ["numpy.dtypes.", "torch.int"])
def test_long_names_that_are_named_again_and_again_cost_no_memory(tmp_path, beginning):
    """Each was a text of its own: together the square of the file."""
    module, _, name = beginning.rpartition(".")
    again = text(module) + b"q\0" + text(name + "0" * 20_000) + b"q\1" + b"h\0h\1\x93" * 4000
    (tmp_path / "a.pth").write_bytes(zipped(b"}(" + again + b"t" + text("w") + TENSOR + b"s"))
    refused(tmp_path / "a.pth", "cannot be read as a pickle of tensors", most=MIB)


@pytest.mark.parametrize(
    "call_again", [b"ctorch._utils\n_rebuild_parameter\nh\0R0", b"ctorch._utils\n_rebuild_qtensor\nh\0R0"]
)
def test_arguments_that_are_used_again_and_again_are_counted(tmp_path, call_again):
    """A million of them for each of a million calls would take days."""
    program = b"(" + b"N" * 50_000 + b"tq\0" + call_again * 250 + b"}" + text("w") + TENSOR + b"s"
    (tmp_path / "a.pth").write_bytes(zipped(program))
    refused(tmp_path / "a.pth", "more than 10000000 instructions")


def test_storage_of_many_parts(tmp_path):
    """They were copied for each of its tensors."""
    storage = STORAGE.removesuffix(b"tQ") + b"N" * 1000 + b"tq\0Q"
    (tmp_path / "a.pth").write_bytes(zipped(b"}" + text("w") + TENSOR.replace(STORAGE, storage) + b"s"))
    refused(tmp_path / "a.pth", "the storage ('storage'")


def test_what_changes_a_tensor_is_shown_once(tmp_path, monkeypatch):
    """It was for each tensor, and to show a large dictionary is to sort it."""
    calls = []
    monkeypatch.setattr(pytorch, "shown", lambda value: calls.append(value) or "much")
    changed = TENSOR.replace(b"\x89NtR", b"\x89Nh\0tR")
    program = b"}q\0" + text("a") + b"K\1s0}(" + b"".join(text(f"w{number}") + changed for number in range(50)) + b"u"
    (tmp_path / "a.pth").write_bytes(zipped(program))
    refused(tmp_path / "a.pth", "'w0', which is lazily changed (much)")
    assert len(calls) == 2  # as it is refused twice


def test_key_of_a_storage_that_is_a_great_number(tmp_path):
    # Python refuses to write it, which was a ValueError.
    number = b"\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000
    (tmp_path / "a.pth").write_bytes(legacy(b"}", b"]" + number + b"a"))
    refused(tmp_path / "a.pth", "the storage a great int")


# Archives


def test_members_that_leave_their_folder_stay_where_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("../planted", "/tmp/planted-absolute", "a/../../planted", "..\\planted", "a/data/../../../planted")
    path = tmp_path / "a.pth"
    path.write_bytes(zipped(b"}" + text("w") + TENSOR + b"s", *((name, b"planted") for name in names)))
    assert opened(path).tensors.keys() == {"w"}
    assert os.listdir() == ["a.pth"]
    assert not any(os.path.exists(name) for name in names)


def test_member_that_is_a_link_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"0123456789abcdef")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}" + text("w") + TENSOR + b"s.")
        link = zipfile.ZipInfo("a/data/0")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(secret))
    (tmp_path / "a.pth").write_bytes(file.getvalue())
    found = opened(tmp_path / "a.pth").tensors["w"]
    assert found.tobytes() == str(secret).encode()[:16]  # what the member says, not what it points at


def test_bombs_are_not_blown_up(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("a/data.pkl", bytes(64 * MIB))
        archive.writestr("a/data/0", bytes(64 * MIB))
    (tmp_path / "a.pth").write_bytes(file.getvalue())
    assert len(file.getvalue()) < MIB // 4
    refused(tmp_path / "a.pth", "compressed or encrypted", most=MIB)


def test_many_members(tmp_path):
    more = [(f"a/{number}", b"") for number in range(5_000)]
    (tmp_path / "a.pth").write_bytes(zipped(b"}" + text("w") + TENSOR + b"s", *more))
    size = (tmp_path / "a.pth").stat().st_size
    assert opened(tmp_path / "a.pth", most=16 * size).tensors.keys() == {"w"}


def test_members_over_the_same_bytes_cost_no_memory(tmp_path):
    """A megabyte that a thousand members claim, and as many tensors with them."""
    file = io.BytesIO()
    count = 1000
    program = b"}("
    for number in range(count):
        program += text(f"w{number}") + TENSOR.replace(text("0"), text(str(number))).replace(
            b"K\x04", b"J" + struct.pack("<i", MIB // 4)
        )
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + program + b"u.")
        archive.writestr("a/data/0", bytes(MIB))
        whole = archive.getinfo("a/data/0")
        for number in range(1, count):
            again = zipfile.ZipInfo(f"a/data/{number}")
            for name in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(again, name, getattr(whole, name))
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
    (tmp_path / "a.pth").write_bytes(file.getvalue())
    contents = opened(tmp_path / "a.pth", most=8 * MIB)
    assert len(contents.tensors) == count
    assert sum(value.nbytes for value in contents.tensors.values()) == count * MIB


def test_two_members_of_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped(b"}" + text("w") + TENSOR + b"s", ("a/data/0", bytes(16)))
    (tmp_path / "a.pth").write_bytes(data)
    refused(tmp_path / "a.pth", "two members of one name")


# Headers of safetensors


def safetensors(header, body=b""):
    return len(header).to_bytes(8, "little") + header + body


@pytest.mark.parametrize("length", [0, 1, 63, 100, 1 << 27, 1 << 31, 1 << 32, 1 << 53, (1 << 63) - 1, (1 << 64) - 1])
def test_header_lengths_that_lie(tmp_path, length):
    data = length.to_bytes(8, "little") + b'{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}' + bytes(8)
    (tmp_path / "a.safetensors").write_bytes(data)
    refused(tmp_path / "a.safetensors", "a.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype":"F64","shape":[1],"data_offsets":[0,8],"shape":[8],"dtype":"U8"}',
        '{"dtype":"F64","shape":[NaN],"data_offsets":[0,8]}',
        '{"dtype":"F64","shape":[1],"data_offsets":[0,Infinity]}',
        '{"dtype":"F64","shape":[1e0],"data_offsets":[0,8]}',
        '{"dtype":"F64","shape":[-1,-1],"data_offsets":[0,8]}',
        '{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}',
        '{"dtype":"F64","shape":[1],"data_offsets":[8,0]}',
        '{"dtype":"F64","shape":[1],"data_offsets":[0,16]}',
        '{"dtype":"F64","shape":[1],"data_offsets":[4,12]}',
        '{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"b":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}',
    ],
)
def test_entries_that_lie(tmp_path, entry):
    (tmp_path / "a.safetensors").write_bytes(safetensors(f'{{"a":{entry}}}'.encode(), bytes(8)))
    refused(tmp_path / "a.safetensors", "a.safetensors")


def test_metadata_that_name_a_key_twice(tmp_path):
    header = b'{"__metadata__":{"attention-parity":"{}","attention-parity":"[]"}}'
    (tmp_path / "a.safetensors").write_bytes(safetensors(header))
    refused(tmp_path / "a.safetensors", "attention-parity")


def spec_text(**changed):
    fields = {name: json.dumps(value) for name, value in SPEC.to_json().items()} | changed
    return "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"


def semantics_of(*specs, before="", after=""):
    """The metadata of a file whose blocks are all named "eca"."""
    blocks = ",".join(f'"eca":{spec}' for spec in specs)
    return f'{{{before}"version":1,"blocks":{{{blocks}}}{after}}}'


@pytest.mark.parametrize(
    ("semantics", "words"),
    [
        (semantics_of(spec_text(), spec_text()), "names 'eca' twice"),
        (semantics_of(spec_text(), before='"version":2,'), "names 'version' twice"),
        (semantics_of(spec_text(gate='"sigmoid","gate":"identity"')), "names 'gate' twice"),
        ('{"version":NaN,"blocks":{}}', "NaN is no JSON"),
        (semantics_of(spec_text(), after=',"more":-Infinity'), "-Infinity is no JSON"),
        (semantics_of(spec_text(kernel_size="1e999")), "kernel_size=inf"),
        (semantics_of(spec_text(gate='{"kind":"hard_sigmoid","slope":1e999,"offset":0}')), "slope=inf"),
    ],
    ids=["block", "version", "field", "NaN", "infinity", "size", "slope"],
)
def test_semantics_that_readers_take_differently(tmp_path, semantics, words):
    path = tmp_path / "a.safetensors"
    exchange.write_tensors(path, {"eca/conv.kernel": np.ones((1, 1, 3))}, {exchange.METADATA_KEY: semantics})
    refused(path, words)


def test_semantics_that_all_take_the_same(tmp_path):
    path = tmp_path / "a.safetensors"
    metadata = {exchange.METADATA_KEY: semantics_of(spec_text())}
    exchange.write_tensors(path, {"eca/conv.kernel": np.ones((1, 1, 3))}, metadata)
    assert exchange.read(path)[0].spec == SPEC


# Recordings


def recording(path, tensors, **metadata):
    with_defaults = {"format": "attention-golden/1", "dialect": "timm/EcaModule", "source": "x", **metadata}
    exchange.write_tensors(path, tensors, {"input_layout": "channels_last", **with_defaults})
    return path


@pytest.mark.parametrize(
    "metadata",
    [
        {"hints": '{"gate": "sigmoid", "gate": "identity"}'},
        {"hints": '{"gate": {"kind": "hard_sigmoid", "slope": NaN}}'},
        {"hints": "[" * 100_000},
        {"format": "attention-golden-onnx/1", "blocks": '[{"name": "a", "gate": "Sigmoid", "gate": "HardSigmoid"}]'},
        {"format": "attention-golden-onnx/1", "blocks": '[{"name": ["a"], "gate": "Sigmoid"}]'},
    ],
)
def test_recordings_that_readers_take_differently(tmp_path, metadata):
    tensors = {"state/conv.weight": np.ones((1, 1, 3)), "input": np.ones((1, 2, 2, 4))}
    refused(recording(tmp_path / "a.safetensors", tensors, **metadata), "unreadable metadata")


@pytest.mark.parametrize(
    ("tensors", "kind", "words"),
    [
        ({}, MissingTensorError, "without 'input'"),
        ({"input": np.ones((1, 2, 2, 4))}, MissingTensorError, "without 'eval/output'"),
        ({"input": np.ones(()), "eval/output": np.ones(())}, ParityError, "shape ()"),
        ({"input": np.ones(4), "eval/output": np.ones(4)}, ParityError, "shape (4,)"),
        ({"input": np.ones((1, 2, 2, 4)), "eval/output": np.ones(4)}, ParityError, "shape (4,)"),
    ],
)
def test_recordings_without_a_proof(tmp_path, tensors, kind, words):
    # They were a KeyError and NumPy's AxisError.
    path = recording(tmp_path / "a.safetensors", {"state/conv.weight": np.ones((1, 1, 3))} | tensors)
    with pytest.raises(kind) as caught:
        files.open(path).prove([BLOCK])
    assert words in str(caught.value)


def test_recordings_that_prove_still_do():
    assert all(block.probe for block in reading.read_with_probes(golden.path("timm-eca")))


# Indexes of several files


def indexed(folder, weight_map):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


@pytest.fixture
def answered():
    """Fail, rather than wait for ever, where a reader waits for the other end of a pipe."""

    def answer(pipe):
        def write():
            descriptor = os.open(pipe, os.O_RDWR)  # opens at once, and lets the reader go
            os.write(descriptor, b"{}")
            os.close(descriptor)

        timer = threading.Timer(20, write)
        timer.start()
        timers.append(timer)

    timers = []
    yield answer
    waited = [timer for timer in timers if not timer.is_alive()]
    for timer in timers:
        timer.cancel()
    assert not waited, "a reader waited for a pipe"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in a folder")
def test_shard_that_is_a_pipe(tmp_path, answered):
    for name in ("a.safetensors", "a.bin"):
        os.mkfifo(tmp_path / name)
        answered(tmp_path / name)
        refused(index := indexed(tmp_path, {"a": name}), "which is no file", beside=[index])


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="a file without end")
@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_shard_that_is_a_link_to_a_file_without_end(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/zero")
    refused(indexed(tmp_path, {"a": name}), "a link out of its folder")


def test_shard_that_is_a_link_in_its_folder_to_a_link_out_of_it(tmp_path):
    exchange.write_tensors(tmp_path / "secret", {"a": np.ones(2)}, {})
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "b").symlink_to("../secret")
    (folder / "a.safetensors").symlink_to("b")
    refused(indexed(folder, {"a": "a.safetensors"}), "a link out of its folder")


def test_shard_through_a_store_that_is_a_link(tmp_path):
    """The store of a downloader's snapshots may be linked to; one that leads elsewhere is none."""
    snapshot, elsewhere = tmp_path / "hub" / "snapshots" / "1", tmp_path / "elsewhere"
    snapshot.mkdir(parents=True)
    elsewhere.mkdir()
    exchange.write_tensors(elsewhere / "secret", {"a": np.ones(2)}, {})
    (tmp_path / "hub" / "blobs").symlink_to(elsewhere)
    (snapshot / "a.safetensors").symlink_to("../../blobs/secret")
    refused(indexed(snapshot, {"a": "a.safetensors"}), "a link out of its folder")


def test_shard_that_is_its_index(tmp_path):
    refused(indexed(tmp_path, {"a": "model.safetensors.index.json"}), "model.safetensors.index.json")


def test_index_with_numbers_that_are_no_json(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"metadata": {"total_size": NaN}, "weight_map": {"a": "b"}}')
    refused(index, "NaN is no JSON")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in a folder")
def test_index_of_a_folder_that_is_a_pipe(tmp_path, answered):
    os.mkfifo(tmp_path / "model.safetensors.index.json")
    answered(tmp_path / "model.safetensors.index.json")
    refused(tmp_path, "'model.safetensors.index.json', which is no file")


@pytest.mark.parametrize("target", ["/dev/zero", "../secret"])
def test_index_of_a_folder_that_is_a_link_out_of_it(tmp_path, target):
    (tmp_path / "secret").write_text('{"weight_map": {"a": "b"}}')
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").symlink_to(target)
    refused(folder, "'model.safetensors.index.json', a link out of its folder")


# Writing


def test_names_that_come_twice_are_found_in_time(tmp_path):
    """Each name was counted in all names: minutes for as many blocks as a large network has layers, squared."""
    blocks = [Block(f"b{number}", SPEC, BLOCK.tensors) for number in range(50_000)]
    assert len(exchange.checked(blocks)) == len(blocks)
    with pytest.raises(UnexpectedTensorError, match="several blocks named 'b7'"):
        exchange.checked([*blocks, blocks[7]])
