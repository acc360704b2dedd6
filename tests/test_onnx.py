"""Blocks out of ONNX graphs: hand-made graphs in every spelling, exports, trained models, near misses, bad files."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from timm_models import import_timm

from fuzz.targets._native import read_here
from parity import exchange, golden, oracle
from parity.compare import compare
from parity.errors import BackendMissingError, DialectError, FormatError, InputError, MissingTensorError, ParityError
from parity.files import _child
from parity.files.onnx import read, run_block, source, with_probes
from parity.spec import (
    CBAMOptions,
    CoordinateAttentionOptions,
    ECAOptions,
    Gate,
    SqueezeExcitationOptions,
)

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

N, C, H, W, HIDDEN = 2, 6, 5, 7, 4
X = np.random.default_rng(0).normal(0.3, 1, (N, C, H, W)).astype(np.float32)
X *= np.linspace(0.4, 1.6, W, dtype=np.float32)  # not the same along any axis


# A graph, operator by operator


class Builder:
    """Writes a graph: a method call is a node, and gives the names of its outputs."""

    def __init__(self, opset=17):
        self.opset, self.nodes, self.weights, self.count = opset, [], {}, 0

    def name(self):
        self.count += 1
        return f"t{self.count}"

    def const(self, array, name=None, node=False):
        """An initializer; with `node` a Constant node."""
        name = name or self.name()
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        if node:
            self.nodes.append(onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array)))
        else:
            self.weights[name] = array
        return name

    def __getattr__(self, op):
        def call(*inputs, outputs=1, **attributes):
            names = [self.name() for _ in range(outputs)]
            inputs = [self.const(value) if not isinstance(value, str) else value for value in inputs]
            self.nodes.append(onnx.helper.make_node(op, inputs, names, **attributes))
            return names[0] if outputs == 1 else names

        return call

    def save(self, path, output, shape=("n", C, "h", "w"), **more):
        ends = [onnx.helper.make_tensor_value_info(name, 1, sizes) for name, sizes in (("x", shape), (output, None))]
        weights = [onnx.numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = onnx.helper.make_graph(self.nodes, "g", ends[:1], ends[1:], weights)
        opset = onnx.helper.make_opsetid("", self.opset)
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8, **more)
        onnx.save(model, path)
        return str(path)


def weights(*shape, seed=1):
    return np.random.default_rng([seed, *shape]).normal(0, 1, shape).astype(np.float32)


W1, B1, W2, B2 = weights(HIDDEN, C), weights(HIDDEN), weights(C, HIDDEN), weights(C)


def run(path, x):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def judge(path, block, x, y=None):
    """The oracle, given what was found, says what ONNX Runtime says; and the block's own nodes say the same."""
    expected = oracle.evaluate(block.spec, block.tensors, x)
    with mock.patch.object(_child, "read", read_here):  # a process for each of hundreds of blocks takes a minute
        own = run_block(path, block.name, x)
    for output in (run(path, x) if y is None else y, own):
        failures = [one.failure for one in compare(expected, {"output": output}, dtype="float32", device="cpu")]
        assert failures == [""], block.spec


def only(path):
    found = read(path)
    assert found.kind == "ONNX graph"
    (block,) = found.blocks
    return block


# Squeeze and excitation, in pieces: how each piece may be written. Values have the axes (N, C, 1, 1) or (N, C).


def axes_of(b, *axes):
    return np.array(axes, np.int64)


POOLS = {
    "global": lambda b, x: b.GlobalAveragePool(x),
    "reduce_attribute": lambda b, x: b.ReduceMean(x, axes=[2, 3], keepdims=1),
    "reduce_negative": lambda b, x: b.ReduceMean(x, axes=[-1, -2]),
    "reduce_dropped": lambda b, x: b.Unsqueeze(b.ReduceMean(x, axes=[2, 3], keepdims=0), axes_of(b, 2, 3)),
    "one_by_one": lambda b, x: b.ReduceMean(b.ReduceMean(x, axes=[3]), axes=[2]),
    "flattened_map": lambda b, x: b.Unsqueeze(
        b.ReduceMean(b.Reshape(x, axes_of(b, 0, 0, -1)), axes=[2]), axes_of(b, 3)
    ),
    "identity": lambda b, x: b.Identity(b.Dropout(b.GlobalAveragePool(b.Identity(x)))),
    "cast": lambda b, x: b.Cast(b.GlobalAveragePool(x), to=1),
}


def conv1x1(b, z, w, bias):
    return b.Conv(z, b.const(w[:, :, None, None]), *([] if bias is None else [bias]), kernel_shape=[1, 1])


def conv_add(b, z, w, bias):
    z = b.Conv(z, b.const(w[:, :, None, None]))
    return z if bias is None else b.Add(bias[None, :, None, None], z)


def flat(layer):
    return lambda b, z, w, bias: b.Unsqueeze(layer(b, b.Flatten(z), w, bias), axes_of(b, 2, 3))


def gemm(b, z, w, bias):
    return b.Gemm(z, w.T, *([] if bias is None else [bias]))


def gemm_transposed(b, z, w, bias):
    return b.Gemm(z, b.Identity(b.const(w)), *([] if bias is None else [bias[None]]), transB=1)


def gemm_factors(b, z, w, bias):
    return b.Gemm(z, w.T * 4, *([] if bias is None else [bias * 0.5]), alpha=0.25, beta=2.0)


def matmul(b, z, w, bias):
    y = b.MatMul(z, b.const(w.T, node=True))
    return y if bias is None else b.Add(y, b.const(bias, node=True))


def matmul_transposed(b, z, w, bias):
    y = b.MatMul(z, b.Transpose(b.const(w), perm=[1, 0]))
    return y if bias is None else b.Add(bias, y)


def matmul_last(b, z, w, bias):
    """As tf2onnx writes it, in channels-last layout."""
    y = b.MatMul(b.Transpose(z, perm=[0, 2, 3, 1]), w.T)
    y = y if bias is None else b.Add(y, bias)
    return b.Transpose(y, perm=[0, 3, 1, 2])


def matmul_left(b, z, w, bias):
    y = b.MatMul(w, b.Squeeze(z, axes_of(b, 3)))
    y = y if bias is None else b.Add(y, bias[:, None])
    return b.Unsqueeze(y, axes_of(b, 3))


def reshaped_conv(b, z, w, bias):
    kernel = b.Reshape(b.const(w), np.array([*w.shape, 1, 1], np.int64))
    y = b.Conv(z, kernel, *([] if bias is None else [bias]))
    return b.Reshape(b.Reshape(y, axes_of(b, -1, w.shape[0])), axes_of(b, 0, -1, 1, 1))


