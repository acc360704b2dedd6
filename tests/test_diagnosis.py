"""Diagnoses: planted mistakes are named, in runs, in replayed probes and in ports, and what none explains is said."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from parity import cases, client, diagnosis, run
from parity.diagnosis import Diagnoses, Observation, Patience, diagnose
from parity.errors import OutputMismatchError
from parity.mistakes import Setting, Variation, variations
from parity.network import port
from parity.oracle._steps import Replacement
from parity.probe import with_probes
from parity.tolerances import EPSILON
from parity.verification import verify


def case_of(block, variant="default", shape="odd", training=False, dtype="float32", data_format="channels_first"):
    return cases.Case(block, variant, 2, shape, data_format, dtype, training)


def made_by(case, *words):
    """What a backend returns that makes these mistakes, with the rounding of its dtype."""
    problem = case.problem()
    every = list(variations(Setting(problem.block, problem.x, case.training, case.data_format)))
    first, *others = (next(one for one in every if one.words == text) for text in words)
    for other in others:
        first = first & other
    options = {"training": case.training, "data_format": case.data_format}
    options |= {"steps": problem.steps, "learning_rate": problem.learning_rate}
    results = first.evaluate(problem.block, problem.x, cotangent=problem.cotangent, **options)
    rng = np.random.default_rng(5)
    return {name: noisy(value.value, case.dtype, rng) for name, value in results.items()}


def noisy(value, dtype, rng):
    return (value * (1 + EPSILON[dtype] * rng.uniform(-1, 1, value.shape))).astype(dtype)


def observed(case, got):
    problem = case.problem()
    return Observation(
        problem.block,
        problem.x,
        got,
        problem.expected,
        cotangent=problem.cotangent,
        training=case.training,
        data_format=case.data_format,
        steps=problem.steps,
        learning_rate=problem.learning_rate,
        dtype=case.dtype,
    )


PLANTED = [
    (case_of("se"), "fc2.bias dropped"),
    (case_of("se", "hard-sigmoid"), 'gate "sigmoid" instead of "hard_sigmoid"'),
    (case_of("se", training=True), "the gradient of fc1.kernel lost"),
    (case_of("se", data_format="channels_last"), "channels-last memory read as channels-first"),
    (case_of("cbam"), "spatial concatenation in the opposite order"),
    (case_of("cbam"), "channel gate taken of each pass before their sum"),
    (case_of("cbam", shape="ties"), "channel maximum with the gradient of ties sent to the first"),
    (case_of("cbam", training=True), "spatial.norm over each sample"),
    (case_of("eca"), "conv padding lopsided by one"),
    (case_of("eca"), "product with its gates detached"),
    (case_of("eca", dtype="float64"), "mean accumulated in float16"),
    (case_of("ca"), "expand.h and expand.w exchanged"),
    (case_of("ca", training=True), "norm frozen"),
    (case_of("ca", training=True), "norm without updates"),
    (case_of("ca", training=True), "norm.update_rate 0.9 instead of 0.1"),
]


@pytest.mark.parametrize(("case", "words"), PLANTED, ids=[f"{case.block}-{words}" for case, words in PLANTED])
def test_a_single_mistake_is_named(case, words):
    found = diagnose(observed(case, made_by(case, words)))
    assert words in [fit.words for fit in found.fits]
    assert all(fit.after <= 1 and not fit.missed for fit in found.fits)
    assert found.before > 1
    assert found.text.startswith(f"The error is {found.before:.3g} times the allowed one. What reproduces it: ")


PAIRS = [
    (case_of("se"), ('gate "identity" instead of "sigmoid"', "fc1.bias dropped")),
    (case_of("se", training=True), ("fc1.kernel with one wrong element", "the gradient of fc2.bias lost")),
    (case_of("eca"), ("conv.kernel flipped", "residual added")),
    (case_of("ca", training=True), ("expand.h.bias dropped", "norm without updates")),
]


@pytest.mark.parametrize(("case", "words"), PAIRS, ids=[case.id for case, _ in PAIRS])
def test_a_pair_of_mistakes_is_named(case, words):
    found = diagnose(observed(case, made_by(case, *words)))
    named = [set(fit.words.split(", and ")) for fit in found.fits]
    assert set(words) in named, found.text
    assert not any(fit.missed for fit in found.fits)
    assert found.pairs > 0


def test_the_direction_of_wrong_weights_is_seen_in_their_gradients():
    """Weights loaded the wrong way round have other gradients than the right ones used so: both are one mistake."""
    case = case_of("eca", "kernel5")
    problem = case.problem()
    every = variations(Setting(problem.block, problem.x))
    flipped = next(one for one in every if one.words == "conv.kernel flipped")
    for loaded in (False, True):
        results = flipped.evaluate(problem.block, problem.x, cotangent=problem.cotangent, loaded=loaded)
        got = {name: value.value.astype("float32") for name, value in results.items()}
        (fit,) = [fit for fit in diagnose(observed(case, got)).fits if fit.words == flipped.words]
        assert not fit.missed


def test_an_error_that_no_mistake_explains_is_said_to_be_one():
    case = case_of("eca")
    got = {name: value.value.astype("float32") for name, value in case.problem().expected.items()}
    got["output"] = got["output"] + np.random.default_rng(0).normal(size=got["output"].shape).astype("float32")
    found = diagnose(observed(case, got))
    assert not found.fits
    assert f"None of {found.tried} classic mistakes, alone or in {found.pairs} pairs, reproduces it" in found.text
    assert f"the nearest is {found.nearest.words} (" in found.text
    assert found.nearest.after > 1


def test_a_mistake_that_cancels_badly_does_not_explain_everything(monkeypatch):
    """A norm of one position divides by almost nothing: by its own rounding, it would allow any result."""
    monkeypatch.setattr(diagnosis, "PAIRS", 0)
    case = case_of("ca", shape="point", training=True, dtype="bfloat16")
    right = case.problem().expected["output"].value
    noise = np.abs(right).max() * np.random.default_rng(0).normal(size=right.shape)
    seen = replace(observed(case, {"output": (right + noise).astype("bfloat16")}), cotangent=None)
    found = diagnose(seen)
    assert not found.fits, found.text
    assert found.nearest.after > 1


def test_a_pair_that_cannot_be_made_explains_nothing():
    case = case_of("eca")
    seen = observed(case, made_by(case, "conv.kernel flipped"))
    impossible = Variation("impossible", steps=(Replacement("mean", lambda mean, *arguments: 1 / 0),))
    assert seen.under(impossible, whole=True) == {}
    fit = diagnosis._fit_of(seen, impossible, loaded=False)
    assert fit.missed == tuple(seen.right)
    assert fit.after == np.inf


def test_the_right_output_with_wrong_gradients_is_told_apart():
    case = case_of("eca")
    got = made_by(case, "conv.kernel flipped")
    got["grad.input"] = -3 * got["grad.input"]
    text = diagnose(observed(case, got)).text
    assert "What reproduces the rest, but not grad.input: " in text
    assert "conv.kernel flipped (" in text


def test_what_is_not_tried_is_said(monkeypatch):
    case = case_of("eca")
    got = {"output": case.problem().expected["output"].value.astype("float32") * 2 + 1}
    monkeypatch.setattr(diagnosis, "PAIRS", 3)
    found = diagnose(observed(case, got))
    assert found.pairs == 3
    assert found.text.endswith("pairs were not tried.")
    assert diagnose(observed(case, got), Patience(0)).pairs == 0
    monkeypatch.setattr(diagnosis, "SECONDS", 0)
    slow = diagnose(observed(case, got))
    assert slow.tried == 0
    assert slow.text.endswith(f" {found.tried} mistakes were not tried: they take too long.")
    monkeypatch.undo()
    monkeypatch.setattr(diagnosis, "LARGE_FOR_PAIRS", 10)
    assert diagnose(observed(case, got)).text.endswith("The input is too large to try pairs on.")
    monkeypatch.setattr(diagnosis, "LARGE", 10)
    found = diagnose(observed(case, got))
    assert (found.tried, found.fits) == (0, ())
    assert found.text.endswith(f"An input of {case.problem().x.size} elements is too large to try mistakes on.")


@pytest.mark.parametrize(
    "spoil", [lambda y: y[..., :-1], lambda y: y.astype("float64"), lambda y: y * np.nan], ids=["shape", "dtype", "nan"]
)
def test_what_cannot_be_compared_is_not_tried_in_pairs(spoil):
    case = case_of("eca")
    got = {"output": spoil(case.problem().expected["output"].value.astype("float32"))}
    found = diagnose(observed(case, got))
    assert (found.pairs, found.nearest) == (0, None)
    assert found.text.endswith("Nothing that a mistake gives can be compared with what came out.")
    json.dumps(found.to_json(), allow_nan=False)


def test_what_agrees_needs_no_diagnosis():
    case = case_of("eca")
    got = {name: value.value.astype("float32") for name, value in case.problem().expected.items()}
    assert Diagnoses().of("torch", observed(case, got)) is None


def test_a_run_diagnoses_a_few_cases_of_each_cell():
    many, case = Diagnoses(most=2), case_of("eca")
    got = made_by(case, "conv.kernel flipped")
    seen = observed(case, got)
    assert many.of("torch", seen).fits
    alike = many.of("torch", seen)
    assert not alike.tried
    assert alike.text.endswith("allowed one. Mistakes were tried on other cases of this block on this backend.")
    assert many.of("tf1compat", seen).fits
    assert many.of("torch", observed(case, {"output": got["output"]})).fits
    assert not many.of("torch", observed(case, {"grad.input": got["grad.input"]})).tried  # enough


# Where it is used


def broken_backend(monkeypatch, words):
    """A worker that makes a mistake."""

    def wrong(backend, device, block, x, cotangent=None, *, training, dtype, data_format, **options):
        every = variations(Setting(block, x, training, data_format))
        one = next(variation for variation in every if variation.words == words)
        asked = {name: options[name] for name in ("steps", "learning_rate")}
        results = one.evaluate(block, x, cotangent=cotangent, training=training, data_format=data_format, **asked)
        return {name: value.value.astype(dtype) for name, value in results.items()}

    monkeypatch.setattr(client, "worker", lambda *arguments: SimpleNamespace(description={"framework": "broken"}))
    monkeypatch.setattr(client, "run", wrong)


def test_a_run_names_the_mistake(monkeypatch):
    broken_backend(monkeypatch, "expand.h and expand.w exchanged")
    report = run.judge([case_of("ca"), case_of("ca", dtype="float64")], ["torch"])
    texts = [outcome.explain() for outcome in report.failures]
    assert len(texts) == 2
    assert sum("What reproduces it: expand.h and expand.w exchanged (" in text for text in texts) == 1
    assert all("reproduce: parity run --backend torch --case ca-default" in text for text in texts)
    written = [json.loads(json.dumps(found["diagnosis"])) for found in report.to_json()["outcomes"]]
    (told,) = [found for found in written if found["fits"]]
    assert told["fits"][0]["mistake"] == "layers-exchanged"
    assert told["text"] in texts[0] + texts[1]


torch = pytest.importorskip("torch")

from attention_torch import CoordinateAttention, SqueezeExcitation  # noqa: E402 (after importorskip)


class Impostor(SqueezeExcitation):
    """What its spec says, less the mean of the batch's own samples, and with a residual connection."""

    def forward(self, x):
        z = x.mean((0, 2, 3)).expand(len(x), -1)
        return x + x * torch.sigmoid(self.fc2(torch.relu(self.fc1(z))))[..., None, None]


