"""Standard layers of any PyTorch model: found by class, and recorded while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from parity.spec import InputError, LiveLayer, LiveNetwork

# Subclasses that write `forward` anew and compute the same function of the same weights, but for an activation behind
# it or the padding.
KNOWN = (
    "timm.layers.conv2d_same.Conv2dSame",
    "timm.layers.linear.Linear",
    "timm.layers.norm.GroupNorm",
    "timm.layers.norm.GroupNorm1",
    "timm.layers.norm.LayerNorm",
    "timm.layers.norm.LayerNorm2d",
    "timm.layers.norm_act.BatchNormAct2d",
    "torchvision.models.convnext.LayerNorm2d",
)
# Of these, those that normalise the channels of a channels-first map.
CHANNELS_FIRST_NORMS = ("timm.layers.norm.LayerNorm2d", "torchvision.models.convnext.LayerNorm2d")

# Where implementations of attention blocks keep what their weights do not tell.
MEMBERS = {
    "gate": ("gate", "scale_activation", "channel.gate", "spatial.gate"),
    "activation": ("act", "act1", "activation", "channel.act"),
}
ACTIVATIONS = ("torch.nn.modules.activation.", "timm.layers.activations.")
FLAGS = {"residual": "has_skip", "add_maxpool": "add_maxpool"}
FUNCTIONS = {
    "Sigmoid": "sigmoid",
    "Hardsigmoid": "hard_sigmoid",
    "HardSigmoid": "hard_sigmoid",
    "Identity": "identity",
    "ReLU": "relu",
    "SiLU": "silu",
    "Swish": "silu",
    "Hardswish": "hard_swish",
    "HardSwish": "hard_swish",
}


def find_layers(model: nn.Module) -> LiveNetwork:
    """The layers of `model` by the path of their module, a module that is used twice under its first path."""
    layers, classes, facts = {}, {}, {}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside):
            continue
        layer = _live(name, module)
        if layer.kind == "attention":  # one whole: the module of its output is a part of it
            inside += (f"{name}." if name else "",)
        if layer.variables:
            layers[name] = layer
        if layer.kind == "unknown":
            classes[name] = f"{type(module).__module__.partition('.')[0]}/{type(module).__name__}"
            facts[name] = dict(_facts(module))
    members = {name: module for name, module in model.named_modules() if _origin(module).startswith(ACTIVATIONS)}
    functions = {name: _function(module) for name, module in members.items()}
    return LiveNetwork(layers, model.state_dict(keep_vars=True), classes, facts, functions)


def _live(name: str, module: nn.Module) -> LiveLayer:
    found = next((make(module) for base, make in LAYERS.items() if _is(module, base)), None)
    origin = _origin(module)
    if found is None:
        own = module._parameters | {
            key: value for key, value in module._buffers.items() if key not in module._non_persistent_buffers_set
        }
        return LiveLayer("unknown", {}, {key: value for key, value in own.items() if value is not None}, origin=origin)
    kind, shown, variables, channels = found
    present = {
        key: _checked(f"{name}.{key}".lstrip("."), value) for key, value in variables.items() if value is not None
    }
    counter = module._buffers.get("num_batches_tracked")
    extras = {} if counter is None else {"num_batches_tracked": counter}
    return LiveLayer(kind, shown, present, extras=extras, channels=channels, origin=origin)


def _is(module: nn.Module, base: type) -> bool:
    """Whether `module` computes what `base` does: a subclass may write `forward` anew."""
    if not isinstance(module, base) or _origin(module) in KNOWN:
        return isinstance(module, base)
    steps = ("forward", "_conv_forward")
    writers = [
        next(cls for cls in type(module).__mro__ if step in vars(cls)) for step in steps if hasattr(module, step)
    ]
    return all(cls.__module__.startswith(("torch.nn.", "attention_torch.")) for cls in writers)


def _origin(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _checked(name: str, value: Any) -> Any:
    faults = {
        "computed, not stored": (value is COMPUTED, "remove its parametrization first"),
        "not initialized": (nn.parameter.is_lazy(value), "call the model once"),
        "on the meta device": (getattr(value, "is_meta", False), "call module.to_empty(device=...) first"),
    }
    for what, (is_so, remedy) in faults.items():
        if is_so:
            raise InputError(f"received a module whose {name} is {what}", "parameters that hold values", remedy)
    return value


COMPUTED: Any = object()


def _own(module: nn.Module, name: str) -> Any:
    """The variable itself; `COMPUTED` for a weight that a parametrization computes anew at each look."""
    own: Any = module._parameters | module._buffers
    return own.get(name, COMPUTED)


Found = tuple[str, dict[str, Any], dict[str, Any], str]


def _convolution(module: Any) -> Found:
    shown: dict[str, Any] = {
        "groups": module.groups,
        "strides": list(module.stride),
        "dilation": list(module.dilation),
    }
    variables = {"kernel": _own(module, "weight"), "bias": _own(module, "bias")}
    if module.transposed:  # what is cut off of the whole convolution; less than nothing where more is added
        pads = zip(module.padding, module.output_padding, strict=True)
        shown["padding"] = [[size, size - more] for size, more in pads]
        return "transposed convolution", shown, variables, "first"
    if _origin(module) not in KNOWN:  # those pad by the size of the map
        shown["padding"] = _padding(module)
    if module.padding_mode != "zeros":
        shown["padding_mode"] = module.padding_mode
    return "convolution", shown, variables, "first"


def _padding(module: Any) -> list[list[int]]:
    """(before, after) of each spatial axis."""
    if module.padding == "valid":
        return [[0, 0] for _ in module.kernel_size]
    if module.padding == "same":
        sizes = [dilation * (size - 1) for dilation, size in zip(module.dilation, module.kernel_size, strict=True)]
        return [[size // 2, size - size // 2] for size in sizes]
    return [[size, size] for size in module.padding]


def _dense(module: Any) -> Found:
    return "dense", {}, {"kernel": _own(module, "weight"), "bias": _own(module, "bias")}, ""


def _batch_norm(module: Any) -> Found:
    shown = {"epsilon": module.eps, "unbiased_variance": getattr(module, "unbiased_variance", True)}
    if module.momentum is not None:  # None is the mean of all batches so far
        shown["update_rate"] = module.momentum
    statistics = {"mean": _own(module, "running_mean"), "variance": _own(module, "running_var")}
    return "batch norm", shown, _affine(module) | statistics, "first"


def _layer_norm(module: Any) -> Found | None:
    if len(module.normalized_shape) > 1:
        return None  # its weights lie as the map does, whose layout differs between frameworks
    channels = "first" if _origin(module) in CHANNELS_FIRST_NORMS else ""
    return "layer norm", {"epsilon": module.eps}, _affine(module), channels


def _group_norm(module: Any) -> Found:
    return "group norm", {"epsilon": module.eps, "groups": module.num_groups}, _affine(module), "first"


def _affine(module: nn.Module) -> dict[str, Any]:
    return {"scale": _own(module, "weight"), "offset": _own(module, "bias")}


def _embedding(module: Any) -> Found:
    return "embedding", {"max_norm": module.max_norm}, {"embeddings": _own(module, "weight")}, ""


def _attention(module: Any) -> Found | None:
    if module.bias_k is not None:
        return None  # learned keys and values: no other framework has them
    shown = {"heads": module.num_heads, "head_size": module.head_dim, "add_zero_attn": module.add_zero_attn}
    names, variables = ("query", "key", "value"), dict[str, Any]()
    if module._qkv_same_embed_dim:
        kernels = _own(module, "in_proj_weight").detach().chunk(3)  # parts of one tensor: they share its memory
    else:
        kernels = tuple(_own(module, f"{letter}_proj_weight") for letter in "qkv")
    packed = _own(module, "in_proj_bias")
    biases = (None,) * 3 if packed is None else packed.detach().chunk(3)
    for name, kernel, bias in zip(names, kernels, biases, strict=True):
        variables |= {f"{name}.kernel": kernel, f"{name}.bias": bias}
    output = module.out_proj
    return (
        "attention",
        shown,
        variables | {"output.kernel": _own(output, "weight"), "output.bias": _own(output, "bias")},
        "",
    )


LAYERS: dict[type, Callable[[Any], Found | None]] = {
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.ConvTranspose1d: _convolution,
    nn.ConvTranspose2d: _convolution,
    nn.ConvTranspose3d: _convolution,
    nn.Linear: _dense,
    nn.modules.batchnorm._BatchNorm: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.MultiheadAttention: _attention,
}


def _facts(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What the members of `module` show of a block's spec."""
    for field, paths in MEMBERS.items():
        members = [member for path in paths if (member := _member(module, path)) is not None]
        # Two functions in one field, or one that has no name here, give a word that no spec accepts.
        if members:
            yield field, " and ".join(dict.fromkeys(map(_function, members)))
    norms = [member for member in module.modules() if isinstance(member, nn.modules.batchnorm._BatchNorm)]
    if norms and norms[0].momentum is not None:
        norm = {"epsilon": norms[0].eps, "update_rate": norms[0].momentum, "unbiased_variance": True}
        yield "norm", norm
    for field, flag in FLAGS.items():
        if getattr(module, flag, False) is True:
            yield field, True


