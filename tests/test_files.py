"""Files of every kind: written with the real libraries, read back bit for bit, damaged, and planted with attacks."""

import argparse
import contextlib
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict, deque

import ml_dtypes
import numpy as np
import pytest

from parity import exchange, files, golden
from parity.block import Block, native
from parity.errors import BackendMissingError, FormatError, MissingTensorError, ParityError, UnexpectedTensorError
from parity.files import _child, _keras
from parity.spec import ECAOptions

RNG = np.random.default_rng(0)
STATE = {
    "conv.weight": RNG.normal(size=(5, 3, 2, 2)).astype("float32"),
    "se.fc.0.weight": RNG.normal(size=(2, 5)),
    "norm.running_mean": RNG.normal(size=5).astype("float16"),
    "norm.num_batches_tracked": np.array(7),
    "mask": np.array([True, False]),
}


def assert_same(found, expected):
    """Bit for bit the same names, dtypes, shapes and numbers."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        value = native(value)
        assert (found[name].dtype.newbyteorder("="), found[name].shape) == (value.dtype, value.shape), name
        assert native(found[name]).tobytes() == value.tobytes(), name


def refused(path, *words, kind=FormatError):
    with pytest.raises(kind) as caught:
        files.open(path)
    for word in words:
        assert word in str(caught.value), str(caught.value)


# PyTorch


def state_dict(torch):
    return OrderedDict((name, torch.tensor(value)) for name, value in STATE.items())


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_pytorch_state_is_mapped_bit_for_bit(tmp_path, options):
    torch = pytest.importorskip("torch")
    state = state_dict(torch) | {
        "brain": torch.randn(4, 3).bfloat16(),
        "transposed": torch.randn(4, 3).T,
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "part": torch.arange(12)[3:9:2],
        "tied": torch.nn.Parameter(torch.randn(3)),
        "empty": torch.zeros(0, 3),
        "wide": torch.arange(3, dtype=torch.int64).to(torch.uint16),
        "pair": torch.randn(2, dtype=torch.complex64),
    }
    state["again"] = state["tied"]
    torch.save(state, tmp_path / "weights.bin", **options)
    contents = files.open(tmp_path / "weights.bin")
    brain = state["brain"].view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    assert contents.kind == "PyTorch checkpoint"
    assert_same(
        contents.tensors,
        {name: value.detach().numpy() for name, value in state.items() if name != "brain"} | {"brain": brain},
    )
    assert not any(value.flags.owndata or value.flags.writeable for value in contents.tensors.values())


def test_pytorch_training_checkpoint_gives_its_weights(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), torch.nn.BatchNorm2d(5))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    checkpoint = {
        "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "other_optimizer": {"param_groups": [], "momentum": {"w": torch.randn(3)}},
        "epoch": 3,
        "best_accuracy": np.float64(0.7),
        "best_score": torch.tensor(0.7),
        "arguments": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("/data"), shape=torch.Size([3])),
        "history": [np.zeros(3), {1, 2}, 1e-3, None, True, b"x", 2**70],
        "kind": torch.float32,
        "place": torch.device("cpu"),
    }
    torch.save(checkpoint, tmp_path / "a.pth")
    expected = {f"module.{name}": value.numpy() for name, value in model.state_dict().items()}
    assert_same(files.open(tmp_path / "a.pth").tensors, expected)


def test_pytorch_checkpoint_of_several_states_keeps_their_keys(tmp_path):
    torch = pytest.importorskip("torch")
    one, two = torch.randn(3), torch.randn(3)
    torch.save({"model": {"w": one}, "ema": {"shadow": {"w": two}}, "epoch": 1}, tmp_path / "a.pt")
    assert_same(files.open(tmp_path / "a.pt").tensors, {"model.w": one.numpy(), "ema.shadow.w": two.numpy()})
    torch.save({"a.w": one, "a": {"w": two}}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "'a.w' twice")


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle"])
def test_pytorch_pickle_with_code_is_refused_and_not_run(tmp_path, layout):
    torch = pytest.importorskip("torch")
    harmless, planted = {"w": torch.randn(3)}, tmp_path / "planted"
    if layout == "pickle":
        (tmp_path / "a.pth").write_bytes(pickle.dumps(harmless | {"x": Attack(planted)}))
    else:
        torch.save(
            harmless | {"x": Attack(planted)}, tmp_path / "a.pth", _use_new_zipfile_serialization=layout == "zip"
        )
    refused(tmp_path / "a.pth", "posix.system" if layout != "pickle" else "a.pth", "save model.state_dict() alone")
    assert not planted.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",  # a call
        b"cbuiltins\neval\n(V1\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02\x82\x01.",  # a number that stands for a class
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01K\x01K\x01tR.",
        b"\x80\x02" + b"(" * 1000 + b".",
        b"\x80\x02]" + b"]a" * 200_000 + b".",
        b"\x80\x02)" + b"\x85" * 200_000 + b"q\x00K\x01h\x00s.",  # a key that cannot be hashed
        b"\x80\x02}X\xff\xff\xff\xffabc.",  # a text of four gigabytes
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02}r\xff\xff\xff\x7f.",  # remembers a great number
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nc__main__\nNet\nb.",
        b"",
    ],
)
def test_pytorch_hostile_pickles(tmp_path, program):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", program)
    refused(tmp_path / "a.pth", "a.pth")


def test_pytorch_whole_models_are_refused_with_a_remedy(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save(model, tmp_path / "a.pth", **options)
        refused(tmp_path / "a.pth", "torch.nn.modules.container.Sequential", "save model.state_dict() alone")
    torch.jit.save(torch.jit.trace(model, torch.randn(1, 3)), tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "is a TorchScript archive", "state_dict()")
    for value in (torch.randn(3), [torch.randn(3)], {"epoch": 3}):
        torch.save(value, tmp_path / "a.pth")
        refused(tmp_path / "a.pth", "expected tensors by name")


def strange_tensors(torch):
    return {
        "sparse": torch.eye(3).to_sparse(),
        "quantised": torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8),
        "meta": torch.empty(3, device="meta"),
        "conjugated": torch.randn(3, dtype=torch.complex64).conj(),
    }


@pytest.mark.parametrize("name", ["sparse", "quantised", "meta", "conjugated"])
def test_pytorch_tensors_that_are_no_plain_arrays_are_named(tmp_path, name):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.randn(3), "odd": strange_tensors(torch)[name]}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "'odd', which is", "leave it out")


def test_pytorch_tensor_beyond_its_storage_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.randn(1).expand(10**6)}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "'w' of 1000000 elements over a storage of 1", "contiguous")


@pytest.mark.parametrize("protocol", [2, 5])
def test_pytorch_training_state_beside_the_weights(tmp_path, protocol):
    torch = pytest.importorskip("torch")
    beside = {
        "rng": torch.get_rng_state(),  # a tensor, and no weight
        "numpy_rng": np.random.RandomState(0).get_state(),
        "history": deque([np.float64(0.5), np.arange(3)], maxlen=9),
    }
    torch.save({"state_dict": state_dict(torch), **beside}, tmp_path / "a.pth", pickle_protocol=protocol)
    assert_same(files.open(tmp_path / "a.pth").tensors, STATE)


def text(letters):
    return b"X" + len(letters).to_bytes(4, "little") + letters


STORAGE = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\x04tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0%b\x89N%btR"
PLAIN = TENSOR % (b"K\x04\x85K\x01\x85", b"")
# Ten times ten times ten .. the same list.
LAUGHS = b"](K\x01e" + b"".join(b"q%c0](%be" % (level, b"h%c" % level * 10) for level in range(6))


def checkpoint(folder, instructions):
    with zipfile.ZipFile(folder / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + instructions + b".")
        archive.writestr("a/data/0", bytes(16))
    return folder / "a.pth"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (TENSOR % (b"K\x04\x85K\x02\x85", b""), "beyond the 16 bytes"),
        (TENSOR % (b"K\x04\x85J\xff\xff\xff\xff\x85", b""), "strides (-1,)"),
        (TENSOR.replace(b"K\0%b", b"K\x01%b") % (b"K\x04\x85K\x01\x85", b""), "beyond the 16 bytes"),
        (PLAIN.replace(b"K\x04tQ", b"K\x05tQ"), "beyond the 16 bytes"),
        (b"\x8d" + (1 << 40).to_bytes(8, "little"), "a text of"),
    ],
    ids=["steps", "backwards", "offset", "storage", "text"],
)
def test_pytorch_tensors_lie_inside_their_storage(tmp_path, value, words):
    refused(checkpoint(tmp_path, b"}" + text(b"w") + value + b"s"), words)


def test_pytorch_members_lie_inside_the_file(tmp_path):
    path = checkpoint(tmp_path, b"}" + text(b"w") + PLAIN + b"s")
    assert_same(files.open(path).tensors, {"w": np.zeros(4, np.float32)})
    whole = path.read_bytes()
    entry = whole.rfind(b"PK\x01\x02")
    for place, value, words in (
        (8, b"\x01\0", "compressed or encrypted"),
        (20, b"\0\0\x01\0" * 2, "ends before 'a/data/0' does"),
        (24, b"\x08\0\0\0", "compressed or encrypted"),
    ):
        at = entry + place
        path.write_bytes(whole[:at] + value + whole[at + len(value) :])
        refused(path, words)


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        (
            b"](" + (text(b"a") + b"N\x86") * 300_000 + b"eq\0" + b"ccollections\nOrderedDict\nh\0\x85R" * 99,
            "more than",
        ),
        (b"}" + text(b"w") + TENSOR % (b"K\x04\x85K\x01\x85", LAUGHS) + b"s", "lazily changed"),
        (TENSOR % (LAUGHS + b"K\x01\x85", b""), "a tensor of shape"),
        (LAUGHS + LAUGHS + b"\x93", "the function"),
        (b"(" + LAUGHS + b"NK\0NK\0tQ", "storages of numbers"),
        (STORAGE[:-4].replace(text(b"0"), b"N") + LAUGHS + b"tQ", "the storage None of"),
        (
            b"}("
            + text(b"w")
            + PLAIN
            + b"q\0"
            + text(b"n" * 2**20)
            + b"}("
            + b"".join(text(b"%d" % number) + b"h\0" for number in range(99))
            + b"uu",
            "names of more than",
        ),
    ],
    ids=["pairs used again", "told of a tensor", "shape", "function", "storage", "size", "long names"],
)
def test_small_pickles_of_large_things(tmp_path, instructions, words):
    checkpoint(tmp_path, instructions)
    with pytest.raises(FormatError, match=words) as caught:
        files.open(tmp_path / "a.pth")
    assert len(str(caught.value)) < 10_000


# safetensors


def test_safetensors_of_every_meaning(tmp_path):
    exchange.write_tensors(tmp_path / "weights", STATE, {"format": "pt"})
    contents = files.open(tmp_path / "weights")
    assert (contents.kind, contents.dialect, contents.hints, contents.blocks) == ("safetensors file", None, {}, ())
    assert_same(contents.tensors, STATE)
    assert not any(value.flags.owndata for value in contents.tensors.values())
    block = Block("eca", ECAOptions(kernel_size=3).resolve(24), {"conv.kernel": np.ones((1, 1, 3))})
    exchange.write(tmp_path / "a.safetensors", block)
    (found,) = files.open(tmp_path / "a.safetensors").blocks
    assert (found.name, found.spec) == (block.name, block.spec)


def test_recordings_bring_dialect_hints_and_rank():
    contents = files.open(golden.path("torchvision-mbv3-se"))
    assert (contents.dialect, contents.hints["spatial_dims"]) == ("torchvision/SqueezeExcitation", 2)
    assert contents.tensors.keys() == {f"fc{number}.{leaf}" for number in (1, 2) for leaf in ("weight", "bias")}
    assert "spatial_dims" not in files.open(golden.path("tutorial-tensorflow-cbam-3d")).hints
    gates = files.open(golden.path("real-ppocr-cls")).hints
    assert gates["block00"] == {"gate": {"kind": "hard_sigmoid", "slope": 0.20000000298023224, "offset": 0.5}}


def sharded(folder, **weight_map):
    exchange.write_tensors(folder / "one.safetensors", {"a": np.ones(3), "b": np.ones(2)}, {})
    exchange.write_tensors(folder / "two.safetensors", {"c": np.zeros(4)}, {})
    whole = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}
    whole = {name: shard for name, shard in (whole | weight_map).items() if shard is not None}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 72}, "weight_map": whole}))
    return index


def test_sharded_checkpoint(tmp_path):
    index = sharded(tmp_path)
    for path in (index, tmp_path, f"{tmp_path}/"):
        contents = files.open(path)
        assert contents.kind == "checkpoint of 2 shards"
        assert_same(contents.tensors, {"a": np.ones(3), "b": np.ones(2), "c": np.zeros(4)})
        assert not any(value.flags.owndata for value in contents.tensors.values())
    (tmp_path / "other.safetensors.index.json").write_text("{}")
    refused(tmp_path, "a folder with 2 indexes")


def test_sharded_checkpoint_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model-00001-of-00001.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}))
    assert_same(files.open(index).tensors, {"a": np.ones(3, "float32")})


@pytest.mark.parametrize("shard", ["../one.safetensors", "/etc/passwd", "x/one.safetensors", "..", "", "a\\b", "a\0"])
def test_shards_lie_beside_their_index(tmp_path, shard):
    exchange.write_tensors(tmp_path / "one.safetensors", {"c": np.zeros(4)}, {})
    (tmp_path / "x").mkdir()
    refused(sharded(tmp_path / "x", c=shard), f"names the shard {shard!r}; expected plain names")


def test_shards_that_are_links(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "1a2b", tmp_path / "blobs"
    for folder in (snapshot, blobs, tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    index = sharded(snapshot)
    (snapshot / "two.safetensors").rename(tmp_path / "elsewhere" / "two")
    (snapshot / "two.safetensors").symlink_to(tmp_path / "elsewhere" / "two")
    refused(index, "a link out of its folder")
    (snapshot / "two.safetensors").unlink()
    refused(index, "which is no file")
    (tmp_path / "elsewhere" / "two").rename(blobs / "3c4d")  # as downloads are kept
    (snapshot / "two.safetensors").symlink_to("../../blobs/3c4d")
    assert files.open(index).tensors.keys() == {"a", "b", "c"}


def test_index_and_shards_agree(tmp_path):
    refused(sharded(tmp_path, d="two.safetensors"), "maps d in two.safetensors", kind=MissingTensorError)
    refused(sharded(tmp_path, b=None), "does not map b in one.safetensors", kind=UnexpectedTensorError)
    exchange.write_tensors(tmp_path / "two.safetensors", {"a": np.ones(1), "c": np.ones(1)}, {})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}})
    )
    refused(index, "does not map a in two.safetensors", kind=UnexpectedTensorError)
    for text in ("{", '{"weight_map": {}}', '{"weight_map": {"a": 5}}', "[]", '{"weight_map": []}', "[" * 100_000):
        index.write_text(text)
        refused(index, "model.safetensors.index.json")
    index.write_text('{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}')
    refused(index, "names 'a' twice")


# Keras


def keras_model():
    """A network of anonymous and named layers, a model within it, and blocks of both styles."""
    keras = pytest.importorskip("keras")
    from attention_keras import functional, layers

    last = {"data_format": "channels_last"}
    keras.utils.clear_session()
    x = inputs = keras.Input((8, 8, 12))
    x = keras.layers.Conv2D(12, 3, name="stem", **last)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.BatchNormalization(scale=False)(x)
    x = layers.CBAM(reduction=4, kernel_size=3, gate="hard_sigmoid", name="stage1_cbam", **last)(x)
    x = layers.CoordinateAttention(reduction=4, name="ca", **last)(x)
    x = layers.ECA(kernel_size=3, padding="circular", name="eca", **last)(x)
    inside = keras.Input((None, None, 12))
    y = keras.layers.DepthwiseConv2D(3, **last)(inside)
    y = functional.cbam(y, reduction=4, kernel_size=3, name="attn", **last)
    y = layers.SqueezeExcitation(reduction=4, activation="silu", name="se", **last)(y)
    x = keras.Model(inside, y, name="inner")(x)
    x = keras.layers.SeparableConv2D(4, 1, **last)(x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Reshape((-1, 4))(x)
    x = keras.layers.MultiHeadAttention(2, 3, name="mha")(x, x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dense(5, dtype="bfloat16")(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    for number, weight in enumerate(model.weights):
        weight.assign(keras.ops.cast(RNG.normal(size=weight.shape) + number, weight.dtype))
    return model


def live(model, inner="inner/"):
    """The weights of `keras_model` by the names that its files should give."""
    import keras

    found = {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}
    nested = ("attn_", "se/", "depthwise")
    return {f"{inner}{name}" if name.startswith(nested) else name: value for name, value in found.items()}


HINTS = {
    "stage1_cbam": ("gate", {"kind": "hard_sigmoid", "slope": 1 / 6, "offset": 0.5}),
    "ca": ("activation", "hard_swish"),
    "eca": ("padding", "circular"),
    "inner/se": ("activation", "silu"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("keras"), keras_model()
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    for name in ("model.keras", "model.h5"):
        model.save(folder / name)
    model.save_weights(folder / "model.weights.h5")
    return folder, model


@pytest.mark.parametrize(
    ("name", "kind"),
    [("model.keras", "Keras archive"), ("model.weights.h5", "Keras 3 weights"), ("model.h5", "Keras 2 HDF5 file")],
)
def test_keras_files_by_layer_and_role(saved, name, kind):
    folder, model = saved
    contents = files.open(folder / name)
    assert contents.kind == kind
    expected = live(model)
    if name == "model.weights.h5":  # the file does not tell what else than scale and offset three vectors are
        for number, role in enumerate(("beta", "moving_mean", "moving_variance")):
            path = f"batch_normalization_1/{role}"
            expected[f"batch_normalization_1/vars/{number}"] = expected.pop(path)
    assert_same(contents.tensors, expected)
    assert not any(value.flags.owndata for value in contents.tensors.values())
    for block, (field, value) in {} if name == "model.weights.h5" else HINTS.items():
        assert contents.hints[block][field] == value
        assert not contents.hints[block].keys() & {"channels", "hidden_channels", "kernel_size", "reduction"}
        rank = {} if name == "model.h5" else {"spatial_dims": 2}
        assert contents.hints[block].get("spatial_dims") == rank.get("spatial_dims")
    assert contents.hints.keys() == (set() if name == "model.weights.h5" else HINTS.keys())


def test_keras_files_of_before_names_were_stored(saved, tmp_path):
    h5py = pytest.importorskip("h5py")
    folder, model = saved
    with zipfile.ZipFile(folder / "model.keras") as archive:
        config, weights = archive.read("config.json"), io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights, "r+") as file:
        file.visititems(lambda name, thing: thing.attrs.pop("name", None) and None)
    (tmp_path / "a.weights.h5").write_bytes(weights.getvalue())
    found = files.open(tmp_path / "a.weights.h5").tensors  # only numbers are left, and the blocks' own attributes
    assert {"conv2d/kernel", "cbam/channel/fc1/kernel", "functional/dense_1/bias"} <= found.keys()
    with zipfile.ZipFile(tmp_path / "a.keras", "w", zipfile.ZIP_DEFLATED) as archive:  # and packed by other hands
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights.getvalue())
    found, expected = files.open(tmp_path / "a.keras").tensors, live(model)
    inner = {name for name in expected if name.startswith(("mha/", "ca/expand_"))}  # names that no configuration tells
    assert {name for name in expected if name not in found} == inner
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected.keys() - inner)


def test_keras_archive_tells_of_wrapped_blocks(tmp_path):
    keras = pytest.importorskip("keras")
    from attention_keras import layers

    block = layers.ECA(kernel_size=3, gate="hard_sigmoid", data_format="channels_last", name="eca")
    keras.Sequential([keras.Input((2, 8, 8, 12)), keras.layers.TimeDistributed(block, name="td")]).save(
        tmp_path / "a.keras"
    )
    contents = files.open(tmp_path / "a.keras")
    assert contents.tensors.keys() == {"td/eca/conv/kernel"}
    assert contents.hints["td/eca"]["gate"]["kind"] == "hard_sigmoid"
    assert contents.hints["td/eca"]["spatial_dims"] == 2


@pytest.mark.parametrize("whole", [True, False])
def test_keras_2_files(tmp_path, whole):
    h5py = pytest.importorskip("h5py")
    expected = {
        "dense/kernel": RNG.normal(size=(6, 2)).astype("float32"),
        "dense/bias": RNG.normal(size=2).astype(">f4"),
        "block/conv2d_1/kernel": RNG.normal(size=(3, 3, 1, 2)),
        "net/dense_2/kernel": RNG.normal(size=(2, 2)),
        **{f"layer_{number}/kernel": RNG.normal(size=2) for number in range(5)},
    }
    stored = {"dense": ("dense/kernel:0", "dense/bias:0"), "block": ("conv2d_1/kernel:0",)}
    stored |= {"net": ("scope/net/dense_2/kernel:0",), "relu": ()}
    stored |= {f"layer_{number}": (f"model/layer_{number}/kernel:0",) for number in range(5)}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("model_weights") if whole else file
        names = np.array([name.encode() for name in stored])
        for number, chunk in enumerate(np.array_split(names, 3)):  # as Keras cuts long lists
            group.attrs[f"layer_names{number}"] = chunk
        values = iter(expected.values())
        for layer, weights in stored.items():
            group.create_group(layer).attrs["weight_names"] = np.array([weight.encode() for weight in weights], "S60")
            for number, weight in enumerate(weights):
                compression = "gzip" if number else None
                group[layer].create_dataset(weight, data=next(values), compression=compression)
        if whole:
            file.create_group("optimizer_weights").create_dataset("Adam/iterations:0", data=3)
    assert_same(files.open(tmp_path / "a.h5").tensors, expected)


def legacy(path, **datasets):
    """A Keras 2 file whose one layer has `datasets`, each made by a function of group and name."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        group = file.create_group("dense")
        group.attrs["weight_names"] = [name.encode() for name in datasets]
        for name, make in datasets.items():
            make(group, name)
    return path


