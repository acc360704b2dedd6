"""Gates and activations. A hard sigmoid has four meanings in the wild, so its slope and offset are fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parity.errors import SpecError
from parity.spec import _check

# relu(u) = max(u, 0);  silu(u) = u * sigmoid(u);  hard_swish(u) = u * clip(u / 6 + 0.5, 0, 1);  identity(u) = u
ACTIVATIONS = ("relu", "silu", "hard_swish", "identity")

KINDS = ("sigmoid", "hard_sigmoid", "identity")


@dataclass(frozen=True)
class Gate:
    """What turns logits into weights: sigmoid(u), clip(slope * u + offset, 0, 1), or u itself.

    Args:
        kind: "sigmoid", "hard_sigmoid" or "identity".
        slope: of a hard sigmoid: 1/6 (PyTorch, Keras 3), 0.2 (Keras 2, ONNX, PaddleOCR), 0.5 (old mmcv).
        offset: of a hard sigmoid, its value at 0.

    Raises:
        SpecError: for another kind, or numbers that are not finite.

    Example:
        >>> Gate("hard_sigmoid", slope=0.2).to_json()
        {'kind': 'hard_sigmoid', 'slope': 0.2, 'offset': 0.5}
    """

    kind: str = "sigmoid"
    slope: float = 1 / 6
    offset: float = 0.5

    def __post_init__(self) -> None:
        _check.choice("gate", self.kind, KINDS)
        if self.kind == "hard_sigmoid":
            object.__setattr__(self, "slope", _check.real("gate slope", self.slope, positive=True))
            object.__setattr__(self, "offset", _check.real("gate offset", self.offset))
        else:  # meaningless here, so equal gates must not differ in them
            object.__setattr__(self, "slope", 1 / 6)
            object.__setattr__(self, "offset", 0.5)

    @classmethod
    def of(cls, value: Gate | str | Mapping[str, Any]) -> Gate:
        """A gate from a gate, its name, or its JSON form."""
        if isinstance(value, Gate):
            return value
        if isinstance(value, Mapping):
            unknown = set(value) - {"kind", "slope", "offset"}
            if unknown or "kind" not in value:
                raise SpecError(f"received gate={dict(value)!r}", "the keys kind, slope, offset")
            return cls(**value)
        return cls(_check.choice("gate", value, KINDS))

    def to_json(self) -> str | dict[str, Any]:
        """The name where it says all, else an object with slope and offset."""
        if self.kind != "hard_sigmoid":
            return self.kind
        return {"kind": self.kind, "slope": self.slope, "offset": self.offset}


def check_activation(value: Any) -> str:
    """`value` if it names an activation, else a `SpecError`."""
    return _check.choice("activation", value, ACTIVATIONS)