def _member(module: nn.Module, path: str) -> nn.Module | None:
    found: Any = module
    for step in path.split("."):
        found = getattr(found, step, None)
    return found if isinstance(found, nn.Module) else None


def _function(member: nn.Module) -> str:
    origin, name = type(member).__module__, type(member).__name__
    return FUNCTIONS.get(name, name) if origin.startswith(("torch.", "timm.")) else f"{origin}.{name}"


def record(
    model: nn.Module, inputs: Sequence[Any], names: Collection[str]
) -> tuple[list[Any], list[tuple[str, Any, Any]]]:
    """Run `model` in inference mode on NumPy `inputs`, as they are.

    Returns:
        Its outputs, and (name, input, output) of every call of the modules of `names` in the order of execution; all
        NumPy.
    """
    calls: list[tuple[str, Any, Any]] = []
    modes = {module: module.training for module in model.modules()}
    values = [*model.parameters(), *model.buffers()]
    first = next((value for value in values if value.is_floating_point()), torch.zeros(()))
    tensors = [_tensor(value, first) for value in inputs]
    hooks = [hook for name in names for hook in _hooks(name, model.get_submodule(name), calls)]
    try:
        model.eval()
        with torch.no_grad():
            return [_array(value) for value in _flat(model(*tensors))], calls
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training


