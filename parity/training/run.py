"""The demonstration: every network, optimiser and dtype on every backend against the oracle, and a ring of backends."""

from __future__ import annotations

import itertools
import math
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity import client
from parity.block import Block
from parity.compare import for_json
from parity.errors import BackendCrashedError, ParityError
from parity.faults import NORMAL, Limits
from parity.reading import read
from parity.spec import SPECS, is_statistic
from parity.tolerances import ADAM_FORMULAS_APART, Envelope, training_envelope
from parity.training import reference
from parity.training._worker import VELOCITY
from parity.training.data import batches, digits
from parity.training.networks import initial, network, takes_maxima
from parity.training.optimizers import OPTIMIZERS, Optimizer, optimizer_of
from parity.training.reference import Trained
from parity.writing import write

STEPS = 200
RING_STEPS = 25  # of each backend of the ring
DTYPES = ("float64", "float32")

Change = Callable[[Block], Block]


@dataclass(frozen=True)
class Job:
    """One training: a network, an optimiser, a dtype, and whether convolutions have biases that are inert."""

    block: str
    optimizer: str
    dtype: str
    biased: bool = False

    @property
    def initial(self) -> Block:
        """The weights it begins with."""
        return initial(network(self.block, self.biased))

    @property
    def asked(self) -> Optimizer:
        """What is asked of the framework."""
        return optimizer_of(self.optimizer, network(self.block))

    @property
    def envelope(self) -> Envelope:
        """How far it may be from the oracle's."""
        return training_envelope(self.optimizer, self.dtype, takes_maxima(self.block))

    def __str__(self) -> str:
        return f"{self.block}{' with biases' * self.biased}, {self.optimizer}, {self.dtype}"


@dataclass(frozen=True)
class Figure:
    """One number of a training against the oracle."""

    name: str
    error: float
    allowed: float

    @property
    def ratio(self) -> float:
        """The error as a share of the allowed one; infinite where it is no number, or nothing is allowed."""
        if not self.error <= self.allowed:  # NaN, too
            return self.error / self.allowed if self.allowed and math.isfinite(self.error) else math.inf
        return self.error / self.allowed if self.allowed else 0.0


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a job on a backend.

    Args:
        job, backend: which.
        trained: the result, or None.
        figures: against the oracle's training by the framework's own formula.
        drift: how far each inert parameter moved, absolute, by its name.
        error: what came instead of a result.
    """

    job: Job
    backend: str
    trained: Trained | None = None
    figures: Sequence[Figure] = ()
    drift: Mapping[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def agreed(self) -> bool:
        """Whether there is a result within its envelope."""
        return bool(self.figures) and self.ratio <= 1

    @property
    def ratio(self) -> float:
        """The worst error as a share of the allowed one."""
        return max((figure.ratio for figure in self.figures), default=math.inf)

    def explain(self) -> str:
        """One paragraph: what is wrong, and the command that shows it again."""
        left = [
            f"{figure.name}: off by {figure.error:.3g}, allowed {figure.allowed:.3g}"
            for figure in self.figures
            if figure.ratio > 1
        ]
        job = self.job
        return (
            f"{self.backend}: {job}\n{self.error or '; '.join(left)}\nreproduce: parity train-demo --backend "
            f"{self.backend} --block {job.block} --optimizer {job.optimizer} --dtype {job.dtype}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, for a script; the losses are there."""
        return {
            "block": self.job.block,
            "optimizer": self.job.optimizer,
            "dtype": self.job.dtype,
            "inert_biases": self.job.biased,
            "backend": self.backend,
            "agreed": self.agreed,
            "error": self.error,
            "correct": self.trained.correct if self.trained else None,
            "figures": [
                {"name": one.name, "error": for_json(one.error), "allowed": one.allowed} for one in self.figures
            ],
            "drift": dict(self.drift),
            "losses": [for_json(float(loss)) for loss in self.trained.losses] if self.trained else [],
        }