def test_hdf5_does_not_reach_out_of_itself(tmp_path):
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["w"] = np.ones(3)
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(24))
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "w", (3,))
    attacks = {
        "ExternalLink": lambda group, name: group.__setitem__(name, h5py.ExternalLink(str(secret), "/w")),
        "SoftLink": lambda group, name: group.__setitem__(name, h5py.SoftLink("/dense")),
        "lies in another file": lambda group, name: group.create_dataset(name, (3,), "f8", external=str(raw)),
        "'dense/kernel' lies in another file": lambda group, name: group.create_virtual_dataset(name, layout),
        "declares": lambda group, name: group.create_dataset(name, (1 << 40,), "f4", chunks=(1 << 20,)),
        "times those that are stored": lambda group, name: group.create_dataset(
            name, data=np.zeros(1 << 22), compression="gzip"
        ),
        "has the dtype": lambda group, name: group.create_dataset(name, (2,), h5py.string_dtype()),
        "'dense/kernel' has the dtype": lambda group, name: group.create_dataset(name, (2,), "i4,f4"),
        "holds itself": lambda group, name: group.__setitem__(name, group),
        "is named and not there": lambda group, name: None,
    }
    for words, make in attacks.items():
        refused(legacy(tmp_path / "a.h5", kernel=make), words)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.ones(3)
    refused(tmp_path / "a.h5", "without the layout of Keras")


