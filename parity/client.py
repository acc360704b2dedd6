"""The near end of the workers: one warm process for each backend and device, and `parity.evaluate`."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from parity import errors, exchange
from parity.backends import ANY, DEVICE_ENVIRONMENT, DEVICES, ENVIRONMENT, find
from parity.block import Block
from parity.errors import BackendCrashedError, DeviceMissingError, InputError
from parity.modes import PLAIN
from parity.spec import AXIS_NAMES
from parity.tolerances import DTYPES

# Longer than any framework takes to import, or any case to run, on a slow machine.
PATIENCE_SECONDS = 600.0


class Worker:
    """A backend in a process of its own.

    Args:
        backend: its id.
        device: "cpu" or "gpu".
        patience: how many seconds one answer may take before the process is given up as hung.

    Raises:
        BackendMissingError: when the backend is unknown or not installed.
        DeviceMissingError: when its framework does not see the device.
        BackendCrashedError: when the process dies, hangs or cannot start.
    """

    def __init__(self, backend: str, device: str = "cpu", patience: float = PATIENCE_SECONDS) -> None:
        if device not in (*DEVICES, ANY):
            raise DeviceMissingError(f"received device {device!r}", f"one of {', '.join(DEVICES)}")
        entry = find(backend)
        self.backend, self.device, self.patience = backend, device, patience
        self.lock = threading.RLock()  # one request at a time
        self._folder = tempfile.TemporaryDirectory(prefix="parity-")
        self._errors = Path(self._folder.name, "stderr")
        self._connection, far = Pipe()
        environment = os.environ | ENVIRONMENT | dict(entry.environment) | DEVICE_ENVIRONMENT[device]
        with self._errors.open("wb") as stderr, far:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "parity.worker", backend, device, str(far.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=(far.fileno(),),
            )
        try:
            self.description: dict[str, Any] = self._receive()["ready"]
        except BaseException:
            self.close()
            raise

    def run(
        self,
        block: Block,
        x: NDArray,
        cotangent: NDArray | None = None,
        *,
        training: bool = False,
        dtype: str = "float64",
        data_format: str = "channels_first",
        mode: str = PLAIN,
        steps: int = 0,
        learning_rate: float = 0.0,
    ) -> dict[str, NDArray]:
        """The results of one block by name; see `evaluate`."""
        with self.lock, self._whole_exchange(), tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            tensors = {f"block/{name}": value for name, value in block.tensors.items()} | {"x": x}
            tensors |= {} if cotangent is None else {"cotangent": cotangent}
            request = {"case": f"{folder}/case.safetensors", "result": f"{folder}/result.safetensors"}
            exchange.write_tensors(request["case"], tensors, {}, durable=False)
            self._send(
                request
                | {"spec": block.spec.to_json(), "training": training, "dtype": dtype, "data_format": data_format}
                | {"mode": mode, "steps": steps, "learning_rate": learning_rate}
            )
            return exchange.read_tensors(self._receive()["done"])[0]

    @contextlib.contextmanager
    def _whole_exchange(self) -> Iterator[None]:
        """A request that was broken off (an interrupt, say) ends the process: its answer would meet the next one."""
        self._owes = True
        try:
            yield
        finally:
            if self._owes:
                self.close()

    def close(self) -> None:
        """End the process. A closed worker answers no more."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._folder.cleanup()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._connection.send_bytes(json.dumps(request).encode())
        except OSError:
            raise self._crash("ended") from None

    def _receive(self) -> dict[str, Any]:
        try:
            if not self._connection.poll(self.patience):
                raise self._crash(f"gave no answer in {self.patience:g} s")
            answer = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._crash("died") from None
        self._owes = False
        if "error" in answer:
            raise self._failure(answer)
        return answer

    def _crash(self, what: str) -> BackendCrashedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        status = self._process.poll()
        how = "still running" if status is None else f"signal {-status}" if status < 0 else f"exit status {status}"
        self._process.kill()
        self._process.wait()
        tail = self._errors.read_text(errors="replace")[-2000:].strip()
        received = f"the worker of backend {self.backend!r} {what} ({how})"
        return BackendCrashedError(received, remedy=f"it wrote:\n{tail}")

    def _failure(self, answer: dict[str, Any]) -> Exception:
        kind = getattr(errors, answer["error"], None)
        if kind is not None:
            return kind(answer["message"])
        return BackendCrashedError(
            f"backend {self.backend!r} failed: {answer['message']}", remedy=f"it wrote:\n{answer['traceback'].strip()}"
        )


