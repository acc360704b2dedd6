"""Foreign weights: every dialect there and back, detection, doubts, hints, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from parity import dialects, exchange, golden
from parity.block import Block
from parity.errors import (
    DialectError,
    FormatError,
    MissingTensorError,
    TensorShapeError,
    UnexpectedTensorError,
)
from parity.reading import read
from parity.spec import CBAMOptions, ECAOptions, Gate, SqueezeExcitationOptions


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def torchvision(prefix="", channels=24, hidden=6):
    """The state dict of a torchvision SqueezeExcitation."""
    shapes = {"fc1.weight": (hidden, channels, 1, 1), "fc1.bias": (hidden,)}
    shapes |= {"fc2.weight": (channels, hidden, 1, 1), "fc2.bias": (channels,)}
    return {prefix + key: random(*shape) for key, shape in shapes.items()}


def dense(names, inputs, hidden, outputs):
    """Two Keras Dense layers."""
    first, second = names
    shapes = {f"{first}/kernel": (inputs, hidden), f"{first}/bias": (hidden,)}
    shapes |= {f"{second}/kernel": (hidden, outputs), f"{second}/bias": (outputs,)}
    return {key: random(*shape) for key, shape in shapes.items()}


def answers(dialect):
    """Hints for whatever the detection of `dialect` asks."""
    defaults = dialects.get(dialect).defaults
    return {name: defaults[name] for name in ("gate", "activation", "padding") if name in defaults}


PLAIN = {"gate": "sigmoid", "activation": "relu"}
PLAIN_ECA = {"gate": "sigmoid", "padding": "zeros"}


def golden_state(name):
    tensors, _ = exchange.read_tensors(golden.path(name))
    return {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}


# There and back


SPECS = {
    "tutorial-pytorch/SEAttention": SqueezeExcitationOptions(reduction=4, bias=False).resolve(24),
    "tutorial-keras/se_block": SqueezeExcitationOptions(reduction=4).resolve(24),
    "torchvision/SqueezeExcitation": SqueezeExcitationOptions(reduction=4).resolve(24),
    "tutorial-keras/channel_attention": CBAMOptions(parts="channel", reduction=4).resolve(24),
    "tutorial-keras/spatial_attention": replace(
        CBAMOptions(parts="spatial", spatial_norm=None).resolve(1), channels=None
    ),
    "tutorial-pytorch/ECAAttention": ECAOptions(kernel_size=3, bias=True).resolve(None),
}


@pytest.mark.parametrize("dialect", SPECS)
def test_canonical_foreign_canonical_is_bitwise(dialect):
    tensors = {name: random(*shape) for name, shape in SPECS[dialect].parameters().items()}
    state = dialects.from_canonical(dialects.get(dialect), tensors)
    (block,) = read({f"net.{key}": value for key, value in state.items()}, dialect)
    assert (block.name, block.spec) == ("net", SPECS[dialect])
    assert block.tensors.keys() == tensors.keys()
    assert all(np.array_equal(block.tensors[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("name", [name for name in golden.names() if name != "real-ppocr-cls"])
def test_foreign_canonical_foreign_is_bitwise(name):
    _, metadata = exchange.read_tensors(golden.path(name))
    dialect, state = dialects.get(metadata["dialect"]), golden_state(name)
    state = {key.removeprefix("cbam_block1/"): value for key, value in state.items()}
    back = dialects.from_canonical(dialect, *dialects.to_canonical(dialect, state))
    assert back.keys() == state.keys()
    assert all(back[key].shape == state[key].shape for key in state)
    assert all(np.array_equal(back[key], state[key]) for key in state)


def test_layouts_permute():
    """Each layout, on numbers that tell their place."""
    kernel = np.arange(2 * 3 * 5 * 7.0).reshape(5, 7, 3, 2)
    canonical = dialects._table.LAYOUTS["conv_last"].to_canonical(kernel)
    assert canonical.shape == (2, 3, 5, 7)
    assert canonical[1, 2, 3, 4] == kernel[3, 4, 2, 1]
    planes = np.arange(2.0 * 9).reshape(1, 2, 3, 3)
    assert np.array_equal(dialects._table.LAYOUTS["swap_planes"].to_canonical(planes)[0, 0], planes[0, 1])


def test_registry_names_projects_and_blocks():
    assert all(re.fullmatch(r"[\w-]+/\w+", name) for name in dialects.DIALECTS)
    assert len(dialects.DIALECTS) == 12


def test_unknown_keys_are_refused():
    dialect = dialects.get("tutorial-pytorch/SEAttention")
    with pytest.raises(
        UnexpectedTensorError, match=r"received fc\.7\.weight; expected keys of the dialect tutorial-py"
    ):
        dialects.to_canonical(dialect, {"fc.7.weight": np.ones((2, 2))})
    with pytest.raises(
        DialectError, match=r"received fc1\.bias; expected what the dialect tutorial-pytorch/SEAttention"
    ):
        dialects.from_canonical(dialect, {"fc1.bias": np.ones(2)})


# Detection


@pytest.mark.parametrize("name", [name for name in golden.names() if name.startswith("tutorial")])
def test_tutorials_are_detected(name):
    (expected,) = read(golden.path(name))
    _, metadata = exchange.read_tensors(golden.path(name))
    (block,) = read(golden_state(name), hints=answers(metadata["dialect"]))
    assert block.spec == expected.spec
    assert block.name == expected.name
    assert all(np.array_equal(block.tensors[key], expected.tensors[key]) for key in expected.tensors)


@pytest.mark.parametrize(
    ("state", "name", "parts"),
    [
        (dense(["x/dense_2", "x/dense_3"], 24, 6, 24) | {"x/conv2d_9/kernel": random(7, 7, 2, 1)}, "x", "both"),
        (dense(["dense", "dense_1"], 48, 6, 24) | {"conv2d/kernel": random(3, 3, 24, 1)}, "", "both"),
        (dense(["dense_9", "dense_10"], 24, 3, 12) | {"conv3d_1/kernel": random(3, 3, 3, 12, 1)}, "", "both"),
        (
            dense(["cbam/dense:0/kernel:0", "y"], 2, 2, 2) and {"sa/conv2d/kernel:0": random(7, 7, 2, 1)},
            "sa",
            "spatial",
        ),
    ],
)
def test_anonymous_keras_layers_are_detected(state, name, parts):
    (block,) = read(state, hints={"gate": "sigmoid"} if parts == "spatial" else PLAIN)
    assert (block.name, block.spec.parts) == (name, parts)


def test_anonymous_layers_go_by_number_not_by_order():
    state = dense(["dense_9", "dense_10"], 24, 6, 24)
    (block,) = read(dict(reversed(state.items())), "tutorial-keras/se_block")
    assert np.array_equal(block.tensors["fc1.kernel"], state["dense_9/kernel"].T)
    (square,) = read(dense(["dense_10", "dense_9"], 5, 5, 5), "tutorial-keras/se_block")
    assert np.array_equal(square.tensors["fc1.kernel"], dense(["a", "b"], 5, 5, 5)["b/kernel"].T)


def test_anonymous_dense_pair_is_two_things():
    sentence = (
        "which fit tutorial-keras/se_block and tutorial-keras/channel_attention; expected one dialect; "
        "choose with dialect='tutorial-keras/se_block' or dialect='tutorial-keras/channel_attention'"
    )
    with pytest.raises(DialectError, match=re.escape(sentence)):
        read(dense(["dense", "dense_1"], 24, 6, 24))


def test_anonymous_eca():
    (block,) = read({"conv1d_4/kernel": random(5, 1, 1)}, hints=PLAIN_ECA | {"channels": 24})
    assert (block.spec.kernel_size, block.spec.channels, block.spec.bias) == (5, 24, False)
    assert read({"conv1d/kernel": random(5, 1, 1)}, hints=PLAIN_ECA)[0].spec.channels is None


def test_blocks_are_found_under_every_prefix():
    state = {"stem.weight": random(4, 3, 7, 7)} | torchvision("layers.1.se.", 10, 3) | torchvision("layers.0.se.")
    blocks = read(state, hints={"gate": "hard_sigmoid", "activation": "silu"})
    assert [block.name for block in blocks] == ["layers.1.se", "layers.0.se"]
    assert [block.spec.channels for block in blocks] == [10, 24]
    assert blocks[0].spec.gate == Gate("hard_sigmoid")
    assert np.array_equal(blocks[1].tensors["fc1.kernel"], state["layers.0.se.fc1.weight"][:, :, 0, 0])


def test_extras_survive():
    state = golden_state("tutorial-pytorch-ca")
    assert read(state, hints=PLAIN)[0].extras["norm.num_batches_tracked"] == state["bn.num_batches_tracked"]
    del state["bn.num_batches_tracked"]
    assert read(state, hints=PLAIN)[0].extras == {}


def test_torch_tensors_are_arrays():
    torch = pytest.importorskip("torch")
    state = {"fc.0.weight": torch.ones(6, 24, dtype=torch.bfloat16, requires_grad=True)}
    state["fc.2.weight"] = torch.full((24, 6), 0.5, dtype=torch.bfloat16)
    (block,) = read(state, hints=PLAIN)
    assert block.tensors["fc2.kernel"].dtype == ml_dtypes.bfloat16
    assert np.array_equal(block.tensors["fc2.kernel"], np.full((24, 6), 0.5, ml_dtypes.bfloat16))


# Doubts and hints


def test_doubtful_facts_are_asked_for():
    with pytest.raises(DialectError) as caught:
        read(torchvision("se."))
    assert str(caught.value) == (
        "block 'se' looks like torchvision/SqueezeExcitation, whose weights do not tell gate and activation; expected "
        "hints for them (gate: 'sigmoid', 'hard_sigmoid', 'identity', {'kind': 'hard_sigmoid', 'slope': 0.2, 'offset': "
        "0.5}; activation: 'relu', 'silu', 'hard_swish', 'identity'); pass parity.read hints={'gate': 'sigmoid', "
        "'activation': 'relu'}, or dialect='torchvision/SqueezeExcitation' for the defaults of its class"
    )
    with pytest.raises(DialectError, match="do not tell activation; expected"):
        read(torchvision(), hints={"gate": "sigmoid"})


@pytest.mark.parametrize("dialect", dialects.DIALECTS)
def test_detection_never_tells_gate_activation_or_padding(dialect):
    doubtful = dialects.get(dialect).doubtful
    spatial = dialect == "tutorial-keras/spatial_attention"
    asked = {"se": "activation", "cbam": "activation", "eca": "padding", "ca": "activation"}
    assert set(doubtful) == {"gate"} | (set() if spatial else {asked[dialects.get(dialect).block]})


def test_detected_eca_may_be_circular():
    state = {"conv.weight": random(1, 1, 3), "conv.bias": random(1)}
    sentence = (
        "block '' looks like tutorial-pytorch/ECAAttention, whose weights do not tell gate and padding; expected hints "
        "for them (gate: 'sigmoid', 'hard_sigmoid', 'identity', {'kind': 'hard_sigmoid', 'slope': 0.2, 'offset': 0.5}; "
        "padding: 'zeros', 'circular'); pass parity.read hints={'gate': 'sigmoid', 'padding': 'zeros'}, or "
        "dialect='tutorial-pytorch/ECAAttention'"
    )
    with pytest.raises(DialectError, match=re.escape(sentence)):
        read(state)
    (block,) = read(state, hints={"gate": "hard_sigmoid", "padding": "circular"})
    assert (block.spec.gate.kind, block.spec.padding) == ("hard_sigmoid", "circular")
    (plain,) = read(state, "tutorial-pytorch/ECAAttention")
    assert (plain.spec.gate.kind, plain.spec.padding) == ("sigmoid", "zeros")


def test_named_dialect_raises_no_doubt():
    (block,) = read(torchvision(), "torchvision/SqueezeExcitation")
    assert (block.spec.gate, block.spec.activation) == (Gate(), "relu")


@pytest.mark.parametrize(
    ("hints", "field", "value"),
    [
        ({"gate": "hard_sigmoid"}, "gate", Gate("hard_sigmoid")),
        ({"gate": {"kind": "hard_sigmoid", "slope": 0.2, "offset": 0.5}}, "gate", Gate("hard_sigmoid", slope=0.2)),
        ({"activation": "silu"}, "activation", "silu"),
        ({"spatial_dims": 3}, "spatial_dims", 3),
        ({"channels": 24, "hidden_channels": 6, "bias": True}, "channels", 24),
    ],
)
def test_hints(hints, field, value):
    assert getattr(read(torchvision(), "torchvision/SqueezeExcitation", hints)[0].spec, field) == value


def test_hints_for_some_blocks():
    state = torchvision("a.se.") | torchvision("b.se.")
    hints = {"a.*": {"gate": "hard_sigmoid"}, "activation": "silu", "b.se": {"gate": "identity", "activation": "relu"}}
    a, b = read(state, hints=hints)
    assert (a.spec.gate.kind, a.spec.activation) == ("hard_sigmoid", "silu")
    assert (b.spec.gate.kind, b.spec.activation) == ("identity", "relu")
    with pytest.raises(
        DialectError, match=r"hints for 'c\.\*'; expected a spec field, or one of the blocks 'a\.se', 'b\.s"
    ):
        read(state, hints=hints | {"c.*": {"gate": "sigmoid"}})


@pytest.mark.parametrize(
    ("hints", "sentence"),
    [
        ({"reduction": 4}, "received the hints 'reduction'; expected of channels, spatial_dims, hidden_channels, bias"),
        ({"block": "eca"}, "received the hints 'block'"),
        ({"channels": 23}, "has the shapes {'fc1.kernel': (6, 24)"),
        ({"bias": False}, "has the shapes"),
        ({"gate": "tanh"}, "under the prefix '' does not work out: received gate='tanh'"),
        ({"spatial_dims": 4}, "does not work out: received spatial_dims=4"),
    ],
)
def test_hints_that_contradict_the_weights(hints, sentence):
    with pytest.raises(DialectError, match=re.escape(sentence)):
        read(torchvision(), "torchvision/SqueezeExcitation", hints)


@pytest.mark.parametrize(
    ("name", "hints", "sentence"),
    [
        ("tutorial-pytorch-cbam", {"residual": True}, "residual: False, True"),
        ("tutorial-pytorch-cbam", {"spatial_dims": 3}, "spatial_dims: 2, 3"),
        ("tutorial-pytorch-cbam", {"spatial_norm": {"epsilon": 1e-3}}, "spatial_norm: None, {'epsilon': 0.001"),
        ("tutorial-pytorch-ca", {"norm": {"epsilon": 1e-3}}, "norm: {'epsilon': 1e-05"),
        ("tutorial-tf1-cbam", {"spatial_source": "refined"}, "spatial_source: 'input', 'refined'"),
    ],
)
def test_hints_that_contradict_the_dialect(name, hints, sentence):
    with pytest.raises(DialectError, match="contradicts itself .found, told.: .*" + re.escape(sentence)):
        read(golden_state(name), hints=PLAIN | hints)


# What is refused


def test_nothing_known():
    with pytest.raises(DialectError) as caught:
        read({"stem.weight": random(4, 3, 7, 7)})
    assert str(caught.value).startswith("received stem.weight, which fit no block of tutorial-pytorch/SEAttention, ")
    assert all(name in str(caught.value) for name in dialects.DIALECTS)


def test_own_state_dicts_do_not_carry_their_meaning():
    state = {"fc1.weight": random(6, 24), "fc1.bias": random(6), "fc2.weight": random(24, 6), "fc2.bias": random(24)}
    sentence = "a state dict of attention_torch does not carry its meaning: load it into its module and pass that to "
    with pytest.raises(DialectError, match=sentence + r"parity\.blocks_of$"):
        read(state)


def test_empty_mapping():
    with pytest.raises(DialectError, match=r"^received no tensors, which fit no block of "):
        read({})


def test_unknown_dialect():
    with pytest.raises(
        DialectError, match="received dialect='timm/Nothing'; expected one of tutorial-pytorch/SEAttenti"
    ):
        read(torchvision(), "timm/Nothing")
    with pytest.raises(DialectError, match=r"received dialect=\[\]; expected one of tutorial-pytorch/SEAttenti"):
        read(torchvision(), [])


@pytest.mark.parametrize("hints", [["gate"], [], "gate", {7: "gate"}])
def test_hints_that_are_none(hints):
    for source in (torchvision(), "absent"):
        with pytest.raises(
            DialectError, match=r"received hints=.*; expected a mapping of spec fields by name; as \{'g"
        ):
            read(source, hints=hints)


@pytest.mark.parametrize("whole", [{}, torchvision("a.")])
@pytest.mark.parametrize("dialect", [None, "torchvision/SqueezeExcitation"])
def test_missing_tensors_are_named(whole, dialect):
    part = torchvision("b.")
    del part["b.fc2.bias"]
    error = DialectError if dialect is None and not whole else MissingTensorError
    sentence = (
        "fit no block" if error is DialectError else r"b\.fc2\.weight without b\.fc2\.bias; expected all tensors of"
    )
    with pytest.raises(error, match=sentence):
        read(whole | part, dialect, {"gate": "sigmoid", "activation": "relu"})


def test_tensors_beside_a_block_are_refused():
    state = torchvision("se.") | {"se.bn.weight": random(6), "other.weight": random(3)}
    sentence = (
        r"received se\.bn\.weight beside the block 'se' .torchvision/SqueezeExcitation.; expected under the prefix"
    )
    with pytest.raises(UnexpectedTensorError, match=sentence):
        read(state, hints={"gate": "sigmoid", "activation": "relu"})


def test_shapes_that_do_not_fit_together():
    state = torchvision() | {"fc2.weight": random(24, 5, 1, 1)}
    with pytest.raises(
        DialectError, match=re.escape("{'fc1.kernel': (6, 24), 'fc1.bias': (6,), 'fc2.kernel': (24, 5)")
    ):
        read(state, "torchvision/SqueezeExcitation")


@pytest.mark.parametrize("value", ["text", [[1.0], [1.0, 2.0]], object()])
def test_values_that_are_no_arrays(value):
    with pytest.raises(TensorShapeError, match=r"received fc\.0\.weight of type \w+"):
        read({"fc.0.weight": value})


def test_integers_are_no_weights():
    state = {"fc.0.weight": np.ones((6, 24), int), "fc.2.weight": np.ones((24, 6))}
    with pytest.raises(TensorShapeError, match=r"block '' has fc1\.kernel of dtype int64 instead of float64"):
        read(state, hints=PLAIN)


# Files


def test_exchange_file_carries_its_own_meaning(tmp_path):
    block = Block("eca", ECAOptions(kernel_size=3).resolve(24), {"conv.kernel": random(1, 1, 3)})
    exchange.write(tmp_path / "a.safetensors", block)
    assert read(tmp_path / "a.safetensors")[0].spec == block.spec
    with pytest.raises(DialectError, match="received a dialect or hints for an exchange file; expected neither"):
        read(tmp_path / "a.safetensors", hints={"channels": 24})


def test_foreign_safetensors_file(tmp_path):
    exchange.write_tensors(tmp_path / "weights", torchvision("se."), {"format": "pt"})
    (block,) = read(tmp_path / "weights", hints={"gate": "sigmoid", "activation": "silu"})
    assert (block.name, block.spec.activation) == ("se", "silu")


def test_recording_brings_dialect_and_hints():
    (block,) = read(golden.path("torchvision-mbv3-se"))
    assert block.spec.gate == Gate("hard_sigmoid")
    blocks = read(str(golden.path("real-ppocr-cls")))
    assert [block.name for block in blocks] == [f"block{number:02}" for number in range(9)]
    assert {(block.spec.gate.slope, block.spec.gate.offset) for block in blocks} == {(0.20000000298023224, 0.5)}


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "attention-golden-onnx/1", "blocks": '[{"name":"a","gate":5}]'},
        {"format": "attention-golden-onnx/1", "blocks": '[{"name":5,"gate":"Sigmoid"}]'},
        {"format": "attention-golden-onnx/1", "blocks": "[5]"},
        {"format": "attention-golden-onnx/1"},
        {"format": "attention-golden/1", "dialect": "torchvision/SqueezeExcitation", "hints": "[" * 100_000},
        {"format": "attention-golden/1", "dialect": "torchvision/SqueezeExcitation", "hints": "5"},
        {"format": "attention-golden/1"},
    ],
)
def test_recordings_with_damaged_metadata(tmp_path, metadata):
    exchange.write_tensors(tmp_path / "a", {"state/w": np.ones(1)}, metadata)
    with pytest.raises(FormatError, match="is a recording with unreadable metadata"):
        read(tmp_path / "a")


def test_file_that_cannot_be_opened_or_read(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"text")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(FormatError, match=r"cannot be read: .*Permission denied; expected a whole, readable file"):
        read(tmp_path / "a")


@pytest.mark.parametrize("name", ["model", "model.index"])
def test_saver_checkpoint(name):
    pytest.importorskip("tensorflow")
    with pytest.raises(DialectError, match="do not tell gate and activation"):
        read(golden.CHECKPOINT.parent / name)
    (block,) = read(golden.CHECKPOINT.parent / name, "tutorial-tf1/cbam_module")
    (expected,) = read(golden.path("tutorial-tf1-cbam"))
    assert (block.name, block.spec) == ("cbam_block1", expected.spec)
    assert all(np.array_equal(block.tensors[key], expected.tensors[key]) for key in expected.tensors)


def test_saver_checkpoint_with_optimizer_slots(tmp_path):
    tf = pytest.importorskip("tensorflow")
    state = golden_state("tutorial-tf1-cbam")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(key, initializer=value) for key, value in state.items()]
        loss = tf.add_n([tf.reduce_sum(variable**2) for variable in variables])
        step = tf.compat.v1.train.get_or_create_global_step()
        tf.compat.v1.train.AdamOptimizer().minimize(loss, global_step=step)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model"))
    (block,) = read(tmp_path / "model", hints=PLAIN)
    assert np.array_equal(block.tensors["channel.fc1.bias"], state["cbam_block1/mlp_1/bias"])


def test_damaged_checkpoint(tmp_path):
    pytest.importorskip("tensorflow")
    (tmp_path / "model.index").write_bytes(b"nothing")
    with pytest.raises(
        FormatError, match=r"model cannot be read as a TensorFlow checkpoint: .*; expected whole, readabl"
    ):
        read(tmp_path / "model")


def test_files_of_unknown_kind(tmp_path):
    kinds = "an exchange file, any other .safetensors file, or the prefix of a tf.compat.v1 Saver checkpoint"
    (tmp_path / "model.pth").write_bytes(b"PK\x03\x04" + bytes(99))
    with pytest.raises(FormatError, match=re.escape(f"a file of unknown kind; expected {kinds}; open it with its own")):
        read(tmp_path / "model.pth")
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FormatError, match=re.escape(f"which is no file; expected {kinds}")):
            read(path)


def test_a_live_model_is_no_source():
    sentence = "received a builtins.object; expected an exchange file"
    with pytest.raises(FormatError, match=sentence) as caught:
        read(object())
    assert "parity.blocks_of takes live models" in str(caught.value)
