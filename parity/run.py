"""The judgement: every case on every backend against the oracle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from parity import client, modes
from parity.cases import AnyCase, Problem
from parity.compare import Comparison, compare, for_json
from parity.diagnosis import Diagnoses, Diagnosis, Observation
from parity.errors import BackendCrashedError, BackendDiedError, ModeMissingError, ParityError
from parity.faults import NORMAL, Limits
from parity.spec import NETWORKS, SPECS

# A backend whose worker died with this many cases in a row is not started again for the others.
DEATHS = 3

# Of a case's failures at most this many are told one by one.
TOLD = 40


@dataclass(frozen=True)
class Outcome:
    """One case on one backend: its comparisons, or the error that came instead of a result."""

    case: str
    block: str
    dtype: str
    mode: str
    backend: str
    device: str
    comparisons: Sequence[Comparison] = ()
    error: str = ""
    diagnosis: Diagnosis | None = None

    @property
    def agreed(self) -> bool:
        """Whether there is a result and all of it agrees."""
        return bool(self.comparisons) and not any(comparison.failure for comparison in self.comparisons)

    @property
    def ratio(self) -> float:
        """The worst error as a share of the allowed one."""
        return max((comparison.ratio for comparison in self.comparisons), default=math.inf)

    @property
    def epsilons(self) -> float:
        """The worst error in units of the dtype's epsilon at the scale of its array."""
        return max((comparison.epsilons for comparison in self.comparisons), default=math.inf)

    def explain(self) -> str:
        """One paragraph: what is wrong, and the command that shows it again."""
        device = "" if self.device == "cpu" else f" --device {self.device}"
        failures = [comparison.failure for comparison in self.comparisons if comparison.failure]
        # A network's go into the hundreds.
        more = [f"and {len(failures) - TOLD} more results"] if len(failures) > TOLD else []
        what = self.error or "\n".join(failures[:TOLD] + more)
        what += f"\n{self.diagnosis.text}" if self.diagnosis else ""
        return (
            f"{self.backend}: case {self.case}\n{what}\n"
            f"reproduce: parity run --backend {self.backend} --case {self.case}{device}"
        )


@dataclass(frozen=True)
class Impossible:
    """One case that cannot be on one backend: neither agreed nor failed."""

    case: str
    block: str
    dtype: str
    mode: str
    backend: str
    reason: str


