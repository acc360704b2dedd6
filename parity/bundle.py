"""A run's bundle: a folder that tells what a run saw, and where; and two of them held against each other.

No single machine has every framework and every device. Each judges what it has by the same oracle, on the same cases;
what two machines wrote then tells together what neither could alone.

    >>> import tempfile
    >>> from parity.run import Report
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(folder + "/cpu", Report("cpu"), ["parity", "run"], "nothing ran")
    ...     compare(read(folder + "/cpu"), read(folder + "/cpu")).agreed
    False
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from parity.backends import BACKENDS, DEVICE_ENVIRONMENT, ENVIRONMENT
from parity.compare import for_json
from parity.errors import FormatError
from parity.exchange import strict_json
from parity.run import Report
from parity.tolerances import TABLE

VERSION = 1
RESULTS, PLACE, SUMMARY = "results.json", "environment.json", "summary.md"

# Beside the frameworks: what the numbers may hang on.
PACKAGES = ("attention-parity", "numpy", "ml_dtypes", "safetensors", "jaxlib", "onnx", "onnxruntime", "h5py")

# Of a file: a run of the whole product writes a tenth of it.
LIMIT_BYTES = 1 << 30


# --------------------------------------------------------------------------------------------------------------------
# Writing


def check_target(folder: Path) -> None:
    """Raise `FormatError` unless a bundle can be written to `folder`: a new one, or an empty one."""
    parent = next(path for path in (folder, *folder.resolve().parents) if os.path.lexists(path))
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise FormatError(f"received --out {folder}", "a folder that can be made")
    if folder.is_dir() and any(folder.iterdir()):
        raise FormatError(
            f"received --out {folder}, which holds something", "a new folder", "a bundle is never replaced"
        )


def write(folder: str | os.PathLike[str], report: Report, command: Sequence[str], summary: str) -> None:
    """Write what a run saw.

    Args:
        folder: a new one, or an empty one.
        report: of the run.
        command: that started it.
        summary: the same for people: the tables as they were printed.
    """
    target = Path(folder)
    check_target(target)
    target.mkdir(parents=True, exist_ok=True)
    place = environment(report.device, command)
    texts = {
        RESULTS: json.dumps({"version": VERSION} | report.to_json(), indent=1, allow_nan=False),
        PLACE: json.dumps({"version": VERSION} | place, indent=1),
        SUMMARY: _summary(report, place, summary),
    }
    for name, text in texts.items():
        (target / name).write_text(text + "\n", encoding="utf-8")


def environment(device: str, command: Sequence[str]) -> dict[str, Any]:
    """Where a run happens: date, machine, versions, the variables of its workers, the tolerances that it judges by."""
    names = dict.fromkeys([*PACKAGES, *(name for backend in BACKENDS.values() for name in backend.requires)])
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "packages": {name: version for name in names if (version := _version(name))},
        "variables": ENVIRONMENT | DEVICE_ENVIRONMENT[device],
        "tolerances": {
            f"{what}, {dtype}": row.tolerance for (what, dtype, where), row in TABLE.items() if where == device
        },
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        module = sys.modules.get(name)
        return getattr(module, "__version__", None)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _summary(report: Report, place: Mapping[str, Any], tables: str) -> str:
    machine = place["machine"]
    rows = {
        "date": place["date"],
        "device": report.device,
        "devices": ", ".join(sorted({name for found in report.present.values() for name in _devices(found, report)})),
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "system": f"{machine['system']}, Python {machine['python']}",
        "packages": ", ".join(f"{name} {version}" for name, version in place["packages"].items()),
        "command": f"`{' '.join(place['command'])}`",
    }
    rows |= {
        f"switches of {name}": ", ".join(f"{key}: {value}" for key, value in found.get("switches", {}).items())
        for name, found in report.present.items()
    }
    lines = [f"# Parity on {report.device}, {place['date'][:10]}", "", "| what | |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in rows.items()]
    return "\n".join([*lines, "", "As printed:", "", "```", tables.strip("\n"), "```"])


def _devices(found: Mapping[str, Any], report: Report) -> list[str]:
    name = found.get("devices", {}).get(report.device.partition("-")[0])
    return [name] if name else []


# --------------------------------------------------------------------------------------------------------------------
# Reading


@dataclass(frozen=True)
class Result:
    """One case on one backend, as a bundle tells it."""

    case: str
    block: str
    backend: str
    agreed: bool
    ratio: float
    epsilons: float


@dataclass(frozen=True)
class Bundle:
    """A run of some machine.

    Args:
        path: of its folder.
        device: on which it ran.
        results: by case and backend.
        problems: the fingerprint of each case's numbers (`parity.cases.Problem`).
        backends: what each that ran was: framework, versions, devices, switches.
        absent: why each of the others did not run.
        place: `environment`.
    """

    path: str
    device: str
    results: Mapping[tuple[str, str], Result]
    problems: Mapping[str, str]
    backends: Mapping[str, Mapping[str, Any]]
    absent: Mapping[str, str]
    place: Mapping[str, Any]

    def of(self, backend: str) -> list[Result]:
        """The results of one backend."""
        return [result for result in self.results.values() if result.backend == backend]

    @property
    def failures(self) -> list[Result]:
        """The results that did not agree with the oracle."""
        return [result for result in self.results.values() if not result.agreed]


def read(folder: str | os.PathLike[str]) -> Bundle:
    """The bundle in `folder`; whether a result agreed is judged anew by its figures.

    Raises:
        FormatError: for a folder that is no bundle, and a damaged one.
    """
    path = os.fspath(folder)
    results, place = (_object(os.path.join(path, name)) for name in (RESULTS, PLACE))
    outcomes = [_outcome(path, value) for value in _field(path, results, "outcomes", list)]
    by_place = {(one.case, one.backend): one for one in outcomes}
    if len(by_place) < len(outcomes):
        raise FormatError(f"{path} has two results of one case on one backend", "one")
    for name in ("machine", "packages", "variables", "tolerances"):
        _field(path, place, name, dict)
    for name in ("packages", "variables"):
        _texts(path, place, name)
    _field(path, place, "date", str)
    return Bundle(
        path,
        _field(path, results, "device", str),
        by_place,
        _texts(path, results, "problems"),
        {name: _dict(path, name, found) for name, found in _field(path, results, "backends", dict).items()},
        _texts(path, results, "absent"),
        place,
    )


def _object(path: str) -> dict[str, Any]:
    """The JSON object in a file, which no name is twice in and no number that JSON has not."""
    expected = "a bundle, as `parity run --out` writes it"
    if os.path.islink(path) or not os.path.isfile(path):
        raise FormatError(f"{path} is no file", expected)
    if os.path.getsize(path) > LIMIT_BYTES:
        raise FormatError(f"{path} has {os.path.getsize(path)} bytes", f"at most {LIMIT_BYTES}")
    try:
        value = strict_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read ({error})", expected) from error
    if not isinstance(value, dict) or "version" not in value:
        raise FormatError(f"{path} is no part of a bundle", expected)
    if value["version"] != VERSION or isinstance(value["version"], bool):
        raise FormatError(f"{path} is of version {_short(value['version'])}", f"version {VERSION}")
    return value


def _field(path: str, value: Mapping[str, Any], name: str, kind: type) -> Any:
    found = value.get(name)
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise FormatError(f"{path}: {name!r} is {_short(found)}", f"of the kind {kind.__name__}")
    return found


def _dict(path: str, name: str, value: Any) -> dict[str, Any]:
    return _field(path, {name: value}, name, dict)


def _texts(path: str, value: Mapping[str, Any], name: str) -> dict[str, str]:
    found = _field(path, value, name, dict)
    return {key: _field(path, found, key, str) for key in found}


def _outcome(path: str, value: Any) -> Result:
    value = _dict(path, "outcome", value)
    case, block, backend = (_field(path, value, name, str) for name in ("case", "block", "backend"))
    comparisons = [_dict(path, "comparison", one) for one in _field(path, value, "comparisons", list)]
    ratios = [_number(path, one, "ratio") for one in comparisons]
    epsilons = [_number(path, one, "epsilons") for one in comparisons]
    failed = any(_field(path, one, "failure", str) for one in comparisons)
    agreed = bool(comparisons) and not failed and max(ratios) <= 1
    if agreed != _field(path, value, "agreed", bool):
        raise FormatError(
            f"{path}: {case} on {backend} says agreed={value['agreed']}, and its figures say {agreed}",
            "a bundle that nobody changed",
        )
    return Result(case, block, backend, agreed, max(ratios, default=math.inf), max(epsilons, default=math.inf))


def _number(path: str, value: Mapping[str, Any], name: str) -> float:
    found = value.get(name)
    if found == "inf":
        return math.inf
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= sys.float_info.max:
        raise FormatError(f"{path}: {name!r} is {_short(found)}", "a number of at least 0, or 'inf'")
    return float(found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --------------------------------------------------------------------------------------------------------------------
# Two of them


@dataclass(frozen=True)
class Comparison:
    """Two bundles held against each other.

    Both were judged by the same oracle, so that what agrees with it in both agrees between them. `alike` are the cases
    in which both were given the same numbers, bit by bit: another NumPy may draw others.
    """

    one: Bundle
    other: Bundle

    @cached_property
    def shared(self) -> list[str]:
        """The cases that both judged."""
        cases = {case for case, _ in self.one.results}
        return [case for case in dict.fromkeys(case for case, _ in self.other.results) if case in cases]

    @property
    def alike(self) -> list[str]:
        """Of the shared cases, those whose numbers are the same bit by bit."""
        return [case for case in self.shared if self.one.problems.get(case, "") == self.other.problems.get(case)]

    @property
    def backends(self) -> list[str]:
        """All that ran in one or the other."""
        names = {result.backend for bundle in (self.one, self.other) for result in bundle.results.values()}
        return [name for name in BACKENDS if name in names] + sorted(names - BACKENDS.keys())

    @property
    def agreed(self) -> bool:
        """Whether they share a case, and everything in both agrees with the oracle."""
        return bool(self.shared) and not self.one.failures and not self.other.failures

    @property
    def disputed(self) -> list[tuple[Result, Result]]:
        """What the same backend got right in one and wrong in the other."""
        pairs = [
            (self.one.results[key], self.other.results[key]) for key in self.one.results if key in self.other.results
        ]
        return [(a, b) for a, b in pairs if a.agreed != b.agreed]

    def differences(self) -> dict[str, tuple[str, str]]:
        """What is not the same in the two places: versions, variables, tolerances; switches of what ran in both."""
        both = [name for name in self.one.backends if name in self.other.backends]
        sides = [dict(_facts(bundle, both)) for bundle in (self.one, self.other)]
        names = dict.fromkeys([*sides[0], *sides[1]])
        pairs = {name: (sides[0].get(name, "-"), sides[1].get(name, "-")) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def to_json(self) -> dict[str, Any]:
        """Everything, for a script."""
        return {
            "agreed": self.agreed,
            "bundles": [_told(bundle) for bundle in (self.one, self.other)],
            "shared_cases": len(self.shared),
            "cases_alike_bit_by_bit": len(self.alike),
            "backends": {name: [worst(bundle.of(name)) for bundle in (self.one, self.other)] for name in self.backends},
            "disputed": [
                {"case": a.case, "backend": a.backend, "agreed": [a.agreed, b.agreed]} for a, b in self.disputed
            ],
            "differences": {name: list(pair) for name, pair in self.differences().items()},
        }


def compare(one: Bundle, other: Bundle) -> Comparison:
    """Hold two bundles against each other."""
    return Comparison(one, other)


def worst(results: Sequence[Result]) -> dict[str, Any] | None:
    """The figures of one cell: how many results, how many failed, the worst error; None for no result."""
    if not results:
        return None
    ratio = max(result.ratio for result in results)
    failed = sum(not result.agreed for result in results)
    return {"results": len(results), "failed": failed, "error_over_allowed": for_json(ratio)}


def _told(bundle: Bundle) -> dict[str, Any]:
    return {
        "path": bundle.path,
        "device": bundle.device,
        "date": bundle.place["date"],
        "results": len(bundle.results),
        "failed": len(bundle.failures),
    }


def _facts(bundle: Bundle, backends: Iterable[str]) -> Iterable[tuple[str, str]]:
    yield "device", bundle.device
    for part in ("machine", "packages", "variables", "tolerances"):
        for name, value in bundle.place[part].items():
            yield f"{part}: {name}", str(value)
    for backend in backends:
        for name, value in bundle.backends[backend].items():
            if isinstance(value, Mapping):
                for key, item in value.items():
                    yield f"{backend}: {name}: {key}", str(item)
            else:
                yield f"{backend}: {name}", str(value)
