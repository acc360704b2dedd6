"""Weights between files and live models: everything lands, or nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from parity import exchange, golden, loading
from parity.block import Block
from parity.errors import (
    BackendMissingError,
    DialectError,
    InputError,
    MissingTensorError,
    ParityError,
    SpecMismatchError,
    TensorShapeError,
    UnexpectedTensorError,
)
from parity.loading import blocks_of, load_into
from parity.probe import with_probes
from parity.reading import read
from parity.spec import CBAMOptions, CoordinateAttentionOptions, ECAOptions, LiveBlock, SqueezeExcitationOptions

torch = pytest.importorskip("torch")

from attention_torch import CBAM, ECA, CoordinateAttention, SqueezeExcitation  # noqa: E402 (after importorskip)


def weights(spec, name="", dtype=np.float64, **extras):
    random = np.random.default_rng(3)
    tensors = {key: random.standard_normal(shape).astype(dtype) for key, shape in spec.parameters().items()}
    return Block(name, spec, tensors, extras)


CA = CoordinateAttentionOptions(hidden_channels=3).resolve(6)
SE = SqueezeExcitationOptions(reduction=2).resolve(6)


class Net(torch.nn.Module):
    """Two blocks at different depths."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 6, 1)
        self.stage1 = torch.nn.Sequential(SqueezeExcitation.from_spec(SE))
        self.attn = CoordinateAttention.from_spec(CA)


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["stage1.0", "stage1/0", "stage1_0"])
def test_blocks_pair_by_name(name, tmp_path):
    model, blocks = Net(), [weights(CA, "attn"), weights(SE, name)]
    exchange.write(tmp_path / "a", blocks)
    report = load_into(model, tmp_path / "a")
    assert report == loading.Report({"attn": "attn", name: "stage1.0"})
    assert np.array_equal(model.stage1[0].fc1.weight.detach(), blocks[1].tensors["fc1.kernel"].astype(np.float32))
    assert np.array_equal(model.attn.norm.running_var, blocks[0].tensors["norm.variance"].astype(np.float32))


def test_blocks_pair_by_mapping():
    model, block = Net(), weights(SE, "theirs")
    report = load_into(model, [block, weights(CA, "attn")], {"theirs": "stage1.0"})
    assert report.loaded == {"theirs": "stage1.0", "attn": "attn"}
    with pytest.raises(
        MissingTensorError, match="received a mapping of 'other'; expected of the blocks 'theirs', 'attn"
    ):
        load_into(model, [block, weights(CA, "attn")], {"other": "stage1.0"})


@pytest.mark.parametrize("name", ["", "anything.at/all"])
def test_model_that_is_one_block_takes_any_name(name):
    model, block = ECA(24), weights(ECAOptions().resolve(24), name)
    assert load_into(model, block).loaded == {name: ""}
    assert np.array_equal(model.conv.weight.detach(), block.tensors["conv.kernel"].astype(np.float32))


def test_round_trip_through_a_model_is_bitwise(tmp_path):
    block = weights(CA, "attn", **{"norm.num_batches_tracked": np.array(7)})
    model = CoordinateAttention.from_spec(CA, dtype=torch.float64)
    load_into(model, block)
    exchange.write(tmp_path / "a", blocks_of(model))
    (back,) = read(tmp_path / "a")
    assert back.spec == CA
    assert back.extras["norm.num_batches_tracked"] == model.norm.num_batches_tracked == 7
    assert all(np.array_equal(back.tensors[key], value) for key, value in block.tensors.items())


def test_blocks_of_are_copies():
    model = ECA(24)
    (block,) = blocks_of(model)
    with torch.no_grad():
        model.conv.weight.fill_(9)
    assert not (block.tensors["conv.kernel"] == 9).any()


def test_bfloat16_survives():
    block = weights(SE, dtype=ml_dtypes.bfloat16)
    model = SqueezeExcitation.from_spec(SE, dtype=torch.bfloat16)
    load_into(model, block)
    (back,) = blocks_of(model)
    assert back.tensors["fc1.kernel"].dtype == ml_dtypes.bfloat16
    assert all(back.tensors[key].tobytes() == value.tobytes() for key, value in block.tensors.items())


def test_foreign_weights_load_directly():
    (recording,) = golden.open("tutorial-pytorch-cbam")
    model = CBAM.from_spec(recording.block.spec, dtype=torch.float64)
    load_into(model, golden.path("tutorial-pytorch-cbam"))
    # The planes of that file are reversed, and PyTorch takes no negative strides.
    assert np.array_equal(model.spatial.conv.weight.detach(), recording.block.tensors["spatial.conv.kernel"])


