"""Attention blocks of foreign classes, and those that only the other model's block gives away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import Any

from parity.detection import FIELDS, Found, detect, hints_for
from parity.dialects import DIALECTS, Dialect
from parity.errors import DialectError, ParityError
from parity.loading import plain_name
from parity.network._names import Names
from parity.network._part import Part, Side, Slot, listed
from parity.spec import SPECS, Spec, spec_from_json

# The field of a block's spec that tells of its norm.
NORM_FIELDS = {"cbam": "spatial_norm", "ca": "norm"}


def find_blocks(source: Side, target: Side, names: Names, hints: Mapping[str, Any]) -> None:
    """Complete the blocks of each side: foreign ones by their class, and what the other side has a block for."""
    for side in (source, target):
        for path, kind in side.network.classes.items():
            if kind in DIALECTS and not DIALECTS[kind].refused and path not in side.blocks:
                _find_foreign(side, path, DIALECTS[kind], hints)
    _find_wanted(target, {names(name)[0]: spec for name, spec in _specs(source).items()}, hints)
    _find_wanted(source, {names.back(name): spec for name, spec in _specs(target).items()}, hints)
    blocks = [name for side in (source, target) for name in (*side.blocks, *side.foreign)]
    idle = [key for key in hints if key not in FIELDS and not any(fnmatchcase(name, key) for name in blocks)]
    if idle:
        raise DialectError(
            f"received hints for {listed(map(repr, idle))}", f"a spec field, or one of {listed(map(repr, blocks))}"
        )


def _specs(side: Side) -> dict[str, Spec]:
    """The specs of the blocks that show all of theirs."""
    found = {}
    for part in [*(side.block(name, live) for name, live in side.blocks.items()), *side.foreign.values()]:
        if {one.name for one in fields(SPECS[part.kind])} <= set(part.shown):  # type: ignore[arg-type]
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
    side.foreign[path] = _foreign(path, found, spec, variables)


def _find_wanted(side: Side, wanted: Mapping[str, Spec], hints: Mapping[str, Any]) -> None:
    """The blocks that the other side wants here: made of stock layers, or of a dialect that the keys tell."""
    have = {plain_name(name) for name in (*side.blocks, *side.foreign)}
    missing = {name: spec for name, spec in wanted.items() if plain_name(name) not in have}
    found = side.adapter.find_blocks(side.session, missing)
    side.blocks |= {name: live for name, live in found.items() if plain_name(name) not in have}
    have |= set(map(plain_name, found))
    for name in missing:
        path = None if plain_name(name) in have else _path(side, name)
        if path is not None:
            side.foreign[path] = _wanted(side, path, hints_for(path, hints))


def _wanted(side: Side, path: str, told: Mapping[str, Any]) -> Part:
    """The block that the names and shapes at `path` tell, as far as they do."""
    variables = _below(side, path)
    where = f"{side.role} {path!r}, where the other model has an attention block,"
    try:
        detection = detect({key: side.read(key, value) for key, value in variables.items()}, None, told, (path,))
        fit = next((one for one in detection.found if one.name == path), None)
        part = None if fit is None or detection.rest else _foreign(path, fit, fit.block().spec, variables)
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


def _foreign(path: str, found: Found, spec: Spec, variables: Mapping[str, Any]) -> Part:
    """A block in the variables of a foreign implementation, through the rows of its dialect's table."""
    slots, extras = {}, {}
    for row in found.dialect.tensors:
        if row.key in found.keys and row.extra:
            extras[row.canonical] = variables[found.keys[row.key]]
        elif row.key in found.keys:
            slots[row.canonical] = Slot(variables[found.keys[row.key]], row.to_canonical, _back(row.from_canonical))
    shown = {key: value for key, value in spec.to_json().items() if key != "block"}
    channels = "first" if found.dialect.separator == "." else ""
    return Part(path, spec.block, shown, slots, extras, channels, found.dialect.id)


def _back(from_canonical: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda value, shape: from_canonical(value)