def describe(backend: str) -> dict[str, Any]:
    """The framework, version and devices of a backend, as a worker that is ended again sees them."""
    probe = Worker(backend, ANY)
    probe.close()
    return probe.description


_workers: dict[tuple[str, str], Worker] = {}
_starting: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)


def worker(backend: str, device: str = "cpu") -> Worker:
    """The warm worker of a backend and device: started once, replaced when it died."""
    with _starting[backend, device]:
        kept = _workers.get((backend, device))
        if kept is None or not kept.alive:
            if kept is not None:
                with kept.lock:  # another thread may still be reading what it wrote before it died
                    kept.close()
            _workers[backend, device] = Worker(backend, device)
        return _workers[backend, device]


def run(backend: str, device: str, *request: Any, **options: Any) -> dict[str, NDArray]:
    """`Worker.run` on the warm worker: never on one that died while this call waited for its turn."""
    while True:
        warm = worker(backend, device)
        with warm.lock:
            if warm.alive:
                return warm.run(*request, **options)


@atexit.register
def close() -> None:
    """End every warm worker."""
    while _workers:
        _workers.popitem()[1].close()


def evaluate(
    block: Block,
    x: ArrayLike,
    *,
    backend: str = "torch",
    cotangent: ArrayLike | None = None,
    training: bool = False,
    dtype: str = "float64",
    data_format: str = "channels_first",
    device: str = "cpu",
    mode: str = PLAIN,
    steps: int = 0,
    learning_rate: float = 0.0,
) -> Mapping[str, NDArray]:
    """What a backend makes of a block, computed in a worker process that stays warm.

    Args:
        block: the weights and what they mean. Weights that no rank shows in (SE, ECA) are taken at the rank of x.
        x: the input, in `data_format`; it and the weights are taken in `dtype`.
        backend: an id as `parity doctor` lists them.
        cotangent: of the output's shape: adds the gradients of <cotangent, output>.
        training: whether a norm uses its batch and updates its running statistics.
        dtype: "float64" or "float32".
        data_format: "channels_first" or "channels_last", of x, cotangent and results.
        device: "cpu" or "gpu".
        mode: how it runs (`parity.modes`).
        steps: with a cotangent, this many steps of gradient descent on the same batch.
        learning_rate: of the steps.

    Returns:
        "output"; with a cotangent "grad.input" and "grad.<parameter>"; in training mode "after.<statistic>"; after
        each step i from 1 "step<i>.<parameter or statistic>".

    Raises:
        InputError: for a map, a cotangent or a mode that does not fit.
        BackendMissingError, DeviceMissingError, BackendCrashedError: as their names say.

    Example:
        >>> from parity.spec import ECAOptions
        >>> block = Block("eca", ECAOptions(kernel_size=1).resolve(2, 1), {"conv.kernel": np.zeros((1, 1, 1))})
        >>> evaluate(block, np.ones((1, 2, 3)), backend="torch")["output"].tolist()
        [[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]
    """
    if not isinstance(block, Block):
        raise InputError(f"received a {type(block).__name__} as the block", "a parity.Block")
    if not isinstance(training, bool):
        raise InputError(f"received training={training!r}", "True or False")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise InputError(f"received steps={steps!r}", "an integer of at least 0")
    if dtype not in DTYPES:
        raise InputError(f"received dtype {dtype!r}", f"one of {', '.join(DTYPES)}")
    x = np.asarray(x, dtype)
    block = _at_rank(block, x.ndim - 2)
    block.spec.check_input(x.shape, data_format)
    if cotangent is not None:
        cotangent = np.asarray(cotangent, dtype)
        if cotangent.shape != x.shape:
            raise InputError(f"received a cotangent of shape {cotangent.shape}", f"the output's shape {x.shape}")
    elif steps:
        raise InputError(f"received steps={steps} without a cotangent", "a cotangent: the loss is <cotangent, output>")
    cast = Block(block.name, block.spec, {name: value.astype(dtype) for name, value in block.tensors.items()})
    return run(
        backend,
        device,
        cast,
        x,
        cotangent,
        training=training,
        dtype=dtype,
        data_format=data_format,
        mode=mode,
        steps=steps,
        learning_rate=learning_rate,
    )


def _at_rank(block: Block, spatial_dims: int) -> Block:
    """`block` for maps of `spatial_dims` axes, if its weights are the same for them."""
    if spatial_dims not in AXIS_NAMES or block.spec.spatial_dims == spatial_dims:
        return block
    spec = replace(block.spec, spatial_dims=spatial_dims)  # type: ignore[type-var]
    return replace(block, spec=spec, probe=None) if spec.parameters() == block.spec.parameters() else block
