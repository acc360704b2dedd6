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
from parity.errors import BackendCrashedError, BackendDiedError, DeviceMissingError, InputError, ModeMissingError
from parity.faults import NORMAL, TOLD, Limits, ending, is_out_of_memory, tail
from parity.modes import MODES, PLAIN, impossible
from parity.spec import AXIS_NAMES
from parity.tolerances import PRECISIONS


class Worker:
    """A backend in a process of its own.

    Args:
        backend: its id.
        device: one of `parity.backends.DEVICES`.
        limits: how long one answer may take, and how much memory.

    Raises:
        BackendMissingError: when the backend is unknown or not installed.
        DeviceMissingError: when its framework does not see the device.
        BackendCrashedError: when the process cannot start.
        BackendDiedError: when it is killed, ends, hangs or runs out of memory.
    """

    def __init__(self, backend: str, device: str = "cpu", limits: Limits = NORMAL) -> None:
        if device not in (*DEVICES, ANY):
            raise DeviceMissingError(f"received device {device!r}", f"one of {', '.join(DEVICES)}")
        entry = find(backend)
        self.backend, self.device, self.limits = backend, device, limits
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
            if device == "cpu":
                limits.impose(self._process.pid)
            self.description: dict[str, Any] = self._receive(max(limits.patience, NORMAL.patience))["ready"]
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
                | {"kind": "evaluate"}
                | {"spec": block.spec.to_json(), "training": training, "dtype": dtype, "data_format": data_format}
                | {"mode": mode, "steps": steps, "learning_rate": learning_rate}
            )
            return exchange.read_tensors(self._receive(self.limits.patience)["done"])[0]

    def train(
        self,
        weights: str | os.PathLike[str],
        trained: str | os.PathLike[str],
        tensors: Mapping[str, NDArray],
        *,
        dtype: str,
        data_format: str,
        optimizer: Mapping[str, Any],
    ) -> dict[str, NDArray]:
        """The losses and logits of a training that begins with the one block of an exchange file.

        Args:
            weights: the file; where the block brings a velocity, training goes on from it.
            trained: the exchange file to write: the block after the last step, with its velocity.
            tensors: "x" and "test_x", channels first, "labels", and in "batches" the numbers of each step's samples.
            dtype, data_format: what to compute in.
            optimizer: as `parity.training.optimizers.Optimizer.to_json` tells it.
        """
        with self.lock, self._whole_exchange(), tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            files = {"case": f"{folder}/case.safetensors", "result": f"{folder}/result.safetensors"}
            exchange.write_tensors(files["case"], tensors, {}, durable=False)
            self._send(
                {"kind": "train", "weights": os.path.abspath(weights), "trained": os.path.abspath(trained)}
                | files
                | {"dtype": dtype, "data_format": data_format, "optimizer": dict(optimizer)}
            )
            return exchange.read_tensors(self._receive(self.limits.patience)["done"])[0]

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
            raise self._crash() from None

    def _receive(self, patience: float) -> dict[str, Any]:
        try:
            if not self._connection.poll(patience):
                raise self._crash(f"hung: it gave no answer in {patience:g} s, and was ended")
            answer = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._crash() from None
        self._owes = False
        if "error" in answer:
            raise self._failure(answer)
        return answer

    def _crash(self, what: str = "closed its connection and was ended") -> BackendDiedError:
        """The error for a process that answers no more, which is ended; `what` it did, if it did not end itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        status = self._process.poll()
        self._process.kill()
        self._process.wait()
        written = tail(self._errors)
        what = what if status is None else ending(status, written, self.limits)
        return self._died(what, written[-TOLD:])

    def _died(self, what: str, written: str) -> BackendDiedError:
        limited = "" if self.limits.memory is None else f" (limited to {self.limits.memory:g} GiB)"
        received = f"the worker of backend {self.backend!r}{limited} {what}"
        return BackendDiedError(received, remedy=f"it wrote:\n{written}")

    def _failure(self, answer: dict[str, Any]) -> Exception:
        kind = getattr(errors, answer["error"], None)
        if kind is not None:
            return kind(answer["message"])
        traceback = answer["traceback"].strip()
        if is_out_of_memory(f"{answer['kind']}: {answer['message']}"):
            self.close()  # who knows what its framework has left half done
            return self._died("ran out of memory", traceback)
        return BackendCrashedError(
            f"backend {self.backend!r} failed: {answer['message']}", remedy=f"it wrote:\n{traceback}"
        )


def describe(backend: str) -> dict[str, Any]:
    """The framework, version and devices of a backend, as a worker that is ended again sees them."""
    probe = Worker(backend, ANY)
    probe.close()
    return probe.description


_workers: dict[tuple[str, str, Limits], Worker] = {}
_starting: defaultdict[tuple[str, str, Limits], threading.Lock] = defaultdict(threading.Lock)


def worker(backend: str, device: str = "cpu", limits: Limits = NORMAL) -> Worker:
    """The warm worker of a backend, device and limits: started once, replaced when it died."""
    key = backend, device, limits
    with _starting[key]:
        kept = _workers.get(key)
        if kept is None or not kept.alive:
            if kept is not None:
                with kept.lock:  # another thread may still be reading what it wrote before it died
                    kept.close()
            _workers[key] = Worker(backend, device, limits)
        return _workers[key]


def run(backend: str, device: str, *request: Any, limits: Limits = NORMAL, **options: Any) -> dict[str, NDArray]:
    """`Worker.run` on the warm worker: never on one that died while this call waited for its turn."""
    with _warm(backend, device, limits) as warm:
        return warm.run(*request, **options)


def train(backend: str, device: str, *request: Any, limits: Limits = NORMAL, **options: Any) -> dict[str, NDArray]:
    """`Worker.train`, likewise."""
    with _warm(backend, device, limits) as warm:
        return warm.train(*request, **options)


@contextlib.contextmanager
def _warm(backend: str, device: str, limits: Limits) -> Iterator[Worker]:
    """The warm worker, locked and alive."""
    while True:
        warm = worker(backend, device, limits)
        with warm.lock:
            if warm.alive:
                yield warm
                return


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
        x: the input, in `data_format`; it is taken in the compute dtype of `dtype`, the weights in that of variables.
        backend: an id as `parity doctor` lists them.
        cotangent: of the output's shape: adds the gradients of <cotangent, output>.
        training: whether a norm uses its batch and updates its running statistics.
        dtype: "float64", "float32", "bfloat16" or "float16"; or "mixed_bfloat16" or "mixed_float16", which compute in
            half precision with weights in float32 (`torch.autocast`, Keras' policies).
        data_format: "channels_first" or "channels_last", of x, cotangent and results.
        device: "cpu", "gpu", or "gpu-tf32": a GPU that may round the factors of float32 products to TF32.
        mode: how it runs, as `parity modes` lists them.
        steps: with a cotangent, this many steps of gradient descent on the same batch.
        learning_rate: of the steps.

    Returns:
        "output"; with a cotangent "grad.input" and "grad.<parameter>"; in training mode "after.<statistic>"; after
        each step i from 1 "step<i>.<parameter or statistic>".

    Raises:
        InputError: for a map, a cotangent, a mode or a dtype that does not fit.
        ModeMissingError: for a mode that the backend cannot run, with the reason.
        BackendMissingError, DeviceMissingError, BackendCrashedError, BackendDiedError: as their names say.

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
    if device not in DEVICES:
        raise DeviceMissingError(f"received device {device!r}", f"one of {', '.join(DEVICES)}")
    if dtype not in PRECISIONS:
        raise InputError(f"received dtype {dtype!r}", f"one of {', '.join(PRECISIONS)}")
    _check_mode(mode, backend, block.spec.block, dtype, training, cotangent is not None)
    precision = PRECISIONS[dtype]
    x = _rounded(x, precision.compute)
    block = _at_rank(block, x.ndim - 2)
    block.spec.check_input(x.shape, data_format)
    if cotangent is not None:
        cotangent = _rounded(cotangent, precision.compute)
        shape = block.spec.output_shape(x.shape, data_format)
        if cotangent.shape != shape:
            raise InputError(f"received a cotangent of shape {cotangent.shape}", f"the output's shape {shape}")
    elif steps:
        raise InputError(f"received steps={steps} without a cotangent", "a cotangent: the loss is <cotangent, output>")
    tensors = {name: _rounded(value, precision.variables) for name, value in block.tensors.items()}
    cast = Block(block.name, block.spec, tensors)
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


def _check_mode(mode: str, backend: str, block: str, dtype: str, training: bool, slopes: bool) -> None:
    """Refuse a mode that nobody knows, and one in which `backend` cannot run the block so."""
    if mode not in MODES:
        raise InputError(f"received mode {mode!r}", f"one of {', '.join(MODES)}")
    find(backend)
    received = f"received mode {mode!r} for a {block} block in {dtype} on backend {backend!r}"
    reason = impossible(backend, mode, block=block, dtype=dtype, training=training)
    if reason:
        raise ModeMissingError(received, remedy=f"{reason}; see `parity modes`")
    if slopes and MODES[mode].inference_only:
        raise InputError(f"{received} with a cotangent", f"none: {MODES[mode].inference_only}")


def _rounded(value: ArrayLike, dtype: str) -> NDArray:
    """`value` in `dtype`; what is too large for it becomes an infinity, as in every framework."""
    with np.errstate(over="ignore"):
        return np.asarray(value).astype(dtype)


def _at_rank(block: Block, spatial_dims: int) -> Block:
    """`block` for maps of `spatial_dims` axes, if its weights are the same for them."""
    if spatial_dims not in AXIS_NAMES or block.spec.spatial_dims == spatial_dims:
        return block
    spec = replace(block.spec, spatial_dims=spatial_dims)  # type: ignore[type-var]
    return replace(block, spec=spec, probe=None) if spec.parameters() == block.spec.parameters() else block
