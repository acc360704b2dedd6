"""Mistakes that change nothing, by theory: the matrix cannot catch them, and need not.

`parity selftest` checks the list: an entry whose mistake is caught after all, or that nothing fits, is stale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from parity.mistakes._variation import Setting, Variation


@dataclass(frozen=True)
class Equivalent:
    """One line of the list.

    Args:
        mistake: its name.
        block: the id of the block.
        words: of the variations that are meant; a pattern.
        reason: why the result is the same.
        when: the settings in which it is.
    """

    mistake: str
    block: str
    words: str
    reason: str
    when: Callable[[Setting], bool] = lambda setting: True

    def covers(self, setting: Setting, variation: Variation) -> bool:
        """Whether this variation is equivalent in this setting."""
        names = (variation.mistake, setting.spec.block) == (self.mistake, self.block)
        return names and fnmatchcase(variation.words, self.words) and self.when(setting)


def _before_a_norm(setting: Setting) -> bool:
    return bool(setting.spec.inert(setting.training))


def _of_one_position(setting: Setting) -> bool:
    channels = setting.x.shape[1 if setting.data_format == "channels_first" else -1]
    return setting.x.size == setting.x.shape[0] * channels


def _is(field: str, value: Any) -> Callable[[Setting], bool]:
    def holds(setting: Setting) -> bool:
        now = setting.spec.arguments()[field]
        return value in (now, getattr(now, "kind", now))

    return holds


ANY_ORDER = "a mean over all positions does not see their order"
NO_NEIGHBOURS = "a kernel of one tap sees no border"
ONE_LAYOUT = "a map of one position has one layout"
NO_MOVE = "a shift before a norm in training is taken away by the batch's mean: its gradient is zero"
NO_SHIFT = "a shift before a softmax changes nothing: its gradient is zero"
ONE_BY_ONE = "every position of the other axes is pooled by itself"
NO_PLACES = "an attention without places does not see the order of positions"
ONE_POSITION = "a map of one position has nothing to choose from"
NO_GATE = "the identity twice is the identity"

# A bias dropped before a norm in training changes no output, but is none of them: the running mean misses it.
EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent("space-exchanged", "se", "*", ANY_ORDER),
    Equivalent("space-exchanged", "eca", "*", ANY_ORDER),
    Equivalent("space-exchanged", "cbam", "*", ANY_ORDER, _is("parts", "channel")),
    Equivalent("space-exchanged", "ese", "*", ANY_ORDER),
    Equivalent("space-exchanged", "scse", "*", ANY_ORDER),
    Equivalent("gradient-lost", "ca", "the gradient of reduce.bias lost", NO_MOVE, _before_a_norm),
    Equivalent("gradient-lost", "cbam", "the gradient of spatial.conv.bias lost", NO_MOVE, _before_a_norm),
    Equivalent("last-as-first", "se", "*", ONE_LAYOUT, _of_one_position),
    Equivalent("last-as-first", "cbam", "*", ONE_LAYOUT, _of_one_position),
    Equivalent("last-as-first", "eca", "*", ONE_LAYOUT, _of_one_position),
    Equivalent("last-as-first", "ca", "*", ONE_LAYOUT, _of_one_position),
    Equivalent("last-as-first", "ese", "*", ONE_LAYOUT, _of_one_position),
    Equivalent("last-as-first", "scse", "*", ONE_LAYOUT, _of_one_position),
    Equivalent("padding", "eca", "*", NO_NEIGHBOURS, _is("kernel_size", 1)),
    Equivalent("padding-mode", "eca", "*", NO_NEIGHBOURS, _is("kernel_size", 1)),
    Equivalent("gate-twice", "se", "*", NO_GATE, _is("gate", "identity")),
    Equivalent("gate-twice", "eca", "*", NO_GATE, _is("gate", "identity")),
    Equivalent("gate-twice", "ese", "*", NO_GATE, _is("gate", "identity")),
    Equivalent("gate-twice", "scse", "*", NO_GATE, _is("gate", "identity")),
    Equivalent("activation-behind", "se", "*", NO_GATE, _is("activation", "identity")),
    Equivalent("activation-behind", "scse", "*", NO_GATE, _is("activation", "identity")),
    Equivalent("concatenation-order", "ca", "*", "a single axis has one order", _is("spatial_dims", 1)),
    Equivalent("bias-dropped", "attention_pooling", "score.bias dropped", NO_SHIFT),
    Equivalent("wrong-element", "attention_pooling", "score.bias with one wrong element", NO_SHIFT),
    Equivalent("gradient-lost", "attention_pooling", "the gradient of score.bias lost", NO_SHIFT),
    Equivalent("space-exchanged", "attention_pooling", "*", ONE_BY_ONE, _is("axis", "d")),
    Equivalent("axis", "attention_pooling", "*", ONE_POSITION, _of_one_position),
    Equivalent("softmax-everywhere", "attention_pooling", "*", "a single axis is all there is", _is("spatial_dims", 1)),
    Equivalent("last-as-first", "attention_pooling", "*", ONE_LAYOUT, _of_one_position),
    *(
        line
        for block in ("conv_attention", "multi_head_eca")
        for line in (
            Equivalent("bias-dropped", block, "attention.key.bias dropped", NO_SHIFT),
            Equivalent("wrong-element", block, "attention.key.bias with one wrong element", NO_SHIFT),
            Equivalent("gradient-lost", block, "the gradient of attention.key.bias lost", NO_SHIFT),
            Equivalent("last-as-first", block, "*", ONE_LAYOUT, _of_one_position),
        )
    ),
    Equivalent("space-exchanged", "multi_head_eca", "*", NO_PLACES),
    Equivalent("space-exchanged", "conv_attention", "*", NO_PLACES, _is("kernel_size", 1)),
    Equivalent("gate-twice", "multi_head_eca", "*", NO_GATE, _is("gate", "identity")),
    Equivalent("padding-mode", "multi_head_eca", "*", NO_NEIGHBOURS, _is("kernel_size", 1)),
)


def reason(setting: Setting, variation: Variation) -> Equivalent | None:
    """The line that says why this variation changes nothing here, if there is one."""
    return next((line for line in EQUIVALENT if line.covers(setting, variation)), None)
