"""Parts in the variables of foreign implementations: blocks, and whole networks that a dialect reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from parity.detection import Found, detect
from parity.dialects import DIALECTS, Dialect, NetworkDialect
from parity.dialects._networks import strides
from parity.errors import DialectError, SpecMismatchError
from parity.network._part import Part, Side, Slot, listed
from parity.spec import ResNetSpec, Spec


def foreign(path: str, found: Found, spec: Spec, variables: Mapping[str, Any]) -> Part:
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


def read_network(side: Side, path: str, dialect: NetworkDialect, told: Mapping[str, Any], is_told: bool) -> Part:
    """The network of `dialect` at `path`, whose modules all compute what the spec that comes of its weights says.

    Args:
        side: whose network it is.
        path: of its module.
        dialect: of its class.
        told: what hints say of it.
        is_told: whether the user says that it is one: what its own classes do in between is then nowhere to be seen.
    """
    network = side.network
    prefix = f"{path}." if path else ""
    variables = {key: value for key, value in network.state.items() if key.startswith(prefix)}
    blocks = [name for name in network.classes if name.startswith(prefix) and name.rpartition(".")[2] == "se"]
    shown = _norm_of(side, prefix, blocks) | _facts_of(side, dialect, blocks)
    stem = network.layers.get(f"{prefix}conv1")
    if network.classes.get(f"{prefix}maxpool") == "torch/Identity" and stem and stem.shown.get("strides") == [1, 1]:
        shown["stem"] = "small"
    against = [
        f"{name}: module {shown[name]!r}, hint {told[name]!r}"
        for name in told
        if shown.get(name, told[name]) != told[name]
    ]
    if against:
        raise DialectError(f"received hints for {side.role} {path!r} against its own modules ({'; '.join(against)})")
    arrays = {key: side.read(key, variable) for key, variable in variables.items()}
    (found,) = detect(arrays, dialect, {**told, **shown}).found
    spec = found.block().spec
    assert isinstance(spec, ResNetSpec)
    faults = [*_wrong_layers(side, prefix, found.dialect, spec), *_wrong_modules(side, prefix, dialect, spec, blocks)]
    if faults:
        raise SpecMismatchError(
            f"{side.role} {path!r} is a {dialect.id} that computes something else than its weights tell "
            f"({listed(faults)})",
            "the plain network of its class",
        )
    # No module shows how the stem takes its maximum; of classes of the user's own, none shows where a block is.
    own = ("stem", "placement") if is_told and spec.attention else ("stem",)
    return replace(foreign(path, found, spec, variables), open=own)


def _norm_of(side: Side, prefix: str, blocks: list[str]) -> dict[str, Any]:
    """The norm that all batch norms of the network are, as a hint."""
    norms: list[dict[str, Any]] = []
    for name, layer in side.network.layers.items():
        is_inside = name.startswith(tuple(f"{block}." for block in blocks))
        if layer.kind == "batch norm" and name.startswith(prefix) and not is_inside:
            norm = {"update_rate": 0.1, **layer.shown}  # where it takes the mean of all batches, it has none
            norms += [norm] if norm not in norms else []
    if len(norms) > 1:
        raise SpecMismatchError(f"{side.role} has the norms {listed(map(str, norms))}", "one for the whole network")
    return {"norm": norms[0]} if norms else {}


def _facts_of(side: Side, dialect: NetworkDialect, blocks: list[str]) -> dict[str, Any]:
    """What the modules of the network's attention blocks show of them, and what their class fixes, as hints."""
    facts: list[dict[str, Any]] = []
    for path in blocks:
        kind = DIALECTS.get(side.network.classes[path])
        own = dict(side.network.facts.get(path, {}))
        norm = own.pop("norm", None)
        if norm and kind and kind.block == "cbam":
            own["spatial_norm"] = norm
        elif norm and norm != dialect.defaults["norm"]:
            raise SpecMismatchError(f"{side.role} {path!r} has the norm {norm}", f"{dialect.defaults['norm']}")
        own |= kind.facts if kind and kind in dialect.blocks else {}
        facts += [own] if own not in facts else []
    if len(facts) > 1:
        raise SpecMismatchError(f"{side.role} has blocks that differ: {listed(map(str, facts))}", "one kind throughout")
    return facts[0] if facts else {}


def _wrong_layers(side: Side, prefix: str, table: Dialect, spec: ResNetSpec) -> Iterator[str]:
    """The layers that are configured otherwise than `spec` says."""
    steps = strides(spec)
    for row in table.tensors:
        canonical, _, leaf = row.canonical.rpartition(".")
        layer = side.network.layers.get(prefix + row.key.rpartition(".")[0])
        if leaf != "kernel" or layer is None or ".attention." in canonical:
            continue
        expected: dict[str, Any] = {}
        if canonical in steps:
            size, step = steps[canonical]
            expected = {"groups": 1, "strides": [step] * 2, "dilation": [1] * 2, "padding": [[size // 2] * 2] * 2}
        kind = "convolution" if canonical in steps else "dense"
        wrong = [
            f"{name} {layer.shown.get(name)}, not {value}"
            for name, value in expected.items()
            if layer.shown.get(name) != value
        ]
        wrong += [
            f"{name} {layer.shown[name]}" for name in layer.shown if name not in expected and name != "activation"
        ]
        wrong += [] if layer.kind == kind else [f"{layer.origin}, no {kind}"]
        if wrong:
            yield f"{prefix}{row.key.rpartition('.')[0]}: {', '.join(wrong)}"


def _wrong_modules(
    side: Side, prefix: str, dialect: NetworkDialect, spec: ResNetSpec, blocks: list[str]
) -> Iterator[str]:
    """The modules without weights that the code of `dialect` has not, or has elsewhere."""
    classes = side.network.classes
    parents = {name[:end] for name in (*classes, *side.network.layers) for end in range(len(name)) if name[end] == "."}
    inside = tuple(f"{block}." for block in blocks)
    for name, kind in classes.items():
        is_leaf = name.startswith(prefix) and name not in parents and name not in blocks and name != prefix[:-1]
        if is_leaf and not name.startswith(inside) and kind not in dialect.modules:
            yield f"{name}: {kind}"
    pool = classes.get(f"{prefix}maxpool")
    if spec.stem == "imagenet" and pool != "torch/MaxPool2d":
        yield f"{prefix}maxpool: {pool}, not torch/MaxPool2d"
