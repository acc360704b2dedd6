"""Written files: bitwise in every kind and dialect, whole or not there at all, and nothing lost without a word."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from parity import dialects, exchange, golden, writing
from parity.block import Block, Probe
from parity.dialects import Dialect
from parity.errors import (
    DialectError,
    FormatError,
    MissingTensorError,
    SpecError,
    SpecMismatchError,
    UnexpectedTensorError,
)
from parity.reading import read
from parity.spec import SPECS, BatchNorm, CBAMOptions, CoordinateAttentionOptions, ECAOptions, SqueezeExcitationOptions

FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
KINDS = ["a.safetensors", "a.pth", "a.ckpt"]
NORM = BatchNorm(epsilon=1e-5, update_rate=0.1, unbiased_variance=True)

SE = SqueezeExcitationOptions(reduction=4).resolve(24)
CBAM = CBAMOptions(reduction=4, kernel_size=3).resolve(24)
CBAM_PLAIN = CBAMOptions(reduction=4, mlp_bias=False, spatial_norm=None).resolve(24)
ECA = ECAOptions(kernel_size=3).resolve(None)
CA = CoordinateAttentionOptions(hidden_channels=7, norm=NORM).resolve(24)
BARE = CoordinateAttentionOptions(hidden_channels=7, norm=NORM, bias=False, head_bias=False, activation="relu")
BARE_CA = BARE.resolve(24)


def bits(value):
    """The bytes of an array in C order, with what they mean."""
    value = np.asarray(value)
    return value.shape, value.dtype, value.tobytes()


def all_bits(arrays):
    return {name: bits(value) for name, value in arrays.items()}


def same(a, b):
    """Whether two blocks are equal bit for bit; channels that weights do not tell may be open."""
    arrays = [(all_bits(block.tensors), all_bits(block.extras)) for block in (a, b)]
    return a.name == b.name and not a.spec.differences(b.spec) and arrays[0] == arrays[1]


def block_of(spec, name="stage1", dtype=np.float32, seed=0, **extras):
    """A block of random bits: NaN payloads, infinities and negative zeros included."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)

    def tensor(shape):
        count = int(np.prod(shape)) * dtype.itemsize
        return rng.integers(0, 256, count, np.uint8).view(dtype).reshape(shape)

    tensors = {name: tensor(shape) for name, shape in spec.parameters().items()}
    return Block(name, spec, tensors, extras)


def content(path):
    """The arrays of a written file, as its own library reads them."""
    path = str(path)
    if path.endswith(".safetensors"):
        return exchange.read_tensors(path)[0]
    if path.endswith(".pth"):
        import torch

        state = torch.load(path, weights_only=True)
        assert type(state).__name__ == "OrderedDict"
        half = {name: value for name, value in state.items() if value.dtype == torch.bfloat16}
        arrays = {name: value.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) for name, value in half.items()}
        return {name: arrays[name] if name in arrays else value.numpy() for name, value in state.items()}
    import tensorflow as tf

    reader = tf.train.load_checkpoint(path)
    return {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}


def left(folder):
    return sorted(os.listdir(folder))


# Dialects


SAMPLES = {
    "tutorial-pytorch/SEAttention": replace(SE, bias=False),
    "torchvision/SqueezeExcitation": SE,
    "timm/SqueezeExcite": SE,
    "tutorial-keras/se_block": SE,
    "keras.applications/mobilenet_v3_se_block": replace(SE, gate="hard_sigmoid"),
    "keras_cv_attention_models/se_module-dense": SE,
    "tutorial-keras/spatial_attention": replace(
        CBAMOptions(parts="spatial", spatial_norm=None).resolve(1), channels=None
    ),
    "tutorial-tf1/cbam_module": replace(CBAM_PLAIN, mlp_bias=True, spatial_bias=True, spatial_source="input"),
    "attention-module/CBAM": replace(CBAM_PLAIN, mlp_bias=True, spatial_norm=BatchNorm(update_rate=0.01)),
    "tutorial-keras/eca_block": ECA,
    "tutorial-pytorch/CAAttention": BARE_CA,
}


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("dialect", SAMPLES)
def test_foreign_file_is_bitwise_and_reads_back(tmp_path, target, dialect):
    block = block_of(SAMPLES[dialect], "net")
    written = writing.write(tmp_path / target, block, dialect)
    arrays = content(tmp_path / target)
    table = dialects.get(dialect)
    starred = "*" in table.tensors[0].key
    assert all("net" in name if starred else name.startswith(f"net{table.separator}") for name in arrays)
    assert same(read(arrays, dialect, written.hints)[0], block)
    assert (written.dialects, written.hints, written.dropped) == ({"net": dialect}, {}, ())
    assert written.tensors == len(arrays) == len(block.tensors)