class Heads(CoordinateAttention):
    """A block that applies each head's weights to the other axis."""

    def forward(self, x):
        self.expand.h, self.expand.w = self.expand.w, self.expand.h
        try:
            return super().forward(x)
        finally:
            self.expand.h, self.expand.w = self.expand.w, self.expand.h


def test_a_replayed_probe_names_a_pair_of_mistakes():
    from parity.loading import blocks_of

    torch.manual_seed(0)
    module = Impostor(12, reduction=4)
    result = verify(with_probes(blocks_of(module), module), [])
    (outcome,) = result.outcomes
    assert "residual added, and mean over the batch too (" in outcome.explanation
    assert result.to_json()["outcomes"][0]["diagnosis"]["fits"][0]["mistake"] == "residual and batch-mixed"


class Net(torch.nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.stem, self.attention = torch.nn.Conv2d(3, 12, 3, padding=1), attention

    def forward(self, x):
        return self.attention(self.stem(x))


def test_a_port_names_the_mistake_and_the_side_that_makes_it():
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 8)).astype("float32")
    right, wrong = (Net(kind(12, reduction=4)) for kind in (CoordinateAttention, Heads))
    for one, other, role in ((right, wrong, "target"), (wrong, right, "source")):
        with pytest.raises(OutputMismatchError) as caught:
            port(one, other, example=x)
        assert f"By the oracle, the {role}'s block is off. The error is " in str(caught.value)
        assert "expand.h and expand.w exchanged (" in str(caught.value)
