"""A line of the table, and the conditions that its lines share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parity.mistakes._kinds import Fits, Variations
from parity.mistakes._variation import Setting


@dataclass(frozen=True)
class Mistake:
    """One line of the table.

    Args:
        name: for the command line and the lists.
        words: what is wrong.
        source: where it was seen.
        made: the variations of it that fit a setting.
        is_reading: whether it takes the same tensors for another function: what a wrong hint, or a wrong dialect, says.
    """

    name: str
    words: str
    source: str
    made: Variations
    is_reading: bool = False


def leaf(*names: str) -> Fits:
    """Fits the tensors of a leaf."""
    return lambda name, value, setting: name.rpartition(".")[2] in names


def trains(setting: Setting) -> bool:
    """Whether a norm sees the batch."""
    return setting.training and bool(setting.taken.get("batch_norm"))


def several(step: str) -> Callable[[Setting], bool]:
    """Whether a step is taken at several places."""
    return lambda setting: len(setting.taken.get(step, ())) > 1
