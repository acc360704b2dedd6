"""``parity compare``: two runs' bundles held against each other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from parity import bundle
from parity.cli._output import AGREED, DISAGREED, add_json, check_writable, show, write_json

SIDES = ("A", "B")


def add_commands(commands: Any) -> None:
    """Add the commands of this module to the parser's."""
    parser = commands.add_parser(
        "compare",
        help="hold two bundles of `parity run --out` against each other",
        description="Two runs, of two machines say, judged by one oracle. Exit status: 0 if they share a case and "
        "everything in both agrees, 1 if not, 2 for what is no bundle.",
    )
    parser.add_argument("one", type=Path, metavar="A", help="the folder of a bundle")
    parser.add_argument("other", type=Path, metavar="B", help="the folder of another")
    add_json(parser, "the same as JSON")
    parser.set_defaults(command=_compare)


def _compare(given: argparse.Namespace) -> int:
    check_writable(given.json)
    held = bundle.compare(bundle.read(given.one), bundle.read(given.other))
    show(given, *_told(held))
    write_json(given.json, held.to_json())
    return AGREED if held.agreed else DISAGREED


def _told(held: bundle.Comparison) -> list[Any]:
    sides = list(zip(SIDES, (held.one, held.other), strict=True))
    title = "worst error / allowed (results)"
    table = Table("backend", *(f"{letter}: {escape(one.device)}" for letter, one in sides), title=title)
    for name in held.backends:
        table.add_row(name, *(_cell(one, name) for _, one in sides))
    differences = Table("what differs", *SIDES)
    for name, pair in held.differences().items():
        differences.add_row(escape(name), *map(escape, pair))
    disputes = [f"{a.backend}: case {a.case} agrees in {SIDES[b.agreed]} alone" for a, b in held.disputed]
    return [*(_line(letter, one) for letter, one in sides), table, differences, *map(escape, disputes), _verdict(held)]


def _line(letter: str, one: bundle.Bundle) -> str:
    machine = one.place["machine"]
    return escape(f"{letter}: {one.path}, {one.place['date']}, {one.device}, {machine.get('processor')}")


def _cell(one: bundle.Bundle, backend: str) -> str:
    results: Sequence[bundle.Result] = one.of(backend)
    if not results:
        return f"[yellow]{escape(one.absent.get(backend, 'not asked for'))}[/]"
    failed = sum(not result.agreed for result in results)
    text = f"{max(result.ratio for result in results):.2g} ({len(results)}{f', {failed} failed' if failed else ''})"
    return f"[red]{text}[/]" if failed else f"[green]{text}[/]"


def _verdict(held: bundle.Comparison) -> str:
    both = (held.one, held.other)
    total, failed = sum(len(one.results) for one in both), sum(len(one.failures) for one in both)
    if not held.shared:
        return "[red]the two share no case: nothing was compared[/]"
    told = f"{len(held.backends)} backends between them, {len(held.shared)} cases in both"
    told += f", {len(held.alike)} of them of the same numbers bit by bit"
    if failed:
        return f"[red]{failed} of {total} results disagree with the oracle[/]: {told}"
    return f"[green]all {total} results of both agree with the oracle[/]: {told}"