@pytest.mark.parametrize("name", [name for name in golden.names() if name != "real-ppocr-cls"])
def test_recorded_weights_come_back_as_they_were(tmp_path, name):
    """Foreign, canonical, file: the same tensors under the same names as their authors' code has them."""
    tensors, metadata = exchange.read_tensors(golden.path(name))
    state = {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}
    (block,) = read(golden.path(name))
    one = dialects.get(metadata["dialect"])
    writing.write(tmp_path / "a.safetensors", block, one)
    back = exchange.read_tensors(tmp_path / "a.safetensors")[0]
    if set(back) != set(state):  # another spelling of anonymous layers
        own = writing._place(block.name, one)
        spelled = one.spelling([key.removeprefix(own[0]) for key in state])
        state = {own[0] + key: state[own[0] + theirs] for key, theirs in spelled.items()}
    assert all_bits(back) == all_bits(state)


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["C", "F", "reversed", "read-only"])
def test_every_dtype_and_memory_layout(tmp_path, target, dtype, layout):
    def laid_out(value):
        value = value.copy("F" if layout == "F" else "C")
        value.flags.writeable = layout != "read-only"
        return value[..., ::-1] if layout == "reversed" else value

    raw = block_of(CBAM_PLAIN, dtype=dtype)
    block = replace(raw, tensors={name: laid_out(value) for name, value in raw.tensors.items()})
    writing.write(tmp_path / target, block, "bubbliiiing/cbam_block")
    (back,) = read(content(tmp_path / target), "bubbliiiing/cbam_block")
    assert same(back, block)


def test_without_a_dialect_it_is_the_exchange_file(tmp_path):
    block = replace(block_of(CBAM), probe=Probe(np.ones((1, 24, 5, 6)), np.ones((1, 24, 5, 6)), "oracle"))
    written = writing.write(tmp_path / "a.safetensors", block)
    exchange.write(tmp_path / "b", block)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b").read_bytes()
    assert (written.kind, written.dialects, written.dropped) == ("exchange file", {}, ())
    assert written.bytes == (tmp_path / "b").stat().st_size


def test_root_block_has_bare_keys(tmp_path):
    writing.write(tmp_path / "a.safetensors", block_of(SE, ""), "torchvision/SqueezeExcitation")
    assert content(tmp_path / "a.safetensors").keys() == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("expanded_conv_3_", "expanded_conv_3_squeeze_excite_conv/kernel"),
        ("net/block_1_", "net/block_1_squeeze_excite_conv/kernel"),
        ("net.block_1_", "net.block_1_squeeze_excite_conv/kernel"),
        ("", "squeeze_excite_conv/kernel"),
    ],
)
def test_names_with_a_star(tmp_path, name, key):
    dialect = "keras.applications/mobilenet_v3_se_block"
    block = block_of(SAMPLES[dialect], name)
    writing.write(tmp_path / "a.safetensors", block, dialect)
    arrays = content(tmp_path / "a.safetensors")
    assert key in arrays
    assert same(read(arrays, dialect)[0], block)


