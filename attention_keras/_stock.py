"""Blocks made of stock layers: found by the names of their layers, and what their configuration shows of the spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from attention_keras._shown import Layers, shown
from attention_keras.functional._block import normalise
from parity.spec import InputError, LiveBlock

LEAVES = {"kernel": "kernel", "bias": "bias"}
NORM_LEAVES = {"scale": "gamma", "offset": "beta", "mean": "moving_mean", "variance": "moving_variance"}


def live_stock(index: Mapping[str, list[keras.layers.Layer]], name: str, spec: Any) -> LiveBlock | None:
    """The block `name`, of the kind of `spec`, from an `index` of layers by normalised path; None where it is absent.

    A field of the spec that the layers' configuration does not tell is left out of what it shows.
    """
    layers = Layers(lambda path: _layer(index, name, path))
    facts = shown(layers, spec)
    layers.among(path.rpartition(".")[0] for path in spec.parameters())
    variables = {
        f"{path}.{leaf}": getattr(layer, attribute)
        for path, layer in layers.found.items()
        for leaf, attribute in leaves_of(path).items()
        if getattr(layer, attribute, None) is not None
    }
    return LiveBlock({"block": spec.block} | facts, variables) if variables else None


def leaves_of(path: str) -> Mapping[str, str]:
    """What Keras calls the variables of the layer at `path`, by leaf."""
    return NORM_LEAVES if path.rstrip("0123456789").endswith("norm") else LEAVES


def _layer(index: Mapping[str, list[keras.layers.Layer]], name: str, path: str) -> keras.layers.Layer | None:
    full = normalise(f"{name}.{path}" if name else path)
    found = index.get(full, [])
    if len(found) > 1:
        raise InputError(f"received a model with {len(found)} layers {full!r}", "one", "rename the others")
    return found[0] if found else None
