"""Training that agrees: data, optimisers, curves, seams and figures; and each comparison can fail."""

import hashlib
import inspect
import json
from dataclasses import replace

import numpy as np
import pytest

from parity import cli, client, oracle, tolerances
from parity.backends import BACKENDS
from parity.block import Block
from parity.errors import BackendDiedError, InputError, SpecError
from parity.oracle._measured import given
from parity.spec import SPECS, is_statistic
from parity.training import networks, optimizers, reference, run
from parity.training._worker import VELOCITY

pytest.importorskip("sklearn")
from parity.training import data

# Two whose conventions differ in everything: layouts of maps and kernels, sign and size of velocities, Adam's formula.
PAIR = ["torch", "keras-layers@torch"]
STEPS = 8

needs_pair = pytest.mark.skipif(any(BACKENDS[name].missing() for name in PAIR), reason="not installed")


@pytest.fixture(scope="module")
def report():
    return run.judge(run.plan(["se"]), PAIR, steps=STEPS)


def test_the_digits_and_their_order_are_fixed():
    digits = data.digits()
    assert (digits.x.shape, digits.test_x.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    arrays = (digits.x, digits.labels, digits.test_x, digits.test_labels, data.batches(200))
    found = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
    assert found == "789c43e3748f8d8e27970dada3499792ee65e6c68ef682a58e07728ad0b4110d"
    # Every pixel is exact in float32, and every class is in both parts.
    assert (digits.x.astype(np.float32) == digits.x).all()
    assert set(digits.labels) == set(digits.test_labels) == set(range(10))


def test_batches_are_epochs_and_do_not_hang_on_their_number():
    whole = data.TRAINING_IMAGES // data.BATCH
    epoch = data.batches(2 * whole)
    for half in (epoch[:whole], epoch[whole:]):
        assert len(set(half.ravel())) == whole * data.BATCH
    assert (epoch[:whole] != epoch[whole:]).any()
    assert (data.batches(3) == epoch[:3]).all()
    with pytest.raises(InputError, match="received steps=0; expected at least 1"):
        data.batches(0)


@pytest.mark.parametrize("block", SPECS)
def test_every_block_has_its_network(block):
    spec = networks.network(block)
    attentions = [one.block for one in spec.attention if one]
    assert set(attentions) == {block}
    assert spec.attention[-1] is not None
    assert spec.output_shape((5, 1, 8, 8), "channels_first") == (5, 10)
    start = networks.initial(spec)
    for value in start.tensors.values():
        assert (value.astype(np.float32) == value).all()
    # Nothing that is compared in inference may be inert in training alone: it drifts.
    assert spec.inert(True) == spec.inert(False)
    with pytest.raises(SpecError, match="received block 'sea'; expected one of se"):
        networks.network("sea")


def test_the_networks_that_take_maxima_are_known():
    assert networks.takes_maxima("cbam")
    assert not networks.takes_maxima("se")


def test_the_gradient_of_the_cross_entropy_is_its_slope():
    rng = np.random.default_rng(0)
    logits, labels, direction = rng.normal(size=(5, 10)) * 3, rng.integers(0, 10, 5), rng.normal(size=(5, 10))
    _, gradient = reference.cross_entropy(logits, labels)
    h = 2.0**-17
    ahead, behind = (reference.cross_entropy(logits + sign * h * direction, labels)[0] for sign in (1, -1))
    assert abs((ahead - behind) / (2 * h) - (gradient * direction).sum()) < h
    # No logit is too large.
    loss, _ = reference.cross_entropy(logits, labels)
    assert abs(reference.cross_entropy(logits + 1000.0, labels)[0] - loss) < tolerances.EPSILON["float32"]


def test_the_oracle_learns_and_leaves_what_is_inert():
    spec = networks.network("se", conv_bias=True)
    start = networks.initial(spec)
    trained = reference.train(start, optimizers.ADAM, "torch", steps=40)
    assert trained.losses[0] > 2 > trained.losses[-1]
    moved = {name for name, value in trained.weights.items() if (value != start.tensors[name]).any()}
    assert moved == set(start.tensors) - {"conv1.bias", "conv2.bias"}
    # One step of plain descent, by hand.
    images, chosen = data.digits(), data.batches(1)[0]
    weights = {name: given(value) for name, value in start.tensors.items()}
    logits, _ = oracle.forward(spec, weights, given(images.x[chosen]), True)
    loss, cotangent = reference.cross_entropy(logits.value, images.labels[chosen])
    assert loss == trained.losses[0]
    found = oracle.evaluate(spec, start.tensors, images.x[chosen], cotangent=cotangent, training=True)
    once = reference.train(start, optimizers.SGD, "any", steps=1)
    gradients = {name: value.value for name, value in found.items() if name.startswith("grad.")}
    rate = optimizers.SGD.learning_rate
    for name, value in start.tensors.items():
        if not is_statistic(name) and name not in spec.inert(True):
            assert np.array_equal(once.weights[name], value - rate * gradients[f"grad.{name}"]), name


def test_the_formulas_of_adam_are_those_of_the_frameworks():
    torch = pytest.importorskip("torch")
    keras = pytest.importorskip("keras")
    assert inspect.signature(torch.optim.Adam).parameters["eps"].default == optimizers.ADAM_FORMULAS["torch"].epsilon
    assert inspect.signature(torch.optim.Adam).parameters["betas"].default == optimizers.BETAS
    defaults = keras.optimizers.Adam()
    assert defaults.epsilon == optimizers.ADAM_FORMULAS["keras"].epsilon
    assert (defaults.beta_1, defaults.beta_2) == optimizers.BETAS
    # The formulas differ in their first step already where gradients are small, and agree where epsilon vanishes.
    first = {}
    for name in optimizers.ADAM_FORMULAS:
        step = optimizers.ADAM.begin(name)
        first[name] = step({"w": np.zeros(2)}, {"w": np.array([1.0, 1e-6])})["w"]
    small = [value[1] for value in first.values()]
    assert len(set(small)) == len(small)
    assert np.ptp([value[0] for value in first.values()]) < max(f.epsilon for f in optimizers.ADAM_FORMULAS.values())
    with pytest.raises(SpecError, match="received framework 'mxnet'; expected one of torch"):
        optimizers.ADAM.begin("mxnet")


def test_self_attention_learns_at_a_lower_rate():
    calm = optimizers.optimizer_of("sgd", networks.network("multi_head_eca")).learning_rate
    assert calm < optimizers.optimizer_of("sgd", networks.network("se")).learning_rate == optimizers.SGD.learning_rate
    with pytest.raises(SpecError, match="received optimizer 'lion'; expected one of sgd, adam"):
        optimizers.optimizer_of("lion", networks.network("se"))


@pytest.mark.slow
@needs_pair
def test_two_frameworks_train_as_the_oracle_does(report):
    assert report.agreed, [outcome.explain() for outcome in report.outcomes if not outcome.agreed]
    jobs = {(outcome.job, outcome.backend) for outcome in report.outcomes}
    assert len(jobs) == len(report.outcomes) == 2 * 8  # optimisers x dtypes x with and without inert biases
    for outcome in report.outcomes:
        assert outcome.trained.losses.shape == (STEPS,)
        assert outcome.job.optimizer == "sgd" or outcome.trained.losses[-1] < outcome.trained.losses[0]
        names = [figure.name for figure in outcome.figures]
        assert names == ["loss", "weights"] if outcome.job.biased else ["loss", "weights", "logits", "images"]
    assert set(report.apart) == {"se"}
    assert report.apart["se"].error > 0


@pytest.mark.slow
@needs_pair
def test_inert_biases_drift_on_noise_under_adam(report):
    drift = {
        outcome.job.dtype: outcome.drift["conv1.bias"]
        for outcome in report.outcomes
        if outcome.drift and (outcome.backend, outcome.job.optimizer) == ("torch", "adam")
    }
    noise = tolerances.EPSILON["float32"]
    assert drift["float64"] < noise < 100 * noise < drift["float32"]
    still = [o.drift for o in report.outcomes if o.drift and o.job.optimizer == "sgd" and o.job.dtype == "float64"]
    assert all(far < tolerances.EPSILON["float32"] ** 2 for one in still for far in one.values())


@pytest.mark.slow
@needs_pair
def test_each_formula_of_adam_is_told_from_the_others(report, monkeypatch):
    """The oracle's training by one framework's formula is none of the other's."""
    job = run.Job("se", "adam", "float64")
    for backend, framework in zip(PAIR, ("keras", "torch"), strict=True):
        wrong = report.references[job, framework]
        outcome = run._outcome(job, backend, report.of(job, backend).trained, wrong)
        assert not outcome.agreed
        assert "loss: off by" in outcome.explain()
        assert f"parity train-demo --backend {backend} --block se --optimizer adam --dtype float64" in outcome.explain()


@pytest.mark.slow
@needs_pair
@pytest.mark.parametrize("spoil", ["weight", "statistic", "logits", "loss"])
def test_what_is_off_leaves_the_envelope(report, spoil):
    job = run.Job("se", "sgd", "float32")
    good, expected = report.of(job, "torch").trained, report.references[replace(job, dtype="float64"), "any"]
    name = {"weight": "head.kernel", "statistic": "norm1.variance"}.get(spoil)
    weights = dict(good.weights)
    if name:
        weights[name] = weights[name] * 1.1
    bad = reference.Trained(
        np.append(good.losses[:-1], np.nan) if spoil == "loss" else good.losses,
        weights,
        good.logits[:, ::-1] if spoil == "logits" else good.logits,
        {},
    )
    assert run._outcome(job, "torch", good, expected).agreed
    outcome = run._outcome(job, "torch", bad, expected)
    left = {figure.name for figure in outcome.figures if figure.ratio > 1}
    assert left == {"weight": {"weights"}, "statistic": {"weights"}, "logits": {"logits", "images"}}.get(
        spoil, {"loss"}
    )


@pytest.mark.slow
@needs_pair
@pytest.mark.parametrize("dtype", run.DTYPES)
def test_a_training_changes_the_framework_without_a_seam(dtype):
    ring = run.around([*PAIR, PAIR[0]], run.Job("se", "sgd", dtype), steps=4)
    assert ring.within, (ring.error, ring.worst)
    assert ring.agreed
    assert len(ring.losses) == 12


@pytest.mark.slow
@needs_pair
@pytest.mark.parametrize("planted", run.PLANTED)
def test_a_mistake_at_a_seam_is_seen(planted):
    ring = run.around([*PAIR, PAIR[0]], run.Job("se", "sgd", "float32"), planted, steps=4)
    assert not ring.error
    assert not ring.within
    assert ring.agreed  # it is meant to be seen
    # Up to the first seam nothing is wrong.
    assert np.abs(ring.losses - ring.expected)[:4].max() <= ring.allowed


@pytest.mark.slow
@needs_pair
def test_the_velocity_is_that_of_the_oracle_whatever_the_framework_holds():
    job = run.Job("se", "sgd", "float64")
    expected = reference.train(job.initial, job.asked, "any", steps=3).velocity
    for backend in PAIR:
        trained = run.train(backend, job, steps=3)
        assert set(trained.velocity) == {name for name in expected if not is_statistic(name)}
        for name, value in trained.velocity.items():
            allowed = job.envelope.weights.tolerance * np.abs(expected[name]).max()
            assert np.abs(value - expected[name]).max() <= allowed, (backend, name)
        # What is brought comes back, moved on by the steps that are taken: none of a gradient, where it is inert.
        start = Block(
            job.initial.name,
            job.initial.spec,
            trained.weights,
            {VELOCITY + name: value for name, value in trained.velocity.items()},
        )
        again = run.train(backend, job, steps=1, start=start, first=3)
        whole = reference.train(job.initial, job.asked, "any", steps=4)
        for name, value in again.velocity.items():
            assert np.abs(value - whole.velocity[name]).max() <= job.envelope.weights.tolerance


@pytest.mark.slow
def test_a_worker_that_dies_is_a_failed_training(monkeypatch):
    def die(*arguments, **options):
        raise BackendDiedError("the worker of backend 'torch' was killed by SIGKILL")

    monkeypatch.setattr(client, "train", die)
    report = run.judge([run.Job("se", "sgd", "float64")], ["torch"], steps=1)
    (outcome,) = report.outcomes
    assert not report.agreed
    assert "BackendDiedError: the worker of backend 'torch' was killed by SIGKILL" in outcome.explain()


def test_an_optimizer_that_a_package_does_not_know():
    pytest.importorskip("torch")
    from attention_torch import ECA, adapter

    with pytest.raises(InputError, match="received optimizer 'lion'; expected one of sgd, adam"):
        adapter.trainer(ECA(4), {}, data_format="channels_first", optimizer="lion", learning_rate=1.0, momentum=0.0)


COMMAND = ["train-demo", "--backend", "torch", "--block", "se", "--optimizer", "sgd", "--steps", "2", "--no-ring"]


@pytest.mark.slow
def test_the_command_draws_tells_and_agrees(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert cli.main([*COMMAND, "--out", str(tmp_path / "new"), "--json"]) == cli.AGREED
    printed = capsys.readouterr()
    assert "all 4 trainings and 0 rings keep within their envelopes" in " ".join(printed.err.split())
    told = json.loads(printed.out)
    assert told["agreed"]
    assert {(o["dtype"], o["inert_biases"]) for o in told["outcomes"]} == {
        (dtype, biased) for dtype in run.DTYPES for biased in (True, False)
    }
    assert all(len(outcome["losses"]) == 2 for outcome in told["outcomes"])
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"se.png", "se.svg", "report.txt"}
    assert "sgd, float64: loss" in (tmp_path / "new" / "report.txt").read_text()


@pytest.mark.slow
def test_a_curve_that_leaves_its_envelope_is_an_exit_status(monkeypatch, capsys):
    narrow = replace(tolerances.TRAINING["sgd", "float32"], loss=tolerances.Row(1e-30, None))
    monkeypatch.setattr(tolerances, "TRAINING", tolerances.TRAINING | {("sgd", "float32"): narrow})
    assert cli.main([*COMMAND, "--dtype", "float32"]) == cli.DISAGREED
    printed = capsys.readouterr()
    assert "loss: off by" in printed.err
    assert "allowed 1e-30" in printed.err
    assert "2 of 2 trainings and 0 rings are not as they should be" in " ".join(printed.out.split())


def test_a_folder_that_is_a_file_is_refused_before_the_work(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert cli.main([*COMMAND, "--out", str(file)]) == cli.MISUSED
    assert "expected a folder" in capsys.readouterr().err


@pytest.mark.slow
@needs_pair
def test_figures_are_drawn_and_come_out_the_same_again(report, tmp_path):
    pytest.importorskip("matplotlib")
    from parity.training import figures

    first, second = (figures.draw(report, tmp_path / name) for name in ("a", "b"))
    assert [file.name for file in first] == ["se.png", "se.svg"]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    text = first[1].read_text()
    assert "<dc:date>" not in text
    assert str(tmp_path) not in text
    # A backend whose curve is another one is drawn elsewhere.
    moved = replace(report.outcomes[0], trained=replace(report.outcomes[0].trained, losses=np.ones(STEPS)))
    other = replace(report, outcomes=[moved, *report.outcomes[1:]])
    changed = figures.draw(other, tmp_path / "c")
    assert changed[0].read_bytes() != first[0].read_bytes()
