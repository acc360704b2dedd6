"""Who is whose partner: by mapping, by name, by structure; never by bare order, and nobody is left over."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from parity.errors import MissingTensorError, ParityError, UnexpectedTensorError
from parity.loading import plain_name
from parity.network._names import Names
from parity.network._part import NORMS, Part, Side, laid_out, listed
from parity.spec import NETWORKS

# The end of a name that was given by counting.
NUMBER = re.compile(r"(^|_)\d+$")


Paired = tuple[Part, Part, str]

GUESSED = "structure and execution"

LAYERS = (*NORMS, "convolution", "transposed convolution", "dense", "embedding", "attention")


def refuse_unknown(source: Side, ours: Mapping[str, Part], target: Side, theirs: Mapping[str, Part]) -> None:
    """Raise `UnexpectedTensorError` where a model has variables that no known layer explains."""
    unknown = [
        f"{side.role} {part}"
        for side, parts in ((source, ours), (target, theirs))
        for part in parts.values()
        if part.kind == "unknown"
    ]
    if unknown:
        raise UnexpectedTensorError(
            f"received variables that belong to no layer this project knows: {listed(unknown)}",
            f"blocks and the layers {', '.join(LAYERS)}",
            "write them yourself, and pass mapping={'<name>': None} to leave them out here; of a TF1 graph, (session, "
            "input tensor, output tensor) leaves out what the output does not read",
        )


def pair_up(
    source: Side,
    ours: Mapping[str, Part],
    target: Side,
    theirs: Mapping[str, Part],
    names: Names,
    inputs: Sequence[np.ndarray] | None,
) -> list[Paired]:
    """Every part of either side with its partner, in the order of the source."""
    wanted = _by_plain("source", {name: names(name)[0] for name in ours})
    there = _by_plain("target", {name: name for name in theirs})
    found = {
        ours[name].name: (theirs[there[plain]], "mapping" if names(name)[1] else "name")
        for plain, name in wanted.items()
        if plain in there
    }
    lost = [f"{name!r} (as {names(name)[0]!r})" for name in ours if names(name)[1] and name not in found]
    if lost:
        raise MissingTensorError(
            f"received a mapping of {listed(lost)} to what the target lacks",
            f"of its layers {listed(map(repr, theirs))}",
        )
    doubtful = _miscounted([plain_name(names(name)[0]) for name in ours], list(map(plain_name, theirs)))
    found = {
        name: pair for name, pair in found.items() if pair[1] == "mapping" or _stem(plain_name(name)) not in doubtful
    }
    found |= _networks(ours, theirs, found)
    taken = {part.name for part, _ in found.values()}
    rest = {name: part for name, part in ours.items() if name not in found}
    left = {name: part for name, part in theirs.items() if name not in taken}
    found |= _by_structure(source, rest, target, left, inputs)
    taken = {part.name for part, _ in found.values()}
    missing = [part for name, part in theirs.items() if name not in taken]
    unexpected = [part for name, part in ours.items() if name not in found]
    if missing or unexpected:
        raise _leftover(unexpected, missing, [*source.remarks, *target.remarks], inputs is not None)
    return [(part, *found[name]) for name, part in ours.items()]


def _networks(
    ours: Mapping[str, Part], theirs: Mapping[str, Part], found: Mapping[str, tuple[Part, str]]
) -> dict[str, tuple[Part, str]]:
    """The one network of either side: partners whatever their sizes, so that what differs can be told."""
    taken = {part.name for part, _ in found.values()}
    one = [part for part in ours.values() if part.kind in NETWORKS and part.name not in found]
    other = [part for part in theirs.values() if part.kind in NETWORKS and part.name not in taken]
    same = len(one) == len(other) == 1 and one[0].kind == other[0].kind
    return {one[0].name: (other[0], "structure")} if same else {}


def _leftover(unexpected: list[Part], missing: list[Part], remarks: list[str], has_example: bool) -> ParityError:
    faults = [f"the source's {listed(map(str, unexpected))} without a partner in the target"] if unexpected else []
    faults += [f"the target's {listed(map(str, missing))} without weights"] if missing else []
    kind: type[ParityError] = MissingTensorError if missing else UnexpectedTensorError
    remedy = "pass mapping={'<source>': '<target>'}, or {'<name>': None} for what shall stay as it is"
    if any(part.kind in NETWORKS for part in (*unexpected, *missing)):
        remedy += "; dialect='torchvision/ResNet' or 'timm/ResNet' if the other model is a copy of that class"
    alike = {part.signature for part in unexpected} & {part.signature for part in missing}
    if alike and not has_example:
        remedy += "; layers that are alike are told apart by running both models: pass example="
    received = f"received {' and '.join([*faults, *remarks])}"
    return kind(received, "a partner of equal name, or the only one of its kind and shapes", remedy)


def _by_plain(role: str, wanted: Mapping[str, str]) -> dict[str, str]:
    """The name of each part by its wanted one, with "." and "/" as "_"."""
    plain: dict[str, str] = {}
    for name, text in wanted.items():
        if plain.setdefault(plain_name(text), name) != name:
            raise UnexpectedTensorError(
                f"received a {role} whose {plain[plain_name(text)]!r} and {name!r} have one name",
                "names that differ in more than '.', '/' and '_'",
            )
    return plain


def _stem(plain: str) -> str:
    return NUMBER.sub("", plain)


def _miscounted(ours: Sequence[str], theirs: Sequence[str]) -> set[str]:
    """The stems of counted names whose counts do not run alike: conv2d_1 may be the first here, the second there."""
    stems = {_stem(name) for name in (*ours, *theirs) if NUMBER.search(name)}
    one = {stem: {name for name in ours if _stem(name) == stem} for stem in stems}
    other = {stem: {name for name in theirs if _stem(name) == stem} for stem in stems}
    return {stem for stem in stems if one[stem] != other[stem]}


def _by_structure(
    source: Side,
    ours: Mapping[str, Part],
    target: Side,
    theirs: Mapping[str, Part],
    inputs: Sequence[np.ndarray] | None,
) -> dict[str, tuple[Part, str]]:
    """Partners of equal kind and shapes: where there is one, or as many as are run, in that order.

    An order is only a guess, which the outputs for the example must confirm.
    """
    groups, others = _groups(ours), _groups(theirs)
    same = {key for key in groups if len(groups[key]) == len(others.get(key, []))}
    repeated = [key for key in same if len(groups[key]) > 1]
    found = {groups[key][0].name: (others[key][0], "structure") for key in same if len(groups[key]) == 1}
    if inputs is None or not repeated:
        return found
    order, other = _order(source, ours, inputs), _order(target, theirs, laid_out(inputs, source, target))
    for key in repeated:
        first = sorted((part for part in groups[key] if part.name in order), key=lambda part: order[part.name])
        second = sorted((part for part in others[key] if part.name in other), key=lambda part: other[part.name])
        if len(first) == len(second) == len(groups[key]):
            pairs = zip(first, second, strict=True)
            found |= {one.name: (part, GUESSED) for one, part in pairs}
    return found


def _groups(parts: Mapping[str, Part]) -> dict[tuple[str, str], list[Part]]:
    groups: dict[tuple[str, str], list[Part]] = {}
    for part in parts.values():
        groups.setdefault(part.signature, []).append(part)
    return groups


def _order(side: Side, parts: Mapping[str, Part], inputs: Sequence[np.ndarray]) -> dict[str, int]:
    """When each part is run for the first time."""
    _, calls = side.record(inputs, list(parts))
    order: dict[str, int] = {}
    for number, (name, _, _) in enumerate(calls):
        order.setdefault(name, number)
    return order
