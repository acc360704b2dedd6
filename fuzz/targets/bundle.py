"""Bundles of runs: two files of JSON in a folder, and two bundles held against each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from fuzz import change
from fuzz._target import Target, pack, several_files, unpack
from parity import bundle
from parity.compare import Comparison
from parity.run import Outcome, Report

NAMES = (bundle.RESULTS, bundle.PLACE, bundle.SUMMARY)
LAY = several_files("bundle/" + NAMES[0], ["bundle/" + name for name in NAMES[1:]])
WORDS: tuple[Any, ...] = (
    *(
        "version",
        "outcomes",
        "problems",
        "device",
        "backends",
        "absent",
        "machine",
        "packages",
        "variables",
        "tolerances",
    ),
    *(
        "ratio",
        "epsilons",
        "failure",
        "agreed",
        "comparisons",
        "case",
        "block",
        "backend",
        "inf",
        "nan",
        "torch",
        "oracle",
    ),
    *(0, 1, 1.5, True, False, None, 1 << 1100, -0.0, change.Raw("NaN"), change.Raw("9" * 4000), change.Raw("1e999")),
)


def seeds(folder: Path) -> Iterator[bytes]:
    """A run that agreed, one that did not, an empty one."""
    good = Comparison("output", ratio=0.5, epsilons=2.0, condition=1.0)
    bad = Comparison("grad.input", ratio=float("inf"), epsilons=float("inf"), condition=1.0, failure="it is wrong")
    present = {"torch": {"versions": {"torch": "2.13"}, "devices": {"cpu": "a"}, "switches": {"tf32": "off"}}}
    for number, comparisons in enumerate(([good], [good, bad], None)):
        outcomes = [
            Outcome(f"se-{case}", "se", "float64", "eager", "torch", "cpu", comparisons or ())
            for case in range(2)
            if comparisons
        ]
        report = Report("cpu", outcomes, {"tf1compat": "not installed"}, present, {"se-0": "abc"})
        bundle.write(folder / str(number), report, ["parity", "run"], "a table")
        yield pack({f"bundle/{name}": (folder / str(number) / name).read_bytes() for name in NAMES})


def lay(data: bytes, folder: str) -> str:
    """The parts in a folder of their own, which is what is read."""
    return str(Path(LAY(data, folder)).parent)


def mutate(data: bytes, rng: Random) -> bytes:
    """A change of one of the files."""
    parts = unpack(data)
    if not parts:
        return change.change_bytes(data, rng)
    name = rng.choice(list(parts))
    value = change.load_json(parts[name])
    if value is None or rng.random() < 0.2:
        parts[name] = change.change_bytes(parts[name], rng)
    else:
        parts[name] = change.dump_json(change.change_json(value, rng, WORDS))
    return pack(parts)


def read(path: str) -> None:
    """Read the bundle, and hold it against itself."""
    found = bundle.read(path)
    comparison = bundle.compare(found, found)
    comparison.to_json()
    for name in comparison.backends:
        bundle.worst(found.of(name))


TARGET = Target("bundle", ("parity.bundle",), seeds, mutate, read, lay)