def test_several_dialects_by_name(tmp_path):
    blocks = [block_of(SE, "a.se"), block_of(replace(SE, gate="hard_sigmoid"), "b.se"), block_of(ECA, "b.eca")]
    ids = {"*.se": "torchvision/SqueezeExcitation", "b.eca": "timm/EcaModule"}
    written = writing.write(tmp_path / "a.pth", blocks, ids)
    assert written.dialects == {block.name: ids["*.se" if "se" in block.name else "b.eca"] for block in blocks}
    assert list(content(tmp_path / "a.pth"))[-1] == "b.eca.conv.weight"
    hints = {"b.se": {"gate": {"kind": "hard_sigmoid", "slope": 1 / 6, "offset": 0.5}}}
    assert written.hints == hints
    assert "is not in the file: read it back with these hints" in str(written)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"c*": "timm/SEModule"}, "received a dialect for 'c\\*'; expected for one of the blocks 'a.se', 'b.se'"),
        ({"a*": "torchvision/SqueezeExcitation"}, "received no dialect for the block 'b.se'; expected one dialect"),
        (
            {"*": "torchvision/SqueezeExcitation", "a*": "timm/SEModule"},
            "received timm/SEModule and torchvision/SqueezeExcitation for the block 'a.se'",
        ),
        ({"*": ["timm/SEModule"]}, "received dialect="),
        ("no/such", "received dialect='no/such'; expected one of"),
    ],
)
def test_dialects_that_fit_no_block_or_several(tmp_path, given, sentence):
    with pytest.raises(DialectError, match=sentence):
        writing.write(tmp_path / "a.pth", [block_of(SE, "a.se"), block_of(SE, "b.se")], given)
    assert left(tmp_path) == []


def test_what_the_file_cannot_tell_is_told(tmp_path):
    dialect, spec = "torchvision/SqueezeExcitation", replace(SE, gate="hard_sigmoid", activation="silu")
    blocks = [block_of(spec, "a[0]"), block_of(spec, "b")]
    written = writing.write(tmp_path / "a.safetensors", blocks, dialect)
    gate = {"kind": "hard_sigmoid", "slope": 1 / 6, "offset": 0.5}
    assert written.hints == {"gate": gate, "activation": "silu"}
    assert all(map(same, read(content(tmp_path / "a.safetensors"), dialect, written.hints), blocks))

    mixed = [blocks[0], block_of(SE, "b")]
    written = writing.write(tmp_path / "a.safetensors", mixed, dialect)
    assert list(written.hints) == ["a[[]0]"]
    assert all(map(same, read(content(tmp_path / "a.safetensors"), dialect, written.hints), mixed))
    assert json.loads(json.dumps(written.to_json()))["hints"] == written.hints


def test_dropped_extras_and_probes_are_told(tmp_path):
    probe = Probe(np.ones((1, 24, 5, 6)), np.ones((1, 24, 5, 6)), "oracle")
    extras = {"norm.num_batches_tracked": np.array(7), "seen": np.array(1)}
    block = replace(block_of(BARE_CA, "a"), extras=extras, probe=probe)
    written = writing.write(tmp_path / "a.pth", block, "tutorial-pytorch/CAAttention")
    assert written.dropped == ("a/seen", "a/probe")
    assert content(tmp_path / "a.pth")["a.bn.num_batches_tracked"] == 7
    assert written.tensors == len(content(tmp_path / "a.pth"))
    assert "without a/seen, a/probe, for which it has no place" in str(written)


REFUSED = Dialect(id="x/Refused", block="se", tensors=(), refused="its branches differ")


