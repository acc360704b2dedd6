"""``parity train-demo``: one training on every backend, against the oracle."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.backends import BACKENDS, DEVICES
from parity.cli._limits import add_limits, limits_of
from parity.cli._output import (
    AGREED,
    DISAGREED,
    add_json,
    as_text,
    check_writable,
    progress_bar,
    show,
    worst_error,
    write_json,
)
from parity.errors import FormatError
from parity.spec import SPECS
from parity.training import run
from parity.training.optimizers import ADAM_FORMULAS, OPTIMIZERS

REPORT = "report.txt"  # what people see, in the folder of the figures


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser's."""
    parser = commands.add_parser(
        "train-demo",
        help="train a small network with each block on every backend, and hold the curves against the oracle",
        description="All begin with the weights of one exchange file and see the same batches of handwritten digits. "
        "Then one training goes around all backends, with weights and velocity in exchange files. Exit status: 0 if "
        "every curve keeps within its envelope and something ran, 1 if not, 2 for wrong usage.",
    )
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--block", choices=list(SPECS), help="only this block (may be repeated)", **several)
    parser.add_argument("--backend", choices=list(BACKENDS), help="only this backend (may be repeated)", **several)
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), help="only this one (may be repeated)", **several)
    parser.add_argument("--dtype", choices=run.DTYPES, help="only this dtype (may be repeated)", **several)
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where the backends compute (default: cpu)")
    parser.add_argument(
        "--steps", type=_positive, default=run.STEPS, metavar="N", help=f"of each training (default: {run.STEPS})"
    )
    parser.add_argument("--no-ring", action="store_true", help="leave out the training that goes around all backends")
    parser.add_argument(
        "--jobs",
        type=_positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="trainings at once (default: the cores)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the tables and a figure of each block there")
    add_limits(parser)
    add_json(parser, "every figure and curve as JSON")
    parser.set_defaults(command=_run)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"received {text!r}, expected a positive integer")
    return int(text)


def _run(given: argparse.Namespace) -> int:
    check_writable(given.json)
    limits, out = limits_of(given), given.out
    if out is not None and out.exists() and not out.is_dir():
        raise FormatError(f"received --out {out}", "a folder")
    jobs = run.plan(*(list(dict.fromkeys(asked)) or list(known) for asked, known in _choices(given)))
    backends = list(dict.fromkeys(given.backend)) or list(BACKENDS)
    console = Console(stderr=True)
    with progress_bar(console) as bar:
        task = bar.add_task("training", total=None)
        report = run.judge(
            jobs,
            backends,
            steps=given.steps,
            ring=not given.no_ring,
            device=given.device,
            threads=given.jobs,
            limits=limits,
            progress=lambda what: bar.update(task, advance=1, description=what),
        )
    show(given, *tables(report, jobs))
    for outcome in report.outcomes:
        if not outcome.agreed:
            console.print(outcome.explain() + "\n", markup=False, highlight=False, soft_wrap=True)
    show(given, _verdict(report))
    write_json(given.json, report.to_json())
    if out is not None:
        from parity.training import figures

        drawn = figures.draw(report, out)
        (out / REPORT).write_text(as_text(*tables(report, jobs), _verdict(report)))
        show(given, f"written: {out / REPORT}, {', '.join(str(file) for file in drawn)}")
    # A backend that was asked for by name and is absent is no agreement.
    return AGREED if report.agreed and not (given.backend and report.absent) else DISAGREED


def _choices(given: argparse.Namespace) -> Sequence[tuple[list[str], Sequence[str]]]:
    return (given.block, list(SPECS)), (given.optimizer, list(OPTIMIZERS)), (given.dtype, run.DTYPES)


def tables(report: run.Report, jobs: Sequence[run.Job]) -> list[Table]:
    """What people see."""
    made = [_worst_table(report, jobs, *one) for one in _settings(jobs)]
    made += [_correct_table(report, jobs)]
    made += [_apart_table(report)] if report.apart else []
    made += [_drift_table(report, jobs)] if any(outcome.drift for outcome in report.outcomes) else []
    return [*made, _ring_table(report)] if report.rings else made


def _settings(jobs: Sequence[run.Job]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((job.optimizer, job.dtype) for job in jobs))


def _blocks(jobs: Sequence[run.Job]) -> list[str]:
    return list(dict.fromkeys(job.block for job in jobs))


