"""``parity doctor`` and ``parity run``: which backends there are, and whether they agree."""

from __future__ import annotations

import argparse
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity import bundle, cases, client, modes, network_cases, run
from parity.backends import BACKENDS, DEVICES
from parity.cli import modes as modes_table
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
from parity.errors import ParityError, SpecError
from parity.spec import NETWORKS, SPECS
from parity.tolerances import PRECISIONS


def add_commands(commands: Any) -> None:
    """Add the commands of this module to the parser's."""
    doctor = commands.add_parser("doctor", help="each backend: its version and devices, or why it is absent")
    add_json(doctor, "the same as JSON")
    doctor.set_defaults(command=_doctor)

    judge = commands.add_parser(
        "run",
        help="run the matrix and hold every backend against the oracle",
        description="Exit status: 0 if everything that ran agreed and something ran, 1 if not, 2 for wrong usage.",
    )
    several: dict[str, Any] = {"action": "append", "default": []}
    blocks = [*SPECS, *NETWORKS]
    judge.add_argument("--block", choices=blocks, help="only this block or network (may be repeated)", **several)
    judge.add_argument("--backend", choices=list(BACKENDS), help="only this backend (may be repeated)", **several)
    judge.add_argument(
        "--case", metavar="ID", help="only this case, or those that a pattern (*, ?, [..]) fits", **several
    )
    judge.add_argument("--dtype", choices=list(PRECISIONS), help="only this dtype (may be repeated)", **several)
    judge.add_argument("--mode", choices=list(modes.MODES), help="only this mode (may be repeated)", **several)
    judge.add_argument("--device", choices=DEVICES, default="cpu", help="where the backends compute (default: cpu)")
    extent = judge.add_mutually_exclusive_group()
    extent.add_argument(
        "--full", action="store_true", help="the whole product, about twelve times as long; of modes, those named"
    )
    extent.add_argument("--quick", action="store_true", help="a part that has met everything once, in minutes")
    judge.add_argument(
        "--jobs", type=_positive, default=os.cpu_count() or 1, metavar="N", help="cases at once (default: the cores)"
    )
    add_limits(judge)
    add_json(judge, "every figure as JSON")
    judge.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write a bundle for `parity compare`: results, machine, versions, switches",
    )
    judge.add_argument("--list", action="store_true", help="print the ids of the chosen cases and run nothing")
    judge.set_defaults(command=_run)


def _doctor(given: argparse.Namespace) -> int:
    check_writable(given.json)
    found: dict[str, dict[str, Any]] = {}
    with Console(stderr=True).status("starting each backend"):
        for name in BACKENDS:
            try:
                found[name] = client.describe(name)
            except ParityError as error:
                found[name] = {"absent": str(error)}
    table = Table("backend", "framework", "version", "devices")
    for name, about in found.items():
        if "absent" in about:
            table.add_row(name, f"[red]absent[/]: {escape(about['absent'])}")
        else:
            devices = ", ".join(f"{kind} ({what})" if kind != what else kind for kind, what in about["devices"].items())
            engine = f" on {about['engine']} {about['engine_version']}" if "engine" in about else ""
            table.add_row(name, about["framework"], about["version"] + engine, devices)
    show(given, table)
    write_json(given.json, found)
    return AGREED if any("absent" not in about for about in found.values()) else DISAGREED


def _run(given: argparse.Namespace) -> int:
    chosen = _choose(given)
    if not chosen:
        raise SpecError("received filters that leave no case", "at least one", "see `parity run --list`")
    if given.list:
        print("\n".join(case.id for case in chosen))
        return AGREED
    limits_of(given)  # refused before the work
    check_writable(given.json)
    if given.out is not None:
        bundle.check_target(given.out)
    report = _judge(given, chosen, list(dict.fromkeys(given.backend)) or list(BACKENDS))
    show(given, *_tables(report))
    for outcome in report.failures:
        Console(stderr=True).print(outcome.explain() + "\n", markup=False, highlight=False, soft_wrap=True)
    show(given, _verdict(report, len(chosen)))
    write_json(given.json, report.to_json())
    if given.out is not None:
        bundle.write(given.out, report, given.command_line, as_text(*_tables(report), _verdict(report, len(chosen))))
    # A backend that was asked for by name and is absent is no agreement.
    return AGREED if report.agreed and not (given.backend and report.absent) else DISAGREED


def _choose(given: argparse.Namespace) -> list[cases.AnyCase]:
    patterns = [name for name in given.case if set(name) & set("*?[")]
    exact = [name for name in given.case if name not in patterns]
    chosen: list[cases.AnyCase] = [cases.find(name) for name in exact]
    if patterns or not exact:
        pool = _everything(given.mode) if given.full else cases.quick() if given.quick else cases.standard()
        chosen += [c for c in pool if not patterns or any(fnmatchcase(c.id, pattern) for pattern in patterns)]
    chosen = [c for c in chosen if not given.block or c.block in given.block]
    chosen = [c for c in chosen if not given.dtype or c.dtype in given.dtype]
    chosen = [c for c in chosen if not given.mode or c.mode in given.mode]
    return list({c.id: c for c in chosen}.values())