@pytest.mark.parametrize(
    ("spec", "dialect", "sentence"),
    [
        (SE, REFUSED, "block 'stage1' as x/Refused is refused: its branches differ"),
        (SE, "timm/EcaModule", "received a block of kind 'se'; expected 'eca'"),
        (
            SE,
            "mobilenetv3.pytorch/SELayer",
            r"would compute something else \(block, mobilenetv3.pytorch/SELayer\): gate: 'sigmoid', .*hard_sigmoid",
        ),
        (
            replace(CBAM_PLAIN, spatial_source="input"),
            "bubbliiiing/cbam_block",
            "spatial_source: 'input', 'refined'",
        ),
        (CBAM_PLAIN, "fightingcv/CBAMBlock", "residual: False, True"),
        (
            replace(SE, bias=False),
            "torchvision/SqueezeExcitation",
            r"lacks fc1\.bias, fc2\.bias; expected a block that",
        ),
        (SE, "tutorial-pytorch/SEAttention", r"received fc1\.bias, fc2\.bias; expected what the dialect"),
        (replace(CBAM, spatial_norm=NORM), "tutorial-keras/cbam_block", r"received spatial\.norm\.scale"),
        (CBAM_PLAIN, "tutorial-keras/channel_attention", r"received spatial\.conv\.kernel"),
        (
            BARE.resolve(24, 3),
            "tutorial-pytorch/CAAttention",
            "does not work out",
        ),
        (ECAOptions(kernel_size=3, padding="circular").resolve(None), "timm/EcaModule", "padding: 'circular', 'zeros'"),
    ],
    ids=lambda value: value if isinstance(value, str) and "/" in value else "",
)
def test_dialect_that_would_lose_something(tmp_path, spec, dialect, sentence):
    with pytest.raises(DialectError, match=sentence):
        writing.write(tmp_path / "a.pth", block_of(spec), dialect)
    assert left(tmp_path) == []


def test_every_refused_dialect_is_refused(tmp_path):
    refused = [one for one in dialects.DIALECTS.values() if one.refused]
    assert refused
    for one in refused:
        spec = SPECS[one.block].options_class().resolve(24)
        with pytest.raises(DialectError, match="is refused: "):
            writing.write(tmp_path / "a.pth", block_of(spec), one)


def test_layout_without_room_is_found_before_writing(tmp_path):
    """A table whose layout does not give back what it took: the proof is in the way, not the table."""
    from parity.dialects._table import LAYOUTS, Layout, Tensor

    lossy = Dialect(id="x/Lossy", block="eca", tensors=(Tensor("w", "conv.kernel", "lossy"),))
    LAYOUTS["lossy"] = Layout((3,), lambda w: w, lambda w: w * 0)
    try:
        with pytest.raises(DialectError, match=r"as x/Lossy would not give conv\.kernel back"):
            writing.write(tmp_path / "a.safetensors", block_of(ECA), lossy)
    finally:
        del LAYOUTS["lossy"]
    assert left(tmp_path) == []


def test_a_field_that_a_dialect_never_mentions_must_be_what_it_computes(tmp_path):
    table = dialects.get("torchvision/SqueezeExcitation")
    silent = replace(table, id="x/Silent", defaults={"gate": "sigmoid"})
    with pytest.raises(DialectError, match=r"would compute something else .*: activation: 'silu', 'relu'"):
        writing.write(tmp_path / "a.pth", block_of(replace(SE, activation="silu")), silent)


def test_two_tensors_of_one_key(tmp_path):
    blocks = [block_of(SE, "a.b"), block_of(SE, "a/b")]
    with pytest.raises(UnexpectedTensorError, match=r"'a\.b' and 'a\.b', which both have the key 'a\.b\.fc1\.weight'"):
        writing.write(tmp_path / "a.pth", blocks)
    assert left(tmp_path) == []


# This project's own names


OWN = {
    "SqueezeExcitation": SE,
    "CBAM": CBAM,
    "CBAM-channel": CBAMOptions(reduction=4, parts="channel").resolve(24),
    "CBAM-spatial": CBAMOptions(parts="spatial", spatial_bias=True).resolve(24),
    "ECA": ECAOptions(kernel_size=3, bias=True).resolve(24),
    "CoordinateAttention": CA,
    "CoordinateAttention-1d": CoordinateAttentionOptions(hidden_channels=3, norm=None).resolve(7, 1),
}