def test_many_small_bombs_are_one(tmp_path):
    pytest.importorskip("h5py")
    bombs = {f"w{number}": lambda group, name: group.create_dataset(name, (1 << 20,), "i1") for number in range(3000)}
    refused(legacy(tmp_path / "a.h5", **bombs), "declares 3145728000 bytes of data in a file of")


def test_archives_that_are_none(saved, tmp_path):
    folder, _ = saved
    with zipfile.ZipFile(folder / "model.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def packed(changes, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(tmp_path / "a.keras", "w", compression) as archive:
            for name, data in (parts | changes).items():
                if data is not None:
                    archive.writestr(name, data)
        return tmp_path / "a.keras"

    refused(packed({"config.json": b"{"}), "has an unreadable config.json")
    refused(packed({"config.json": b"[" * 100_000}), "has an unreadable config.json")
    refused(packed({"config.json": b"[]"}), "has an unreadable config.json")
    refused(packed({"config.json": None}), "expected config.json and model.weights.h5")
    refused(packed({"model.weights.h5": None}), "expected config.json and model.weights.h5")
    for bombed in ("config.json", "model.weights.h5"):
        refused(packed({bombed: bytes(1 << 26)}, zipfile.ZIP_DEFLATED), bombed, "unfolds to 67108864 bytes")
    assert files.open(packed({"../../planted": b"x", "/etc/planted": b"x"})).kind == "Keras archive"
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        archive.writestr("config.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("config.json", b"{}")
    refused(tmp_path / "b.keras", "two members of one name")
    (tmp_path / "c.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("readme.txt", b"text")
    refused(tmp_path / "c.zip", "a file of unknown kind")


def test_layers_that_share_a_name_keep_their_groups():
    preferred = {"layers/dense/vars/0": "dense/kernel", "other/dense/vars/0": "dense/kernel", "x/vars/0": "x/kernel"}
    found = _keras.distinct(preferred, {path: path for path in preferred})
    assert list(found.values()) == ["layers/dense/vars/0", "other/dense/vars/0", "x/kernel"]


def test_snake_case_is_that_of_keras():
    naming = pytest.importorskip("keras.src.utils.naming")
    for name in ("BatchNormalization", "Conv2D", "DepthwiseConv2D", "ECA", "CBAM", "PReLU", "LSTM", "MyHTTPLayer2"):
        assert _keras.snake_case(name) == naming.to_snake_case(name)


# TensorFlow


@pytest.mark.slow
def test_saver_checkpoint_without_slots(tmp_path):
    tf = pytest.importorskip("tensorflow")
    state = {"block/kernel": RNG.normal(size=(2, 3)), "block/bias": RNG.normal(size=3).astype("float32")}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(key, initializer=value) for key, value in state.items()]
        loss = tf.add_n([tf.cast(tf.reduce_sum(variable**2), "float32") for variable in variables])
        step = tf.compat.v1.train.get_or_create_global_step()
        tf.compat.v1.train.MomentumOptimizer(0.1, 0.9).minimize(loss, global_step=step)
        tf.compat.v1.get_variable("words", initializer=["text"])
        session.run(tf.compat.v1.global_variables_initializer())
        expected = session.run(dict(zip(state, variables, strict=True)) | {"global_step": step})
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model"))
    contents = files.open(tmp_path / "model.index")
    assert contents.kind == "TensorFlow Saver checkpoint"
    assert_same(contents.tensors, expected)
    assert_same(files.open(tmp_path).tensors, expected)  # by the state file


@pytest.fixture
def tf_model(saved):
    tf = pytest.importorskip("tensorflow")
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs Keras on TensorFlow")
    return tf, saved[1]


@pytest.mark.slow
def test_object_checkpoint_without_its_optimizer(tf_model, tmp_path):
    tf, model = tf_model
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / "ck"))
    contents = files.open(path)
    assert contents.kind == "TensorFlow object checkpoint"
    assert_same(contents.tensors, live(model, inner=""))


