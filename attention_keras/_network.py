"""Standard layers of any Keras model, on every engine: found by class, and recorded while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import keras
from keras import layers, ops

from attention_keras._norm import BatchNormalization
from attention_keras.layers._block import Block
from parity.spec import InputError, LiveLayer, LiveNetwork


def walk(model: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Every layer once, with its path in `model`; what is inside a block is the block's own business."""
    seen, rest = set(), [("", model)]
    while rest:
        path, layer = rest.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield path, layer
        if not isinstance(layer, Block):
            children = layer.layers if isinstance(layer, keras.Model) else layer._flatten_layers(False, recursive=False)
            rest += [(f"{path}/{child.name}" if path else child.name, child) for child in reversed(children)]


def find_layers(model: keras.layers.Layer) -> LiveNetwork:
    """The layers of `model` by their path, a layer that is used twice under its first path."""
    found: dict[str, LiveLayer] = {}
    inside: tuple[str, ...] = ()
    for name, layer in walk(model):
        if name.startswith(inside):
            continue
        live = _live(name, layer)
        if live.kind == "attention":  # its projections are parts of it
            inside += (f"{name}/" if name else "",)
        if live.variables and name in found:
            raise InputError(f"received a model with two layers named {name!r}", "distinct names", "rename one of them")
        if live.variables:
            found[name] = live
    return LiveNetwork(found, {variable.path: variable for variable in model.variables})


def _live(name: str, layer: keras.layers.Layer) -> LiveLayer:
    make = next((make for base, make in LAYERS.items() if _is(layer, base)), None)
    origin = f"{type(layer).__module__}.{type(layer).__qualname__}"
    if make is not None and not layer.built:
        raise InputError(f"received a model whose layer {name!r} is not built", "variables", "call model.build first")
    found = make(layer) if make is not None else None
    if found is None or not all(isinstance(value, keras.Variable | None) for value in found[2].values()):
        # A layer with adapters or quantized weights computes its kernel anew at each look.
        own = [*layer._trainable_variables, *layer._non_trainable_variables]
        return LiveLayer("unknown", {}, {variable.name: variable for variable in own}, origin=origin)
    kind, shown, variables, layouts = found
    present = {key: value for key, value in variables.items() if value is not None}
    own_layouts = {key: layout for key, layout in layouts.items() if key in present}
    return LiveLayer(kind, shown, present, own_layouts, channels=_channels(layer), origin=origin)


def _is(layer: keras.layers.Layer, base: type) -> bool:
    """Whether `layer` computes what `base` does: a subclass may write `call` anew."""
    return isinstance(layer, base) and (type(layer).call is base.call or isinstance(layer, BatchNormalization))  # type: ignore[attr-defined]


def _channels(layer: Any) -> str:
    """Where the channels of its output are, if that is a feature map."""
    data_format = getattr(layer, "data_format", None)
    if data_format is not None:
        return data_format.removeprefix("channels_")
    axis = getattr(layer, "axis", None)
    axis = axis[0] if isinstance(axis, list | tuple) else axis
    return {None: "", 1: "first"}.get(axis, "last")


Found = tuple[str, dict[str, Any], dict[str, Any], dict[str, str]]


def _convolution(layer: Any) -> Found:
    shown = _window(layer) | {"groups": layer.groups}
    padding = _padding(layer)
    if padding is not None:
        shown["padding"] = padding
    return "convolution", shown, _kernel_and_bias(layer), {"kernel": "kernel last"}


def _depthwise(layer: Any) -> Found | None:
    if len(layer.kernel.shape) != len(layer.kernel_size) + 2:
        return None
    _, shown, variables, _ = _convolution(_Depthwise(layer))
    return "convolution", shown, variables, {"kernel": "depthwise"}


