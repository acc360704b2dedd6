"""Whole networks between live models: every layer finds its partner, or nothing is written."""

from __future__ import annotations

import copy
import json
import math
import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
pytest.importorskip(os.environ["KERAS_BACKEND"])

from keras import layers as stock  # noqa: E402 (after importorskip)
from keras_twins import functional_style, layers_style, resnet  # noqa: E402
from timm_models import import_timm  # noqa: E402
from torch import nn  # noqa: E402

import attention_torch  # noqa: E402
from attention_keras import enable_float64  # noqa: E402
from parity.errors import (  # noqa: E402
    DialectError,
    InputError,
    MissingTensorError,
    OutputMismatchError,
    SpecMismatchError,
    TensorShapeError,
    UnexpectedTensorError,
)
from parity.network import port  # noqa: E402
from parity.tolerances import TABLE  # noqa: E402

pytestmark = pytest.mark.slow

enable_float64()

RANDOM = np.random.default_rng(5)


def randomized(model):
    """`model` with every parameter and statistic random; variances positive."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value.copy_(0.5 + drawn.abs() if name.endswith("running_var") else 0.5 * drawn)
    return model.eval()


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(model, before):
    ignored = "num_batches_tracked"
    return all(torch.equal(value, before[key]) for key, value in model.state_dict().items() if ignored not in key)


def keras_state(model):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in model.variables]


def keras_same(model, before):
    return all(np.array_equal(one, other) for one, other in zip(keras_state(model), before, strict=True))


def example(*shape, dtype="float64"):
    return RANDOM.standard_normal(shape).astype(dtype) + 0.3


def functional(shape, *layers, dtype="float64"):
    """A functional model of one layer after the other."""
    x = inputs = keras.Input(shape, dtype=dtype)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


# One layer of each kind

D = {"dtype": "float64"}
KINDS = {
    "conv1d": (nn.Conv1d(6, 4, 3, groups=2), stock.Conv1D(4, 3, groups=2, **D), (2, 6, 9)),
    "conv2d": (nn.Conv2d(3, 4, (3, 5), 2, dilation=1), stock.Conv2D(4, (3, 5), 2, **D), (2, 3, 9, 11)),
    "dilated": (
        nn.Conv2d(3, 4, 3, padding=2, dilation=2, bias=False),
        stock.Conv2D(4, 3, dilation_rate=2, padding="same", use_bias=False, **D),
        (2, 3, 9, 11),
    ),
    "conv3d": (nn.Conv3d(3, 4, (2, 3, 1)), stock.Conv3D(4, (2, 3, 1), **D), (2, 3, 4, 5, 6)),
    "depthwise1d": (
        nn.Conv1d(3, 6, 3, groups=3),
        stock.DepthwiseConv1D(3, depth_multiplier=2, **D),
        (2, 3, 9),
    ),
    "depthwise2d": (
        nn.Conv2d(3, 6, (3, 2), groups=3, bias=False),
        stock.DepthwiseConv2D((3, 2), depth_multiplier=2, use_bias=False, **D),
        (2, 3, 7, 9),
    ),
    "transposed1d": (nn.ConvTranspose1d(3, 4, 3, 2), stock.Conv1DTranspose(4, 3, 2, **D), (2, 3, 5)),
    "transposed2d": (nn.ConvTranspose2d(3, 4, (3, 2), 2), stock.Conv2DTranspose(4, (3, 2), 2, **D), (2, 3, 5, 6)),
    "transposed3d": (nn.ConvTranspose3d(3, 4, 2, 2), stock.Conv3DTranspose(4, 2, 2, **D), (2, 3, 3, 4, 5)),
    "transposed and cut": (
        nn.ConvTranspose2d(3, 4, 4, 2, 1),
        stock.Conv2DTranspose(4, 4, 2, padding="same", **D),
        (2, 3, 5, 6),
    ),
    "transposed and extended": (
        nn.ConvTranspose2d(3, 4, 2, 3, output_padding=1),
        stock.Conv2DTranspose(4, 2, 3, **D),
        (2, 3, 5, 6),
    ),
    "dense": (nn.Linear(3, 4), stock.Dense(4, **D), (2, 3)),
    "dense of a sequence": (nn.Linear(3, 4, bias=False), stock.Dense(4, use_bias=False, **D), (2, 5, 3)),
    "batch norm 1d": (nn.BatchNorm1d(3, 1e-4, 0.2), stock.BatchNormalization(momentum=0.8, epsilon=1e-4, **D), (2, 3)),
    "batch norm 2d": (
        nn.BatchNorm2d(3),
        stock.BatchNormalization(momentum=0.9, epsilon=1e-5, **D),
        (2, 3, 4, 5),
    ),
    "batch norm 3d": (
        nn.BatchNorm3d(3, affine=False),
        stock.BatchNormalization(momentum=0.9, epsilon=1e-5, scale=False, center=False, **D),
        (2, 3, 4, 5, 2),
    ),
    "synchronized batch norm": (
        nn.SyncBatchNorm(3),
        stock.BatchNormalization(momentum=0.9, epsilon=1e-5, **D),
        (2, 3, 4, 5),
    ),
    "layer norm": (nn.LayerNorm(3), stock.LayerNormalization(epsilon=1e-5, **D), (2, 5, 3)),
    "group norm": (nn.GroupNorm(2, 6), stock.GroupNormalization(2, epsilon=1e-5, **D), (2, 6, 4, 5)),
}
SEQUENCES = ("dense", "dense of a sequence", "batch norm 1d", "layer norm")


@pytest.mark.parametrize("kind", KINDS)
def test_layers_port_both_ways_bitwise(kind):
    module, layer, shape = KINDS[kind]
    source, back = randomized(module.double()), _fresh(module.double())
    x = example(*shape)
    last = x if kind in SEQUENCES else np.moveaxis(x, 1, -1)
    target = functional(last.shape[1:], layer)
    report = port(source, target, example=x)
    assert 0 <= report.error <= report.allowed
    (pair,) = report.pairs
    assert pair.how == "structure"
    port(target, back, example=last)
    assert same(back, state(source))


def _fresh(module):
    """A copy of `module` with other weights."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.copy_(torch.full_like(value, 7))
    return other


def test_embeddings_port_both_ways():
    source, target = (
        randomized(nn.Embedding(7, 3).double()),
        functional((5,), stock.Embedding(7, 3, **D), dtype="int32"),
    )
    ids = RANDOM.integers(0, 7, (2, 5))
    assert port(source, target, example=ids).error == 0
    back = _fresh(source)
    port(target, back, example=ids)
    assert same(back, state(source))


class Attends(nn.Module):
    """Multi-head attention of three inputs."""

    def __init__(self, **options):
        super().__init__()
        self.mha = nn.MultiheadAttention(6, 2, **options)

    def forward(self, q, k, v):
        return self.mha(q, k, v)[0]


def attends(kdim=6, vdim=6, bias=True):
    # In float32: Keras rounds the scale of the logits to it.
    q, k, v = (keras.Input((size, dim)) for size, dim in ((4, 6), (5, kdim), (5, vdim)))
    return keras.Model([q, k, v], stock.MultiHeadAttention(2, 3, use_bias=bias, name="mha")(q, v, key=k))


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 5, "vdim": 7}])
def test_attention_ports_both_ways(options):
    source, target = randomized(Attends(batch_first=True, **options)), attends(**options)
    x = (example(2, 4, 6), example(2, 5, options.get("kdim", 6)), example(2, 5, options.get("vdim", 6)))
    port(source, target, example=x)
    back = _fresh(source)
    port(target, back)
    assert same(back, state(source))


def test_heads_of_equal_shapes_do_not_pass():
    target, other = attends(), Attends()
    other.mha = nn.MultiheadAttention(6, 3)
    with pytest.raises(SpecMismatchError, match="heads: source 3, target 2; head_size: source 2, target 3"):
        port(other, target)


# Networks


