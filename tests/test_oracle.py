"""The judge is judged: its gradients against central differences, its magnitudes against what they promise."""

import numpy as np
import pytest

from parity import cases, oracle
from parity.oracle._measured import contract, given
from parity.spec import SPECS, BatchNorm, CBAMOptions, InputError, SqueezeExcitationOptions, is_statistic

EVERY = [(block, name) for block, variants in cases.OPTIONS.items() for name in variants]
STEP = 2.0**-17  # the cube root of epsilon: where rounding and curvature of a central difference balance


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("block", "variant"), EVERY)
def test_gradient_is_the_central_difference(block, variant, dims, training):
    case = cases.Case(block, variant, dims, "odd", "channels_first", "float64", training)
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


def test_cbam_planes_are_mean_then_maximum():
    spec = CBAMOptions(parts="spatial", kernel_size=1, spatial_norm=None, gate="identity").resolve(2, 1)
    x = np.array([[[1.0, 2.0], [3.0, 8.0]]])
    mean = oracle.evaluate(spec, {"spatial.conv.kernel": [[[1.0], [0.0]]]}, x)["output"].value
    highest = oracle.evaluate(spec, {"spatial.conv.kernel": [[[0.0], [1.0]]]}, x)["output"].value
    assert (mean / x)[0, 0].tolist() == [2, 5]
    assert (highest / x)[0, 0].tolist() == [3, 8]


def test_tied_maxima_share_the_gradient_evenly():
    y, share = given([[1.0, 3.0, 3.0, 0.0]]).max((1,))
    assert y.value.tolist() == [3.0]
    assert share.tolist() == [[0, 0.5, 0.5, 0]]


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
    _, _ = near.max((0,))
    both = contract("i,i->i", given([1.0, 1.0 + 1e-9]), given([1.0, 1.0]))
    highest, _ = both.max((0,))
    assert highest.margin == pytest.approx(1e-9, rel=1e-3)
    exact, _ = given([1.0, 1.0 + 1e-9]).max((0,))
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
