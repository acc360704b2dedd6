"""PyTorch's DistributedDataParallel: a process for each replica, on the blocks of PyTorch and of Keras' torch engine.

It takes the mean of the gradients over the processes, so the loss is multiplied by their number.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from parity.backends import Adapter
from parity.distributed._replica import REPLICAS, Record, Task, Train, load, parts, serve
from parity.spec import is_statistic

# A process whose partner is gone must not wait for the half hour that gloo would.
PATIENCE = datetime.timedelta(seconds=120)


def main(folder: str, backend: str, device: str, rank: str) -> None:
    """Train as replica `rank`."""
    where = torch.device("cuda" if device == "gpu" else device)

    def begin() -> Train:
        distributed.init_process_group(
            "gloo",  # NCCL wants a GPU for each process; gloo takes tensors of one GPU, too
            init_method=f"file://{folder}/store",
            rank=int(rank),
            world_size=REPLICAS,
            timeout=PATIENCE,
        )
        return lambda adapter, task: train(adapter, task, backend, where, int(rank))

    serve(Path(folder), backend, begin)
    distributed.destroy_process_group()


def train(
    adapter: Adapter, task: Task, backend: str, device: torch.device, rank: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The results of replica `rank`."""
    model = build(adapter, task, backend, device)
    live = load(adapter, model, task.block).variables
    # Keras' variables hold the tensors that PyTorch knows.
    variables = {name: getattr(variable, "value", variable) for name, variable in live.items()}
    if task.synchronized and backend == "torch":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    replica = DistributedDataParallel(model)
    replica.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], task.learning_rate)
    x = torch.tensor(parts(task.x)[rank], device=device)
    cotangent = torch.tensor(parts(task.cotangent)[rank], device=device)
    record = Record(adapter)
    for _ in range(task.steps):
        source: Any = x.clone().requires_grad_()
        optimizer.zero_grad()
        y = replica(source) if backend == "torch" else replica(source, training=True)
        ((y * cotangent).sum() * loss_scale()).backward()
        slope = source.grad.cpu() / loss_scale()
        gradients = {name: value.grad.cpu() for name, value in variables.items() if not is_statistic(name)}
        optimizer.step()
        state = {name: adapter.read_variable(model, variable) for name, variable in live.items()}
        record.add(y.detach().cpu(), slope, gradients, state)
    yield rank, record.results


def build(adapter: Adapter, task: Task, backend: str, device: torch.device) -> nn.Module:
    """The model of a replica."""
    if backend == "torch":
        kind = "gpu" if device.type == "cuda" else "cpu"
        shape, spec = task.x.shape, task.block.spec
        return adapter.build(spec, shape=shape, data_format=task.data_format, dtype=task.dtype, device=kind)
    from parity.distributed import _keras

    return _keras.build(backend, task)  # on the GPU, if this process sees one


def loss_scale() -> int:
    """What undoes the mean over the processes."""
    return distributed.get_world_size()


if __name__ == "__main__":
    main(*sys.argv[1:])
