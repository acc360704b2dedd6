"""What the configuration of stock layers shows of a block's spec."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import keras

from attention_keras._gate import KERAS_NAMES
from attention_keras._norm import BatchNormalization
from parity.spec import BatchNorm, Gate, NetworkSpec, Spec


class Layers:
    """The layers of one block by canonical path, found when they are asked for.

    Args:
        find: gives the layer at a path, or None.
    """

    def __init__(self, find: Callable[[str], keras.layers.Layer | None]) -> None:
        self.find = find
        self.found: dict[str, keras.layers.Layer] = {}

    def get(self, path: str) -> keras.layers.Layer | None:
        """The layer at `path`, or None."""
        if path not in self.found and (layer := self.find(path)):
            self.found[path] = layer
        return self.found.get(path)

    def __contains__(self, path: str) -> bool:
        return self.get(path) is not None

    def among(self, paths: Iterable[str]) -> list[str]:
        """Those of `paths` at which there is a layer."""
        return [path for path in paths if path in self]

    def under(self, path: str) -> Layers:
        """The layers below `path`, by their path from there."""
        return Layers(lambda below: self.get(f"{path}.{below}"))

    def numbered(self, prefix: str, suffix: str = "") -> list[str]:
        """The paths `prefix`1`suffix`, `prefix`2`suffix`, and so on, up to the first at which there is no layer."""
        paths: list[str] = []
        while (path := f"{prefix}{len(paths) + 1}{suffix}") in self:
            paths.append(path)
        return paths


def shown(layers: Layers, spec: Any) -> dict[str, Any]:
    """What the configuration of `layers` shows of a block or network of the kind of `spec`, by field."""
    package = importlib.import_module("attention_keras.functional")
    module: Any = importlib.import_module(getattr(package, spec.options_class.function_name).__module__)
    found = module.shown(layers, spec) if isinstance(spec, NetworkSpec) else module.shown(layers)
    if "gates" in found:
        gate = one_of(found.pop("gates"), spec.gate.to_json())
        found |= {"gate": gate} if gate else {}
    # A norm that is None is one that is not there; of any other field, None says nothing.
    return {name: value for name, value in found.items() if value is not None or name.endswith("norm")}


def one_of(values: Iterable[Any], expected: Any) -> Any:
    """Of several values that differ, the one to report, which is one that is not as expected; None where none is."""
    return min((value for value in values if value is not None), key=lambda value: value == expected, default=None)


def attention_of(layers: Layers, path: str, spec: Spec | None) -> Any:
    """The JSON form of the block at `path`, where its layers show that it is not that of `spec`; None where not so.

    What they do not show, nobody has seen: a block that seems to be right is not known to be.
    """
    if spec is None:
        return "a block" if path in layers else None
    expected, found = spec.to_json(), shown(layers.under(path), spec)
    differs = any(value != expected[name] for name, value in found.items())
    return expected | found if differs else None


def field(layers: Layers, path: str, name: str) -> Any:
    """What the layer at `path` says of `name`; None where either is missing."""
    return getattr(layers.get(path), name, None)


def bias_of(layers: Layers, path: str) -> bool | None:
    """Whether the linear layer at `path` has a bias; None where there is no such layer."""
    layer: Any = layers.get(path)
    if isinstance(layer, keras.layers.EinsumDense):
        return layer.bias_axes is not None
    return getattr(layer, "use_bias", None)


def stride_of(layers: Layers, path: str) -> int | None:
    """The stride of the convolution at `path`; None where there is none."""
    strides = field(layers, path, "strides")
    return strides[0] if strides else None


def norm_of(layers: Layers, path: str) -> Any:
    """The JSON form of the batch norm at `path`; None where there is no such layer."""
    layer: Any = layers.get(path)
    if isinstance(layer, keras.layers.BatchNormalization) and not isinstance(layer, BatchNormalization):
        # Keras keeps the complement, and 1 - 0.99 is not 0.01 in floating point.
        rate = round(1 - layer.momentum, 12)
        return BatchNorm(epsilon=layer.epsilon, update_rate=rate, unbiased_variance=False).to_json()
    return layer.norm.to_json() if layer else None


def activation_of(layers: Layers, *paths: str) -> Any:
    """The activation that the first layer which has one applies, as the contract calls it; else None."""
    if isinstance(layers.get(paths[0]), keras.layers.Rescaling):
        return "hard_swish" if gate_of(layers, *paths) == Gate("hard_sigmoid").to_json() else None
    name = _function(layers, *paths)
    return {keras_name: name for name, keras_name in KERAS_NAMES.items()}.get(name, name)


def gate_of(layers: Layers, *paths: str) -> Any:
    """The JSON form of the gate that the first layer which has one applies, else None."""
    line = layers.get(paths[0])
    if isinstance(line, keras.layers.Rescaling):
        return Gate("hard_sigmoid", slope=float(line.scale), offset=float(line.offset)).to_json()
    name = _function(layers, *paths)
    known = {"sigmoid": Gate(), "hard_sigmoid": Gate("hard_sigmoid"), "linear": Gate("identity")}
    return known[name].to_json() if name in known else name


def _function(layers: Layers, path: str, fallback: str = "") -> Any:
    """Keras' name of the function that the layer at `path` applies, or else the one at `fallback`, unless linear."""
    if isinstance(layers.get(path), keras.layers.ReLU):
        return "relu"
    applied, folded = field(layers, path, "activation"), field(layers, fallback, "activation")
    if applied is not None:
        return keras.activations.serialize(applied)
    # A linear Dense or convolution says nothing: what follows it may be an operation without a name.
    name = keras.activations.serialize(folded) if folded is not None else None
    return None if name == "linear" else name
