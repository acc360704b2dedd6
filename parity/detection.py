"""Blocks in foreign weights: found by names and shapes, under any prefix; what these do not tell is asked for.

A dialect fits under a prefix when its table does. Several may fit the same tensors: then the hints decide, or they all
mean the same function, or the difference is a doubt, which is reported and never settled by a guess.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from parity import dialects
from parity.block import Block, listed, same_view
from parity.dialects import Dialect, NetworkDialect
from parity.dialects._table import NUMBER, Tensor, layer_number
from parity.errors import DialectError, MissingTensorError, ParityError, SpecError, UnexpectedTensorError
from parity.spec import ACTIVATIONS, AXIS_NAMES, SPECS, Spec
from parity.spec._gate import KINDS as GATES
from parity.spec.eca import PADDINGS
from parity.spec.scse import MERGES

# What a doubtful field may be, for the question.
ALLOWED: dict[str, tuple[Any, ...]] = {
    "gate": (*GATES, {"kind": "hard_sigmoid", "slope": 0.2, "offset": 0.5}),
    "activation": ACTIVATIONS,
    "padding": PADDINGS,
    "residual": (False, True),
    "merge": MERGES,
    "axis": AXIS_NAMES[max(AXIS_NAMES)],
}

FIELDS = {field.name for spec in SPECS.values() for field in fields(spec)}  # type: ignore[arg-type]

# The doubt that no spec field settles.
PLAIN_LAYERS = "include"

# How many parts of a name may belong to a block, and to what lies beside it: more than any table has.
DEPTH = 8

Arrays = Mapping[str, np.ndarray]
Groups = Mapping[str, Mapping[str, str]]
Choice = Callable[[str], bool]


@dataclass(frozen=True)
class Doubt:
    """A fact that weights and names do not tell.

    Args:
        fact: the spec field; or "include", where a pair of layers may be no attention block at all.
        values: what it may be, in the JSON form of a hint.
        reason: why it is open.
    """

    fact: str
    values: tuple[Any, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to read a set of tensors: a dialect, and what it makes of them."""

    dialect: Dialect
    name: str
    keys: Mapping[str, str]
    tensors: Arrays
    extras: Arrays
    spec: Spec | None = None  # None for a dialect that is refused
    told: Mapping[str, Any] = field(default_factory=dict)  # the fields of the spec that the foreign shapes tell

    @property
    def where(self) -> str:
        """The candidate in an error's sentence."""
        return f"{self.dialect.id} at {self.name!r}"


@dataclass(frozen=True, eq=False)
class Found:
    """A block found in foreign weights.

    Args:
        name: the prefix of its keys.
        readings: the dialects that fit and mean the same; or all that fit, where the doubts lie between them.
        doubts: what is open.
        fault: why it cannot be read however the doubts are settled: a dialect that loses something, readings that make
            different blocks of the same tensors, a tensor that is missing, mis-shaped or one too many.
    """

    name: str
    readings: tuple[Candidate, ...]
    doubts: tuple[Doubt, ...] = ()
    fault: ParityError | None = None

    @property
    def dialect(self) -> Dialect:
        """The first dialect that fits."""
        return self.readings[0].dialect

    @property
    def spec(self) -> Spec | None:
        """What the weights mean if every doubt falls to the defaults; None where they cannot be read."""
        return self.readings[0].spec

    @property
    def keys(self) -> Mapping[str, str]:
        """The key in the source of each row of the dialect's table."""
        return self.readings[0].keys

    def block(self) -> Block:
        """The block itself; raises its fault, or `DialectError` while there are doubts."""
        first = self.readings[0]
        if self.fault or self.doubts or first.spec is None:
            raise self.fault or _question([self])
        return Block(self.name, first.spec, first.tensors, first.extras)


@dataclass(frozen=True, eq=False)
class Detection:
    """What was found in a mapping of arrays: the blocks, in the order of their first keys, and the names left over."""

    found: tuple[Found, ...]
    rest: tuple[str, ...]

    def blocks(self) -> list[Block]:
        """All blocks; raises the first fault, or one `DialectError` that asks every open question."""
        faults = [found.fault for found in self.found if found.fault]
        if faults:
            raise faults[0]
        open_ones = [found for found in self.found if found.doubts]
        if open_ones:
            raise _question(open_ones)
        return [found.block() for found in self.found]


