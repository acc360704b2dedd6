"""Blocks made of stock layers: found by the names of their layers, and what their configuration shows of the spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from attention_keras._gate import KERAS_NAMES
from attention_keras._norm import BatchNormalization
from attention_keras.functional._block import normalise
from parity.spec import BatchNorm, Gate, InputError, LiveBlock, Spec

Layers = Mapping[str, Any]  # the layers of one block by canonical path

LEAVES = {"kernel": "kernel", "bias": "bias"}
NORM_LEAVES = {"scale": "gamma", "offset": "beta", "mean": "moving_mean", "variance": "moving_variance"}

# The canonical paths that may hold parameters, and the other names that the functional style gives. Of a block without
# a line here, those of its spec.
PATHS = {
    "se": ("fc1", "fc2"),
    "cbam": ("channel.fc1", "channel.fc2", "spatial.conv", "spatial.norm"),
    "eca": ("conv",),
    "ca": ("reduce", "norm", "expand.d", "expand.h", "expand.w"),
}
SIGNS = ("activation", "gate", "channel.activation", "channel.gate", "spatial.gate", "residual")


def live_stock(index: Mapping[str, list[keras.layers.Layer]], name: str, spec: Any) -> LiveBlock | None:
    """The block `name`, of the kind of `spec`, from an `index` of layers by normalised path; None where it is absent.

    A field of the spec that the layers' configuration does not tell is left out of what it shows.
    """
    paths = PATHS.get(spec.block) or tuple(dict.fromkeys(path.rpartition(".")[0] for path in spec.parameters()))
    layers = {path: layer for path in (*paths, *SIGNS) if (layer := _layer(index, name, path))}
    if not layers.keys() & set(paths):
        return None
    variables = {
        f"{path}.{leaf}": getattr(layers[path], attribute)
        for path in paths
        if path in layers
        for leaf, attribute in (NORM_LEAVES if path.endswith("norm") else LEAVES).items()
        if getattr(layers[path], attribute, None) is not None
    }
    shown = SHOWN.get(spec.block, _nothing)(layers)
    # Of several gates that differ, the one to report is one that is not the spec's.
    gates = sorted(filter(None, shown.pop("gates")), key=lambda gate: gate == spec.gate.to_json())
    shown |= {"gate": gates[0]} if gates else {}
    known = {field: value for field, value in shown.items() if value is not None}
    return LiveBlock({"block": spec.block} | known | _norm_shown(layers, spec), variables)


def _layer(index: Mapping[str, list[keras.layers.Layer]], name: str, path: str) -> keras.layers.Layer | None:
    full = normalise(f"{name}.{path}" if name else path)
    found = index.get(full, [])
    if len(found) > 1:
        raise InputError(f"received a model with {len(found)} layers {full!r}", "one", "rename the others")
    return found[0] if found else None


def _se(layers: Layers) -> dict[str, Any]:
    return {
        "channels": _field(layers, "fc2", "units"),
        "hidden_channels": _field(layers, "fc1", "units"),
        "bias": _field(layers, "fc1", "use_bias"),
        "activation": _activation(layers, "activation", "fc1"),
        "gates": [_gate(layers, "gate", "fc2")],
    }


def _cbam(layers: Layers) -> dict[str, Any]:
    halves = {"channel": "channel.fc1" in layers or "channel.fc2" in layers, "spatial": "spatial.conv" in layers}
    channels, kernel = _field(layers, "channel.fc2", "units"), _field(layers, "spatial.conv", "kernel")
    planes, size = kernel.shape[-2] if kernel is not None else None, _field(layers, "spatial.conv", "kernel_size")
    mlp = _field(layers, "channel.fc1", "kernel")
    inputs = mlp.shape[0] if mlp is not None else None
    # Two channels and two pooled planes look alike.
    is_told = planes is not None and (planes != 2 or channels not in (None, 2))
    return {
        "channels": channels or (planes if is_told else None),
        "spatial_dims": len(size) if size else None,
        "parts": "both" if all(halves.values()) else next(half for half, there in halves.items() if there),
        "hidden_channels": _field(layers, "channel.fc1", "units"),
        "mlp_bias": _field(layers, "channel.fc1", "use_bias"),
        "activation": _activation(layers, "channel.activation", "channel.fc1"),
        "channel_merge": ("concat" if inputs == 2 * channels else "add") if channels and inputs else None,
        "kernel_size": size[-1] if size else None,
        "spatial_bias": _field(layers, "spatial.conv", "use_bias"),
        "spatial_features": ("pooled" if planes == 2 else "full") if is_told else None,
        "residual": "residual" in layers or None,  # a sum of another name may be there
        "gates": [_gate(layers, "channel.gate"), _gate(layers, "spatial.gate", "spatial.conv")],
    }


def _eca(layers: Layers) -> dict[str, Any]:
    return {
        "kernel_size": _field(layers, "conv", "kernel_size")[0],
        "bias": _field(layers, "conv", "use_bias"),
        "padding": {"same": "zeros", "valid": "circular"}.get(_field(layers, "conv", "padding")),
        "gates": [_gate(layers, "gate", "conv")],
    }


def _ca(layers: Layers) -> dict[str, Any]:
    heads = [path for path in layers if path.startswith("expand.")]
    return {
        "channels": _field(layers, "expand.w", "units"),
        "spatial_dims": len(heads) or None,
        "hidden_channels": _field(layers, "reduce", "units"),
        "bias": _field(layers, "reduce", "use_bias"),
        "head_bias": _field(layers, "expand.w", "use_bias"),
        "activation": _activation(layers, "activation"),
        "residual": "residual" in layers or None,  # a sum of another name may be there
        "gates": [_gate(layers, "gate"), *(_gate(layers, "gate", path) for path in heads)],
    }


def _nothing(layers: Layers) -> dict[str, Any]:
    return {"gates": []}


SHOWN: dict[str, Callable[[Layers], dict[str, Any]]] = {"se": _se, "cbam": _cbam, "eca": _eca, "ca": _ca}


def _field(layers: Layers, path: str, name: str) -> Any:
    return getattr(layers.get(path), name, None)


def _norm_shown(layers: Layers, spec: Spec) -> dict[str, Any]:
    """The norm's field of the spec, where the block has one: its JSON form, or None where there is no such layer."""
    owners = {"cbam": ("spatial.conv", "spatial.norm", "spatial_norm"), "ca": ("reduce", "norm", "norm")}
    before, path, field = owners.get(spec.block, ("", "", ""))
    if before not in layers:
        return {}
    norm = layers.get(path)
    if isinstance(norm, keras.layers.BatchNormalization) and not isinstance(norm, BatchNormalization):
        # Keras keeps the complement, and 1 - 0.99 is not 0.01 in floating point.
        norm = BatchNorm(epsilon=norm.epsilon, update_rate=round(1 - norm.momentum, 12), unbiased_variance=False)
        return {field: norm.to_json()}
    return {field: norm.norm.to_json() if norm else None}


def _activation(layers: Layers, *paths: str) -> Any:
    """The activation that the first layer which has one applies, as the contract calls it; else None."""
    if isinstance(layers.get(paths[0]), keras.layers.Rescaling):
        return "hard_swish" if _gate(layers, *paths) == Gate("hard_sigmoid").to_json() else None
    name = _function(layers, *paths)
    return {keras_name: name for name, keras_name in KERAS_NAMES.items()}.get(name, name)


def _gate(layers: Layers, *paths: str) -> Any:
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
    activation, folded = _field(layers, path, "activation"), _field(layers, fallback, "activation")
    if activation is not None:
        return keras.activations.serialize(activation)
    # A linear Dense or convolution says nothing: what follows it may be an operation without a name.
    name = keras.activations.serialize(folded) if folded is not None else None
    return None if name == "linear" else name
