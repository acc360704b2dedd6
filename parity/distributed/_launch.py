"""The near end of the replicas: starts the processes of one backend, waits, and reads what they wrote."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from parity import exchange
from parity.backends import BACKENDS, DEVICE_ENVIRONMENT, ENVIRONMENT
from parity.cases import Case, Problem
from parity.distributed._replica import JOBS, REPLICAS, case_file, result_file
from parity.errors import BackendCrashedError, BackendDiedError, ParityError
from parity.faults import TOLD, Limits, ending, tail

if TYPE_CHECKING:
    from parity.distributed import Way

Request = tuple[Problem, Case, bool]  # the last: whether norms are synchronised
Result = list[dict[str, NDArray]] | ParityError  # of each replica


def run(backend: str, device: str, way: Way, requests: Sequence[Request], limits: Limits) -> list[Result]:
    """The results of each request. Where the processes fail, the request at hand has failed, and those behind it."""
    with tempfile.TemporaryDirectory(prefix="parity-") as name:
        folder = Path(name)
        _write(folder, requests)
        with contextlib.ExitStack() as stack:
            ranks = [stack.enter_context(_Rank(folder, backend, device, way, rank)) for rank in range(way.processes)]
            if device == "cpu":
                for rank in ranks:
                    limits.impose(rank.process.pid)
            failure = _wait(folder, backend, ranks, len(requests), limits)
        return _read(folder, backend, len(requests), failure)


def _write(folder: Path, requests: Sequence[Request]) -> None:
    jobs = []
    for number, (problem, case, synchronized) in enumerate(requests):
        tensors = {f"block/{name}": value for name, value in problem.block.tensors.items()}
        assert problem.cotangent is not None  # only a recording may have none
        tensors |= {"x": problem.x, "cotangent": problem.cotangent}
        exchange.write_tensors(case_file(folder, number), tensors, {}, durable=False)
        jobs.append(
            {
                "spec": problem.block.spec.to_json(),
                "data_format": case.data_format,
                "dtype": case.dtype,
                "synchronized": synchronized,
                "steps": problem.steps,
                "learning_rate": problem.learning_rate,
            }
        )
    (folder / JOBS).write_text(json.dumps(jobs))


class _Rank:
    """One process of a way, ended when it is left."""

    def __init__(self, folder: Path, backend: str, device: str, way: Way, rank: int) -> None:
        self.errors = folder / f"stderr{rank}"
        environment = os.environ | ENVIRONMENT | dict(BACKENDS[backend].environment) | DEVICE_ENVIRONMENT[device]
        with self.errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", way.module, str(folder), backend, device, str(rank)],
                env=environment | dict(way.environment),
                stdin=subprocess.PIPE,
                stdout=stderr,
                stderr=stderr,
            )

    def __enter__(self) -> _Rank:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    @property
    def written(self) -> str:
        """The end of what it wrote to its standard error."""
        return tail(self.errors)


def _wait(folder: Path, backend: str, ranks: list[_Rank], count: int, limits: Limits) -> ParityError | None:
    """Wait until every rank has ended well, or one has failed: why."""
    done, since = -1, time.monotonic()
    while True:
        statuses = [rank.process.poll() for rank in ranks]
        failed = [rank for rank, status in zip(ranks, statuses, strict=True) if status]
        if failed:
            return _failure(backend, failed[0], limits)
        if None not in statuses:
            return None
        finished = sum(_is_done(folder, number) for number in range(count))
        if finished > done:
            done, since = finished, time.monotonic()
        # The first answer has the imports in it.
        patience = limits.patience if done else max(limits.patience, Limits().patience)
        if time.monotonic() - since > patience:
            told = "\n".join(rank.written[-TOLD:] for rank in ranks)
            received = (
                f"the replicas of backend {backend!r} hung: they gave no answer in {patience:g} s, and were ended"
            )
            return BackendDiedError(received, remedy=f"they wrote:\n{told}")
        time.sleep(0.02)


def _failure(backend: str, rank: _Rank, limits: Limits) -> ParityError:
    status, written = rank.process.returncode, rank.written
    what = ending(status, written, limits)
    kind = BackendCrashedError if status == 1 else BackendDiedError  # 1 is a traceback's
    return kind(f"a replica of backend {backend!r} {what}", remedy=f"it wrote:\n{written[-TOLD:]}")


def _is_done(folder: Path, number: int) -> bool:
    return all(result_file(folder, number, replica).exists() for replica in range(REPLICAS))


def _read(folder: Path, backend: str, count: int, failure: ParityError | None) -> list[Result]:
    results: list[Result] = []
    failure = failure or BackendCrashedError(f"the replicas of backend {backend!r} left a job undone")
    behind = BackendCrashedError(f"not run: {str(failure).splitlines()[0]}")
    for number in range(count):
        if _is_done(folder, number):
            files = [result_file(folder, number, replica) for replica in range(REPLICAS)]
            results.append([exchange.read_tensors(file)[0] for file in files])
        else:
            results.append(failure)
            failure = behind
    return results
