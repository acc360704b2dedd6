"""How Keras 3 names the groups and numbers the variables of its weights, told back to layers and roles.

A model's layers are stored under their class and a number (``layers/dense_1``), other parts under their attribute
(``fc1``). Their names come from the file where it has them (Keras 3.15 and later), else from the model's configuration.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from parity.errors import FormatError
from parity.files._child import Stored
from parity.spec import SPECS

NORM = ("gamma", "beta", "moving_mean", "moving_variance")
PLAIN = ("kernel", "bias")
SEPARABLE = ("depthwise_kernel", "pointwise_kernel", "bias")

# The variables of a class, in the order of their making; those that options take away are at hand in `SWITCHES`.
VARIABLES = {
    "batch_normalization": NORM,
    "layer_normalization": ("gamma", "beta"),
    "group_normalization": ("gamma", "beta"),
    "embedding": ("embeddings",),
    "separable_conv1d": SEPARABLE,
    "separable_conv2d": SEPARABLE,
    "p_re_lu": ("alpha",),
    "normalization": ("mean", "variance", "count"),
}
SWITCHES = {"gamma": "scale", "beta": "center", "bias": "use_bias"}

# What a configuration tells of a block of attention_keras: its spec without the sizes, which the weights tell.
BLOCKS = {spec.options_class.class_name: spec for spec in SPECS.values()}
SIZES = ("channels", "hidden_channels", "kernel_size", "spatial_dims")

MAX_DEPTH = 32
MAX_HINT = 1 << 10  # letters of one option of a block, as JSON


@dataclass(frozen=True)
class Layer:
    """A layer of a model's configuration: where its weights are stored, and what it is."""

    path: str
    name: str
    entry: Mapping[str, Any]

    @property
    def class_name(self) -> str:
        """The name of its class, without that of its package."""
        return str(self.entry.get("class_name", "")).rpartition(">")[2]

    @property
    def config(self) -> Mapping[str, Any]:
        """Its own configuration."""
        found = self.entry.get("config")
        return found if isinstance(found, Mapping) else {}


def named(datasets: Mapping[str, Stored], names: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Stored]:
    """The weights of a Keras 3 file by layer and role; `names` are those that the file tells."""
    layers = {layer.path: layer for layer in _layers(config)}
    names = {path: layer.name.rpartition("/")[2] for path, layer in layers.items()} | dict(names)
    owners: dict[str, dict[int, str]] = {}
    for path in datasets:
        owner, _, number = f"/{path}".rpartition("/vars/")
        if number.isdecimal():
            owners.setdefault(owner[1:], {})[int(number)] = path
    preferred, fallbacks = {}, {}
    for owner, paths in owners.items():
        ordered = [paths[number] for number in sorted(paths)]
        roles = _roles(owner, [datasets[path].shape for path in ordered], layers.get(owner))
        for path, role in zip(ordered, roles, strict=True):
            preferred[path] = "/".join([*_named_path(owner, names), role])
            fallbacks[path] = path
    return {name: datasets[path] for path, name in distinct(preferred, fallbacks).items()}


def distinct(preferred: Mapping[str, str], fallbacks: Mapping[str, str]) -> dict[str, str]:
    """`preferred` names by path; where two are the same, their fallbacks."""
    counts = Counter(preferred.values())
    return {path: name if counts[name] == 1 else fallbacks[path] for path, name in preferred.items()}


def _named_path(owner: str, names: Mapping[str, str]) -> list[str]:
    """The names of the layers on the way to `owner`; a list of layers has none, and is left out before one that has."""
    parts, path = [], ""
    segments = owner.split("/") if owner else []
    for number, segment in enumerate(segments):
        path = f"{path}/{segment}" if path else segment
        following = f"{path}/{segments[number + 1]}" if number + 1 < len(segments) else ""
        if path in names:
            parts.append(names[path])
        elif following not in names and segment not in ("layers", "_layer_checkpoint_dependencies"):
            parts.append(segment)
    return parts


