"""Blocks made of stock layers: found by the names of their layers, and what their configuration shows of the spec."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import keras

from attention_keras._shown import Layers
from attention_keras.functional._block import normalise
from parity.spec import InputError, LiveBlock

LEAVES = {"kernel": "kernel", "bias": "bias"}
NORM_LEAVES = {"scale": "gamma", "offset": "beta", "mean": "moving_mean", "variance": "moving_variance"}


def live_stock(index: Mapping[str, list[keras.layers.Layer]], name: str, spec: Any) -> LiveBlock | None:
    """The block `name`, of the kind of `spec`, from an `index` of layers by normalised path; None where it is absent.

    A field of the spec that the layers' configuration does not tell is left out of what it shows.
    """
    layers = Layers(lambda path: _layer(index, name, path))
    shown = importlib.import_module(f"attention_keras.functional.{spec.block}").shown(layers)
    layers.among(path.rpartition(".")[0] for path in spec.parameters())
    variables = {
        f"{path}.{leaf}": getattr(layer, attribute)
        for path, layer in layers.found.items()
        for leaf, attribute in (NORM_LEAVES if path.endswith("norm") else LEAVES).items()
        if getattr(layer, attribute, None) is not None
    }
    if not variables:
        return None
    # Of several gates that differ, the one to report is one that is not the spec's.
    gates = sorted(filter(None, shown.pop("gates", [])), key=lambda gate: gate == spec.gate.to_json())
    shown |= {"gate": gates[0]} if gates else {}
    # A norm that is None is one that is not there; of any other field, None says nothing.
    known = {field: value for field, value in shown.items() if value is not None or field.endswith("norm")}
    return LiveBlock({"block": spec.block} | known, variables)


def _layer(index: Mapping[str, list[keras.layers.Layer]], name: str, path: str) -> keras.layers.Layer | None:
    full = normalise(f"{name}.{path}" if name else path)
    found = index.get(full, [])
    if len(found) > 1:
        raise InputError(f"received a model with {len(found)} layers {full!r}", "one", "rename the others")
    return found[0] if found else None
