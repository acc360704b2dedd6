"""Half precision and mixed precision, comparisons that rounding may turn, numbers that are none, the ends of the range,
and nothing at all.
"""

import functools
import itertools
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import parity
from parity import cases, oracle
from parity.backends import BACKENDS
from parity.block import Block
from parity.compare import compare
from parity.errors import InputError, ParityError
from parity.oracle import Measured
from parity.spec import SPECS, CBAMOptions, Gate, is_statistic
from parity.tolerances import HALF_DTYPES, HALF_MARGIN, PRECISIONS, TABLE, by_norm_tolerance, tolerance

EVERY_BACKEND = [pytest.param(name, marks=[] if name == "torch" else pytest.mark.slow) for name in BACKENDS]
HALF_FLOATS = ("float16", "bfloat16")


@pytest.fixture
def backend(request):
    missing = BACKENDS[request.param].missing()
    if missing:
        pytest.skip(f"{missing} not installed")
    return request.param


every_backend = pytest.mark.parametrize("backend", EVERY_BACKEND, indirect=True)


def block_of(name, variant="default", channels=12, dtype="float32", scales=()):
    """A block with drawn weights that `dtype` holds; `scales` multiplies the named ones."""
    spec = cases.OPTIONS[name][variant].resolve(channels, 2)
    rng = np.random.default_rng(7)
    tensors = {key: cases._weight(key, extent, rng) for key, extent in spec.parameters().items()}
    tensors |= {key: tensors[key] * scale for key, scale in dict(scales).items()}
    return Block(name, spec, {key: rounded(value, dtype) for key, value in tensors.items()})


def rounded(value, dtype):
    return np.asarray(value).astype(PRECISIONS[dtype].compute).astype(np.float64)


def feature_map(*size, dtype="float32", seed=8):
    return rounded(cases._feature_map(size, "regular", np.random.default_rng(seed)), dtype)


def taken(measured, index):
    return Measured(measured.value[index], measured.magnitude[index], measured.margin)


def failures(expected, got, dtype, **options):
    return [found.failure for found in compare(expected, got, dtype=dtype, device="cpu", **options) if found.failure]


def case_of(block, dtype, training=True):
    return next(
        c for c in cases.half() if (c.block, c.variant, c.dtype, c.training) == (block, "default", dtype, training)
    )


# What is judged, and how


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_the_oracle_is_fed_the_rounded_numbers(dtype):
    case = case_of("cbam", dtype)
    problem, precision = case.problem(), PRECISIONS[dtype]
    assert str(problem.x.dtype) == str(problem.cotangent.dtype) == precision.compute
    for value in problem.block.tensors.values():
        assert str(value.dtype) == precision.variables
        assert np.array_equal(value, value.astype(precision.compute).astype(value.dtype))
    again = oracle.evaluate(case.spec, problem.block.tensors, problem.x, training=True, data_format=case.data_format)[
        "output"
    ]
    assert np.array_equal(again.value, problem.expected["output"].value)


def test_gradients_of_half_precision_are_decided_or_judged_by_their_norm():
    chosen = [case for case in cases.half() if case.shape == "odd" and case.spatial_dims == 2]
    problems = {case.id: (case, case.problem()) for case in chosen}
    for case, problem in problems.values():
        margin = min(value.margin for value in problem.expected.values())
        assert problem.by_norm == (margin <= HALF_MARGIN * case.precision.epsilon), case.id
    # The maximum of two maps compares at each position: no map of any size is clear of turning points.
    by_norm = {
        (case.block, case.variant)
        for case, problem in problems.values()
        if problem.by_norm and case.spec.arguments().get("merge") != "max"
    }
    assert not any(variant == "default" for _, variant in by_norm)
    assert len(by_norm) < 4


def test_every_device_has_its_rows_in_every_dtype():
    rows = ("output", "input gradient", "parameter gradient", "gradient by norm", "statistic", "step")
    devices = {device for _, dtype, device in TABLE if dtype == "float32"}
    for row, dtype, device in itertools.product(rows, HALF_DTYPES, devices):
        assert TABLE[row, dtype, device].tolerance < 1, (row, dtype, device)


