"""Checks of single fields, each returning the value in its one canonical type."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable
from typing import Any

from parity.errors import SpecError


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as a plain int of at least `minimum`; booleans are refused, NumPy integers are welcome."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < minimum:
        raise SpecError(f"received {name}={value!r}", f"an integer of at least {minimum}")
    return number


def integers(name: str, values: Any, minimum: int = 1) -> tuple[int, ...]:
    """`values`, one or more, as plain ints of at least `minimum`."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise SpecError(f"received {name}={values!r}", f"a sequence of integers of at least {minimum}")
    numbers = tuple(integer(f"{name}[{place}]", value, minimum) for place, value in enumerate(values))
    if not numbers:
        raise SpecError(f"received {name}={values!r}", "at least one integer")
    return numbers


def odd(name: str, value: Any) -> int:
    """`value` as an odd int: only odd kernels have a centre, so that "same" padding is symmetric in every framework."""
    number = integer(name, value)
    if number % 2 == 0:
        raise SpecError(f"received {name}={number}", "an odd integer", f"try {number - 1} or {number + 1}")
    return number


def real(
    name: str, value: Any, *, minimum: float = -math.inf, maximum: float = math.inf, positive: bool = False
) -> float:
    """`value` as a finite float within the bounds; `positive` leaves zero out."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and minimum <= number <= maximum and (number > 0 or not positive)):
        bounds = "above 0" if positive else f"of at least {minimum}" if math.isfinite(minimum) else ""
        bounds += f" and at most {maximum}" if math.isfinite(maximum) else ""
        raise SpecError(f"received {name}={value!r}", f"a finite number {bounds}".strip())
    return number


def boolean(name: str, value: Any) -> bool:
    """`value` if it is True or False, never something merely truthy."""
    if not isinstance(value, bool):
        raise SpecError(f"received {name}={value!r}", "True or False")
    return value


def choice(name: str, value: Any, choices: Collection[str]) -> str:
    """`value` if it is one of the strings in `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise SpecError(f"received {name}={value!r}", f"one of {', '.join(map(repr, choices))}")
    return value
