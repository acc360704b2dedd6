"""The process that reads the files, within bounds: ``python -m fuzz._worker TASK SETTINGS``.

It tells of itself in a mapped file, `State`, which another process watches, and writes the input that it is about to
read into another, so that a crash leaves both what it did and what did it.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import mmap
import os
import signal
import struct
import sys
import time
import types
from pathlib import Path
from typing import Any

FIELDS = ("started", "tried", "accepted", "refused", "found")

# Modules that texts and errors need now and then, and no seed of a target might.
ANYWAY = (
    *(f"encodings.utf_{bits}{order}" for bits in (16, 32) for order in ("", "_be", "_le")),
    *("encodings.idna", "encodings.utf_8_sig", "encodings.cp437", "encodings.latin_1", "encodings.ascii", "stringprep"),
    *("encodings.raw_unicode_escape", "encodings.unicode_escape", "unicodedata", "difflib", "textwrap", "reprlib"),
    *("decimal", "traceback", "linecache", "heapq", "numpy.ma", "zipfile"),
)


class State:
    """Five numbers in a file that two processes share: when the file in work was begun, and how many were what."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * len(FIELDS)))
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)

    def __getitem__(self, name: str) -> int:
        return struct.unpack_from("<Q", self.memory, 8 * FIELDS.index(name))[0]

    def __setitem__(self, name: str, value: int) -> None:
        struct.pack_into("<Q", self.memory, 8 * FIELDS.index(name), value)


def make_seeds(name: str, corpus: Path) -> None:
    """Write the seeds of the target `name`, each as a file of `corpus` named after its content."""
    from fuzz._target import find

    scratch = corpus.with_name("scratch")
    scratch.mkdir()
    for seed in find(name).seeds(scratch):
        (corpus / digest(seed)).write_bytes(seed)


def digest(data: bytes) -> str:
    """What an input is called."""
    return hashlib.sha256(data).hexdigest()[:16]


def search(settings: dict[str, Any]) -> None:
    """Read mutated files until `count` are done."""
    from fuzz import _guide
    from fuzz._judge import ACCEPTED, FOUND, Judge

    folder = Path(settings["folder"])
    target = _imported(settings)
    judge = _judge(Judge, target, folder, settings["seeds"])
    state, current, corpus = State(folder / "state"), folder / "current", folder / "corpus"
    seeds, known = set(settings["seeds"]), set(settings["known"])
    valid = _guide.Valid([(corpus / name).read_bytes() for name in settings["seeds"]])
    gc.freeze()

    def read(data: bytes) -> None:
        current.write_bytes(data)
        state["started"] = time.monotonic_ns()
        outcome = judge.judge(data)
        state["started"] = 0
        if digest(data) in seeds:
            return
        state[outcome.kind] += 1
        state["tried"] += 1
        if outcome.kind == ACCEPTED:
            valid.others.append(data)
        if outcome.kind == FOUND and outcome.what not in known:
            known.add(outcome.what)
            keep(settings, data, outcome.what, outcome.detail)
        if state["tried"] >= settings["count"]:
            sys.stderr.flush()
            os._exit(0)  # libFuzzer would not let go

    def told(reached: int, data: bytes) -> None:
        (corpus / digest(data)).write_bytes(data)
        print(f"cov: {reached}", file=sys.stderr, flush=True)  # in the words of libFuzzer

    if settings["guide"] == _guide.ATHERIS:
        _guide.by_atheris(target, read, corpus, valid, settings["seed"])
    inputs = [file.read_bytes() for file in sorted(corpus.iterdir())]
    _guide.by_lines(target, read, inputs, valid, settings["seed"], told=told)


def replay(settings: dict[str, Any]) -> None:
    """Read the one file `data`, and print what came of it as JSON."""
    from fuzz._judge import Judge

    target = _imported(settings)
    judge = _judge(Judge, target, Path(settings["folder"]), settings["seeds"])
    outcome = judge.judge(Path(settings["data"]).read_bytes())
    print(json.dumps({"kind": outcome.kind, "what": outcome.what, "detail": outcome.detail}))


def keep(settings: dict[str, Any], data: bytes, what: str, detail: str) -> None:
    """Keep an input that is a finding, and what is wrong with it."""
    findings = Path(settings["findings"])
    findings.mkdir(parents=True, exist_ok=True)
    path = findings / f"{settings['name']}-{digest(data)}"
    path.write_bytes(data)
    with open(Path(settings["folder"]) / "findings.jsonl", "a", encoding="utf-8") as file:
        print(json.dumps({"what": what, "detail": detail, "file": str(path)}), file=file)


def _imported(settings: dict[str, Any]) -> Any:
    """The target, its modules instrumented where atheris guides."""
    from fuzz import _guide
    from fuzz._target import find

    if settings["guide"] != _guide.ATHERIS:
        return find(settings["name"])
    import atheris

    present = [name for name in settings["modules"] if name in sys.modules]
    with atheris.instrument_imports(include=list(settings["modules"]), enable_loader_override=False):
        for name in settings["modules"]:
            importlib.import_module(name)
        target = find(settings["name"])
    for name in present:
        for function in _functions(sys.modules[name]):
            atheris.instrument_func(function)
    return target


def _functions(module: Any) -> list[Any]:
    """The functions and methods that `module` defines."""
    classes = [
        value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__
    ]
    values = [value for owner in (module, *classes) for value in vars(owner).values()]
    return [value for value in values if isinstance(value, types.FunctionType) and value.__module__ == module.__name__]


def _judge(kind: Any, target: Any, folder: Path, seeds: list[str]) -> Any:
    """A judge that has read the seeds, in a process that from now on may grow by so much only."""
    for name in ANYWAY:
        importlib.import_module(name)
    judge = kind(target, folder / f"files{os.getpid()}")
    judge.warm((folder / "corpus" / seed).read_bytes() for seed in seeds)
    _limit(target.megabytes << 20)
    return judge


def _limit(more: int) -> None:
    """Let this process grow by `more` bytes, and leave no core."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):  # no such bounds here; the tracer still counts
        return
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that watches this one ends it
    task, settings = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    if task == "seeds":
        make_seeds(settings["name"], Path(settings["folder"]) / "corpus")
    else:
        {"search": search, "replay": replay}[task](settings)