LAYERS = {
    "conv": conv1x1,
    "conv_add": conv_add,
    "gemm": flat(gemm),
    "gemm_transposed": flat(gemm_transposed),
    "gemm_factors": flat(gemm_factors),
    "matmul": flat(matmul),
    "matmul_transposed": flat(matmul_transposed),
    "matmul_last": matmul_last,
    "matmul_left": matmul_left,
    "reshaped_conv": reshaped_conv,
}
ACTIVATIONS = {
    "relu": ("relu", lambda b, u: b.Relu(u)),
    "relu_clip": ("relu", lambda b, u: b.Clip(u, np.float32(0), "")),
    "relu_max": ("relu", lambda b, u: b.Max(np.float32([0]), u)),
    "silu": ("silu", lambda b, u: b.Mul(b.Sigmoid(u), u)),
    "hard_swish": ("hard_swish", lambda b, u: b.HardSwish(u)),
    "hard_swish_gate": ("hard_swish", lambda b, u: b.Mul(u, b.HardSigmoid(u, alpha=1 / 6))),
    "hard_swish_last": (
        "hard_swish",
        lambda b, u: b.Div(b.Mul(u, b.Clip(b.Add(u, 3.0), np.float32(0), np.float32(6))), 6.0),
    ),
    "identity": ("identity", lambda b, u: u),
}


def clip(b, u, high):
    return b.Clip(u, np.float32(0), b.const(np.float32(high), node=True))


SIXTH, FIFTH = Gate("hard_sigmoid"), Gate("hard_sigmoid", slope=0.2)
GATES = {
    "sigmoid": (Gate("sigmoid"), lambda b, u: b.Sigmoid(u)),
    "hard_default": (FIFTH, lambda b, u: b.HardSigmoid(u)),
    "hard_sixth": (SIXTH, lambda b, u: b.HardSigmoid(u, alpha=1 / 6, beta=0.5)),
    "paddle": (Gate("hard_sigmoid", slope=0.1666667), lambda b, u: b.HardSigmoid(u, alpha=0.1666667)),
    "relu6": (SIXTH, lambda b, u: b.Div(clip(b, b.Add(3.0, u), 6), np.float32([6]))),
    "relu6_mul": (SIXTH, lambda b, u: b.Mul(np.float32([1 / 6]), clip(b, b.Add(u, np.float32([3])), 6))),
    "relu6_relu": (SIXTH, lambda b, u: b.Div(b.Min(b.Relu(b.Add(u, 3.0)), 6.0), 6.0)),
    "linear": (FIFTH, lambda b, u: clip(b, b.Add(b.Mul(u, np.float32(0.2)), 0.5), 1)),
    "linear_swapped": (FIFTH, lambda b, u: clip(b, b.Add(0.5, b.Mul(np.float32(0.2), u)), 1)),
    "divided": (SIXTH, lambda b, u: b.Max(0.0, b.Min(1.0, b.Add(b.Div(u, 6.0), 0.5)))),
    "subtracted": (Gate("hard_sigmoid", 0.5), lambda b, u: clip(b, b.Mul(b.Sub(u, -1.0), 0.5), 1)),
    "identity": (Gate("identity"), lambda b, u: u),
}


def expanded(b, x, s):
    return b.Mul(x, b.Expand(s, b.Shape(x)))


def last(b, x, s):
    y = b.Mul(b.Transpose(s, perm=[0, 2, 3, 1]), b.Transpose(x, perm=[0, 2, 3, 1]))
    return b.Transpose(y, perm=[0, 3, 1, 2])


def viewed(b, x, s):
    """PyTorch's view(b, c, 1, 1), with sizes taken from the map."""
    sizes = [b.Unsqueeze(b.Gather(b.Shape(x), np.int64(axis)), axes_of(b, 0)) for axis in (0, 1)]
    shape = b.Concat(*sizes, np.array([1], np.int64), np.array([1], np.int64), axis=0)
    return b.Mul(x, b.Reshape(b.Flatten(s), shape))


SPREADS = {
    "mul": lambda b, x, s: b.Mul(x, s),
    "mul_swapped": lambda b, x, s: b.Mul(s, x),
    "expand": expanded,
    "last": last,
    "viewed": viewed,
}


def squeeze_excitation(b, pool="global", layer="conv", activation="relu", gate="sigmoid", spread="mul", bias=True):
    """The output, and the spec."""
    x = b.Relu("x")
    h = LAYERS[layer](b, POOLS[pool](b, x), W1, B1 if bias else None)
    u = LAYERS[layer](b, ACTIVATIONS[activation][1](b, h), W2, B2 if bias else None)
    y = SPREADS[spread](b, x, GATES[gate][1](b, u))
    options = SqueezeExcitationOptions(
        hidden_channels=HIDDEN, bias=bias, activation=ACTIVATIONS[activation][0], gate=GATES[gate][0]
    )
    return y, options.resolve(C)


def spellings():
    """Each spelling of each piece alone, then all of them in ever new company."""
    pieces = {"pool": POOLS, "layer": LAYERS, "activation": ACTIVATIONS, "gate": GATES, "spread": SPREADS}
    alone = [{piece: name} for piece, names in pieces.items() for name in names]
    choices = [list(names) for names in pieces.values()]
    rng = np.random.default_rng(0)
    mixed = [dict(zip(pieces, (str(rng.choice(names)) for names in choices), strict=True)) for _ in range(24)]
    return [*alone, *mixed]


@pytest.mark.parametrize("pieces", spellings(), ids=lambda pieces: "-".join(pieces.values()))
@pytest.mark.parametrize("bias", [True, False], ids=["biased", "unbiased"])
def test_spellings_of_squeeze_excitation(tmp_path, pieces, bias):
    b = Builder()
    y, spec = squeeze_excitation(b, bias=bias, **pieces)
    path = b.save(tmp_path / "m.onnx", y)
    block = only(path)
    assert block.spec == spec
    for name, value in {"fc1.kernel": W1, "fc2.kernel": W2, "fc1.bias": B1, "fc2.bias": B2}.items():
        if name in block.tensors:
            assert np.array_equal(block.tensors[name], value), name
    # What was found is the function of x after the first ReLU.
    judge(path, block, np.maximum(X, 0), run(path, X))


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 22])
def test_operator_versions(tmp_path, opset):
    """Axes, bounds and splits have been attributes, and are inputs now."""
    b = Builder(opset)
    z = b.ReduceMean("x", axes_of(b, 2, 3)) if opset >= 18 else b.ReduceMean("x", axes=[2, 3], keepdims=1)
    h = b.Relu(conv1x1(b, z, W1, B1))
    u = b.Add(conv1x1(b, h, W2, B2), 3.0)
    u = b.Clip(u, np.float32(0), np.float32(6)) if opset >= 11 else b.Clip(u, min=0.0, max=6.0)
    path = b.save(tmp_path / "m.onnx", b.Mul("x", b.Div(u, 6.0)))
    block = only(path)
    assert block.spec.gate == SIXTH
    judge(path, block, X)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_ranks(tmp_path, rank):
    b = Builder()
    x = weights(N, C, *(5, 4, 3)[:rank])
    spread = [1] * rank
    z = b.GlobalAveragePool("x")
    h = b.Relu(b.Conv(z, W1.reshape(*W1.shape, *spread), B1))
    y = b.Mul("x", b.Sigmoid(b.Conv(h, W2.reshape(*W2.shape, *spread), B2)))
    path = b.save(tmp_path / "m.onnx", y, ["n", C, *"dhw"[3 - rank :]])
    assert only(path).spec.spatial_dims == rank
    judge(path, only(path), x)


