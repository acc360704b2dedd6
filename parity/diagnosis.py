"""Why results disagree: which classic mistake makes the oracle reproduce what was seen.

>>> from parity.spec import ECAOptions
>>> x = np.random.default_rng(0).normal(size=(2, 6, 3, 4))
>>> spec = ECAOptions(kernel_size=3).resolve(6)
>>> block, flipped = (Block("eca", spec, {"conv.kernel": np.array([[w]])}) for w in ([0.5, -1.0, 2.0], [2.0, -1, 0.5]))
>>> seen = oracle.evaluate(spec, flipped.tensors, x)["output"].value
>>> diagnose(Observation(block, x, {"output": seen})).fits[0].words
'conv.kernel flipped'
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity import oracle
from parity.block import Block, listed
from parity.compare import Comparison, compare, for_json
from parity.mistakes import Setting, Variation, variations
from parity.oracle import Measured
from parity.spec import NETWORKS

# The elements of an input up to which single mistakes, and pairs of them, are tried.
LARGE, LARGE_FOR_PAIRS = 2**16, 2**14

SMALL = 2**12  # up to which more samples cost nothing

PAIRS = 8192  # that are tried at most, those of the nearest mistakes first
SECONDS = 20.0  # that one diagnosis may spend on single mistakes, on pairs, and on what fits
CANDIDATES = 16  # that fit the first quantity and are then held against the others
NAMED = 4  # at most


@dataclass(frozen=True, eq=False)
class Observation:
    """A block that was run, and what came out.

    Args:
        block: the weights and what they mean.
        x: the input, in `data_format`.
        got: what came out: "output", "grad.input", ... as a backend names it.
        expected: what should have; None for what the oracle says.
        cotangent, training, data_format, steps, learning_rate: as `oracle.evaluate` takes them.
        dtype: the precision in which it ran.
        device: where.
        by_norm: how gradients are judged (`parity.compare`).
    """

    block: Block
    x: NDArray
    got: Mapping[str, NDArray]
    expected: Mapping[str, Measured] | None = None
    cotangent: NDArray | None = None
    training: bool = False
    data_format: str = "channels_first"
    steps: int = 0
    learning_rate: float = 0.0
    dtype: str = "float64"
    device: str = "cpu"
    by_norm: bool = False

    @property
    def network(self) -> bool:
        """Whether it is a network."""
        return self.block.spec.block in NETWORKS

    @cached_property
    def right(self) -> Mapping[str, Measured]:
        """What should have come out, of what did."""
        options = {"cotangent": self.cotangent, "steps": self.steps, "learning_rate": self.learning_rate}
        right = self.expected or oracle.evaluate(
            self.block.spec,
            self.block.tensors,
            self.x,
            training=self.training,
            data_format=self.data_format,
            **options,  # type: ignore[arg-type]
        )
        return {name: value for name, value in right.items() if name in self.got}

    @cached_property
    def off(self) -> list[Comparison]:
        """What differs, the first first."""
        return [result for result in self.against(self.right) if result.failure]

    def against(self, results: Mapping[str, Measured]) -> list[Comparison]:
        """How what came out compares with what would have, were `results` right."""
        kept = {name: value for name, value in results.items() if name in self.right}
        got = {name: self.got[name] for name in kept}
        how: dict[str, Any] = {"by_norm": self.by_norm, "network": self.network}
        return compare(kept, got, dtype=self.dtype, device=self.device, **how)

    def under(self, variation: Variation, whole: bool, loaded: bool = False) -> dict[str, Measured]:
        """What the oracle makes of it under a mistake, the whole or what a forward pass gives; nothing where it cannot.

        Each result has the magnitude of the right one: that of a mistake that cancels badly would allow any error.
        """
        options: dict[str, Any] = {"training": self.training, "data_format": self.data_format}
        if whole and self.cotangent is not None:
            options |= {"cotangent": self.cotangent, "steps": self.steps, "learning_rate": self.learning_rate}
        try:
            results = variation.evaluate(self.block, self.x, loaded=loaded, **options)
        except Exception:  # two mistakes that exclude each other end in an error of their own
            return {}
        return {
            name: Measured(results[name].value, right.magnitude)
            for name, right in self.right.items()
            if name in results
        }

    def of_one_sample(self) -> Observation:
        """The same of the first sample alone, where samples do not meet and are large."""
        if self.training or self.x.size <= SMALL:
            return self
        expected = {"output": self.right["output"][:1]}
        return replace(self, x=self.x[:1], got={"output": self.got["output"][:1]}, expected=expected, cotangent=None)


@dataclass(frozen=True)
class Fit:
    """A mistake, or a pair, under which the oracle gives what was seen.

    Args:
        words: what was done.
        mistake: its name in the table; of a pair, both.
        after: the worst error that is left, as a share of the allowed one.
        missed: the results that it does not reproduce; those that it does are what `after` is of.
    """

    words: str
    mistake: str
    after: float
    missed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Args:
        before: the worst error, as a share of the allowed one.
        fits: what reproduces it; several where they cannot be told apart.
        nearest: what comes nearest where nothing does.
        tried: how many single mistakes.
        pairs: how many pairs.
        left: what was not tried, and why.
    """

    before: float
    fits: Sequence[Fit] = ()
    nearest: Fit | None = None
    tried: int = 0
    pairs: int = 0
    left: str = ""

    @property
    def text(self) -> str:
        """One paragraph."""
        lead = f"The error is {self.before:.3g} times the allowed one."
        rest = f" {self.left[:1].upper()}{self.left[1:]}." if self.left else ""
        if self.fits:
            names = "; or ".join(f"{fit.words} ({fit.after:.2g} times)" for fit in self.fits[:NAMED])
            more = f"; or {len(self.fits) - NAMED} others" if len(self.fits) > NAMED else ""
            missed = self.fits[0].missed
            what = "it" if not missed else f"the rest, but not {listed(missed, most=4)}"
            pairs = f" No pair of them with another of {self.tried} classic mistakes does more." if missed else ""
            return f"{lead} What reproduces {what}: {names}{more}.{rest or pairs}"
        if not self.tried:
            return f"{lead}{rest}"
        pairs = f", alone or in {self.pairs} pairs," if self.pairs else ""
        near = f"; the nearest is {self.nearest.words} ({self.nearest.after:.3g} times)" if self.nearest else ""
        return f"{lead} None of {self.tried} classic mistakes{pairs} reproduces it{near}.{rest}"

    def to_json(self) -> dict[str, Any]:
        """Everything, for a script."""
        found = asdict(self) | {"text": self.text, "before": for_json(self.before)}
        found["fits"] = [_fit(fit) for fit in self.fits]
        found["nearest"] = _fit(self.nearest) if self.nearest else None
        return found


