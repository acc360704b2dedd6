"""Whether what `parity.modes` says cannot be, still cannot be, and for the reason that it says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from parity import modes, run
from parity.cases import Case
from parity.errors import ParityError
from parity.modes import Limit
from parity.spec import SPECS


@dataclass(frozen=True)
class Attempt:
    """A cell that cannot be, tried.

    Args:
        limit: why it cannot be.
        backend, case: where.
        ending: what came of it; empty when the results agree with the oracle.
    """

    limit: Limit
    backend: str
    case: str
    ending: str

    @property
    def is_stale(self) -> bool:
        """Whether it works, or fails with something else than the table says."""
        return self.limit.symptom not in self.ending if self.ending else True

    def explain(self) -> str:
        """One sentence for people."""
        where = f"{self.backend}: case {self.case} cannot be ({self.limit.reason})"
        if not self.ending:
            return f"{where}, but it runs, and agrees with the oracle"
        told = self.ending.strip().partition("\n")[0][:300]
        return f"{where}; expected {self.limit.symptom!r}, but it ended with {told!r}" if self.is_stale else where


def attempts(limit: Limit, backend: str) -> Iterator[Attempt]:
    """Every block and dtype of `limit`, tried on `backend`; one dtype where it is about all of them."""
    blocks, dtypes = limit.blocks or tuple(SPECS), limit.dtypes or ("float32",)
    ids = [mode for mode in modes.MODES if fnmatchcase(mode, limit.mode) and modes.has(backend, mode)]
    for mode, block, dtype in itertools.product(ids, blocks, dtypes):
        case = Case(block, "default", 2, "odd", "channels_last", dtype, False, mode)
        yield Attempt(limit, backend, case.id, _ending(case, backend))


def _ending(case: Case, backend: str) -> str:
    try:
        outcome = run.attempt(case, backend)
    except ParityError as error:
        return f"{type(error).__name__}: {error}"
    return (
        "" if outcome.agreed else outcome.error or "\n".join(one.failure for one in outcome.comparisons if one.failure)
    )