@dataclass(frozen=True, eq=False)
class Ring:
    """A training that goes from backend to backend, weights and velocity in an exchange file at every seam.

    Args:
        backends: in order.
        block, dtype: what was trained.
        planted: the mistake made at every seam; "" for none.
        losses: at every step, or what there was of them before an error.
        expected: the oracle's, which never stops.
        allowed: the difference that is.
        error: what came instead of a result.
    """

    backends: Sequence[str]
    block: str
    dtype: str
    planted: str
    losses: NDArray
    expected: NDArray
    allowed: float
    error: str = ""

    @property
    def worst(self) -> float:
        """The largest difference from the oracle."""
        different = np.abs(self.losses - self.expected[: len(self.losses)])
        return float(different.max()) if different.size else math.inf

    @property
    def within(self) -> bool:
        """Whether nobody could tell from the curve that there was a seam."""
        return not self.error and self.worst <= self.allowed

    @property
    def agreed(self) -> bool:
        """Whether it is as it should be: without a seam, or, where a mistake was planted, with one."""
        return not self.error and self.within != bool(self.planted)

    def to_json(self) -> dict[str, Any]:
        """Everything, for a script."""
        return {
            "backends": list(self.backends),
            "block": self.block,
            "dtype": self.dtype,
            "planted": self.planted,
            "worst": for_json(self.worst),
            "allowed": self.allowed,
            "agreed": self.agreed,
            "error": self.error,
            "losses": [for_json(float(loss)) for loss in self.losses],
        }


@dataclass
class Report:
    """What a demonstration saw.

    Args:
        steps: of each training.
        outcomes: one for each job and backend.
        references: the oracle's trainings, by job in float64 and framework.
        rings: with and without a planted mistake.
        apart: how far Adam's formulas lead the oracle apart in the loss, by block.
        absent: the backends that are not here, and why.
        frameworks: of the others.
    """

    steps: int
    outcomes: list[Outcome] = field(default_factory=list)
    references: dict[tuple[Job, str], Trained] = field(default_factory=dict)
    rings: list[Ring] = field(default_factory=list)
    apart: dict[str, Figure] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    frameworks: dict[str, str] = field(default_factory=dict)

    @property
    def agreed(self) -> bool:
        """Whether something ran, and all that ran kept within its envelope."""
        parts: list[Outcome | Ring] = [*self.outcomes, *self.rings]
        return (
            bool(self.outcomes)
            and all(part.agreed for part in parts)
            and all(one.ratio <= 1 for one in self.apart.values())
        )

    def of(self, job: Job, backend: str) -> Outcome | None:
        """The outcome of a job on a backend."""
        found = [one for one in self.outcomes if (one.job, one.backend) == (job, backend)]
        return found[0] if found else None

    def to_json(self) -> dict[str, Any]:
        """Everything, for a script."""
        return {
            "agreed": self.agreed,
            "steps": self.steps,
            "backends": self.frameworks,
            "absent": self.absent,
            "test_images": len(digits().test_labels),
            "outcomes": [outcome.to_json() for outcome in self.outcomes],
            "oracle": [
                {
                    "block": job.block,
                    "optimizer": job.optimizer,
                    "inert_biases": job.biased,
                    "formula": framework,
                    "correct": trained.correct,
                    "losses": trained.losses.tolist(),
                }
                for (job, framework), trained in self.references.items()
            ],
            "rings": [ring.to_json() for ring in self.rings],
            "formulas_apart": {
                block: {"error": one.error, "allowed": one.allowed} for block, one in self.apart.items()
            },
        }


Progress = Callable[[str], None]


def plan(
    blocks: Sequence[str] = tuple(SPECS),
    optimizers: Sequence[str] = tuple(OPTIMIZERS),
    dtypes: Sequence[str] = DTYPES,
) -> list[Job]:
    """Every training; and that of the first network with inert biases, too."""
    jobs = [Job(*one) for one in itertools.product(blocks, optimizers, dtypes)]
    return jobs + [replace(job, biased=True) for job in jobs if job.block == blocks[0]]