def detect(
    arrays: Arrays,
    dialect: str | Dialect | None = None,
    hints: Mapping[str, Any] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Detection:
    """The blocks of `arrays`; `parity.read` tells the arguments.

    Raises:
        DialectError: where nothing fits; for hints that contradict weights or dialect; for patterns that fit nothing.
        MissingTensorError, DialectError: for parts and wrong shapes of blocks of the one dialect that is named.
    """
    named = _candidates(dialect)
    if len(named) == 1 and isinstance(named[0], NetworkDialect):
        return _networks(arrays, named[0], dict(hints or {}), include, exclude)
    strict = dialect is not None and len(named) == 1
    wanted = [one for one in named if dialect is not None or one.detected]
    groups = _by_prefix(list(arrays), wanted)

    def choice(name: str) -> bool:
        return chosen(name, include, exclude)

    fits = [fit for one in wanted for fit in _fits(one, groups, arrays, choice, strict)]
    every = _whole_sets(fits)
    sets = [fits for fits in every if choice(fits[0].name)]
    _check_apart(sets)
    parts = [] if strict else _parts(sets, wanted, groups, arrays, choice)
    lost = {key for part in parts for key in part.keys.values()}
    sets = [fits for fits in sets if lost.isdisjoint(fits[0].keys.values())]
    sets, company = _company(sets, groups)
    if not (every or parts or exclude):
        raise _nothing(arrays, wanted)
    check_included(include, [fits[0].name for fits in every] + [part.name for part in parts])
    _check_names(sets)
    told = _checked_hints(sets, dict(hints or {}))
    resolved = [_resolve(fits, told, asked=dialect is None, included=bool(include)) for fits in sets]
    found = [replace(one, fault=company.get(one.name, one.fault)) for one in resolved] + parts
    order = {key: number for number, key in enumerate(arrays)}
    found.sort(key=lambda one: min(order[key] for key in one.keys.values()))
    used = {key for one in found for key in one.keys.values()}
    return Detection(tuple(found), tuple(key for key in arrays if key not in used))


def _candidates(dialect: str | Dialect | None) -> list[Dialect]:
    if dialect is None:
        return list(dialects.DIALECTS.values())
    if isinstance(dialect, str) and set(dialect) & set("*?["):
        # Whole networks are read where they alone are named: their tensors hold those of the blocks in them.
        blocks = [one for one in dialects.find(dialect) if not isinstance(one, NetworkDialect)]
        return blocks or [dialects.get(dialect)]
    return [dialects.get(dialect)]


def chosen(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether the patterns leave the block `name` in."""
    wanted = not include or any(fnmatchcase(name, pattern) for pattern in include)
    return wanted and not any(fnmatchcase(name, pattern) for pattern in exclude)


def check_included(include: Sequence[str], names: Sequence[str]) -> None:
    """Raise `DialectError` for patterns that fit none of `names`: a block would be missed by a slip of the pen."""
    strange = [pattern for pattern in include if not any(fnmatchcase(name, pattern) for name in names)]
    if strange:
        there = (
            f"patterns of the names of blocks: {_some(list(map(repr, names)))}" if names else "blocks to choose from"
        )
        raise DialectError(f"received include={strange!r}", there)


def _networks(
    arrays: Arrays,
    dialect: NetworkDialect,
    hints: Mapping[str, Any],
    include: Sequence[str],
    exclude: Sequence[str],
) -> Detection:
    """The whole networks of `dialect`: every tensor under the prefix of one is its own."""
    if dialect.refused:
        raise DialectError(f"received the dialect {dialect.id}: {dialect.refused}", "one that is lossless")
    every = {prefix.removesuffix("."): keys for prefix, keys in dialect.find(arrays).items()}
    if not every:
        others = [one for one in dialects.NETWORKS.values() if one.refused and any(one.sign in key for key in arrays)]
        known = "".join(f"; they are {one.id}: {one.refused}" for one in others)
        raise NothingFoundError(
            f"received {_some(list(arrays))}, which are no network of {dialect.id}{known}",
            f"{dialect.sign} and the other weights of one, under any prefix",
            "leave dialect= out to learn which blocks they hold",
        )
    check_included(include, list(every))
    _check_network_hints(dialect, hints, list(every))
    found = []
    for name, keys in every.items():
        if chosen(name, include, exclude):
            told = hints_for(name, hints, dialect.fields)
            try:
                table, spec, tensors, extras = dialect.read({own: arrays[key] for own, key in keys.items()}, told)
            except ParityError as error:
                if name:
                    raise type(error)(f"in the network {name!r}: {error}") from error
                raise
            found.append(Found(name, (Candidate(table, name, keys, tensors, extras, spec),)))
    used = {key for one in found for key in one.keys.values()}
    return Detection(tuple(found), tuple(key for key in arrays if key not in used))


def _check_network_hints(dialect: NetworkDialect, hints: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise `DialectError` for hints that are neither of a field nor for one of the networks `names`."""
    for name, value in hints.items():
        some = {} if name in dialect.fields else value if isinstance(value, Mapping) else {name: value}
        strange = [field for field in some if field not in dialect.fields]
        if strange:
            raise DialectError(f"received the hints {', '.join(map(repr, strange))}", f"fields of {dialect.block!r}")
        if some and not any(fnmatchcase(one, name) for one in names):
            raise DialectError(f"received hints for {name!r}", f"for one of the networks {', '.join(map(repr, names))}")


# Which dialects fit where


def _by_prefix(keys: list[str], wanted: list[Dialect]) -> dict[str, dict[str, str]]:
    """The full key of each remainder, under each prefix: "" and whatever ends in "." or "/", as near as may matter."""
    depth = max((len(re.findall("[./]", row.key)) for one in wanted for row in one.tensors), default=0)
    groups: dict[str, dict[str, str]] = {}
    for key in keys:
        ends = (0, *(found.end() for found in re.finditer("[./]", key)))
        for end in ends[-1 - max(depth, DEPTH) :]:
            groups.setdefault(key[:end], {})[key[end:]] = key
    return groups


def _fits(dialect: Dialect, groups: Groups, arrays: Arrays, choice: Choice, strict: bool) -> Iterator[Candidate]:
    """The places where `dialect` fits; where `strict`, what looks like one but lacks something is an error."""
    for prefix in groups:
        for name, keys in _spellings(dialect, prefix, groups, arrays, choice):
            try:
                candidate = _fit(dialect, name, keys, arrays)
            except (MissingTensorError, DialectError):
                if strict and choice(name):
                    raise
                continue
            if candidate is not None:
                yield candidate


def _spellings(
    dialect: Dialect, prefix: str, groups: Groups, arrays: Arrays, choice: Choice
) -> Iterator[tuple[str, dict[str, str]]]:
    """The name of each block of `dialect` right under `prefix`, and the key of each row of its table."""
    remainders = groups[prefix]
    named = dialect.match_keys(remainders)
    for star, spelling in named.items():
        yield (prefix + star if star else prefix[:-1]), {row: remainders[key] for row, key in spelling.items()}
    if named or not dialect.numbered:
        return
    found = _anonymous(dialect, prefix, remainders, arrays, choice)
    alone = len(found) == 1 and len(found[0]) == len(remainders)
    for spelling in found:
        name = prefix[:-1] if alone else prefix + _first_layer(spelling)
        yield name, {row: remainders[key] for row, key in spelling.items()}


def _anonymous(
    dialect: Dialect, prefix: str, remainders: Mapping[str, str], arrays: Arrays, choice: Choice
) -> list[dict[str, str]]:
    """The blocks whose layers Keras named by itself: layers made one after another, whose shapes go together.

    Where there are more of one kind than of another, those count whose first layer is chosen.
    """
    kinds: dict[tuple[str, ...], list[str]] = {}
    for layer, names in dialect.numbered.items():
        kinds.setdefault(names, []).append(layer)
    units = [_units(dialect, names, layers, remainders, arrays) for names, layers in kinds.items()]
    if len({len(unit) for unit in units}) != 1:
        units[0] = [unit for unit in units[0] if choice(prefix + _first_layer(unit))]
    if len({len(unit) for unit in units}) != 1:
        return []
    return [{row: key for part in parts for row, key in part.items()} for parts in zip(*units, strict=True)]


def _first_layer(spelling: Mapping[str, str]) -> str:
    return next(iter(spelling.values())).partition("/")[0]


def _units(
    dialect: Dialect, names: tuple[str, ...], layers: list[str], remainders: Mapping[str, str], arrays: Arrays
) -> list[dict[str, str]]:
    """For the table's `layers` of one kind: each run of numbered layers that can be them, by row."""
    pattern = re.compile(rf"((?:{'|'.join(names)}){NUMBER})/\w+")
    leaves: dict[str, dict[str, str]] = {}
    for key in remainders:
        found = pattern.fullmatch(key)
        if found:
            leaves.setdefault(found[1], {})[key.rpartition("/")[2]] = key
    numbered = sorted(leaves, key=layer_number)
    units, start = [], 0
    while start + len(layers) <= len(numbered):
        run = [leaves[name] for name in numbered[start : start + len(layers)]]
        rows = _rows(dialect, layers, run)
        fits = rows is not None and _chains([arrays[remainders[part["kernel"]]].shape for part in run])
        if rows is not None and fits:
            units.append(rows)
        start += len(layers) if fits else 1
    return units


def _rows(dialect: Dialect, layers: list[str], run: list[dict[str, str]]) -> dict[str, str] | None:
    """The key of each row of `layers`; None where a layer has another set of variables."""
    rows: dict[str, str] = {}
    for layer, leaves in zip(layers, run, strict=True):
        own = {row.key.rpartition("/")[2]: row.key for row in dialect.tensors if row.key.startswith(f"{layer}/")}
        if own.keys() != leaves.keys() or "kernel" not in leaves:
            return None
        rows |= {own[leaf]: key for leaf, key in leaves.items()}
    return rows


def _chains(shapes: list[tuple[int, ...]]) -> bool:
    """Whether kernels (..., in, out) can be one block's: an MLP back to its channels, or a filter to one plane."""
    if any(len(shape) < 2 for shape in shapes):
        return False
    if len(shapes) == 1:
        return shapes[0][-1] == 1
    inner = all(first[-1] == second[-2] for first, second in itertools.pairwise(shapes))
    return inner and shapes[0][-2] % shapes[-1][-1] == 0


def _fit(dialect: Dialect, name: str, keys: Mapping[str, str], arrays: Arrays) -> Candidate | None:
    """What `dialect` makes of the tensors `keys`; None where they are another thing's."""
    rows = [row for row in dialect.tensors if row.key in keys]
    if all(row.optional for row in rows) or not _lie_so(rows, {row.key: arrays[keys[row.key]].shape for row in rows}):
        return None
    missing = dict.fromkeys(row.key for row in dialect.tensors if row.key not in keys and not row.optional)
    if missing:
        raise MissingTensorError(
            f"received {', '.join(keys.values())} without {', '.join(_full(keys, key) for key in missing)}",
            f"all tensors of {dialect.id}",
            _leave_out(name, "if they belong to something else, "),
        )
    if dialect.refused:
        return Candidate(dialect, name, keys, {}, {})
    tensors, extras = dialects.to_canonical(dialect, {row.key: arrays[keys[row.key]] for row in rows})
    told = dialect.told_by({row.key: arrays[keys[row.key]].shape for row in rows})
    candidate = Candidate(dialect, name, keys, tensors, extras, told=told)
    return replace(candidate, spec=_spec(candidate, {}))


def _full(keys: Mapping[str, str], missing: str) -> str:
    """The key of the row `missing` beside those that are there, by row."""
    row, key = next(iter(keys.items()))
    head, star, tail = row.partition("*")
    if not star:
        return key.removesuffix(row) + missing
    stem = key.removesuffix(tail)
    start = max(map(stem.rfind, "/.")) + 1
    return stem[:start] + missing.replace("*", stem[start + len(head) :])


def _lie_so(rows: list[Tensor], shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether every tensor can be its row's, and the letters of the rows' shapes mean one size each."""
    letters: dict[str, int] = {}
    spelled = [(sign, size) for row in rows for sign, size in zip(row.shape.split(), shapes[row.key], strict=False)]
    return all(row.accepts(shapes[row.key]) for row in rows) and all(
        sign.isdecimal() or letters.setdefault(sign, size) == size for sign, size in spelled
    )


def _spec(candidate: Candidate, hints: Mapping[str, Any]) -> Spec:
    """The spec that sizes, facts, defaults and hints give together; a `DialectError` where they do not agree."""
    dialect = candidate.dialect
    shapes = {name: value.shape for name, value in candidate.tensors.items()}
    told = {**hints, **dialect.facts, **candidate.told}
    try:
        spec = SPECS[dialect.block].infer(shapes, **{**dialect.defaults, **told})
        stated = type(spec).from_json({**spec.to_json(), **told})
        wished = type(spec).from_json({**spec.to_json(), **hints})
    except SpecError as error:
        raise DialectError(f"{candidate.where} does not work out: {error}") from error
    differences = spec.differences(stated) + stated.differences(wished)
    if differences:
        expected = "agreement of the weights, of what the dialect fixes and of the hints"
        raise DialectError(f"{candidate.where} contradicts itself (found, told): {'; '.join(differences)}", expected)
    if spec.parameters() != shapes:
        raise DialectError(
            f"{candidate.where} has the shapes {shapes}", f"{spec.parameters()}", _leave_out(candidate.name)
        )
    return spec


# Which fits are blocks


def _whole_sets(fits: list[Candidate]) -> list[list[Candidate]]:
    """The fits by the tensors that they take, less those that take a part of another's: half a block is none."""
    sets: dict[frozenset[str], list[Candidate]] = {}
    for fit in fits:
        sets.setdefault(frozenset(fit.keys.values()), []).append(fit)
    holders: dict[str, list[frozenset[str]]] = {}
    for keys in sets:
        for key in keys:
            holders.setdefault(key, []).append(keys)
    return [one for keys, one in sets.items() if not any(keys < other for other in holders[next(iter(keys))])]


def _check_apart(sets: list[list[Candidate]]) -> None:
    """Refuse fits that share some of their tensors: one of them must be wrong."""
    owners: dict[str, list[Candidate]] = {}
    for fits in sets:
        for key in fits[0].keys.values():
            other = owners.setdefault(key, fits)
            if other is not fits:
                raise _ambiguous([*other, *fits])


def _parts(
    sets: list[list[Candidate]], wanted: list[Dialect], groups: Groups, arrays: Arrays, choice: Choice
) -> list[Found]:
    """The blocks that lack a tensor, or have one of a wrong shape.

    They must not vanish among the rest beside whole ones of their dialect, nor pass for the smaller block that a part
    of their tensors makes.
    """
    owners = {key: fits for fits in sets for key in fits[0].keys.values()}
    whole = {fit.dialect.id for fits in sets for fit in fits}
    around = [prefix for prefix, remainders in groups.items() if not owners.keys().isdisjoint(remainders.values())]
    parts: dict[frozenset[str], Found] = {}
    for dialect in wanted:
        if dialect.numbered or dialect.refused:
            continue
        for prefix in groups if dialect.id in whole else around:
            for name, keys in _spellings(dialect, prefix, groups, arrays, choice):
                part = Candidate(dialect, name, keys, {}, {})
                taken = frozenset(keys.values())
                smaller = {id(owners[key]): owners[key] for key in taken if key in owners}.values()
                if choice(name) and _is_part(part, smaller, dialect.id in whole, groups, owners):
                    fault = _fault(part, arrays, broken=bool(smaller))
                    if fault:
                        parts.setdefault(taken, Found(name, (part,), fault=fault))
    return list(parts.values())


def _is_part(
    part: Candidate, smaller: Collection[list[Candidate]], known: bool, groups: Groups, owners: Mapping[str, object]
) -> bool:
    """Whether the tensors of `part`, which hold those of the blocks `smaller`, are one block of its dialect."""
    needed = {row.key for row in part.dialect.tensors if not row.optional}
    if len(needed & part.keys.keys()) * 2 <= len(needed):
        return False
    taken = set(part.keys.values())
    inside = {key for fits in smaller for key in fits[0].keys.values()}
    if inside == taken:  # half a block of its own right, or what is left of a block of another kind
        same = any(fit.dialect.block == part.dialect.block for fits in smaller for fit in fits)
        if same or not known:
            return False
    return inside <= taken and not _beside(part, groups, owners)


def _fault(part: Candidate, arrays: Arrays, broken: bool) -> ParityError | None:
    """What is wrong with `part`; None where it is another thing, which it is not where it would be `broken` by it."""
    try:
        fit = _fit(part.dialect, part.name, part.keys, arrays)
    except MissingTensorError as error:
        return error
    except DialectError as error:
        return error if broken or not _leads_elsewhere(part, arrays) else None
    if fit is not None or not broken:
        return None
    shapes = {row.key: arrays[part.keys[row.key]].shape for row in part.dialect.tensors if row.key in part.keys}
    wrong = [row for row in part.dialect.tensors if row.key in shapes and not row.accepts(shapes[row.key])]
    received = ", ".join(f"{part.keys[row.key]} of shape {shapes[row.key]}" for row in wrong) or f"{shapes}"
    expected = ", ".join(row.expected for row in wrong) or f"sizes that go together in {part.dialect.id}"
    return DialectError(f"received {received} in {part.where}", expected, _leave_out(part.name))


def _leads_elsewhere(part: Candidate, arrays: Arrays) -> bool:
    """Whether two layers make another width than they take, which no attention does: a plain perceptron."""
    if part.dialect.block != "se":
        return False
    tensors, _ = dialects.to_canonical(part.dialect, {row: arrays[key] for row, key in part.keys.items()})
    first, second = tensors["fc1.kernel"].shape, tensors["fc2.kernel"].shape
    biases = [tensors.get(f"{name}.bias", tensors[f"{name}.kernel"][:, 0]) for name in ("fc1", "fc2")]
    return first[0] == second[1] and [len(bias) for bias in biases] == [first[0], second[0]] and first[1] != second[0]


def _company(
    sets: list[list[Candidate]], groups: Groups
) -> tuple[list[list[Candidate]], dict[str, UnexpectedTensorError]]:
    """`sets` less the pairs of layers that others lie beside and that are wider inside: plain multilayer perceptrons.

    Any other block with foreign tensors in its own module is a fault, by its name: they would be lost.
    """
    used = {key for fits in sets for key in fits[0].keys.values()}
    kept, faults = [], {}
    for fits in sets:
        alone = [(fit, _beside(fit, groups, used)) for fit in fits]
        fitting = [fit for fit, beside in alone if not beside]
        if fitting:
            kept.append(fitting)
        elif not all(map(_mistakable, fits)):
            kept.append(fits)
            fit, beside = alone[0]
            faults[fit.name] = UnexpectedTensorError(
                f"received {_some(beside)} beside the block {fit.name!r} ({fit.dialect.id})",
                f"beside {', '.join(fit.keys.values())} nothing in the same module",
                _leave_out(fit.name, "pass another dialect, or "),
            )
    return kept, faults


def _beside(fit: Candidate, groups: Groups, used: Collection[str]) -> list[str]:
    """The tensors of no block in the module of `fit`; for layers without a module of their own, in these layers."""
    open_module = fit.dialect.inline or fit.dialect.numbered
    own = set(fit.keys.values())
    some = next(iter(fit.keys.items()))
    prefix = some[1].removesuffix(some[0]) if some[1].endswith(some[0]) else None
    if prefix is None:  # a star or an anonymous name: its layers lie among those of the network
        layers = {key.rpartition("/")[0] + "/" for key in fit.keys.values()}
        return [key for layer in layers for key in groups.get(layer, {}).values() if key not in used and key not in own]
    roots = {re.split("[./]", row)[0] for row in fit.keys}
    return [
        key
        for rest, key in groups[prefix].items()
        if key not in used and key not in own and (not open_module or re.split("[./]", rest)[0] in roots)
    ]


def _mistakable(fit: Candidate) -> str:
    """What else its weights may be than a block, in words; empty where nothing else."""
    return fit.spec.mistakable() if fit.spec else ""


def _check_names(sets: list[list[Candidate]]) -> None:
    twice = sorted(name for name, count in Counter(fits[0].name for fits in sets).items() if count > 1)
    if twice:
        raise DialectError(
            f"received several blocks under {', '.join(map(repr, twice))}", "one block a prefix", "read them one by one"
        )


# What they mean


def _checked_hints(sets: list[list[Candidate]], hints: Mapping[str, Any]) -> Mapping[str, Any]:
    """`hints`, if every pattern fits a block and every field belongs to one."""
    names = [fits[0].name for fits in sets]
    readable = [fit for fits in sets for fit in fits if fit.spec]
    known = dict.fromkeys(name for fit in readable for name in (*_fields(fit), *fit.dialect.aliases))
    for name, value in hints.items():
        if name in FIELDS or not isinstance(value, Mapping):
            if name not in known and sets:
                raise DialectError(f"received the hints {name!r}", f"of {', '.join(known)}")
        elif not any(fnmatchcase(block, name) for block in names):
            raise DialectError(
                f"received hints for {name!r}", f"a spec field, or one of the blocks {', '.join(map(repr, names))}"
            )
        else:
            wrong = [field for field in value if field not in known]
            if wrong:
                raise DialectError(f"received the hints {', '.join(map(repr, wrong))}", f"of {', '.join(known)}")
    return hints


def hints_for(name: str, hints: Mapping[str, Any], fields: Collection[str] = FIELDS) -> dict[str, Any]:
    """What the hints say of the block `name`: what they say of all, and then what they say of some."""
    own = {field: value for field, value in hints.items() if field in fields or not isinstance(value, Mapping)}
    for pattern, some in hints.items():
        if pattern not in fields and isinstance(some, Mapping) and fnmatchcase(name, pattern):
            own |= some
    return own


def _own_hints(fit: Candidate, hints: Mapping[str, Any]) -> dict[str, Any]:
    """What the hints say of this block, as far as its kind has such fields; its project may have its own names."""
    own: dict[str, Any] = {}
    for name, value in hints_for(fit.name, hints).items():
        meant = fit.dialect.aliases.get(name, name)
        if own.setdefault(meant, value) != value:
            raise DialectError(f"received the hints {meant}={own[meant]!r} and {name}={value!r}", "one of them")
    return {field: value for field, value in own.items() if field in _fields(fit)}


def _fields(fit: Candidate) -> dict[str, Any]:
    assert fit.spec is not None
    return fit.spec.arguments()


def _resolve(fits: list[Candidate], hints: Mapping[str, Any], asked: bool, included: bool) -> Found:
    """The block that the readings `fits` of the same tensors are, as far as the hints tell."""
    readable = [fit for fit in fits if not fit.dialect.refused]
    if not readable:
        return Found(fits[0].name, tuple(fits), fault=_refusal(fits[0]))
    agreeing, faults = [], []
    for fit in readable:
        try:
            agreeing.append(replace(fit, spec=_spec(fit, _own_hints(fit, hints))))
        except DialectError as error:
            faults.append(error)
    if not agreeing:
        raise faults[0] if len(faults) == 1 else DialectError("; ".join(str(fault) for fault in faults))
    first = agreeing[0]
    if any(not _same_tensors(first, other) for other in agreeing[1:]):
        return Found(first.name, tuple(agreeing), fault=_ambiguous(agreeing))
    told = _own_hints(first, hints)
    doubts = [*_differences(agreeing), *_open(agreeing, told, asked)]
    plain = _mistakable(first)
    if plain and not included and (asked or first.name):
        doubts.append(Doubt(PLAIN_LAYERS, (), plain))
    return Found(first.name, tuple(agreeing), tuple({doubt.fact: doubt for doubt in doubts}.values()))


def _same_tensors(one: Candidate, other: Candidate) -> bool:
    """Whether two readings make the same canonical tensors: the same views of the same memory, whatever is in it."""
    if one.dialect.block != other.dialect.block or one.tensors.keys() != other.tensors.keys():
        return False
    return all(same_view(value, other.tensors[name]) for name, value in one.tensors.items())


def _differences(fits: list[Candidate]) -> Iterator[Doubt]:
    """The fields in which readings of the same tensors differ."""
    tables = {fit.dialect.id: fit.spec.to_json() for fit in fits if fit.spec is not None}
    for name in next(iter(tables.values())):
        values = {dialect: table[name] for dialect, table in tables.items()}
        distinct = [
            value for number, value in enumerate(values.values()) if value not in list(values.values())[:number]
        ]
        if len(distinct) > 1:
            reason = ", ".join(f"{_short(value)} in {dialect}" for dialect, value in values.items())
            yield Doubt(name, tuple(map(_short, distinct)), reason)


def _short(value: Any) -> Any:
    """A gate as a hint would spell it."""
    plain = {"kind": "hard_sigmoid", "slope": 1 / 6, "offset": 0.5}
    if not isinstance(value, Mapping) or "kind" not in value:
        return value
    return value["kind"] if value["kind"] != "hard_sigmoid" or value == plain else dict(value)


def _open(fits: list[Candidate], told: Mapping[str, Any], asked: bool) -> Iterator[Doubt]:
    """What nobody may guess, and where all is `asked`, the defaults that users of these classes do set."""
    fields = fits[0].spec.to_json() if fits[0].spec else {}
    names = [name for fit in fits for name in (*(fit.dialect.doubtful if asked else ()), *fit.dialect.asked)]
    for name in dict.fromkeys(names):
        if name not in told and fields.get(name) is not None:  # what is not there has no epsilon
            yield Doubt(name, _allowed(name, fits[0]), "the weights are the same whatever it is")


def _allowed(name: str, fit: Candidate) -> tuple[Any, ...]:
    """What a doubtful field may be; where that is any number, what it is by default."""
    now = _fields(fit)[name]
    if name == "num_heads":
        channels = fit.tensors["attention.query.kernel"].shape[0]
        return tuple(number for number in range(1, channels + 1) if channels % number == 0)
    return (now,) if type(now) in (int, float) else ALLOWED.get(name, (fit.spec.to_json()[name],) if fit.spec else ())


# Errors


def _question(found: Iterable[Found]) -> DialectError:
    """One error that asks for everything that is open."""
    found = list(found)
    first = found[0]
    facts = [doubt for doubt in first.doubts if doubt.fact != PLAIN_LAYERS]
    others = f" (and {len(found) - 1} more blocks are in doubt)" if len(found) > 1 else ""
    looks = f"block {first.name!r} looks like {' or '.join(fit.dialect.id for fit in first.readings)}"
    if not facts:
        return DialectError(
            f"{looks}, but {first.doubts[0].reason}{others}",
            "to be told which pairs of layers are attention",
            f"pass include=[{first.name!r}, ...] for those that are, or exclude=[{first.name!r}, ...]",
        )
    names = " and ".join(doubt.fact for doubt in facts)
    allowed = "; ".join(f"{doubt.fact}: {', '.join(map(repr, doubt.values))}" for doubt in facts)
    spelled = {name: _short(value) for name, value in (first.spec.to_json() if first.spec else {}).items()}
    example = {doubt.fact: spelled[doubt.fact] for doubt in facts}
    return DialectError(
        f"{looks}, whose weights do not tell {names}{others}",
        f"hints for them ({allowed})",
        f"pass hints={example!r}, for some blocks hints={{'<pattern of names>': {{...}}}}, or "
        f"dialect={first.dialect.id!r} for the defaults of its class",
    )


def _refusal(fit: Candidate) -> DialectError:
    return DialectError(
        f"received {_some(list(fit.keys.values()))}, which is {fit.dialect.id}: {fit.dialect.refused}",
        "weights that can be read without loss",
        _leave_out(fit.name),
    )


def _ambiguous(fits: list[Candidate]) -> DialectError:
    ids = list(dict.fromkeys(fit.dialect.id for fit in fits))
    keys = dict.fromkeys(key for fit in fits for key in fit.keys.values())
    return DialectError(
        f"received {_some(list(keys))}, which fit {' and '.join(ids)}",
        "one dialect",
        f"choose with {' or '.join(f'dialect={name!r}' for name in ids)}, and the blocks of each with include=",
    )


def _leave_out(name: str, before: str = "") -> str:
    return f"{before}leave it out: exclude=[{name!r}]"


class NothingFoundError(DialectError):
    """Weights in which no dialect finds a block."""


def _nothing(arrays: Arrays, wanted: list[Dialect]) -> NothingFoundError:
    received = f"received {_some(list(arrays))}, which fit no block of "
    if len(wanted) != 1:
        return NothingFoundError(
            f"{received}the {len(wanted)} dialects looked for",
            "all weights of at least one block, under any prefix",
            "pass dialect= to learn what is missing, or build a parity.Block from canonical names",
        )
    one = wanted[0]
    rows = ", ".join(f"{row.key} ({row.layout})" for row in one.tensors if not row.optional)
    remedy = "leave dialect= out to learn what they are"
    if one.numbered:
        remedy += "; name the first layers of its blocks with include= where layers of other things have such names"
    return NothingFoundError(f"{received}{one.id}", f"{rows}, under any prefix", remedy)


def _some(names: list[str]) -> str:
    return listed(names, most=8) or "no tensors"
