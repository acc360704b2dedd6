"""The matrix itself: its cases can fail, repeat, and cover what they claim."""

import itertools

import numpy as np
import pytest

from parity import cases
from parity.modes import MODES
from parity.spec import DATA_FORMATS, SPECS, SpecError, is_statistic
from parity.tolerances import DTYPES, HALF_DTYPES, PRECISIONS

STANDARD = cases.standard()
MATRIX = [case for case in STANDARD if isinstance(case, cases.Case)]
FULL = [case for case in MATRIX if case.dtype in DTYPES]


def test_ids_are_unique_and_find_their_case():
    product = [case.id for case in (*cases.everything(), *cases.everything_in_modes())]
    assert len(set(product)) == len(product)
    assert {case.id for case in MATRIX} <= set(product)
    for case in STANDARD[:: len(STANDARD) // 20]:
        assert cases.find(case.id) == case
    with pytest.raises(SpecError, match="received case 'se-best-2d'; expected an id"):
        cases.find("se-best-2d")


def test_the_standard_matrix_covers_every_pair():
    """In each mode, every variant meets every rank, format and dtype, and every shape every rank and dtype."""
    modes = (False, True)
    for block, variants in cases.OPTIONS.items():
        for variant in variants:
            seen = [c for c in FULL if (c.block, c.variant, c.shape) == (block, variant, "odd")]
            assert {(c.spatial_dims, c.training) for c in seen} == set(itertools.product((1, 2, 3), modes))
            assert {(c.data_format, c.training) for c in seen} == set(itertools.product(DATA_FORMATS, modes)), variant
            assert {(c.dtype, c.training) for c in seen} == set(itertools.product(DTYPES, modes)), variant
        for name, shape in cases.shapes_of(block).items():
            seen = [c for c in FULL if (c.block, c.shape) == (block, name)]
            cells = {(c.spatial_dims, c.dtype, c.training) for c in seen}
            assert cells == set(itertools.product(shape.ranks, DTYPES, modes)), name
        half = {(c.spatial_dims, c.dtype, c.training) for c in MATRIX if (c.block, c.variant) == (block, "default")}
        assert half >= set(itertools.product((1, 2, 3), HALF_DTYPES, modes))


def test_the_quick_matrix_has_met_everything_once():
    quick = [case for case in cases.quick() if isinstance(case, cases.Case)]
    assert len(quick) < len(MATRIX) / 3
    for block, variants in cases.OPTIONS.items():
        seen = [case for case in quick if case.block == block]
        wanted = {(case.variant, case.training) for case in MATRIX if case.block == block}
        assert {(case.variant, case.training) for case in seen} == wanted >= set(itertools.product(variants, [False]))
        assert {case.shape for case in seen} == set(cases.shapes_of(block))
        assert {case.mode for case in seen} == set(MODES)
        assert {(c.spatial_dims, c.data_format) for c in seen} == set(itertools.product((1, 2, 3), DATA_FORMATS))
        assert {(c.dtype, c.training) for c in seen} == set(itertools.product(PRECISIONS, (False, True)))
    assert {case.id for case in cases.recorded()} <= {case.id for case in cases.quick()}


def test_numbers_come_from_the_id_alone():
    case = cases.find("cbam-default-2d-odd-last-float32-train")
    one, two = case.problem(), case.problem()
    assert one.x.tobytes() == two.x.tobytes()
    assert one.learning_rate == two.learning_rate
    other = cases.find("cbam-default-2d-odd-last-float64-train").problem()
    assert not np.array_equal(one.x, other.x)


def test_sizes_are_pairwise_distinct():
    for name, shape in cases.SHAPES.items():
        if name not in ("point", "large"):
            sizes = (shape.batch, shape.channels, *shape.sizes)
            assert len(set(sizes)) == len(sizes), name


@pytest.mark.parametrize("block", SPECS)
def test_every_case_can_fail(block):
    """Every parameter that is not inert moves the output, and no comparison hangs on rounding."""
    for case in (c for c in MATRIX if c.block == block and c.shape != "large"):
        problem = case.problem()
        margin = min(v.margin for v in problem.expected.values())
        assert problem.by_norm or margin > case.precision.margin, case.id
        assert case.precision.is_half or not problem.by_norm
        for name in case.spec.parameters():
            if is_statistic(name):
                continue
            gradient = problem.expected[f"grad.{name}"].value
            assert (name in case.inert) == (not gradient.any()), (case.id, name)


def test_training_cases_take_three_steps_that_matter():
    problem = cases.find("ca-default-2d-odd-first-float64-train").problem()
    before = problem.block.tensors
    for step in (1, 2, 3):
        after = {n: problem.expected[f"step{step}.{n}"].value for n in before}
        moved = {n for n in before if not np.array_equal(before[n], after[n])}
        assert moved == set(before) - {"reduce.bias"}
        before = after


def test_tied_cases_hold_whole_channels_of_zeros():
    x = cases.find("cbam-default-2d-ties-first-float32-train").problem().x
    assert (x >= 0).all()
    assert not x[:, ::3].any()


def test_ill_conditioned_cases_are_kept_and_say_so():
    problem = cases.find("cbam-default-2d-point-first-float64-train").problem()
    kernel = problem.expected["grad.spatial.conv.kernel"]
    assert kernel.magnitude.max() > 100 * np.abs(kernel.value).max()
