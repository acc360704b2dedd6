"""One backend in a process of its own: reads case files, writes result files.

``python -m parity.worker BACKEND DEVICE DESCRIPTOR`` speaks JSON over the inherited connection DESCRIPTOR: a greeting,
then one answer for each request, until the other end is closed. `parity.client` is the other end.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import ml_dtypes
import numpy as np

from parity import exchange
from parity.backends import ANY, BACKENDS, Adapter, kind_of
from parity.block import Block, kernels_first
from parity.errors import DeviceMissingError, ParityError
from parity.loading import load_blocks
from parity.modes import PLAIN
from parity.spec import NetworkSpec, channel_axis, is_statistic, spec_from_json
from parity.training._worker import serve as serve_training


def main(backend: str, device: str, descriptor: str) -> None:
    """Serve requests until the connection closes."""
    connection = Connection(int(descriptor))
    adapter: Any = None

    def answer(request: dict[str, Any] | None) -> dict[str, Any]:
        nonlocal adapter
        if request is None:
            adapter = BACKENDS[backend].adapter()
            return {"ready": _prepare(adapter, backend, device)}
        SERVED[request["kind"]](adapter, device, request)
        return {"done": request["result"]}

    try:
        _send(connection, _guarded(answer, None))
        while True:
            _send(connection, _guarded(answer, json.loads(connection.recv_bytes())))
    except (EOFError, BrokenPipeError):
        pass  # the client is gone


def _guarded(function: Any, request: Any) -> dict[str, Any]:
    try:
        return function(request)
    except Exception as error:  # whatever a framework raises belongs to this one request
        kind = type(error).__name__ if isinstance(error, ParityError) else ""
        told = {"kind": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        return {"error": kind} | told


def _send(connection: Connection, answer: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(answer).encode())


def _prepare(adapter: Adapter, backend: str, device: str) -> dict[str, Any]:
    found = adapter.describe()
    if device == ANY:
        return found
    if kind_of(device) not in found["devices"]:
        raise DeviceMissingError(
            f"backend {backend!r} sees no {device}",
            f"one of its devices: {', '.join(found['devices'])}",
            "run on the cpu, or install the framework's GPU build on a machine with a GPU",
        )
    return found | {"switches": adapter.prepare(tf32=device.endswith("tf32"))}


def _serve(adapter: Adapter, device: str, request: dict[str, Any]) -> None:
    """Compute a case, as `parity.client.Worker.run` asks for it."""
    tensors, _ = exchange.read_tensors(request["case"])
    spec = spec_from_json(request["spec"])
    block = Block("block", spec, {name: tensors[f"block/{name}"] for name in spec.parameters()})
    results = evaluate(
        adapter,
        block,
        tensors["x"],
        tensors.get("cotangent"),
        training=request["training"],
        dtype=request["dtype"],
        data_format=request["data_format"],
        device=device,
        mode=request["mode"],
        steps=request["steps"],
        learning_rate=request["learning_rate"],
    )
    exchange.write_tensors(request["result"], results, {}, durable=False)


def evaluate(
    adapter: Adapter,
    block: Block,
    x: np.ndarray,
    cotangent: np.ndarray | None,
    *,
    training: bool,
    dtype: str,
    data_format: str,
    device: str,
    mode: str,
    steps: int,
    learning_rate: float,
) -> dict[str, np.ndarray]:
    """The results of one block by name, as `parity.evaluate` tells them, in canonical layout."""
    shape = x.shape if mode == PLAIN else open_sizes(x.shape, data_format)
    model = adapter.build(block.spec, shape=shape, data_format=data_format, dtype=dtype, device=kind_of(device))
    load_blocks(adapter, model, [block], {})
    ((_, live),) = adapter.find_blocks(model, {"block": block.spec}).items()
    step = adapter.stepper(
        model, live.variables, training=training, data_format=data_format, learning_rate=learning_rate, mode=mode
    )

    def canonical(name: str, value: object) -> np.ndarray:
        array = _from_bits(value)
        return kernels_first(name, array) if adapter.KERNELS_LAST else array

    def state() -> dict[str, np.ndarray]:
        return {
            name: canonical(name, adapter.read_variable(model, variable)).copy()
            for name, variable in live.variables.items()
        }

    results: dict[str, np.ndarray] = {}
    names = block.spec.layers() if isinstance(block.spec, NetworkSpec) and not training and mode == PLAIN else ()
    if names:
        outputs = adapter.layer_outputs(model, x, names, data_format=data_format)
        results |= {f"layer.{name}": _from_bits(outputs[name]) for name in names}
    output, gradients = step(x, cotangent, steps > 0)
    results["output"] = _from_bits(output)
    results |= {f"grad.{name}": canonical(name, value) for name, value in gradients.items()}
    if training:
        results |= {f"after.{name}": value for name, value in state().items() if is_statistic(name)}
    for number in range(1, steps + 1):
        if number > 1:
            step(x, cotangent, True)
        results |= {f"step{number}.{name}": value for name, value in state().items()}
    return results


def open_sizes(shape: tuple[int, ...], data_format: str) -> tuple[int | None, ...]:
    """`shape` with every size but the channels' unknown: what is compiled or exported must not depend on them."""
    axis = channel_axis(len(shape) - 2, data_format)
    return tuple(size if number == axis else None for number, size in enumerate(shape))


def _from_bits(value: object) -> np.ndarray:
    """An array as an adapter gives it: the bits of a bfloat16 one as uint16, because NumPy alone has no such dtype."""
    array = np.asarray(value)
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array


# By the kind of a request.
SERVED: dict[str, Callable[[Adapter, str, dict[str, Any]], None]] = {"evaluate": _serve, "train": serve_training}


if __name__ == "__main__":
    main(*sys.argv[1:])
