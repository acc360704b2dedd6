"""The kinds of mistakes: a wrong field, wrong weights, a wrong layout, a wrong step.

Each function here takes what is done and gives a function from a `Setting` to the variations that fit it: an empty
sequence where the mistake cannot be made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity.errors import ParityError
from parity.mistakes._variation import Move, Respec, Reweigh, Setting, Variation
from parity.oracle import Measured
from parity.oracle._steps import Replacement
from parity.spec import BatchNorm, Gate, Spec, is_statistic

Variations = Callable[[Setting], Iterator[Variation]]
Fits = Callable[[str, NDArray, Setting], bool]
Wrong = Callable[..., Any]  # takes the step in whose place it is called, and its arguments

ROTATED = ("query", "key", "value")

# What a report calls a step.
NOUNS = {
    "batch_norm": "norm",
    "moments": "norm",
    "running": "norm",
    "joined": "concatenation",
    "attend": "product",
    "padded": "padding",
    "excite": "MLP",
    "dense": "layer",
    "zero_padded": "padding",
    "split": "heads",
    "merged": "joined heads",
    "self_attention": "attention",
    "pointwise": "layer",
    "summed": "sum",
}


# Fields


def field(name: str, wrong: Callable[[Any], Sequence[Any]]) -> Variations:
    """A field of the spec that has another value: `wrong` gives those that are tried in place of the right one."""

    def variations(setting: Setting) -> Iterator[Variation]:
        now = setting.spec.arguments().get(name)
        for other in wrong(now) if now is not None else ():
            respec = partial(_with, name, partial(_instead_of, other))
            if other != now and _is_possible(respec, setting.spec):
                yield Variation(f"{name} {_said(other)} instead of {_said(now)}", respec=respec)

    return variations


def norm_field(name: str, wrong: Callable[[Any], Sequence[Any]]) -> Variations:
    """A field of a batch norm, whatever the field is called that holds the norm."""

    def variations(setting: Setting) -> Iterator[Variation]:
        for holder, norm in setting.spec.arguments().items():
            now = getattr(norm, name) if isinstance(norm, BatchNorm) else None
            for other in wrong(now) if now is not None else ():
                if other != now:
                    respec = partial(_with, holder, partial(replace, **{name: other}))
                    yield Variation(f"{holder}.{name} {_said(other)} instead of {_said(now)}", respec=respec)

    return variations


def _instead_of(other: Any, now: Any) -> Any:
    return other


def _with(name: str, change: Callable[[Any], Any], spec: Spec) -> Spec:
    now = spec.arguments()
    return type(spec)(**(now | {name: change(now[name])}))


def _is_possible(respec: Respec, spec: Spec) -> bool:
    try:
        respec(spec)
    except ParityError:  # a circular padding wider than the channels
        return False
    return True


def _said(value: Any) -> str:
    """A field's value as a hint gives it."""
    if isinstance(value, Gate):
        value = value.kind if value == Gate(value.kind) else value.to_json()
    return json.dumps(value)


# Weights


def tensor(words: str, fits: Fits, move: Move) -> Variations:
    """A tensor whose elements are moved about, or become zeros."""
    return _each(words, fits, lambda value: value.move(move), move)


def tensor_values(words: str, fits: Fits, change: Move, slope: Move = np.ones_like) -> Variations:
    """A tensor whose elements change; `slope` is the change's derivative."""
    return _each(words, fits, lambda value: value.apply(change, slope), change)


def _each(words: str, fits: Fits, change: Callable[[Measured], Measured], shown: Move) -> Variations:
    def variations(setting: Setting) -> Iterator[Variation]:
        for name, value in setting.tensors.items():
            if fits(name, value, setting):
                with np.errstate(all="ignore"):
                    is_changed = not np.array_equal(shown(value), value)
                if is_changed:
                    yield Variation(f"{name} {words}", reweigh=_reweigh([name], change))

    return variations


def _reweigh(names: Sequence[str], change: Callable[[Measured], Measured]) -> Reweigh:
    return lambda weights: weights | {name: change(weights[name]) for name in names}


def leaves(one: str, other: str) -> Variations:
    """Two tensors of a layer, each in the other's place."""

    def variations(setting: Setting) -> Iterator[Variation]:
        for name in setting.tensors:
            path, _, leaf = name.rpartition(".")
            if leaf == one and f"{path}.{other}" in setting.tensors:
                yield _exchange(setting, {name: f"{path}.{other}"}, f"{name} and {path}.{other} exchanged")

    return variations


