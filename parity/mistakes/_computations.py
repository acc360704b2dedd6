"""Wrong steps: each takes the step in whose place it is called, and then that step's own arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity.mistakes._variation import Setting, Variation
from parity.oracle import Measured, Weights
from parity.oracle._gate import activation, gate
from parity.oracle._linear import dense
from parity.oracle._measured import join
from parity.oracle._steps import Replacement
from parity.spec import BatchNorm, Gate

Step = Callable[..., Any]

# Any step


def detached(step: Step, *arguments: Any) -> Any:
    """The right values, through which no gradient passes."""
    result = step(*arguments)
    return tuple(part.detached() for part in result) if isinstance(result, tuple) else result.detached()


def rounding(dtype: type) -> Step:
    """The step's result, rounded to a lesser precision."""
    return lambda step, *arguments: rounded(step(*arguments), dtype)


def rounded(u: Measured, dtype: type) -> Measured:
    """u through another dtype and back."""
    with np.errstate(over="ignore"):
        return u.apply(lambda array: array.astype(dtype).astype(np.float64), np.ones_like)


def tf32(step: Step, z: Measured, weights: Weights, path: str = "") -> Measured:
    """The layer with input and kernel cut to the ten bits of TF32."""
    name = f"{path}.kernel"
    return step(_ten_bits(z), weights | {name: _ten_bits(weights[name])}, path)


def _ten_bits(u: Measured) -> Measured:
    def cut(array: NDArray) -> NDArray:
        fraction, exponent = np.frexp(array)
        return np.ldexp(np.round(fraction * 2**11) / 2**11, exponent)

    return u.apply(cut, np.ones_like)


def constant(value: float) -> Callable[[NDArray], NDArray]:
    """A function that fills an array."""
    return lambda array: np.full_like(array, value)


# Pooling


