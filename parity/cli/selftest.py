"""``parity selftest``: whether the matrix catches every classic mistake."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from parity import selftest
from parity.backends import BACKENDS
from parity.cli._output import AGREED, DISAGREED, add_json, check_writable, progress_bar, show, write_json
from parity.mistakes import MISTAKES, find
from parity.spec import SPECS
from parity.tolerances import PRECISIONS

FAINT = """\
In half precision, a change of less than an epsilon cannot be told from rounding, and one of a few epsilons passes under
the tolerance; some variants and shapes are run in float64 and float32 alone. Those are to catch every mistake: leave
--dtype out to see it."""


def add_commands(commands: Any) -> None:
    """Add the commands of this module to the parser's."""
    parser = commands.add_parser(
        "selftest",
        help="make every classic mistake in every block and see whether the matrix catches it",
        description="Exit status: 0 if every mistake is caught, 1 if one survives or the list of equivalent ones is "
        "stale, 2 for wrong usage.",
    )
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--block", choices=list(SPECS), help="only this block (may be repeated)", **several)
    parser.add_argument("--mistake", metavar="NAME", help="only this mistake (may be repeated)", **several)
    parser.add_argument(
        "--dtype",
        choices=list(PRECISIONS),
        help="the cases of this dtype (may be repeated; default: float64 and float32)",
        **several,
    )
    parser.add_argument(
        "--backend", choices=list(BACKENDS), help="give this backend what spec, weights and input can express, too"
    )
    parser.add_argument("--list", action="store_true", help="print the table of mistakes and try none")
    add_json(parser, "every trial as JSON")
    parser.set_defaults(command=_selftest)


def _selftest(given: argparse.Namespace) -> int:
    check_writable(given.json)
    chosen = [find(name).name for name in given.mistake] or [mistake.name for mistake in MISTAKES]
    blocks = list(dict.fromkeys(given.block)) or list(SPECS)
    if given.list:
        show(given, _list(chosen))
        write_json(given.json, [{"name": m.name, "words": m.words, "source": m.source} for m in map(find, chosen)])
        return AGREED
    dtypes = list(dict.fromkeys(given.dtype)) or list(selftest.PRECISE)
    verdict = _watched(given, blocks, chosen, dtypes)
    show(given, _table(verdict, blocks, chosen))
    told = [trial.explain() for trial in verdict.survivors]
    told += [f"stale: {text}" for text in verdict.stale] + [f"false alarm: {text}" for text in verdict.false_alarms]
    for text in told:
        Console(stderr=True).print(text + "\n", markup=False, highlight=False, soft_wrap=True)
    show(given, *_equivalents(verdict), _verdict(verdict))
    if verdict.survivors and not set(dtypes) & set(selftest.PRECISE):
        show(given, FAINT)
    write_json(given.json, verdict.to_json())
    return AGREED if verdict.passed else DISAGREED


def _watched(given: argparse.Namespace, blocks: list[str], chosen: list[str], dtypes: list[str]) -> selftest.Verdict:
    console = Console(stderr=True)
    total = len(selftest.cases(blocks, dtypes=dtypes))
    with progress_bar(console) as bar:
        task, done = bar.add_task("", total=total), 0

        def progress(case: str, verdict: selftest.Verdict) -> None:
            nonlocal done
            done += 1
            bar.update(task, description=f"{case:<44.44}", completed=done)
            # A log has no bar: a line for each tenth shows that the run goes on.
            if not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
                console.print(f"{done} of {total} cases", highlight=False)

        return selftest.run(blocks, chosen, dtypes=dtypes, backend=given.backend or "", progress=progress)


def _list(chosen: list[str]) -> Table:
    table = Table(Column("mistake", no_wrap=True), "what is wrong", "seen in", title="classic mistakes")
    for mistake in map(find, chosen):
        table.add_row(mistake.name, escape(mistake.words), escape(mistake.source))
    return table


def _table(verdict: selftest.Verdict, blocks: list[str], chosen: list[str]) -> Table:
    """Of each mistake in each block: the number of its variations, and what catches the faintest of them."""
    title = "classic mistakes: variations, and the quantity that catches the faintest at error / allowed"
    table = Table(Column("mistake", no_wrap=True), *blocks, title=title)
    for mistake in chosen:
        cells = [_cell(verdict.of(mistake, block)) for block in blocks]
        if any(cell != "-" for cell in cells):
            table.add_row(mistake, *cells)
    return table


def _cell(trials: list[selftest.Trial]) -> str:
    if not trials:
        return "-"
    survived = sum(trial.survived for trial in trials)
    if survived:
        return f"[red]{survived} of {len(trials)} survive[/]"
    caught = [trial for trial in trials if not trial.equivalent]
    if not caught:
        return f"[yellow]{len(trials)} equivalent[/]"
    faintest = min(caught, key=lambda trial: trial.ratio)
    also = f" [yellow]+ {len(trials) - len(caught)} equivalent[/]" if len(caught) < len(trials) else ""
    return f"[green]{len(caught)}[/] {escape(faintest.quantity)} {faintest.ratio:.2g}{also}"


def _equivalents(verdict: selftest.Verdict) -> list[str]:
    """A line for each mistake that changes nothing anywhere."""
    found = {
        (trial.mistake, trial.block, trial.words): trial.equivalent for trial in verdict.trials if trial.equivalent
    }
    return [
        escape(f"equivalent: {mistake} in {block} ({words}): {why}") for (mistake, block, words), why in found.items()
    ]


def _verdict(verdict: selftest.Verdict) -> str:
    if not verdict.trials:
        return "[red]nothing fits[/]"
    if not verdict.passed:
        return _failed(verdict)
    equivalent = sum(bool(trial.equivalent) for trial in verdict.trials)
    names = len({trial.mistake for trial in verdict.trials})
    sent = sum(trial.on_backend is not None for trial in verdict.trials)
    also = f", {sent} of them on {verdict.backend} too" if verdict.backend else ""
    return (
        f"[green]all {len(verdict.trials) - equivalent} variations of {names} mistakes are caught[/]{also}; "
        f"{equivalent} change nothing by theory, {len(verdict.held)} lines of their list hold"
    )


def _failed(verdict: selftest.Verdict) -> str:
    survivors, total = verdict.survivors, sum(not trial.equivalent for trial in verdict.trials)
    faint = sum(not trial.case and trial.epsilons < 1 for trial in survivors)
    counts = [f"{len(survivors)} of {total} variations survive"]
    counts += [f"{faint} of them change no result by an epsilon of the dtype"] if faint else []
    counts += [f"{len(verdict.stale)} entries are stale"] if verdict.stale else []
    counts += [f"{len(verdict.false_alarms)} false alarms"] if verdict.false_alarms else []
    return f"[red]{', '.join(counts)}[/]"
