"""The verdict: every backend against the oracle, on the quick matrix and on recorded real input."""

import os

import numpy as np
import pytest

from parity import cases, client, modes, run
from parity.backends import BACKENDS
from parity.block import Block
from parity.spec import NETWORKS, SPECS

QUICK = cases.quick()


def needs(name):
    if BACKENDS[name].missing():
        pytest.skip(f"{BACKENDS[name].missing()} not installed")


@pytest.fixture(scope="module")
def report():
    """One run, as `parity run --quick` does it; the tests read what it saw."""
    return run.judge(QUICK, list(BACKENDS), jobs=os.cpu_count() or 1)


@pytest.mark.slow
@pytest.mark.parametrize("block", [*SPECS, *NETWORKS])
@pytest.mark.parametrize("name", BACKENDS)
def test_backend_agrees_with_the_oracle(report, name, block):
    needs(name)
    outcomes = report.of(block, name)
    asked = [case for case in QUICK if case.block == block and modes.has(name, case.mode)]
    impossible = [one for one in report.impossible if (one.block, one.backend) == (block, name)]
    assert len(outcomes) + len(impossible) == len(asked), report.absent
    assert all(run.reason(cases.find(one.case), name) for one in impossible), impossible
    failures = [outcome for outcome in outcomes if not outcome.agreed]
    assert not failures, "\n\n".join(outcome.explain() for outcome in failures[:5])


@pytest.mark.parametrize("name", BACKENDS)
def test_a_wrong_weight_is_caught_in_every_backend(name):
    """The judgement can fail: one element of one tensor, changed by a hundredth of a percent, is seen."""
    needs(name)
    case = cases.find("ca-default-2d-odd-first-float64-train")
    problem = case.problem()
    tensors = dict(problem.block.tensors)
    tensors["expand.w.kernel"] = tensors["expand.w.kernel"].copy()
    tensors["expand.w.kernel"][2, 1] *= 1.0001
    wrong = cases.Problem(
        Block("block", case.spec, tensors),
        problem.x,
        problem.cotangent,
        problem.learning_rate,
        problem.steps,
        problem.expected,
    )
    client.worker(name)
    outcome = run._outcome(case, wrong, name, "cpu", run.NORMAL, run._Deaths(), run.Diagnoses())
    assert not outcome.agreed
    assert "output: " in outcome.explain()
    assert f"reproduce: parity run --backend {name} --case {case.id}" in outcome.explain()


def test_every_recording_is_judged():
    ids = {case.id for case in cases.recorded()}
    assert len([name for name in ids if name.startswith("recorded-real-ppocr-cls")]) == 9
    tutorials = {name for name in ids if name.startswith("recorded-tutorial-")}
    assert {f"recorded-tutorial-pytorch-{block}-eval" for block in ("se", "cbam", "eca", "ca")} <= tutorials
    assert {"recorded-tutorial-pytorch-ca-train", "recorded-tutorial-tf1-cbam-eval"} <= tutorials
    assert {f"recorded-tutorial-keras-{block}-eval" for block in ("se", "cbam", "eca")} <= tutorials
    assert {f"recorded-tutorial-tensorflow-cbam-{rank}-eval" for rank in ("2d", "3d")} <= tutorials
    relatives = ("attention-pool-3d", "conv1d-attention", "eca-multihead")
    assert {f"recorded-tutorial-{name}-eval" for name in relatives} <= tutorials
    assert {"recorded-timm-ese-eval", "recorded-smp-scse-eval"} <= ids


def test_a_recorded_case_expects_what_was_recorded_and_not_what_the_oracle_says():
    case = cases.find("recorded-tutorial-pytorch-se-eval")
    recording = cases._recordings()["tutorial-pytorch-se"]
    assert np.array_equal(case.problem().expected["output"].value, recording.modes["eval"]["output"])