def test_what_rounding_turned_is_forgiven_by_norm_and_nothing_else():
    value = np.random.default_rng(0).normal(size=1000)
    expected = {name: Measured(value, np.abs(value)) for name in ("output", "grad.input", "grad.fc1.kernel")}
    got = {name: value.astype(ml_dtypes.bfloat16) for name in expected}
    for array in got.values():
        array[17] += 2.0  # one element's comparison went the other way
    assert len(failures(expected, got, "bfloat16")) == 3
    assert len(failures(expected, got, "bfloat16", by_norm=True)) == 1
    off = (1 + 1.1 * by_norm_tolerance("bfloat16", "cpu")) * value
    for wrong in (off, np.where(np.arange(1000) == 3, np.nan, value)):
        got = {"grad.input": wrong.astype(ml_dtypes.bfloat16)}
        (found,) = compare({"grad.input": expected["grad.input"]}, got, dtype="bfloat16", device="cpu", by_norm=True)
        assert found.by_norm
        assert "in the L2 norm" in found.failure


def test_by_norm_a_gradient_that_is_zero_by_theory_is_judged_by_what_cancelled():
    zero = {"grad.fc1.bias": Measured(np.zeros(4), np.full(4, 100.0))}
    assert not failures(zero, {"grad.fc1.bias": np.full(4, 0.5, np.float16)}, "float16", by_norm=True)
    assert failures(zero, {"grad.fc1.bias": np.full(4, 50.0, np.float16)}, "float16", by_norm=True)


def test_what_is_flushed_to_zero_agrees_and_no_more():
    for dtype in PRECISIONS:
        precision = PRECISIONS[dtype]
        lost = {"output": Measured(np.array([0.99 * precision.floor]), np.array([0.99 * precision.floor]))}
        kept = {"output": Measured(np.array([1.5 * precision.floor]), np.array([1.5 * precision.floor]))}
        flushed = {"output": np.zeros(1).astype(precision.compute)}
        assert not failures(lost, flushed, dtype)
        assert failures(kept, flushed, dtype)


def test_float16_is_flushed_by_none_and_judged_below_its_smallest_normal_number():
    small = {"output": Measured(np.array([2.0**-13]), np.array([2.0**-13]))}
    assert not failures(small, {"output": np.array([2.0**-13 + 2.0**-24], np.float16)}, "float16")
    assert failures(small, {"output": np.array([2.0**-13 + 2.0**-15], np.float16)}, "float16")


def mistakes(block, problem, case):
    """What the oracle makes of weights and specs that are wrong in a way that porters are."""
    spec, tensors = case.spec, dict(problem.block.tensors)
    kernels = [name for name in tensors if name.endswith("kernel")]
    wrong = {}
    if "gate" in spec.arguments():
        other = Gate("sigmoid" if spec.gate.kind == "hard_sigmoid" else "hard_sigmoid")
        wrong["another gate"] = (replace(spec, gate=other), tensors)
    for name in kernels:
        wrong[f"{name} reversed"] = (spec, tensors | {name: np.flip(tensors[name]).copy()})
        element = tensors[name].copy()
        element[np.unravel_index(np.abs(element).argmax(), element.shape)] *= -1
        wrong[f"one element of {name} negated"] = (spec, tensors | {name: element})
    for name in (name for name in tensors if name.endswith("bias") and name not in spec.inert(case.training)):
        wrong[f"no {name}"] = (spec, tensors | {name: np.zeros_like(tensors[name])})
    if block == "cbam":
        planes = tensors["spatial.conv.kernel"][:, ::-1].copy()
        wrong["swapped planes"] = (spec, tensors | {"spatial.conv.kernel": planes})
        wrong["update rate"] = (replace(spec, spatial_norm=replace(spec.spatial_norm, update_rate=0.9)), tensors)
    if block == "ca" and case.spatial_dims > 1:
        heads = {
            f"expand.{a}.{leaf}": tensors[f"expand.{b}.{leaf}"] for a, b in ("hw", "wh") for leaf in ("kernel", "bias")
        }
        wrong["swapped heads"] = (spec, tensors | heads)
    if block == "ca":
        wrong["update rate"] = (replace(spec, norm=replace(spec.norm, update_rate=0.9)), tensors)
    return wrong


@pytest.mark.parametrize("dtype", HALF_DTYPES)
@pytest.mark.parametrize("block", SPECS)
def test_mistakes_are_seen_through_half_precision(block, dtype):
    """The tolerances leave room for rounding, not for a mistake."""
    unseen = None
    for case in (c for c in cases.half() if (c.block, c.variant, c.shape, c.dtype) == (block, "default", "odd", dtype)):
        problem = case.problem()
        assert not seen(case, problem, case.spec, problem.block.tensors), case.id
        wrong = mistakes(block, problem, case)
        missed = {name for name, mistake in wrong.items() if not seen(case, problem, *mistake)}
        unseen = missed if unseen is None else unseen & missed
    assert not unseen


