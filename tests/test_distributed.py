"""Two replicas, each with a part of the batch, train as one process does on the whole; and the comparison can fail."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import parity
from parity import backends, cli, client, distributed, oracle
from parity.cases import Case
from parity.compare import compare
from parity.distributed import NONE, PER_REPLICA, SYNCHRONIZED, WAYS, Job, _launch
from parity.distributed._expected import expected, joined
from parity.errors import BackendCrashedError, BackendDiedError
from parity.faults import NORMAL, Limits
from parity.spec import SPECS, BatchNorm, is_statistic

# Between them they train every block and both uses of a norm in each way; `parity distributed` trains all in all.
PLANS = {
    "torch": {},
    "keras-layers@tensorflow": {"dtypes": ("float64",), "blocks": ("eca", "cbam")},
    "keras-layers@jax": {"dtypes": ("float64",), "blocks": ("se", "ca")},
    "keras-layers@torch": {"dtypes": ("float64",), "blocks": ("se", "ca")},
    "keras-functional@tensorflow": {"dtypes": ("float32",), "blocks": ("ca",)},
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", PLANS)
def test_two_replicas_compute_what_one_does(backend):
    if backends.BACKENDS[backend].missing():
        pytest.skip("not installed")
    outcomes = distributed.judge(distributed.plan([backend], **PLANS[backend]))
    wrong = [outcome.explain() for outcome in outcomes if not outcome.agreed and not outcome.impossible]
    assert not wrong, wrong[0]
    impossible = {outcome.job.norm for outcome in outcomes if outcome.impossible}
    assert impossible == ({PER_REPLICA} if backend.endswith("jax") else set())
    for outcome in outcomes:
        names = {comparison.name for comparison in outcome.comparisons}
        statistics = [name for name in outcome.job.case.spec.parameters() if is_statistic(name)]
        after = {
            f"{when}.replica{number}.{name}" for name in statistics for number in (0, 1) for when in ("after", "step3")
        }
        assert outcome.impossible or {"output", "grad.input", *after} <= names


def test_every_backend_has_a_way_or_a_reason():
    assert set(WAYS) | set(distributed.without_a_way()) == set(backends.BACKENDS)
    assert {way.module for way in WAYS.values()} == {WAYS[backend].module for backend in PLANS}


def test_the_plan_has_every_block_and_both_uses_of_a_norm():
    norms = {(job.case.block, job.norm) for job in distributed.plan(list(WAYS))}
    with_norm = {(block, norm) for block in distributed.VARIANTS for norm in distributed.NORMS}
    assert norms == with_norm | {(block, NONE) for block in SPECS}
    # Both estimators of the variance, and batches that two replicas cannot share evenly.
    jobs = [job for job in distributed.plan(["torch"]) if job.norm != NONE]
    kinds = {getattr(job.case.spec, "norm", None) or job.case.spec.spatial_norm for job in jobs}
    assert {norm.unbiased_variance for norm in kinds} == {True, False}
    assert {job.case.problem().x.shape[0] for job in jobs} == {3}


def case(variant="default", block="cbam"):
    return Case(block, variant, 2, "even", "channels_first", "float64", True)


def failures(wanted, got):
    return {comparison.name for comparison in compare(wanted, got, dtype="float64", device="cpu") if comparison.failure}


@pytest.fixture
def sabotaged(tmp_path, monkeypatch):
    """The way of torch, with a statement run in each process before it trains."""

    def make(statement):
        (tmp_path / "sabotaged_way.py").write_text(
            "import os, signal, sys\n"
            "from attention_torch import _norm\n"
            "from parity.distributed import _replica, torch_ddp\n"
            f"{statement}\n"
            "torch_ddp.main(*sys.argv[1:])\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return dataclasses.replace(WAYS["torch"], module="sabotaged_way")

    return make


# Mistakes of data-parallel training, in one statement each; what they spoil, and what they do not.
MISTAKES = {
    "nothing": ("", set(), set()),
    "unscaled": (
        "torch_ddp.loss_scale = lambda: 1",
        {"grad.replica0.channel.fc1.kernel", "step1.replica1.channel.fc1.kernel"},
        {"output", "grad.input", "after.replica0.spatial.norm.mean"},
    ),
    "alone": (
        "torch_ddp.DistributedDataParallel = lambda model: model",
        {"grad.replica0.channel.fc1.kernel", "step2.replica1.spatial.conv.kernel"},
        {"output", "after.replica1.spatial.norm.variance"},
    ),
    "unsynchronised": (
        "_norm.SynchronizedBatchNormalization.total = lambda self, u: u",
        {"output", "grad.input", "after.replica0.spatial.norm.mean", "grad.replica0.channel.fc1.kernel"},
        set(),
    ),
    "sum without gradient": (
        "_norm._Total.backward = staticmethod(lambda context, *slopes: (slopes[0], None))",
        {"grad.input", "grad.replica0.channel.fc1.kernel"},
        {"output", "after.replica0.spatial.norm.mean", "grad.replica0.spatial.norm.scale"},
    ),
}


@pytest.mark.slow
def test_mistakes_of_data_parallel_training_are_seen(sabotaged):
    # One pair of processes for all of them: each training begins with what the modules were.
    way = sabotaged(
        f"statements = {[statement for statement, *_ in MISTAKES.values()]}\n"
        "train, own = torch_ddp.train, dict(vars(torch_ddp))\n"
        "total = _norm.SynchronizedBatchNormalization.total\n"
        "backward = _norm._Total.__dict__['backward']\n"
        "def mistaken(*arguments):\n"
        "    vars(torch_ddp).update(own)\n"
        "    _norm.SynchronizedBatchNormalization.total, _norm._Total.backward = total, backward\n"
        "    exec(statements.pop(0), globals())\n"
        "    yield from train(*arguments)\n"
        "own['train'] = mistaken\n"
        "torch_ddp.train = mistaken"
    )
    chosen = case("keras-norm")
    problem = chosen.problem()
    results = _launch.run("torch", "cpu", way, [(problem, chosen, True)] * len(MISTAKES), NORMAL)
    wanted = expected(chosen, problem, False, True)
    for result, (_, wrong, right) in zip(results, MISTAKES.values(), strict=True):
        found = failures(wanted, joined(result))
        assert wrong <= found
        assert not right & found
        assert bool(wrong) == bool(found)


@pytest.mark.slow
def test_statistics_of_a_part_are_not_taken_for_those_of_the_batch():
    """What each of both computes is held against what the other should."""
    problem = case().problem()
    requests = [(problem, case(), synchronized) for synchronized in (False, True)]
    apart, together = (joined(result) for result in _launch.run("torch", "cpu", WAYS["torch"], requests, NORMAL))
    wanted_apart, wanted_together = (expected(case(), problem, per_replica, True) for per_replica in (True, False))
    assert not failures(wanted_apart, apart)
    assert not failures(wanted_together, together)
    spoiled = {"output", "grad.input", "after.replica0.spatial.norm.mean", "step1.replica1.channel.fc1.kernel"}
    assert spoiled <= failures(wanted_apart, together)
    assert spoiled <= failures(wanted_together, apart)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "a replica of backend 'torch' was killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", "the replicas of backend 'torch' hung: they gave no answer in 2 s"),
    ],
)
def test_a_replica_that_dies_or_hangs_is_told(sabotaged, act, sentence):
    way = sabotaged(
        "train, seen = torch_ddp.train, []\n"
        "def fault(*arguments):\n"
        "    seen.append(1)\n"
        f"    len(seen) == 2 and arguments[-1] == 1 and {act}\n"
        "    yield from train(*arguments)\n"
        "torch_ddp.train = fault"
    )
    chosen = case(block="eca")
    first, second, third = _launch.run("torch", "cpu", way, [(chosen.problem(), chosen, False)] * 3, Limits(patience=2))
    assert not failures(expected(chosen, chosen.problem(), False, True), joined(first))
    assert isinstance(second, BackendDiedError)
    assert sentence in str(second)
    assert isinstance(third, BackendCrashedError)
    assert f"not run: {sentence}" in str(third)


@pytest.mark.slow
def test_replicas_end_with_the_harness():
    script = (
        "import os, pathlib, tempfile\n"
        "from parity.distributed import WAYS, _launch\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "rank = _launch._Rank(folder, 'torch', 'cpu', WAYS['torch'], 1)\n"
        "print(rank.process.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    pid = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}"):
            time.sleep(0.1)
        assert not os.path.exists(f"/proc/{pid}")
    finally:
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("unbiased", [True, False])
def test_pytorchs_conversion_keeps_the_spec(unbiased):
    """`SyncBatchNorm` follows the unbiased variance and refuses the CPU; in a block it becomes a norm that does not."""
    torch = pytest.importorskip("torch")
    from attention_torch import CBAM
    from attention_torch._norm import SynchronizedBatchNormalization

    norm = BatchNorm(update_rate=0.5, unbiased_variance=unbiased)
    block = CBAM(12, reduction=4, kernel_size=3, spatial_norm=norm, dtype=torch.float64)
    x = torch.tensor(np.random.default_rng(0).normal(size=(2, 12, 5, 7)))
    weights = {name: value.copy() for name, value in parity.blocks_of(block)[0].tensors.items()}
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(block))
    again = copy.deepcopy(torch.nn.SyncBatchNorm.convert_sync_batchnorm(converted))
    made = again[0].spatial.norm
    assert isinstance(made, SynchronizedBatchNormalization)
    assert made.norm == norm
    assert list(again[0].state_dict()) == list(CBAM(12, reduction=4, spatial_norm=norm).state_dict())
    # Alone, it is a batch norm.
    got = {"output": again(x).detach().numpy()}
    got |= {
        "after.spatial.norm.mean": made.running_mean.numpy(),
        "after.spatial.norm.variance": made.running_var.numpy(),
    }
    wanted = oracle.evaluate(block.spec, weights, x.numpy(), training=True)
    assert not failures(wanted, got)
    assert int(made.num_batches_tracked) == 1
    wanted = oracle.evaluate(block.spec, parity.blocks_of(again[0])[0].tensors, x.numpy())
    assert not failures(wanted, {"output": again.eval()(x).detach().numpy()})
    with pytest.raises(parity.ParityError, match="received one value per channel"):
        again.train()(x[:1, :, :1, :1])


@pytest.mark.slow
def test_a_keras_model_keeps_its_synchronised_norms(tmp_path):
    """They are saved with the model, and no part of the spec: one device computes the same."""
    pytest.importorskip("keras")
    script = """