@pytest.mark.parametrize("spec", OWN.values(), ids=list(OWN))
def test_own_torch_modules_load_the_file(tmp_path, spec):
    import torch

    import attention_torch
    from parity.loading import blocks_of

    module = getattr(attention_torch, spec.options_class.class_name).from_spec(spec)
    model = torch.nn.ModuleDict({"stage1": torch.nn.ModuleDict({"attention": module})})
    block = block_of(spec, "stage1/attention")
    written = writing.write(tmp_path / "a.pth", block)
    model.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True))
    (back,) = blocks_of(model)
    assert same(replace(back, extras={}), replace(block, name="stage1.attention"))
    assert written.dialects["stage1.attention"].startswith(f"attention_torch/{spec.options_class.class_name}")

    writing.write(tmp_path / "b.pth", replace(back, extras=back.extras))  # with its counters
    assert content(tmp_path / "b.pth").keys() == model.state_dict().keys()


@pytest.mark.parametrize("spec", OWN.values(), ids=list(OWN))
def test_own_tf1_graphs_restore_the_checkpoint(tmp_path, spec):
    import tensorflow as tf

    import attention_tf1compat
    from parity.loading import blocks_of

    block = block_of(spec, "stage1.attention")
    writing.write(tmp_path / "a.ckpt", block)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder("float32", (2, *range(5, 5 + spec.spatial_dims), spec.channels))
        function = getattr(attention_tf1compat, spec.options_class.function_name)
        function(x, spec=spec, scope="stage1/attention", data_format="channels_last", dtype="float32")
        tf.compat.v1.train.Saver().restore(session, str(tmp_path / "a.ckpt"))
        (back,) = blocks_of(session)
    assert same(back, replace(block, name="stage1/attention"))


def test_a_name_keeps_what_its_framework_allows(tmp_path):
    assert writing._own_name("layer1.0.se", "/") == "layer1/0/se"
    assert writing._own_name("stage/attn.v2", "/") == "stage/attn.v2"
    assert writing._own_name("", ".") == ""


@pytest.mark.parametrize("target", ["a.keras", "a.weights.h5"])
def test_through_a_keras_model(tmp_path, target):
    import keras

    from attention_keras.layers import SqueezeExcitation
    from parity.loading import blocks_of

    def model():
        x = keras.Input((5, 6, 24))
        return keras.Model(x, SqueezeExcitation(reduction=4, name="attention")(x))

    block = block_of(SE, "attention")
    written = writing.write(tmp_path / target, block, model=model())
    assert left(tmp_path) == [target]
    assert written.bytes == (tmp_path / target).stat().st_size
    if target == "a.keras":
        back = keras.saving.load_model(tmp_path / target)
    else:
        back = model()
        back.load_weights(tmp_path / target)
    assert same(replace(blocks_of(back)[0], name="attention"), block)
    old = (tmp_path / target).read_bytes()
    with pytest.raises(SpecMismatchError):
        writing.write(tmp_path / target, block_of(replace(SE, gate="hard_sigmoid"), "attention"), model=model())
    assert ((tmp_path / target).read_bytes(), left(tmp_path)) == (old, [target])


# TensorFlow checkpoints


def test_checkpoint_in_many_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PART_BYTES", 1000)
    blocks = [block_of(SE, f"b{number}", seed=number) for number in range(5)]
    writing.write(tmp_path / "a", blocks)
    assert len(left(tmp_path)) > 5
    arrays = content(tmp_path / "a")
    hints = {"gate": "sigmoid", "activation": "relu"}
    back = {block.name: block for block in read(arrays, "attention_tf1compat/squeeze_excitation", hints)}
    assert all(same(back[block.name], block) for block in blocks)


@pytest.mark.parametrize("taken", [{1}, {2}, {1, 2, 3}, {4}, {1, 2, 3, 4}])
def test_parts_avoid_the_names_that_are_taken(taken):
    state = {f"w{number}": np.ones(number + 1) for number in range(4)}
    parts = writing._parts(state, taken)
    assert sorted(name for names in parts for name in names) == sorted(state)
    assert all(parts)
    assert len(parts) not in taken or taken == {1, 2, 3, 4}