class Net(nn.Module):
    """Every kind of operation, two of them used twice."""

    def __init__(self, eps=1e-5, momentum=0.1, groups=4, padding=1, gate="sigmoid"):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8, eps, momentum)
        self.shared = nn.Conv2d(8, 8, 3, padding=padding, groups=groups)
        self.attn = attention_torch.CBAM(8, reduction=2, gate=gate)
        self.up = nn.ConvTranspose2d(8, 5, 2, 2)
        self.fc = nn.Linear(5, 7)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = self.attn(self.shared(self.shared(x)))
        return self.fc(self.up(x).mean((2, 3)))


def twin(eps=1e-5, momentum=0.9, dtype="float64", attend=None, activation="relu"):
    """`Net` in Keras."""
    named = {"dtype": dtype}
    attend = attend or layers_style("CBAM", reduction=2)
    x = inputs = keras.Input((8, 9, 3), dtype=dtype)
    x = stock.Conv2D(8, 3, padding="same", name="conv", **named)(x)
    x = stock.BatchNormalization(epsilon=eps, momentum=momentum, name="bn", **named)(x)
    x = stock.Activation(activation, **named)(x)
    shared = stock.Conv2D(8, 3, padding="same", groups=4, name="shared", **named)
    x = attend(shared(shared(x)), 8, "attn", dtype)
    x = stock.Conv2DTranspose(5, 2, 2, name="up", **named)(x)
    x = stock.GlobalAveragePooling2D(**named)(x)
    return keras.Model(inputs, stock.Dense(7, name="fc", **named)(x))


STYLES = {"layers": layers_style("CBAM", reduction=2), "functional": functional_style("cbam", reduction=2)}


@pytest.mark.parametrize("style", STYLES)
def test_networks_port_by_name_both_ways(style):
    source, target, back = randomized(Net().double()), twin(attend=STYLES[style]), Net().double()
    x = example(2, 3, 8, 9)
    report = port(source, target, example=x)
    assert [(pair.source, pair.kind, pair.how) for pair in report.pairs] == [
        ("conv", "convolution", "name"),
        ("bn", "batch norm", "name"),
        ("shared", "convolution", "name"),
        ("attn", "cbam", "name"),
        ("up", "transposed convolution", "name"),
        ("fc", "dense", "name"),
    ]
    assert report.differences == {"bn": ("unbiased_variance: source True, target False; matters when trained further",)}
    assert json.loads(json.dumps(report.to_json()))["pairs"][0]["target"] == "conv"
    port(target, back, example=np.moveaxis(x, 1, -1))
    assert same(back, state(source))


def test_float32_targets_of_float64_sources():
    source, target = randomized(Net().double()), twin(dtype="float32")
    report = port(source, target, example=example(2, 3, 8, 9))
    assert report.allowed == TABLE["network", "float32", "cpu"].tolerance


def test_mapping_names_layers():
    source = Outer(randomized(Net().double()))
    report = port(source, twin(), _each("net", Net()))
    assert {pair.how for pair in report.pairs} == {"mapping"}


class Outer(nn.Module):
    """A network inside another."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def _each(prefix, model):
    return {f"{prefix}.{name}": name for name, _ in model.named_children()}


def test_mapping_of_a_prefix():
    inner = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 4))
    source = randomized(Outer(Outer(inner)).double())
    target = functional((3,), *(stock.Dense(size, name=f"head_{i}", **D) for i, size in enumerate((4, 3, 4))))
    report = port(source, target, {"net.net": "head"}, example=example(2, 3))
    assert [(pair.source, pair.target) for pair in report.pairs] == [(f"net.net.{i}", f"head_{i}") for i in range(3)]


@pytest.mark.parametrize(
    ("mapping", "error", "message"),
    [
        ({"nothing": "conv"}, MissingTensorError, "mapping of 'nothing'; expected of the layers 'conv'"),
        ({"conv": "nothing"}, MissingTensorError, r"mapping of 'conv' \(as 'nothing'\) to what the target lacks"),
        ({"conv": "fc", "fc": "conv"}, SpecMismatchError, "kind: source convolution, target dense"),
        (["conv"], InputError, r"received mapping=\['conv'\]"),
        ({"con": None}, MissingTensorError, "mapping of 'con'"),
    ],
)
def test_mappings_that_do_not_fit(mapping, error, message):
    target = twin()
    before = keras_state(target)
    with pytest.raises(error, match=message):
        port(randomized(Net().double()), target, mapping)
    assert keras_same(target, before)


def test_what_is_left_stays_as_it_is():
    source, target = randomized(Net().double()), twin()
    before = keras.ops.convert_to_numpy(target.get_layer("fc").kernel).copy()
    report = port(source, target, {"fc": None})
    assert report.left == ("fc",)
    assert "fc" not in [pair.source for pair in report.pairs]
    assert np.array_equal(keras.ops.convert_to_numpy(target.get_layer("fc").kernel), before)
    assert np.array_equal(keras.ops.convert_to_numpy(target.get_layer("up").bias), source.up.bias.detach())


# Pairs by structure


class Stack(nn.Module):
    """Two layers that are alike, defined in another order than they run in, and one that is not."""

    def __init__(self):
        super().__init__()
        self.late, self.early, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.late(torch.tanh(self.early(x)))))


def stack(*names):
    named = [{"name": name} | D for name in names]
    return functional(
        (4,),
        stock.Dense(4, "tanh", **named[0]),
        stock.Dense(4, "tanh", **named[1]),
        stock.Dense(2, **named[2]),
    )


def test_layers_that_are_alike_are_told_apart_by_running_them():
    report = port(randomized(Stack().double()), stack("a", "b", "c"), example=example(3, 4))
    assert {(pair.source, pair.target, pair.how) for pair in report.pairs} == {
        ("early", "a", "structure and execution"),
        ("late", "b", "structure and execution"),
        ("head", "c", "structure"),
    }


def test_layers_that_are_alike_are_never_paired_by_bare_order():
    target = stack("a", "b", "c")
    before = keras_state(target)
    with pytest.raises(
        MissingTensorError, match=r"'late' .dense: kernel .4, 4., bias .4,.*'early'.*'a'.*pass example="
    ):
        port(randomized(Stack().double()), target)
    assert keras_same(target, before)


def test_counted_names_that_do_not_run_alike_say_nothing():
    """Keras counts layers through the whole process: dense_1 here may be dense_2 there."""
    source = stack("dense", "dense_1", "dense_2")
    target = stack("dense_1", "dense_3", "dense_2")
    for variable in source.variables:
        variable.assign(RANDOM.standard_normal(variable.shape))
    report = port(source, target, example=example(3, 4))
    assert [(pair.source, pair.target) for pair in report.pairs] == [
        ("dense", "dense_1"),
        ("dense_1", "dense_3"),
        ("dense_2", "dense_2"),
    ]


def test_everything_left_over_is_named():
    source = randomized(Net().double())
    source.more, source.last = nn.Linear(3, 3), nn.BatchNorm2d(4)
    with pytest.raises(
        UnexpectedTensorError, match=r"'more' \(dense: kernel \(3, 3\), bias \(3,\)\), 'last' \(batch norm: .*mapping="
    ):
        port(source, twin())
    with pytest.raises(MissingTensorError, match=r"the target's 'more'.* without weights"):
        port(twin(), source)


class Scaled(nn.Module):
    """A parameter of its own, and a convolution that computes something else than its class says."""

    def __init__(self):
        super().__init__()
        self.fc, self.gamma = nn.Linear(3, 4), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.fc(x) * self.gamma


class Standardized(nn.Conv2d):
    """Weights that are normalised at each call."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight / self.weight.std(), self.bias)


def test_variables_of_no_known_layer_are_named():
    target = functional((3,), stock.Dense(4, name="fc", **D))
    with pytest.raises(UnexpectedTensorError, match=r"source '' \(test_network.Scaled: gamma \(4,\)\).*'<name>': None"):
        port(Scaled(), target)
    port(Scaled(), target, {"": None})
    with pytest.raises(UnexpectedTensorError, match="Standardized: weight"):
        port(nn.Sequential(Standardized(3, 4, 3)), target)


