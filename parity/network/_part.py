"""The two models of a port, and their parts: the layers and the attention blocks that are ported as wholes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.backends import Adapter
from parity.block import kernels_first, kernels_last, listed
from parity.errors import InputError, ParityError
from parity.loading import owner, read_value, shape_of
from parity.spec import NETWORKS, LiveBlock

Call = tuple[str, np.ndarray, np.ndarray]

# How a framework's variable lies: into the canonical parameter, and back into a variable of a shape.
LAYOUTS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "": (lambda w: w, lambda w, shape: w),
    # (*spatial, in, out)
    "kernel last": (lambda w: kernels_first("kernel", w), lambda w, shape: kernels_last("kernel", w)),
    # (*spatial, channels, multiples), of a convolution with a group for each channel
    "depthwise": (
        lambda w: kernels_first("kernel", w.reshape(*w.shape[:-2], 1, -1)),
        lambda w, shape: kernels_last("kernel", w).reshape(shape),
    ),
    # (in, heads, size), (heads, size) and (heads, size, out)
    "heads out": (lambda w: w.reshape(w.shape[0], -1).T, lambda w, shape: w.T.reshape(shape)),
    "heads": (lambda w: w.reshape(-1), lambda w, shape: w.reshape(shape)),
    "heads in": (lambda w: w.reshape(-1, w.shape[-1]).T, lambda w, shape: w.T.reshape(shape)),
}


# What a norm without the parameter computes with.
NEUTRAL = {"scale": 1, "offset": 0}
NORMS = ("batch norm", "layer norm", "group norm")
CONVOLUTIONS = ("convolution", "transposed convolution")


@dataclass(frozen=True)
class Slot:
    """A variable, and how its values become canonical ones and back."""

    variable: Any
    to_canonical: Callable[[Any], Any]
    from_canonical: Callable[[Any, Any], Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape."""
        return self.to_canonical(np.broadcast_to(np.zeros((), np.int8), shape_of(self.variable))).shape


@dataclass(frozen=True)
class Part:
    """What is ported as a whole: a standard layer, or an attention block."""

    name: str
    kind: str
    shown: Mapping[str, Any]
    slots: Mapping[str, Slot]
    extras: Mapping[str, Any]
    channels: str = ""
    origin: str = ""
    open: tuple[str, ...] = ()  # fields that were taken from the dialect and that nothing in the model shows

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The canonical shape of each parameter."""
        return {leaf: slot.shape for leaf, slot in self.slots.items()}

    @property
    def signature(self) -> tuple[str, str]:
        """Kind and shapes; of a norm the size alone, whatever parameters it has."""
        shapes = self.shapes
        return self.kind, str(next(iter(shapes.values())) if self.kind in NORMS else sorted(shapes.items()))

    def __str__(self) -> str:
        shapes = listed(f"{leaf} {shape}" for leaf, shape in self.shapes.items())
        return f"{self.name!r} ({self.origin if self.kind == 'unknown' else self.kind}: {shapes})"


class Side:
    """One of the two models: its adapter, and its parts by name in the order of definition."""

    def __init__(self, role: str, model: Any) -> None:
        self.role, self.model = role, model
        # Of TensorFlow, a model may be (session, input, output).
        self.session = model[0] if isinstance(model, tuple) and model else model
        self.adapter: Adapter = owner(self.session)
        self.network = self.adapter.find_layers(model)
        self.blocks: dict[str, LiveBlock] = dict(self.adapter.find_blocks(self.session, {}))
        self.foreign: dict[str, Part] = {}
        self.remarks: list[str] = []
        self.layout = ""  # of its inputs, where it had to be found out

    def read(self, name: str, variable: Any) -> np.ndarray:
        """The value of a variable, as a copy."""
        return read_value(self.adapter, self.session, f"{self.role} {name!r}", variable)

    def record(self, inputs: Sequence[np.ndarray], names: Sequence[str]) -> tuple[list[np.ndarray], list[Call]]:
        """The outputs of the model, and the calls of its parts of `names`."""
        try:
            return self.adapter.record(self.model, inputs, names)
        except ParityError:
            raise
        except Exception as error:  # every framework has its own for an input that does not fit
            shapes = ", ".join(str(value.shape) for value in inputs)
            raise InputError(
                f"the {self.role} cannot run on the example as {shapes} "
                f"({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})",
                "an example that it takes",
            ) from error

    def parts(self) -> dict[str, Part]:
        """The blocks and the layers that belong to none, where the first of their variables is defined."""
        whole = {name: self.block(name, live) for name, live in self.blocks.items()} | self.foreign
        owners = {
            id(variable): part
            for part in whole.values()
            for variable in (*(slot.variable for slot in part.slots.values()), *part.extras.values())
        }
        parts: dict[str, Part] = {}
        for name, layer in self.network.layers.items():
            variables = [*layer.variables.values(), *layer.extras.values()]
            owned = [owners[id(variable)] for variable in variables if id(variable) in owners]
            if len(owned) == len(variables):
                parts |= {part.name: part for part in owned}
                continue
            slots = {key: Slot(value, *LAYOUTS[layer.layouts.get(key, "")]) for key, value in layer.variables.items()}
            parts[name] = Part(name, layer.kind, layer.shown, slots, layer.extras, layer.channels, layer.origin)
        return parts | {name: part for name, part in whole.items() if name not in parts}

    def block(self, name: str, live: LiveBlock) -> Part:
        """A block of this project as a part."""
        slots = {
            key: Slot(value, *LAYOUTS["kernel last" if self.adapter.KERNELS_LAST and key.endswith("kernel") else ""])
            for key, value in live.variables.items()
        }
        shown = {key: value for key, value in live.shown.items() if key != "block"}
        return Part(name, live.shown["block"], shown, slots, live.extras, live.channels or self.channels)

    @property
    def channels(self) -> str:
        """Where the channels of the model's feature maps are; empty where nothing tells."""
        if self.layout:
            return self.layout
        inside = {id(variable) for live in self.blocks.values() for variable in live.variables.values()}
        layers = [
            layer
            for layer in self.network.layers.values()
            if not inside & {id(variable) for variable in layer.variables.values()}
        ]
        convolutions = {layer.channels for layer in layers if layer.kind in CONVOLUTIONS}
        norms = {layer.channels for layer in layers if layer.kind in ("batch norm", "group norm")}
        blocks = {live.channels for live in self.blocks.values()} | {part.channels for part in self.foreign.values()}
        return next((found.pop() for found in (convolutions, blocks - {""}, norms) if len(found) == 1), "")