def _fit(fit: Fit) -> dict[str, Any]:
    return asdict(fit) | {"after": for_json(fit.after)}


def _first_layer(seen: Observation) -> Diagnosis:
    """Of a network: where it begins. Mistakes are tried on blocks."""
    before = max(result.ratio for result in seen.off)
    names = [name.removeprefix("layer.") for name in seen.right if name.startswith("layer.")]
    off = [result.name.removeprefix("layer.") for result in seen.off if result.name.startswith("layer.")]
    if not names:
        return Diagnosis(
            before, left="networks are not tried for mistakes; their case in inference mode names the layer"
        )
    if not off:
        where = (
            "every layer agrees" if "output" not in {r.name for r in seen.off} else "every layer before the head agrees"
        )
        return Diagnosis(before, left=where)
    first = min(off, key=names.index)
    agreed = names[: names.index(first)]
    told = f"{agreed[-1]!r} before it still agrees" if agreed else "it is the first of all"
    return Diagnosis(before, left=f"the first layer that differs is {first!r}; {told}")


@dataclass
class Patience:
    """The seconds that a run has for pairs of mistakes, shared by all its diagnoses: a broken backend fails often."""

    left: float = 120.0

    def spent_since(self, begin: float) -> None:
        """Take off what has passed since `time.monotonic()` was `begin`."""
        self.left -= time.monotonic() - begin