def test_channels_last(tmp_path):
    """As TensorFlow computes: pools, layers and product in (N, H, W, C)."""
    b = Builder()
    z = b.ReduceMean("x", axes=[1, 2], keepdims=1)
    h = b.Relu(b.Add(b.MatMul(z, W1.T), B1))
    y = b.Mul("x", b.Sigmoid(b.Add(b.MatMul(h, W2.T), B2)))
    path = b.save(tmp_path / "m.onnx", y, ["n", "h", "w", C])
    block = only(path)
    assert block.spec == SqueezeExcitationOptions(hidden_channels=HIDDEN).resolve(C)
    judge(path, block, X, np.moveaxis(run(path, np.ascontiguousarray(np.moveaxis(X, 1, -1))), -1, 1))


def test_static_batch_of_one(tmp_path):
    b = Builder()
    z = b.Reshape(b.GlobalAveragePool("x"), axes_of(b, 1, C))
    u = b.Reshape(gemm(b, b.Relu(gemm(b, z, W1, B1)), W2, B2), axes_of(b, 1, C, 1, 1))
    path = b.save(tmp_path / "m.onnx", b.Mul("x", b.Sigmoid(u)), (1, C, H, W))
    judge(path, only(path), X[:1])
    with pytest.raises(InputError, match=r"block 'se_0' does not run on an input of shape \(2, 6, 5, 7\)"):
        run_block(path, "se_0", X)


@pytest.mark.parametrize("strides", [[1, 1], [H, W]])
def test_window_over_the_whole_map(tmp_path, strides):
    def graph(shape):
        b = Builder()
        z = b.AveragePool("x", kernel_shape=[H, W], strides=strides)
        u = conv1x1(b, b.Relu(conv1x1(b, z, W1, B1)), W2, B2)
        return b.save(tmp_path / "m.onnx", b.Mul("x", b.Sigmoid(u)), shape)

    judge(graph(("n", C, H, W)), only(tmp_path / "m.onnx"), X)
    assert not read(graph(("n", C, H + 1, W))).blocks
    with pytest.raises(
        DialectError, match=r"node \d+ \(AveragePool 't1'\) covers \[5, 7\] positions of a map whose size"
    ):
        read(graph(("n", C, "h", "w")))


# The other blocks


ECA_KERNEL, ECA_BIAS = weights(1, 1, 3), weights(1)


def eca_pad(b, z):
    return b.Conv(b.Pad(z, np.array([0, 0, 1, 0, 0, 1], np.int64), mode="constant"), ECA_KERNEL)


def eca_wrap(b, z):
    def slices(start, end):
        return b.Slice(z, *(np.array([bound], np.int64) for bound in (start, end, 2)))

    return b.Conv(b.Concat(slices(-1, 2**63 - 1), z, slices(0, 1), axis=2), ECA_KERNEL)


def eca_conv2d(b, z):
    y = b.Conv(b.Unsqueeze(z, axes_of(b, 2)), ECA_KERNEL[:, :, None], ECA_BIAS, pads=[0, 1, 0, 1])
    return b.Squeeze(y, axes_of(b, 2))


ECAS = {
    "pads": ({}, lambda b, z: b.Conv(z, ECA_KERNEL, pads=[1, 1])),
    "auto_pad": ({"bias": True}, lambda b, z: b.Conv(z, ECA_KERNEL, ECA_BIAS, auto_pad="SAME_UPPER")),
    "pad": ({}, eca_pad),
    "bias_added": ({"bias": True}, lambda b, z: b.Add(b.Conv(z, ECA_KERNEL, pads=[1, 1]), ECA_BIAS)),
    "conv2d": ({"bias": True}, eca_conv2d),
    "slices": ({"padding": "circular"}, eca_wrap),
    "one_tap": ({"kernel_size": 1}, lambda b, z: b.Conv(z, ECA_KERNEL[:, :, 1:2])),
}


@pytest.mark.parametrize("spelling", ECAS)
def test_spellings_of_eca(tmp_path, spelling):
    fields, convolved = ECAS[spelling]
    b = Builder()
    z = b.Transpose(b.Squeeze(b.GlobalAveragePool("x"), axes_of(b, 3)), perm=[0, 2, 1])
    s = b.Unsqueeze(b.Transpose(b.Sigmoid(convolved(b, z)), perm=[0, 2, 1]), axes_of(b, 3))
    path = b.save(tmp_path / "m.onnx", b.Mul("x", s))
    block = only(path)
    assert block.spec == ECAOptions(**{"kernel_size": 3, **fields}).resolve(C)
    judge(path, block, X)


def test_wrap_mode(tmp_path):
    b = Builder(19)
    z = b.Transpose(b.Squeeze(b.GlobalAveragePool("x"), axes_of(b, 3)), perm=[0, 2, 1])
    z = b.Conv(b.Pad(z, np.array([0, 0, 2, 0, 0, 2], np.int64), mode="wrap"), weights(1, 1, 5))
    path = b.save(
        tmp_path / "m.onnx", b.Mul("x", b.Unsqueeze(b.Sigmoid(b.Transpose(z, perm=[0, 2, 1])), axes_of(b, 3)))
    )
    assert only(path).spec == ECAOptions(kernel_size=5, padding="circular").resolve(C)
    judge(path, only(path), X)


CBAM_KERNEL = weights(1, 2, 3, 3)


def perceptron(b, z, names=("w1", "b1", "w2", "b2")):
    for name, value in zip(names, (W1[:, :, None, None], B1, W2[:, :, None, None], B2), strict=True):
        b.weights[name] = value
    return b.Conv(b.Relu(b.Conv(z, names[0], names[1])), names[2], names[3])


def channel_half(b, x, swapped=False, names=("w1", "b1", "w2", "b2")):
    u = [perceptron(b, b.GlobalAveragePool(x)), perceptron(b, b.GlobalMaxPool(x), names)]
    return b.Mul(x, b.Sigmoid(b.Add(*u[:: -1 if swapped else 1])))


def planes(b, x, swapped=False, keep=True):
    p = [b.ReduceMean(x, axes=[1], keepdims=int(keep)), b.ReduceMax(x, axes=[1], keepdims=int(keep))]
    p = p if keep else [b.Unsqueeze(one, axes_of(b, 1)) for one in p]
    return b.Concat(*p[:: -1 if swapped else 1], axis=1)


def spatial_half(b, x, source=None, gate=lambda b, u: b.Sigmoid(u), conv=None, **how):
    u = planes(b, x if source is None else source, **how)
    u = conv(b, u) if conv else b.Conv(u, CBAM_KERNEL, pads=[1, 1, 1, 1])
    return b.Mul(x, gate(b, u))


def norm(b, u, size=1):
    statistics = [weights(size, seed=seed) for seed in range(3)]
    return b.BatchNormalization(u, *statistics, np.abs(weights(size, seed=3)) + 0.5, epsilon=1e-3, momentum=0.99)


def normed(b, u):
    return norm(b, b.Conv(u, CBAM_KERNEL, weights(1), pads=[1, 1, 1, 1]))