@pytest.mark.slow
def test_object_checkpoint_of_plain_variables(tmp_path):
    tf = pytest.importorskip("tensorflow")
    head, tail = tf.Module(), tf.Module()
    head.kernel, tail.kernel = tf.Variable(RNG.normal(size=(2, 3))), tf.Variable(RNG.normal(size=4))
    path = tf.train.Checkpoint(head=head, tail=tail).save(str(tmp_path / "ck"))
    expected = {"head/kernel": head.kernel.numpy(), "tail/kernel": tail.kernel.numpy()}  # two variables named Variable
    assert_same(files.open(path).tensors, expected)


@pytest.mark.slow
def test_saved_models(tf_model, tmp_path):
    tf, model = tf_model
    tf.saved_model.save(model, str(tmp_path / "saved"))
    model.export(str(tmp_path / "exported"), verbose=False)
    for name in ("saved", "exported"):
        contents = files.open(tmp_path / name)
        assert contents.kind == "SavedModel"
        assert_same(contents.tensors, live(model, inner=""))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "saved_model.pb").write_bytes(b"\x08\x01")
    refused(tmp_path / "bare", "variables.index is no file")


def test_state_file_names_a_checkpoint_beside_it(tmp_path):
    (tmp_path.parent / "outside.index").write_bytes(b"")
    for name in ("../", "", "a\0", "a\\b"):
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
        refused(tmp_path, "names the checkpoint")
    for name in ("outside", "../outside", f"{tmp_path.parent}/outside"):
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
        refused(tmp_path, f"{tmp_path}/outside.index is no file")