def _worst_table(report: run.Report, jobs: Sequence[run.Job], optimizer: str, dtype: str) -> Table:
    columns = _blocks(jobs)
    table = Table(
        "backend", *columns, title=f"{optimizer}, {dtype}: loss, largest difference at any step (worst error / allowed)"
    )
    for backend in report.frameworks:
        cells = []
        for block in columns:
            found = report.of(run.Job(block, optimizer, dtype), backend)
            losses = [figure.error for figure in found.figures if figure.name == "loss"] if found else []
            ratio = worst_error([found] if found else [])
            cells.append(f"{losses[0]:.1e} ({ratio})" if losses else ratio)
        table.add_row(backend, *cells)
    for backend, why in report.absent.items():
        table.add_row(backend, f"[red]absent[/]: {escape(why)}")
    return table


def _correct_table(report: run.Report, jobs: Sequence[run.Job]) -> Table:
    """How many of the test images are right: the oracle's number, or the backends' smallest and largest."""
    total = run.digits().test_labels.size
    columns = _blocks(jobs)
    table = Table("optimizer, dtype", *columns, title=f"right of {total} test images: the oracle's, and the backends'")
    for optimizer, dtype in _settings(jobs):
        cells = []
        for block in columns:
            wanted = {
                one.correct
                for (job, _), one in report.references.items()
                if (job.block, job.optimizer, job.biased) == (block, optimizer, False)
            }
            job = run.Job(block, optimizer, dtype)
            got = {one.trained.correct for one in report.outcomes if one.job == job and one.trained}
            cells.append(f"{_range(wanted)}, {_range(got)}")
        table.add_row(f"{optimizer}, {dtype}", *cells)
    return table


def _range(numbers: set[int]) -> str:
    if not numbers:
        return "-"
    return f"{min(numbers)}" if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"


def _apart_table(report: run.Report) -> Table:
    table = Table("block", "loss", "allowed", title="Adam's formulas against each other, by the oracle")
    for block, figure in report.apart.items():
        table.add_row(block, f"{figure.error:.2g}", f"{figure.allowed:g}")
    formulas = [f"{name}: {formula}" for name, formula in ADAM_FORMULAS.items() if name in report.frameworks.values()]
    table.caption = "; ".join(formulas)
    return table


def _drift_table(report: run.Report, jobs: Sequence[run.Job]) -> Table:
    """A row for each network with inert parameters and each backend: the farthest that one of them moved."""
    settings = _settings(jobs)
    columns = [f"{optimizer}, {dtype}" for optimizer, dtype in settings]
    table = Table(
        "network", "inert", "backend", *columns, title="inert parameters: the farthest that one of them moved"
    )
    inert = {(o.job.block, o.job.biased): ", ".join(o.drift) for o in report.outcomes if o.drift}
    for ((block, biased), names), backend in itertools.product(inert.items(), report.frameworks):
        cells = []
        for optimizer, dtype in settings:
            found = report.of(run.Job(block, optimizer, dtype, biased), backend)
            right = f" ({found.trained.correct} right)" if found and found.trained and biased else ""
            cells.append(f"{max(found.drift.values()):.1e}{right}" if found and found.drift else "-")
        table.add_row(f"{block}{' with biases' * biased}", names, backend, *cells)
    return table


def _ring_table(report: run.Report) -> Table:
    table = Table("ring", "dtype", "mistake at each seam", "worst", "allowed", "", title="one training, many backends")
    for ring in report.rings:
        seen = "no seam" if ring.within else escape(ring.error) or "a seam"
        colour = "green" if ring.agreed else "red"
        names = [name for name, _ in itertools.groupby(ring.backends)]
        told = f"{' > '.join(names[:1])} > .. {len(names) - 1} seams, {ring.block}"
        table.add_row(
            told, ring.dtype, ring.planted or "none", f"{ring.worst:.2g}", f"{ring.allowed:g}", f"[{colour}]{seen}[/]"
        )
    return table


def _verdict(report: run.Report) -> str:
    if not report.outcomes:
        return "[red]nothing ran[/]"
    ran = f"{len(report.outcomes)} trainings and {len(report.rings)} rings"
    left = sum(not outcome.agreed for outcome in report.outcomes) + sum(not ring.agreed for ring in report.rings)
    left += sum(figure.ratio > 1 for figure in report.apart.values())
    if left:
        return f"[red]{left} of {ran} are not as they should be[/]"
    return f"[green]all {ran} keep within their envelopes[/]"