def layers(setting: Setting) -> Iterator[Variation]:
    """Two layers of the same shapes, each with the weights of the other."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, value in setting.tensors.items():
        path, _, leaf = name.rpartition(".")
        found.setdefault(path, {})[leaf] = value.shape
    paths = list(found)
    for i, one in enumerate(paths):
        for two in paths[i + 1 :]:
            if found[one] == found[two]:
                pairs = {f"{one}.{leaf}": f"{two}.{leaf}" for leaf in found[one]}
                yield _exchange(setting, pairs, f"{one} and {two} exchanged")


def projections(setting: Setting) -> Iterator[Variation]:
    """The first three projections of an attention, each with the weights of the next, or of the one before."""
    for name in setting.tensors:
        path, found, _ = name.partition(".query.kernel")
        for order in (ROTATED, ROTATED[::-1]) if found else ():
            pairs = {
                f"{path}.{one}.{leaf}": f"{path}.{two}.{leaf}"
                for one, two in zip(order, (*order[1:], order[0]), strict=True)
                for leaf in ("kernel", "bias")
                if f"{path}.{one}.{leaf}" in setting.tensors
            }
            yield Variation(f"{path} with {', '.join(order)} each as the next", reweigh=_renamed(pairs))


def _renamed(pairs: dict[str, str]) -> Reweigh:
    return lambda weights: weights | {one: weights[two] for one, two in pairs.items()}


def _exchange(setting: Setting, pairs: dict[str, str], words: str) -> Variation:
    both = pairs | {two: one for one, two in pairs.items()}
    return Variation(words, reweigh=lambda w: w | {one: w[two] for one, two in both.items()})


def gradients(words: str, fits: Fits, change: Move) -> Variations:
    """Tensors whose gradient is lost or changed on its way: each alone, and all together."""

    def variations(setting: Setting) -> Iterator[Variation]:
        names = [
            name for name, value in setting.tensors.items() if not is_statistic(name) and fits(name, value, setting)
        ]
        for group in [*([name] for name in names), *([names] if len(names) > 1 else [])]:
            told = group[0] if len(group) == 1 else "every parameter"
            reweigh = _reweigh(group, lambda value: value.pulled(change))
            yield Variation(f"the gradient of {told} {words}", reweigh=reweigh, backward=True)

    return variations


# Layouts


def layout(
    words: str,
    forth: Move,
    back: Move,
    ranks: Sequence[int] = (1, 2, 3),
    remains: Callable[[Setting], bool] = lambda setting: True,
) -> Variations:
    """An input, channels first, whose elements are taken in another order, and the output moved back.

    `remains` tells whether the output has the axes that are exchanged. Where it has not, it is left as it is; what then
    has another shape is no mistake that anybody would need to look for.
    """

    def variations(setting: Setting) -> Iterator[Variation]:
        if setting.spec.spatial_dims in ranks:
            if remains(setting):
                yield Variation(words, forth=forth, back=back, into=forth, home=back)
            elif setting.output_shape(forth(np.empty(setting.input_shape)).shape) == setting.output_shape():
                yield Variation(words, forth=forth, home=back)

    return variations


# Steps


def instead(
    step: str, words: str, wrong: Wrong, fits: Callable[[str, Setting], bool] = lambda path, setting: True
) -> Variations:
    """Another function in place of a step: at each place where it is taken, and at all of them together."""

    def variations(setting: Setting) -> Iterator[Variation]:
        paths = [path for path in setting.taken.get(step, ()) if fits(path, setting)]
        noun = NOUNS.get(step, step)
        for path in paths:
            name = path if path.endswith(noun) else f"{path} {noun}".strip()
            yield Variation(f"{name} {words}", steps=(Replacement(step, wrong, path),))
        if len(paths) > 1:
            yield Variation(f"every {noun} {words}", steps=tuple(Replacement(step, wrong, path) for path in paths))

    return variations


def whole(words: str, wrong: Wrong, fits: Callable[[Setting], bool] = lambda setting: True) -> Variations:
    """Another function in place of the block: it takes forward, spec, weights, x and training."""

    def variations(setting: Setting) -> Iterator[Variation]:
        if fits(setting):
            yield Variation(words, steps=(Replacement("forward", wrong),))

    return variations


def either(*kinds: Variations) -> Variations:
    """One mistake that has several forms."""
    return lambda setting: (variation for kind in kinds for variation in kind(setting))


def only(fits: Callable[[Setting], bool], kind: Variations) -> Variations:
    """A mistake that can be made in some settings alone."""
    return lambda setting: kind(setting) if fits(setting) else iter(())
