"""Batch norm as a field: what frameworks leave to differing defaults is written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from parity.errors import InputError, SpecError
from parity.spec import _check


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """Batch normalization over every axis but the channels (Ioffe & Szegedy, 2015, algorithm 1).

    ``y = scale * (u - m) / sqrt(v + epsilon) + offset``; m, v are the batch's mean and biased variance in training, the
    running ones otherwise. After a training pass, with n values per channel, ``mean += update_rate * (m - mean)`` and
    ``variance += update_rate * (v * n / (n - 1) - variance)``, or without the factor when `unbiased_variance` is False.

    Args:
        epsilon: added to the variance: 1e-5 in PyTorch, 1e-3 in Keras and TensorFlow.
        update_rate: weight of the new batch: PyTorch's `momentum`, one minus Keras'.
        unbiased_variance: whether the running variance follows n - 1 (PyTorch, TensorFlow's fused kernel) or n (Keras
            3).

    Raises:
        SpecError: for an epsilon that is not positive or an update rate outside [0, 1].

    Example:
        >>> BatchNorm(update_rate=0.01).to_json()
        {'epsilon': 1e-05, 'update_rate': 0.01, 'unbiased_variance': True}
    """

    epsilon: float = 1e-5
    update_rate: float = 0.1
    unbiased_variance: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", _check.real("norm epsilon", self.epsilon, positive=True))
        object.__setattr__(self, "update_rate", _check.real("norm update_rate", self.update_rate, minimum=0, maximum=1))
        _check.boolean("norm unbiased_variance", self.unbiased_variance)

    @classmethod
    def of(cls, value: BatchNorm | Mapping[str, Any], expected: str = "a BatchNorm") -> BatchNorm:
        """A norm from a norm or its JSON form; an error says what was `expected` beside that."""
        if isinstance(value, BatchNorm):
            return value
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or set(value) - set(names):
            raise SpecError(f"received {value!r} as a norm", f"{expected}, or a mapping of {', '.join(names)}")
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def check_count(self, count: int) -> None:
        """Refuse a training batch of fewer than two values per channel: its unbiased variance is 0 / 0."""
        if count < 2:
            number = "one value" if count else "no value"
            raise InputError(
                f"received {number} per channel for a batch norm in training mode",
                "at least two",
                "use a larger batch or map, or call the block with training=False (PyTorch: .eval())",
            )


def parameters(path: str, channels: int) -> dict[str, tuple[int, ...]]:
    """The four parameters of a batch norm under the canonical `path`."""
    return {f"{path}.{leaf}": (channels,) for leaf in ("scale", "offset", "mean", "variance")}


def optional(value: BatchNorm | Mapping[str, Any] | None) -> BatchNorm | None:
    """`BatchNorm.of`, with None for no norm."""
    return None if value is None else BatchNorm.of(value, "None, a BatchNorm")