def apart(side: Side, parts: Mapping[str, Part], others: Mapping[str, Part]) -> dict[str, Part]:
    """The parts, with an attention as its four projections where the other side has no attention as a whole."""
    if any(part.kind == "attention" for part in others.values()):
        return dict(parts)
    found: dict[str, Part] = {}
    for name, part in parts.items():
        found |= _projections(side, part) or {name: part}
    return found


def _projections(side: Side, attention: Part) -> dict[str, Part]:
    """The projections of an attention as dense layers, where each has a scope and a plain kernel of its own."""
    kernels = {leaf.removesuffix(".kernel"): slot for leaf, slot in attention.slots.items() if leaf.endswith(".kernel")}
    names = {id(variable): name for name, variable in side.network.state.items()}
    scopes = {part: names.get(id(slot.variable), "").rpartition("/")[0] for part, slot in kernels.items()}
    is_plain = all(scopes.values()) and all(len(shape_of(slot.variable)) == 2 for slot in kernels.values())
    if attention.kind != "attention" or not is_plain:
        return {}
    pieces = {}
    for part, scope in scopes.items():
        slots = {leaf: slot for leaf in ("kernel", "bias") if (slot := attention.slots.get(f"{part}.{leaf}"))}
        pieces[scope] = Part(scope, "dense", {}, slots, {}, "", attention.origin)
    return pieces


def find_layouts(source: Side, target: Side, inputs: Sequence[np.ndarray]) -> None:
    """Find out where a network that does not show it takes the channels of its input.

    Inside, a network of this project is channels-last in TensorFlow and Keras, whatever its input is.
    """
    for side, other in ((source, target), (target, source)):
        maps = [value for value in inputs if value.dtype.kind == "f" and value.ndim > 2]
        wanted = [live.shown.get("channels") for live in side.blocks.values() if live.shown["block"] in NETWORKS]
        if side.channels or len(wanted) != 1 or not maps:
            continue
        if side is source:
            ends = {"first": maps[0].shape[1], "last": maps[0].shape[-1]}
            fitting = [layout for layout, size in ends.items() if size == wanted[0]]
        else:
            fitting = [layout for layout in ("last", "first") if _runs(side, layout, other, inputs)]
        if len(fitting) == 1:
            side.layout = fitting[0]


def _runs(side: Side, layout: str, source: Side, inputs: Sequence[np.ndarray]) -> bool:
    """Whether a target takes the source's inputs in `layout`."""
    move = moved(source.channels, layout)
    try:
        side.record([move(value) if value.dtype.kind == "f" and value.ndim > 2 else value for value in inputs], [])
    except InputError:
        return False
    return True


def laid_out(inputs: Sequence[np.ndarray], source: Side, target: Side) -> list[np.ndarray]:
    """The inputs as the target takes them: feature maps in its layout."""
    move = moved(source.channels, target.channels)
    return [move(value) if value.dtype.kind == "f" and value.ndim > 2 else value for value in inputs]


def moved(one: str, other: str) -> Callable[[np.ndarray], np.ndarray]:
    """From a layout of the channels to another."""
    axes = {("first", "last"): (1, -1), ("last", "first"): (-1, 1)}.get((one, other))
    return lambda value: value if axes is None or value.ndim < 3 else np.moveaxis(value, *axes)