# What is refused, with nothing written


def test_state_dicts_of_another_function_are_doubted():
    model = ECA(24, bias=True)
    before = state(model)
    with pytest.raises(
        DialectError, match=r"do not tell padding; expected hints for them .*padding: 'zeros', 'circular'"
    ):
        load_into(model, ECA(24, bias=True, padding="circular", gate="hard_sigmoid").state_dict())
    assert unchanged(model, before)


@pytest.mark.parametrize(
    ("dtype", "value", "target"),
    [
        (np.float64, 1e39, torch.float32),
        (np.float32, 1e5, torch.float16),
        (ml_dtypes.bfloat16, 1e5, torch.float16),
        (np.float64, 1e39, torch.bfloat16),
    ],
)
def test_numbers_that_would_overflow_are_refused(dtype, value, target):
    model, block = SqueezeExcitation.from_spec(SE, dtype=target), weights(SE, dtype=dtype)
    block.tensors["fc2.kernel"][1, 2] = value
    before = state(model)
    with pytest.raises(
        TensorShapeError, match=r"finite numbers that model '' would hold as infinite \(fc2\.kernel: ten"
    ):
        load_into(model, block)
    assert unchanged(model, before)
    block.tensors["fc2.kernel"][1, 2] = np.inf  # infinite as it came
    load_into(model, block)
    assert torch.isinf(model.fc2.weight).sum() == 1


def test_model_without_blocks():
    sentence = (
        r"received a torch\.\S+Conv2d in which no block was found; expected at least one; for blocks made of stock "
        r"Keras layers pass specs=\{'<name in the model>': <its spec>\}"
    )
    with pytest.raises(MissingTensorError, match=sentence):
        blocks_of(torch.nn.Conv2d(1, 1, 1))


def test_module_on_the_meta_device():
    with pytest.raises(ParityError, match="meta"):
        blocks_of(ECA.from_spec(ECAOptions().resolve(24), device="meta"))


def test_every_block_without_partner_is_named():
    model = Net()
    before = state(model)
    with pytest.raises(MissingTensorError) as caught:
        load_into(model, [weights(SE, "stage1.0"), weights(SE, "b"), weights(SE, "a")])
    assert str(caught.value) == (
        "received no weights for the model's 'attn' and weights for 'b', 'a' that the model lacks; expected one block "
        "of the source for each block of the model; pass mapping={'<name in the source>': '<name in the model>'}"
    )
    with pytest.raises(UnexpectedTensorError, match="received weights for 'a' that the model lacks"):
        load_into(model, [weights(SE, "stage1.0"), weights(CA, "attn"), weights(SE, "a")])
    assert unchanged(model, before)


def test_names_that_only_differ_in_separators():
    blocks = [weights(SE, "stage1.0"), weights(CA, "stage1/0")]
    with pytest.raises(UnexpectedTensorError, match=r"received the source with blocks 'stage1.0' and 'stage1/0'"):
        load_into(Net(), blocks)
    with pytest.raises(
        UnexpectedTensorError, match=r"the source with blocks 'attn' and 'attn'; expected names that dif"
    ):
        load_into(Net(), [weights(SE, "a"), weights(CA, "b")], {"a": "attn", "b": "attn"})


def test_other_function_is_named_whatever_the_shapes():
    model = Net()
    before = state(model)
    other = replace(SE, activation="silu", gate={"kind": "hard_sigmoid", "slope": 0.2})
    with pytest.raises(SpecMismatchError) as caught:
        load_into(model, [weights(CA, "attn"), weights(other, "stage1.0")])
    assert str(caught.value) == (
        "block 'stage1.0' means another function than the model computes (activation: weights 'silu', model 'relu'; "
        "gate: weights {'kind': 'hard_sigmoid', 'slope': 0.2, 'offset': 0.5}, model 'sigmoid'); expected equal specs; "
        "build the model from the block's spec"
    )
    assert unchanged(model, before)


def test_gates_are_compared_exactly():
    def spec(slope):
        return ECAOptions(kernel_size=3, gate={"kind": "hard_sigmoid", "slope": slope}).resolve(24)

    with pytest.raises(SpecMismatchError, match=r"'slope': 0\.20000000298023224.*'slope': 0\.2,"):
        load_into(ECA.from_spec(spec(0.2)), weights(spec(0.20000000298023224)))