# What is checked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 1e-3}, r"'bn' \(epsilon: source 0.001, target 1e-05\)"),
        ({"momentum": 0.01}, r"'bn' \(update_rate: source 0.01, target 0.1\)"),
        (
            {"groups": 2},
            r"'shared' \(groups: source 2, target 4; kernel: source \(8, 4, 3, 3\), target \(8, 2, 3, 3\)\)",
        ),
        ({"padding": 2}, r"padding: source \[\[2, 2\], \[2, 2\]\], target \[\[1, 1\], \[1, 1\]\]"),
        ({"gate": "hard_sigmoid"}, r"'attn' \(gate: source \{'kind': 'hard_sigmoid', .*, target 'sigmoid'\)"),
    ],
)
def test_another_function_is_refused(options, message):
    target = twin()
    before = keras_state(target)
    with pytest.raises(SpecMismatchError, match=message):
        port(randomized(Net(**options).double()), target)
    assert keras_same(target, before)


def test_the_defaults_of_the_two_frameworks_do_not_meet():
    target = functional((4, 5, 3), stock.BatchNormalization(**D))
    with pytest.raises(
        SpecMismatchError, match=r"epsilon: source 1e-05, target 0.001; update_rate: source 0.1, target 0.01"
    ):
        port(nn.BatchNorm2d(3).double(), target, {"": target.layers[-1].name})


def test_another_shape_is_refused():
    source = nn.Linear(3, 5)
    with pytest.raises(TensorShapeError, match=r"kernel: source \(5, 3\), target \(4, 3\)"):
        port(source, functional((3,), stock.Dense(4, name="fc")), {"": "fc"})


def test_numbers_beyond_the_targets_dtype_are_refused():
    source, target = nn.Linear(2, 2).double(), nn.Linear(2, 2).half()
    with torch.no_grad():
        source.weight[0, 0] = 1e6
    before = state(target)
    with pytest.raises(TensorShapeError, match=r"kernel: source float64, target torch.float16"):
        port(source, target)
    assert same(target, before)


def test_transposed_convolutions_cut_alike():
    source, target = nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), nn.ConvTranspose2d(3, 4, 3, 2, 1)
    with pytest.raises(
        SpecMismatchError, match=r"padding: source \[\[1, 0\], \[1, 0\]\], target \[\[1, 1\], \[1, 1\]\]"
    ):
        port(source, target)
    twin = functional((5, 6, 3), stock.Conv2DTranspose(4, 3, 2, padding="same"), dtype="float32")
    with pytest.raises(
        SpecMismatchError, match=r"padding: source \[\[1, 0\], \[1, 0\]\], target \[\[0, 1\], \[0, 1\]\]"
    ):
        port(source, twin)
    whole = functional((5, 6, 3), stock.Conv2DTranspose(4, 3, 2), dtype="float32")
    assert port(source, whole).unverified == {"": ("padding",)}  # something behind it may cut


def test_norms_without_scale_or_offset():
    source = randomized(nn.BatchNorm2d(3).double())
    bare = functional((4, 5, 3), stock.BatchNormalization(momentum=0.9, epsilon=1e-5, scale=False, **D))
    with pytest.raises(SpecMismatchError, match=r"has a scale and target .* none"):
        port(source, bare)
    nn.init.ones_(source.weight)
    assert any("scale: source 1 everywhere, target none" in text for text in port(source, bare).differences[""])
    back = randomized(nn.BatchNorm2d(3).double())
    port(bare, back)
    assert same(back, state(source))


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self, tied):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        if tied:
            self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


def test_a_shared_variable_takes_one_value():
    port(randomized(Tied(True)), Tied(False))
    port(randomized(Tied(True)), Tied(True))
    target = Tied(True)
    before = state(target)
    with pytest.raises(SpecMismatchError, match="shares one variable between 'a: kernel' and 'b: kernel'"):
        port(randomized(Tied(False)), target)
    assert same(target, before)


def test_models_that_hold_no_values():
    with pytest.raises(InputError, match="kernel is on the meta device"):
        port(nn.Linear(3, 4), nn.Linear(3, 4, device="meta"))
    with pytest.raises(InputError, match=r"kernel is computed, not stored; .* parametrization"):
        port(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(3, 4))
    with pytest.raises(InputError, match="kernel is not initialized"):
        port(nn.LazyLinear(3), nn.Linear(3, 4))
    with pytest.raises(InputError, match="is not built"):
        port(nn.Linear(3, 4), stock.Dense(4))


# The proof


def strided(x, same_padding):
    """Two strided convolutions and a norm between."""
    pad = {"padding": "same"} if same_padding else {"padding": "valid"}
    x = x if same_padding else stock.ZeroPadding2D(1, **D)(x)
    x = stock.Conv2D(4, 3, 2, name="conv1", **pad, **D)(x)
    x = stock.BatchNormalization(momentum=0.9, epsilon=1e-5, name="bn", **D)(x)
    return stock.Conv2D(2, 1, name="conv2", **D)(x)


class Strided(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.conv2(self.bn(self.conv1(x)))


def test_strides_pad_elsewhere_with_same_and_the_layer_is_named():
    source, inputs = randomized(Strided().double()), keras.Input((8, 10, 3), **D)
    good, bad = (keras.Model(inputs, strided(inputs, same_padding)) for same_padding in (False, True))
    assert port(source, good, example=example(2, 3, 8, 10)).error is not None
    before = keras_state(bad)
    with pytest.raises(OutputMismatchError) as caught:
        port(source, bad, example=example(2, 3, 8, 10))
    text = str(caught.value)
    assert "the first layer that differs is 'conv1' (convolution), with equal inputs (not comparable by" in text
    assert "padding)" in text
    assert "off by" in text
    assert "the target has its old weights again" in text
    assert keras_same(bad, before)


def test_a_difference_between_layers_is_placed():
    source, target = randomized(Net().double()), twin(activation="silu")
    before = keras_state(target)
    with pytest.raises(
        OutputMismatchError,
        match=r"'shared' .convolution., whose inputs differ already: the fault lies between 'bn' and it",
    ):
        port(source, target, example=example(2, 3, 8, 9))
    assert keras_same(target, before)


class Encoder(nn.Module):
    """A sequence, whose features are last in both frameworks."""

    def __init__(self):
        super().__init__()
        self.embed, self.mha = nn.Embedding(9, 4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(4), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, ids):
        x = self.embed(ids)
        return self.fc2(torch.relu(self.fc1(self.norm(x + self.mha(x, x, x)[0]))))


def encoder(activation):
    ids = keras.Input((4,), dtype="int32")
    x = stock.Embedding(9, 4, name="embed")(ids)
    x = stock.LayerNormalization(epsilon=1e-5, name="norm")(x + stock.MultiHeadAttention(2, 2, name="mha")(x, x))
    x = stock.Activation(activation)(stock.Dense(6, name="fc1")(x))
    return keras.Model(ids, stock.Dense(3, name="fc2")(x))


def test_sequences_are_not_turned():
    source, ids = randomized(Encoder()), RANDOM.integers(0, 9, (2, 4))
    report = port(source, encoder("relu"), example=ids)
    assert {pair.kind for pair in report.pairs} == {"embedding", "attention", "layer norm", "dense"}
    with pytest.raises(
        OutputMismatchError, match=r"is 'fc2' .dense., whose inputs differ already: .* between 'fc1' and"
    ):
        port(source, encoder("tanh"), example=ids)


def test_a_value_that_does_not_arrive_is_found(monkeypatch):
    from attention_keras.layers import adapter

    source, target = randomized(Net().double()), twin()
    before, plain, calls = keras_state(target), adapter.write_variables, []

    def careless(model, values):
        values = list(values)
        if not calls:  # the kernel of 'up', once
            values = [(variable, value + (value.shape == (2, 2, 5, 8)) * 1e-3) for variable, value in values]
        calls.append(values)
        plain(model, values)

    monkeypatch.setattr(adapter, "write_variables", careless)
    for x in (None, example(2, 3, 8, 9)):
        calls.clear()
        with pytest.raises(InputError, match=r"does not keep what is written to 'up: kernel'; expected variables of"):
            port(source, target, example=x)
        assert keras_same(target, before)


def test_a_variable_that_cannot_be_written_leaves_all_as_they_were():
    """Of the second layer's bias all elements are one number."""
    source, target = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))
    target[1].bias = nn.Parameter(torch.zeros(1).expand(3))
    before = state(target)
    for x in (None, example(2, 3)):
        with pytest.raises(InputError, match=r"variables cannot be written .RuntimeError: .*the model is as it was"):
            port(source, target, example=x)
        assert same(target, before)