def _everything(asked: list[str]) -> list[cases.AnyCase]:
    """The whole product; of modes, which take hours, those that are asked for by name."""
    whole = [case for case in cases.everything_in_modes() if case.mode in asked]
    return [*cases.recorded(), *cases.everything(), *(whole or cases.in_modes()), *network_cases.everything()]


def _judge(given: argparse.Namespace, chosen: list[cases.AnyCase], backends: list[str]) -> run.Report:
    console = Console(stderr=True)
    total = sum(modes.has(name, case.mode) and not run.reason(case, name) for case in chosen for name in backends)
    done, failed = 0, 0
    with progress_bar(console) as bar:
        task = bar.add_task("", total=total)

        def progress(stage: str, outcome: run.Outcome | None) -> None:
            nonlocal done, failed
            done += outcome is not None
            failed += outcome is not None and not outcome.agreed
            text = f"{stage:<52.52}" + (f" [red]{failed} failed[/]" if failed else "")
            bar.update(task, description=text, completed=done)
            # A log has no bar: a line for each tenth shows that the run goes on.
            if outcome is not None and not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
                console.print(f"{done} of {total} results, {failed} failed", highlight=False)

        limits = limits_of(given)
        return run.judge(chosen, backends, device=given.device, jobs=given.jobs, limits=limits, progress=progress)


def _tables(report: run.Report) -> list[Table | str]:
    absent = [f"[yellow]absent[/]: {escape(f'{backend}: {reason}')}" for backend, reason in report.absent.items()]
    if not report.judged:
        return [*absent]
    by_mode, notes = modes_table.table(report)
    ran = {outcome.block for outcome in report.outcomes}
    kinds = [(names, of) for names, of in ((SPECS, ""), (NETWORKS, " of networks")) if ran & names.keys()]
    kinds = kinds or [(SPECS, "")]
    ratios = [_worst_errors(report, list(names), of) for names, of in kinds]
    epsilons = [_worst_epsilons(report, list(names), of) for names, of in kinds]
    return [*ratios, *absent, *epsilons, _by_dtype(report), by_mode, *notes.lines]


def _worst_errors(report: run.Report, blocks: list[str], of: str) -> Table:
    table = Table("backend", *blocks, title=f"worst error / allowed{of}, {report.device}")
    for backend in report.judged:
        table.add_row(backend, *(worst_error(report.of(block, backend)) for block in blocks))
    return table


def _worst_epsilons(report: run.Report, blocks: list[str], of: str) -> Table:
    table = Table("backend", *blocks, title=f"worst float32 error{of} in epsilons, {report.device}")
    for backend in report.judged:
        table.add_row(backend, *(_epsilons(report.of(block, backend)) for block in blocks))
    return table


def _by_dtype(report: run.Report) -> Table:
    """The worst error of each backend in each dtype; where gradients are judged by their norm, that of the norms."""
    dtypes = [dtype for dtype in PRECISIONS if any(outcome.dtype == dtype for outcome in report.outcomes)]
    table = Table("backend", *dtypes, title=f"worst error in epsilons of the dtype (by norm), {report.device}")
    for backend in report.judged:
        outcomes = [outcome for outcome in report.outcomes if outcome.backend == backend]
        table.add_row(backend, *(_worst([o for o in outcomes if o.dtype == dtype]) for dtype in dtypes))
    return table


def _worst(outcomes: list[run.Outcome]) -> str:
    found = [comparison for outcome in outcomes for comparison in outcome.comparisons]
    single, by_norm = ([c.epsilons for c in found if c.by_norm is kind] for kind in (False, True))
    return f"{max(single):.1f}" + (f" ({max(by_norm):.1f})" if by_norm else "") if single else "-"


def _epsilons(outcomes: list[run.Outcome]) -> str:
    worst = [outcome.epsilons for outcome in outcomes if outcome.dtype == "float32"]
    return f"{max(worst):.1f}" if worst else "-"


def _verdict(report: run.Report, count: int) -> str:
    if not report.outcomes:
        return "[red]nothing ran[/]"
    if report.failures:
        return f"[red]{len(report.failures)} of {len(report.outcomes)} results disagree with the oracle[/]"
    told = f"{count} cases on {len(report.judged)} backends"
    return f"[green]all {len(report.outcomes)} results agree with the oracle[/]: {told}"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"received {text!r}, expected an integer of at least 1")
    return int(text)