def _tensor(value: Any, like: torch.Tensor) -> torch.Tensor:
    tensor = torch.tensor(value, device=like.device)
    return tensor.to(like.dtype) if tensor.is_floating_point() else tensor


def _hooks(name: str, module: nn.Module, calls: list[tuple[str, Any, Any]]) -> list[Any]:
    """Hooks that write down each call at once, before a later layer works in place."""
    inputs: list[Any] = []
    swapped = isinstance(module, nn.MultiheadAttention) and not module.batch_first

    def first(values: Any) -> Any:
        array = _array(next(_flat(values)))
        return array.swapaxes(0, 1) if swapped and array.ndim > 2 else array

    def before(_: Any, args: Any, kwargs: Any) -> None:
        inputs.append(first([*args, *kwargs.values()]))

    def normalised(_: Any, args: Any) -> None:
        calls.append((name, inputs.pop(), first(args)))

    def after(_: Any, args: Any, output: Any) -> None:
        calls.append((name, inputs.pop(), first(output)))

    entry = module.register_forward_pre_hook(before, with_kwargs=True)
    # timm's norm with an activation: the norm's own output is what goes into the first of the layers behind it.
    behind = getattr(module, "drop", None) if isinstance(module, nn.modules.batchnorm._BatchNorm) else None
    if isinstance(behind, nn.Module):
        return [entry, behind.register_forward_pre_hook(normalised)]
    return [entry, module.register_forward_hook(after)]


def _flat(value: Any) -> Iterator[Any]:
    """The tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _flat(item)


def _array(value: torch.Tensor) -> Any:
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
