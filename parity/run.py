"""The judgement: every case on every backend against the oracle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from parity import client
from parity.cases import AnyCase, Problem
from parity.compare import Comparison, compare
from parity.errors import BackendCrashedError, ParityError
from parity.spec import SPECS


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
        what = self.error or "\n".join(comparison.failure for comparison in self.comparisons if comparison.failure)
        return (
            f"{self.backend}: case {self.case}\n{what}\n"
            f"reproduce: parity run --backend {self.backend} --case {self.case}{device}"
        )


@dataclass
class Report:
    """What a run saw: the outcomes, and the backends that are absent (why) and present (what they are)."""

    device: str
    outcomes: list[Outcome] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    present: dict[str, dict[str, Any]] = field(default_factory=dict)

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

    def to_json(self) -> dict[str, Any]:
        """Everything, for a script: the table first, then each outcome."""
        cells = itertools.product(SPECS, self.judged)
        return {
            "agreed": self.agreed,
            "device": self.device,
            "backends": self.present,
            "absent": self.absent,
            "worst": [
                {
                    "block": block,
                    "backend": backend,
                    "cases": len(outcomes),
                    "error_over_allowed": _finite(max(o.ratio for o in outcomes)),
                    "epsilons": {
                        dtype: _finite(max(o.epsilons for o in outcomes if o.dtype == dtype))
                        for dtype in sorted({o.dtype for o in outcomes})
                    },
                }
                for block, backend in cells
                if (outcomes := self.of(block, backend))
            ],
            "outcomes": [
                {
                    "case": o.case,
                    "backend": o.backend,
                    "agreed": o.agreed,
                    "error": o.error,
                    "comparisons": [{k: _finite(v) for k, v in asdict(c).items()} for c in o.comparisons],
                }
                for o in self.outcomes
            ],
        }


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def judge(
    cases: Sequence[AnyCase],
    backends: Sequence[str],
    *,
    device: str = "cpu",
    jobs: int = 2,
    progress: Callable[[str, Outcome | None], None] = lambda stage, outcome: None,
) -> Report:
    """Run every case on every backend and hold the results against what the case expects.

    A backend that is not installed, or sees no such device, is reported as absent. One that crashes has failed that
    case, and starts anew for the next.

    Args:
        cases: of the matrix, or recordings.
        backends: their ids.
        device: "cpu" or "gpu".
        jobs: how many cases are under way at once; a backend runs one at a time.
        progress: called with a word on what begins, and with each outcome.
    """
    report = Report(device)

    def start(name: str) -> dict[str, Any] | ParityError:
        progress(f"starting {name}", None)
        try:
            return client.worker(name, device).description
        except ParityError as error:
            return error

    def one(case: AnyCase) -> list[Outcome]:
        outcomes = []
        try:
            problem = case.problem()
        except ParityError as error:
            return [_crashed(name, device, case, error) for name in report.present]
        for name in report.present:
            outcomes.append(_outcome(case, problem, name, device))
            progress(case.id, outcomes[-1])
        return outcomes

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for name, found in zip(backends, pool.map(start, backends), strict=True):
            if isinstance(found, BackendCrashedError):
                report.outcomes += [_crashed(name, device, case, found) for case in cases[:1]]
            elif isinstance(found, ParityError):
                report.absent[name] = str(found)
            else:
                report.present[name] = found
        for outcomes in pool.map(one, cases if report.present else ()):
            report.outcomes += outcomes
    return report


def _crashed(backend: str, device: str, case: AnyCase, error: ParityError) -> Outcome:
    return Outcome(
        case.id, case.block, case.dtype, case.mode, backend, device, error=f"{type(error).__name__}: {error}"
    )


def _outcome(case: AnyCase, problem: Problem, backend: str, device: str) -> Outcome:
    try:
        got = client.run(
            backend,
            device,
            problem.block,
            problem.x,
            problem.cotangent,
            training=case.training,
            dtype=case.dtype,
            data_format=case.data_format,
            mode=case.mode,
            steps=problem.steps,
            learning_rate=problem.learning_rate,
        )
    except ParityError as error:
        return _crashed(backend, device, case, error)
    comparisons = compare(problem.expected, got, dtype=case.dtype, device=device)
    return Outcome(case.id, case.block, case.dtype, case.mode, backend, device, comparisons)