# The child process


def test_tensorflow_and_h5py_stay_out_of_this_process(saved):
    folder, _ = saved
    program = (
        "import sys; from parity import files; "
        f"files.open({str(folder / 'model.keras')!r}), files.open({str(golden.CHECKPOINT)!r}); "
        "assert not {'torch', 'h5py', 'tensorflow', 'keras'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("while True: pass", "its reader did not answer within 3 seconds"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its reader crashed (SIGSEGV)"),
        ("import os; os._exit(3)", "its reader failed with status 3"),
        ("x = bytearray(1 << 31)", "its reader ran out of memory"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
    ],
)
def test_reader_that_hangs_or_dies(saved, tmp_path, monkeypatch, body, words):
    (tmp_path / "h5py.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_child, "SECONDS", 3.0)
    refused(saved[0] / "model.weights.h5", "model.weights.h5", words)


def test_modules_beside_the_file_are_not_imported(saved, tmp_path, monkeypatch):
    (tmp_path / "h5py.py").write_text("raise RuntimeError('planted')")
    (tmp_path / "a.weights.h5").write_bytes((saved[0] / "model.weights.h5").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert files.open("a.weights.h5").tensors


@pytest.mark.parametrize(
    ("library", "path"), [("h5py", "model.weights.h5"), ("tensorflow", golden.CHECKPOINT)], ids=["h5py", "tensorflow"]
)
def test_missing_library(saved, tmp_path, monkeypatch, library, path):
    (tmp_path / f"{library}.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    refused(saved[0] / path, "is not installed; pip install", kind=BackendMissingError)


def test_hdf5_numbers_that_numpy_does_not_know_are_converted(tmp_path):
    h5py = pytest.importorskip("h5py")

    def odd(group, name):
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_ebias(120)
        space = h5py.h5s.create_simple((2,))
        stored = h5py.h5d.create(group.id, name.encode(), kind, space)
        stored.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1.5, -3.0]))

    whole = {"kernel": lambda group, name: group.create_dataset(name, data=np.float32([1.5, -3.0])), "bias": odd}
    found = files.open(legacy(tmp_path / "a.h5", **whole)).tensors
    assert found["dense/bias"].tolist() == found["dense/kernel"].tolist() == [1.5, -3.0]