def test_tensors_with_a_gradient_are_examples():
    source, target = nn.Linear(3, 4), nn.Linear(3, 4)
    assert port(source, target, example=torch.rand(2, 3, requires_grad=True)).error == 0


def test_outputs_that_are_no_numbers_prove_nothing():
    source, target = nn.Linear(3, 4), nn.Linear(3, 4)
    nn.init.constant_(source.weight[:1], math.nan)
    before = state(target)
    with pytest.raises(InputError, match="received a source whose outputs for the example are no numbers"):
        port(source, target, example=example(2, 3))
    assert same(target, before)


class Flat(nn.Module):
    """A map that is flattened, with its channels first."""

    def __init__(self):
        super().__init__()
        self.conv, self.flat, self.hidden = nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 3 * 5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.hidden(self.flat(self.conv(x))))


def flat(*before):
    dense = stock.Dense(6, name="hidden", **D), stock.Dense(2, name="head", **D)
    return functional((5, 7, 3), stock.Conv2D(4, 3, name="conv", **D), *before, stock.Flatten(**D), *dense)


def test_flattened_maps_lie_in_another_order():
    source, target, x = randomized(Flat().double()), flat(), example(2, 3, 5, 7)
    before = keras_state(target)
    text = r"'hidden' .dense., whose inputs are the same numbers in another order: a map is flattened behind 'conv', "
    with pytest.raises(OutputMismatchError, match=text + "with its channels first in the source and last in the ta"):
        port(source, target, example=x)
    assert keras_same(target, before)
    with pytest.raises(OutputMismatchError, match=text + "with its channels last in the source and first in the ta"):
        port(target, Flat().double(), example=np.moveaxis(x, 1, -1))
    assert port(source, flat(stock.Permute((3, 1, 2), **D)), example=x).unverified == {}


def test_without_an_example_the_order_of_flattened_maps_is_doubted():
    source = randomized(Flat().double())
    assert port(source, flat()).unverified == {"hidden": ("the order of its inputs",)}
    assert port(source, _fresh(source)).unverified == {}
    assert port(randomized(Net().double()), twin()).unverified == {}  # its map is averaged


class Faint(nn.Module):
    """Two layers that are alike, of which the outputs feel nothing, run in the order of definition or the other."""

    def __init__(self, names):
        super().__init__()
        self.a, self.b, self.head, self.names = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2), names

    def forward(self, x):
        inputs = {"a": x, "b": torch.tanh(x)}
        parts = {name: getattr(self, name)(inputs[name]) for name in self.names}
        return self.head(x + 1e-30 * (parts["a"] - 2 * parts["b"]))


def test_guesses_are_confirmed_layer_by_layer():
    source = randomized(Faint("ab").double())
    for names, agree in (("ab", True), ("ba", False)):
        target = nn.Sequential()
        target.add_module("other", Faint(names).double())
        before, x = state(target), example(2, 3)
        if agree:
            assert "structure and execution" in {pair.how for pair in port(source, target, example=x).pairs}
            continue
        with pytest.raises(OutputMismatchError, match=r"its outputs do not show it.; the first layer .* is 'a' -> 'o"):
            port(source, target, example=x)
        assert same(target, before)


class Again(nn.Module):
    """A layer that is called once, or twice."""

    def __init__(self, times):
        super().__init__()
        self.fc, self.times = nn.Linear(3, 3), times

    def forward(self, x):
        for _ in range(self.times):
            x = self.fc(x)
        return x


@pytest.mark.parametrize(
    ("times", "message"),
    [((1, 2), "target 'fc' runs more often than source 'fc'"), ((2, 1), "source 'fc' runs more often than target")],
)
def test_layers_that_run_more_often_are_named(times, message):
    source, target = (randomized(Again(number).double()) for number in times)
    with pytest.raises(OutputMismatchError, match=message):
        port(source, target, example=example(2, 3))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.arange(576.0).reshape(2, 4, 8, 9), "the source cannot run on the example as .2, 4, 8, 9. "),
        (np.array(["a"]), "received an example of <U1"),
        ([[1, 2], [3]], "received an example that is no array .ValueError"),
        (np.zeros((2, 3, 8, 9)), "is 0.0 everywhere; expected numbers that differ; pass random numbers"),
        (np.full((2, 3, 8, 9), np.nan), "that is empty or not finite"),
        (np.zeros((0, 3, 8, 9)), "that is empty or not finite"),
        ((), "received an example of "),
    ],
)
def test_examples_that_do_not_fit(x, message):
    target = twin()
    before = keras_state(target)
    with pytest.raises(InputError, match=message):
        port(randomized(Net().double()), target, example=x)
    assert keras_same(target, before)


def test_half_precision_has_no_tolerance():
    with pytest.raises(InputError, match="outputs are float16; expected outputs in float64 or float32"):
        port(nn.Linear(3, 4).half(), nn.Linear(3, 4).half(), example=example(2, 3))


def test_inference_mode_is_borrowed():
    source, target = randomized(Net().double()), Net().double()
    source.train()
    target.train()
    target.bn.eval()
    port(source, target, example=example(2, 3, 8, 9))
    assert source.training
    assert source.bn.training
    assert target.training
    assert not target.bn.training
    assert same(target, state(source))


# TensorFlow 1


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def graph_net(tf, fused, attend=True, dtype="float64"):
    """`Net` in a graph, with a training half that the output does not hang on."""
    import attention_tf1compat

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(dtype, (None, 8, 9, 3), "x")

        def variables(scope, kernel, bias=True, last=-1):
            with v1.variable_scope(scope, reuse=v1.AUTO_REUSE, dtype=dtype):
                w = v1.get_variable("kernel", kernel)
                return w, v1.get_variable("bias", (kernel[last],)) if bias else None

        w, b = variables("conv", (3, 3, 3, 8))
        u = tf.nn.bias_add(tf.nn.conv2d(x, w, 1, "SAME"), b)
        with v1.variable_scope("bn", dtype=dtype):
            gamma, beta = v1.get_variable("gamma", (8,)), v1.get_variable("beta", (8,))
            mean = v1.get_variable("moving_mean", (8,), trainable=False)
            variance = v1.get_variable("moving_variance", (8,), trainable=False)
        if fused:
            u, _, _ = v1.nn.fused_batch_norm(u, gamma, beta, mean, variance, 1e-5, is_training=False)
        else:
            u = tf.nn.batch_normalization(u, mean, variance, beta, gamma, 1e-5)
        u = tf.nn.relu(u)
        w, b = variables("shared", (3, 3, 2, 8))
        for _ in range(2):
            parts = [
                tf.nn.conv2d(part, w[..., 2 * i : 2 * i + 2], 1, "SAME") for i, part in enumerate(tf.split(u, 4, -1))
            ]
            u = tf.concat(parts, -1) + b if not fused else tf.nn.bias_add(tf.nn.conv2d(u, w, 1, "SAME"), b)
        u = attention_tf1compat.cbam(u, reduction=2, dtype=dtype, scope="attn") if attend else u
        w, b = variables("up", (2, 2, 5, 8), last=-2)
        shape = tf.stack([tf.shape(u)[0], 16, 18, 5])
        u = tf.nn.bias_add(tf.nn.conv2d_transpose(u, w, shape, 2, "VALID"), b)
        w, b = variables("fc", (5, 7))
        y = tf.matmul(tf.reduce_mean(u, (1, 2)), w) + b
        loss = tf.reduce_mean(y**2)
        v1.train.AdamOptimizer().minimize(loss, v1.train.get_or_create_global_step())
        session = v1.Session(graph=graph)
        session.run(v1.global_variables_initializer())
    return session, x, y


def test_graphs_port_both_ways(tf):
    model = graph_net(tf, fused=True, dtype="float32")
    source, back = randomized(Net()), Net()
    x = example(2, 3, 8, 9, dtype="float32")
    report = port(source, model, example=x)
    assert [(pair.target, pair.kind) for pair in report.pairs] == [
        ("conv", "convolution"),
        ("bn", "batch norm"),
        ("shared", "convolution"),
        ("attn", "cbam"),
        ("up", "transposed convolution"),
        ("fc", "dense"),
    ]
    port(model, back, example=np.moveaxis(x, 1, -1))
    assert same(back, state(source))
    with pytest.raises(
        UnexpectedTensorError, match=r"global_step, beta1_power, .*, \(session, input tensor, output te"
    ):
        port(source, model[0], example=x)


