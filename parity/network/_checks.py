"""Whether partners compute the same function, and the values that go from one to the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parity.block import FLOAT_DTYPES, native
from parity.errors import ParityError, SpecMismatchError, TensorShapeError
from parity.loading import Write, overflows, portable, shape_of
from parity.network._pairs import Paired
from parity.network._part import CONVOLUTIONS, NEUTRAL, NORMS, Part, Side, listed
from parity.spec import NETWORKS

# Matters when the ported model is trained further; no framework of the three lets the user choose.
TRAINING_ONLY = ("unbiased_variance",)

INPUT_ORDER = "the order of its inputs"


def check(pairs: list[Paired]) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """The fields that only one side shows, and the differences that outputs do not feel, by name in the source."""
    check_configuration([(one, other) for one, other, _ in pairs])
    unverified, differences = {}, {}
    for one, other, _ in pairs:
        one_sided = [key for key in {**one.shown, **other.shown} if (key in one.shown) != (key in other.shown)]
        padding = ("padding",) if one.shown.get("padding") != other.shown.get("padding") else ()
        unverified[one.name] = tuple(dict.fromkeys((*one_sided, *padding, *one.open, *other.open)))
        differences[one.name] = (*_training_differences(one, other), *_neutral_differences(one, other))
    return (
        {name: fields for name, fields in unverified.items() if fields},
        {name: texts for name, texts in differences.items() if texts},
    )


def check_configuration(pairs: Sequence[tuple[Part, Part]], shapes: bool = True) -> None:
    """Raise where partners show that they compute different functions, or where their `shapes` differ."""
    config = [list(_config_faults(one, other)) for one, other in pairs]
    sizes = [
        # Those of a network follow from what is told of it already.
        [] if not shapes or (faults and one.kind in NETWORKS) else list(_shape_faults(one, other))
        for faults, (one, other) in zip(config, pairs, strict=True)
    ]
    wrong = [
        f"{both(one, other)} ({listed(first + second, sign='; ')})"
        for (one, other), first, second in zip(pairs, config, sizes, strict=True)
        if first or second
    ]
    if wrong:
        kind: type[ParityError] = SpecMismatchError if any(config) else TensorShapeError
        raise kind(
            f"received layers that compute different functions: {listed(wrong)}",
            "equal kinds, shapes and configuration",
            "build the target as the source is, or correct the pairs with mapping=",
        )


def orders(
    source: Side, target: Side, parts: Sequence[Part], unverified: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """The dense layers that seem to read a flattened map where its channels lie elsewhere in the target.

    Their weights would have to be permuted, and nothing but an example can tell. A map flattened has a multiple of its
    channels, and not the features of the layer before.
    """
    if {source.channels, target.channels} != {"first", "last"}:
        return {}
    found, features, channels = {}, 0, 0
    for part in parts:
        size = part.shapes["kernel"][1] if part.kind == "dense" else 0
        if size != features and channels and size > channels and size % channels == 0:
            found[part.name] = (*unverified.get(part.name, ()), INPUT_ORDER)
        features = _features(part) or features
        channels = features if part.kind in CONVOLUTIONS else channels
    return found


def _features(part: Part) -> int:
    """The size of the axis of features in what a layer puts out; 0 where it is that of its input."""
    shape = next((part.shapes[leaf] for leaf in ("kernel", "embeddings", "output.kernel") if leaf in part.shapes), ())
    if part.kind == "transposed convolution":
        return shape[1] * int(part.shown.get("groups", 1))
    return shape[-1 if part.kind == "embedding" else 0] if shape else 0


def both(one: Part, other: Part) -> str:
    return repr(one.name) if one.name == other.name else f"{one.name!r} -> {other.name!r}"


def _config_faults(one: Part, other: Part) -> Iterator[str]:
    if one.kind != other.kind:
        yield f"kind: source {one.kind}, target {other.kind}"
        return
    for key, value in one.shown.items():
        if key in other.shown and key not in TRAINING_ONLY and not _agree(key, value, other.shown[key]):
            yield from _differences(key, value, other.shown[key])


def _differences(key: str, value: Any, other: Any) -> Iterator[str]:
    """What is to be told of two values: of blocks, stage by stage, the fields that differ."""
    rows = list(zip(value, other, strict=False)) if isinstance(value, list) and isinstance(other, list) else []
    if not rows or len(value) != len(other) or not all(isinstance(one, Mapping) for row in rows for one in row):
        yield f"{key}: source {_told(value)!r}, target {_told(other)!r}"
        return
    for number, (one, two) in enumerate(rows, 1):
        for name in dict.fromkeys((*one, *two)):
            if one.get(name) != two.get(name):
                yield f"{key} {number}: {name}: source {one.get(name)!r}, target {two.get(name)!r}"


def _told(value: Any) -> Any:
    """`value`, of blocks no more than which they are."""
    is_blocks = isinstance(value, list) and all(isinstance(one, Mapping) and "block" in one for one in value)
    return [one["block"] for one in value] if is_blocks else value


def _agree(key: str, value: Any, other: Any) -> bool:
    if key == "channels" and None in (value, other):  # ECA's weights do not tell them
        return True
    if key == "padding" and isinstance(value, list):
        # Nobody knows of zeros that stand outside of the layer; two sides that both pad must pad alike.
        return value == other or not any(map(any, value)) or not any(map(any, other))
    return bool(value == other)


def _shape_faults(one: Part, other: Part) -> Iterator[str]:
    if one.kind != other.kind:
        return
    ours, theirs = one.shapes, other.shapes
    optional = NEUTRAL if one.kind in NORMS else {}
    for leaf in dict.fromkeys((*ours, *theirs)):
        if leaf in ours and leaf in theirs and ours[leaf] != theirs[leaf]:
            yield f"{leaf}: source {ours[leaf]}, target {theirs[leaf]}"
        if (leaf in ours) != (leaf in theirs) and leaf not in optional:
            yield f"{leaf}: source {ours.get(leaf, 'none')}, target {theirs.get(leaf, 'none')}"


def _training_differences(one: Part, other: Part) -> Iterator[str]:
    for key in TRAINING_ONLY:
        if key in one.shown and key in other.shown and one.shown[key] != other.shown[key]:
            yield f"{key}: source {one.shown[key]!r}, target {other.shown[key]!r}; matters when trained further"


def _neutral_differences(one: Part, other: Part) -> Iterator[str]:
    for leaf in NEUTRAL if one.kind in NORMS else ():
        if leaf in other.slots and leaf not in one.slots:
            yield f"{leaf}: source none, target set to {NEUTRAL[leaf]}"
        if leaf in one.slots and leaf not in other.slots:
            yield f"{leaf}: source {NEUTRAL[leaf]} everywhere, target none"


def writes_into(source: Side, one: Part, target: Side, other: Part) -> Iterator[Write]:
    """(variable, value, name) of each variable of the target's part."""
    values = {leaf: slot.to_canonical(source.read(one.name, slot.variable)) for leaf, slot in one.slots.items()}
    for leaf, value in values.items():
        if leaf not in other.slots and not np.all(value == NEUTRAL[leaf]):
            raise SpecMismatchError(
                f"source {one.name!r} has a {leaf} and target {other.name!r} none",
                f"a {leaf} of {NEUTRAL[leaf]} everywhere, or a target with one",
            )
    for leaf, slot in other.slots.items():
        value = values[leaf] if leaf in values else np.full(slot.shape, NEUTRAL[leaf], np.float32)
        if native(value).dtype not in FLOAT_DTYPES:
            raise TensorShapeError(f"source {one.name!r}: {leaf} of dtype {value.dtype}", "floating-point numbers")
        if overflows(slot.variable, value):
            raise TensorShapeError(
                f"{one.name!r} has finite numbers that {other.name!r} would hold as infinite ({leaf}: source "
                f"{value.dtype}, target {slot.variable.dtype})",
                "numbers within the range of the target's dtype",
                "build the target with a wider dtype",
            )
        shape = shape_of(slot.variable)
        yield slot.variable, portable(slot.from_canonical(value, shape)), f"{other.name}: {leaf}"
    for key, variable in one.extras.items():
        if key in other.extras:
            yield other.extras[key], source.read(one.name, variable), f"{other.name}: {key}"


def check_shared(writes: list[Write]) -> None:
    """Raise where one variable of the target would get two different values."""
    first: dict[int, Write] = {}
    for write in writes:
        other = first.setdefault(id(write[0]), write)
        if not np.array_equal(other[1], write[1], equal_nan=write[1].dtype.kind == "f"):
            raise SpecMismatchError(
                f"the target shares one variable between {other[2]!r} and {write[2]!r}, for which the source has "
                "different values",
                "a source that shares it too",
            )
