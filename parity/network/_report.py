"""What a port did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Pair:
    """A layer of the source and its partner.

    Args:
        source: its name in the source.
        target: its name in the target.
        kind: one of `parity.spec._live.KINDS`, or a block's.
        how: "mapping", "name", "structure", or "structure and execution" where several layers are alike and the
            order in which both models run them tells them apart.
    """

    source: str
    target: str
    kind: str
    how: str


@dataclass(frozen=True)
class Report:
    """What `port` did.

    Args:
        pairs: every pair that was ported, in the order of the source.
        unverified: by layer of the source, the fields that one side shows and the other does not.
        differences: by layer of the source, what differs and does not change the outputs.
        left: what the mapping said to leave as it is.
        error: the largest difference of the outputs for the example, relative to the largest output; None without one.
        allowed: what would have been allowed.
    """

    pairs: tuple[Pair, ...]
    unverified: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    differences: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    error: float | None = None
    allowed: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return asdict(self)
