"""``parity modes``: the ways to run a block, and what of them cannot be."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from parity import client, modes, run, staleness
from parity.backends import BACKENDS
from parity.cli._output import AGREED, DISAGREED, add_json, check_writable, show, worst_error, write_json
from parity.errors import BackendMissingError


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser's."""
    parser = commands.add_parser(
        "modes",
        help="the ways to run a block on each backend, and what cannot be, with the reason",
        description="Exit status: with --check 1 if a cell that cannot be now can, or fails otherwise; else 0.",
    )
    parser.add_argument("--check", action="store_true", help="try every cell that cannot be")
    add_json(parser, "the same as JSON")
    parser.set_defaults(command=_modes)


def _modes(given: argparse.Namespace) -> int:
    check_writable(given.json)
    found: dict[str, Any] = {
        "modes": [{"mode": mode.id, "what": mode.words} for mode in modes.MODES.values()],
        "cells": modes.table(BACKENDS),
    }
    words = Table("mode", "what it is")
    for mode in modes.MODES.values():
        words.add_row(mode.id, mode.words)
    notes = Notes()
    cells = Table("backend", *modes.MODES, title="modes: yes; inference alone; not possible (with the note's number)")
    for backend in BACKENDS:
        cells.add_row(backend, *(_cell(backend, mode, notes) for mode in modes.MODES))
    show(given, words, cells, *notes.lines)
    tried = _check(given) if given.check else []
    if given.check:
        found["attempts"] = [
            {"backend": one.backend, "case": one.case, "reason": one.limit.reason, "stale": one.is_stale}
            for one in tried
        ]
    write_json(given.json, found)
    return DISAGREED if any(one.is_stale for one in tried) else AGREED


def _cell(backend: str, mode: str, notes: Notes) -> str:
    if not modes.has(backend, mode):
        return "-"
    numbers = "".join(f" ({notes.number(mode, limit.scope, limit.reason)})" for limit in modes.limits(backend, mode))
    if modes.impossible(backend, mode):
        return f"[yellow]no[/]{numbers}"
    return ("inference" if modes.MODES[mode].inference_only else "yes") + numbers


def _check(given: argparse.Namespace) -> list[staleness.Attempt]:
    tried: list[staleness.Attempt] = []
    console = Console(stderr=True)
    for backend in BACKENDS:
        try:
            client.worker(backend)
        except BackendMissingError as error:
            console.print(f"not checked: {error}", markup=False, highlight=False)
            continue
        tried += [
            attempt
            for limit in modes.LIMITS
            if _is_about(limit, backend)
            for attempt in staleness.attempts(limit, backend)
        ]
    for attempt in tried:
        if attempt.is_stale:
            console.print(attempt.explain(), style="red", markup=False, highlight=False, soft_wrap=True)
    stale = sum(attempt.is_stale for attempt in tried)
    show(given, f"{len(tried)} cells that cannot be, tried: {stale} of them out of date")
    return tried


def _is_about(limit: modes.Limit, backend: str) -> bool:
    return any(limit in modes.limits(backend, mode) for mode in modes.MODES)


class Notes:
    """The reasons under a table of modes, numbered as they are met."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}

    def number(self, mode: str, scope: str, reason: str) -> int:
        """The number of a note, new or met before."""
        key = (reason if scope.startswith("mixed") else f"{mode}{f', {scope}' if scope else ''}: {reason}", scope)
        return self._numbers.setdefault(key, len(self._numbers) + 1)

    @property
    def lines(self) -> list[str]:
        """Each note."""
        return [f"({number}) {text}" for (text, _), number in self._numbers.items()]


def table(report: run.Report) -> tuple[Table, Notes]:
    """The worst error of each backend in each mode as a share of what is allowed, and why others cannot be."""
    notes = Notes()
    cells = Table("backend", *report.modes, title=f"worst error / allowed by mode, {report.device}")
    for backend in report.judged:
        cells.add_row(backend, *(_judged(report, backend, mode, notes) for mode in report.modes))
    return cells, notes


def _judged(report: run.Report, backend: str, mode: str, notes: Notes) -> str:
    outcomes = report.in_mode(mode, backend)
    missing = [one for one in report.impossible if (one.mode, one.backend) == (mode, backend)]
    scopes = {limit.reason: limit.scope for limit in modes.limits(backend, mode)}
    numbers = dict.fromkeys(notes.number(mode, scopes.get(one.reason, ""), one.reason) for one in missing)
    told = "".join(f" ({number})" for number in numbers)
    return (worst_error(outcomes) if outcomes or not missing else "[yellow]not possible[/]") + told