def test_hdf5_file_behind_a_block_of_its_user(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.weights.h5", "w", userblock_size=512) as file:
        file["layers/dense/vars/0"] = np.arange(6.0).reshape(2, 3)
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", b"{}")
        archive.write(tmp_path / "a.weights.h5", "model.weights.h5")
    assert files.open(tmp_path / "a.keras").tensors["dense/kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_onnx_graphs_are_known_by_their_content(tmp_path):
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph, producer_name="somebody"), tmp_path / "model")
    assert files.open(tmp_path / "model").kind == "ONNX graph"
    (tmp_path / "notes.onnx").write_text("nothing to see here")
    refused(tmp_path / "notes.onnx", "")


def test_a_header_whose_length_looks_like_a_pickle(tmp_path):
    """640 is b"\\x80\\x02" in a safetensors file's first bytes, as in a pickle's."""
    for length in range(600, 680):
        exchange.write_tensors(tmp_path / "a.safetensors", {"a" * length: np.ones(3)}, {})
        assert files.open(tmp_path / "a.safetensors").kind == "safetensors file"


# What is no file, and damaged ones


def test_what_is_no_file(tmp_path):
    (tmp_path / "empty.pth").write_bytes(b"")
    refused(tmp_path / "empty.pth", "an empty file")
    for name in ("notes", "notes.pth", "notes.h5", "notes.keras", "notes.safetensors", "notes.index"):
        (tmp_path / name).write_text("nothing to see here\n" * 9)
        refused(tmp_path / name, "notes")
    (tmp_path / "link.pth").symlink_to("nowhere")
    refused(tmp_path / "link.pth", "a link to nothing")
    refused(tmp_path / "absent.pth", "which is no file")
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "which is no file")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "a folder of no known kind")
    refused("a\0b", "received the path")
    refused("a\ud800b", r"a\ud800b")


