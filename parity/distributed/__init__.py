"""Data-parallel training: two replicas, each with a part of the batch, against the oracle on the whole of it.

Each backend trains in the way that its users do (`WAYS`), in processes of its own. A replica's loss is <cotangent, y>
over its part, so that the losses add up to the one of the joined batch; gradients are compared as that sum, whatever
the framework makes of it (PyTorch's DistributedDataParallel takes the mean, so there the loss is multiplied by the
number of processes). Compared are outputs, gradients, running statistics and the weights after every step, on each
replica.

A norm's batch is either that of its replica or, synchronised, the whole one: `NORMS`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from parity import client
from parity.backends import BACKENDS, find
from parity.cases import Case
from parity.compare import Comparison, compare
from parity.distributed import _launch
from parity.distributed._expected import expected, joined
from parity.errors import BackendCrashedError, ParityError
from parity.faults import NORMAL, Limits
from parity.spec import SPECS

NONE, PER_REPLICA, SYNCHRONIZED = NORMS = ("none", "per replica", "synchronized")

# The cases of each block by what its norm does; both estimators of the variance. A block without a line here has its
# own defaults alone.
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "cbam": {
        NONE: ("norm-free",),
        PER_REPLICA: ("default", "keras-norm"),
        SYNCHRONIZED: ("default", "keras-norm"),
    },
    "ca": {
        NONE: ("norm-free",),
        PER_REPLICA: ("default", "keras-norm"),
        SYNCHRONIZED: ("default", "keras-norm"),
    },
}

DTYPES = ("float64", "float32")

ONE_GPU = "its replicas live in one process and want a GPU each"


@dataclass(frozen=True)
class Way:
    """How the users of a framework train data-parallel.

    Args:
        title: what reports call it.
        module: what each of its processes runs (see `parity.distributed._replica`).
        processes: how many there are; with one, it holds all replicas.
        shape: of the cases; "even" has a batch of three, which two replicas cannot share evenly.
        data_format: of the cases.
        broadcasts: whether each step begins with the running statistics of the first replica.
        environment: variables of its processes.
        impossible: the reasons why a device or a norm cannot be, by its name.
    """

    title: str
    module: str
    processes: int
    shape: str = "even"
    data_format: str = "channels_last"
    broadcasts: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    impossible: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


DDP = "parity.distributed.torch_ddp"
KERAS_DDP = Way("torch DistributedDataParallel (gloo)", DDP, 2)
MIRRORED = Way(
    "tf.distribute.MirroredStrategy", "parity.distributed.tensorflow_mirrored", 1, impossible={"gpu": ONE_GPU}
)
SHARDED = Way(
    "keras.distribution.DataParallel",
    "parity.distributed.jax_sharded",
    1,
    shape="odd",
    environment={"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    impossible={
        "gpu": ONE_GPU,
        PER_REPLICA: "a sharded array is one array: the statistics of its batch are those of the whole batch",
    },
)

WAYS: dict[str, Way] = {
    "torch": Way(KERAS_DDP.title, DDP, 2, data_format="channels_first", broadcasts=True),
    "keras-functional@tensorflow": MIRRORED,
    "keras-functional@jax": SHARDED,
    "keras-functional@torch": KERAS_DDP,
    "keras-layers@tensorflow": MIRRORED,
    "keras-layers@jax": SHARDED,
    "keras-layers@torch": KERAS_DDP,
}

NO_WAY = "no way of its own: strategies replicate what runs eagerly or in tf.function, not graphs of sessions"


@dataclass(frozen=True)
class Job:
    """One case on one backend: what its norm does, and where."""

    backend: str
    case: Case
    norm: str = NONE
    device: str = "cpu"

    @property
    def way(self) -> Way:
        """How its backend trains."""
        return WAYS[self.backend]

    def __str__(self) -> str:
        return f"{self.backend} on the {self.device}: case {self.case.id}, norm {self.norm}"


@dataclass(frozen=True)
class Outcome:
    """What came of a job: comparisons, or the error that came instead, or why it cannot be here."""

    job: Job
    comparisons: Sequence[Comparison] = ()
    error: str = ""
    impossible: str = ""

    @property
    def agreed(self) -> bool:
        """Whether there is a result and all of it agrees."""
        return bool(self.comparisons) and not any(comparison.failure for comparison in self.comparisons)

    @property
    def ratio(self) -> float:
        """The worst error as a share of the allowed one."""
        return max((comparison.ratio for comparison in self.comparisons), default=math.inf)

    def explain(self) -> str:
        """One paragraph: what is wrong, and the command that shows it again."""
        what = self.error or "\n".join(comparison.failure for comparison in self.comparisons if comparison.failure)
        job = self.job
        return (
            f"{job}\n{what}\nreproduce: parity distributed --backend {job.backend} --block {job.case.block} "
            f"--dtype {job.case.dtype} --device {job.device}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, for a script."""
        job = self.job
        return {
            "backend": job.backend,
            "way": job.way.title,
            "device": job.device,
            "case": job.case.id,
            "norm": job.norm,
            "agreed": self.agreed,
            "error": self.error,
            "impossible": self.impossible,
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }


def plan(
    backends: Sequence[str],
    *,
    blocks: Sequence[str] = tuple(SPECS),
    dtypes: Sequence[str] = DTYPES,
    device: str = "cpu",
) -> list[Job]:
    """Every job of the backends that have a way."""
    return [
        Job(backend, Case(block, variant, 2, WAYS[backend].shape, WAYS[backend].data_format, dtype, True), norm, device)
        for backend, block in itertools.product((name for name in backends if name in WAYS), blocks)
        for norm, variants in VARIANTS.get(block, {NONE: ("default",)}).items()
        for variant, dtype in itertools.product(variants, dtypes)
    ]


def judge(
    jobs: Sequence[Job], *, limits: Limits = NORMAL, progress: Callable[[str], None] = lambda stage: None
) -> list[Outcome]:
    """Run every job and hold its replicas against the oracle.

    Args:
        jobs: as `plan` makes them.
        limits: what the processes may take.
        progress: called with a word on what begins.
    """
    outcomes: dict[Job, Outcome] = {}
    for (backend, device), group in itertools.groupby(jobs, lambda job: (job.backend, job.device)):
        progress(f"{backend} on the {device}")
        outcomes |= {outcome.job: outcome for outcome in _judge(backend, device, list(group), limits)}
    return [outcomes[job] for job in jobs]


def _judge(backend: str, device: str, jobs: list[Job], limits: Limits) -> Iterator[Outcome]:
    """The outcomes of the jobs of one backend and device, whose processes are started once."""
    absent = _absent(backend, device)
    reasons = {job: absent or WAYS[backend].impossible.get(job.norm, "") for job in jobs}
    yield from (Outcome(job, impossible=reason) for job, reason in reasons.items() if reason)
    possible = [job for job in jobs if not reasons[job]]
    problems, broken = {}, {}
    for job in possible:
        try:
            problem = job.case.problem()
            problems[job] = problem, expected(job.case, problem, job.norm == PER_REPLICA, WAYS[backend].broadcasts)
        except ParityError as error:
            broken[job] = error
    requests = [(problem, job.case, job.norm == SYNCHRONIZED) for job, (problem, _) in problems.items()]
    results = _launch.run(backend, device, WAYS[backend], requests, limits) if requests else []
    for (job, (_, wanted)), got in zip(problems.items(), results, strict=True):
        if isinstance(got, ParityError):
            broken[job] = got
        else:
            yield Outcome(job, compare(wanted, joined(got), dtype=job.case.dtype, device=device))
    yield from (Outcome(job, error=f"{type(error).__name__}: {error}") for job, error in broken.items())


def _absent(backend: str, device: str) -> str:
    """Why the backend cannot run on the device here; "" where it can, or where only its processes can tell."""
    if device in WAYS[backend].impossible:
        return WAYS[backend].impossible[device]
    try:
        find(backend)
        if device != "cpu" and device not in client.describe(backend)["devices"]:
            return f"not possible on this machine: backend {backend!r} sees no {device}"
    except BackendCrashedError:
        return ""
    except ParityError as error:
        return str(error)
    return ""


def without_a_way() -> dict[str, str]:
    """The backends that are not trained data-parallel, and why."""
    return {backend: NO_WAY for backend in BACKENDS if backend not in WAYS}


__all__ = ["NORMS", "WAYS", "Job", "Outcome", "Way", "judge", "plan", "without_a_way"]
