"""Blocks in foreign weights: detection under any prefix, doubts, hints, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from parity import detection, dialects, exchange, golden
from parity.block import Block
from parity.errors import DialectError, FormatError, MissingTensorError, TensorShapeError, UnexpectedTensorError
from parity.reading import inspect, read
from parity.spec import ECAOptions, Gate

PLAIN = {"gate": "sigmoid", "activation": "relu"}


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


def tensors_of(**shapes):
    """Random tensors; "__" in a name stands for a dot."""
    return {name.replace("__", "."): random(*shape) for name, shape in shapes.items()}


def norm(key, size):
    """The state dict of a PyTorch batch norm."""
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{key}.{leaf}": random(size) for leaf in leaves} | {f"{key}.num_batches_tracked": np.array(7)}


def golden_state(name):
    tensors, _ = exchange.read_tensors(golden.path(name))
    return {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}


def doubts(state, **options):
    (block,) = inspect(state, **options).blocks
    return {doubt.fact for doubt in block.doubts}


# Detection: what keys and shapes tell, and what they do not

MLP_BIASED = tensors_of(fc__0__weight=(6, 24), fc__0__bias=(6,), fc__2__weight=(24, 6), fc__2__bias=(24,))
CA = tensors_of(conv1__weight=(8, 24, 1, 1), conv1__bias=(8,)) | norm("bn1", 8)
HEADS = tensors_of(conv_h__weight=(24, 8, 1, 1), conv_h__bias=(24,), conv_w__weight=(24, 8, 1, 1), conv_w__bias=(24,))

CERTAIN = {
    "attention-module/CBAM": golden_state("cbam-official"),
    "timm/CbamModule": golden_state("timm-cbam"),
    "CBAM.PyTorch/CBAM": golden_state("cbam-luuuyi"),
    "bubbliiiing/cbam_block": golden_state("cbam-bubbliiiing"),
    "senet.pytorch/SELayer": golden_state("senet-pytorch"),
    "CoordAttention/mbv2_ca.CoordAtt": golden_state("ca-official-mbv2"),
    "bubbliiiing/CA_Block": golden_state("ca-bubbliiiing"),
}


@pytest.mark.parametrize("dialect", CERTAIN)
def test_what_is_certain_is_read_without_a_question(dialect):
    (named,) = read(CERTAIN[dialect], dialect)
    (block,) = inspect(CERTAIN[dialect]).blocks
    (detected,) = read(CERTAIN[dialect])
    assert dialect in block.dialects
    assert detected.spec == named.spec
    assert all(np.array_equal(detected.tensors[key], named.tensors[key]) for key in named.tensors)


@pytest.mark.parametrize(
    ("state", "facts"),
    [
        (torchvision(), {"gate", "activation"}),
        (MLP_BIASED, {"gate"}),  # MONAI has a sigmoid, mobilenetv3.pytorch a hard one
        (golden_state("timm-effnet-se"), {"activation"}),
        (golden_state("timm-eca"), {"padding"}),  # EcaModule or CecaModule
        (CA | HEADS, {"gate", "activation"}),  # the authors', or one that lacks the gate
        (golden_state("cbam-fightingcv"), {"residual"}),  # or the tutorial's, which has none
    ],
)
def test_what_the_file_cannot_tell_is_asked_for(state, facts):
    assert facts <= doubts(state)
    with pytest.raises(DialectError, match="whose weights do not tell") as caught:
        read(state)
    assert all(f"{fact}: " in str(caught.value) for fact in facts)
    (block,) = inspect(state).blocks
    answers = {doubt.fact: doubt.values[0] for doubt in block.doubts}
    assert read(state, hints=answers)
    assert not doubts(state, hints=answers)


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
def test_a_hint_chooses_between_dialects(gate):
    (block,) = inspect(MLP_BIASED, hints={"gate": gate}).blocks
    assert ("monai/ChannelSELayer" in block.dialects) == (gate == "sigmoid")
    assert ("mobilenetv3.pytorch/SELayer" in block.dialects) == (gate == "hard_sigmoid")
    assert read(MLP_BIASED, hints={"gate": gate})[0].spec.gate == Gate(gate)


def test_dialects_that_take_the_planes_in_another_order_are_told_apart_by_no_guess(monkeypatch):
    """Not even where both planes hold the same numbers: tensors are compared as views, and never read."""
    timm = dialects.get("timm/CbamModule")
    rows = [replace(row, layout="conv swap_planes") if "conv.conv" in row.key else row for row in timm.tensors]
    monkeypatch.setitem(dialects.DIALECTS, "other/CBAM", replace(timm, id="other/CBAM", tensors=tuple(rows)))
    state = {key: np.zeros_like(value) for key, value in golden_state("timm-cbam").items()}
    with pytest.raises(DialectError, match="which fit timm/CbamModule and other/CBAM; expected one dialect"):
        read(state)
    assert read(state, "other/CBAM")


def test_a_hint_that_fits_no_dialect_is_refused():
    with pytest.raises(DialectError, match="contradicts itself"):
        read(golden_state("ca-official-mbv2"), hints={"gate": {"kind": "hard_sigmoid", "slope": 0.5, "offset": 0.5}})


def test_widths_are_read_not_computed():
    assert read(torchvision("se.", 200, 17), hints=PLAIN)[0].spec.hidden_channels == 17
    assert read({"conv.weight": random(1, 1, 9)}, hints={"padding": "zeros"})[0].spec.kernel_size == 9


def test_blocks_are_found_under_every_prefix():
    state = {"stem.weight": random(4, 3, 7, 7)} | torchvision("layers.1.se.", 10, 3) | torchvision("layers.0.se.")
    blocks = read(state, hints={"gate": "hard_sigmoid", "activation": "silu"})
    assert [block.name for block in blocks] == ["layers.1.se", "layers.0.se"]
    assert [block.spec.channels for block in blocks] == [10, 24]
    assert blocks[0].spec.gate == Gate("hard_sigmoid")
    assert np.array_equal(blocks[1].tensors["fc1.kernel"], state["layers.0.se.fc1.weight"][:, :, 0, 0])
    assert dict(inspect(state).rest) == {"stem.weight": (4, 3, 7, 7)}


def test_a_network_of_several_kinds():
    """Blocks inline in a residual unit, among other layers, and a module of its own: each is found, nothing else."""
    state = {"conv1.weight": random(8, 3, 3, 3)} | norm("bn1", 8)
    for unit in ("layer1.0", "layer1.1"):
        state |= {f"{unit}.conv1.weight": random(24, 24, 3, 3)} | norm(f"{unit}.bn1", 24)
        state |= {f"{unit}.{key}": value for key, value in golden_state("cbam-luuuyi").items()}
    state |= {f"layer2.0.attn.{key}": value for key, value in golden_state("timm-cbam").items()}
    state |= {f"layer2.1.eca.{key}": value for key, value in golden_state("eca-official").items()}
    state |= {"fc.weight": random(10, 24), "fc.bias": random(10)}
    blocks = read(state, hints={"padding": "zeros"})
    names = ["layer1.0", "layer1.1", "layer2.0.attn", "layer2.1.eca"]
    assert [(block.name, block.spec.block) for block in blocks] == list(zip(names, ["cbam"] * 3 + ["eca"], strict=True))
    inside = (".ca.", ".sa.", ".attn.", ".eca.")
    rest = {name for name in state if not any(part in name for part in inside)}
    assert set(inspect(state, hints={"padding": "zeros"}).rest) == rest


# Anonymous Keras layers


@pytest.mark.parametrize(
    ("state", "name", "parts"),
    [
        (dense(["x/dense_2", "x/dense_3"], 24, 6, 24) | {"x/conv2d_9/kernel": random(7, 7, 2, 1)}, "x", "both"),
        (dense(["dense", "dense_1"], 48, 6, 24) | {"conv2d/kernel": random(3, 3, 24, 1)}, "", "both"),
        (dense(["dense_9", "dense_10"], 24, 3, 12) | {"conv3d_1/kernel": random(3, 3, 3, 12, 1)}, "", "both"),
    ],
)
def test_anonymous_keras_layers_are_detected(state, name, parts):
    (block,) = read(state)
    assert (block.name, block.spec.parts) == (name, parts)


def test_several_anonymous_blocks_in_a_network():
    state, sizes = {}, [(24, 6), (24, 3), (10, 5)]
    for number, (channels, hidden) in enumerate(sizes):
        names = [f"dense_{2 * number}" if number else "dense", f"dense_{2 * number + 1}"]
        state |= dense(names, channels, hidden, channels)
        state |= {f"conv2d_{2 * number}/kernel": random(3, 3, 8, 8), f"conv2d_{2 * number}/bias": random(8)}
        state |= {f"conv2d_{2 * number + 1}/kernel": random(7, 7, 2, 1)}
    state |= {"dense_6/kernel": random(24, 10), "dense_6/bias": random(10)}
    blocks = read(state, "tutorial-keras/cbam_block")
    assert [block.name for block in blocks] == ["dense", "dense_2", "dense_4"]
    assert [(block.spec.channels, block.spec.hidden_channels) for block in blocks] == sizes
    assert np.array_equal(blocks[1].tensors["channel.fc1.kernel"], state["dense_2/kernel"].T)
    assert np.array_equal(blocks[1].tensors["spatial.conv.kernel"][0, 0], state["conv2d_3/kernel"][:, :, 0, 0])


def test_anonymous_layers_go_by_number_not_by_order():
    state = dense(["dense_9", "dense_10"], 24, 6, 24)
    (block,) = read(dict(reversed(state.items())), "tutorial-keras/se_block")
    assert np.array_equal(block.tensors["fc1.kernel"], state["dense_9/kernel"].T)
    (square,) = read(dense(["dense_10", "dense_9"], 5, 5, 5), "tutorial-keras/se_block")
    assert np.array_equal(square.tensors["fc1.kernel"], dense(["a", "b"], 5, 5, 5)["b/kernel"].T)


def test_an_anonymous_dense_pair_is_two_things():
    state = dense(["dense", "dense_1"], 24, 6, 24)
    with pytest.raises(DialectError, match=r"which fit .*tutorial-keras/se_block.*; expected one dialect; choose with"):
        read(state)
    assert "choose with" in inspect(state).blocks[0].fault
    assert read(state, "tutorial-keras/se_block")[0].spec.block == "se"
    assert read(state, "tutorial-keras/channel_attention")[0].spec.block == "cbam"


def test_patterns_tell_the_anonymous_blocks_of_one_kind_from_those_of_another():
    """More pairs of dense layers than spatial convolutions: some are SE, and no name says which."""
    state = dense(["dense", "dense_1"], 24, 6, 24) | dense(["dense_2", "dense_3"], 24, 3, 24)
    state |= {"conv2d/kernel": random(7, 7, 2, 1)} | {"dense_4/kernel": random(24, 10), "dense_4/bias": random(10)}
    with pytest.raises(DialectError, match=r"choose with .*, and the blocks of each with include="):
        read(state)
    with pytest.raises(DialectError, match=r"shared_layer_one/kernel \(dense\), .* name the first layers .* include="):
        read(state, "tutorial-keras/cbam_block")
    (se,) = read(state, "tutorial-keras/se_block", include=["dense"])
    (cbam,) = read(state, "tutorial-keras/cbam_block", include=["dense_2"])
    assert [(block.name, block.spec.block) for block in (se, cbam)] == [("dense", "se"), ("dense_2", "cbam")]
    assert np.array_equal(cbam.tensors["channel.fc1.kernel"], state["dense_2/kernel"].T)
    assert [block.name for block in read(state, exclude=["dense"])] == ["dense_2"]


@pytest.mark.parametrize("dialect", [None, "tutorial-keras/se_block", "tutorial-tensorflow/CBAM"])
def test_a_number_too_long_to_be_keras(dialect):
    with pytest.raises(DialectError, match="fit no block"):
        read(dense(["dense", f"dense_{'9' * 5000}"], 24, 6, 24), dialect)


# Plain perceptrons


def test_layers_that_lead_to_another_width_are_no_block():
    """The perceptrons of relative positions in vision transformers, beside blocks whose keys are the same."""
    state = torchvision("stage.se.") | tensors_of(fc1__weight=(6, 24), fc1__bias=(6,))
    state |= tensors_of(fc2__weight=(24, 6), fc2__bias=(24,))
    mlp = tensors_of(fc1__weight=(512, 2), fc1__bias=(512,), fc2__weight=(8, 512), fc2__bias=(8,))
    state |= {f"stage.rel_pos.mlp.{key}": value for key, value in mlp.items()}
    assert [block.name for block in inspect(state, exclude=[""]).blocks] == ["stage.se"]
    linear = {f"a.{key}": state[key] for key in mlp} | {f"b.{key}": value for key, value in mlp.items()}
    assert [block.name for block in read(linear, hints=PLAIN)] == ["a"]
    with pytest.raises(DialectError, match=r"'fc2\.kernel': \(8, 512\).*; leave it out: exclude=\['b'\]"):
        read(linear, "timm/SqueezeExciteCl")
    assert [block.name for block in read(linear, "timm/SqueezeExciteCl", exclude=["b"])] == ["a"]


def test_a_pair_as_wide_inside_as_outside_is_a_doubt():
    state = torchvision("blocks.0.mlp.", 8, 32) | torchvision("blocks.0.se.", 8, 2)
    with pytest.raises(
        DialectError, match=r"block 'blocks\.0\.mlp' .* but two layers as wide inside as outside may be"
    ):
        read(state, hints=PLAIN)
    assert [block.name for block in read(state, hints=PLAIN, exclude=["*.mlp"])] == ["blocks.0.se"]
    assert len(read(state, hints=PLAIN, include=["blocks.*"])) == 2
    with pytest.raises(DialectError, match="may be a plain perceptron"):
        read(state, "torchvision/SqueezeExcitation")
    assert read(torchvision("", 8, 32), "torchvision/SqueezeExcitation")[0].spec.hidden_channels == 32


@pytest.mark.parametrize("call", [read, inspect])
def test_a_pattern_that_includes_nothing(call, tmp_path):
    sentence = r"received include=\['b\*'\]; expected patterns of the names of blocks: 'a\.se'"
    with pytest.raises(DialectError, match=sentence):
        call(torchvision("a.se."), hints=PLAIN, include=["a*", "b*"])
    exchange.write(tmp_path / "blocks", read(torchvision("a.se."), hints=PLAIN))
    with pytest.raises(DialectError, match=sentence):
        call(tmp_path / "blocks", include=["b*"])


@pytest.mark.parametrize("dialect", [None, "torchvision/SqueezeExcitation"])
def test_exclude_settles_what_an_error_names(dialect):
    state = torchvision("a.") | torchvision("b.")
    del state["b.fc1.bias"]
    with pytest.raises(MissingTensorError, match=r"exclude=\['b'\]"):
        read(state, dialect, PLAIN)
    assert [block.name for block in read(state, dialect, PLAIN, exclude=["b"])] == ["a"]


def test_patterns_that_are_no_list():
    with pytest.raises(DialectError, match=r"received include='se'; expected a list of patterns of names"):
        read(torchvision(), include="se")


# Arrays of other kinds


def test_extras_survive():
    state = golden_state("tutorial-pytorch-ca")
    assert read(state)[0].extras["norm.num_batches_tracked"] == state["bn.num_batches_tracked"]
    del state["bn.num_batches_tracked"]
    assert read(state)[0].extras == {}


def test_torch_tensors_are_arrays():
    torch = pytest.importorskip("torch")
    state = {"fc.0.weight": torch.ones(6, 24, dtype=torch.bfloat16, requires_grad=True)}
    state["fc.2.weight"] = torch.full((24, 6), 0.5, dtype=torch.bfloat16)
    (block,) = read(state)
    assert block.tensors["fc2.kernel"].dtype == ml_dtypes.bfloat16
    assert np.array_equal(block.tensors["fc2.kernel"], np.full((24, 6), 0.5, ml_dtypes.bfloat16))


def test_one_tensor_under_two_names():
    with pytest.raises(DialectError, match="received both of a and a:0; expected one name a tensor"):
        read({"a:0": random(3), "a": random(4)})


def test_long_chains_of_prefixes_stay_small():
    """Grouped under every prefix, these names would fill a memory that is quadratic in their length."""
    keys = ["a." * depth + "weight" for depth in range(300)]
    groups = detection._by_prefix(keys, list(dialects.DIALECTS.values()))
    assert sum(map(len, groups.values())) <= len(keys) * (detection.DEPTH + 1)
    state = torchvision("a." * 300)
    assert [block.name for block in read(state, hints=PLAIN)] == ["a." * 299 + "a"]


def test_maps_of_any_size_are_found_by_their_shapes():
    shapes = {"fc1.weight": (10**6, 10**7, 1, 1), "fc1.bias": (10**6,)}
    shapes |= {"fc2.weight": (10**7, 10**6, 1, 1), "fc2.bias": (10**7,)}
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    assert read(state, hints=PLAIN)[0].spec.channels == 10**7


@pytest.mark.parametrize("value", ["text", [[1.0], [1.0, 2.0]], object()])
def test_values_that_are_no_arrays(value):
    with pytest.raises(TensorShapeError, match=r"received fc\.0\.weight of type \w+"):
        read({"fc.0.weight": value})


def test_integers_are_no_weights():
    state = {"fc.0.weight": np.ones((6, 24), int), "fc.2.weight": np.ones((24, 6))}
    with pytest.raises(TensorShapeError, match=r"block '' has fc1\.kernel of dtype int64 instead of float64"):
        read(state)


# Hints


def test_named_dialect_raises_no_doubt():
    (block,) = read(torchvision(), "torchvision/SqueezeExcitation")
    assert (block.spec.gate, block.spec.activation) == (Gate(), "relu")


def test_a_pattern_of_dialects():
    assert read(golden_state("timm-cbam"), "timm/*")[0].spec.block == "cbam"
    with pytest.raises(DialectError, match=r"received dialect='nobody/\*'; expected one of the \d+ ids that"):
        read(torchvision(), "nobody/*")


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
    with pytest.raises(DialectError, match=r"received the hints 'gates'"):
        read(state, hints=hints | {"a.*": {"gates": "sigmoid"}})


def test_a_hint_for_all_leaves_blocks_without_that_fact_alone():
    state = torchvision("se.") | {"eca.conv.weight": random(1, 1, 3)}
    blocks = read(state, hints=PLAIN | {"padding": "zeros"})
    assert [block.spec.block for block in blocks] == ["se", "eca"]


@pytest.mark.parametrize(
    ("hints", "sentence"),
    [
        ({"reduction": 4}, "received the hints 'reduction'; expected of channels, spatial_dims, hidden_channels, bias"),
        ({"channels": 23}, "has the shapes {'fc1.kernel': (6, 24)"),
        ({"bias": False}, "has the shapes"),
        ({"gate": "tanh"}, "at '' does not work out: received gate='tanh'"),
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
    _, metadata = exchange.read_tensors(golden.path(name))
    with pytest.raises(DialectError, match="contradicts itself .found, told.: .*" + re.escape(sentence)):
        read(golden_state(name), metadata["dialect"], hints)


@pytest.mark.parametrize("hints", [["gate"], [], "gate", {7: "gate"}])
def test_hints_that_are_none(hints):
    for source in (torchvision(), "absent"):
        with pytest.raises(
            DialectError, match=r"received hints=.*; expected a mapping of spec fields by name; as \{'g"
        ):
            read(source, hints=hints)


# What is refused


def test_nothing_known():
    with pytest.raises(DialectError) as caught:
        read({"stem.weight": random(4, 3, 7, 7)})
    assert str(caught.value).startswith("received stem.weight, which fit no block of ")
    inspection = inspect({"stem.weight": random(4, 3, 7, 7)})
    assert (inspection.blocks, dict(inspection.rest)) == ((), {"stem.weight": (4, 3, 7, 7)})


def test_a_dialect_that_does_not_fit_tells_its_tensors():
    sentence = (
        r"fit no block of torchvision/SqueezeExcitation; expected fc1\.weight \(conv1x1\), .*, under any prefix; le"
    )
    with pytest.raises(DialectError, match=sentence):
        read(tensors_of(fc1__weight=(6, 24), fc2__weight=(24, 6)), "torchvision/SqueezeExcitation")


def test_empty_mapping():
    with pytest.raises(DialectError, match=r"^received no tensors, which fit no block of "):
        read({})


@pytest.mark.parametrize("dialect", ["timm/Nothing", []])
def test_unknown_dialect(dialect):
    with pytest.raises(DialectError, match=re.escape(f"received dialect={dialect!r}; expected one of ")):
        read(torchvision(), dialect)


def test_what_would_lose_something_is_refused_with_the_reason():
    state = tensors_of(channel_attention__fc__weight=(24, 24, 1, 1), channel_attention__fc__bias=(24,)) | tensors_of(
        spatial_attention__cv1__weight=(1, 2, 7, 7)
    )
    reason = dialects.get("ultralytics/CBAM").refused
    with pytest.raises(DialectError, match=re.escape(f"which is ultralytics/CBAM: {reason}")):
        read({f"model.3.{key}": value for key, value in state.items()})
    (block,) = inspect(state).blocks
    assert (block.spec, reason in block.fault) == (None, True)
    whole = {f"a.{key}": value for key, value in state.items()} | torchvision("se.")
    assert [block.name for block in read(whole, hints=PLAIN, exclude=["a"])] == ["se"]


@pytest.mark.parametrize("whole", [{}, torchvision("a.")])
@pytest.mark.parametrize("dialect", [None, "torchvision/SqueezeExcitation"])
def test_missing_tensors_are_named(whole, dialect):
    part = torchvision("b.")
    del part["b.fc2.weight"]
    error = DialectError if dialect is None and not whole else MissingTensorError
    sentence = "fit no block" if error is DialectError else r"without b\.fc2\.weight; expected all tensors of"
    with pytest.raises(error, match=sentence):
        read(whole | part, dialect, PLAIN)


INLINE = {
    "cbam-luuuyi": "sa.conv1.weight",
    "efficientnet": "_se_reduce.bias",
    "mobilenet_v3": "squeeze_excite_conv_1/bias",
}


def inline_unit(kind, prefix):
    if kind == "cbam-luuuyi":
        return {f"{prefix}.{key}": value for key, value in golden_state(kind).items()}
    if kind == "efficientnet":
        renamed = {"fc1": "_se_reduce", "fc2": "_se_expand"}
        return {f"{prefix}.{renamed[key[:3]]}{key[3:]}": value for key, value in torchvision().items()}
    first, second = (f"{prefix}_squeeze_excite_conv{number}" for number in ("", "_1"))
    return {
        key: value[None, None] if value.ndim == 2 else value for key, value in dense([first, second], 24, 6, 24).items()
    }


@pytest.mark.parametrize("kind", INLINE)
def test_no_block_among_the_layers_around_it_vanishes(kind):
    state = inline_unit(kind, "unit0") | inline_unit(kind, "unit1") | {"unit1.conv1.weight": random(8, 8, 3, 3)}
    (lost,) = (key for key in state if key.startswith("unit1") and key.endswith(INLINE[kind]))
    del state[lost]
    with pytest.raises(MissingTensorError, match=f"without {re.escape(lost)}; expected all tensors of"):
        read(state, hints={"gate": "sigmoid", "activation": "relu"})
    whole, part = inspect(state).blocks
    assert (whole.fault, lost in part.fault) == (None, True)
    assert len(read(state, hints={"gate": "sigmoid", "activation": "relu"}, exclude=[part.name])) == 1


@pytest.mark.parametrize("beside", [{}, {f"a.{key}": value for key, value in golden_state("timm-cbam").items()}])
@pytest.mark.parametrize("wrong", [None, (1, 3, 7, 7), (1, 2, 7, 5)])
def test_a_broken_block_does_not_pass_for_a_smaller_one(wrong, beside):
    """What is left of a CBAM without its spatial half has the keys of a squeeze and excitation."""
    state = {f"b.{key}": value for key, value in golden_state("timm-cbam").items()}
    key = "b.spatial.conv.conv.weight"
    del state[key]
    state |= {key: random(*wrong)} if wrong else {}
    expected = f"received {key} of shape {wrong} in timm/CbamModule at 'b'" if wrong else f"without {key}; expected all"
    with pytest.raises(DialectError if wrong else MissingTensorError, match=re.escape(expected)):
        read(state | beside, hints=PLAIN)


def test_part_of_a_block_among_other_layers_is_another_module():
    state = {f"a.{key.replace('fc', 'conv')}": value for key, value in torchvision().items()}
    state |= {key.replace("a.", "b."): value for key, value in state.items() if key != "a.conv2.bias"}
    with pytest.raises(MissingTensorError, match=r"without b\.conv2\.bias"):
        read(state, hints=PLAIN)
    assert [block.name for block in read(state | {"b.bn.weight": random(24)}, hints=PLAIN)] == ["a"]


def test_what_is_left_of_a_block_beside_whole_ones():
    """Two thirds of a CBAM of luuuyi's first era have the keys of timm's SE."""
    state = {}
    for unit in ("a", "b"):
        state |= {f"{unit}.ca.fc1.weight": random(6, 24, 1, 1), f"{unit}.ca.fc2.weight": random(24, 6, 1, 1)}
    state["a.sa.conv1.weight"] = random(1, 2, 7, 7)
    with pytest.raises(MissingTensorError, match=r"without b\.sa\.conv1\.weight"):
        read(state, hints=PLAIN)


def test_halves_of_one_kind_may_lie_beside_whole_blocks():
    channel = tensors_of(channel__fc1__weight=(6, 24), channel__fc2__weight=(24, 6))
    state = {f"{unit}.{key}": value for unit in "ab" for key, value in channel.items()}
    state["a.spatial.conv.weight"] = random(1, 2, 7, 7)
    assert [block.spec.parts for block in read(state, "attention_torch/CBAM*")] == ["both", "channel"]


def test_one_fault_hides_no_block():
    """Global context, another block, keeps a norm between two layers that look like ours."""
    state = torchvision("a.se.") | torchvision("b.mlp_add.") | {"b.mlp_add.norm.weight": random(6)}
    a, b = inspect(state).blocks
    assert (a.name, a.fault, b.name) == ("a.se", None, "b.mlp_add")
    assert b.fault.startswith("received b.mlp_add.norm.weight beside the block 'b.mlp_add'")


def test_tensors_beside_a_block_are_refused():
    state = torchvision("se.") | {"se.bn.weight": random(6), "other.weight": random(3)}
    with pytest.raises(UnexpectedTensorError, match=r"received se\.bn\.weight beside the block 'se'"):
        read(state, hints=PLAIN)
    assert read(state | torchvision("b."), hints=PLAIN, exclude=["se"])[0].name == "b"


def test_shapes_that_do_not_fit_together():
    state = torchvision() | {"fc2.weight": random(24, 5, 1, 1)}
    with pytest.raises(
        DialectError, match=re.escape("{'fc1.kernel': (6, 24), 'fc1.bias': (6,), 'fc2.kernel': (24, 5)")
    ):
        read(state, "torchvision/SqueezeExcitation")


# Files


def test_exchange_file_carries_its_own_meaning(tmp_path):
    block = Block("eca", ECAOptions(kernel_size=3).resolve(24), {"conv.kernel": random(1, 1, 3)})
    exchange.write(tmp_path / "a.safetensors", [block, replace(block, name="b")])
    assert read(tmp_path / "a.safetensors")[0].spec == block.spec
    assert [one.name for one in read(tmp_path / "a.safetensors", exclude=["eca"])] == ["b"]
    with pytest.raises(DialectError, match="received a dialect or hints for an exchange file; expected neither"):
        read(tmp_path / "a.safetensors", hints={"channels": 24})


def test_foreign_safetensors_file(tmp_path):
    exchange.write_tensors(tmp_path / "weights", torchvision("se."), {"format": "pt"})
    (block,) = read(tmp_path / "weights", hints={"gate": "sigmoid", "activation": "silu"})
    assert (block.name, block.spec.activation) == ("se", "silu")


def test_recording_brings_dialect_and_hints():
    (block,) = read(golden.path("torchvision-mbv3-se"))
    assert block.spec.gate == Gate("hard_sigmoid")
    assert read(golden.path("monai-se-3d"))[0].spec.spatial_dims == 3
    blocks = read(str(golden.path("real-ppocr-cls")))
    assert [block.name for block in blocks] == [f"block{number:02}" for number in range(9)]
    assert {(block.spec.gate.slope, block.spec.gate.offset) for block in blocks} == {(0.20000000298023224, 0.5)}


def test_a_live_model_is_no_source():
    with pytest.raises(FormatError, match=r"received a builtins\.object; expected a path") as caught:
        read(object())
    assert "parity.blocks_of takes live models" in str(caught.value)