def diagnose(seen: Observation, patience: Patience | None = None) -> Diagnosis:
    """Which classic mistake, or which pair of them, makes the oracle reproduce what was seen.

    Every variation of every mistake that fits is tried, on the output where that is off, else on all results; what fits
    there is held against the rest. Where none reproduces all, pairs are tried: of a mistake that explains the output
    with each other one, else those of the nearest mistakes first.

    Args:
        seen: a block that was run, and what came out.
        patience: for pairs; one of its own where none is given.
    """
    before = max((result.ratio for result in seen.off), default=0.0)
    if not seen.off:
        return Diagnosis(before, left="nothing is off")
    if seen.x.size > LARGE:
        return Diagnosis(before, left=f"an input of {seen.x.size} elements is too large to try mistakes on")
    screen = _Screen(seen)
    every = list(variations(Setting(seen.block, seen.x, seen.training, seen.data_format)))
    in_time = _until(time.monotonic() + SECONDS, every)
    tried = sorted(((screen.error(variation), variation) for variation in in_time), key=lambda pair: pair[0])
    fitting = _confirmed(seen, [variation for error, variation in tried if error <= 1])
    left = "" if len(tried) == len(every) else f"{len(every) - len(tried)} mistakes were not tried: they take too long"
    diagnosis = Diagnosis(before, [fit for fit, _ in fitting], tried=len(tried), left=left)
    if left and not fitting:
        return diagnosis
    if fitting and fitting[0][0].missed:
        pairs = [first & other for _, first in fitting[:NAMED] for _, other in tried if other is not first]
        return _paired(seen, diagnosis, pairs, patience or Patience(), whole=True)
    if fitting or not tried:
        return diagnosis
    error, nearest = tried[0]
    if math.isinf(error):  # another shape, another dtype, or no numbers
        return replace(diagnosis, left="nothing that a mistake gives can be compared with what came out")
    diagnosis = replace(diagnosis, nearest=Fit(nearest.words, nearest.mistake, error))
    if seen.x.size > LARGE_FOR_PAIRS:
        return replace(diagnosis, left="the input is too large to try pairs on")
    few = seen.of_one_sample() if screen.is_forward else seen
    singles = list(_Screen(few, screen.is_forward).distinct(variation for _, variation in tried))
    ranks = sorted(itertools.combinations(range(len(singles)), 2), key=sum)
    pairs = [singles[i] & singles[j] for i, j in ranks]
    return _paired(seen, diagnosis, pairs, patience or Patience(), whole=not screen.is_forward)


class _Screen:
    """A cheap look at variations: the error that is left of the output, or of all results where that is right."""

    def __init__(self, seen: Observation, is_forward: bool | None = None) -> None:
        self.seen = seen
        self.is_forward = seen.off[0].name == "output" if is_forward is None else is_forward

    def results(self, variation: Variation) -> dict[str, Measured]:
        """What the variation gives of what is looked at; nothing where it cannot be made."""
        results = self.seen.under(variation, whole=not self.is_forward)
        return {name: value for name, value in results.items() if name in self._looked_at}

    def error(self, variation: Variation) -> float:
        """How far what came out is from that."""
        results = self.results(variation)
        error = max((result.ratio for result in self.seen.against(results)), default=math.inf)
        return math.inf if math.isnan(error) else error

    def distinct(self, ordered: Iterable[Variation]) -> Iterator[Variation]:
        """One variation for each effect; those without any are left out, and those that spoil a right output."""
        known = {_print({name: self.seen.right[name] for name in self._looked_at})}
        for variation in ordered:
            results = self.results(variation)
            effect = _print({name: results[name] for name in self._looked_at if name in results})
            if effect and effect not in known and (self.is_forward or self._keeps_output(results)):
                known.add(effect)
                yield variation

    @property
    def _looked_at(self) -> list[str]:
        return ["output"] if self.is_forward else list(self.seen.right)

    def _keeps_output(self, results: Mapping[str, Measured]) -> bool:
        kept = {name: results[name] for name in ("output",) if name in self.seen.right}
        return not any(result.failure for result in self.seen.against(kept))


