"""Attention pooling along every axis of every rank: the matrix has the first and the last."""

import numpy as np
import pytest

from parity import cases, client, oracle, run
from parity.backends import BACKENDS
from parity.block import Block
from parity.compare import compare
from parity.errors import InputError, SpecError
from parity.spec import AXIS_NAMES, DATA_FORMATS, AttentionPoolingOptions

SIZES = {1: (7,), 2: (5, 7), 3: (3, 5, 7)}
EVERY = [(rank, axis) for rank, names in AXIS_NAMES.items() for axis in names]


def problem(rank, axis, data_format):
    rng = np.random.default_rng([rank, ord(axis)])
    spec = AttentionPoolingOptions(axis=axis).resolve(6, rank)
    block = Block("block", spec, {name: rng.normal(size=shape) for name, shape in spec.parameters().items()})
    x = rng.normal(size=(2, 6, *SIZES[rank]))
    x = np.ascontiguousarray(np.moveaxis(x, 1, -1) if data_format == "channels_last" else x)
    return block, x, rng.normal(size=spec.output_shape(x.shape, data_format))


def by_definition(block, x, axis):
    """Position by position along `axis`, channels first."""
    kernel, bias = block.tensors["score.kernel"][0], block.tensors["score.bias"][0]
    slices = [x.take(place, axis) for place in range(x.shape[axis])]
    weights = [np.exp(np.tensordot(kernel, part, (0, 1)) + bias)[:, None] for part in slices]
    return sum(weight * part for weight, part in zip(weights, slices, strict=True)) / sum(weights)


@pytest.mark.parametrize(("rank", "axis"), EVERY)
def test_the_oracle_is_the_definition(rank, axis):
    block, x, _ = problem(rank, axis, "channels_first")
    output = oracle.evaluate(block.spec, block.tensors, x)["output"]
    got = by_definition(block, x, 2 + AXIS_NAMES[rank].index(axis))
    (result,) = compare({"output": output}, {"output": got}, dtype="float64", device="cpu")
    assert not result.failure


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_axis_on_every_backend(backend):
    if BACKENDS[backend].missing():
        pytest.skip(f"{BACKENDS[backend].missing()} not installed")
    for (rank, axis), data_format in [(one, data_format) for one in EVERY for data_format in DATA_FORMATS]:
        block, x, cotangent = problem(rank, axis, data_format)
        expected = oracle.evaluate(block.spec, block.tensors, x, cotangent=cotangent, data_format=data_format)
        got = client.evaluate(block, x, backend=backend, cotangent=cotangent, data_format=data_format)
        results = compare(expected, {name: got[name] for name in expected}, dtype="float64", device="cpu")
        assert not any(result.failure for result in results), (rank, axis, data_format)


def test_half_precision_survives_the_export_to_onnx():
    """PyTorch's exporter leaves in float32 what it sums in half precision."""
    for module in ("torch", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    outcome = run.attempt(cases.find("attention_pooling-default-2d-odd-first-float16-eval-onnx"), "torch")
    assert outcome.agreed, outcome.explain()


def test_a_rank_without_the_axis_says_which_it_has():
    with pytest.raises(SpecError, match="received axis='d' with spatial_dims=2; expected one of 'h', 'w'"):
        AttentionPoolingOptions(axis="d").resolve(6, 2)
    with pytest.raises(SpecError, match="received axis='x'; expected one of 'd', 'h', 'w'"):
        AttentionPoolingOptions(axis="x")


def test_a_cotangent_has_the_shape_of_the_output():
    block, x, cotangent = problem(3, "h", "channels_first")
    assert cotangent.shape == (2, 6, 3, 7)
    with pytest.raises(InputError, match="the output's shape"):
        oracle.evaluate(block.spec, block.tensors, x, cotangent=x)