def judge(
    jobs: Sequence[Job],
    backends: Sequence[str],
    *,
    steps: int = STEPS,
    ring: bool = True,
    device: str = "cpu",
    threads: int = 2,
    limits: Limits = NORMAL,
    progress: Progress = lambda what: None,
) -> Report:
    """Train everything everywhere and hold it against the oracle.

    Args:
        jobs: as `plan` makes them.
        backends: their ids; one that is not installed is reported as absent.
        steps: of each training.
        ring: whether to train around a ring of the backends, too, where there are several.
        device: where the backends compute.
        threads: how many trainings are under way at once; a backend trains one at a time.
        limits: what each worker may take.
        progress: called with a word on each training that is done.
    """
    report, lock = Report(steps), threading.Lock()
    trained: dict[tuple[Job, str], Trained | ParityError] = {}

    def start(name: str) -> str | ParityError:
        try:
            return client.worker(name, device, limits).description["framework"]
        except ParityError as error:
            return error

    def oracle() -> None:
        for job, framework in _formulas(jobs, report.frameworks.values()):
            found = reference.train(job.initial, job.asked, framework, steps=steps)
            with lock:
                report.references[job, framework] = found
            progress(f"oracle: {job}")

    def backend(name: str) -> None:
        for job in jobs:
            try:
                found: Trained | ParityError = train(name, job, steps=steps, device=device, limits=limits)
            except ParityError as error:
                found = error
            with lock:
                trained[job, name] = found
            progress(f"{name}: {job}")

    with ThreadPoolExecutor(max(1, threads)) as pool:
        for name, answer in zip(backends, pool.map(start, backends), strict=True):
            if isinstance(answer, str):
                report.frameworks[name] = answer
            elif isinstance(answer, BackendCrashedError):
                report.outcomes += [Outcome(job, name, error=_told(answer)) for job in jobs[:1]]
            else:
                report.absent[name] = str(answer)
        present = list(report.frameworks)
        if present:
            for done in [pool.submit(oracle), *(pool.submit(backend, name) for name in present)]:
                done.result()
    for job, name in itertools.product(jobs, present):
        expected = report.references[_exact(job), _formula(job, report.frameworks[name])]
        report.outcomes.append(_outcome(job, name, trained[job, name], expected))
    report.apart = _apart(report)
    if ring and len(present) > 1:
        for made in rings(present, jobs, device=device, limits=limits):
            report.rings.append(made)
            progress(f"ring: {made.dtype}{', ' * bool(made.planted)}{made.planted}")
    return report


def train(
    backend: str,
    job: Job,
    *,
    steps: int,
    start: Block | None = None,
    first: int = 0,
    device: str = "cpu",
    limits: Limits = NORMAL,
) -> Trained:
    """What a backend makes of a job: `steps` steps from number `first` on, beginning with the weights `start`."""
    images = digits()
    framework = client.worker(backend, device, limits).description["framework"]
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        before, after = Path(folder, "before.safetensors"), Path(folder, "after.safetensors")
        write(before, [start or job.initial])
        arrays = {"x": images.x, "labels": images.labels, "test_x": images.test_x}
        result = client.train(
            backend,
            device,
            before,
            after,
            arrays | {"batches": batches(first + steps)[first:]},
            limits=limits,
            dtype=job.dtype,
            # Each framework's own.
            data_format="channels_first" if framework == "torch" else "channels_last",
            optimizer=job.asked.to_json(),
        )
        (block,) = read(after)
        velocity = {name.removeprefix(VELOCITY): np.array(value) for name, value in block.extras.items()}
        weights = {name: np.array(value) for name, value in block.tensors.items()}
    return Trained(result["losses"], weights, result["logits"], velocity)


def rings(
    backends: Sequence[str], jobs: Sequence[Job], *, device: str = "cpu", limits: Limits = NORMAL
) -> Iterable[Ring]:
    """The first network trained by SGD around all backends and back to the first, in each dtype; and, so that it is
    known what a seam would look like, between the first two with each of `PLANTED`.
    """
    block = jobs[0].block
    for dtype in dict.fromkeys(job.dtype for job in jobs):
        yield around([*backends, backends[0]], Job(block, "sgd", dtype), device=device, limits=limits)
    for planted in PLANTED:
        job = Job(block, "sgd", jobs[0].dtype)
        yield around([*backends[:2], backends[0]], job, planted, device=device, limits=limits)