def test_inside_a_graph(tmp_path):
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        writing.write(tmp_path / "model.ckpt-1000", block_of(ECA))
        assert graph.get_operations() == []
    assert content(tmp_path / "model.ckpt-1000").keys() == {"stage1/conv/kernel"}


# Whole or not there at all


def kind_of(target):
    return writing._target(target, overwrite=True)[1]


def snapshots(monkeypatch, tmp_path):
    """Copies of a folder before and after each step that changes what others see in it: what a kill would leave."""
    taken = []

    def watched(step):
        def run(*arguments, **options):
            taken.append(shutil.copytree(tmp_path / "out", tmp_path / f"{len(taken)}", dirs_exist_ok=True))
            result = step(*arguments, **options)
            taken.append(shutil.copytree(tmp_path / "out", tmp_path / f"{len(taken)}", dirs_exist_ok=True))
            return result

        return run

    for name in ("replace", "unlink"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    return taken


@pytest.mark.parametrize("target", KINDS)
def test_at_every_moment_there_is_the_old_file_or_the_new(tmp_path, monkeypatch, target):
    (tmp_path / "out").mkdir()
    old, new = block_of(SE, seed=1), block_of(SE, seed=2)
    states = []
    for block in (old, new):
        writing.write(tmp_path / target, block, "torchvision/SqueezeExcitation")
        states.append(all_bits(content(tmp_path / target)))
    writing.write(tmp_path / "out" / target, old, "torchvision/SqueezeExcitation")
    with monkeypatch.context() as patch:
        taken = snapshots(patch, tmp_path)
        writing.write(tmp_path / "out" / target, new, "torchvision/SqueezeExcitation")
    found = [states.index(all_bits(content(folder / target))) for folder in taken]
    assert found == sorted(found)
    assert set(found) == {0, 1}
    assert len(left(tmp_path / "out")) == len(writing._files(str(tmp_path / "out" / target), kind_of(target)))
    assert len({name[-5:] for name in left(tmp_path / "out") if ".data-" in name}) <= 1, "of the old checkpoint"


def test_a_lone_tensor_is_never_mixed(tmp_path, monkeypatch):
    """Its checkpoint has but one name for its numbers: there may be no index for a moment, but never the old one."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "a.ckpt"
    old, new = block_of(ECA, seed=1), block_of(ECA, seed=2)
    writing.write(path, old)
    with monkeypatch.context() as patch:
        taken = snapshots(patch, tmp_path)
        writing.write(path, new)
    for folder in taken:
        if (folder / "a.ckpt.index").exists():
            value = content(folder / "a.ckpt")["stage1/conv/kernel"]
            assert bits(value) in [bits(block.tensors["conv.kernel"].T) for block in (old, new)]
    assert bits(content(path)["stage1/conv/kernel"]) == bits(new.tensors["conv.kernel"].T)


WRITER = """
import sys
import numpy as np
from parity import writing
from parity.block import Block
from parity.spec import SqueezeExcitationOptions
spec = SqueezeExcitationOptions(reduction=2).resolve(600)
blocks = [Block("a", spec, {k: np.full(s, n) for k, s in spec.parameters().items()}) for n in (1.0, 2.0)]
print("ready", flush=True)
while True:
    for block in blocks:
        writing.write(sys.argv[1], block)
"""


def test_killed_writer(tmp_path):
    path = tmp_path / "a.safetensors"
    for moment in range(5):
        child = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
        child.stdout.readline()
        while not path.exists() or len(left(tmp_path)) < 2:  # until it is in the middle of a file
            assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        (block,) = read(path)
        values = {float(number) for value in block.tensors.values() for number in np.unique(value)}
        assert len(values) == 1, f"a mixture after kill {moment}"
        for name in set(left(tmp_path)) - {"a.safetensors"}:
            (tmp_path / name).unlink()


@pytest.fixture
def small_files():
    """No file may grow beyond the given size: what a full disk is to a writer, libraries in C++ included."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("dialect", ["torchvision/SqueezeExcitation", "tutorial-keras/se_block"])
@pytest.mark.parametrize("target", KINDS)
def test_full_disk(tmp_path, small_files, target, dialect):
    writing.write(tmp_path / target, block_of(SE, seed=1), dialect)
    old, files = all_bits(content(tmp_path / target)), left(tmp_path)
    big = block_of(SqueezeExcitationOptions(reduction=2).resolve(600))
    small_files(100_000)
    with pytest.raises(FormatError, match=r"cannot be written: .*; expected a file in a writable folder"):
        writing.write(tmp_path / target, big, dialect)
    assert (all_bits(content(tmp_path / target)), left(tmp_path)) == (old, files)


@pytest.mark.parametrize("target", ["a.keras", "a.weights.h5"])
def test_full_disk_under_keras(tmp_path, small_files, target):
    import keras

    from attention_keras.layers import SqueezeExcitation

    (tmp_path / target).write_bytes(b"old")
    x = keras.Input((5, 6, 600))
    model = keras.Model(x, SqueezeExcitation(reduction=2, name="a")(x))
    small_files(100_000)
    with pytest.raises(FormatError, match="cannot be written: "):
        writing.write(tmp_path / target, block_of(SqueezeExcitationOptions(reduction=2).resolve(600), "a"), model=model)
    assert (left(tmp_path), (tmp_path / target).read_bytes()) == ([target], b"old")


def test_no_room_when_it_reaches_the_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for target in KINDS:
        with pytest.raises(FormatError, match="No space left on device"):
            writing.write(tmp_path / target, block_of(SE))
    assert left(tmp_path) == []


@pytest.mark.parametrize("target", KINDS)
def test_replaced_file_keeps_its_permissions(tmp_path, target):
    writing.write(tmp_path / target, block_of(SE))
    for name in left(tmp_path):
        (tmp_path / name).chmod(0o640)
    writing.write(tmp_path / target, block_of(SE))
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in left(tmp_path) if "data" not in name} == {0o640}


