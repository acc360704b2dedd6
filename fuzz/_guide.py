"""The search: inputs that reach new code are kept, and changed further."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from fuzz import change
from fuzz._target import Target

ATHERIS, LINES = "atheris", "lines"

# How often an input is changed at once, by those who know its structure, and how often by those who do not.
CHANGES, BLIND = (1, 1, 1, 2, 2, 4), 0.2

OPTIONS = (
    *("-runs=-1", "-len_control=0", "-rss_limit_mb=0", "-timeout=86400", "-detect_leaks=0", "-reload=0"),
    *("-report_slow_units=99999", "-mutate_depth=1"),
    *(f"-handle_{signal}=0" for signal in ("abrt", "bus", "fpe", "ill", "int", "segv", "term", "usr1", "usr2", "xfsz")),
)


def available() -> str:
    """The guide that can be had here."""
    return ATHERIS if importlib.util.find_spec("atheris") else LINES


class Valid:
    """Inputs that were accepted: the `seeds`, and the latest others.

    What reaches new code is mostly refused, and so is all that is made of it; half of the files are made of these.
    """

    def __init__(self, seeds: Sequence[bytes]) -> None:
        self.seeds = list(seeds)
        self.others: deque[bytes] = deque(maxlen=256)

    def choice(self, rng: Random) -> bytes:
        """One of them."""
        return rng.choice(self.others if self.others and rng.random() < 0.5 else self.seeds)


def mutated(target: Target, data: bytes, valid: Valid, rng: Random, blind: Callable[[bytes], bytes]) -> bytes:
    """A file made of `data` or of a valid one: a few changes by `target`, or one `blind` one."""
    if rng.random() < 0.5:
        data = valid.choice(rng)
    if rng.random() < BLIND:
        return blind(data)[: target.max_bytes]
    for _ in range(rng.choice(CHANGES)):
        data = target.mutate(data, rng)
    return data[: target.max_bytes]


def by_atheris(target: Target, read: Callable[[bytes], Any], corpus: Path, valid: Valid, seed: int) -> None:
    """Give `read` one input after the other, made of the files in `corpus`, which grows; `read` ends the process.

    The modules of `target` must have been imported under `atheris.instrument_imports`.
    """
    import atheris

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        try:
            return mutated(target, data, valid, Random(seed), lambda data: atheris.Mutate(data, max_bytes))
        except Exception:  # libFuzzer would go on without a change
            traceback.print_exc()
            os._exit(1)

    options = [*OPTIONS, f"-max_len={target.max_bytes}", f"-seed={seed % (1 << 31) + 1}"]  # 0 is the time of the day
    atheris.Setup([sys.argv[0], str(corpus), *options], read, custom_mutator=mutate)
    atheris.Fuzz()


def by_lines(
    target: Target,
    read: Callable[[bytes], Any],
    inputs: Sequence[bytes],
    valid: Valid,
    seed: int,
    count: int = sys.maxsize,
    told: Callable[[int, bytes], None] = lambda reached, data: None,
) -> tuple[int, int]:
    """Give `read` the `inputs` and `count` mutations of them, and keep those that reach new lines of the modules.

    Returns how many pairs of lines, one run right after the other, the inputs reached, and how many were in the end;
    `told` is called with that number and the input that raised it.
    """
    rng, trace, kept = Random(seed), Trace(target.modules), list(inputs)
    for data in inputs:
        trace.new(read, data)
    first = len(trace.seen)
    told(first, inputs[-1])
    for _ in range(count):
        # Half of the time one of the latest, which are where something new was seen.
        data = rng.choice(kept[-16:] if rng.random() < 0.5 else kept)
        data = mutated(target, data, valid, rng, lambda data: change.change_bytes(data, rng))
        if trace.new(read, data):
            kept.append(data)
            told(len(trace.seen), data)
    return first, len(trace.seen)


class Trace:
    """Which lines of `modules` run one after the other."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = tuple(modules)
        self.seen: set[tuple[int, int, int]] = set()

    def new(self, read: Callable[[bytes], Any], data: bytes) -> bool:
        """Whether `read(data)` runs lines in an order that was not seen before."""
        before, other = len(self.seen), sys.gettrace()
        sys.settrace(self._call)
        try:
            read(data)
        finally:
            sys.settrace(other)
        return len(self.seen) > before

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_globals.get("__name__", "")
        if not any(name == module or name.startswith(module + ".") for module in self.modules):
            return None
        code, last = hash(frame.f_code), frame.f_lineno

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "line":
                self.seen.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line