import keras
from attention_keras import functional, layers
from attention_keras._norm import BatchNormalization
x = keras.Input((5, 7, 12))
for synchronized in (False, True):
    options = {"reduction": 4, "data_format": "channels_last", "synchronized": synchronized}
    y = functional.coordinate_attention(functional.cbam(x, **options), **options)
    y = layers.CoordinateAttention(**options)(layers.CBAM(**options)(y))
    keras.Model(x, y).save("model.keras")
    loaded = keras.models.load_model("model.keras")
    norms = [layer for layer in loaded._flatten_layers() if isinstance(layer, BatchNormalization)]
    specs = [layer.spec.to_json() for layer in loaded.layers if hasattr(layer, "spec")]
    print(len(norms), {norm.synchronized for norm in norms} == {synchronized}, len(specs), "synchronized" in str(specs))
"""
    engines = ("tensorflow", "jax", "torch")
    engine = next(name for name in engines if not backends.BACKENDS[f"keras-layers@{name}"].missing())
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"KERAS_BACKEND": engine},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["4 True 2 False"] * 2, done.stderr[-3000:]


@pytest.mark.slow
def test_the_command_line_tells_what_ran_and_what_cannot(capsys):
    command = ["distributed", "--backend", "torch", "--block", "cbam", "--dtype", "float64", "--json"]
    assert cli.main(command) == cli.AGREED
    printed = capsys.readouterr()
    assert "trainings agree with the oracle on the joined batch" in printed.err
    told = json.loads(printed.out)
    assert told["agreed"]
    assert {(o["norm"], o["device"]) for o in told["outcomes"]} == {
        (NONE, "cpu"),
        (PER_REPLICA, "cpu"),
        (SYNCHRONIZED, "cpu"),
        (SYNCHRONIZED, "gpu"),
    }
    if "gpu" not in client.describe("torch")["devices"]:
        reason = "not possible on this machine: backend 'torch' sees no gpu"
        assert {o["impossible"] for o in told["outcomes"] if o["device"] == "gpu"} == {reason}
        assert f"(1) {reason}" in printed.err
        assert cli.main([*command[:-1], "--device", "gpu"]) == cli.DISAGREED
        assert "nothing ran" in capsys.readouterr().out
    assert cli.main(["distributed", "--backend", "tf1compat"]) == cli.MISUSED


def test_a_failure_names_the_command_that_shows_it_again():
    outcome = distributed.Outcome(Job("torch", case(), SYNCHRONIZED), error="BackendDiedError: gone")
    assert (
        "case cbam-default-2d-even-first-float64-train, norm synchronized\nBackendDiedError: gone" in outcome.explain()
    )
    command = "parity distributed --backend torch --block cbam --dtype float64 --device cpu"
    assert outcome.explain().endswith(command)
