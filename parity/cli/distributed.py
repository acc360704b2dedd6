"""``parity distributed``: data-parallel training against the oracle on the joined batch."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity import distributed
from parity.backends import BACKENDS
from parity.cli._limits import add_limits, limits_of
from parity.cli._output import AGREED, DISAGREED, add_json, check_writable, show, worst_error, write_json
from parity.distributed import DTYPES, NONE, SYNCHRONIZED, Job, Outcome
from parity.errors import SpecError
from parity.spec import SPECS


def add_commands(commands: Any) -> None:
    """Add the commands of this module to the parser's."""
    parser = commands.add_parser(
        "distributed",
        help="train on two replicas, and hold them against the oracle on the joined batch",
        description="Two processes or devices, each with a part of the batch, as users of each framework train. Norms "
        "use the statistics of their part, or synchronised ones. Exit status: 0 if everything that ran agreed and "
        "something ran, 1 if not, 2 for wrong usage.",
    )
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--block", choices=list(SPECS), help="only this block (may be repeated)", **several)
    parser.add_argument("--backend", choices=list(BACKENDS), help="only this backend (may be repeated)", **several)
    parser.add_argument("--dtype", choices=DTYPES, help="only this dtype (may be repeated)", **several)
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        help="only there (default: the CPU, and PyTorch's SyncBatchNorm on a GPU where there is one)",
    )
    add_limits(parser)
    add_json(parser, "every figure as JSON")
    parser.set_defaults(command=_run)


def _run(given: argparse.Namespace) -> int:
    check_writable(given.json)
    limits, jobs = limits_of(given), _jobs(given)
    if not jobs:
        raise SpecError("received options that leave nothing to train", "at least one block and one backend with a way")
    console = Console(stderr=True)
    with console.status("") as status:
        outcomes = distributed.judge(jobs, limits=limits, progress=lambda stage: status.update(f"training {stage}"))
    show(given, _table(outcomes, _asked(given)))
    for outcome in outcomes:
        if not outcome.agreed and not outcome.impossible:
            console.print(outcome.explain() + "\n", markup=False, highlight=False, soft_wrap=True)
    agreed = _agreed(outcomes)
    show(given, _verdict(outcomes))
    write_json(
        given.json, {"agreed": agreed, "outcomes": [o.to_json() for o in outcomes], "without": _without(_asked(given))}
    )
    ran = {outcome.job.backend for outcome in outcomes if not outcome.impossible}
    # A backend that was asked for by name and did not run is no agreement.
    return AGREED if agreed and ran >= set(given.backend) else DISAGREED


def _asked(given: argparse.Namespace) -> list[str]:
    return list(dict.fromkeys(given.backend)) or list(BACKENDS)


def _jobs(given: argparse.Namespace) -> list[Job]:
    options: dict[str, Any] = {"blocks": list(dict.fromkeys(given.block)) or list(SPECS)}
    options |= {"dtypes": list(dict.fromkeys(given.dtype)) or DTYPES}
    jobs = [] if given.device == "gpu" else distributed.plan(_asked(given), **options)
    if given.device != "cpu":
        on_gpu = distributed.plan(_asked(given), **options, device="gpu")
        jobs += [job for job in on_gpu if given.device or (job.backend == "torch" and job.norm == SYNCHRONIZED)]
    return jobs


def _without(backends: list[str]) -> dict[str, str]:
    return {name: reason for name, reason in distributed.without_a_way().items() if name in backends}


def _agreed(outcomes: list[Outcome]) -> bool:
    ran = [outcome for outcome in outcomes if not outcome.impossible]
    return bool(ran) and all(outcome.agreed for outcome in ran)


def _table(outcomes: list[Outcome], backends: list[str]) -> Table:
    """A row for each backend and device, a column for each block and what its norm does; reasons get a number."""
    columns = list(dict.fromkeys(_column(outcome.job) for outcome in outcomes))
    table = Table("backend", *map(escape, columns), title="two replicas, worst error / allowed")
    reasons: dict[str, int] = {}
    for row in dict.fromkeys(_row(outcome.job) for outcome in outcomes):
        cells = [[o for o in outcomes if (_row(o.job), _column(o.job)) == (row, column)] for column in columns]
        table.add_row(escape(row), *(_cell(cell, reasons) for cell in cells))
    for name, reason in _without(backends).items():
        table.add_row(name, *[f"[yellow]({reasons.setdefault(reason, len(reasons) + 1)})[/]"] * len(columns))
    table.caption = "\n".join(f"({number}) {escape(reason)}" for reason, number in reasons.items())
    table.caption_justify = "left"
    return table


def _row(job: Job) -> str:
    return f"{job.backend}{'' if job.device == 'cpu' else f' ({job.device})'}: {job.way.title}"


def _column(job: Job) -> str:
    what = job.case.variant.removeprefix("default") if job.norm == NONE else job.norm
    return f"{job.case.block} {what}".strip()


def _cell(outcomes: list[Outcome], reasons: dict[str, int]) -> str:
    if outcomes and outcomes[0].impossible:
        return f"[yellow]({reasons.setdefault(outcomes[0].impossible, len(reasons) + 1)})[/]"
    return worst_error(outcomes)


def _verdict(outcomes: list[Outcome]) -> str:
    ran = [outcome for outcome in outcomes if not outcome.impossible]
    failed = sum(not outcome.agreed for outcome in ran)
    if not ran:
        return "[red]nothing ran[/]"
    if failed:
        return f"[red]{failed} of {len(ran)} trainings disagree with the oracle[/]"
    return f"[green]all {len(ran)} trainings agree with the oracle on the joined batch[/]"
