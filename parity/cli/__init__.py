"""The command line: one module for each group of commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from parity import client
from parity.cli import bundles, distributed, judge, modes, selftest, train_demo, weights
from parity.cli._output import AGREED, DISAGREED, MISUSED
from parity.errors import ParityError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0 for agreement, 1 for anything else, 2 for misuse."""
    parser = argparse.ArgumentParser("parity", description="One attention block, every framework, one truth.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (judge, modes, selftest, bundles, distributed, train_demo, weights):
        group.add_commands(commands)
    given = parser.parse_args(arguments)
    given.command_line = ["parity", *(sys.argv[1:] if arguments is None else arguments)]
    try:
        return given.command(given)
    except ParityError as error:
        Console(stderr=True).print(f"parity: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return MISUSED
    except KeyboardInterrupt:
        return 130
    finally:
        client.close()


__all__ = ["AGREED", "DISAGREED", "MISUSED", "main"]