@dataclass
class Report:
    """What a run saw: the outcomes, what cannot be, the backends that are absent (why) and present (what they are), and
    the fingerprint of each case's numbers.
    """

    device: str
    outcomes: list[Outcome] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    present: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    impossible: list[Impossible] = field(default_factory=list)

    @property
    def agreed(self) -> bool:
        """Whether something ran, and all that ran agreed."""
        return bool(self.outcomes) and all(outcome.agreed for outcome in self.outcomes)

    @property
    def judged(self) -> list[str]:
        """The backends that ran, or tried to."""
        return list(dict.fromkeys([*self.present, *(outcome.backend for outcome in self.outcomes)]))

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that did not agree."""
        return [outcome for outcome in self.outcomes if not outcome.agreed]

    def of(self, block: str, backend: str) -> list[Outcome]:
        """The outcomes of one cell of the table."""
        return [outcome for outcome in self.outcomes if (outcome.block, outcome.backend) == (block, backend)]

    def in_mode(self, mode: str, backend: str) -> list[Outcome]:
        """The outcomes of one cell of the table of modes."""
        return [outcome for outcome in self.outcomes if (outcome.mode, outcome.backend) == (mode, backend)]

    @property
    def modes(self) -> list[str]:
        """The modes of what ran, and of what cannot be."""
        seen = {one.mode for one in self.outcomes} | {one.mode for one in self.impossible}
        return [mode for mode in modes.MODES if mode in seen]

    def to_json(self) -> dict[str, Any]:
        """Everything, for a script: the table first, then each outcome."""
        cells = itertools.product((*SPECS, *NETWORKS), self.judged)
        return {
            "agreed": self.agreed,
            "device": self.device,
            "backends": self.present,
            "absent": self.absent,
            "problems": self.problems,
            "worst": [
                {
                    "block": block,
                    "backend": backend,
                    "cases": len(outcomes),
                    "error_over_allowed": for_json(max(o.ratio for o in outcomes)),
                    "epsilons": {
                        dtype: for_json(max(o.epsilons for o in outcomes if o.dtype == dtype))
                        for dtype in sorted({o.dtype for o in outcomes})
                    },
                }
                for block, backend in cells
                if (outcomes := self.of(block, backend))
            ],
            "modes": [
                {
                    "mode": mode,
                    "backend": backend,
                    "cases": len(outcomes),
                    "error_over_allowed": for_json(max(o.ratio for o in outcomes)),
                }
                for mode, backend in itertools.product(self.modes, self.judged)
                if (outcomes := self.in_mode(mode, backend))
            ],
            "impossible": [asdict(one) for one in self.impossible],
            "outcomes": [
                {
                    "case": o.case,
                    "block": o.block,
                    "mode": o.mode,
                    "backend": o.backend,
                    "agreed": o.agreed,
                    "error": o.error,
                    "comparisons": [comparison.to_json() for comparison in o.comparisons],
                    "diagnosis": o.diagnosis.to_json() if o.diagnosis else None,
                }
                for o in self.outcomes
            ],
        }


def judge(
    cases: Sequence[AnyCase],
    backends: Sequence[str],
    *,
    device: str = "cpu",
    jobs: int = 2,
    limits: Limits = NORMAL,
    progress: Callable[[str, Outcome | None], None] = lambda stage, outcome: None,
) -> Report:
    """Run every case on every backend and hold the results against what the case expects.

    A case meets the backends that have its mode; where it cannot be, the report tells why. A backend that is not
    installed, or sees no such device, is reported as absent. One that crashes has failed that
    case, and starts anew for the next; one that died `DEATHS` times in a row is given up, and its other cases have
    failed with it.

    Args:
        cases: of the matrix, or recordings.
        backends: their ids.
        device: one of `parity.backends.DEVICES`.
        jobs: how many cases are under way at once; a backend runs one at a time.
        limits: what each worker may take.
        progress: called with a word on what begins, and with each outcome.
    """
    report, deaths, diagnoses = Report(device), _Deaths(), Diagnoses()

    def start(name: str) -> dict[str, Any] | ParityError:
        progress(f"starting {name}", None)
        try:
            return client.worker(name, device, limits).description
        except ParityError as error:
            return error

    def one(case: AnyCase) -> list[Outcome | Impossible]:
        asked = [name for name in report.present if modes.has(name, case.mode)]
        found: list[Outcome | Impossible] = []
        found += [_impossible(case, name, why) for name in asked if (why := reason(case, name))]
        asked = [name for name in asked if not reason(case, name)]
        if not asked:
            return found
        try:
            problem = case.problem()
        except ParityError as error:
            return found + [_crashed(name, device, case, error) for name in asked]
        report.problems[case.id] = problem.fingerprint
        for name in asked:
            try:
                outcome = _outcome(case, problem, name, device, limits, deaths, diagnoses)
            except ModeMissingError as error:
                found.append(_impossible(case, name, str(error)))
                continue
            found.append(outcome)
            progress(case.id, outcome)
        return found

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for name, answer in zip(backends, pool.map(start, backends), strict=True):
            if isinstance(answer, BackendCrashedError):
                report.outcomes += [_crashed(name, device, case, answer) for case in cases[:1]]
            elif isinstance(answer, ParityError):
                report.absent[name] = str(answer)
            else:
                report.present[name] = answer
        for found in pool.map(one, cases if report.present else ()):
            report.outcomes += [one for one in found if isinstance(one, Outcome)]
            report.impossible += [one for one in found if isinstance(one, Impossible)]
    return report


def reason(case: AnyCase, backend: str) -> str:
    """Why `case` cannot be on `backend`; empty if it can."""
    return modes.impossible(backend, case.mode, block=case.block, dtype=case.dtype, training=case.training)


def attempt(case: AnyCase, backend: str, device: str = "cpu") -> Outcome:
    """What comes of `case` on `backend`, whatever `parity.modes` says of it."""
    return _outcome(case, case.problem(), backend, device, NORMAL, _Deaths(), Diagnoses())


def _impossible(case: AnyCase, backend: str, why: str) -> Impossible:
    return Impossible(case.id, case.block, case.dtype, case.mode, backend, why)


def _crashed(backend: str, device: str, case: AnyCase, error: ParityError) -> Outcome:
    return Outcome(
        case.id, case.block, case.dtype, case.mode, backend, device, error=f"{type(error).__name__}: {error}"
    )


class _Deaths:
    """How each backend died, since its last answer."""

    def __init__(self) -> None:
        self._errors: dict[str, list[ParityError]] = {}

    def note(self, backend: str, error: ParityError | None) -> None:
        """That a request ended with `error`, or well."""
        if isinstance(error, BackendDiedError):
            self._errors.setdefault(backend, []).append(error)
        else:
            self._errors.pop(backend, None)

    def check(self, backend: str) -> None:
        """Raise `BackendCrashedError` for a backend that is given up."""
        errors = self._errors.get(backend, [])
        if len(errors) >= DEATHS:
            reason = str(errors[-1]).splitlines()[0]
            raise BackendCrashedError(f"not run: backend {backend!r} died {len(errors)} times in a row, last: {reason}")


def _outcome(
    case: AnyCase,
    problem: Problem,
    backend: str,
    device: str,
    limits: Limits,
    deaths: _Deaths,
    diagnoses: Diagnoses,
) -> Outcome:
    try:
        deaths.check(backend)
    except ParityError as error:
        return _crashed(backend, device, case, error)
    # What has no gradients is asked for none.
    infers = modes.MODES[case.mode].inference_only != ""
    expected = {"output": problem.expected["output"]} if infers else problem.expected
    try:
        got = client.run(
            backend,
            device,
            problem.block,
            problem.x,
            None if infers else problem.cotangent,
            limits=limits,
            training=case.training,
            dtype=case.dtype,
            data_format=case.data_format,
            mode=case.mode,
            steps=problem.steps,
            learning_rate=problem.learning_rate,
        )
    except ModeMissingError:
        deaths.note(backend, None)
        raise
    except ParityError as error:
        deaths.note(backend, error)
        return _crashed(backend, device, case, error)
    deaths.note(backend, None)
    network = case.block in NETWORKS
    comparisons = compare(expected, got, dtype=case.dtype, device=device, by_norm=problem.by_norm, network=network)
    diagnosis = None
    if any(comparison.failure for comparison in comparisons):
        observed = replace(problem, expected=expected, cotangent=None) if infers else problem
        diagnosis = diagnoses.of(backend, _observation(case, observed, got, device))
    return Outcome(case.id, case.block, case.dtype, case.mode, backend, device, comparisons, diagnosis=diagnosis)


def _observation(case: AnyCase, problem: Problem, got: dict[str, Any], device: str) -> Observation:
    return Observation(
        problem.block,
        problem.x,
        got,
        problem.expected,
        cotangent=problem.cotangent,
        training=case.training,
        data_format=case.data_format,
        steps=problem.steps,
        learning_rate=problem.learning_rate,
        dtype=case.dtype,
        device=device,
        by_norm=problem.by_norm,
    )