def seen(case, problem, spec, tensors):
    """What differs between the problem and what these weights give, rounded to the dtypes of the case."""
    results = oracle.evaluate(
        spec,
        tensors,
        problem.x,
        cotangent=problem.cotangent,
        training=case.training,
        data_format=case.data_format,
        steps=problem.steps,
        learning_rate=problem.learning_rate,
    )
    got = {name: value.value.astype(case.precision.dtype_of(name)) for name, value in results.items()}
    return failures(problem.expected, got, case.dtype, by_norm=problem.by_norm)


# What the backends make of it


@functools.cache
def flat():
    """A map whose sums leave float16, and what each block makes of it."""
    x = np.full((1, 3, 512, 512), 200.0, np.float16)
    variants = {"cbam": "kernel3"}  # the oracle takes its time over larger ones
    # Where each position attends to each other, a map of this size would be 69 billion scores.
    names = [name for name in SPECS if not SPECS[name].quadratic]
    blocks = [block_of(name, variants.get(name, "default"), channels=3, dtype="float16") for name in names]
    return x, [(block, oracle.evaluate(block.spec, block.tensors, x)) for block in blocks]


@every_backend
def test_half_precision_statistics_never_overflow(backend):
    x, judged = flat()
    for block, expected in judged:
        got = parity.evaluate(block, x, backend=backend, dtype="float16")
        assert np.isfinite(got["output"].astype(np.float64)).all(), block.name
        assert not failures(expected, got, "float16"), block.name


@every_backend
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_in_half_and_keeps_weights_in_float32(backend, dtype):
    block, x = block_of("cbam", dtype=dtype), feature_map(2, 12, 5, 7, dtype=dtype)
    options = {
        "backend": backend,
        "cotangent": x,
        "training": True,
        "dtype": dtype,
        "steps": 1,
        "learning_rate": 2.0**-10,
    }
    if backend == "tf1compat":
        with pytest.raises(ParityError, match="raw TensorFlow mixes dtypes by a rewriter of whole graphs"):
            parity.evaluate(block, x, **options)
        return
    for name, value in parity.evaluate(block, x, **options).items():
        assert str(value.dtype) == PRECISIONS[dtype].dtype_of(name), name
        assert not np.array_equal(value, np.zeros_like(value)), name


BAD = (np.nan, np.inf, -np.inf)
PLACES = ((0, 0, 0), (5, 3, 4), (11, 6, 8))
NONFINITE = {
    "se": ("default", "hard-swish", "silu", "linear"),
    "cbam": ("default", "concat", "hard-sigmoid", "spatial"),
    "eca": ("default", "circular", "hard-sigmoid-0.2"),
    "ca": ("default", "relu", "hard-sigmoid"),
}


@functools.cache
def spoiled(block, variant, dtype):
    """Samples with one number that is none, each at one of several places, between two that are clean."""
    made = block_of(block, variant, dtype=dtype)
    x = feature_map(len(BAD) * len(PLACES) + 2, 12, 7, 9, dtype=dtype, seed=1)
    cotangent = feature_map(*made.spec.output_shape(x.shape, "channels_first"), dtype=dtype, seed=2)
    for sample, (bad, place) in enumerate(itertools.product(BAD, PLACES), 1):
        x[sample, *place] = bad
    with np.errstate(all="ignore"):
        return made, x, cotangent, oracle.evaluate(made.spec, made.tensors, x, cotangent=cotangent)


def test_the_oracle_spoils_what_hangs_on_the_bad_number_and_nothing_else():
    """The rule, as masks: what the gate of each block sees of one bad number."""
    masks = {}
    for block in SPECS:
        _, _, _, expected = spoiled(block, "default", "float32")
        lost = np.isnan(expected["output"].value)
        assert not lost[[0, -1]].any(), block
        masks[block] = lost[2]  # NaN at channel 5, row 3, column 4
    assert masks["se"].all()
    assert masks["cbam"].all()
    assert np.array_equal(masks["eca"].any(axis=(1, 2)), np.isin(np.arange(12), (4, 5, 6)))
    assert masks["eca"][4:7].all()
    cross = np.zeros((7, 9), bool)
    cross[3], cross[:, 4] = True, True
    assert np.array_equal(masks["ca"], np.broadcast_to(cross, (12, 7, 9)))