def padded(b, u):
    """Padding by its own node and a bias of its own, as TensorFlow does."""
    u = b.Pad(u, np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    return b.Add(b.Conv(u, CBAM_KERNEL, auto_pad="VALID"), np.float32([0.25]))


def merged_half(b, x, swapped=False):
    pools = [b.GlobalAveragePool(x), b.GlobalMaxPool(x)]
    z = b.Flatten(b.Concat(*pools[:: -1 if swapped else 1], axis=1))
    u = gemm(b, b.Relu(gemm(b, z, weights(HIDDEN, 2 * C), None)), W2, None)
    return b.Mul(x, b.Unsqueeze(b.Sigmoid(u), axes_of(b, 2, 3)))


def whole(b, **how):
    return spatial_half(b, channel_half(b, "x"), **how)


def residual(b, swapped):
    y = whole(b)
    return b.Add("x", y) if swapped else b.Add(y, "x")


def full(b, x, source=None):
    u = b.Conv(x if source is None else source, weights(1, C, 5, 5), pads=[2, 2, 2, 2])
    return b.Mul(x, b.Sigmoid(u))


def by_input(b):
    return spatial_half(b, channel_half(b, "x"), source="x")


CHANNEL = {"parts": "channel"}
SPATIAL = {"parts": "spatial"}
NORM = {"epsilon": 1e-3, "update_rate": 0.01}
CONCAT = {"channel_merge": "concat", "mlp_bias": False, "parts": "channel"}
CBAMS = {
    "both": ({}, whole),
    "swapped_sum": (CHANNEL, lambda b: channel_half(b, "x", swapped=True)),
    "weights_twice": (CHANNEL, lambda b: channel_half(b, "x", names=("v1", "c1", "v2", "c2"))),
    "concat": (CONCAT, lambda b: merged_half(b, "x")),
    "concat_swapped": (CONCAT, lambda b: merged_half(b, "x", swapped=True)),
    "spatial": (SPATIAL, lambda b: spatial_half(b, "x")),
    "spatial_swapped": (SPATIAL, lambda b: spatial_half(b, "x", swapped=True)),
    "spatial_unsqueezed": (SPATIAL, lambda b: spatial_half(b, "x", keep=False)),
    "normed": ({"spatial_norm": NORM, "spatial_bias": True}, lambda b: whole(b, conv=normed)),
    "padded": ({"spatial_bias": True}, lambda b: whole(b, conv=padded)),
    "hard_spatial": (SPATIAL | {"gate": FIFTH}, lambda b: spatial_half(b, "x", gate=GATES["linear"][1])),
    "input": ({"spatial_source": "input"}, by_input),
    "full": ({"spatial_features": "full", "kernel_size": 5}, lambda b: full(b, channel_half(b, "x"))),
    "full_input": (
        {"spatial_features": "full", "kernel_size": 5, "spatial_source": "input"},
        lambda b: full(b, channel_half(b, "x"), "x"),
    ),
    "full_alone": (SPATIAL | {"spatial_features": "full", "kernel_size": 5}, lambda b: full(b, "x")),
    "residual": ({"residual": True}, lambda b: residual(b, False)),
    "residual_swapped": ({"residual": True}, lambda b: residual(b, True)),
}


@pytest.mark.parametrize("spelling", CBAMS)
def test_spellings_of_cbam(tmp_path, spelling):
    fields, build = CBAMS[spelling]
    b = Builder()
    path = b.save(tmp_path / "m.onnx", build(b))
    block = only(path)
    defaults = {"hidden_channels": HIDDEN, "kernel_size": 3, "spatial_norm": None}
    assert block.spec == CBAMOptions(**(defaults | fields)).resolve(C)
    judge(path, block, X)


def test_halves_with_two_gates_are_two_blocks(tmp_path):
    b = Builder()
    path = b.save(tmp_path / "m.onnx", whole(b, gate=GATES["linear"][1]))
    assert [block.spec.parts for block in read(path).blocks] == ["channel", "spatial"]
    assert [block.spec.gate for block in read(path).blocks] == [Gate("sigmoid"), FIFTH]


def test_residual_beside_other_uses_is_none(tmp_path):
    """Where y is used alone, too, x + y is not the block."""
    b = Builder()
    y = whole(b)
    path = b.save(tmp_path / "m.onnx", b.Mul(b.Add(y, "x"), b.Exp(y)))
    assert only(path).spec.residual is False


CA_REDUCE, CA_BIAS, CA_H, CA_W = weights(HIDDEN, C, seed=5), weights(HIDDEN, seed=6), weights(C, HIDDEN, seed=7), W2


def coordinate(b, activation="relu", cut="split", product="chain", swapped=False, normed=True, gate="sigmoid"):
    """The authors' code: (N, C, H + W, 1), convolutions, and the width turned back."""
    x = "x"
    h = b.ReduceMean(x, axes=[3], keepdims=1)
    w = b.Transpose(b.ReduceMean(x, axes=[2], keepdims=1), perm=[0, 1, 3, 2])
    f = conv1x1(b, b.Concat(*([w, h] if swapped else [h, w]), axis=2), CA_REDUCE, CA_BIAS)
    f = norm(b, f, HIDDEN) if normed else f
    f = ACTIVATIONS[activation][1](b, f)
    parts = CUTS[cut](b, f, x, swapped)
    h, w = parts[::-1] if swapped else parts
    g_h = GATES[gate][1](b, conv1x1(b, h, CA_H, B2))
    g_w = GATES[gate][1](b, conv1x1(b, b.Transpose(w, perm=[0, 1, 3, 2]), CA_W, B1_HEAD))
    return PRODUCTS[product](b, x, g_h, g_w)


B1_HEAD = weights(C, seed=8)


def size(b, x, axis):
    return b.Slice(b.Shape(x), *(np.array([bound], np.int64) for bound in (axis, axis + 1)))


def cut_dynamic(b, f, x, swapped):
    first = size(b, x, 3 if swapped else 2)
    both = b.Add(size(b, x, 2), size(b, x, 3))
    axis = np.array([2], np.int64)
    return [b.Slice(f, np.array([0], np.int64), first, axis), b.Slice(f, first, both, axis)]


def cut_static(b, f, x, swapped):
    middle = np.array([W if swapped else H], np.int64)
    axis, end = np.array([2], np.int64), np.array([2**63 - 1], np.int64)
    return [b.Slice(f, np.array([0], np.int64), middle, axis), b.Slice(f, middle, end, axis)]


CUTS = {
    "split": lambda b, f, x, swapped: b.Split(f, np.array([W, H] if swapped else [H, W], np.int64), axis=2, outputs=2),
    "split_dynamic": lambda b, f, x, swapped: b.Split(
        f, b.Concat(size(b, x, 3 if swapped else 2), size(b, x, 2 if swapped else 3), axis=0), axis=2, outputs=2
    ),
    "slice": cut_static,
    "slice_dynamic": cut_dynamic,
}
PRODUCTS = {
    "chain": lambda b, x, h, w: b.Mul(b.Mul(x, h), w),
    "chain_swapped": lambda b, x, h, w: b.Mul(h, b.Mul(w, x)),
    "gates_first": lambda b, x, h, w: b.Mul(x, b.Mul(h, w)),
    "authors": lambda b, x, h, w: b.Mul(b.Mul(b.Identity(x), w), h),
}


@pytest.mark.parametrize(
    "how",
    [
        *({"cut": cut, "swapped": swapped} for cut in CUTS for swapped in (False, True)),
        *({"product": product} for product in PRODUCTS),
        *({"activation": activation} for activation in ("hard_swish_last", "silu", "identity")),
        {"normed": False},
        {"gate": "linear"},
        {"gate": "identity"},
    ],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_spellings_of_coordinate_attention(tmp_path, how):
    b = Builder()
    path = b.save(tmp_path / "m.onnx", coordinate(b, **how))
    block = only(path)
    options = CoordinateAttentionOptions(
        hidden_channels=HIDDEN,
        norm=NORM if how.get("normed", True) else None,
        activation=ACTIVATIONS[how.get("activation", "relu")][0],
        gate=GATES[how.get("gate", "sigmoid")][0],
    )
    assert block.spec == options.resolve(C)
    assert np.array_equal(block.tensors["expand.h.kernel"], CA_H)
    judge(path, block, X)


def test_residual_of_coordinate_attention(tmp_path):
    b = Builder()
    path = b.save(tmp_path / "m.onnx", b.Add(coordinate(b), "x"))
    assert only(path).spec.residual is True
    judge(path, only(path), X)


# Near misses


def gate_of(b, z, x="x", w1=W1, w2=W2):
    return b.Mul(x, b.Sigmoid(conv1x1(b, b.Relu(conv1x1(b, z, w1, B1)), w2, B2)))


def unknown_gate(b):
    u = conv1x1(b, b.Relu(conv1x1(b, b.GlobalAveragePool("x"), W1, B1)), W2, B2)
    return b.Mul("x", b.Tanh(u))


def scaled_gate(b, scale):
    u = conv1x1(b, b.Relu(conv1x1(b, b.GlobalAveragePool("x"), W1, B1)), W2, B2)
    return b.Mul("x", b.Sigmoid(b.Mul(u, scale)))


def computed_weights(b):
    z = b.Flatten(b.GlobalAveragePool("x"))
    w = b.Mul(b.const(W1.T), b.Sigmoid(b.ReduceSum("x", keepdims=0)))
    u = gemm(b, b.Relu(b.MatMul(z, w)), W2, B2)
    return b.Mul("x", b.Unsqueeze(b.Sigmoid(u), axes_of(b, 2, 3)))


def quantised(b):
    kernel = b.DequantizeLinear(b.const(np.int8(W1 * 20)[:, :, None, None], "quantised"), np.float32(0.05))
    h = b.Relu(b.Conv(b.GlobalAveragePool("x"), kernel, B1))
    return b.Mul("x", b.Sigmoid(conv1x1(b, h, W2, B2)))


def wrong_clip(b):
    u = conv1x1(b, b.Relu(conv1x1(b, b.GlobalAveragePool("x"), W1, B1)), W2, B2)
    return b.Mul("x", b.Div(b.Clip(b.Add(u, 3.0), np.float32(0), np.float32(6)), 5.0))


def leaky(b):
    u = b.LeakyRelu(conv1x1(b, b.GlobalAveragePool("x"), W1, B1))
    return b.Mul("x", b.Sigmoid(conv1x1(b, u, W2, B2)))


def scrambled(b):
    """The batch and the channels change places, which only two equal sizes allow."""
    z = b.Flatten(b.GlobalAveragePool("x"))
    u = gemm(b, b.Relu(gemm(b, z, W1, B1)), W2, B2)
    return b.Mul("x", b.Reshape(b.Transpose(b.Sigmoid(u)), axes_of(b, -1, C, 1, 1)))


def two_perceptrons(b):
    u = b.Add(
        perceptron(b, b.GlobalAveragePool("x")),
        conv1x1(b, b.Relu(conv1x1(b, b.GlobalMaxPool("x"), W1 + 1, B1)), W2, B2),
    )
    return b.Mul("x", b.Sigmoid(u))


def two_means(b):
    u = b.Add(perceptron(b, b.GlobalAveragePool("x")), perceptron(b, b.GlobalAveragePool("x")))
    return b.Mul("x", b.Sigmoid(u))


def eca_of(b, **how):
    z = b.Transpose(b.Squeeze(b.GlobalAveragePool("x"), axes_of(b, 3)), perm=[0, 2, 1])
    z = b.Conv(z, how.pop("kernel", ECA_KERNEL), **how)
    return b.Mul("x", b.Unsqueeze(b.Sigmoid(b.Transpose(z, perm=[0, 2, 1])), axes_of(b, 3)))


def turned_planes(b):
    """The convolution sees (W, H), and the gate is turned back: a transposed kernel, which is not in the file."""
    u = b.Conv(b.Transpose(planes(b, "x"), perm=[0, 1, 3, 2]), CBAM_KERNEL, pads=[1, 1, 1, 1])
    return b.Mul("x", b.Sigmoid(b.Transpose(u, perm=[0, 1, 3, 2])))


def crossed_coordinates(b):
    """The height's part multiplies the width, which only a square map allows."""
    h = b.ReduceMean("x", axes=[3], keepdims=1)
    w = b.Transpose(b.ReduceMean("x", axes=[2], keepdims=1), perm=[0, 1, 3, 2])
    f = b.Relu(conv1x1(b, b.Concat(h, w, axis=2), CA_REDUCE, CA_BIAS))
    h, w = cut_dynamic(b, f, "x", swapped=False)
    g_w = b.Sigmoid(conv1x1(b, b.Transpose(h, perm=[0, 1, 3, 2]), CA_W, B2))
    return b.Mul(b.Mul("x", b.Sigmoid(conv1x1(b, w, CA_H, B2))), g_w)


def turned_gate(b, logits):
    """The gate of the channels multiplies the height, which only a map of as many rows allows."""
    return b.Mul("x", b.Transpose(b.Sigmoid(logits), perm=[0, 2, 1, 3]))


def other_self_gate(b):
    """exp(u) * sigmoid(u) is no SiLU."""
    u = conv1x1(b, b.GlobalAveragePool("x"), W1, B1)
    return b.Mul("x", b.Sigmoid(conv1x1(b, b.Mul(b.Exp(u), b.Sigmoid(u)), W2, B2)))


NEAR_MISSES = {
    "pool_of_one_axis": lambda b: gate_of(b, b.ReduceMean("x", axes=[3], keepdims=1)),
    "window": lambda b: gate_of(b, b.AveragePool("x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
    "max_pool": lambda b: gate_of(b, b.GlobalMaxPool("x")),
    "other_map": lambda b: gate_of(b, b.GlobalAveragePool("x"), b.Exp("x")),
    "pool_of_other_map": lambda b: gate_of(b, b.GlobalAveragePool(b.Exp("x"))),
    "unknown_gate": unknown_gate,
    "scaled_gate": lambda b: scaled_gate(b, 2.0),
    "wrong_clip": wrong_clip,
    "leaky": leaky,
    "computed_weights": computed_weights,
    "quantised": quantised,
    "scrambled": scrambled,
    "two_perceptrons": two_perceptrons,
    "two_means": two_means,
    "eca_stride": lambda b: eca_of(b, kernel=weights(1, 1, 2), pads=[1, 0]),
    "eca_shifted": lambda b: eca_of(b, pads=[2, 0]),
    "eca_dilated": lambda b: eca_of(b, pads=[2, 2], dilations=[2]),
    "turned_planes": turned_planes,
    "planes_of_other_map": lambda b: spatial_half(b, b.Exp("x"), source="x"),
    "crossed_coordinates": crossed_coordinates,
    "other_self_gate": other_self_gate,
    "turned_se": lambda b: turned_gate(b, perceptron(b, b.GlobalAveragePool("x"))),
    "turned_cbam": lambda b: turned_gate(
        b, b.Add(perceptron(b, b.GlobalAveragePool("x")), perceptron(b, b.GlobalMaxPool("x")))
    ),
    "added_gate": lambda b: b.Add("x", b.Sigmoid(perceptron(b, b.GlobalAveragePool("x")))),
}


@pytest.mark.parametrize("miss", NEAR_MISSES)
def test_near_misses_are_no_blocks(tmp_path, miss):
    b = Builder()
    y = NEAR_MISSES[miss](b)
    shape = (C, C, H, W) if miss == "scrambled" else ("n", C, "h", "w")
    found = read(b.save(tmp_path / "m.onnx", y, shape))
    assert found.blocks == ()
    assert sum(value.size == W2.size for value in found.tensors.values()) or "eca" in miss or "planes" in miss
    assert miss != "quantised" or found.tensors["quantised"].dtype == np.int8


# Names, several blocks, and what is left


def se_with(b, x, names, bias=True):
    for name, value in zip(names, (W1, B1, W2, B2), strict=True):
        b.weights.setdefault(name, value[:, :, None, None] if value.ndim == 2 else value)
    h = b.Relu(b.Conv(b.GlobalAveragePool(x), names[0], names[1]))
    return b.Mul(x, b.Sigmoid(b.Conv(h, names[2], names[3])))


def keys(prefix):
    return [f"{prefix}{key}" for key in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")]


def test_names(tmp_path):
    b = Builder()
    rest = {"layer2.0.conv1.weight", "conv2d_9.w_0"}
    for name in rest:
        b.const(weights(3), name)
    x = "x"
    prefixes = ("layer1.0.se.", "layer2.0.", "")
    for number, prefix in enumerate(prefixes):
        names = [name if prefix else f"conv2d_{number + i}.w_{i}" for i, name in enumerate(keys(prefix))]
        x = b.Exp(se_with(b, x, names))
    x = b.Exp(se_with(b, x, ["conv5_se_1_w", "conv5_se_1_b", "conv5_se_2_w", "conv5_se_2_b"]))
    x = b.Exp(se_with(b, x, keys(" ../\n|")))
    found = read(b.save(tmp_path / "m.onnx", x))
    # layer2.0 and conv2d hold more than the second and the third block.
    assert [block.name for block in found.blocks] == ["layer1.0.se", "se_1", "se_2", "conv5_se", "se_4"]
    assert set(found.tensors) == rest
    exchange.write(tmp_path / "b.safetensors", found.blocks)
    assert [block.name for block in exchange.read(tmp_path / "b.safetensors")] == [block.name for block in found.blocks]


def test_scopes_of_nodes_name_blocks(tmp_path):
    b = Builder()
    y = se_with(b, "x", ["onnx::Conv_1", "onnx::Conv_2", "onnx::Conv_3", "onnx::Conv_4"])
    for node in b.nodes:
        node.name = f"/layer1/layer1.0/se/{node.output[0]}/{node.op_type}"
    assert only(b.save(tmp_path / "m.onnx", y)).name == "layer1.0.se"


def test_weights_used_twice_are_one_block(tmp_path):
    b = Builder()
    y = se_with(b, b.Exp(se_with(b, "x", keys("se."))), keys("se."))
    assert [block.name for block in read(b.save(tmp_path / "m.onnx", y)).blocks] == ["se"]


def test_functions_are_looked_into(tmp_path):
    b = Builder(18)
    b.nodes.append(onnx.helper.make_node("Half", [b.Relu("x")], ["u"], domain="own"))
    y = se_with(b, "u", keys("se."))
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("own", 1)]
    body = [onnx.helper.make_node("Sigmoid", ["a"], ["s"]), onnx.helper.make_node("Mul", ["a", "s"], ["y"])]
    function = onnx.helper.make_function("own", "Half", ["a"], ["y"], body, opsets[:1])
    path = b.save(tmp_path / "m.onnx", y)
    model = onnx.load(path)
    model.functions.append(function)
    model.opset_import.append(opsets[1])
    onnx.save(model, path)
    assert only(path).name == "se"
    loop = onnx.helper.make_node("Half", ["a"], ["y"], domain="own")
    model.functions[0].node.append(loop)
    onnx.save(model, path)
    with pytest.raises(FormatError, match="the function 'Half', which calls itself"):
        read(path)
    del model.functions[:]
    names = ["Half", *(f"f{level}" for level in range(1, 64))]  # each twice the one before
    for name, inner in itertools.pairwise(names):
        calls = [onnx.helper.make_node(inner, ["a"], [out], domain="own") for out in ("s", "y")]
        model.functions.append(onnx.helper.make_function("own", name, ["a"], ["y"], calls, opsets))
    onnx.save(model, path)
    with pytest.raises(FormatError, match=r"too large once its functions are inlined; expected at most \d+ bytes"):
        read(path)


def test_functions_that_copy_their_weights(tmp_path):
    make, opsets = onnx.helper.make_node, [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
    weights = onnx.numpy_helper.from_array(np.zeros(2**21, np.float32))
    bodies = [[make("Constant", [], ["k"], value=weights), make("Add", ["a", "k"], ["y"])]]
    for level in range(3):  # in both branches twice the one before
        calls = [make(f"f{level}", [x], [y], domain="own") for x, y in (("a", "s"), ("s", "z"))]
        branch = onnx.helper.make_graph(calls, "g", [], [onnx.helper.make_tensor_value_info("z", 1, None)])
        given = make("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.array(True)))
        bodies.append([given, make("If", ["c"], ["y"], then_branch=branch, else_branch=branch)])
    functions = [
        onnx.helper.make_function("own", f"f{level}", ["a"], ["y"], body, opsets) for level, body in enumerate(bodies)
    ]
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [2**21]) for name in ("x", "y"))
    graph = onnx.helper.make_graph([make("f3", ["x"], ["y"], domain="own")], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, functions=functions, opset_imports=opsets), tmp_path / "m.onnx")
    with pytest.raises(FormatError, match="too large once its functions are inlined"):
        read(tmp_path / "m.onnx")


def test_probes(tmp_path):
    b = Builder()
    path = b.save(tmp_path / "m.onnx", se_with(b, "x", keys("se.")))
    (block,) = with_probes(path, {"se": X})
    assert block.probe.source == source() == f"onnxruntime {ort.__version__}"
    assert np.array_equal(block.probe.output, run(path, X))
    with pytest.raises(MissingTensorError, match="holds no block 'other'; expected of 'se'"):
        run_block(path, "other", X)
    with pytest.raises(InputError, match="received an input of shape"):
        run_block(path, "se", X[:, :3])
    with pytest.raises(InputError, match=r"block 'se' does not run on an input of shape .* and dtype float64"):
        run_block(path, "se", X.astype(np.float64))


def test_sizes_of_another_tensor(tmp_path):
    """A block's nodes may take sizes from a tensor before x: from x, where these are the same."""

    def graph(before):
        b = Builder()
        x = before(b)
        u = conv1x1(b, b.Relu(conv1x1(b, b.GlobalAveragePool(x), W1, B1)), W2, B2)
        return b.save(tmp_path / "m.onnx", b.Mul(x, b.Expand(b.Sigmoid(u), b.Shape("x"))))

    path = graph(lambda b: b.Relu("x"))
    judge(path, only(path), np.maximum(X, 0), run(path, X))
    path = graph(lambda b: b.Conv("x", weights(C, C, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]))
    with pytest.raises(DialectError, match="block 'se_0' takes sizes from the graph's input 'x'"):
        run_block(path, "se_0", X)


# Trained models


def models():
    found = importlib.util.find_spec("rapidocr")
    folder = Path(found.submodule_search_locations[0]) / "models" if found else Path()
    return {file.name: str(file) for file in folder.glob("*.onnx")}


def model(part):
    return next((path for name, path in models().items() if part in name), None) or pytest.skip("needs rapidocr")


PADDLE = Gate("hard_sigmoid", slope=0.1666667)


@pytest.mark.parametrize(
    ("part", "gates"), [("det", [PADDLE] * 5 + [FIFTH] * 8), ("rec", [PADDLE] * 5), ("cls", [FIFTH] * 9)]
)
def test_trained_models(part, gates):
    path = model(f"_{part}_")
    found = read(path)
    assert [block.spec.gate for block in found.blocks] == gates
    assert {block.spec.block for block in found.blocks} == {"se"}
    inputs = {block.name: weights(2, block.spec.channels, 6, 9) for block in found.blocks}
    for block in with_probes(path, inputs):
        expected = oracle.evaluate(block.spec, block.tensors, block.probe.x)
        (result,) = compare(expected, {"output": block.probe.output}, dtype="float32", device="cpu")
        assert not result.failure, (block.name, result.failure)


def test_trained_weights_are_the_recorded_ones():
    recorded, _ = exchange.read_tensors(golden.path("real-ppocr-cls"))
    blocks = read(model("_cls_")).blocks
    assert [block.name for block in blocks] == [f"conv{number}_se" for number in (2, *range(5, 13))]
    for number, block in enumerate(blocks):
        for name, value in block.tensors.items():
            own = recorded[f"block{number:02d}/{name.replace('kernel', 'weight')}"]
            assert np.array_equal(value, own.reshape(value.shape)), (block.name, name)
        x = np.asarray(recorded[f"block{number:02d}/input"])
        assert np.array_equal(run_block(model("_cls_"), block.name, x), recorded[f"block{number:02d}/output"])


# Exports


def randomised(module, seed=0):
    """The module in inference mode, with weights and statistics that all matter."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.dtype.is_floating_point:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.5)
            if name.endswith(("running_var", "bn.weight", "norm.weight")):
                value.abs_().add_(0.5)
    return module.eval()


def exported(module, x, path, dynamo, dynamic=True):
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")
    axes = {0: "n"} | {axis: f"s{axis}" for axis in range(2, x.ndim)} if dynamic else {}
    how = {"dynamic_axes": {"x": axes}, "input_names": ["x"]}
    if dynamo:
        how = {"dynamic_shapes": (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),), "verbose": False}
    torch.onnx.export(module, (torch.tensor(x),), str(path), dynamo=dynamo, **how)
    return str(path)


def ours(name, *arguments, **options):
    return lambda: getattr(pytest.importorskip("attention_torch"), name)(*arguments, **options)


SE, CBAM, ECA, CA = "SqueezeExcitation", "CBAM", "ECA", "CoordinateAttention"
EXPORTS = {
    "se": ours(SE, 24, reduction=4, gate="hard_sigmoid", activation="silu"),
    "se_fifth": ours(SE, 24, hidden_channels=5, bias=False, gate=FIFTH, activation="hard_swish"),
    "cbam": ours(CBAM, 24, reduction=4, residual=True),
    "cbam_other": ours(CBAM, 24, channel_merge="concat", spatial_features="full", spatial_source="input"),
    "eca": ours(ECA, 24),
    "eca_circular": ours(ECA, 24, padding="circular", kernel_size=5, bias=True),
    "ca": ours(CA, 24),
    "ca_1d": ours(CA, 24, spatial_dims=1, norm=None, residual=True, gate="hard_sigmoid"),
}
MORE_EXPORTS = {
    "se_1d": ours(SE, 24, spatial_dims=1, activation="identity"),
    "se_3d": ours(SE, 24, spatial_dims=3, gate="identity"),
    "cbam_channel": ours(CBAM, 24, reduction=4, parts="channel", mlp_bias=False, gate=FIFTH),
    "cbam_spatial": ours(CBAM, 24, parts="spatial", spatial_norm=None, spatial_bias=True),
    "cbam_3d": ours(CBAM, 24, spatial_dims=3, kernel_size=3),
    "cbam_1d": ours(CBAM, 24, spatial_dims=1, spatial_bias=True),
    "eca_3d": ours(ECA, 24, spatial_dims=3, gate=FIFTH),
    "ca_3d": ours(CA, 24, spatial_dims=3, activation="relu", head_bias=False, bias=False),
}


def check_export(make, path, dynamo, dynamic=True):
    module = randomised(make())
    x = weights(3, 24, *(9, 8, 7)[: module.spec.spatial_dims])
    exported(module, x, path, dynamo, dynamic)
    block = only(str(path))
    spec = module.spec.to_json()
    folded = spec.get("spatial_norm") is not None and block.spec.to_json()["spatial_norm"] is None
    spec |= {"spatial_norm": None, "spatial_bias": True} if folded else {}
    assert block.spec.to_json() == spec
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    leaves = {"weight": "scale", "bias": "offset", "running_mean": "mean", "running_var": "variance"}
    for key, value in state.items():
        layer, _, leaf = key.rpartition(".")
        leaf = leaves.get(leaf) if layer.endswith("norm") else {"weight": "kernel", "bias": "bias"}[leaf]
        name = f"{layer}.{leaf}"
        if leaf and name in block.tensors and not (folded and layer.startswith("spatial")):
            assert np.array_equal(block.tensors[name], value), name
    if dynamic:
        x = weights(2, 24, *(6, 11, 4)[: module.spec.spatial_dims], seed=9)  # of another size than the example
    judge(str(path), block, x)


@pytest.mark.parametrize("name", ["se", "cbam", "eca_circular", "ca"])
def test_exports(tmp_path, name):
    check_export(EXPORTS[name], tmp_path / "m.onnx", dynamo=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXPORTS)
def test_exports_of_the_older_exporter(tmp_path, name):
    check_export(EXPORTS[name], tmp_path / "m.onnx", dynamo=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "older"])
@pytest.mark.parametrize("name", [*EXPORTS, *MORE_EXPORTS])
def test_more_exports(tmp_path, name, dynamo):
    check_export((EXPORTS | MORE_EXPORTS)[name], tmp_path / "m.onnx", dynamo, dynamic=False)
    if dynamo or name in MORE_EXPORTS:
        check_export((EXPORTS | MORE_EXPORTS)[name], tmp_path / "n.onnx", dynamo)


TIMM = {
    "squeeze_excite.SEModule": ("se", {"rd_ratio": 0.25}),
    "squeeze_excite.SqueezeExcite": ("se", {"rd_ratio": 0.25, "gate_layer": "hard_sigmoid"}),
    "eca.EcaModule": ("eca", {"kernel_size": 3}),
    "eca.CecaModule": ("eca", {"kernel_size": 3}),
    "cbam.CbamModule": ("cbam", {}),
    "coord_attn.CoordAttn": ("ca", {}),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "older"])
@pytest.mark.parametrize("name", TIMM)
def test_exports_of_timm(tmp_path, name, dynamo):
    kind, options = TIMM[name]
    file, _, class_name = name.partition(".")
    module = randomised(getattr(import_timm(f"timm.layers.{file}"), class_name)(24, **options))
    x = weights(3, 24, 9, 8)
    path = exported(module, x, tmp_path / "m.onnx", dynamo, dynamic=kind != "ca")
    block = only(path)
    assert block.spec.block == kind
    judge(path, block, x)


# Bad files


def small(path, **more):
    b = Builder()
    return b.save(path, se_with(b, "x", keys("se.")), **more)


def changed(path, change):
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return str(path)


def duplicate(model):
    model.graph.initializer.append(model.graph.initializer[0])


def turn_around(model):
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def loop(model):
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def set_first(**fields):
    def change(model):
        for name, value in fields.items():
            if name == "dims":
                del model.graph.initializer[0].dims[:]
                model.graph.initializer[0].dims.extend(value)
            else:
                setattr(model.graph.initializer[0], name, value)

    return change


BAD = {
    "lost_weight": (
        lambda model: model.graph.initializer.pop(),
        r"node 3 \(Conv 't4'\) uses 'se.fc2.bias', which noth",
    ),
    "cycle": (loop, r"node 0 \(GlobalAveragePool 't1'\) uses 't6', which nothing before it makes"),
    "order": (turn_around, "which nothing before it makes; expected nodes in the order of their data"),
    "twice": (duplicate, "two initializers named 'se.fc1.weight'"),
    "short": (set_first(raw_data=b"1234"), "a damaged tensor 'se.fc1.weight': 4 bytes for the shape"),
    "negative": (set_first(dims=[-1, 2]), r"a damaged tensor 'se.fc1.weight': the shape \(-1, 2\)"),
    "huge": (set_first(dims=[2**40, 2**40]), r"a damaged tensor 'se.fc1.weight'"),
    "kind": (set_first(data_type=77), r"a damaged tensor 'se.fc1.weight'"),
    "no_graph": (lambda model: model.ClearField("graph"), "holds no ONNX graph"),
    "no_version": (lambda model: model.ClearField("opset_import"), "holds no ONNX graph with a version"),
    "output_twice": (lambda model: model.graph.node.append(model.graph.node[0]), "makes 't1' again"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_graphs(tmp_path, fault):
    path = tmp_path / "m.onnx"
    small(path)
    change, message = BAD[fault]
    with pytest.raises(FormatError, match=message):
        read(changed(path, change))


def test_damaged_bytes(tmp_path):
    """Whatever is cut or changed: the blocks, or a ParityError."""
    path = tmp_path / "m.onnx"
    whole = Path(small(path)).read_bytes()
    rng = np.random.default_rng(0)
    for length in rng.integers(0, len(whole), 60):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            read(str(path))
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            outcomes.add(len(read(str(path)).blocks))
        except ParityError:
            outcomes.add("refused")
    assert outcomes >= {0, 1, "refused"}
    for text in (b"", b"\0" * 64, b"not protobuf", b"PK\x03\x04"):
        path.write_bytes(text)
        with pytest.raises(FormatError):
            read(str(path))
    with pytest.raises(FormatError, match="cannot be read as an ONNX file"):
        read(str(tmp_path / "absent.onnx"))


def external(path, location="weights.bin", **entries):
    def change(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)

    return changed(path, change)


def test_external_data(tmp_path):
    path = tmp_path / "m.onnx"
    small(path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 16 + W1.tobytes())
    found = only(external(path, offset=16, length=W1.nbytes))
    assert np.array_equal(found.tensors["fc1.kernel"], W1)
    assert not found.tensors["fc1.kernel"].flags.writeable
    judge_path = str(path)
    expected = oracle.evaluate(found.spec, found.tensors, X)
    (result,) = compare(expected, {"output": run_block(judge_path, "se", X)}, dtype="float32", device="cpu")
    assert not result.failure


@pytest.mark.parametrize(
    ("location", "entries"),
    [
        ("../weights.bin", {}),
        ("/etc/hostname", {}),
        ("sub/weights.bin", {}),
        ("..", {}),
        ("", {}),
        ("c:weights.bin", {}),
        ("link.bin", {}),
        ("absent.bin", {}),
        ("weights.bin", {"offset": 1 << 60}),
        ("weights.bin", {"offset": -4}),
        ("weights.bin", {"offset": 16, "length": 4}),
        ("weights.bin", {"offset": "many"}),
        ("weights.bin", {"offset": 24}),
    ],
)
def test_external_data_stays_inside(tmp_path, location, entries):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "sub"):
        (place / "weights.bin").write_bytes(b"\0" * 16 + W1.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    path = folder / "m.onnx"
    small(path)
    with pytest.raises(FormatError, match=r"keeps 'se.fc1.weight' in|has a damaged tensor 'se.fc1.weight'"):
        read(external(path, location, **entries))


def test_long_and_deep_graphs(tmp_path):
    """A chain of 7,000 products and layers: one pass, no recursion."""
    b = Builder()
    x = "x"
    b.const(np.eye(C)[:, :, None, None], "eye")
    for number in range(2000):
        x = b.Mul(x, b.Sigmoid(b.Conv(b.Relu(b.Conv(x, "eye")), "eye"))) if number % 2 else b.Add(x, b.Mul(x, x))
    path = b.save(tmp_path / "m.onnx", x)
    assert read(path).blocks == ()


def test_missing_libraries(tmp_path, monkeypatch):
    path = small(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert only(path).name == "se"
    with pytest.raises(BackendMissingError, match=r"pip install 'attention-parity\[onnx\]'"):
        run_block(path, "se", X)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'attention-parity\[onnx\]'"):
        read(path)