class _Depthwise:
    """A depthwise convolution as one with a group for each channel."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.groups = layer, layer.kernel.shape[-2]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)


def _transposed(layer: Any) -> Found:
    shown = _window(layer) | {"groups": getattr(layer, "groups", 1)}
    cut = _cut(layer, shown)
    shown |= {} if cut is None else {"padding": cut}
    return "transposed convolution", shown, _kernel_and_bias(layer), {"kernel": "kernel last"}


def _window(layer: Any) -> dict[str, Any]:
    rank = len(layer.kernel_size)
    strides, dilation = ([size] * rank if isinstance(size, int) else list(size) for size in _steps(layer))
    return {"strides": strides, "dilation": dilation} | _activation(layer)


def _steps(layer: Any) -> tuple[Any, Any]:
    return layer.strides, layer.dilation_rate


def _padding(layer: Any) -> list[list[int]] | None:
    """(before, after) of each spatial axis; None where it hangs on the size of the map."""
    window = _window(layer)
    sizes = [step * (size - 1) for step, size in zip(window["dilation"], layer.kernel_size, strict=True)]
    if layer.padding == "valid":
        return [[0, 0] for _ in sizes]
    if layer.padding == "causal":
        return [[size, 0] for size in sizes]
    return [[size // 2, size - size // 2] for size in sizes] if set(window["strides"]) == {1} else None


def _cut(layer: Any, window: Mapping[str, Any]) -> list[list[int]] | None:
    """(before, after) of each spatial axis that is cut off of the whole transposed convolution; None where engines do.

    A size of map times stride is what Keras wants of "same".
    """
    if layer.padding != "valid" and layer.output_padding is not None:
        return None
    spans = [step * (size - 1) + 1 for step, size in zip(window["dilation"], layer.kernel_size, strict=True)]
    more = [span - stride for span, stride in zip(spans, window["strides"], strict=True)]
    if layer.padding == "valid":
        given = layer.output_padding
        added = [max(-size, 0) for size in more] if given is None else [given] * len(more)
        added = list(given) if isinstance(given, list | tuple) else added
        return [[0, -size] for size in added]
    return [[size // 2, size - size // 2] for size in more] if min(more) >= 0 else None


def _activation(layer: Any) -> dict[str, Any]:
    name = keras.activations.serialize(layer.activation)
    return {} if name == "linear" else {"activation": name if isinstance(name, str) else "custom"}


def _kernel_and_bias(layer: Any) -> dict[str, Any]:
    return {"kernel": layer.kernel, "bias": layer.bias if layer.use_bias else None}


def _dense(layer: Any) -> Found:
    return "dense", _activation(layer), _kernel_and_bias(layer), {"kernel": "kernel last"}


def _batch_norm(layer: Any) -> Found:
    if isinstance(layer, BatchNormalization):
        norm = layer.norm
        shown = {"epsilon": norm.epsilon, "update_rate": norm.update_rate, "unbiased_variance": norm.unbiased_variance}
    else:  # Keras keeps the complement, and 1 - 0.99 is not 0.01 in floating point
        shown = {
            "epsilon": layer.epsilon,
            "update_rate": round(1 - layer.momentum, 12),
            "unbiased_variance": False,
        }
    statistics = {"mean": layer.moving_mean, "variance": layer.moving_variance}
    return "batch norm", shown, _affine(layer) | statistics, {}


def _layer_norm(layer: Any) -> Found | None:
    axis = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if len(axis) > 1 or getattr(layer, "rms_scaling", False):
        return None  # weights over several axes lie as the map does, whose layout differs between frameworks
    return "layer norm", {"epsilon": layer.epsilon}, _affine(layer), {}


def _group_norm(layer: Any) -> Found:
    return "group norm", {"epsilon": layer.epsilon, "groups": layer.groups}, _affine(layer), {}


def _affine(layer: Any) -> dict[str, Any]:
    return {"scale": layer.gamma if layer.scale else None, "offset": layer.beta if layer.center else None}


def _embedding(layer: Any) -> Found:
    return "embedding", {"max_norm": None}, {"embeddings": layer.embeddings}, {}


def _attention(layer: Any) -> Found | None:
    if getattr(layer, "_use_gate", False) or getattr(layer, "_sliding_window", None) is not None:
        return None  # more than the attention that other frameworks have
    parts = {"query": layer.query_dense, "key": layer.key_dense, "value": layer.value_dense}
    if any(len(part.kernel.shape) != 3 for part in (*parts.values(), layer.output_dense)):
        return None
    variables: dict[str, Any] = {}
    layouts: dict[str, str] = {}
    for name, part in parts.items():
        variables |= {f"{name}.kernel": part.kernel, f"{name}.bias": part.bias}
        layouts |= {f"{name}.kernel": "heads out", f"{name}.bias": "heads"}
    variables |= {"output.kernel": layer.output_dense.kernel, "output.bias": layer.output_dense.bias}
    shown = {"heads": layer.num_heads, "head_size": layer.key_dim, "add_zero_attn": False}
    return "attention", shown, variables, layouts | {"output.kernel": "heads in"}


LAYERS: dict[type, Callable[[Any], Found | None]] = {
    layers.DepthwiseConv1D: _depthwise,
    layers.DepthwiseConv2D: _depthwise,
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.Conv3D: _convolution,
    layers.Conv1DTranspose: _transposed,
    layers.Conv2DTranspose: _transposed,
    layers.Conv3DTranspose: _transposed,
    layers.Dense: _dense,
    layers.BatchNormalization: _batch_norm,
    layers.LayerNormalization: _layer_norm,
    layers.GroupNormalization: _group_norm,
    layers.Embedding: _embedding,
    layers.MultiHeadAttention: _attention,
}


def record(
    model: keras.layers.Layer, inputs: Sequence[Any], names: Collection[str]
) -> tuple[list[Any], list[tuple[str, Any, Any]]]:
    """Run `model` in inference mode on NumPy `inputs`, as they are.

    Returns:
        Its outputs, and (name, input, output) of every call of the layers of `names` in the order of execution; all
        NumPy.
    """
    known = {id(layer): name for name, layer in walk(model) if name in names}
    calls: list[tuple[str, Any, Any]] = []
    plain = keras.layers.Layer.__call__

    def call(self: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        output = plain(self, *args, **kwargs)
        if id(self) in known:
            calls.append((known[id(self)], _array(next(_flat([*args, *kwargs.values()]))), _array(next(_flat(output)))))
        return output

    tensors = [ops.convert_to_tensor(value) for value in inputs]
    with patch.object(keras.layers.Layer, "__call__", call):
        output = model(tensors[0] if len(tensors) == 1 else tensors, training=False)
    return [_array(value) for value in _flat(output)], calls


def _flat(value: Any) -> Iterator[Any]:
    """The tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _flat(item)
    elif hasattr(value, "shape"):
        yield value


def _array(value: Any) -> Any:
    if keras.backend.standardize_dtype(value.dtype) == "bfloat16":
        value = ops.cast(value, "float32")
    return ops.convert_to_numpy(value).copy()
