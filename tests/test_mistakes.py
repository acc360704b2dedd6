"""The table of classic mistakes, the steps that they replace, and the self-test that makes them all."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from parity import cases, cli, mistakes, oracle, selftest
from parity.block import Block
from parity.compare import compare
from parity.errors import SpecError
from parity.mistakes import EQUIVALENT, MISTAKES, Equivalent, Mistake, Setting, Variation, variations
from parity.mistakes._kinds import tensor_values
from parity.oracle import Measured
from parity.oracle._gate import gate
from parity.oracle._map import attend, mean, spread
from parity.oracle._measured import given
from parity.oracle._steps import STEPS, Replacement, replaced, watched
from parity.spec import SPECS, Gate, Spec

# What the issue asks for by name.
WANTED = """
kernel-transposed planes-exchanged layers-exchanged kernel-flipped hard-sigmoid-slope hard-sigmoid-for-sigmoid
sigmoid-for-hard-sigmoid gate-missing bias-dropped epsilon momentum-inverted variance-estimator statistics-frozen
norm-left-out norm-axis last-as-first sum-for-mean maximum-before-relu unshared-layers merge-before-layers
spatial-source residual even-padding padding-mode tie-gradient detached-branch half-accumulation space-exchanged
wrong-element
"""


def setting(block, variant="default", training=False, dims=2, dtype="float64"):
    case = cases.Case(block, variant, dims, "odd", "channels_first", dtype, training)
    problem = case.problem()
    return Setting(problem.block, problem.x, training), problem


def named(where, words):
    (found,) = [variation for variation in variations(where) if variation.words == words]
    return found


# Steps


def tripled(mean, x, axes, path=""):
    return mean(x, axes, path) * 3.0


def one_more(mean, x, axes, path=""):
    return mean(x, axes, path) + given(1.0)


def test_replacements_nest_and_end():
    x = given([[1.0, 2.0]])
    with replaced(Replacement("mean", tripled)):
        with replaced(Replacement("mean", one_more)):
            assert mean(x, (1,)).value.tolist() == [5.5]  # the later one is called first
        assert mean(x, (1,)).value.tolist() == [4.5]
    with pytest.raises(ZeroDivisionError), replaced(Replacement("mean", tripled)):
        1 / 0  # noqa: B018
    assert mean(x, (1,)).value.tolist() == [1.5]


def test_a_replacement_has_a_place():
    x = given([[1.0, 2.0]])
    with replaced(Replacement("mean", tripled, "channel")):
        assert mean(x, (1,), "channel").value.tolist() == mean(x, (1,), path="channel").value.tolist() == [4.5]
        assert mean(x, (1,), "spatial").value.tolist() == mean(x, (1,)).value.tolist() == [1.5]


def test_other_threads_compute_rightly():
    seen = []
    with replaced(Replacement("mean", tripled)):
        thread = threading.Thread(target=lambda: seen.append(mean(given([1.0]), (0,)).value.item()))
        thread.start()
        thread.join()
    assert seen == [1.0]


@pytest.mark.parametrize("block", SPECS)
def test_every_block_is_made_of_steps(block):
    where, _ = setting(block)
    weights = {"mean", "gate"} if "gate" in where.spec.arguments() else {"softmax"}
    assert {"forward"} | weights <= set(where.taken) <= set(STEPS)
    assert set(where.taken) & {"attend", "rescaled", "weighed"}


def test_watching_tells_the_places_in_order():
    with watched() as seen:
        mean(given([1.0]), (0,), "b")
        mean(given([1.0]), (0,), "a")
        mean(given([1.0]), (0,), "b")
    assert seen == {"mean": ["b", "a"]}


@dataclass(frozen=True, kw_only=True)
class ToySpec(Spec):
    """A block that nobody has heard of: y = x * gate(w * mean_S x)."""

    block: ClassVar[str] = "toy"
    channels: int
    spatial_dims: int
    gate: Gate

    def options(self):
        raise NotImplementedError

    def parameters(self):
        return {"scale": (self.channels,)}

    @classmethod
    def infer(cls, shapes, **facts):
        raise NotImplementedError


def toy(spec, weights, x, training):
    s = gate(mean(x, (2, 3)) * weights["scale"], spec.gate)
    return attend(x, [spread(s, 2)]), SimpleNamespace(updated={})


def test_a_new_block_has_its_mistakes_for_free(monkeypatch):
    monkeypatch.setitem(sys.modules, "parity.oracle.toy", SimpleNamespace(forward=toy))
    rng = np.random.default_rng(0)
    block = Block("toy", ToySpec(channels=3, spatial_dims=2, gate=Gate()), {"scale": rng.normal(size=3)})
    x, cotangent = rng.normal(size=(2, 2, 3, 4, 5))
    right = oracle.evaluate(block.spec, block.tensors, x, cotangent=cotangent, differentiate=oracle.by_tape)
    found = {}
    for variation in variations(Setting(block, x)):
        got = variation.evaluate(block, x, cotangent=cotangent)
        results = compare(right, {name: value.value for name, value in got.items()}, dtype="float64", device="cpu")
        found.setdefault(variation.mistake, []).append(max(result.ratio for result in results) > 1)
    assert {"hard-sigmoid-for-sigmoid", "gate-twice", "sum-for-mean", "wrong-element", "detached-branch"} <= set(found)
    assert [name for name, caught in found.items() if not all(caught)] == ["space-exchanged"]


# The table


def test_the_table_reads_well():
    assert len(MISTAKES) >= 60
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES)
    assert set(WANTED.split()) <= {mistake.name for mistake in MISTAKES}
    for mistake in MISTAKES:
        assert mistake.words, mistake.name
        assert mistake.source, mistake.name
        assert mistake.words != mistake.source


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("block", SPECS)
def test_variations_have_words_of_their_own(block, training):
    where, _ = setting(block, training=training)
    words = [variation.words for variation in variations(where)]
    assert len(words) > 20
    assert len(set(words)) == len(words)
    assert not [text for text in words if "  " in text or text != text.strip()]


def test_unknown_mistakes_are_refused():
    with pytest.raises(SpecError, match="received mistake 'typo'; expected one of hard-sigmoid-slope, "):
        mistakes.find("typo")
    with pytest.raises(SpecError, match="received mistake 'typo'"):
        selftest.run(["eca"], ["typo"])


def test_a_wrong_weight_used_and_loaded_have_one_output_and_two_gradients():
    where, problem = setting("eca", "kernel5")
    flipped = named(where, "conv.kernel flipped")
    used = flipped.evaluate(problem.block, problem.x, cotangent=problem.cotangent)
    loaded = flipped.evaluate(problem.block, problem.x, cotangent=problem.cotangent, loaded=True)
    assert agree(problem, {"output": used["output"].value}, loaded)
    assert not agree(problem, {"grad.conv.kernel": used["grad.conv.kernel"].value}, loaded)
    turned = used["grad.conv.kernel"].value[..., ::-1]
    assert agree(problem, {"grad.conv.kernel": turned}, loaded)
    # What a backend is sent is the loaded one.
    sent = oracle.evaluate(problem.block.spec, flipped.block(problem.block).tensors, problem.x)
    assert agree(problem, {"output": sent["output"].value}, loaded)


def agree(problem, got, made):
    """Whether results agree with what a mistake gives, at the scale of the right ones."""
    expected = {name: Measured(made[name].value, problem.expected[name].magnitude) for name in got}
    return not any(result.failure for result in compare(expected, got, dtype="float64", device="cpu"))


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_a_layout_goes_there_and_back(data_format):
    case = cases.Case("ca", "default", 2, "odd", data_format, "float64", False)
    problem = case.problem()
    where = Setting(problem.block, problem.x, False, data_format)
    for mistake in ("last-as-first", "space-exchanged", "channels-reversed"):
        (variation,) = variations(where, [mistake])
        x, dy = (variation.laid_out(value, data_format) for value in (problem.x, problem.cotangent))
        assert not np.array_equal(x, problem.x)
        results = oracle.evaluate(problem.block.spec, problem.block.tensors, x, cotangent=dy, data_format=data_format)
        got = variation.taken_back({name: value.value for name, value in results.items()}, data_format)
        made = variation.evaluate(problem.block, problem.x, cotangent=problem.cotangent, data_format=data_format)
        assert agree(problem, got, made), mistake


def test_two_mistakes_are_both_made():
    where, problem = setting("se")
    kinds = named(where, 'gate "identity" instead of "sigmoid"'), named(where, "fc1.bias dropped")
    block = Block("", replace(problem.block.spec, gate="identity"), problem.block.tensors)
    block.tensors["fc1.bias"][:] = 0
    expected = oracle.evaluate(block.spec, block.tensors, problem.x)["output"].value
    for pair in (kinds[0] & kinds[1], kinds[1] & kinds[0]):
        assert np.array_equal(pair.evaluate(problem.block, problem.x)["output"].value, expected)
    assert (kinds[0] & kinds[1]).mistake == "gate-missing and bias-dropped"


def test_two_layouts_are_undone_in_the_opposite_order():
    where, problem = setting("ca")
    memory, space = (next(variations(where, [name])) for name in ("last-as-first", "space-exchanged"))
    (n, c, h, w), x = problem.x.shape, np.moveaxis(problem.x, 1, -1)
    taken = x.reshape(n, c, h, w).swapaxes(2, 3)
    y = oracle.evaluate(problem.block.spec, problem.block.tensors, taken)["output"].value
    expected = np.moveaxis(np.ascontiguousarray(y.swapaxes(2, 3)).reshape(n, h, w, c), -1, 1)
    got = (memory & space).evaluate(problem.block, problem.x)["output"].value
    assert np.array_equal(got, expected)


def test_two_fields_of_one_norm_are_both_changed():
    where, _ = setting("ca", training=True)
    rate, epsilon = (next(variations(where, [name])) for name in ("momentum-inverted", "epsilon"))
    norm = (rate & epsilon).respec(where.spec).arguments()["norm"]
    assert (norm.update_rate, norm.epsilon) == (0.9, 1e-3)


# The self-test


def test_the_matrix_catches_what_it_is_shown():
    verdict = selftest.run(["eca"])
    assert verdict.passed, [trial.explain() for trial in verdict.survivors] + verdict.stale
    assert {trial.training for trial in verdict.trials} == {False, True}
    flipped = next(trial for trial in verdict.of("kernel-flipped", "eca") if not trial.training)
    assert flipped.ratio > 1
    assert cases.find(flipped.case).block == "eca"


def planted(monkeypatch, *rows, equivalent=()):
    """The table with other rows, and the list with other lines."""
    monkeypatch.setattr(mistakes, "MISTAKES", (*MISTAKES, *rows))
    monkeypatch.setattr(mistakes, "BY_NAME", {mistake.name: mistake for mistake in (*MISTAKES, *rows)})
    lines = (*EQUIVALENT, *equivalent)
    monkeypatch.setattr("parity.mistakes._equivalent.EQUIVALENT", lines)
    monkeypatch.setattr(selftest, "EQUIVALENT", lines)


HARMLESS = Mistake("harmless", "nothing", "a test", lambda where: iter([Variation("nothing is done")]))


def test_a_survivor_is_a_failure(monkeypatch, capsys):
    planted(monkeypatch, HARMLESS)
    few = [case for case in cases.standard() if "eca-default-2d-odd" in case.id]
    monkeypatch.setattr(selftest, "standard", lambda: few)
    assert cli.main(["selftest", "--block", "eca", "--mistake", "harmless"]) == cli.DISAGREED
    seen = capsys.readouterr()
    assert "2 of 2 survive" in seen.out
    assert "eca in inference: nothing is done (harmless) survives all " in seen.err
    assert "of them change no result by an epsilon of the dtype" in seen.out


def test_what_is_no_number_catches_nothing(monkeypatch):
    """A broken mistake would be caught by anything."""
    spoilt = tensor_values("made NaN", lambda *given: True, lambda value: value * np.nan)
    planted(monkeypatch, Mistake("spoilt", "NaN", "a test", spoilt))
    few = [case for case in cases.standard() if "eca-default-2d-odd" in case.id]
    monkeypatch.setattr(selftest, "standard", lambda: few)
    assert len(selftest.run(["eca"], ["spoilt"]).survivors) == 2


def test_a_case_that_is_off_without_a_mistake_is_a_false_alarm(monkeypatch, capsys):
    monkeypatch.setattr(selftest, "NO_MISTAKE", Variation("upside down", back=lambda y: y[..., ::-1, :]))
    assert cli.main(["selftest", "--block", "eca", "--mistake", "kernel-flipped"]) == cli.DISAGREED
    seen = capsys.readouterr()
    assert "false alarm: eca-default-" in seen.err
    assert "catches the oracle without a mistake: output: " in seen.err
    assert "0 of 2 variations survive, " in seen.out


def test_a_block_that_no_mistake_fits_is_a_failure(monkeypatch):
    monkeypatch.setattr(selftest, "variations", lambda where, names: variations(where, names if where.training else []))
    assert selftest.run(["eca"], ["kernel-flipped"]).passed
    monkeypatch.setattr(selftest, "variations", lambda where, names: iter(()))
    assert "no mistake fits eca" in selftest.run(["eca"]).stale


def test_half_precision_says_why_it_misses_some(monkeypatch, capsys):
    few = [case for case in cases.standard() if "se-default-2d-odd" in case.id]
    monkeypatch.setattr(selftest, "standard", lambda: few)
    assert cli.main(["selftest", "--dtype", "bfloat16", "--block", "se", "--mistake", "tf32"]) == cli.DISAGREED
    seen = capsys.readouterr()
    assert "cannot be told from rounding" in seen.out
    assert " of the allowed error, 0." in seen.err


def test_a_norm_that_was_left_waiting_does_not_come_later():
    where, problem = setting("cbam", training=True)
    late = named(where, "spatial.norm behind what it stands before")
    options = {"training": True, "cotangent": problem.cotangent}
    right = late.evaluate(problem.block, problem.x, **options)
    lost = Replacement("gate", lambda gate, u, *how: u, "spatial")
    (late & Variation("", steps=(lost,))).evaluate(problem.block, problem.x, **options)
    again = late.evaluate(problem.block, problem.x, **options)
    assert all(np.array_equal(again[name].value, value.value) for name, value in right.items())


def test_a_survivor_that_is_listed_with_its_reason_is_none(monkeypatch):
    planted(
        monkeypatch,
        HARMLESS,
        equivalent=[Equivalent("harmless", "zero is zero", lambda where, made: "nothing" in made.words)],
    )
    verdict = selftest.run(["eca"], ["harmless"])
    assert verdict.passed
    assert {trial.equivalent for trial in verdict.trials} == {"zero is zero"}


def test_a_line_of_the_list_whose_mistake_is_caught_is_stale(monkeypatch, capsys):
    planted(monkeypatch, equivalent=[Equivalent("kernel-flipped", "so they say", lambda where, made: True, "eca")])
    assert cli.main(["selftest", "--block", "eca", "--mistake", "kernel-flipped"]) == cli.DISAGREED
    assert "stale: kernel-flipped in eca is caught by eca-default-2d-odd-" in capsys.readouterr().err


def test_a_line_of_the_list_that_nothing_fits_is_stale(monkeypatch):
    never = Equivalent("kernel-flipped", "never", lambda where, made: False, "eca")
    planted(monkeypatch, equivalent=[never])
    verdict = selftest.run(["eca"], ["kernel-flipped"])
    assert not verdict.survivors
    assert verdict.stale == ["kernel-flipped in eca is listed as equivalent (never), but nothing fits it"]


def test_a_mistake_that_nothing_fits_is_stale(monkeypatch):
    nowhere = Mistake("nowhere", "impossible", "a test", lambda where: iter(()))
    planted(monkeypatch, nowhere)
    monkeypatch.setattr(selftest, "cases", lambda *arguments: [])
    assert selftest.run(mistakes=["nowhere"]).stale == ["nowhere fits no case of the matrix"]


def test_a_hole_in_the_matrix_is_found(monkeypatch):
    """Without maps that hold ties, the gradient of ties is anybody's."""
    few = [case for case in cases.standard() if case.block == "cbam" and "cbam-default-" in case.id]
    tied = [case for case in few if "-odd-" in case.id or "-ties-" in case.id]
    monkeypatch.setattr(selftest, "standard", lambda: tied)
    assert selftest.run(["cbam"], ["tie-gradient"]).passed
    monkeypatch.setattr(selftest, "standard", lambda: [case for case in tied if "-odd-" in case.id])
    survivors = selftest.run(["cbam"], ["tie-gradient"]).survivors
    assert {trial.words for trial in survivors} >= {"channel maximum with the gradient of ties sent to the first"}


