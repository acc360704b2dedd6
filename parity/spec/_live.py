"""What an adapter tells of a block that it found in a live model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LiveBlock:
    """A block inside a live model.

    Args:
        shown: the fields of its spec, in JSON form, that the model shows: all of them where it carries its spec, else
            those that the configuration of its layers tells.
        variables: the framework's variable of each canonical parameter.
        extras: the framework's variables without canonical meaning, by name (PyTorch's ``num_batches_tracked``).
    """

    shown: Mapping[str, Any]
    variables: Mapping[str, Any]
    extras: Mapping[str, Any] = field(default_factory=dict)
