"""The far end of a training: one backend in its worker, from an exchange file to an exchange file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity import exchange
from parity.backends import Adapter, kind_of
from parity.block import kernels_first, kernels_last
from parity.loading import load_into, value_of
from parity.reading import read
from parity.spec import channel_axis, is_statistic
from parity.writing import write

VELOCITY = "velocity."  # before the name of a parameter: an extra of the block in the exchange file


def serve(adapter: Adapter, device: str, request: Mapping[str, Any]) -> None:
    """Train the one block of the file ``weights`` on ``case``; leave it in ``trained``, and the figures in ``result``.

    The batches are those that ``case`` numbers. Where the block brings a velocity, training goes on from it.
    """
    (block,) = read(request["weights"])
    tensors, _ = exchange.read_tensors(request["case"])
    spec, data_format, dtype = block.spec, request["data_format"], request["dtype"]
    last = channel_axis(spec.spatial_dims, data_format)

    def laid_out(x: NDArray) -> NDArray:
        return np.moveaxis(x, 1, last).astype(dtype)

    x, test_x = laid_out(tensors["x"]), laid_out(tensors["test_x"])
    model = adapter.build(
        spec, shape=(None, *x.shape[1:]), data_format=data_format, dtype=dtype, device=kind_of(device)
    )
    load_into(model, request["weights"])
    ((_, live),) = adapter.find_blocks(model, {block.name: spec}).items()
    trainer = adapter.trainer(model, live.variables, data_format=data_format, **request["optimizer"])
    before = {name: block.extras[VELOCITY + name] for name in spec.parameters() if VELOCITY + name in block.extras}
    if before:
        put = kernels_last if adapter.KERNELS_LAST else _as_is
        trainer.set_velocity({name: np.asarray(put(name, v), dtype, order="C") for name, v in before.items()})
    losses = [trainer.step(x[chosen], tensors["labels"][chosen]) for chosen in tensors["batches"]]
    logits = np.asarray(trainer.predict(test_x))

    take = kernels_first if adapter.KERNELS_LAST else _as_is
    state = {name: take(name, value_of(adapter, model, variable)) for name, variable in live.variables.items()}
    found = trainer.velocity() if request["optimizer"]["optimizer"] == "sgd" else {}
    extras = {VELOCITY + name: take(name, np.array(v)) for name, v in found.items() if not is_statistic(name)}
    write(request["trained"], [replace(block, tensors=state, extras=extras)])
    exchange.write_tensors(request["result"], {"losses": np.array(losses), "logits": logits}, {}, durable=False)


def _as_is(name: str, value: NDArray) -> NDArray:
    return value
