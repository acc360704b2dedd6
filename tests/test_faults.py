"""A worker that is killed, hangs or runs out of memory is reported as that, and the run goes on."""

import contextlib
import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest

import parity
from parity import backends, cli, client, run
from parity.backends import Backend
from parity.cases import Case
from parity.errors import BackendDiedError, InputError
from parity.faults import TOLD, Limits, ending, is_out_of_memory
from parity.spec import SqueezeExcitationOptions

SPEC = SqueezeExcitationOptions(reduction=4).resolve(12, 2)
BLOCK = parity.Block("se", SPEC, {name: np.full(shape, 0.1) for name, shape in SPEC.parameters().items()})
X = np.ones((2, 12, 5, 7))

# The torch backend, but for options with which it meets with a fault.
ADAPTER = """
import ctypes, os, pathlib, signal
import torch
from attention_torch import adapter
from attention_torch.adapter import *

with pathlib.Path(__file__).with_name("starts").open("a") as log:
    log.write("x")

def write(text):
    os.write(2, text.encode())
    os.abort()

FAULTS = {
    "silu": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hard_swish": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "identity": lambda: ctypes.string_at(0),
    "no bias": lambda: torch.empty(2**50),
    "5": lambda: write("terminate called after throwing an instance of 'std::bad_alloc'"),
    "hard_sigmoid": lambda: os._exit(3),
}

def build(spec, **options):
    signs = {spec.activation, str(spec.hidden_channels), spec.gate.kind} | ({"no bias"} if not spec.bias else set())
    for sign in signs & (FAULTS.keys() if ALWAYS is None else {ALWAYS}):
        FAULTS[sign]()
    if ALWAYS == "all":
        os._exit(9)
    return adapter.build(spec, **options)
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Registers a backend "faulty": torch's, with `ADAPTER`'s faults, or with one at every build."""

    def register(always=None):
        package = tmp_path / "faulty_backend"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "adapter.py").write_text(f"ALWAYS = {always!r}\n{ADAPTER}")
        (tmp_path / "sitecustomize.py").write_text(
            "from parity.backends import BACKENDS, Backend\n"
            "BACKENDS['faulty'] = Backend('faulty', 'faulty_backend', ('torch',))\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setitem(backends.BACKENDS, "faulty", Backend("faulty", "faulty_backend", ("torch",)))
        return package / "starts"

    yield register
    client.close()


@pytest.fixture
def worker():
    """A real worker of torch, with little patience."""
    made = client.Worker("torch", limits=Limits(patience=4))
    yield made
    made.close()


def case(variant, rank=1):
    return Case("se", variant, rank, "odd", "channels_first", "float64", False)


@pytest.mark.parametrize(
    ("signals", "sentence"),
    [
        ([signal.SIGKILL], "was killed by SIGKILL (the system kills processes when memory runs out, or somebody did)"),
        ([signal.SIGSEGV, signal.SIGCONT], "was killed by SIGSEGV"),
        ([], "hung: it gave no answer in 4 s, and was ended"),
    ],
)
def test_a_worker_that_ends_in_the_middle_of_a_request_is_told_so(worker, signals, sentence):
    pid = worker._process.pid
    os.kill(pid, signal.SIGSTOP)  # it has the request, and does not come to answer it

    def strike():
        time.sleep(0.3)
        for number in signals:
            os.kill(pid, number)

    striker = threading.Thread(target=strike)
    striker.start()
    with pytest.raises(BackendDiedError) as caught:
        worker.run(BLOCK, X)
    striker.join()
    assert f"the worker of backend 'torch' {sentence}" in str(caught.value)
    assert not worker.alive


def test_every_fault_is_one_red_row_and_the_rest_agrees(faulty):
    faulty()
    told = {
        "silu": "was killed by SIGKILL (the system kills",
        "hard-swish": "hung: it gave no answer in 5 s, and was ended",
        "linear": "was killed by SIGSEGV",
        "no-bias": "ran out of memory; it wrote:",
        "hidden5": "ran out of memory (SIGABRT)",
        "hard-sigmoid": "ended by itself (exit status 3)",
    }
    # Every fault with a sound case behind it: the worker starts anew.
    chosen = [case(variant, rank) for variant in told for variant, rank in ((variant, 1), ("default", 1))]
    report = run.judge(chosen, ["faulty", "torch"], jobs=1, limits=Limits(patience=5))
    seen = {outcome.case: outcome.error for outcome in report.failures}
    assert set(seen) == {case(variant).id for variant in told}
    for variant, sentence in told.items():
        assert f"BackendDiedError: the worker of backend 'faulty' {sentence}" in seen[case(variant).id]
    assert {outcome.backend for outcome in report.failures} == {"faulty"}
    assert sum(outcome.agreed for outcome in report.outcomes) == len(chosen) * 2 - len(told)


def test_a_backend_that_dies_with_every_case_is_given_up(faulty):
    starts = faulty("all")
    chosen = [case(variant, rank) for variant in ("default", "silu", "hidden5") for rank in (1, 2, 3)]
    report = run.judge(chosen, ["faulty"], jobs=1)
    assert len(report.failures) == len(chosen)
    told = [outcome.error for outcome in report.outcomes]
    assert all("ended by itself (exit status 9)" in error for error in told)
    assert ["not run: backend 'faulty' died 3 times in a row" in error for error in told] == [False] * 3 + [True] * 6
    assert len(starts.read_text()) == run.DEATHS


def test_an_answer_between_two_deaths_starts_the_count_anew():
    deaths = run._Deaths()
    for error in (BackendDiedError("a"), BackendDiedError("b"), None, BackendDiedError("c"), InputError("d")):
        deaths.note("torch", error)
        deaths.check("torch")
    assert not deaths._errors
    for letter in "efg":
        deaths.check("torch")
        deaths.note("torch", BackendDiedError(letter))
    with pytest.raises(parity.ParityError, match="died 3 times in a row, last: g"):
        deaths.check("torch")


@dataclasses.dataclass(frozen=True)
class Big(Case):
    """A case of a map of a hundred megabytes."""

    def problem(self):
        problem = super().problem()
        x = np.ones((64, 12, 2**14))
        return dataclasses.replace(problem, x=x, cotangent=x)


def test_a_worker_has_the_memory_that_it_is_given_and_no_more():
    big = Big(**vars(case("default")))
    chosen = [case("hidden5"), big, case("silu")]
    report = run.judge(chosen, ["torch"], jobs=1, limits=Limits(memory=0.45))
    client.close()
    assert [outcome.agreed for outcome in report.outcomes] == [True, False, True]
    assert "the worker of backend 'torch' (limited to 0.45 GiB) ran out of memory" in report.outcomes[1].error
    # The same map without the limit is answered: the numbers are another story.
    assert client.run("torch", "cpu", BLOCK, np.ones((64, 12, 2**7, 2**7)))["output"].size == 64 * 12 * 2**14


@pytest.mark.parametrize(
    "text",
    [
        "MemoryError: ",
        "_ArrayMemoryError: Unable to allocate 96.0 MiB for an array with shape (16, 12, 256, 256)",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB",
        "ResourceExhaustedError: OOM when allocating tensor with shape[64,12,16384] on /device:CPU:0 by allocator cpu",
        "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 100663296 bytes.",
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
        "OpenBLAS warning: Memory allocation still failed after 10 retries",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
)
def test_what_frameworks_say_when_memory_runs_out_is_understood(text):
    assert is_out_of_memory(text)
    assert ending(-signal.SIGABRT, text) == "ran out of memory (SIGABRT)"


@pytest.mark.parametrize("text", ["RuntimeError: mat1 and mat2 shapes cannot be multiplied", "Segmentation fault", ""])
def test_other_errors_are_not_taken_for_that(text):
    assert not is_out_of_memory(text)


def test_a_signal_without_a_name_has_its_number():
    assert ending(-40, "") == "was killed by signal 40"


@pytest.mark.parametrize("limits", [{"patience": 0}, {"patience": float("nan")}, {"memory": -1.0}])
def test_limits_that_mean_nothing_are_refused(limits):
    with pytest.raises(InputError, match="expected a positive number"):
        Limits(**limits)


def test_the_limits_are_options_of_the_command_line(capfd):
    command = ["run", "--backend", "torch", "--case", case("default").id, "--jobs", "1"]
    assert cli.main([*command, "--patience", "100", "--memory", "4"]) == cli.AGREED
    capfd.readouterr()
    assert cli.main([*command, "--memory", "0.1"]) == cli.DISAGREED
    assert "(limited to 0.1 GiB) ran out of memory" in capfd.readouterr().err
    assert cli.main([*command, "--memory", "1", "--device", "gpu"]) == cli.MISUSED
    assert "received --memory 1 with --device gpu; expected --device cpu" in capfd.readouterr().err
    for option in ("--patience", "--memory"):
        with pytest.raises(SystemExit), contextlib.redirect_stderr(None):
            cli.main([*command, option, "0"])


def test_a_signal_under_a_memory_limit_may_be_the_limits():
    """TensorFlow, for one, uses what it was not given."""
    assert ending(-signal.SIGSEGV, "", Limits(memory=1)).startswith(
        "was killed by SIGSEGV (perhaps by its memory limit"
    )


def test_a_reason_above_a_long_trace_is_found(faulty):
    faulty()
    trace = "    @ 0x7f00  somewhere()\n" * 1000
    assert len(trace) > TOLD
    worker = client.Worker("faulty")
    worker._errors.write_text(f"Check failed: RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes\n{trace}")
    os.kill(worker._process.pid, signal.SIGABRT)
    with pytest.raises(BackendDiedError, match=r"ran out of memory \(SIGABRT\)") as caught:
        worker.run(BLOCK, X)
    worker.close()
    assert len(str(caught.value)) < 2 * TOLD
