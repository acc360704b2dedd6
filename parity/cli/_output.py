"""What every command prints and writes, and how it ends."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from parity.errors import FormatError

AGREED, DISAGREED, MISUSED = 0, 1, 2

# Of tables that go to a file or a pipe, in characters: no terminal says how wide it is.
FILE_WIDTH = 160


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--json [FILE]``; without a file, or with "-", the JSON alone goes to standard output."""
    told = f"write {what}, to standard output if no FILE is given"
    parser.add_argument("--json", type=Path, metavar="FILE", nargs="?", const=Path("-"), help=told)


def show(given: argparse.Namespace, *parts: Any) -> None:
    """Print for people: where the JSON goes to standard output, to the other one."""
    console = Console(stderr=given.json == Path("-"))
    if not console.is_terminal:
        console = Console(stderr=console.stderr, width=FILE_WIDTH)
    for part in parts:
        console.print(part)


def as_text(*parts: Any) -> str:
    """What `show` prints, without colours."""
    console = Console(file=io.StringIO(), width=FILE_WIDTH)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return captured.get()


def worst_error(outcomes: Sequence[Any]) -> str:
    """A cell of a table: the worst error of `outcomes` as a share of what is allowed, and how many failed."""
    failed = sum(not outcome.agreed for outcome in outcomes)
    if not outcomes:
        return "-"
    worst = f"{max(outcome.ratio for outcome in outcomes):.2g}"
    return f"[red]{worst} ({failed} of {len(outcomes)} failed)[/]" if failed else f"[green]{worst}[/]"


def progress_bar(console: Console) -> Progress:
    """A bar that is gone when its work is done, and that a log never sees."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def check_writable(file: Path | None) -> None:
    """Refuse a file that cannot be written before the work, not after it."""
    if file is not None and file != Path("-") and not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise FormatError(f"received --json {file}", "a file in a writable folder")


def write_json(file: Path | None, value: Any) -> None:
    """Write `value` where ``--json`` says."""
    if file == Path("-"):
        json.dump(value, sys.stdout, indent=1, allow_nan=False)
    elif file is not None:
        file.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