def summed(mean: Step, x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """The sum."""
    return x.sum(axes)


def over_the_batch(pool: Step, x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """Pooled over the samples too."""
    pooled = pool(x, (0, *axes), path)
    return pooled.move(lambda array: np.broadcast_to(array, (x.value.shape[0], *array.shape)))


def over_a_square(pool: Step, x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """Pooled by a square kernel of the first axis' size, of which the first position is taken."""
    size = min(x.value.shape[axis] for axis in axes)
    return pool(x[tuple(slice(size if axis in axes else None) for axis in range(x.value.ndim))], axes, path)


def in_half(mean: Step, x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """The mean, accumulated in float16."""

    def half(_: NDArray) -> NDArray:
        with np.errstate(over="ignore", invalid="ignore"):
            return x.value.astype(np.float16).mean(tuple(axes), dtype=np.float16).astype(np.float64)

    return mean(x, axes, path).apply(half, np.ones_like)


def of_relu(maximum: Step, x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """The maximum, started at 0."""
    return maximum(x.apply(lambda a: np.maximum(a, 0), lambda a: (a > 0) * 1.0), axes, path)


def of_magnitudes(maximum: Step, x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """The maximum of the absolute values."""
    return maximum(x.apply(np.abs, np.sign), axes, path)


def first_winner(maximum: Step, x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """The maximum, whose gradient goes to the first of tied elements alone."""
    axes = tuple(axes)

    def flat(array: NDArray) -> NDArray:
        moved = np.moveaxis(array, axes, range(-len(axes), 0))
        return moved.reshape(*moved.shape[: -len(axes)], -1)

    winner = flat(x.value).argmax(-1)[..., None]
    return x.move(lambda array: np.take_along_axis(flat(array), winner, -1)[..., 0])


# Gates and activations


def nothing(step: Step, u: Measured, *how: Any) -> Measured:
    """The input as it is."""
    return u


def twice(step: Step, u: Measured, *how: Any) -> Measured:
    """The step, and again on its result."""
    return step(step(u, *how), *how)


def softmax(gate: Step, u: Measured, *how: Any) -> Measured:
    """A softmax over the channels."""
    e = u.apply(lambda u: np.exp(u - u.max(-1, keepdims=True)), lambda u: np.exp(u - u.max(-1, keepdims=True)))
    return e * e.sum((-1,), True).apply(lambda total: 1 / total, lambda total: -1 / total**2)


def relu(step: Step, u: Measured, *how: Any) -> Measured:
    """A ReLU."""
    return activation(u, "relu")


def one_plus_tanh(gate: Step, u: Measured, *how: Any) -> Measured:
    """1 + tanh."""
    return u.apply(lambda u: 1 + np.tanh(u), lambda u: 1 - np.tanh(u) ** 2)


def unclipped(gate: Step, u: Measured, how: Gate, path: str = "") -> Measured:
    """The ramp of a hard sigmoid without its ends."""
    return u.apply(lambda u: how.slope * u + how.offset, constant(how.slope))


# The softmax, and what it weighs


def beside(places: int) -> Step:
    """Along the axis that is so many places further on."""

    def other(softmax: Step, u: Measured, axis: int, path: str = "") -> Measured:
        return softmax(u, (axis + places) % u.value.ndim, path)

    return other


def everywhere(softmax: Step, u: Measured, axis: int, path: str = "") -> Measured:
    """Along all axes behind the second, together."""
    flat = u.move(lambda array: array.reshape(*array.shape[:2], -1))
    return softmax(flat, 2, path).move(lambda array: array.reshape(u.value.shape))


def softmax_twice(softmax: Step, u: Measured, axis: int, path: str = "") -> Measured:
    """The softmax of the softmax."""
    return softmax(softmax(u, axis, path), axis, path)


def unnormalized(softmax: Step, u: Measured, axis: int, path: str = "") -> Measured:
    """The exponentials, without their sum below them."""
    return u.apply(np.exp, np.exp)


def log_softmax(softmax: Step, u: Measured, axis: int, path: str = "") -> Measured:
    """The logarithm of the softmax."""
    return softmax(u, axis, path).apply(np.log, np.reciprocal)


def sigmoids(softmax: Step, u: Measured, *how: Any) -> Measured:
    """A sigmoid of each score by itself."""
    return gate(u, Gate(), "")


def uniform(softmax: Step, u: Measured, axis: int, path: str = "") -> Measured:
    """The same weight for all."""
    return u.apply(constant(1 / u.value.shape[axis]), np.zeros_like)


def winner_alone(softmax: Step, u: Measured, axis: int, path: str = "") -> Measured:
    """All weight on the largest score."""
    return u.apply(lambda array: (array == array.max(axis, keepdims=True)) * 1.0, np.zeros_like)


def no_gradient_of_sum(softmax: Step, u: Measured, axis: int, path: str = "") -> Measured:
    """The right weights, as if their sum did not hang on the scores: each has the gradient of an exponential."""
    a = softmax(u, axis, path).value
    return u.apply(lambda array: a, lambda array: a)


def averaged_sum(summed: Step, x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """The mean."""
    return x.mean(axes)


def largest_of_sum(summed: Step, x: Measured, axes: Sequence[int], path: str = "") -> Measured:
    """The maximum."""
    return x.max(axes)


# The two layers of a squeeze


def merged_first(excite: Step, zs: Sequence[Measured], weights: Weights, how: str, path: str = "") -> Measured:
    """One pass on the sum of the descriptors."""
    return excite([_total(zs)], weights, how, path)


def half_sums(excite: Step, zs: Sequence[Measured], weights: Weights, how: str, path: str = "") -> Measured:
    """One pass on the mean of the descriptors."""
    return excite([_total(zs) * (1 / len(zs))], weights, how, path)


def first_twice(excite: Step, zs: Sequence[Measured], weights: Weights, how: str, path: str = "") -> Measured:
    """The first descriptor in place of every other."""
    return excite([zs[0]] * len(zs), weights, how, path)


def averaged(excite: Step, zs: Sequence[Measured], weights: Weights, how: str, path: str = "") -> Measured:
    """The mean of the passes."""
    return excite(zs, weights, how, path) * (1 / len(zs))


def larger(excite: Step, zs: Sequence[Measured], weights: Weights, how: str, path: str = "") -> Measured:
    """The larger of the passes."""
    return _largest([excite([z], weights, how, path) for z in zs])


def larger_before_relu(excite: Step, zs: Sequence[Measured], weights: Weights, how: str, path: str = "") -> Measured:
    """The hidden layers merged by a maximum before their activation."""
    hidden = _largest([dense(z, weights, f"{path}.fc1") for z in zs])
    return dense(activation(hidden, how, path), weights, f"{path}.fc2")


def copied(excite: Step, zs: Sequence[Measured], weights: Weights, how: str, path: str = "") -> Measured:
    """Each descriptor's pass through a copy of the layers: their gradient is that of the first pass alone."""
    copies = {name: value.detached() for name, value in weights.items()}
    return _total([excite([z], weights if i == 0 else copies, how, path) for i, z in enumerate(zs)])


def unshared(excite: Step, zs: Sequence[Measured], weights: Weights, how: str, path: str = "") -> Measured:
    """The second pass through layers of its own: here the same numbers in another order."""
    own = {name: value.detached().move(lambda array: array[::-1]) for name, value in weights.items()}
    return _total([excite([z], weights if i == 0 else own, how, path) for i, z in enumerate(zs)])


def activated(excite: Step, zs: Sequence[Measured], weights: Weights, how: str, path: str = "") -> Measured:
    """An activation behind the second layer too."""
    return activation(excite(zs, weights, how, path), how, path)


def _total(parts: Sequence[Measured]) -> Measured:
    first, *others = parts
    for other in others:
        first = first + other
    return first


def _largest(parts: Sequence[Measured]) -> Measured:
    return join([part[None] for part in parts], 0).max((0,))


def gated_passes(setting: Setting) -> Iterator[Variation]:
    """A gate on each descriptor's pass, and the sum of the gates, in place of the gate of the sum."""

    def passes(excite: Step, zs: Sequence[Measured], weights: Weights, how: str, path: str = "") -> Measured:
        return _total([gate(excite([z], weights, how, path), setting.spec.arguments()["gate"], "") for z in zs])

    for path in setting.taken.get("excite", ()):
        # Of a single descriptor there is a single pass.
        if path in setting.taken["gate"] and path in setting.taken.get("maximum", ()):
            steps = Replacement("excite", passes, path), Replacement("gate", nothing, path)
            yield Variation(f"{path} gate taken of each pass before their sum", steps=steps)


# What becomes of the gates


def added(attend: Step, x: Measured, maps: Sequence[Measured], path: str = "") -> Measured:
    """x + m in place of x * m."""
    return _total([x, *maps])


def alone(attend: Step, x: Measured, maps: Sequence[Measured], path: str = "") -> Measured:
    """The mask, without x."""
    ones = x.apply(np.ones_like, np.zeros_like)
    return attend(ones, maps, path)


def again(attend: Step, x: Measured, maps: Sequence[Measured], path: str = "") -> Measured:
    """x * m * m."""
    return attend(attend(x, maps, path), maps, path)


def one_more(attend: Step, x: Measured, maps: Sequence[Measured], path: str = "") -> Measured:
    """x * (1 + m)."""
    return x + attend(x, maps, path)


def summed_maps(attend: Step, x: Measured, maps: Sequence[Measured], path: str = "") -> Measured:
    """x * (m1 + m2)."""
    return x * _total(maps)


def larger_gate(setting: Setting) -> Iterator[Variation]:
    """x times the larger of two gates, in place of the larger of their products with x."""
    held: dict[str, Measured] = {}

    def gate_alone(attend: Step, x: Measured, maps: Sequence[Measured], path: str = "") -> Measured:
        held["x"] = x
        return alone(attend, x, maps, path)

    def product(maximum: Step, maps: Measured, axes: Sequence[int], path: str = "") -> Measured:
        return held["x"] * maximum(maps, axes, path)

    if "merge" in setting.taken.get("maximum", ()):
        steps = Replacement("attend", gate_alone), Replacement("maximum", product, "merge")
        yield Variation("the larger of the gates instead of the larger of their products", steps=steps)


def additive(setting: Setting) -> Iterator[Variation]:
    """One gate of the sum of the logits, in place of the product of their gates."""

    def once(attend: Step, x: Measured, maps: Sequence[Measured], path: str = "") -> Measured:
        return x * gate(_total(maps), setting.spec.arguments()["gate"], "the sum")

    paths = setting.taken.get("gate", ())
    if len(paths) > 1 and len(setting.taken["attend"]) == 1:
        steps = (Replacement("attend", once), *(Replacement("gate", nothing, path) for path in paths))
        yield Variation("one gate of the sum of the logits instead of a product of gates", steps=steps)


# Self-attention


def rescored(power: float) -> Step:
    """The scores of heads of D channels, times D to this power."""

    def other(scores: Step, q: Measured, k: Measured, path: str = "") -> Measured:
        return scores(q, k, path) * q.value.shape[-1] ** power

    return other


def scored_by_width(scores: Step, q: Measured, k: Measured, path: str = "") -> Measured:
    """The scores divided by the root of all channels, not of those of a head."""
    return scores(q, k, path) * q.value.shape[1] ** -0.5


def interleaved(split: Step, u: Measured, heads: int, path: str = "") -> Measured:
    """Heads that take every so many channels, not channels in a row."""
    return split(u.move(lambda a: np.moveaxis(a.reshape(*a.shape[:2], -1, heads), 3, 2).reshape(a.shape)), heads, path)


def interleaved_back(merged: Step, z: Measured, path: str = "") -> Measured:
    """The channels of all heads in turns, not one head behind the other."""
    return z.move(lambda a: np.moveaxis(a, (1, 2), (3, 1)).reshape(len(a), a.shape[2], -1))


def tokens_reshaped(tokens: Step, u: Measured, path: str = "") -> Measured:
    """Channels-first memory cut into rows, not transposed: features and positions are mixed."""
    return u.move(lambda a: np.ascontiguousarray(a).reshape(len(a), -1, a.shape[1]))


def among_samples(attention: Step, t: Measured, *rest: Any) -> Any:
    """Attention of the samples of a batch to each other, at each position."""
    y, trace = attention(t.move(lambda a: a.swapaxes(0, 1)), *rest)
    return y.move(lambda a: a.swapaxes(0, 1)), trace


# Concatenation and padding


def backwards(joined: Step, parts: Sequence[Measured], axis: int, path: str = "") -> Measured:
    """The parts in the opposite order."""
    return joined(parts[::-1], axis, path)


def first_repeated(joined: Step, parts: Sequence[Measured], axis: int, path: str = "") -> Measured:
    """The first part in the others' places."""
    return joined([parts[0]] * len(parts), axis, path)


def filled(mode: str) -> Step:
    """The border filled in another way."""

    def pad(padded: Step, p: Measured, sizes: Sequence[int], padding: str, path: str = "") -> Measured:
        return p.move(lambda array: np.pad(array, _widths(array, sizes), mode=mode))  # type: ignore[call-overload]

    return pad


def lopsided(padded: Step, p: Measured, sizes: Sequence[int], padding: str, path: str = "") -> Measured:
    """One less before and one more behind, as for an even kernel that keeps the size."""
    wider = padded(p, [size + 2 for size in sizes], padding, path)
    lead = wider.value.ndim - len(sizes)
    return wider[(slice(None),) * lead + (slice(2, None),) * len(sizes)]


def shifted_zeros(step: Step, x: Measured, padding: Sequence[tuple[int, int]], path: str = "") -> Measured:
    """A zero less before and one more behind, as TensorFlow has it for a stride."""
    return step(x, [(before - 1, behind + 1) if before else (0, behind) for before, behind in padding], path)


def _widths(array: NDArray, sizes: Sequence[int]) -> list[tuple[int, int]]:
    return [(0, 0)] * (array.ndim - len(sizes)) + [(size // 2, size // 2) for size in sizes]


# Norms


def no_norm(norm: Step, u: Measured, *arguments: Any) -> tuple[Measured, Any]:
    """u as it is; no statistic moves."""
    return u, SimpleNamespace(updated={})


def frozen(step: Step, u: Measured, weights: Weights, path: str, norm: BatchNorm, training: bool) -> Any:
    """The running statistics, in training too."""
    return step(u, weights, path, norm, False)


def of_the_batch(step: Step, u: Measured, weights: Weights, path: str, norm: BatchNorm, training: bool) -> Any:
    """The batch's own statistics, in inference too; no statistic moves."""
    return step(u, weights, path, norm, True)[0], SimpleNamespace(updated={})


def over(keep: str) -> Step:
    """A norm with the statistics of each sample ("instance") or of each position ("layer") in both modes."""

    def norm(step: Step, u: Measured, weights: Weights, path: str, norm: BatchNorm, training: bool) -> Any:
        axes = tuple(range(1, u.value.ndim - 1)) if keep == "instance" else (u.value.ndim - 1,)
        m = u.mean(axes, keepdims=True)
        v = ((u - m) * (u - m)).mean(axes, keepdims=True)
        rate = v.apply(lambda v: (v + norm.epsilon) ** -0.5, lambda v: -0.5 * (v + norm.epsilon) ** -1.5)
        return (u - m) * rate * weights[f"{path}.scale"] + weights[f"{path}.offset"], SimpleNamespace(updated={})

    return norm


def not_updated(running: Step, weights: Weights, path: str, *arguments: Any) -> Weights:
    """The old statistics."""
    return {}


def updated_twice(running: Step, weights: Weights, path: str, *arguments: Any) -> Weights:
    """The same batch counted a second time."""
    return running(weights | running(weights, path, *arguments), path, *arguments)


def unbiased(moments: Step, u: Measured, axes: Sequence[int], path: str) -> tuple[Measured, Measured]:
    """The variance over n - 1 where the batch is normalized."""
    m, v = moments(u, axes, path)
    count = math.prod(u.value.shape[axis] for axis in axes)
    return m, v * (count / (count - 1))


def behind(setting: Setting) -> Iterator[Variation]:
    """The norm behind the activation or the gate that it stands before."""

    def fresh(held: dict[str, Any], forward: Step, *arguments: Any) -> Any:
        held.clear()  # of a pass whose other mistake left the norm waiting
        return forward(*arguments)

    def waiting(held: dict[str, Any], norm: Step, u: Measured, weights: Weights, *rest: Any) -> tuple[Measured, Any]:
        held |= {"norm": norm, "arguments": (weights, *rest), "rank": u.value.ndim, "updated": {}}
        return u, SimpleNamespace(updated=held["updated"])

    def then(held: dict[str, Any], step: Step, u: Measured, *how: Any) -> Measured:
        y = step(u, *how)
        if "norm" not in held:
            return y
        alone = held["rank"] > y.value.ndim  # one channel, whose axis the block has taken away
        normed, trace = held.pop("norm")(y[..., None] if alone else y, *held["arguments"])
        held["updated"].update(trace.updated)
        return normed[..., 0] if alone else normed

    for path in setting.taken.get("batch_norm", ()):
        held: dict[str, Any] = {}
        steps = [Replacement(name, partial(then, held)) for name in ("activation", "gate")]
        yield Variation(
            f"{path} behind what it stands before",
            steps=(
                Replacement("forward", partial(fresh, held)),
                Replacement("batch_norm", partial(waiting, held), path),
                *steps,
            ),
        )


# The whole block


def with_input(forward: Step, spec: Any, weights: Weights, x: Measured, training: bool) -> Any:
    """y + x."""
    y, trace = forward(spec, weights, x, training)
    return y + x, trace


def no_gradient_of_gates(attend: Step, x: Measured, maps: Sequence[Measured], path: str = "") -> Measured:
    """The right product, whose gates are taken for constants."""
    return attend(x, [m.detached() for m in maps], path)


def no_gradient_of_map(attend: Step, x: Measured, maps: Sequence[Measured], path: str = "") -> Measured:
    """The right product, whose map is taken for a constant."""
    return attend(x.detached(), maps, path)
