"""The options that say what a worker may take."""

from __future__ import annotations

import argparse
import math

from parity.errors import SpecError
from parity.faults import PATIENCE_SECONDS, Limits


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add ``--patience`` and ``--memory``."""
    parser.add_argument(
        "--patience",
        type=_amount,
        default=PATIENCE_SECONDS,
        metavar="SECONDS",
        help=f"end a worker that leaves a case unanswered for so long (default: {PATIENCE_SECONDS:g})",
    )
    parser.add_argument(
        "--memory", type=_amount, metavar="GIB", help="end a worker on the CPU that wants more data (default: no limit)"
    )


def limits_of(given: argparse.Namespace) -> Limits:
    """What the options say; raises `SpecError` where there is no such limit."""
    if given.memory is not None and given.device not in ("cpu", None):
        received = f"received --memory {given.memory:g} with --device {given.device}"
        raise SpecError(received, "--device cpu", "leave --memory out")
    return Limits(given.patience, given.memory)


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not 0 < amount < math.inf:
        raise argparse.ArgumentTypeError(f"received {text!r}, expected a positive number")
    return amount