@every_backend
@pytest.mark.parametrize("block", SPECS)
def test_a_number_that_is_none_spoils_its_sample_alone(backend, block):
    for number, variant in enumerate(NONFINITE.get(block, ("default",))):
        dtype = "float16" if number == 1 else "float32"
        made, x, cotangent, expected = spoiled(block, variant, dtype)
        got = parity.evaluate(made, x, backend=backend, cotangent=cotangent, dtype=dtype)
        clean = [0, -1]
        seen = {"output": expected["output"], "grad.input": taken(expected["grad.input"], clean)}
        given = {"output": got["output"], "grad.input": got["grad.input"][clean]}
        assert not failures(seen, given, dtype), variant


@every_backend
@pytest.mark.parametrize("block", [name for name in SPECS if "norm" in str(cases.OPTIONS[name]["default"])])
def test_in_training_a_norm_hands_a_bad_number_to_every_sample(backend, block):
    made, x = block_of(block), feature_map(3, 12, 7, 9)
    x[1, 5, 3, 4] = np.nan
    expected = oracle.evaluate(made.spec, made.tensors, x, training=True)
    got = parity.evaluate(made, x, backend=backend, dtype="float32", training=True)
    assert not failures(expected, got, "float32")
    statistics = {name: value for name, value in got.items() if is_statistic(name)}
    assert len(statistics) == 2
    assert all(np.isnan(value).all() for value in statistics.values())
    assert np.isnan(got["output"]).any(axis=(1, 2, 3)).all()


# The factor of the large numbers, and of the weights that make them reasonable again.
ENDS = {"float32": (1e30, 1e-30, 2.0**-126), "float16": (2.0**15, 2.0**-12, 2.0**-14)}
FIRST = (
    *("fc.kernel", "fc1.kernel", "channel.fc1.kernel", "spatial.fc.kernel", "score.kernel"),
    *("spatial.conv.kernel", "conv.kernel", "reduce.kernel"),
    *("attention.query.kernel", "attention.key.kernel", "attention.value.kernel"),
)
# Blocks whose output is a sum of products of x (TensorFlow's maximum of two maps is one, too).
SUMS = ("scse", "attention_pooling")


@functools.cache
def ends(block, dtype):
    """Four samples: zeros, the smallest normal numbers, some near the largest, and subnormal ones."""
    large, small, normal = ENDS[dtype]
    names = cases.OPTIONS[block]["default"].resolve(12, 2).parameters()
    made = block_of(block, dtype=dtype, scales=[(name, small) for name in FIRST if name in names])
    x = feature_map(4, 12, 5, 7)
    factor = 1 + np.random.default_rng(3).random(x.shape) * 0.9
    # Where products of x are added up, each of them is flushed by itself: these begin higher.
    least = normal * (2.0**12 if block in SUMS else 1)
    x = np.stack([0 * x[0], np.sign(x[1]) * factor[1] * least, np.sign(x[2]) * factor[2] * large, 0.3 * normal * x[3]])
    x = rounded(x, dtype)
    return made, x, oracle.evaluate(made.spec, made.tensors, x)


@every_backend
@pytest.mark.parametrize("dtype", ENDS)
def test_the_ends_of_the_range(backend, dtype):
    for block in SPECS:
        made, x, expected = ends(block, dtype)
        got = parity.evaluate(made, x, backend=backend, dtype=dtype)
        if not expected["output"].value[0].any():  # of blocks that only weigh x, zeros stay zeros
            assert not got["output"][0].any(), block
        for sample in range(4):  # each at its own scale
            seen = {"output": taken(expected["output"], [sample])}
            assert not failures(seen, {"output": got["output"][[sample]]}, dtype), (block, sample)