def around(
    backends: Sequence[str],
    job: Job,
    planted: str = "",
    *,
    steps: int = RING_STEPS,
    device: str = "cpu",
    limits: Limits = NORMAL,
) -> Ring:
    """Train from backend to backend, `steps` steps on each, and make the mistake `planted` at every seam."""
    whole = reference.train(job.initial, job.asked, "torch", steps=steps * len(backends))
    change = PLANTED[planted] if planted else (lambda block: block)
    block, losses, error = job.initial, [np.zeros(0)], ""
    for number, name in enumerate(backends):
        try:
            trained = train(name, job, steps=steps, start=block, first=number * steps, device=device, limits=limits)
        except ParityError as failure:
            error = f"{name}: {_told(failure)}"
            break
        losses.append(trained.losses)
        extras = {VELOCITY + key: value for key, value in trained.velocity.items()}
        block = change(Block(block.name, block.spec, trained.weights, extras))
    return Ring(
        backends,
        job.block,
        job.dtype,
        planted,
        np.concatenate(losses),
        whole.losses,
        job.envelope.loss.tolerance,
        error,
    )


def _turned(block: Block) -> Block:
    """The last convolution with its square kernel transposed."""
    name = [name for name in block.tensors if name.startswith("conv") and name.endswith("kernel")][-1]
    return replace(block, tensors={**block.tensors, name: np.swapaxes(block.tensors[name], -1, -2).copy()})


# Mistakes at a seam, which must show.
PLANTED: dict[str, Change] = {
    "the velocity left behind": lambda block: replace(block, extras={}),
    "the velocity of Keras' sign": lambda block: replace(
        block, extras={name: -np.asarray(value) for name, value in block.extras.items()}
    ),
    "a square kernel transposed": _turned,
}


def _exact(job: Job) -> Job:
    """The oracle knows one dtype."""
    return replace(job, dtype="float64")


def _formula(job: Job, framework: str) -> str:
    """SGD is one formula everywhere."""
    return framework if job.optimizer == "adam" else "any"


def _formulas(jobs: Iterable[Job], frameworks: Iterable[str]) -> list[tuple[Job, str]]:
    """The oracle's trainings: each in float64, by each formula that one of the frameworks has."""
    pairs = itertools.product(map(_exact, jobs), dict.fromkeys(frameworks))
    return list(dict.fromkeys((job, _formula(job, framework)) for job, framework in pairs))


def _outcome(job: Job, backend: str, trained: Trained | ParityError, expected: Trained) -> Outcome:
    if isinstance(trained, ParityError):
        return Outcome(job, backend, error=_told(trained))
    allowed, inert = job.envelope, network(job.block, job.biased).inert(True)
    figures = [Figure("loss", _worst(trained.losses - expected.losses), allowed.loss.tolerance)]
    far = [
        _worst(trained.weights[name] - value) / max(_worst(value), 1e-300)
        for name, value in expected.weights.items()
        if name not in inert and not (job.biased and is_statistic(name))  # means follow the biases before them
    ]
    figures.append(Figure("weights", max(far), allowed.weights.tolerance))
    if not job.biased:
        off = _worst(trained.logits - expected.logits) / _worst(expected.logits)
        turned = int((trained.classes != expected.classes).sum())
        figures += [Figure("logits", off, allowed.logits.tolerance), Figure("images", turned, allowed.images)]
    start = job.initial.tensors
    drift = {name: _worst(trained.weights[name] - start[name]) for name in sorted(inert)}
    return Outcome(job, backend, trained, figures, drift)


def _apart(report: Report) -> dict[str, Figure]:
    """How far the formulas of Adam lead the oracle apart."""
    found: dict[str, list[NDArray]] = {}
    for (job, _), trained in report.references.items():
        if job.optimizer == "adam" and not job.biased:
            found.setdefault(job.block, []).append(trained.losses)
    return {
        block: Figure("formulas", _worst(np.ptp(losses, axis=0)), ADAM_FORMULAS_APART.tolerance)
        for block, losses in found.items()
        if len(losses) > 1
    }


def _worst(array: Any) -> float:
    """The largest absolute number; NaN where there is one."""
    return float(np.abs(np.asarray(array, np.float64)).max())


def _told(error: ParityError) -> str:
    return f"{type(error).__name__}: {error}"
