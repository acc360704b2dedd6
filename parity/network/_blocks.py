"""Attention blocks of foreign classes, and those that only the other model's block gives away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import Any

from parity import dialects
from parity.detection import FIELDS, detect, hints_for
from parity.dialects import DIALECTS, Dialect, NetworkDialect
from parity.errors import DialectError, ParityError
from parity.loading import plain_name
from parity.network._checks import check_configuration
from parity.network._foreign import foreign, read_network
from parity.network._names import Names
from parity.network._part import Part, Side, listed
from parity.spec import NETWORKS, SPECS, LiveBlock, Spec, spec_from_json

# What a hint may tell of a foreign network, beside the fields of blocks.
NETWORK_FIELDS = frozenset().union(*(one.fields for one in dialects.NETWORKS.values()))

# The field of a block's spec that tells of its norm.
NORM_FIELDS = {"cbam": "spatial_norm", "ca": "norm"}


def find_blocks(
    source: Side, target: Side, names: Names, hints: Mapping[str, Any], dialect: NetworkDialect | None
) -> None:
    """Complete the blocks of each side: foreign ones by their class, and what the other side has a block for.

    A foreign network is one of this project where the other side has one: a `dialect` tells of one whose class is its
    author's own.
    """
    _find_networks(source, target, names, hints, dialect)
    _find_networks(target, source, names, hints, dialect)
    if dialect and not any(part.origin == dialect.id for side in (source, target) for part in side.foreign.values()):
        raise DialectError(
            f"received dialect={dialect.id!r}",
            f"a model of it, beside one that is a {dialect.block!r} of this project",
        )
    for side in (source, target):
        for path, kind in side.network.classes.items():
            is_own = path in side.blocks or any(_is_below(path, name) for name in (*side.blocks, *side.foreign))
            if kind in DIALECTS and not DIALECTS[kind].refused and not is_own:
                _find_foreign(side, path, DIALECTS[kind], hints)
    _find_wanted(target, {names(name)[0]: spec for name, spec in _specs(source).items()}, hints)
    _find_wanted(source, {names.back(name): spec for name, spec in _specs(target).items()}, hints)
    blocks = [name for side in (source, target) for name in (*side.blocks, *side.foreign)]
    found = [part for side in (source, target) for part in side.foreign.values()]
    fields = FIELDS | (NETWORK_FIELDS if any(part.kind in NETWORKS for part in found) else frozenset())
    idle = [key for key in hints if key not in fields and not any(fnmatchcase(name, key) for name in blocks)]
    if idle:
        raise DialectError(
            f"received hints for {listed(map(repr, idle))}", f"a spec field, or one of {listed(map(repr, blocks))}"
        )


def _find_networks(
    side: Side, other: Side, names: Names, hints: Mapping[str, Any], dialect: NetworkDialect | None
) -> None:
    """The foreign networks of `side` for which `other` has one of this project; of stock layers, it must be asked for.

    Where it has none, they are so many layers, as any other network.
    """
    kinds = {live.shown["block"] for live in other.blocks.values()}
    found = {path: dialects.NETWORKS[kind] for path, kind in side.network.classes.items() if kind in dialects.NETWORKS}
    if dialect is not None and not any(live.shown["block"] in NETWORKS for live in side.blocks.values()):
        found = {prefix.removesuffix("."): dialect for prefix in dialect.find(side.network.state)}
    for own in dialects.NETWORKS.values():
        if (
            own.refused
            and own.block in kinds
            and any(plain_name(path).endswith(own.sign) for path in side.network.layers)
        ):
            raise DialectError(f"{side.role} is a {own.id}: {own.refused}", "a network without loss")
    for path, own in found.items():
        is_asked = own.block in kinds
        try:
            part = read_network(side, path, own, hints_for(path, hints, own.fields), is_told=own is dialect)
        except ParityError as error:
            if is_asked or own is dialect:
                raise
            side.remarks.append(f"{side.role} {path!r} is a {own.id}, but not as a network: {error}")
            continue
        if not is_asked:
            spec = spec_from_json({"block": part.kind, **part.shown})
            live = _stock_network(other, names(path)[0] if other.role == "target" else names.back(path), spec)
            if not live:
                continue
            _check_network(part, other, *live.items())
            other.blocks |= live
        side.foreign[path] = part


def _check_network(part: Part, other: Side, found: tuple[str, LiveBlock]) -> None:
    """Raise where a network of stock layers shows another spec: it may have layers that no part of this one claims."""
    theirs = other.block(*found)
    check_configuration([(part, theirs) if other.role == "target" else (theirs, part)], shapes=False)


def _stock_network(side: Side, name: str, spec: Spec) -> dict[str, LiveBlock]:
    """The network of `spec` in stock layers: under `name`, or under whatever one name it has; empty where it is none.

    More than half of its parameters: a network of another depth is one, too, and the difference is to be told.
    """
    first = plain_name(next(iter(spec.parameters())).rpartition(".")[0])
    ends = [plain_name(path) for path in side.network.layers]
    starts = [path.removesuffix(first).removesuffix("_") for path in ends if path.endswith(first)]
    for wanted in [name] if plain_name(name) in starts else starts if len(starts) == 1 else []:
        found = side.adapter.find_blocks(side.session, {wanted: spec})
        live = found.get(wanted)
        if live and live.shown["block"] == spec.block and len(live.variables) * 2 > len(spec.parameters()):
            return {wanted: live}
    return {}


def _is_below(path: str, name: str) -> bool:
    return path != name and (not name or path.startswith((f"{name}.", f"{name}/")))


def _specs(side: Side) -> dict[str, Spec]:
    """The specs of the blocks that show all of theirs."""
    found = {}
    for part in [*(side.block(name, live) for name, live in side.blocks.items()), *side.foreign.values()]:
        kind = (SPECS | NETWORKS)[part.kind]
        if {one.name for one in fields(kind)} <= set(part.shown):  # type: ignore[arg-type]
            found[part.name] = spec_from_json({"block": part.kind, **part.shown})
    return found


def _find_foreign(side: Side, path: str, dialect: Dialect, hints: Mapping[str, Any]) -> None:
    """The block that the module at `path` is by its class; as plain layers where it is a variant without a spec."""
    told, facts = hints_for(path, hints), dict(side.network.facts.get(path, {}))
    norm = facts.pop("norm", None)
    facts |= {NORM_FIELDS[dialect.block]: norm} if norm and dialect.block in NORM_FIELDS else {}
    against = [
        f"{name}: module {facts[name]!r}, hint {told[name]!r}"
        for name in told
        if told[name] != facts.get(name, told[name])
    ]
    if against:
        raise DialectError(
            f"received hints for {side.role} {path!r} against its own modules ({'; '.join(against)})", "agreement"
        )
    variables = _below(side, path)
    state = {key: side.read(key, variable) for key, variable in variables.items()}
    try:
        # The module at hand knows better than the table what its author made of it.
        own = replace(dialect, facts={name: value for name, value in dialect.facts.items() if name not in facts})
        detection = detect(state, own, {**told, **facts})
        (found,) = detection.found
        spec = found.block().spec
        if detection.rest:
            raise DialectError(f"received {listed(detection.rest)} beside the keys of {dialect.id}")
    except (ParityError, ValueError) as error:
        side.remarks.append(f"{side.role} {path!r} is a {dialect.id}, but not as a block: {error}")
        return
    doubts = [name for name in dialect.doubtful if name not in told and name not in facts]
    if doubts:
        raise DialectError(
            f"{side.role} {path!r} is a {dialect.id}, which shows no {' and no '.join(doubts)}",
            "hints for them",
            f"pass hints={ {name: spec.to_json()[name] for name in doubts}!r}, if so they are",
        )
    side.foreign[path] = foreign(path, found, spec, variables)


def _find_wanted(side: Side, wanted: Mapping[str, Spec], hints: Mapping[str, Any]) -> None:
    """The blocks that the other side wants here: made of stock layers, or of a dialect that the keys tell."""
    have = {plain_name(name) for name in (*side.blocks, *side.foreign)}
    missing = {name: spec for name, spec in wanted.items() if plain_name(name) not in have}
    found = side.adapter.find_blocks(side.session, missing)
    side.blocks |= {name: live for name, live in found.items() if plain_name(name) not in have}
    have |= set(map(plain_name, found))
    is_network = {name for name, spec in missing.items() if spec.block in NETWORKS}
    if not any(part["block"] in NETWORKS for part in (live.shown for live in side.blocks.values())):
        for name in is_network - have:
            side.blocks |= _stock_network(side, name, missing[name])
    for name in missing:
        path = None if plain_name(name) in have or name in is_network else _path(side, name)
        if path is not None:
            side.foreign[path] = _wanted(side, path, hints_for(path, hints))


def _wanted(side: Side, path: str, told: Mapping[str, Any]) -> Part:
    """The block that the names and shapes at `path` tell, as far as they do."""
    variables = _below(side, path)
    where = f"{side.role} {path!r}, where the other model has an attention block,"
    try:
        detection = detect({key: side.read(key, value) for key, value in variables.items()}, None, told, (path,))
        fit = next((one for one in detection.found if one.name == path), None)
        part = None if fit is None or detection.rest else foreign(path, fit, fit.block().spec, variables)
    except ParityError as error:
        raise DialectError(f"{where} cannot be read as one: {error}") from error
    if part is None:
        raise DialectError(f"{where} has {listed(variables)}", "one block of a known dialect, and nothing beside it")
    return replace(part, open=_open(side, part, told))


def _open(side: Side, part: Part, told: Mapping[str, Any]) -> tuple[str, ...]:
    """The functions that stand in no module of their own; raises where one does that is not the block's."""
    gate, activation = (part.shown.get(field) for field in ("gate", "activation"))
    own = {"gate": gate["kind"] if isinstance(gate, Mapping) else gate, "activation": activation}
    seen = {
        name for path, name in side.network.functions.items() if path.startswith((f"{part.name}.", f"{part.name}/"))
    }
    if not seen <= {*own.values(), "identity"}:
        raise DialectError(
            f"{side.role} {part.name!r} has the modules {listed(sorted(seen))}, but its weights are those of "
            f"{part.origin} with {listed(filter(None, own.values()))}",
            "modules that fit",
            "tell gate and activation by hints=, or port it as your own code",
        )
    return tuple(name for name, function in own.items() if function and name not in told and function not in seen)


def _path(side: Side, name: str) -> str | None:
    """The prefix of the side's own names of variables that is `name`."""
    prefixes = {key[:end] for key in side.network.state for end in range(len(key)) if key[end] in "./"}
    return next((prefix for prefix in sorted(prefixes) if plain_name(prefix) == plain_name(name)), None)


def _below(side: Side, path: str) -> dict[str, Any]:
    """The side's own names and variables of what is at `path`."""
    state = side.network.state
    return {key: value for key, value in state.items() if not path or key.startswith((f"{path}.", f"{path}/"))}