# Targets


@pytest.mark.parametrize("target", KINDS)
def test_existing_target_may_be_kept(tmp_path, target):
    writing.write(tmp_path / target, block_of(SE, seed=1))
    before = {name: (tmp_path / name).read_bytes() for name in left(tmp_path)}
    with pytest.raises(FormatError, match=rf"{target} exists; expected a new file; choose another path, or allow it"):
        writing.write(tmp_path / target, block_of(SE, seed=2), overwrite=False)
    with pytest.raises(FormatError, match="exists"):
        writing.check_target(tmp_path / target, overwrite=False)
    writing.check_target(tmp_path / target)
    assert {name: (tmp_path / name).read_bytes() for name in left(tmp_path)} == before


def test_new_target_needs_no_leave(tmp_path):
    for target in KINDS:
        writing.write(tmp_path / target, block_of(SE), overwrite=False)
        assert content(tmp_path / target)


@pytest.mark.parametrize("name", ["a.onnx", "a.h5", "a.npz", "a.safetensors.index.json", "a.bin", "v1.2", ".ckpt.pb"])
def test_kinds_that_are_not_written(tmp_path, name):
    with pytest.raises(
        FormatError, match=rf"{name}, which can be no file to write; expected one of: \.safetensors for"
    ):
        writing.write(tmp_path / name, block_of(SE))
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("folder.pth", "it is a folder"),
        ("folder.pth/", "it is a folder"),
        ("absent/a.pth", "absent is no folder"),
        ("absent/a.ckpt", "absent is no folder"),
        ("a\0.pth", "as a path; expected a string"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path, path, sentence):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(FormatError, match=sentence):
        writing.write(f"{tmp_path}/{path}", block_of(SE))
    assert left(tmp_path) == ["folder.pth"]
    assert left(tmp_path / "folder.pth") == []


