"""Replays probes: what the source of the weights computed, against the oracle and every backend.

The oracle goes first. Where it disagrees with the recorded output, the weights and their spec do not mean what the
source computed (a wrong hint, a wrong dialect, a damaged file), and no backend could agree; where it agrees and a
backend does not, the backend is broken.

    >>> from parity.probe import with_probes
    >>> from parity.spec import ECAOptions
    >>> spec = ECAOptions(kernel_size=3).resolve(6)
    >>> block = Block("eca", spec, {"conv.kernel": np.array([[[0.5, -1.0, 2.0]]])})
    >>> verify(with_probes([block]), ["torch"]).agreed
    True
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity import client, oracle
from parity.backends import BACKENDS
from parity.block import Block, Probe
from parity.compare import Comparison, compare, for_json
from parity.diagnosis import Diagnosis, Observation, Patience, diagnose
from parity.errors import BackendCrashedError, InputError, ParityError
from parity.loading import blocks_from
from parity.oracle import Measured
from parity.probe import look_at, too_large
from parity.tolerances import EPSILON

ORACLE = "oracle"


@dataclass(frozen=True)
class Outcome:
    """One probe replayed once.

    Args:
        block: the block's name.
        backend: the backend's id, or "oracle".
        comparison: of what came out with what the source of the weights computed; None where an error came instead.
        explanation: empty when they agree, else one paragraph: what is wrong, by how much, and whose fault it is.
        diagnosis: where the oracle disagrees, the classic mistakes that were tried on it.
    """

    block: str
    backend: str
    comparison: Comparison | None
    explanation: str = ""
    diagnosis: Diagnosis | None = None

    @property
    def agreed(self) -> bool:
        """Whether there is a result, and it agrees."""
        return self.comparison is not None and not self.comparison.failure

    @property
    def ratio(self) -> float:
        """The worst error as a share of the allowed one."""
        return self.comparison.ratio if self.comparison else math.inf

    @property
    def epsilons(self) -> float:
        """The worst error in units of the dtype's epsilon at the output's scale."""
        return self.comparison.epsilons if self.comparison else math.inf


@dataclass
class Verification:
    """What `verify` saw.

    Args:
        asked: the backends that were to run; none where the oracle alone was.
        device: "cpu" or "gpu".
        sources: who computed the probe of each block that has one.
        outcomes: each probe on the oracle and on each backend.
        unproved: the blocks that nothing was shown of, with the reason: no probe, or one that proves nothing.
        blind_spots: by block, what its probe cannot tell (`parity.probe.blind_spots`).
        absent: the backends that are not installed, or see no such device, with the reason.
        present: the backends that ran, with what they are.
    """

    asked: Sequence[str]
    device: str
    sources: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    unproved: dict[str, str] = field(default_factory=dict)
    blind_spots: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    present: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def agreed(self) -> bool:
        """Whether every block has a probe that every backend that ran reproduces; never where none ran."""
        ran = bool(self.outcomes) and (bool(self.present) or not self.asked)
        return ran and not self.unproved and all(outcome.agreed for outcome in self.outcomes)

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that do not agree."""
        return [outcome for outcome in self.outcomes if not outcome.agreed]

    def explain(self) -> list[str]:
        """A paragraph for each thing that is wrong; none where all is well."""
        parts = [outcome.explanation for outcome in self.failures]
        parts += [f"block {name!r}: {reason}; this is no pass" for name, reason in self.unproved.items()]
        if self.asked and not self.present:
            parts += [f"no backend ran: {'; '.join(self.absent.values())}"]
        if not self.outcomes and not self.unproved:
            parts += ["no block was verified: there is none"]
        return parts

    def to_json(self) -> dict[str, Any]:
        """Everything, for a script."""
        return {
            "agreed": self.agreed,
            "device": self.device,
            "backends": self.present,
            "absent": self.absent,
            "unproved": self.unproved,
            "blind_spots": self.blind_spots,
            "sources": self.sources,
            "outcomes": [
                {
                    "block": o.block,
                    "backend": o.backend,
                    "agreed": o.agreed,
                    "error_over_allowed": for_json(o.ratio),
                    "epsilons": for_json(o.epsilons),
                    "comparison": o.comparison.to_json() if o.comparison else None,
                    "explanation": o.explanation,
                    "diagnosis": o.diagnosis.to_json() if o.diagnosis else None,
                }
                for o in self.outcomes
            ],
        }


