"""Classic mistakes of porters, as small transformations of a spec, of weights, of the input or of a computation step.

Used twice: `parity selftest` shows that the matrix catches every one of them (`parity.selftest`), and where something
disagrees, `parity.diagnosis` looks for the one that the oracle must make to reproduce it.

>>> from parity.spec import ECAOptions
>>> block = Block("eca", ECAOptions(kernel_size=3).resolve(6), {"conv.kernel": np.array([[[0.5, -1.0, 2.0]]])})
>>> for variation in variations(Setting(block, np.ones((2, 6, 3, 3))), ["kernel-flipped", "padding"]):
...     print(variation.words)
padding "circular" instead of "zeros"
conv.kernel flipped
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np

from parity.block import Block
from parity.errors import SpecError
from parity.mistakes._equivalent import EQUIVALENT, Equivalent, reason
from parity.mistakes._mistake import Mistake
from parity.mistakes._of_data import OF_DATA
from parity.mistakes._of_steps import OF_STEPS
from parity.mistakes._variation import Setting, Variation, smallest

MISTAKES = (*OF_DATA, *OF_STEPS)
BY_NAME = {mistake.name: mistake for mistake in MISTAKES}


def find(name: str) -> Mistake:
    """The mistake of this name; raises `SpecError` when there is none."""
    if name not in BY_NAME:
        raise SpecError(f"received mistake {name!r}", f"one of {', '.join(BY_NAME)}")
    return BY_NAME[name]


def variations(setting: Setting, names: Collection[str] | None = None) -> Iterator[Variation]:
    """Every way in which the mistakes of `names` (None: all of them) can be made in this setting."""
    for mistake in MISTAKES if names is None else map(find, BY_NAME):
        if names is None or mistake.name in names:
            yield from (replace(variation, mistake=mistake.name) for variation in mistake.made(setting))


def readings(block: Block) -> Iterator[tuple[str, Block]]:
    """The other functions that the same tensors might mean, each one mistake away, in words."""
    setting = Setting(block, np.ones((1, *_smallest(block))))
    for mistake in MISTAKES:
        for variation in mistake.made(setting) if mistake.is_reading else ():
            if variation.is_portable:
                yield variation.words, variation.block(block)


def _smallest(block: Block) -> tuple[int, ...]:
    channels = block.spec.channels or max((value.shape[-1] for value in block.tensors.values()), default=1)
    return smallest(block.spec, channels)


__all__ = [
    "BY_NAME",
    "EQUIVALENT",
    "MISTAKES",
    "Equivalent",
    "Mistake",
    "Setting",
    "Variation",
    "find",
    "readings",
    "reason",
    "variations",
]
