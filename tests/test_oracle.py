"""The judge is judged: its gradients against central differences, its magnitudes against what they promise."""

from dataclasses import replace

import numpy as np
import pytest

from parity import cases, oracle
from parity.compare import compare
from parity.oracle._measured import contract, given, join
from parity.oracle._tape import Taped, gradients_of
from parity.spec import SPECS, BatchNorm, CBAMOptions, InputError, SCSEOptions, SqueezeExcitationOptions, is_statistic

EVERY = [(block, name) for block, variants in cases.OPTIONS.items() for name in variants]
STEP = 2.0**-17  # the cube root of epsilon: where rounding and curvature of a central difference balance


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("block", "variant"), EVERY)
def test_gradient_is_the_central_difference(block, variant, dims, training):
    case = cases.Case(block, variant, dims, "odd", "channels_first", "float64", training)
    if min(value.margin for value in case.problem().expected.values()) < 4 * STEP:  # a step could turn a comparison
        case = replace(case, dtype="float32")
    problem = case.problem()
    rng = np.random.default_rng(7)
    point = {"input": problem.x} | {n: v for n, v in problem.block.tensors.items() if not is_statistic(n)}
    for name, value in point.items():
        direction = rng.normal(size=value.shape)
        direction /= np.abs(direction).max()
        ahead = loss(case, problem, name, direction * STEP)
        slope = (ahead - loss(case, problem, name, -direction * STEP)) / (2 * STEP)
        gradient = problem.expected[f"grad.{name}"]
        along = float((gradient.value * direction).sum())
        scale = float((gradient.magnitude * np.abs(direction)).sum())
        assert abs(slope - along) <= STEP * scale, name


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("block", "variant"), EVERY)
def test_the_tape_agrees_with_what_was_derived_by_hand(block, variant, dims, training):
    """Two ways to every gradient, statistic and step that share no line but the forward pass."""
    shape = "ties" if dims == 2 else "odd"
    problem = cases.Case(block, variant, dims, shape, "channels_last", "float64", training).problem()
    taped = oracle.evaluate(
        problem.block.spec,
        problem.block.tensors,
        problem.x,
        cotangent=problem.cotangent,
        training=training,
        data_format="channels_last",
        steps=problem.steps,
        learning_rate=problem.learning_rate,
        differentiate=oracle.by_tape,
    )
    assert list(taped) == list(problem.expected)
    got = {name: value.value for name, value in taped.items()}
    results = compare(problem.expected, got, dtype="float64", device="cpu")
    assert not [result.failure for result in results if result.failure]


def test_the_tape_follows_every_operation():
    rng = np.random.default_rng(3)
    a, b = Taped(rng.normal(size=(2, 3))), Taped(rng.normal(size=(1, 3)))
    padded = a.move(lambda array: np.pad(array, ((0, 0), (1, 1))))[:, ::-1]
    parts = join([padded, (a - b) * b, a.apply(np.exp, np.exp)], 1)
    y = contract("ij,kj->ik", parts, parts * 0.5).sum((1,), keepdims=True) + parts.mean((1,), keepdims=True)
    y = y * parts.max((1,))[:, None]
    dy = rng.normal(size=y.value.shape)
    found = gradients_of(y, dy, [a, b, a.detached()])
    assert not found[2].any()
    for source, gradient in ((a, found[0]), (b, found[1])):
        for index in np.ndindex(source.value.shape):
            ends = []
            for step in (STEP, -STEP):
                moved = {id(each): Taped(each.value.copy()) for each in (a, b)}
                moved[id(source)].value[index] += step
                one, two = moved[id(a)], moved[id(b)]
                pad = one.move(lambda array: np.pad(array, ((0, 0), (1, 1))))[:, ::-1]
                all_ = join([pad, (one - two) * two, one.apply(np.exp, np.exp)], 1)
                z = contract("ij,kj->ik", all_, all_ * 0.5).sum((1,), keepdims=True) + all_.mean((1,), keepdims=True)
                ends.append(float((dy * (z * all_.max((1,))[:, None]).value).sum()))
            assert (ends[0] - ends[1]) / (2 * STEP) == pytest.approx(gradient[index], rel=1e-6)


def loss(case, problem, name, change):
    """<cotangent, y> after one input or weight has moved."""
    x = problem.x + (change if name == "input" else 0)
    tensors = {n: v + (change if n == name else 0) for n, v in problem.block.tensors.items()}
    y = oracle.evaluate(case.spec, tensors, x, training=case.training)["output"]
    return float((y.value * problem.cotangent).sum())


def test_squeeze_excitation_by_hand():
    spec = SqueezeExcitationOptions(hidden_channels=1, activation="identity", gate="identity").resolve(2, 1)
    weights = {"fc1.kernel": [[1, 2]], "fc1.bias": [3], "fc2.kernel": [[1], [-1]], "fc2.bias": [0, 1]}
    y = oracle.evaluate(spec, weights, [[[1, 3], [0, 2]]])["output"].value
    # z = (2, 1); h = 2 + 2 + 3 = 7; s = (7, -6)
    assert y.tolist() == [[[7, 21], [0, -12]]]