def verify(
    source: Any,
    backends: Sequence[str] | None = None,
    *,
    device: str = "cpu",
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Verification:
    """Replay the probe of every block on the oracle and in backends, and hold the results against the recorded output.

    Each runs in float64 where the probe's arrays are float64, else in float32, and is held to the tolerance of that
    dtype at the output's scale (`parity.tolerances`).

    Args:
        source: a `Block`, a list of them, or anything that `parity.read` reads.
        backends: their ids; None for all of them, an empty sequence for the oracle alone.
        device: "cpu" or "gpu".
        progress: called with each outcome.

    Raises:
        InputError: for a backend that there is not; and what `parity.read` raises.
    """
    asked = list(BACKENDS) if backends is None else list(dict.fromkeys(backends))
    unknown = [name for name in asked if name not in BACKENDS]
    if unknown:
        raise InputError(f"received backend {', '.join(map(repr, unknown))}", f"some of {', '.join(BACKENDS)}")
    result = Verification(asked, device)
    patience = Patience()
    replays = [replay for block in blocks_from(source) if (replay := _replay(block, result, patience)) is not None]

    def tell(outcome: Outcome) -> Outcome:
        progress(outcome)
        return outcome

    def run(backend: str) -> tuple[dict[str, Any], list[Outcome]]:
        return client.worker(backend, device).description, [tell(replay.on(backend, device)) for replay in replays]

    result.outcomes += [tell(replay.on_oracle()) for replay in replays]
    if not replays:
        return result
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for backend, future in [(backend, pool.submit(run, backend)) for backend in asked]:
            try:
                result.present[backend], outcomes = future.result()
                result.outcomes += outcomes
            except BackendCrashedError as error:
                result.outcomes += [Outcome(replay.block.name, backend, None, str(error)) for replay in replays[:1]]
            except ParityError as error:
                result.absent[backend] = str(error)
    return result


def _replay(block: Block, result: Verification, patience: Patience) -> _Replay | None:
    """The probe of `block`, ready to run; notes in `result` what it cannot prove."""
    if block.probe is None:
        result.unproved[block.name] = "no probe"
        return None
    probe = block.probe
    result.sources[block.name] = probe.source
    dtypes = {str(probe.x.dtype), str(probe.output.dtype)}
    if not dtypes <= set(EPSILON):
        result.unproved[block.name] = f"its probe is in {' and '.join(sorted(dtypes))}, for which there is no tolerance"
    elif not all(np.isfinite(value).all() for value in (probe.x, probe.output)):
        result.unproved[block.name] = "its probe holds numbers that are not finite"
    elif too_large(block, probe.x.shape):
        result.unproved[block.name] = f"its probe of shape {probe.x.shape} is too large"
    else:
        replay = _Replay(block, probe, patience)
        look = look_at(block, probe.x.astype(np.float64), replay.dtype)
        if not look.sees_nothing:
            result.blind_spots |= {block.name: look.blind_spots} if look.blind_spots else {}
            return replay
        result.unproved[block.name] = "its probe shows none of its weights"
    return None


class _Replay:
    """One block's probe, and what the oracle makes of it."""

    def __init__(self, block: Block, probe: Probe, patience: Patience) -> None:
        self.block, self.probe, self.patience = block, probe, patience
        self.dtype = max((str(probe.x.dtype), str(probe.output.dtype)), key=EPSILON.__getitem__)  # the coarser
        self.meant = self._meaning(block)
        # The recorded output, at the scale that the oracle gives it.
        self.recorded = Measured(probe.output.astype(np.float64), self.meant.magnitude)

    def on_oracle(self) -> Outcome:
        """The oracle's answer: whether weights and spec mean what the source computed."""
        comparison = self._compare(self.meant.value.astype(self.dtype))
        if not comparison.failure:
            return Outcome(self.block.name, ORACLE, comparison)
        why = "The weights under their spec do not mean what the source computed."
        found = self._diagnose(self.probe.output, "cpu")
        text = "\n".join([self._title(ORACLE), comparison.failure, f"{why} {found.text}"])
        return Outcome(self.block.name, ORACLE, comparison, text, found)

    def on(self, backend: str, device: str) -> Outcome:
        """A backend's answer."""
        try:
            got = client.evaluate(self.block, self.probe.x, backend=backend, dtype=self.dtype, device=device)["output"]
        except ParityError as error:
            text = f"{self._title(backend)}\n{type(error).__name__}: {error}"
            return Outcome(self.block.name, backend, None, text)
        comparison = self._compare(got, device)
        if not comparison.failure:
            return Outcome(self.block.name, backend, comparison)
        (ours,) = compare({"output": self.meant}, {"output": got}, dtype=self.dtype, device=device)
        found = self._diagnose(got, device) if ours.failure else None
        why = (
            f"The backend is off from the oracle too ({ours.ratio:.3g} times the allowed error). {found.text}"
            if found
            else "The backend agrees with the oracle: not it is wrong, but the weights or their spec."
        )
        text = f"{self._title(backend)}\n{comparison.failure}\n{why}"
        return Outcome(self.block.name, backend, comparison, text, found)

    def _meaning(self, block: Block) -> Measured:
        with np.errstate(all="ignore"):  # a damaged file may hold any number
            tensors = {name: value.astype(self.dtype) for name, value in block.tensors.items()}
            return oracle.evaluate(block.spec, tensors, self.probe.x)["output"]

    def _compare(self, got: NDArray, device: str = "cpu") -> Comparison:
        (comparison,) = compare({"output": self.recorded}, {"output": got}, dtype=self.dtype, device=device)
        return comparison

    def _title(self, who: str) -> str:
        return f"{who}: block {self.block.name!r}, whose probe comes from {self.probe.source}"

    def _diagnose(self, output: NDArray, device: str) -> Diagnosis:
        """Which mistake the oracle must make to give this output."""
        got, expected = {"output": output.astype(self.dtype)}, {"output": self.meant}
        seen = Observation(self.block, self.probe.x, got, expected, dtype=self.dtype, device=device)
        return diagnose(seen, self.patience)