def test_graphs_show_epsilon_in_single_operations_too(tf):
    model = simple_graph(tf, 1e-3)
    source = nn.Sequential()
    source.add_module("dw", nn.Conv2d(3, 6, 3, groups=3, bias=False))
    source.add_module("bn", nn.BatchNorm2d(6))
    source = randomized(source.double())
    with pytest.raises(SpecMismatchError, match=r"'bn' \(epsilon: source 1e-05, target 0.001\)"):
        port(source, model)
    source.bn.eps = 1e-3
    report = port(source, model, example=example(2, 3, 8, 9))
    assert report.error < report.allowed
    back = _fresh(source)
    port(model, back)
    assert same(back, state(source))
    with model.graph.as_default():
        tf.identity(model.graph.get_tensor_by_name("dw/depthwise:0"))
    with pytest.raises(InputError, match=r"1 placeholders and 2 ends, .* pass .session, input tensor, output tensor."):
        port(source, model, example=example(2, 3, 8, 9))


def simple_graph(tf, epsilon):
    """A session with one placeholder and one end."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        x = v1.placeholder("float64", (None, 8, 9, 3), "x")
        with v1.variable_scope("dw", dtype="float64"):
            u = tf.nn.depthwise_conv2d(x, v1.get_variable("kernel", (3, 3, 3, 2)), (1, 1, 1, 1), "VALID")
        with v1.variable_scope("bn", dtype="float64"):
            names = ("moving_mean", "moving_variance", "beta", "gamma")
            tf.nn.batch_normalization(u, *(v1.get_variable(name, (6,)) for name in names), epsilon)
        session = v1.Session(graph=graph)
        session.run(v1.global_variables_initializer())
    return session


# Norms of TensorFlow 1's single operations


def normed(tf, write, shape, channels=6, leaves=("gamma", "beta"), dtype="float64"):
    """A graph of one norm, in the scope "norm", that `write` computes from its map and its parameters."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(dtype, shape, "x")
        with v1.variable_scope("norm", dtype=dtype, initializer=v1.random_uniform_initializer(0.5, 1.5)):
            y = write(tf, x, *(v1.get_variable(leaf, (channels,)) for leaf in leaves))
        session = v1.Session(graph=graph)
        session.run(v1.global_variables_initializer())
    return session, x, y


def by_moments(*axes, epsilon=1e-5):
    def write(tf, x, scale, offset):
        return tf.nn.batch_normalization(x, *tf.nn.moments(x, axes, keepdims=True), offset, scale, epsilon)

    return write


def by_hand(tf, x, scale, offset):
    """As GPT-2's code has it, of a sum."""
    x = x + 0.5 * tf.tanh(x)
    mean = tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), -1, keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-5) * scale + offset


