"""What a mistake is applied to, and one concrete way in which it was made."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity import oracle
from parity.block import Block
from parity.errors import InputError
from parity.oracle import Measured, Weights
from parity.oracle._measured import given
from parity.oracle._steps import Replacement, replaced, watched
from parity.spec import Spec

# In Python a mistake is a function of functions; these say of what.
Respec = Callable[[Spec], Spec]
Reweigh = Callable[[Weights], Weights]
Move = Callable[[NDArray], NDArray]


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, eq=False)
class Setting:
    """A block at work: what decides which mistakes fit, and in how many ways.

    Args:
        block: the weights and what they mean.
        x: the input, in `data_format`.
        training: whether statistics are used and updated.
        data_format: of x.
    """

    block: Block
    x: NDArray
    training: bool = False
    data_format: str = "channels_first"

    @property
    def spec(self) -> Spec:
        """The spec of its block."""
        return self.block.spec

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the input, channels first."""
        return np.moveaxis(self.x, -1, 1).shape if self.data_format == "channels_last" else self.x.shape

    def output_shape(self, input_shape: Sequence[int] | None = None) -> tuple[int | None, ...]:
        """The shape of the output for an input of this shape, the setting's own unless given, channels first."""
        return self.spec.output_shape(self.input_shape if input_shape is None else input_shape, "channels_first")

    @cached_property
    def tensors(self) -> dict[str, NDArray]:
        """The weights in float64."""
        return {name: value.astype(np.float64) for name, value in self.block.tensors.items()}

    @cached_property
    def taken(self) -> Mapping[str, list[str]]:
        """The steps that the block is made of, each with the paths of its calls."""
        # What steps there are depends on neither the batch's size nor the map's: two samples, the smallest maps.
        small = np.ones((2, *smallest(self.spec, self.input_shape[1])))
        with watched() as seen, np.errstate(all="ignore"):
            oracle.evaluate(self.spec, self.tensors, small, training=self.training)
        return seen


def smallest(spec: Spec, channels: int) -> tuple[int, ...]:
    """The shape of the smallest sample that a block takes: one position, unless its kernel needs more."""
    for size in itertools.count(1):
        shape = (channels, *(size,) * spec.spatial_dims)
        with contextlib.suppress(InputError):
            spec.check_input((1, *shape), "channels_first")
            return shape
    raise AssertionError  # the count has no end


@dataclass(frozen=True, eq=False)
class Variation:
    """One concrete way in which a mistake is made: "fc1.bias dropped". Of two, `a & b` is both at once.

    Args:
        words: what was done, as a report says it.
        mistake: the name of the mistake; of a pair, both.
        respec: the spec that is computed.
        reweigh: the weights as they are used; those that it leaves out stay.
        forth: the input as it is taken, channels first.
        back: what becomes of the output, so that its shape fits.
        into, home: the inverse of `back` for a cotangent, and that of `forth` for the input's gradient.
        steps: the steps of the computation that other functions replace.
        backward: whether gradients alone differ.
    """

    words: str
    mistake: str = ""
    respec: Respec = _same
    reweigh: Reweigh = _same
    forth: Move = _same
    back: Move = _same
    into: Move = _same
    home: Move = _same
    steps: tuple[Replacement, ...] = ()
    backward: bool = False

    def __and__(self, other: Variation) -> Variation:
        return Variation(
            f"{self.words}, and {other.words}",
            f"{self.mistake} and {other.mistake}",
            lambda spec: other.respec(self.respec(spec)),
            lambda weights: other.reweigh(self.reweigh(weights)),
            lambda x: other.forth(self.forth(x)),
            lambda y: self.back(other.back(y)),
            lambda dy: other.into(self.into(dy)),
            lambda dx: self.home(other.home(dx)),
            self.steps + other.steps,
            self.backward and other.backward,
        )

    @property
    def is_portable(self) -> bool:
        """Whether it is made of spec, weights and input alone, so that a backend can be given it."""
        return not (self.steps or self.backward)

    def block(self, block: Block) -> Block:
        """`block` as it is taken by mistake."""
        reweighed = self.reweigh({name: given(value) for name, value in block.tensors.items()})
        tensors = {name: reweighed[name].value.astype(value.dtype) for name, value in block.tensors.items()}
        return Block(block.name, self.respec(block.spec), tensors)

    def laid_out(self, x: NDArray, data_format: str) -> NDArray:
        """An input as it is taken by mistake."""
        return np.ascontiguousarray(_in_first(self.forth, x, data_format))

    def laid_into(self, cotangent: NDArray, data_format: str) -> NDArray:
        """A cotangent of what then comes out."""
        return np.ascontiguousarray(_in_first(self.into, cotangent, data_format))

    def taken_back(self, result: Mapping[str, NDArray], data_format: str) -> dict[str, NDArray]:
        """The result for such an input, as it is given back."""
        moves = {"output": self.back, "grad.input": self.home}
        maps = {name: (move, result[name]) for name, move in moves.items() if name in result}
        return dict(result) | {name: _in_first(move, value, data_format) for name, (move, value) in maps.items()}

    def evaluate(
        self, block: Block, x: NDArray, *, cotangent: NDArray | None = None, loaded: bool = False, **options: Any
    ) -> dict[str, Measured]:
        """What the oracle makes of `block` and x where this mistake is made.

        Args:
            block: the weights and what they mean.
            x: the input.
            cotangent: of the output, for gradients. They come from a tape: with them, the results have no magnitudes.
            loaded: whether wrong weights were loaded, so that gradients and steps are theirs; else the right ones are
                used wrongly.
            options: as `oracle.evaluate` takes them.
        """

        def forward(forward: Any, spec: Spec, weights: Weights, x: Measured, training: bool) -> tuple[Measured, Any]:
            used = weights if loaded else weights | self.reweigh(weights)
            y, trace = forward(self.respec(spec), used, x.move(self.forth), training)
            return y.move(self.back), trace

        tensors = self.block(block).tensors if loaded else block.tensors
        with replaced(Replacement("forward", forward), *self.steps), np.errstate(all="ignore"):
            way = oracle.by_hand if cotangent is None else oracle.by_tape
            return oracle.evaluate(block.spec, tensors, x, cotangent=cotangent, differentiate=way, **options)


def _in_first(move: Move, x: NDArray, data_format: str) -> NDArray:
    if data_format == "channels_first":
        return move(x)
    return np.moveaxis(move(np.moveaxis(x, -1, 1)), 1, -1)