def test_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(b"\x80\x02.")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    refused(tmp_path / "a.pth", "cannot be read", "Permission denied")


def samples(folder, saved):
    """A small file of each kind that needs no process of its own, and the two that do."""
    torch = pytest.importorskip("torch")
    torch.save(state_dict(torch), folder / "new.pth")
    torch.save(state_dict(torch), folder / "old.pth", _use_new_zipfile_serialization=False)
    exchange.write_tensors(folder / "a.safetensors", STATE, {})
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "a.weights.h5", "w") as file:
        for number in range(2):
            file[f"layers/dense/vars/{number}"] = np.ones((3,) * (2 - number))
    with zipfile.ZipFile(folder / "a.keras", "w") as archive:
        archive.writestr("config.json", b"{}")
        archive.write(folder / "a.weights.h5", "model.weights.h5")
    return {"new.pth": 150, "old.pth": 150, "a.safetensors": 150, "a.weights.h5": 12, "a.keras": 12}


def test_truncated_files(saved, tmp_path):
    for name, count in samples(tmp_path, saved).items():
        whole = (tmp_path / name).read_bytes()
        for end in np.linspace(1, len(whole) - 1, count).astype(int):
            (tmp_path / f"cut.{name}").write_bytes(whole[:end])
            with pytest.raises(ParityError):
                files.open(tmp_path / f"cut.{name}")


