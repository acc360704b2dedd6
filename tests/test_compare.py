"""The comparison: what agrees, what does not, and the paragraph that it prints."""

import itertools

import numpy as np
import pytest

from parity.compare import compare
from parity.oracle import Measured
from parity.oracle._measured import given
from parity.tolerances import DTYPES, HALF_DTYPES, NETWORK_QUANTITIES, QUANTITIES, TABLE, quantity, tolerance

EXPECTED = np.array([[1.0, -2.0], [3.0, 4.0]])


def judge(got, expected=EXPECTED, name="output", magnitude=None, dtype="float64"):
    measured = given(expected) if magnitude is None else Measured(expected, np.full_like(expected, magnitude))
    (result,) = compare({name: measured}, {name: got}, dtype=dtype, device="cpu")
    return result


def test_equal_arrays_agree():
    assert (judge(EXPECTED).ratio, judge(EXPECTED).failure) == (0.0, "")


def test_a_failure_tells_how_many_where_and_by_how_much():
    got = EXPECTED.copy()
    got[1, 0] += 1e-6
    got[0, 1] -= 1e-9
    failure = judge(got).failure
    assert failure == (
        "output: 2 of 4 elements differ; the worst at [1, 0]: got 3.000001, expected 3, off by 1e-06, allowed 3.64e-12"
    )


def test_the_scale_is_that_of_the_array_or_of_what_cancelled():
    allowed = tolerance("output", "float64", "cpu")
    assert judge(EXPECTED + 3.9 * allowed).failure == ""
    assert judge(EXPECTED + 4.1 * allowed).failure
    assert judge(EXPECTED + 390 * allowed, magnitude=400.0).failure == ""
    assert judge(EXPECTED + 410 * allowed, magnitude=400.0).failure


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_on_one_side_is_a_failure(value):
    got = EXPECTED.copy()
    got[0, 0] = value
    assert judge(got).failure
    assert judge(got).ratio == np.inf
    assert judge(EXPECTED, got).failure
    assert judge(got, got).failure == ""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_norm_swallows_what_is_not_a_number(value):
    right, wrong = (array.astype(np.float16) for array in (EXPECTED, EXPECTED.copy()))
    wrong[0, 0] = value

    def ratio(expected, got):
        measured = {"grad.input": given(expected.astype(np.float64))}
        (found,) = compare(measured, {"grad.input": got}, dtype="float16", device="cpu", by_norm=True)
        assert found.by_norm
        assert bool(found.failure) == (found.ratio > 1)
        return found.ratio

    assert ratio(right, wrong) == np.inf
    assert ratio(wrong, right) == np.inf
    assert ratio(wrong, wrong) == 0
    also_off = wrong.copy()
    also_off[1, 1] += 1
    assert ratio(wrong, also_off) > 1


def test_shape_dtype_and_presence_are_compared():
    assert judge(EXPECTED[None]).failure == "output: got shape (1, 2, 2), expected (2, 2)"
    assert judge(EXPECTED.astype(np.float32)).failure == "output: got float32, expected float64"
    missing, extra = compare({"output": given(EXPECTED)}, {"grad.x": EXPECTED}, dtype="float64", device="cpu")
    assert missing.failure == "output: missing from the result"
    assert extra.failure == "grad.x: not expected, but the backend returned it"


def test_a_gradient_that_is_zero_by_theory_has_something_to_be_judged_by():
    zero = Measured(np.zeros(2), np.full(2, 5.0))
    noise = {"grad.fc1.bias": np.full(2, 1e-13)}
    assert not compare({"grad.fc1.bias": zero}, noise, dtype="float64", device="cpu")[0].failure


def test_something_where_theory_says_nothing_is_infinitely_wrong():
    nothing = Measured(np.zeros(2), np.zeros(2))
    (found,) = compare({"output": nothing}, {"output": np.full(2, 1e-300)}, dtype="float64", device="cpu")
    assert found.ratio > 1e7
    assert found.epsilons == np.inf
    assert "output: 2 of 2 elements differ" in found.failure
    assert compare({"output": nothing}, {"output": np.zeros(2)}, dtype="float64", device="cpu")[0].ratio == 0.0


def test_every_quantity_has_a_row_for_every_dtype_and_device():
    devices = {key[2] for key in TABLE}
    half = [*(q for q in QUANTITIES if q != "network"), "gradient by norm"]
    rows = {*itertools.product(QUANTITIES, DTYPES, devices), *itertools.product(half, HALF_DTYPES, devices)}
    rows |= {*itertools.product(NETWORK_QUANTITIES, DTYPES, devices)}
    assert rows == set(TABLE)
    names = ("output", "grad.input", "grad.fc1.kernel", "after.norm.mean", "step2.fc1.kernel", "network.fc")
    assert tuple(map(quantity, names)) == QUANTITIES


def test_no_row_is_looser_than_promised_or_tighter_than_measured():
    promised = {"output": 1e-12, "statistic": 1e-12, "step": 1e-12, "network": 1e-12}
    promised |= {"network output": 1e-12, "network layer": 1e-12, "network statistic": 1e-12}
    for (what, dtype, _), row in TABLE.items():
        if dtype == "float64":
            assert row.tolerance <= promised.get(what, 1e-10)
        assert row.measured is None or row.measured < row.tolerance
