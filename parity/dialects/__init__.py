"""The foreign implementations whose weights this project understands: one file a family, one table an implementation.

A new implementation is one `Dialect` in its family's file; a new family one file and one line here.
"""

from __future__ import annotations

from parity.dialects import torchvision, tutorials
from parity.dialects._table import Dialect, from_canonical, to_canonical
from parity.errors import DialectError

DIALECTS: dict[str, Dialect] = {
    dialect.id: dialect for family in (tutorials, torchvision) for dialect in family.DIALECTS
}


def get(dialect: str | Dialect) -> Dialect:
    """The dialect of an id; raises `DialectError` for one that is unknown."""
    if isinstance(dialect, Dialect):
        return dialect
    if not isinstance(dialect, str) or dialect not in DIALECTS:
        raise DialectError(f"received dialect={dialect!r}", f"one of {', '.join(DIALECTS)}")
    return DIALECTS[dialect]


__all__ = ["DIALECTS", "Dialect", "from_canonical", "get", "to_canonical"]