def test_no_paths_and_no_blocks(tmp_path):
    with pytest.raises(FormatError, match="received 7 as a path"):
        writing.write(7, block_of(SE))
    with pytest.raises(FormatError, match="as a path"):
        writing.write(b"a.pth", block_of(SE))
    with pytest.raises(MissingTensorError, match="received no block to write"):
        writing.write(tmp_path / "a.pth", [])
    with pytest.raises(SpecError, match="received 7 to write"):
        writing.write(tmp_path / "a.ckpt", 7)
    with pytest.raises(UnexpectedTensorError, match="several blocks named 'a'"):
        writing.write(tmp_path / "a.pth", [block_of(SE, "a"), block_of(ECA, "a")])


def test_models_and_files_that_do_not_belong_together(tmp_path):
    import torch

    with pytest.raises(FormatError, match=r"a Keras archive, without a model; expected model=, a Keras model .* build"):
        writing.write(tmp_path / "a.keras", block_of(SE))
    with pytest.raises(FormatError, match=r"received a model for .*a PyTorch checkpoint; expected a \.keras or"):
        writing.write(tmp_path / "a.pth", block_of(SE), model=torch.nn.Linear(1, 1))
    with pytest.raises(FormatError, match=r"received a torch\S*Linear as the model; expected a keras\.Model"):
        writing.write(tmp_path / "a.weights.h5", block_of(SE), model=torch.nn.Linear(1, 1))
    with pytest.raises(DialectError, match=r"received a dialect for .*: the model says"):
        writing.write(tmp_path / "a.keras", block_of(SE), "timm/SEModule", model=7)
    assert left(tmp_path) == []


@pytest.mark.parametrize("target", KINDS)
def test_rehearsal_checks_everything_and_writes_nothing(tmp_path, target):
    written = writing.write(tmp_path / target, block_of(SE), dry_run=True)
    assert left(tmp_path) == []
    assert (written.tensors, written.bytes) == (4, sum(value.nbytes for value in block_of(SE).tensors.values()))
    with pytest.raises(DialectError):
        writing.write(tmp_path / target, block_of(SE), "timm/EcaModule", dry_run=True)


@pytest.mark.parametrize("target", KINDS)
def test_progress_ends_at_the_number_of_blocks(tmp_path, target):
    told = []
    writing.write(tmp_path / target, [block_of(SE, "a"), block_of(SE, "b")], progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 2


# Size


STREAM = """
import os, resource, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
from parity import exchange, writing

source, target, dialect, library = sys.argv[1:]
__import__(library)

def data_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))

writing.write(os.path.dirname(target) + "/warm" + os.path.splitext(target)[1], exchange.read(source)[:1], dialect)
resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + 150 * 2**20,) * 2)
try:
    exchange.read_tensors(source)
except MemoryError:
    print("the limit holds")
writing.write(target, exchange.read(source), dialect)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA")
@pytest.mark.parametrize("dialect", ["tutorial-pytorch/SEAttention", "tutorial-keras/se_block@no bias"])
@pytest.mark.parametrize(("target", "library"), [*zip(KINDS, ("numpy", "torch", "tensorflow"), strict=True)])
def test_more_weights_than_memory(tmp_path, target, library, dialect):
    """300 MiB of blocks through 150 MiB of memory, as they lie and transposed."""
    dialect, _, bias = dialect.partition("@")
    spec = SqueezeExcitationOptions(hidden_channels=1024, bias=bool(bias)).resolve(3840)
    tensors = {name: np.full(shape, 1.0, np.float32) for name, shape in spec.parameters().items()}
    exchange.write(tmp_path / "source", [Block(f"b{number}", spec, tensors) for number in range(10)])
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(STREAM), tmp_path / "source", tmp_path / "out" / target]
    done = subprocess.run([*command, dialect, library], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("the limit holds")
    size = sum(file.stat().st_size for file in (tmp_path / "out").iterdir() if not file.name.startswith("warm"))
    assert size > 300 * 2**20