@pytest.mark.parametrize(("ours", "theirs"), [(None, 24), (24, None), (None, None)])
def test_open_channels_agree_with_any(ours, theirs):
    options = ECAOptions(kernel_size=3)
    load_into(ECA.from_spec(options.resolve(theirs)), weights(options.resolve(ours)))


def test_sizes_are_spec_fields():
    with pytest.raises(SpecMismatchError, match="hidden_channels: weights 3, model 2"):
        load_into(SqueezeExcitation(6, reduction=3), weights(SE))


def test_model_of_no_framework():
    with pytest.raises(
        BackendMissingError, match=r"received a builtins\.object; expected a PyTorch module, a Keras model"
    ):
        load_into(object(), weights(SE))


# Models that show less than all, through a stand-in for a framework


@pytest.fixture
def model(monkeypatch):
    """A model of one block "se" of stock layers, kernels last; it remembers what is written."""
    variables = {key: np.zeros(shape[::-1], np.float32) for key, shape in SE.parameters().items()}
    shown = {"block": "se", "channels": 6, "hidden_channels": 3, "bias": True, "activation": "relu"}
    model = SimpleNamespace(live={"se": LiveBlock(shown, variables)}, written=None)

    def write(model, values):
        model.written = list(values)
        for variable, value in model.written:
            variable[...] = value

    adapter = SimpleNamespace(
        KERNELS_LAST=True,
        find_blocks=lambda model, wanted: model.live,
        read_variable=lambda model, variable: variable,
        write_variables=write,
    )
    monkeypatch.setattr(loading, "owner", lambda model: adapter)
    return model


def test_what_a_model_does_not_show_is_reported(model):
    block = weights(SE, "se", dtype=ml_dtypes.bfloat16)
    assert load_into(model, block).unverified == {"se": ("spatial_dims", "gate")}
    by_variable = {id(variable): value for variable, value in model.written}
    kernel = by_variable[id(model.live["se"].variables["fc1.kernel"])]
    assert kernel.shape == (6, 3)
    assert kernel.dtype == np.float32
    assert np.array_equal(kernel, block.tensors["fc1.kernel"].T.astype(np.float32))


def test_what_a_model_does_not_show_must_be_given(model):
    with pytest.raises(
        SpecMismatchError, match=r"block 'se' does not show all of its spec .*pass specs={'se': <its spec>}"
    ):
        blocks_of(model)
    (block,) = blocks_of(model, {"se": SE})
    assert block.tensors["fc2.kernel"].shape == (6, 3)


def test_mis_shaped_variables_are_refused(model):
    model.live["se"].variables["fc1.bias"] = np.zeros((1, 3), np.float32)
    model.live["se"].variables["fc2.kernel"] = np.zeros((6, 3), np.float32)
    with pytest.raises(TensorShapeError) as caught:
        load_into(model, weights(SE, "se"))
    assert str(caught.value) == (
        "block 'se' does not fit model 'se' (fc1.bias: tensor (3,), variable (1, 3); fc2.kernel: tensor (3, 6), "
        "variable (6, 3)); expected equal shapes"
    )
    assert model.written is None


def test_variables_without_tensor_are_refused(model):
    model.live["se"].variables["norm.mean"] = np.zeros(3, np.float32)
    with pytest.raises(
        MissingTensorError, match=r"block 'se': model 'se' has the unexpected norm\.mean; expected exactly fc1\.ker"
    ):
        load_into(model, weights(SE, "se"))


@pytest.mark.parametrize("fails", [True, False])
def test_a_variable_that_takes_no_value_leaves_the_others_as_they_were(model, fails, monkeypatch):
    variables = model.live["se"].variables
    variables["fc2.bias"] = np.broadcast_to(np.float32(0), (6,))  # NumPy refuses to write to it

    def write(model, values):
        for variable, value in values:
            if fails or variable.flags.writeable:
                variable[...] = value

    monkeypatch.setattr(loading.owner(model), "write_variables", write)
    message = (
        "variables cannot be written .ValueError: .*the model is as it was" if fails else "written to 'se: fc2.bias'"
    )
    with pytest.raises(InputError, match=message):
        load_into(model, weights(SE, "se"))
    assert not any(value.any() for value in variables.values())


def test_model_with_ambiguous_names_is_refused(model):
    model.live["s.e"] = model.live["s/e"] = model.live["se"]
    with pytest.raises(UnexpectedTensorError, match=r"received the model with blocks 's\.e' and 's/e'"):
        load_into(model, weights(SE, "se"))