def test_a_backend_that_is_given_mistakes_is_caught_at_them(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    names = ["kernel-flipped", "channels-reversed", "gate-missing"]
    verdict = selftest.run(["eca"], names, backend="torch")
    assert verdict.passed, verdict.false_alarms
    assert all(trial.on_backend > 1 for trial in verdict.trials)


def test_a_backend_that_hides_a_mistake_is_found(monkeypatch):
    def mended(backend, device, block, x, cotangent, *, dtype, **options):
        right = {"conv.kernel": block.tensors["conv.kernel"][..., ::-1]}
        results = oracle.evaluate(block.spec, right, x, cotangent=cotangent, **options)
        return {name: value.value.astype(dtype) for name, value in results.items()}

    few = [case for case in cases.standard() if "eca-default-2d-odd" in case.id]
    monkeypatch.setattr(selftest, "standard", lambda: few)
    monkeypatch.setattr(selftest.client, "run", mended)
    verdict = selftest.run(["eca"], ["kernel-flipped"], backend="torch")
    assert [trial.survived for trial in verdict.trials] == [True, True]
    assert "but not where a backend makes it" in verdict.survivors[0].explain()
    assert all("catches torch without a mistake" in text for text in verdict.false_alarms)
    assert len(verdict.false_alarms) == len(selftest.cases(["eca"])) > 0


def test_the_command_lists_and_writes(tmp_path, capsys):
    file = tmp_path / "selftest.json"
    assert cli.main(["selftest", "--block", "eca", "--mistake", "kernel-flipped", "--json", str(file)]) == cli.AGREED
    assert "all 2 variations of 1 mistakes are caught" in capsys.readouterr().out
    report = json.loads(file.read_text())
    assert report["passed"] is True
    assert report["trials"][0]["words"] == "conv.kernel flipped"
    assert report["trials"][0]["tried"] == 1
    assert cli.main(["selftest", "--list", "--mistake", "epsilon"]) == cli.AGREED
    assert "gzuidhof/nn-transfer#3" in capsys.readouterr().out
    assert cli.main(["selftest", "--mistake", "typo"]) == cli.MISUSED


@pytest.mark.slow
def test_every_mistake_in_every_block_is_caught():
    verdict = selftest.run()
    assert verdict.passed, [trial.explain() for trial in verdict.survivors] + verdict.stale
    assert {trial.mistake for trial in verdict.trials} == set(mistakes.BY_NAME)
    assert {trial.block for trial in verdict.trials} == set(SPECS)