def _until(end: float, every: Iterable[Variation]) -> Iterator[Variation]:
    """Those of `every` that are taken before the clock is at `end`."""
    return itertools.takewhile(lambda _: time.monotonic() < end, every)


def _print(results: Mapping[str, Measured]) -> bytes:
    """Equal for results that differ by rounding alone; empty where they are no numbers."""
    parts = [value.value / (np.abs(value.value).max(initial=0) or 1.0) for value in results.values()]
    if not all(np.isfinite(part).all() for part in parts):
        return b""
    return b"".join(np.round(part, 9).tobytes() for part in parts)


def _confirmed(seen: Observation, candidates: Sequence[Variation]) -> list[tuple[Fit, Variation]]:
    """The candidates that reproduce all results, else those that reproduce most."""
    fits: dict[str, tuple[Fit, Variation]] = {}
    for variation in _until(time.monotonic() + SECONDS, candidates[:CANDIDATES]):
        # Wrong weights that were loaded have gradients of their own; right ones that are used wrongly have others.
        ways = [_fit_of(seen, variation, loaded) for loaded in (False, True)]
        best = min(ways, key=lambda fit: (len(fit.missed), fit.after))
        fits.setdefault(best.words, (best, variation))
    least = min((len(fit.missed) for fit, _ in fits.values()), default=0)
    return [(fit, variation) for fit, variation in fits.values() if len(fit.missed) == least]


def _fit_of(seen: Observation, variation: Variation, loaded: bool) -> Fit:
    results = seen.against(seen.under(variation, whole=True, loaded=loaded))
    after = {result.name: result.ratio for result in results if not result.failure}
    missed = tuple(name for name in seen.right if name not in after)
    return Fit(variation.words, variation.mistake, max(after.values(), default=math.inf), missed)


def _paired(
    seen: Observation, diagnosis: Diagnosis, pairs: Sequence[Variation], patience: Patience, *, whole: bool
) -> Diagnosis:
    """The diagnosis with the pairs that reproduce what no single mistake does."""
    begin = time.monotonic()
    screen = _Screen(seen if whole else seen.of_one_sample(), not whole)
    count, nearest, found = 0, diagnosis.nearest, list[Variation]()
    for pair in _until(begin + min(SECONDS, patience.left), pairs[:PAIRS]):
        if len(found) == NAMED:
            break
        count += 1
        error = screen.error(pair)
        if error <= 1:
            found.append(pair)
        elif nearest is not None and error < nearest.after:
            nearest = Fit(pair.words, pair.mistake, error)
    patience.spent_since(begin)
    fits = [fit for fit, _ in _confirmed(seen, found) if not fit.missed or not (whole or "output" in fit.missed)]
    left = "" if count == len(pairs) or fits else f"{len(pairs) - count} pairs were not tried"
    return replace(diagnosis, fits=fits or diagnosis.fits, nearest=nearest, pairs=count, left=left)


@dataclass
class Diagnoses:
    """The diagnoses of a run: a few for each backend and block, one for each set of results that are off.

    Args:
        most: for a backend and block.
        patience: for all of them.
    """

    most: int = 2
    patience: Patience = field(default_factory=Patience)
    _known: set[tuple[str, ...]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, backend: str, seen: Observation) -> Diagnosis | None:
        """A diagnosis, if anything is off: one that tries nothing where another case failed alike, or enough did."""
        if not seen.off:
            return None
        if seen.network:
            return _first_layer(seen)
        cell = (backend, seen.block.spec.block)
        key = (*cell, *(result.name for result in seen.off))
        with self._lock:
            enough = sum(other[:2] == cell for other in self._known) >= self.most
            if (enough or key in self._known) and seen.x.size <= LARGE:
                before = max(result.ratio for result in seen.off)
                return Diagnosis(before, left="mistakes were tried on other cases of this block on this backend")
            if seen.x.size <= LARGE:
                self._known.add(key)
        return diagnose(seen, self.patience)
