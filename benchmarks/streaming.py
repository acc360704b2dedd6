"""A checkpoint of some gigabytes through little memory, beside a plain copy of the same files.

Writes a sharded checkpoint of random weights, then takes turns: a process whose memory is limited ports it to an
exchange file (`parity.read`, `parity.write`), and `shutil.copyfile` copies its shards. Both start with a cold cache and
end when the disk holds the last byte.

    python benchmarks/streaming.py --gigabytes 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

MIB = 2**20
CHANNELS, HIDDEN = 16384, 2048
KERNEL_BYTES = 4 * CHANNELS * HIDDEN
BLOCKS_A_SHARD = 2

# How the weights lie: as the exchange file has them, or transposed, so that every kernel has to be copied.
LAYOUTS = {
    "as it lies": ("senet.pytorch/SELayer", "stage{}.se.fc.0.weight", "stage{}.se.fc.2.weight"),
    "transposed": ("attention_tf1compat/squeeze_excitation", "stage{}/se/fc1/kernel", "stage{}/se/fc2/kernel"),
}
HINTS = {"gate": "sigmoid", "activation": "relu"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the checkpoint (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="of both, in turns (default: 3)")
    parser.add_argument(
        "--memory", type=int, default=64, metavar="MIB", help="beyond imports and one tensor (default: 64)"
    )
    parser.add_argument(
        "--cache", type=int, default=0, metavar="MIB", help="limit of a control group, page cache included"
    )
    parser.add_argument("--layout", choices=list(LAYOUTS), action="append", help="only this one")
    parser.add_argument("--folder", type=Path, help="where to work; needs twice the size (default: a temporary one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure as JSON")
    given = parser.parse_args()
    results = []
    for layout in given.layout or LAYOUTS:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            results.append(_measure(Path(folder), layout, given))
    _show(results)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


# The checkpoint


def _make(folder: Path, layout: str, gigabytes: float) -> Path:
    """A checkpoint in shards with its index, as model hubs hold them; each shard is made and forgotten."""
    _, *keys = LAYOUTS[layout]
    count = max(1, math.ceil(gigabytes * 1024 * MIB / (2 * KERNEL_BYTES)))
    shards = [range(first, min(first + BLOCKS_A_SHARD, count)) for first in range(0, count, BLOCKS_A_SHARD)]
    weight_map = {}
    for number, blocks in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {key: value for block in blocks for key, value in _tensors(layout, keys, block).items()}
        _exchange().write_tensors(folder / name, tensors, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def _tensors(layout: str, keys: list[str], number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    shapes = [(HIDDEN, CHANNELS), (CHANNELS, HIDDEN)]
    if layout == "transposed":
        shapes.reverse()
    tensors = {key.format(number): _random(rng, shape) for key, shape in zip(keys, shapes, strict=True)}
    return tensors | {f"stem{number}.conv.weight": _random(rng, (64, 32, 3, 3))}


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.random(shape, np.float32)


def _exchange() -> Any:
    from parity import exchange

    return exchange


# The measurement


def _measure(folder: Path, layout: str, given: argparse.Namespace) -> dict[str, Any]:
    index = _make(folder, layout, given.gigabytes)
    shards = sorted(folder.glob("model-*.safetensors"))
    ports, copies = [], []
    for _ in range(given.rounds):
        _forget(shards)
        ports.append(_port(index, folder / "ported.safetensors", layout, given))
        _forget(shards)
        copies.append(_copy(shards, folder / "copied"))
    return {
        "layout": layout,
        "port": _median(ports),
        "copy": _median(copies),
        "rounds": {"port": ports, "copy": copies},
    }


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: statistics.median_low(run[key] for run in runs) for key in runs[0]}


def _forget(files: list[Path]) -> None:
    """Have the kernel drop what it holds of `files`, as far as it will."""
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _copy(shards: list[Path], target: Path) -> dict[str, Any]:
    target.mkdir()
    start = time.perf_counter()
    for shard in shards:
        copy = shutil.copyfile(shard, target / shard.name)
        with open(copy, "rb") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in target.iterdir())
    shutil.rmtree(target)
    return {"bytes": size, "seconds": seconds, "rate": size / seconds}


def _port(index: Path, target: Path, layout: str, given: argparse.Namespace) -> dict[str, Any]:
    tensor = KERNEL_BYTES if layout == "transposed" else 0
    command = [sys.executable, __file__, "--child", index, target, LAYOUTS[layout][0], str(tensor + given.memory * MIB)]
    with (
        _control_group(given.cache) as join,
        subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=join) as child,
    ):
        peak = _Peak(child.pid)
        answer, _ = child.communicate()
        peak.stop()
    if child.returncode:
        raise SystemExit(f"the port failed with status {child.returncode}")
    told = json.loads(answer)
    size = target.stat().st_size
    target.unlink()
    figures = {"bytes": size, "seconds": told["seconds"], "rate": size / told["seconds"]}
    return figures | {"peak": peak.bytes - told["before"], "limit": told["limit"], "tensor": tensor}


class _Peak:
    """The largest anonymous memory of a process, looked at every few milliseconds."""

    def __init__(self, process: int) -> None:
        self.bytes, self._process, self._ended = 0, process, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            with contextlib.suppress(OSError, StopIteration):
                self.bytes = max(self.bytes, _status(self._process, "RssAnon"))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


def _status(process: int | str, field: str) -> int:
    with open(f"/proc/{process}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{field}:"))


@contextlib.contextmanager
def _control_group(limit: int) -> Iterator[Any]:
    """What makes a child join a control group of `limit` MiB, page cache included; nothing where it is 0."""
    if not limit:
        yield None
        return
    version_1 = Path("/sys/fs/cgroup/memory")
    group = (version_1 if version_1.is_dir() else version_1.parent) / f"streaming-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if version_1.is_dir() else "memory.max")).write_text(str(limit * MIB))
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        group.rmdir()


def child(index: str, target: str, dialect: str, room: str) -> None:
    """Port, with `room` bytes for everything but what the imports hold."""
    import parity
    from parity import writing

    before, limit = _status("self", "RssAnon"), int(room)
    resource.setrlimit(resource.RLIMIT_DATA, (_status("self", "VmData") + limit,) * 2)
    start = time.perf_counter()
    writing.write(target, parity.read(index, dialect, HINTS))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "before": before, "limit": limit}))


def _show(results: list[Mapping[str, Any]]) -> None:
    table = Table("kernels", "", "bytes", "seconds", "MB/s", "of the copy", "peak anonymous MiB", "limit MiB")
    for result in results:
        port, copy = result["port"], result["copy"]
        for name, run in (("copy", copy), ("port", port)):
            figures = [f"{run['bytes']:,}", f"{run['seconds']:.2f}", f"{run['rate'] / 1e6:,.0f}"]
            figures.append(f"{run['rate'] / copy['rate']:.0%}")
            figures += [f"{run[key] / MIB:.0f}" if key in run else "" for key in ("peak", "limit")]
            table.add_row(result["layout"] if name == "copy" else "", name, *figures)
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        sys.exit(main())
