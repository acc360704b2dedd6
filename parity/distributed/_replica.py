"""What the processes of every way share: they read jobs from a folder, and write what each replica computed.

``python -m <module of the way> FOLDER BACKEND DEVICE RANK`` finds ``jobs.json`` in FOLDER, and for each job its case
file; each replica's results go into ``<job>.<replica>.safetensors``. The process ends with its standard input, so that
none outlives the harness.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity import exchange
from parity.backends import BACKENDS, Adapter
from parity.block import Block, kernels_first
from parity.loading import load_blocks
from parity.spec import LiveBlock, is_statistic, spec_from_json

REPLICAS = 2

JOBS = "jobs.json"


@dataclass(frozen=True)
class Task:
    """One job as a process sees it: the whole batch, and what to do with it."""

    block: Block
    x: NDArray
    cotangent: NDArray
    data_format: str
    dtype: str
    synchronized: bool
    steps: int
    learning_rate: float


Train = Callable[[Adapter, Task], Iterable[tuple[int, Mapping[str, Any]]]]


def parts(batch: NDArray) -> list[NDArray]:
    """The part of each replica; where they cannot be even, the first has more."""
    return np.array_split(batch, REPLICAS)


def case_file(folder: Path, number: int) -> Path:
    """Where the numbers of a job are."""
    return folder / f"{number}.case.safetensors"


def result_file(folder: Path, number: int, replica: int) -> Path:
    """Where the results of a replica go."""
    return folder / f"{number}.{replica}.safetensors"


def serve(folder: Path, backend: str, begin: Callable[[], Train]) -> None:
    """Train every job of the folder; what `begin` gives yields the results of the replicas that this process holds."""
    threading.Thread(target=_end_with_the_harness, daemon=True).start()
    train = begin()
    adapter = BACKENDS[backend].adapter()
    adapter.prepare(False)
    for number, job in enumerate(json.loads((folder / JOBS).read_text())):
        for replica, results in train(adapter, _task(folder, number, job)):
            exchange.write_tensors(result_file(folder, number, replica), results, {}, durable=False)


def load(adapter: Adapter, model: Any, block: Block) -> LiveBlock:
    """Put the weights of `block` into a live model that is one block."""
    load_blocks(adapter, model, [block], {})
    ((_, live),) = adapter.find_blocks(model, {"block": block.spec}).items()
    return live


def canonical(adapter: Adapter, name: str, value: Any) -> NDArray:
    """A framework's value of a parameter, as the oracle has it."""
    array = np.asarray(value).copy()
    return kernels_first(name, array) if adapter.KERNELS_LAST else array


class Record:
    """The results of one replica, by name, step after step."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter, self.results, self.step = adapter, {}, 0  # type: ignore[var-annotated]

    def add(self, output: Any, slope: Any, gradients: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """One step: its output, the gradients of its input and parameters, and all variables after it."""
        self.step += 1
        after = {name: canonical(self.adapter, name, value) for name, value in state.items()}
        if self.step == 1:
            self.results |= {"output": np.asarray(output), "grad.input": np.asarray(slope)}
            for name, value in gradients.items():
                self.results[f"grad.{name}"] = canonical(self.adapter, name, value)
            self.results |= {f"after.{name}": value for name, value in after.items() if is_statistic(name)}
        self.results |= {f"step{self.step}.{name}": value for name, value in after.items()}


def _task(folder: Path, number: int, job: dict[str, Any]) -> Task:
    tensors, _ = exchange.read_tensors(case_file(folder, number))
    spec = spec_from_json(job.pop("spec"))
    block = Block("block", spec, {name: tensors[f"block/{name}"] for name in spec.parameters()})
    return Task(block, tensors["x"], tensors["cotangent"], **job)


def _end_with_the_harness() -> None:
    # Not by way of sys.stdin, whose lock the interpreter wants when it ends.
    os.read(0, 1)
    os._exit(1)