@pytest.mark.slow
def test_files_with_changed_bytes(saved, tmp_path):
    """Numbers may change unseen, as no format but Keras' checks them; everything else is an error or as it was."""
    random = np.random.default_rng(7)
    for name, count in samples(tmp_path, saved).items():
        whole = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
        outcomes = set()
        for _ in range(count):
            changed = whole.copy()
            changed[random.integers(0, len(whole), 4)] = random.integers(0, 256, 4)
            (tmp_path / f"changed.{name}").write_bytes(changed.tobytes())
            with contextlib.suppress(ParityError):
                for value in files.open(tmp_path / f"changed.{name}").tensors.values():
                    value.tobytes()
                outcomes.add("read")
        assert outcomes <= {"read"}


@pytest.mark.slow
def test_damaged_checkpoint(tmp_path):
    pytest.importorskip("tensorflow")
    for suffix in (".index", ".data-00000-of-00001"):
        (tmp_path / f"model{suffix}").write_bytes(pathlib.Path(f"{golden.CHECKPOINT}{suffix}").read_bytes())
    data = tmp_path / "model.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    refused(tmp_path / "model", "cannot be read as a TensorFlow checkpoint")
    (tmp_path / "model.index").write_bytes(b"nothing")
    refused(tmp_path / "model", "model cannot be read as a TensorFlow checkpoint", "expected whole, readable files")