def test_scse_merges_maps_and_not_gates():
    """Where x is negative the smaller gate wins; where it is zero both maps do, and share the gradient."""
    options = {"hidden_channels": 1, "bias": False, "activation": "identity", "gate": "identity"}
    weights = {"channel.fc1.kernel": [[0, 2]], "channel.fc2.kernel": [[1], [2]], "spatial.fc.kernel": [[1, 1]]}
    x = np.array([[[2.0, -3.0, 0.0], [1.0, 0.0, 2.0]]])
    # mean = (-1/3, 1); c = (2, 4); s = (3, -3, 2)
    spec = SCSEOptions(**options).resolve(2, 1)
    largest = oracle.evaluate(spec, weights, x, cotangent=[[[0, 0, 1], [0, 0, 0]]])
    assert largest["output"].value.tolist() == [[[6, 9, 0], [4, 0, 8]]]
    assert largest["grad.input"].value[0, 0, 2] == (2 + 2) / 2
    assert largest["grad.channel.fc2.kernel"].value.tolist() == [[0], [0]]
    half = oracle.evaluate(spec, weights, x, cotangent=[[[0, 0, 0], [0, 1, 0]]])["grad.input"].value
    assert half[0, 1, 1] == (4 - 3) / 2
    spec = SCSEOptions(**options, merge="add").resolve(2, 1)
    assert oracle.evaluate(spec, weights, x)["output"].value.tolist() == [[[10, 3, 0], [7, 0, 12]]]


def test_cbam_planes_are_mean_then_maximum():
    spec = CBAMOptions(parts="spatial", kernel_size=1, spatial_norm=None, gate="identity").resolve(2, 1)
    x = np.array([[[1.0, 2.0], [3.0, 8.0]]])
    mean = oracle.evaluate(spec, {"spatial.conv.kernel": [[[1.0], [0.0]]]}, x)["output"].value
    highest = oracle.evaluate(spec, {"spatial.conv.kernel": [[[0.0], [1.0]]]}, x)["output"].value
    assert (mean / x)[0, 0].tolist() == [2, 5]
    assert (highest / x)[0, 0].tolist() == [3, 8]


def test_tied_maxima_share_the_gradient_evenly():
    x = given([[1.0, 3.0, 3.0, 0.0]])
    assert x.max((1,)).value.tolist() == [3.0]
    assert x.share((1,)).tolist() == [[0, 0.5, 0.5, 0]]


def test_statistics_follow_the_update_rate_and_the_estimator():
    x = np.random.default_rng(0).normal(size=(3, 2, 5))
    for unbiased in (True, False):
        norm = BatchNorm(update_rate=0.25, unbiased_variance=unbiased)
        options = CBAMOptions(parts="spatial", kernel_size=1, spatial_norm=norm)
        weights = {"conv.kernel": [[[1.0], [0.0]]], "norm.scale": [1], "norm.offset": [0]}
        weights = {f"spatial.{n}": v for n, v in (weights | {"norm.mean": [4], "norm.variance": [8]}).items()}
        after = oracle.evaluate(options.resolve(2, 1), weights, x, training=True)
        plane = x.mean(axis=1)
        assert after["after.spatial.norm.mean"].value[0] == pytest.approx(0.75 * 4 + 0.25 * plane.mean())
        variance = plane.var(ddof=1 if unbiased else 0)
        assert after["after.spatial.norm.variance"].value[0] == pytest.approx(0.75 * 8 + 0.25 * variance)


def test_magnitude_remembers_what_cancelled():
    total = given([1e8, 1.0, -1e8]).sum((0,))
    assert total.value == 1.0
    assert total.magnitude == 2e8 + 1
    product = contract("i,i->", given([3.0, -3.0]), given([1.0, 1.0]))
    assert (product.value, product.magnitude) == (0.0, 6.0)


def test_margin_tells_a_close_call():
    near = given([1.0]) * 1.0 + given([1e-9])
    near.max((0,))
    both = contract("i,i->i", given([1.0, 1.0 + 1e-9]), given([1.0, 1.0]))
    highest = both.max((0,))
    assert highest.margin == pytest.approx(1e-9, rel=1e-3)
    exact = given([1.0, 1.0 + 1e-9]).max((0,))
    assert exact.margin == np.inf


@pytest.mark.parametrize("block", SPECS)
def test_layouts_agree(block):
    first = cases.Case(block, "default", 2, "odd", "channels_first", "float64", True)
    problem = first.problem()
    last = oracle.evaluate(
        first.spec,
        problem.block.tensors,
        np.moveaxis(problem.x, 1, -1),
        cotangent=np.moveaxis(problem.cotangent, 1, -1),
        training=True,
        data_format="channels_last",
    )
    for name, value in last.items():
        moved = name in ("output", "grad.input")
        assert np.array_equal(problem.expected[name].value, np.moveaxis(value.value, -1, 1) if moved else value.value)


def test_a_cotangent_of_another_shape_is_refused():
    case = cases.Case("se", "default", 2, "odd", "channels_first", "float64", False)
    problem = case.problem()
    with pytest.raises(InputError, match=r"received a cotangent of shape \(2, 12\); expected the output's shape"):
        oracle.evaluate(case.spec, problem.block.tensors, problem.x, cotangent=np.ones((2, 12)))