def grouped(groups, epsilon=1e-5):
    """As Keras has it: channels last, the parameters behind the groups."""

    def write(tf, x, scale, offset):
        u = tf.reshape(x, tf.stack([*tf.unstack(tf.shape(x))[:-1], groups, x.shape[-1] // groups]))
        mean, variance = tf.nn.moments(u, (1, 2, 4), keepdims=True)
        return tf.reshape((u - mean) / tf.sqrt(variance + epsilon), tf.shape(x)) * scale + offset

    return write


def grouped_inside(groups):
    """As tf.contrib has it: the parameters in the groups."""

    def write(tf, x, scale, offset):
        size = x.shape[-1] // groups
        u = tf.reshape(x, tf.stack([*tf.unstack(tf.shape(x))[:-1], groups, size]))
        moments = tf.nn.moments(u, (1, 2, 4), keepdims=True)
        affine = (tf.reshape(one, (1, 1, 1, groups, size)) for one in (offset, scale))
        return tf.reshape(tf.nn.batch_normalization(u, *moments, *affine, 1e-5), tf.shape(x))

    return write


def grouped_in_front(groups, epsilon=1e-5):
    """As the authors of group norm have it: the map is turned to channels first and back."""

    def write(tf, x, scale, offset):
        x = tf.transpose(x, (0, 3, 1, 2))
        u = tf.reshape(x, (-1, groups, x.shape[1] // groups, *x.shape[2:]))
        mean, variance = tf.nn.moments(u, (2, 3, 4), keepdims=True)
        u = tf.reshape((u - mean) / tf.sqrt(variance + epsilon), (-1, *x.shape[1:]))
        scale, offset = (tf.reshape(one, (1, -1, 1, 1)) for one in (scale, offset))
        return tf.transpose(u * scale + offset, (0, 2, 3, 1))

    return write


class Bent(nn.Module):
    """What `by_hand` normalises."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(x + 0.5 * torch.tanh(x))


def named_norm(module):
    model = nn.Sequential()
    model.add_module("norm", module)
    return model


SEQUENCE, MAP = (None, 5, 6), (None, 4, 5, 6)
GRAPH_NORMS = {
    "layer norm": (nn.LayerNorm(6), by_moments(-1), SEQUENCE, {}),
    "layer norm by hand": (Bent(), by_hand, SEQUENCE, {"leaves": ("g", "b")}),
    "layer norm of any size": (nn.LayerNorm(6), by_moments(2), (None, None, 6), {"leaves": ("scale", "offset")}),
    "layer norm over all axes": (nn.GroupNorm(1, 6), by_moments(1, 2, 3), MAP, {}),
    "instance norm": (nn.GroupNorm(6, 6), by_moments(1, 2), MAP, {}),
    "group norm": (nn.GroupNorm(3, 6), grouped(3), MAP, {}),
    "group norm in groups": (nn.GroupNorm(3, 6), grouped_inside(3), MAP, {}),
    "group norm in front": (nn.GroupNorm(3, 6), grouped_in_front(3), MAP, {}),
}


@pytest.mark.parametrize("kind", GRAPH_NORMS)
def test_norms_of_graphs_port_both_ways(tf, kind):
    module, write, shape, options = GRAPH_NORMS[kind]
    model = normed(tf, write, shape, **options)
    source = randomized((module if isinstance(module, Bent) else named_norm(module)).double())
    last = example(3, *(size or 5 for size in shape[1:]))
    first = last if shape[2] is None or len(shape) == 3 else np.moveaxis(last, -1, 1)
    report = port(source, model, example=first)
    assert [(pair.target, pair.kind) for pair in report.pairs] == [("norm", kind_of(module))]
    assert report.unverified == {}
    assert report.error <= report.allowed
    back = _fresh(source)
    port(model, back, example=last)
    assert same(back, state(source))


def kind_of(module):
    return "group norm" if isinstance(module, nn.GroupNorm) else "layer norm"


@pytest.mark.parametrize("leaf", ["scale", "offset"])
def test_norms_of_graphs_without_scale_or_offset(tf, leaf):
    def write(tf, x, parameter):
        both = (parameter, None) if leaf == "scale" else (None, parameter)
        return by_moments(-1)(tf, x, *both)

    model = normed(tf, write, SEQUENCE, leaves=(leaf,))
    source = named_norm(randomized(nn.LayerNorm(6).double()))
    with pytest.raises(SpecMismatchError, match=f"has a {'offset' if leaf == 'scale' else 'scale'} and target .* none"):
        port(source, model)
    nn.init.constant_(source.norm.bias if leaf == "scale" else source.norm.weight, 0 if leaf == "scale" else 1)
    report = port(source, model, example=example(2, 5, 6))
    assert report.error <= report.allowed


KERAS_NORMS = {
    "layer norm": (lambda: stock.LayerNormalization(epsilon=1e-4, name="norm", **D), by_moments(-1, epsilon=1e-4)),
    "group norm": (lambda: stock.GroupNormalization(2, epsilon=1e-4, name="norm", **D), grouped(2, epsilon=1e-4)),
    "instance norm": (
        lambda: stock.GroupNormalization(-1, epsilon=1e-4, name="norm", **D),
        by_moments(1, 2, epsilon=1e-4),
    ),
}


@pytest.mark.parametrize("kind", KERAS_NORMS)
def test_norms_of_keras_port_to_graphs(tf, kind):
    layer, write = KERAS_NORMS[kind]
    source, model, x = functional((4, 5, 6), layer()), normed(tf, write, MAP), example(3, 4, 5, 6)
    for variable in source.variables:
        variable.assign(RANDOM.standard_normal(variable.shape))
    report = port(source, model, example=x)
    assert report.error <= report.allowed
    assert report.unverified == {}
    back = functional((4, 5, 6), layer())
    port(model, back, example=x)
    assert keras_same(back, keras_state(source))


@pytest.mark.parametrize(
    ("module", "write", "message"),
    [
        (nn.LayerNorm(6), by_moments(-1, epsilon=1e-3), r"'norm' \(epsilon: source 1e-05, target 0.001\)"),
        (nn.GroupNorm(3, 6), grouped(2), r"'norm' \(groups: source 3, target 2\)"),
        (nn.GroupNorm(3, 6), grouped_inside(2), r"'norm' \(groups: source 3, target 2\)"),
        (nn.GroupNorm(3, 6), grouped_in_front(2), r"'norm' \(groups: source 3, target 2\)"),
        (nn.GroupNorm(3, 6), by_moments(1, 2, 3), r"'norm' \(groups: source 3, target 1\)"),
        (nn.LayerNorm(6), by_moments(1, 2, 3), r"'norm' \(kind: source layer norm, target group norm\)"),
        (nn.GroupNorm(1, 6), by_moments(-1), r"'norm' \(kind: source group norm, target layer norm\)"),
    ],
)
def test_another_norm_of_a_graph_is_refused(tf, module, write, message):
    with pytest.raises(SpecMismatchError, match=message):
        port(named_norm(module.double()), normed(tf, write, MAP))


def test_an_epsilon_that_is_fed_is_unverified_and_the_example_finds_it(tf):
    def write(tf, x, scale, offset, value):
        epsilon = tf.compat.v1.placeholder_with_default(tf.constant(value, x.dtype), ())
        return by_moments(-1, epsilon=epsilon)(tf, x, scale, offset)

    source, x = named_norm(randomized(nn.LayerNorm(6).double())), example(2, 5, 6)
    good, bad = (
        normed(tf, lambda *arguments, value=value: write(*arguments, value), SEQUENCE) for value in (1e-5, 1e-2)
    )
    assert port(source, good, example=x).unverified == {"norm": ("epsilon",)}
    assert port(source, bad).unverified == {"norm": ("epsilon",)}
    with pytest.raises(OutputMismatchError, match=r"'norm' .layer norm., with equal inputs .not comparable .*epsilon"):
        port(source, bad, example=x)


def test_a_norm_that_turns_its_map_is_compared_outside_of_it(tf):
    def write(tf, x, scale, offset):
        epsilon = tf.compat.v1.placeholder_with_default(tf.constant(1e-2, x.dtype), ())
        return grouped_in_front(3, epsilon)(tf, x, scale, offset)

    source = named_norm(randomized(nn.GroupNorm(3, 6).double()))
    text = r"'norm' .group norm., with equal inputs .not comparable by configuration: epsilon.: .* elements differ"
    with pytest.raises(OutputMismatchError, match=text):
        port(source, normed(tf, write, MAP), example=example(2, 6, 4, 5))


def test_groups_of_unknown_number_are_unverified_and_the_example_finds_them(tf):
    def write(tf, x, scale, offset, groups):
        groups = tf.compat.v1.placeholder_with_default(groups, ())
        u = tf.reshape(x, tf.stack([tf.shape(x)[0], groups, -1]))
        mean, variance = tf.nn.moments(u, [2], keepdims=True)
        u = tf.reshape((u - mean) / tf.sqrt(variance + 1e-5), tf.shape(x))
        scale, offset = (tf.reshape(one, (1, 6, 1, 1)) for one in (scale, offset))
        return u * scale + offset

    source, x = named_norm(randomized(nn.GroupNorm(3, 6).double())), example(2, 6, 4, 5)
    good, bad = (
        normed(tf, lambda *arguments, groups=groups: write(*arguments, groups), (None, 6, 4, 5)) for groups in (3, 2)
    )
    assert port(source, good, example=x).unverified == {"norm": ("groups",)}
    with pytest.raises(OutputMismatchError, match=r"'norm' .group norm., with equal inputs .not comparable .*groups"):
        port(source, bad, example=x)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (by_moments(0, 1, 2), r"target 'norm' .*a norm over the axes 0, 1, 2, which is neither a layer norm nor"),
        (lambda tf, x, scale, offset: tf.nn.relu(x) * scale + offset, "no norm of tf.nn.moments over kept axes is"),
        (lambda tf, x, scale, offset: by_moments(-1)(tf, x, 1 + scale, offset), "no norm of tf.nn.moments over"),
        (lambda tf, x, scale, offset: by_hand(tf, x, 2.0, 0.0) * scale + offset, "no norm of tf.nn.moments over"),
    ],
)
def test_what_is_no_layer_norm_is_not_taken_for_one(tf, write, message):
    """A batch norm without running statistics, a scale and offset alone, and a scale that starts from one."""
    model = normed(tf, write, MAP)
    with pytest.raises(UnexpectedTensorError, match=message):
        port(named_norm(nn.LayerNorm(6).double()), model)


# Multi-head attention of TensorFlow 1's single operations


class Written:
    """How somebody wrote multi-head attention: the projections in the scope "mha" of a graph, and the sums between.

    Args:
        deep: whether the kernels have an axis for the heads.
        scale: how the logits are scaled: "constant", "query", "root", "size", "none" or "fed".
        heads: the number of heads, of 6 features in all.
        mask: whether a constant is added to the logits.
        product: of dense layers: "matmul" of a flat batch, or "tensordot".
        bias: whether projections have one.
        dims: the features of query, key and value.
        output: the name of the last projection's scope.
        is_wrong: whether the softmax is over the queries.
    """

    def __init__(self, deep=False, scale="constant", heads=2, mask=False, product="matmul", bias=True, **options):
        self.deep, self.scale, self.heads, self.mask, self.product, self.bias = deep, scale, heads, mask, product, bias
        self.dims, self.output = options.get("dims", (6, 6, 6)), options.get("output", "output")
        self.dtype, self.is_wrong = options.get("dtype", "float64"), options.get("is_wrong", False)

    def __call__(self, tf):
        v1, size = tf.compat.v1, 6 // self.heads
        self.tf = tf
        with tf.Graph().as_default() as graph:
            inputs = [
                v1.placeholder(self.dtype, (None, length, dim), name)
                for name, length, dim in zip("qkv", (4, 5, 5), self.dims, strict=True)
            ]
            with v1.variable_scope("mha", dtype=self.dtype, initializer=v1.random_normal_initializer()):
                names = zip(("query", "key", "value"), inputs, strict=True)
                q, k, v = (self.projected(name, x, x.shape[-1]) for name, x in names)
                q = q * (size**-0.5) if self.scale == "query" else q
                q, k, v = (q, k, v) if self.deep else (tf.transpose(one, (0, 2, 1, 3)) for one in (q, k, v))
                over = "kq" if self.is_wrong else "qk"
                if self.deep:
                    logits = tf.einsum(f"bkhd,bqhd->bh{over}", k, q)
                else:
                    logits = tf.matmul(*((k, q) if self.is_wrong else (q, k)), transpose_b=True)
                logits = self.scaled(logits, q)
                logits = logits + np.array([0.0, -1.0, 0.5, 0.0, 2.0]) if self.mask else logits
                weights = tf.nn.softmax(logits)
                if self.deep:
                    y = tf.einsum(f"bh{over},bkhd->bqhd", weights, v)
                else:
                    y = tf.matmul(weights, v, transpose_a=self.is_wrong)
                y = self.gathered(y if self.deep else tf.transpose(y, (0, 2, 1, 3)))
            session = v1.Session(graph=graph)
            session.run(v1.global_variables_initializer())
        return session, inputs, y

    def scaled(self, logits, q):
        tf, size = self.tf, 6 // self.heads
        return {
            "constant": lambda: logits / math.sqrt(size),
            "query": lambda: logits,
            "none": lambda: logits,
            "root": lambda: logits * tf.math.rsqrt(tf.cast(size, logits.dtype)),
            "size": lambda: logits / tf.sqrt(tf.cast(tf.shape(q)[-1], logits.dtype)),
            "fed": lambda: logits * tf.compat.v1.placeholder_with_default(tf.constant(0.25, logits.dtype), ()),
        }[self.scale]()

    def variables(self, name, kernel, bias):
        v1 = self.tf.compat.v1
        with v1.variable_scope(name):
            return v1.get_variable("kernel", kernel), v1.get_variable("bias", bias) if self.bias else None

    def projected(self, name, x, dim):
        tf, heads, size = self.tf, self.heads, 6 // self.heads
        w, b = self.variables(name, (dim, heads, size) if self.deep else (dim, 6), (heads, size) if self.deep else (6,))
        y = tf.einsum("btc,chd->bthd", x, w) if self.deep else self.dense(x, w)
        y = y if b is None else y + b
        return y if self.deep else tf.reshape(y, (-1, x.shape[1], heads, size))

    def gathered(self, x):
        tf, heads, size = self.tf, self.heads, 6 // self.heads
        w, b = self.variables(self.output, (heads, size, 6) if self.deep else (6, 6), (6,))
        y = tf.einsum("bthd,hdc->btc", x, w) if self.deep else self.dense(tf.reshape(x, (-1, 4, 6)), w)
        y = y if b is None else y + b
        return tf.reshape(y, (-1, 4, 6))

    def dense(self, x, w):
        tf = self.tf
        if self.product == "tensordot":
            return tf.tensordot(x, w, 1)
        return tf.matmul(tf.reshape(x, (-1, x.shape[-1])), w)


ATTENTIONS = {
    "matmul": {},
    "tensordot": {"product": "tensordot", "output": "attention_output"},
    "heads": {"deep": True, "output": "output_projection"},
    "no bias": {"bias": False},
    "heads without bias": {"bias": False, "deep": True},
    "three sizes": {"dims": (6, 5, 7)},
    "heads of three sizes": {"dims": (6, 5, 7), "deep": True},
    "scaled query": {"scale": "query"},
    "scaled by the root of a constant": {"scale": "root"},
    "scaled by the root of a size": {"scale": "size", "deep": True},
}


def torch_attends(bias=True, dims=(6, 6, 6), heads=2):
    model = Attends(batch_first=True, bias=bias, kdim=dims[1], vdim=dims[2])
    if heads != 2:
        model.mha = nn.MultiheadAttention(6, heads, batch_first=True)
    return randomized(model.double())


def three(dims=(6, 6, 6), dtype="float64"):
    return tuple(example(2, length, dim, dtype=dtype) for length, dim in zip((4, 5, 5), dims, strict=True))


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_of_graphs_ports_both_ways(tf, kind):
    options = ATTENTIONS[kind]
    dims, bias = options.get("dims", (6, 6, 6)), options.get("bias", True)
    source, model, x = torch_attends(bias, dims), Written(**options)(tf), three(dims)
    report = port(source, model, example=x)
    assert [(pair.source, pair.target, pair.kind) for pair in report.pairs] == [("mha", "mha", "attention")]
    assert report.error <= report.allowed
    assert report.unverified == {}
    back = _fresh(source)
    port(model, back, example=x)
    assert same(back, state(source))


@pytest.mark.parametrize("deep", [False, True])
def test_attention_of_keras_ports_to_graphs(tf, deep):
    source, model, x = attends(), Written(deep=deep, dtype="float32")(tf), three(dtype="float32")
    for variable in source.variables:
        variable.assign(RANDOM.standard_normal(variable.shape))
    report = port(source, model, example=x)
    assert report.error <= report.allowed
    assert report.unverified == {}
    back = attends()
    port(model, back, example=x)
    assert keras_same(back, keras_state(source))


@pytest.mark.parametrize("deep", [False, True])
def test_other_heads_of_graphs_are_refused(tf, deep):
    with pytest.raises(SpecMismatchError, match="heads: source 3, target 2; head_size: source 2, target 3"):
        port(torch_attends(heads=3), Written(deep=deep)(tf))
    with pytest.raises(SpecMismatchError, match="heads: source 2, target 3; head_size: source 3, target 2"):
        port(torch_attends(), Written(deep=deep, heads=3)(tf))


@pytest.mark.parametrize(("options", "field"), [({"scale": "fed"}, "scale"), ({"mask": True}, "mask")])
def test_what_attention_of_graphs_does_not_tell_is_unverified_and_the_example_finds_it(tf, options, field):
    source, model = torch_attends(), Written(**options)(tf)
    assert port(source, model).unverified == {"mha": (field,)}
    with pytest.raises(OutputMismatchError, match=rf"'mha' .attention., with equal inputs .not comparable .*{field}"):
        port(source, model, example=three())


@pytest.mark.parametrize("options", [{"scale": "none"}, {"is_wrong": True}])
@pytest.mark.parametrize("deep", [False, True])
def test_what_is_no_attention_is_not_taken_for_one(tf, options, deep):
    """Logits without a scale, and a softmax over the queries."""
    error = UnexpectedTensorError if deep else MissingTensorError
    with pytest.raises(error, match="mha/query"):
        port(torch_attends(), Written(deep=deep, **options)(tf))


class Projections(nn.Module):
    """Attention of four dense layers, as in BERT's code."""

    def __init__(self, names=("query", "key", "value", "output")):
        super().__init__()
        self.names = names
        self.mha = nn.ModuleDict({name: nn.Linear(6, 6) for name in names})

    def forward(self, *inputs):
        q, k, v = (
            self.mha[name](x).unflatten(-1, (2, 3)).transpose(1, 2)
            for name, x in zip(self.names[:3], inputs, strict=True)
        )
        return self.mha[self.names[3]](nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_four_dense_layers_stay_four(tf):
    source, model = randomized(Projections().double()), Written()(tf)
    report = port(source, model, example=three())
    assert {(pair.source, pair.target, pair.kind) for pair in report.pairs} == {
        (f"mha.{name}", f"mha/{name}", "dense") for name in source.names
    }
    back = _fresh(source)
    port(model, back, example=three())
    assert same(back, state(source))
    other = randomized(Projections(("a", "b", "c", "d")).double())
    mapping = {f"mha.{name}": f"mha/{wanted}" for name, wanted in zip(other.names, source.names, strict=True)}
    assert {pair.how for pair in port(other, model, mapping, example=three()).pairs} == {"mapping"}


# Other people's blocks


class SELayer(nn.Module):
    """Squeeze and excitation as many repositories write it; nothing but its code tells gate and activation."""

    def __init__(self, channels, gate=nn.Sigmoid):
        super().__init__()
        linear = nn.Linear(channels, 2, bias=False), nn.Linear(2, channels, bias=False)
        self.fc = nn.Sequential(linear[0], nn.ReLU(), linear[1], gate())

    def forward(self, x):
        return x * self.fc(x.mean((2, 3)))[..., None, None]


def wrapped(se):
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 6, 1))
    model.add_module("se", se)
    return randomized(model.double())


def se_twin(**options):
    attend = layers_style("SqueezeExcitation", hidden_channels=2, **options)
    x = inputs = keras.Input((4, 5, 3), **D)
    return keras.Model(inputs, attend(stock.Conv2D(6, 1, name="conv", **D)(x), 6, "se", "float64"))


def test_foreign_blocks_are_found_by_what_the_other_side_has():
    source, target = wrapped(SELayer(6)), se_twin(bias=False)
    report = port(source, target, example=example(2, 3, 4, 5))
    assert ("se", "se", "name") in [(pair.source, pair.kind, pair.how) for pair in report.pairs]
    assert report.unverified == {}
    back = _fresh(source)
    port(target, back, example=example(2, 4, 5, 3))
    assert same(back, state(source))


def test_foreign_blocks_do_not_pass_for_what_they_are_not():
    target = se_twin(bias=False)
    with pytest.raises(DialectError, match="'se' has the modules hard_sigmoid, relu, but its weights are those of"):
        port(wrapped(SELayer(6, nn.Hardsigmoid)), target)
    silent = SELayer(6)
    silent.fc[1], silent.fc[3] = Call(torch.relu), Call(torch.sigmoid)
    assert port(wrapped(silent), target).unverified == {"se": ("gate", "activation")}
    assert port(wrapped(silent), target, hints={"se": {"gate": "sigmoid"}}).unverified == {"se": ("activation",)}
    with pytest.raises(DialectError, match="hints for 'other'"):
        port(wrapped(SELayer(6)), target, hints={"other": {"gate": "sigmoid"}})


def test_foreign_blocks_ask_for_what_they_do_not_tell():
    se = nn.Module()
    se.fc1, se.fc2 = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
    source, target = wrapped(se), se_twin()
    with pytest.raises(DialectError, match="gate"):
        port(source, target)
    hints = {"gate": "sigmoid", "activation": "relu"}
    assert port(source, target, hints=hints).unverified == {}
    with pytest.raises(SpecMismatchError, match=r"gate: source .*, target 'sigmoid'"):
        port(source, target, hints=hints | {"gate": "hard_sigmoid"})


class Call(nn.Module):
    """A function that no class names."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


@pytest.fixture(scope="module")
def timm():
    return import_timm()


def test_modules_tell_their_gate(timm):
    from timm.layers import SEModule

    source = wrapped(SEModule(6, rd_channels=2, gate_layer="hard_sigmoid", act_layer=nn.SiLU))
    told = {"gate": "hard_sigmoid", "activation": "silu"}
    report = port(source, se_twin(**told), example=example(2, 3, 4, 5))
    assert report.error < report.allowed
    with pytest.raises(SpecMismatchError, match=r"gate: source .*hard_sigmoid.*target 'sigmoid'"):
        port(source, se_twin(activation="silu"))
    with pytest.raises(DialectError, match=r"against its own modules .activation: module 'silu', hint 'relu'"):
        port(source, se_twin(**told), hints={"activation": "relu"})


BLOCKS = {
    "timm.layers EcaModule": ({}, attention_torch.ECA, {"kernel_size": 3}),
    "timm.layers CecaModule": ({}, attention_torch.ECA, {"kernel_size": 3, "padding": "circular"}),
    "timm.layers.cbam CbamModule": (
        {"rd_channels": 4},
        attention_torch.CBAM,
        {"hidden_channels": 4, "mlp_bias": False, "spatial_norm": {"epsilon": 1e-5, "update_rate": 0.1}},
    ),
    "timm.layers.coord_attn CoordAttn": (
        {"has_skip": True},
        attention_torch.CoordinateAttention,
        {"hidden_channels": 8, "bias": False, "head_bias": False, "residual": True},
    ),
    "timm.models._efficientnet_blocks SqueezeExcite": (
        {"rd_channels": 4, "act_layer": nn.SiLU, "gate_layer": nn.Hardsigmoid},
        attention_torch.SqueezeExcitation,
        {"hidden_channels": 4, "activation": "silu", "gate": "hard_sigmoid"},
    ),
}


@pytest.mark.parametrize("path", BLOCKS)
def test_blocks_of_timm_need_no_hint(timm, path):
    given, block, options = BLOCKS[path]
    module, name = path.split()
    source = randomized(getattr(import_timm(module), name)(16, **given).double())
    target = block(16, **options).double()
    report = port(source, target, example=example(2, 16, 5, 7))
    assert [(pair.kind, pair.how) for pair in report.pairs] == [(target.spec.block, "name")]
    assert report.unverified == {}
    back = _fresh(source)
    port(target, back, example=example(2, 16, 5, 7))
    assert same(back, state(source))


def test_norms_of_foreign_blocks_are_read(timm):
    source = import_timm("timm.layers.cbam").CbamModule(16, rd_channels=4)
    source.spatial.conv.bn.eps = 1e-3
    target = attention_torch.CBAM(16, hidden_channels=4, mlp_bias=False, spatial_norm={"update_rate": 0.1})
    with pytest.raises(
        SpecMismatchError, match=r"spatial_norm: source \{'epsilon': 0.001, .* target \{'epsilon': 1e-05"
    ):
        port(source, target)


def test_variants_of_known_classes_are_plain_layers(timm):
    from timm.layers import SEModule

    def make():
        return wrapped(SEModule(6, rd_channels=2, norm_layer=nn.BatchNorm2d))

    source, target = make(), _fresh(make())
    report = port(source, target, example=example(2, 3, 4, 5))
    assert [pair.source for pair in report.pairs] == ["conv", "se.fc1", "se.bn", "se.fc2"]
    assert same(target, state(source))
    with pytest.raises(DialectError, match=r"source 'se', where the other model has .* norm .* has no counterpart"):
        port(source, se_twin())
    with pytest.raises(MissingTensorError, match=r"source 'se' is a timm/SEModule, but not as a block: .*se\.bn"):
        port(source, twin(attend=lambda x, *_: x))


def test_norms_with_an_activation(timm):
    """The norm's own output is compared, not what the activation in the same module makes of it."""
    from timm.layers import BatchNormAct2d

    source = nn.Sequential()
    source.add_module("conv", nn.Conv2d(3, 4, 1))
    source.add_module("bn", BatchNormAct2d(4))
    source.add_module("head", nn.Conv2d(4, 2, 1))
    source = randomized(source.double())

    def make(activation):
        norm = stock.BatchNormalization(momentum=0.9, epsilon=1e-5, name="bn", **D)
        convs = stock.Conv2D(4, 1, name="conv", **D), stock.Conv2D(2, 1, name="head", **D)
        return functional((4, 5, 3), convs[0], norm, stock.Activation(activation, **D), convs[1])

    port(source, make("relu"), example=example(2, 3, 4, 5))
    with pytest.raises(
        OutputMismatchError, match=r"'head' .convolution., whose inputs differ already: .* between 'bn'"
    ):
        port(source, make("silu"), example=example(2, 3, 4, 5))


def squeezed(channels):
    """timm's hidden channels for a ratio of 1/16: a multiple of 8."""
    return max(8, (channels // 16 + 4) // 8 * 8)


def taps(channels):
    """timm's kernel size for efficient channel attention."""
    size = int(abs(math.log2(channels) + 1) / 2)
    return max(size if size % 2 else size + 1, 3)


SE = {
    "layers": layers_style("SqueezeExcitation", hidden_channels=squeezed),
    "functional": functional_style("squeeze_excitation", hidden_channels=squeezed),
}
ECA = {"layers": layers_style("ECA", kernel_size=taps), "functional": functional_style("eca", kernel_size=taps)}
DEEP = {"bottleneck": True, "stem": (24, 32), "average": True}
MODELS = {"seresnet18": (SE, {}), "ecaresnet26t": (ECA, DEEP)}


def with_random_statistics(model):
    """Norms as after training: every statistic and every scale another one."""
    generator = torch.Generator().manual_seed(2)
    draw = {
        "running_var": lambda shape: 0.5 + 1.5 * torch.rand(shape, generator=generator),
        "running_mean": lambda shape: 0.3 * torch.randn(shape, generator=generator),
        "weight": lambda shape: 0.5 + torch.rand(shape, generator=generator),
        "bias": lambda shape: 0.3 * torch.randn(shape, generator=generator),
    }
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for name, make in draw.items():
                    getattr(module, name).copy_(make(module.weight.shape))
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("style", ["layers", "functional"])
@pytest.mark.parametrize("name", MODELS)
def test_timm_networks_port_to_keras(timm, name, style, dtype):
    styles, options = MODELS[name]
    torch.manual_seed(0)
    source = with_random_statistics(timm.create_model(name, num_classes=10)).to(getattr(torch, dtype))
    target = resnet((64, 96, 3), (2, 2, 2, 2), styles[style], dtype=dtype, **options)
    report = port(source, target, example=example(2, 3, 64, 96, dtype=dtype))
    assert {pair.how for pair in report.pairs} == {"name"}
    assert sum(pair.kind in ("se", "eca") for pair in report.pairs) == 8
    assert report.allowed <= {"float32": 1e-5, "float64": 1e-12}[dtype]
    assert report.error <= report.allowed