@every_backend
@pytest.mark.parametrize("block", SPECS)
def test_an_empty_batch_comes_out_empty_or_is_refused_by_a_norm_in_training(backend, block):
    made, x = block_of(block), np.zeros((0, 12, 5, 7))
    cotangent = np.zeros(made.spec.output_shape(x.shape, "channels_first"))
    has_norm = any(is_statistic(name) for name in made.tensors)
    for training in (False, True):
        options = {"backend": backend, "cotangent": cotangent, "training": training, "dtype": "float32"}
        if training and has_norm:
            with pytest.raises(InputError, match="received no value per channel for a batch norm in training mode"):
                parity.evaluate(made, x, **options)
            continue
        got = parity.evaluate(made, x, **options)
        expected = oracle.evaluate(made.spec, made.tensors, x, cotangent=cotangent, training=training)
        assert not failures(expected, got, "float32")
        assert got["output"].shape == cotangent.shape
        assert not any(got[f"grad.{name}"].any() for name in made.tensors if not is_statistic(name))


@functools.cache
def tied(dtype):
    """A rectified map of 10,000 tied zeros in a channel, more than half precision counts one by one. Only the first
    channel is nonzero, and only there anything is asked of the output: the others get what the pools hand back.
    """
    spec = CBAMOptions(parts="channel", hidden_channels=4, activation="silu").resolve(3, 2)
    rng = np.random.default_rng(7)
    tensors = {name: rounded(cases._weight(name, size, rng), dtype) for name, size in spec.parameters().items()}
    x, cotangent = np.zeros((1, 100, 100, 3)), np.zeros((1, 100, 100, 3))
    x[0, 5, 6, 0], cotangent[0, 5, 6, 0] = 1.0, 64.0
    expected = oracle.evaluate(spec, tensors, x, cotangent=cotangent, data_format="channels_last")
    return Block("cbam", spec, tensors), x, cotangent, expected


@every_backend
@pytest.mark.parametrize("dtype", HALF_FLOATS)
def test_thousands_of_ties_share_the_gradient_evenly(backend, dtype):
    made, x, cotangent, expected = tied(dtype)
    options = {"backend": backend, "dtype": dtype, "data_format": "channels_last"}
    got = parity.evaluate(made, x, cotangent=cotangent, **options)
    others = (..., slice(1, None))
    assert taken(expected["grad.input"], others).value.all()
    assert not failures(
        {"grad.input": taken(expected["grad.input"], others)}, {"grad.input": got["grad.input"][others]}, dtype
    )


@functools.cache
def long_sum(dtype):
    made = block_of("se", dtype=dtype)
    x, cotangent = feature_map(2, 12, 64, 96, dtype=dtype), feature_map(2, 12, 64, 96, dtype=dtype, seed=9) / 2**12
    cotangent = rounded(cotangent, dtype)
    return made, x, cotangent, oracle.evaluate(made.spec, made.tensors, x, cotangent=cotangent)


@every_backend
@pytest.mark.parametrize("dtype", HALF_FLOATS)
def test_the_gradient_of_a_gate_is_not_added_up_in_half_precision(backend, dtype):
    made, x, cotangent, expected = long_sum(dtype)
    got = parity.evaluate(made, x, backend=backend, cotangent=cotangent, dtype=dtype)
    for name in ("grad.fc2.bias", "grad.fc2.kernel"):
        assert not failures({name: expected[name]}, {name: got[name]}, dtype), name


def test_an_unknown_dtype_is_refused():
    with pytest.raises(InputError, match="received dtype 'float8'; expected one of float64, float32, bfloat16"):
        parity.evaluate(block_of("se"), np.ones((1, 12, 2, 3)), dtype="float8")


@pytest.mark.parametrize("source", ["pooled", "full"])
def test_conv3d_of_a_channels_last_map_in_bfloat16_has_a_gradient(source):
    """PyTorch's own, of a channels-last map on the CPU, is memory that was never written."""
    torch = pytest.importorskip("torch")
    from attention_torch import CBAM

    torch.manual_seed(0)
    x = torch.randn(2, 12, 3, 5, 7).bfloat16().to(memory_format=torch.channels_last_3d)
    module = CBAM(12, reduction=4, spatial_dims=3, spatial_features=source, spatial_norm=None, dtype=torch.bfloat16)
    y = module(x)
    y.backward(torch.ones_like(y))
    got = module.spatial.conv.weight.grad.double().numpy()
    (block,) = parity.blocks_of(module)
    exact = oracle.evaluate(block.spec, block.tensors, x.double().numpy(), cotangent=np.ones(tuple(x.shape)))
    expected = exact["grad.spatial.conv.kernel"]
    assert (
        np.abs(got - expected.value).max()
        <= tolerance("grad.spatial.conv.kernel", "bfloat16", "cpu") * expected.magnitude.max()
    )
