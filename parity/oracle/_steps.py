"""The named steps that blocks are made of, and how another function takes the place of one.

The oracle itself never replaces a step: mistakes do (`parity.mistakes`).

>>> from parity.oracle._measured import given
>>> from parity.oracle._map import mean
>>> with replaced(Replacement("mean", lambda mean, x, *rest: mean(x, *rest) * 3.0)):
...     mean(given([[1.0, 2.0]]), (1,)).value.tolist()
[4.5]
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

STEPS: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True)
class Replacement:
    """Another function in place of a step.

    Args:
        step: the step's name.
        function: takes the function in whose place it is called, and then that function's arguments.
        path: of the calls that are meant, "channel" or "expand.h"; None for all.
    """

    step: str
    function: Callable[..., Any]
    path: str | None = None


_current: ContextVar[tuple[Replacement, ...]] = ContextVar("replacements", default=())


def step(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function as a step; which of its calls is which, its argument `path` tells."""
    name, names = function.__name__, list(inspect.signature(function).parameters)
    place = names.index("path") if "path" in names else None

    @functools.wraps(function)
    def run(*arguments: P.args, **keywords: P.kwargs) -> R:
        call: Callable[..., R] = function
        for other in _current.get():
            if other.step == name and other.path in (None, _path(place, arguments, keywords)):
                call = functools.partial(other.function, call)
        return call(*arguments, **keywords)

    STEPS[name] = run
    return run


def _path(place: int | None, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    if place is None:
        return ""
    return arguments[place] if place < len(arguments) else keywords.get("path", "")


@contextlib.contextmanager
def replaced(*replacements: Replacement) -> Iterator[None]:
    """Within this context the replacements are in force, in this thread alone; a later one is called first and calls
    the earlier one as its original.
    """
    token = _current.set(_current.get() + replacements)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def watched() -> Iterator[dict[str, list[str]]]:
    """Within this context the steps that are taken are noted: the paths of each by its name, in order."""
    seen: dict[str, list[str]] = {}

    def watcher(name: str) -> Callable[..., Any]:
        place = list(inspect.signature(STEPS[name]).parameters)
        at = place.index("path") if "path" in place else None

        def note(original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            paths = seen.setdefault(name, [])
            path = _path(at, arguments, keywords)
            if path not in paths:
                paths.append(path)
            return original(*arguments, **keywords)

        return note

    with replaced(*(Replacement(name, watcher(name)) for name in STEPS)):
        yield seen
