"""The harness judged: every classic mistake in every block, and whether the matrix catches it.

A mistake is made on the oracle; what it gives, rounded to the case's dtype, goes through the same comparison as a
backend's result. One that passes is a hole in the matrix. Only numbers that are off count, no NaN and no wrong shape:
those anything would catch. Without a mistake, every case must agree: else it would catch anything, too. Mistakes that
change nothing by theory stand in a list (`parity.mistakes.EQUIVALENT`), which is checked as well: a line whose mistake
is caught, or that nothing fits, is stale.

>>> verdict = run(blocks=["eca"], mistakes=["kernel-flipped"])
>>> verdict.passed, [(trial.words, trial.training) for trial in verdict.trials]
(True, [('conv.kernel flipped', False), ('conv.kernel flipped', True)])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity import client
from parity.cases import SHAPES, Case, Problem, standard
from parity.compare import Comparison, compare, for_json
from parity.mistakes import BY_NAME, EQUIVALENT, Equivalent, Setting, Variation, find, reason, variations
from parity.modes import PLAIN
from parity.spec import SPECS
from parity.tolerances import PRECISIONS

# Half precision allows so much that faint mistakes pass: the matrix catches them in these.
PRECISE = ("float64", "float32")

LAST = "large"  # the shape that is tried for what survives all others

NO_MISTAKE = Variation("no mistake")


@dataclass(frozen=True)
class Trial:
    """One variation of a mistake in a block, in training or in inference.

    Args:
        mistake: its name.
        block: the block's id.
        words: the variation.
        training: whether statistics are used and updated.
        case: the first that caught it; empty where none did.
        quantity: that is furthest off there; of what nothing caught, in any case.
        ratio: its error as a share of the allowed one.
        epsilons: its error in units of the dtype's epsilon.
        tried: how many cases there were until then.
        on_backend: likewise `ratio` of a backend that was given the mistake; None where none was.
        equivalent: the reason why nothing can catch it, where that is so in every case that it fits.
    """

    mistake: str
    block: str
    words: str
    training: bool
    case: str = ""
    quantity: str = ""
    ratio: float = 0.0
    epsilons: float = 0.0
    tried: int = 0
    on_backend: float | None = None
    equivalent: str = ""

    @property
    def survived(self) -> bool:
        """Whether it passed where it should not."""
        return not self.equivalent and not (self.case and (self.on_backend is None or _caught(self.on_backend)))

    def explain(self) -> str:
        """What passed, in a sentence."""
        mode = "training" if self.training else "inference"
        where = f"{self.block} in {mode}: {self.words} ({self.mistake})"
        if self.case:
            return f"{where} is caught in {self.case}, but not where a backend makes it ({self.on_backend:.2g})"
        return (
            f"{where} survives all {self.tried} cases that it fits; the furthest off is {self.quantity}, by "
            f"{self.ratio:.2g} of the allowed error, {self.epsilons:.2g} epsilons"
        )


@dataclass
class Verdict:
    """What `run` saw.

    Args:
        trials: each variation of each mistake, in each block, in training and in inference.
        stale: the lines of the list of equivalents that do not hold, the mistakes that fit nothing, and the blocks that
            no mistake fits.
        held: the lines of the list that were seen to hold.
        false_alarms: the cases that are off without a mistake.
        backend: that was given the mistakes too, or "".
    """

    trials: list[Trial] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    held: set[Equivalent] = field(default_factory=set)
    false_alarms: list[str] = field(default_factory=list)
    backend: str = ""

    @property
    def survivors(self) -> list[Trial]:
        """The mistakes that passed."""
        return [trial for trial in self.trials if trial.survived]

    @property
    def passed(self) -> bool:
        """Whether there was something to catch, all of it and nothing else was caught, and the list holds."""
        return bool(self.trials) and not self.survivors and not self.stale and not self.false_alarms

    def of(self, mistake: str, block: str) -> list[Trial]:
        """The trials of one cell of the table."""
        return [trial for trial in self.trials if (trial.mistake, trial.block) == (mistake, block)]

    def to_json(self) -> dict[str, Any]:
        """Everything, for a script."""
        return {
            "passed": self.passed,
            "backend": self.backend,
            "stale": self.stale,
            "false_alarms": self.false_alarms,
            "trials": [
                {name: for_json(value) for name, value in asdict(trial).items()} | {"survived": trial.survived}
                for trial in self.trials
            ],
        }


def run(
    blocks: Sequence[str] = tuple(SPECS),
    mistakes: Sequence[str] | None = None,
    *,
    dtypes: Sequence[str] = PRECISE,
    backend: str = "",
    progress: Callable[[str, Verdict], None] = lambda case, verdict: None,
) -> Verdict:
    """Make every mistake in every block and see whether the matrix catches it.

    Args:
        blocks: their ids.
        mistakes: their names; None for all.
        dtypes: of the cases: in half precision much is allowed, and faint mistakes survive.
        backend: an id: what spec, weights and input can express is then given to it as well.
        progress: called with the id of each case before its turn, and what was seen until then.

    Raises:
        SpecError: for a mistake that there is not.
        BackendMissingError, BackendCrashedError: as their names say.
    """
    mistakes = None if mistakes is None else [find(name).name for name in mistakes]
    verdict = Verdict(backend=backend)
    for block in blocks:
        for training in (False, True):
            trials: dict[tuple[str, str], Trial] = {}
            for case in cases([block], [training], dtypes):
                progress(case.id, verdict)
                if case.shape != LAST or any(trial.survived for trial in trials.values()):
                    _try(case, mistakes, trials, verdict)
            verdict.trials += trials.values()
    if mistakes is None or set(mistakes) == set(BY_NAME):
        tried = {trial.block for trial in verdict.trials}
        verdict.stale += [f"no mistake fits {block}" for block in blocks if block not in tried]
    if set(dtypes) >= set(PRECISE):
        verdict.stale += _unfitting(blocks, mistakes, verdict.held)
    if set(dtypes) >= set(PRECISE) and set(blocks) == set(SPECS):
        tried = {trial.mistake for trial in verdict.trials}
        verdict.stale += [f"{name} fits no case of the matrix" for name in mistakes or BY_NAME if name not in tried]
    return verdict


def cases(blocks: Sequence[str], phases: Sequence[bool] = (False, True), dtypes: Sequence[str] = PRECISE) -> list[Case]:
    """The cases of the matrix in the order in which they are tried: small ones that catch much come first."""
    fitting = [
        case
        for case in standard()
        if isinstance(case, Case) and case.mode == PLAIN and case.dtype in dtypes
        if case.block in blocks and case.training in phases
    ]
    sizes = list(SHAPES)

    def order(case: Case) -> tuple[int, bool, int]:
        return sizes.index(case.shape), case.spatial_dims != 2, list(dtypes).index(case.dtype)

    return sorted(fitting, key=order)


def _try(case: Case, mistakes: Sequence[str] | None, trials: dict[tuple[str, str], Trial], verdict: Verdict) -> None:
    """Make what has not been caught yet in this case."""
    problem = case.problem()
    _check(case, problem, verdict)
    setting = Setting(problem.block, problem.x, case.training, case.data_format)
    for variation in variations(setting, mistakes):
        if _shows(setting, variation):
            continue
        key = variation.mistake, variation.words
        trial = trials.setdefault(key, Trial(variation.mistake, case.block, variation.words, case.training))
        line = reason(setting, variation)
        if line is None and trial.case:
            continue
        worst = _worst(case, problem, _made(case, problem, variation))
        if line is not None:
            verdict.held.add(line)
            if worst.ratio > 1:
                verdict.stale.append(f"{line.mistake} in {case.block} is caught by {case.id}: {variation.words}")
            if not trial.tried:
                trials[key] = replace(trial, equivalent=line.reason)
            continue
        trial = replace(trial, equivalent="", tried=trial.tried + 1)
        if worst.ratio >= trial.ratio:
            trial = replace(trial, quantity=worst.name, ratio=worst.ratio, epsilons=worst.epsilons)
        if _caught(worst.ratio):
            trial = replace(trial, case=case.id, quantity=worst.name, ratio=worst.ratio, epsilons=worst.epsilons)
            if verdict.backend and variation.is_portable:
                sent = _worst(case, problem, _sent(case, problem, variation, verdict))
                trial = replace(trial, on_backend=sent.ratio)
        trials[key] = trial


def _shows(setting: Setting, variation: Variation) -> bool:
    """Whether another spec gives an output of another shape, which anything would catch."""
    other = variation.respec(setting.spec)
    return other.output_shape(setting.input_shape, "channels_first") != setting.output_shape()


def _check(case: Case, problem: Problem, verdict: Verdict) -> None:
    """Note a case that is off where no mistake is made."""
    made = [("the oracle", _made(case, problem, NO_MISTAKE))]
    if verdict.backend:
        made.append((verdict.backend, _sent(case, problem, NO_MISTAKE, verdict)))
    for who, got in made:
        worst = _worst(case, problem, got)
        if worst.failure:
            verdict.false_alarms.append(f"{case.id} catches {who} without a mistake: {worst.failure}")


def _caught(ratio: float) -> bool:
    """Whether numbers are off by more than is allowed; infinite is what cannot be compared."""
    return 1 < ratio < math.inf


def _made(case: Case, problem: Problem, variation: Variation) -> Mapping[str, NDArray]:
    """What the oracle makes of a case where it makes this mistake."""
    result = variation.evaluate(
        problem.block,
        problem.x,
        cotangent=problem.cotangent,
        training=case.training,
        data_format=case.data_format,
        steps=problem.steps,
        learning_rate=problem.learning_rate,
    )
    return {name: value.value for name, value in result.items()}


def _sent(case: Case, problem: Problem, variation: Variation, verdict: Verdict) -> Mapping[str, NDArray]:
    """What the backend makes of a case where it is given this mistake."""
    cotangent = problem.cotangent
    result = client.run(
        verdict.backend,
        "cpu",
        variation.block(problem.block),
        variation.laid_out(problem.x, case.data_format),
        None if cotangent is None else variation.laid_into(cotangent, case.data_format),
        training=case.training,
        dtype=case.dtype,
        data_format=case.data_format,
        steps=problem.steps,
        learning_rate=problem.learning_rate,
    )
    return variation.taken_back(result, case.data_format)


def _worst(case: Case, problem: Problem, got: Mapping[str, NDArray]) -> Comparison:
    """The quantity that is furthest off; what is not finite is left out."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = {name: value.astype(PRECISIONS[case.dtype].dtype_of(name)) for name, value in got.items()}
    for name, value in rounded.items():
        if name in problem.expected and value.shape == problem.expected[name].value.shape:
            lost = ~np.isfinite(value)
            value[lost] = problem.expected[name].value[lost]
    comparisons = compare(problem.expected, rounded, dtype=case.dtype, device="cpu", by_norm=problem.by_norm)
    return max(comparisons, key=lambda comparison: comparison.ratio)


def _unfitting(blocks: Sequence[str], mistakes: Sequence[str] | None, held: set[Equivalent]) -> Iterator[str]:
    """The lines of the list that nothing fitted, of those that were looked at."""
    for line in EQUIVALENT:
        wanted = {line.block} if line.block else set(SPECS)
        if wanted <= set(blocks) and (mistakes is None or line.mistake in mistakes) and line not in held:
            where = line.block or "any block"
            yield f"{line.mistake} in {where} is listed as equivalent ({line.reason}), but nothing fits it"
