"""Workers: warm, honest about absence and crashes, and gone when nobody needs them."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import parity
from parity import backends, cases, client, run
from parity.backends import Backend
from parity.block import Block
from parity.errors import BackendCrashedError, BackendMissingError, DeviceMissingError, InputError
from parity.faults import Limits
from parity.spec import CBAMOptions, SqueezeExcitationOptions

SPEC = SqueezeExcitationOptions(reduction=4).resolve(12, 2)
BLOCK = parity.Block("se", SPEC, {name: np.full(shape, 0.1) for name, shape in SPEC.parameters().items()})
X = np.ones((2, 12, 5, 7))

# A backend whose package each test writes: its adapter answers as the test needs.
ADAPTER = """
import os, sys, time
KERNELS_LAST = False
def describe(): return {"framework": "toy", "version": "1", "devices": {"cpu": "cpu"}}
def prepare(tf32): return {}
def owns(model): return model == "model"
def build(spec, **_): BUILD
def find_blocks(model, wanted): raise RuntimeError("not reached")
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Registers a backend "toy" whose `build` runs the given statement."""

    def register(statement, requires=("numpy",), on_import=""):
        package = tmp_path / "toy_backend"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("")
        (package / "adapter.py").write_text(on_import + ADAPTER.replace("BUILD", statement))
        # The worker reads the same registry: a sitecustomize adds the line there too.
        line = f"Backend('toy', 'toy_backend', {requires!r})"
        (tmp_path / "sitecustomize.py").write_text(
            f"from parity.backends import BACKENDS, Backend\nBACKENDS['toy'] = {line}\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setitem(backends.BACKENDS, "toy", Backend("toy", "toy_backend", requires))

    yield register
    client.close()


def test_the_second_call_finds_a_warm_worker():
    parity.evaluate(BLOCK, X)
    first = client.worker("torch")
    parity.evaluate(BLOCK, X)
    assert client.worker("torch") is first


def test_results_are_named_as_documented():
    spec = CBAMOptions(reduction=4, kernel_size=3).resolve(12, 2)
    block = parity.Block("b", spec, {name: np.full(shape, 0.1) for name, shape in spec.parameters().items()})
    x = np.random.default_rng(0).normal(size=(2, 12, 5, 7))
    assert set(parity.evaluate(block, x)) == {"output"}
    result = parity.evaluate(block, x, cotangent=x, training=True, dtype="float32")
    weights = {f"grad.{name}" for name in spec.parameters() if not name.endswith(("mean", "variance"))}
    statistics = {"after.spatial.norm.mean", "after.spatial.norm.variance"}
    assert set(result) == {"output", "grad.input"} | weights | statistics
    assert {str(value.dtype) for value in result.values()} == {"float32"}


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({"backend": "caffe"}, BackendMissingError, "received backend 'caffe'; expected one of torch, "),
        ({"device": "tpu"}, DeviceMissingError, "received device 'tpu'; expected one of cpu, gpu"),
        ({"device": "any"}, DeviceMissingError, "received device 'any'; expected one of cpu, gpu"),
        ({"dtype": "float8"}, InputError, "received dtype 'float8'; expected one of float64, float32"),
        ({"cotangent": np.ones(3)}, InputError, "received a cotangent of shape (3,); expected the output's shape"),
        ({"training": "no"}, InputError, "received training='no'; expected True or False"),
        ({"steps": 1.5}, InputError, "received steps=1.5; expected an integer of at least 0"),
        ({"steps": 1}, InputError, "received steps=1 without a cotangent"),
        ({"data_format": "channels_last"}, InputError, "7 channels on axis 3; expected 12 channels"),
    ],
)
def test_bad_requests_are_refused_with_a_sentence(arguments, kind, sentence):
    with pytest.raises(kind) as caught:
        parity.evaluate(BLOCK, X, **arguments)
    assert sentence in str(caught.value)


def test_no_gpu_is_said_so():
    if "gpu" in client.describe("torch")["devices"]:
        pytest.skip("this machine has one")
    with pytest.raises(DeviceMissingError, match="backend 'torch' sees no gpu; expected one of its devices: cpu"):
        parity.evaluate(BLOCK, X, device="gpu")


def test_an_error_of_the_block_comes_through_as_itself():
    spec = CBAMOptions(reduction=4, kernel_size=3).resolve(12, 2)
    block = parity.Block("b", spec, {name: np.full(shape, 0.1) for name, shape in spec.parameters().items()})
    with pytest.raises(InputError, match="received one value per channel for a batch norm in training mode"):
        parity.evaluate(block, X[:1, :, :1, :1], training=True)


def test_a_missing_package_is_named(toy):
    toy("pass", requires=("no_such_framework",))
    with pytest.raises(BackendMissingError, match="backend 'toy' needs no_such_framework, not installed here"):
        parity.evaluate(BLOCK, X, backend="toy")


def test_a_crash_shows_what_the_process_wrote(toy):
    toy("sys.stderr.write('out of luck'); sys.stderr.flush(); os._exit(7)")
    told = r"(?s)worker of backend 'toy' ended by itself \(exit status 7\).*out of luck"
    with pytest.raises(BackendCrashedError, match=told):
        parity.evaluate(BLOCK, X, backend="toy")


def test_a_signal_is_named(toy):
    toy("os.kill(os.getpid(), 9)")
    with pytest.raises(BackendCrashedError, match="worker of backend 'toy' was killed by SIGKILL"):
        parity.evaluate(BLOCK, X, backend="toy")


def test_an_exception_shows_its_traceback_and_the_worker_lives_on(toy):
    toy("raise ZeroDivisionError('too clever')")
    for _ in range(2):
        with pytest.raises(BackendCrashedError, match=r"(?s)backend 'toy' failed: too clever.*ZeroDivisionError"):
            parity.evaluate(BLOCK, X, backend="toy")
    assert client.worker("toy").alive


def test_a_hang_ends(toy):
    toy("time.sleep(60)")
    worker = client.Worker("toy", limits=Limits(patience=1))
    with pytest.raises(BackendCrashedError, match="hung: it gave no answer in 1 s, and was ended"):
        worker.run(BLOCK, X)
    worker.close()
    assert not worker.alive


def test_a_crash_is_one_red_row_and_the_run_goes_on(toy):
    toy("os._exit(7)")
    chosen = [case for case in cases.standard() if case.id.startswith("se-default-1d-odd-first")]
    report = run.judge(chosen, ["toy", "torch"])
    assert not report.agreed
    assert {outcome.backend for outcome in report.failures} == {"toy"}
    assert all(outcome.agreed for outcome in report.outcomes if outcome.backend == "torch")
    command = "reproduce: parity run --backend toy --case se-default-1d-odd-first-float64-eval"
    assert command in report.failures[0].explain()


def test_a_backend_that_cannot_start_is_one_red_row(toy):
    toy("pass", on_import="import os; os._exit(3)")
    chosen = [cases.find("se-default-1d-odd-first-float64-eval")]
    report = run.judge(chosen, ["toy", "torch"])
    assert report.judged == ["torch", "toy"]
    assert len(report.failures) == 1, [failure.explain() for failure in report.failures]
    (failure,) = report.failures
    assert (failure.backend, failure.agreed) == ("toy", False)
    assert "ended by itself (exit status 3)" in failure.explain()


def test_a_request_that_was_broken_off_leaves_no_answer_for_the_next(monkeypatch):
    parity.evaluate(BLOCK, X)
    first = client.worker("torch")
    with monkeypatch.context() as patch:
        patch.setattr(client.Worker, "_receive", lambda self, patience: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            parity.evaluate(BLOCK, X)
    assert parity.evaluate(BLOCK, 2 * X)["output"].shape == X.shape
    assert client.worker("torch") is not first


def test_a_dead_worker_is_replaced():
    parity.evaluate(BLOCK, X)
    first = client.worker("torch")
    os.kill(first._process.pid, signal.SIGKILL)
    first._process.wait()
    assert parity.evaluate(BLOCK, X)["output"].shape == X.shape
    assert client.worker("torch") is not first


def test_workers_end_with_the_interpreter():
    script = (
        "from parity import client; import os\n"
        "print(client.worker('torch')._process.pid, flush=True)\n"
        "os._exit(0)\n"  # no atexit: the worker must notice by itself
    )
    pid = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}"):
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{pid}")


def test_weights_without_a_rank_take_that_of_the_input():
    """SE's and ECA's weights are the same for maps of any rank; a CBAM's kernel is not."""
    (block,) = parity.read({"fc.0.weight": np.ones((2, 4)), "fc.2.weight": np.ones((4, 2))}, "senet.pytorch/SELayer")
    assert block.spec.spatial_dims == 2
    flat = parity.evaluate(block, np.ones((1, 4, 6)), backend="torch")["output"]
    deep = parity.evaluate(block, np.ones((1, 4, 1, 2, 3)), backend="torch")["output"]
    assert np.array_equal(flat, deep.reshape(flat.shape))
    spec = CBAMOptions(reduction=2).resolve(4)
    cbam = Block("cbam", spec, {name: np.ones(shape) for name, shape in spec.parameters().items()})
    with pytest.raises(InputError, match="received an input of shape"):
        parity.evaluate(cbam, np.ones((1, 4, 6)), backend="torch")
