"""Mistakes that change nothing, by theory: the matrix cannot catch them, and need not.

`parity selftest` checks the list: an entry whose mistake is caught after all, or that nothing fits, is stale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parity.mistakes._variation import Setting, Variation


@dataclass(frozen=True)
class Equivalent:
    """One line of the list.

    Args:
        mistake: its name.
        reason: why the result is the same.
        when: of which variations, in which settings.
        block: the id of the block; empty for all.
    """

    mistake: str
    reason: str
    when: Callable[[Setting, Variation], bool]
    block: str = ""

    def covers(self, setting: Setting, variation: Variation) -> bool:
        """Whether this variation is equivalent in this setting."""
        named = variation.mistake == self.mistake and self.block in ("", setting.spec.block)
        return named and self.when(setting, variation)


def _of_inert(setting: Setting, variation: Variation) -> bool:
    return not setting.spec.inert(setting.training).isdisjoint(variation.words.split())


def _of_always_inert(setting: Setting, variation: Variation) -> bool:
    return not setting.spec.inert(False).isdisjoint(variation.words.split())


def _orderless(setting: Setting, variation: Variation) -> bool:
    return setting.spec.orderless


def _of_one_position(setting: Setting, variation: Variation) -> bool:
    channels = setting.x.shape[1 if setting.data_format == "channels_first" else -1]
    return setting.x.size == setting.x.shape[0] * channels


def _is(field: str, value: Any) -> Callable[[Setting, Variation], bool]:
    def holds(setting: Setting, variation: Variation) -> bool:
        now = setting.spec.arguments().get(field)
        return value in (now, getattr(now, "kind", now))

    return holds


NO_SHIFT = "a shift that a norm or a softmax takes away changes nothing: its gradient is zero"
NO_NEIGHBOURS = "a kernel of one tap sees no border"
NO_GATE = "the identity twice is the identity"

EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent("space-exchanged", "where all positions are treated alike, their order moves nothing else", _orderless),
    Equivalent("gradient-lost", NO_SHIFT, _of_inert),
    # Before a norm in training such a bias changes no output, but the running mean.
    Equivalent("bias-dropped", NO_SHIFT, _of_always_inert),
    Equivalent("wrong-element", NO_SHIFT, _of_always_inert),
    Equivalent("last-as-first", "a map of one position has one layout", _of_one_position),
    Equivalent("padding", NO_NEIGHBOURS, _is("kernel_size", 1)),
    Equivalent("padding-mode", NO_NEIGHBOURS, _is("kernel_size", 1)),
    Equivalent("gate-twice", NO_GATE, _is("gate", "identity")),
    Equivalent("activation-behind", NO_GATE, _is("activation", "identity")),
    Equivalent("concatenation-order", "a single axis has one order", _is("spatial_dims", 1), "ca"),
    Equivalent(
        "space-exchanged",
        "every position of the other axes is pooled by itself",
        _is("axis", "d"),
        "attention_pooling",
    ),
    Equivalent("axis", "a map of one position has nothing to choose from", _of_one_position),
    Equivalent("softmax-everywhere", "a single axis is all there is", _is("spatial_dims", 1), "attention_pooling"),
)


def reason(setting: Setting, variation: Variation) -> Equivalent | None:
    """The line that says why this variation changes nothing here, if there is one."""
    return next((line for line in EQUIVALENT if line.covers(setting, variation)), None)