def _roles(owner: str, shapes: Sequence[tuple[int, ...]], layer: Layer | None) -> Sequence[str]:
    """The names of the variables of a layer: from its class, else from their number and shapes, else their numbers."""
    kind = re.sub(r"_\d+$", "", owner.rpartition("/")[2])
    known = VARIABLES.get(snake_case(layer.class_name) if layer else kind)
    if known and layer:
        known = tuple(name for name in known if layer.config.get(SWITCHES.get(name, ""), True))
    if known and len(known) == len(shapes):
        return known
    if len(shapes) == 4 and len(set(shapes)) == 1 and len(shapes[0]) == 1:
        return NORM
    if shapes and len(shapes[0]) > 1 and (len(shapes) == 1 or (len(shapes) == 2 and _fits(*shapes))):
        return PLAIN[: len(shapes)]
    return [f"vars/{number}" for number in range(len(shapes))]


def _fits(kernel: tuple[int, ...], bias: tuple[int, ...]) -> bool:
    """Whether `bias` is one of a dense, convolution, depthwise, transposed or einsum kernel."""
    if len(bias) != 1:
        return kernel[-len(bias) :] == bias if bias else False
    return bias[0] in (kernel[-1], kernel[-2], kernel[-2] * kernel[-1])


# Configurations


def hints(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the configuration of a model tells of its attention_keras blocks: spec fields by the block's name."""
    return {layer.name: _told(layer) for layer in _layers(config) if _is_block(layer)}


def _is_block(layer: Layer) -> bool:
    registered = layer.entry.get("registered_name") or layer.entry.get("class_name")
    return registered == f"attention_keras>{layer.class_name}" and layer.class_name in BLOCKS


def _told(layer: Layer) -> dict[str, Any]:
    known = {field.name for field in fields(BLOCKS[layer.class_name])}  # type: ignore[arg-type]
    told = {name: value for name, value in layer.config.items() if name in known and name not in SIZES}
    for name, value in told.items():
        if len(json.dumps(value)) > MAX_HINT:
            raise FormatError(f"the configuration of {layer.name!r} has an endless {name!r}", "the options of a block")
    build = layer.entry.get("build_config")
    shape = build.get("input_shape") if isinstance(build, Mapping) else None
    return told | ({"spatial_dims": len(shape) - 2} if "spatial_dims" in known and isinstance(shape, list) else {})


def _layers(config: Mapping[str, Any], path: str = "", name: str = "", depth: int = 0) -> Iterator[Layer]:
    """The layers of a model's configuration, and of the models in it."""
    inner = config.get("config")
    # Keras 2 kept the layers of a Sequential as a bare list.
    entries = inner.get("layers") if isinstance(inner, Mapping) else inner
    if not isinstance(entries, list) or depth > MAX_DEPTH:
        return
    counts: Counter[str] = Counter()
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("config"), Mapping | list):
            continue
        kind = snake_case(Layer("", "", entry).class_name)
        stored = f"layers/{kind}_{counts[kind]}" if counts[kind] else f"layers/{kind}"
        counts[kind] += 1
        settings = entry["config"] if isinstance(entry["config"], Mapping) else {}
        own = str(settings.get("name", stored.rpartition("/")[2]))
        layer = Layer(f"{path}/{stored}" if path else stored, f"{name}/{own}" if name else own, entry)
        yield layer
        yield from _layers(entry, layer.path, layer.name, depth + 1)
        wrapped = layer.config.get("layer")  # as TimeDistributed has one
        if isinstance(wrapped, Mapping) and isinstance(wrapped.get("config"), Mapping):
            inner = Layer(f"{layer.path}/layer", f"{layer.name}/{wrapped['config'].get('name', 'layer')}", wrapped)
            yield inner
            yield from _layers(wrapped, inner.path, inner.name, depth + 1)


def snake_case(class_name: str) -> str:
    """``BatchNormalization`` as Keras names its groups: ``batch_normalization``; ``Conv2D`` is ``conv2d``."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