# Every framework's own adapter


KERAS = """
import keras, numpy as np
from parity import golden, loading
from attention_keras import {style} as blocks
(recording,) = golden.open("tutorial-keras-cbam")
x = keras.Input(recording.x.shape[1:], dtype="float64")
arguments = recording.block.spec.options().arguments() | dict(name="attn", data_format="channels_last", dtype="float64")
y = blocks.cbam(x, **arguments) if {style!r} == "functional" else blocks.CBAM(**arguments)(x)
model = keras.Model(x, y)
report = loading.load_into(model, recording.block, {{"": "attn"}})
assert report.loaded == {{"": "attn"}}, report
(back,) = loading.blocks_of(model, {{"attn": recording.block.spec}})
assert all(np.array_equal(back.tensors[key], value) for key, value in recording.block.tensors.items())
print(report.unverified)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("style", "engine"), [("functional", "tensorflow"), ("layers", "jax"), ("layers", "torch")])
def test_keras_models(style, engine):
    for package in ("keras", engine):
        pytest.importorskip(package)
    # Each engine needs a process of its own. PyTorch comes first, so that its adapter could claim Keras' torch modules.
    script = "import torch\n" + KERAS.format(style=style)
    environment = os.environ | {"KERAS_BACKEND": engine, "JAX_ENABLE_X64": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert style == "functional" or done.stdout == "{}\n"


def test_tf1_session():
    tf = pytest.importorskip("tensorflow")
    from attention_tf1compat import cbam

    (block,) = read(golden.path("tutorial-tf1-cbam"))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float64, (None, 9, 11, 24))
        cbam(x, spec=block.spec, scope="stage1/cbam", data_format="channels_last", dtype="float64")
        session.run(tf.compat.v1.global_variables_initializer())
        report = load_into(session, block, {"cbam_block1": "stage1/cbam"})
        (back,) = blocks_of(session)
    assert report == loading.Report({"cbam_block1": "stage1/cbam"})
    assert (back.name, back.spec) == ("stage1/cbam", block.spec)
    assert all(np.array_equal(back.tensors[key], value) for key, value in block.tensors.items())


def test_tf1_session_without_values():
    tf = pytest.importorskip("tensorflow")
    from attention_tf1compat import eca

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        eca(tf.compat.v1.placeholder(tf.float32, (None, 9, 11, 24)), scope="attn", data_format="channels_last")
        sentence = r"block 'attn': conv\.kernel cannot be read .*; initialize the variables or load weights first"
        with pytest.raises(MissingTensorError, match=sentence):
            blocks_of(session)


def test_variables_whose_value_cannot_be_read(model, monkeypatch):
    def refuse(model, variable):
        raise NotImplementedError("no data")

    monkeypatch.setattr(loading.owner(model), "read_variable", refuse)
    with pytest.raises(MissingTensorError, match=r"block 'se': fc1\.kernel cannot be read \(NotImplementedError: no d"):
        blocks_of(model, {"se": SE})


def test_lone_spatial_half_with_open_channels():
    spec = replace(CBAMOptions(parts="spatial", spatial_norm=None).resolve(1), channels=None)
    model = CBAM.from_spec(replace(spec, channels=24))
    assert load_into(model, weights(spec)).loaded == {"": ""}


def test_load_verified():
    model, (block,) = SqueezeExcitation.from_spec(SE), with_probes([weights(SE, "se")])
    assert load_into(model, block, verify=True).loaded == {"se": ""}
    assert np.array_equal(model.fc1.weight.detach(), block.tensors["fc1.kernel"].astype(np.float32))


def test_weights_that_do_not_prove_themselves_are_not_loaded():
    block = weights(SE, "se")
    # Theirs was a hard gate; the reader, and the model, say sigmoid.
    (truth,) = with_probes([Block("se", replace(SE, gate="hard_sigmoid"), block.tensors)])
    model = SqueezeExcitation.from_spec(SE)
    before = state(model)
    with pytest.raises(SpecMismatchError, match=r"not proved in 'torch'(.|\n)*off by (.|\n)*gate \"hard_sigmoid\""):
        load_into(model, replace(block, probe=truth.probe), verify=True)
    with pytest.raises(MissingTensorError, match="block 'se': no probe"):
        load_into(model, block, verify=True)
    assert unchanged(model, before)
