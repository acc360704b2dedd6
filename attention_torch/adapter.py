"""What the harness calls: this package behind the interface of `parity.backends.Adapter`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn

import attention_torch
from attention_torch._block import Block
from attention_torch._network import find_layers, record
from attention_torch._training import trainer
from parity.spec import InputError, LiveBlock, Spec, is_statistic

__all__ = [
    "KERNELS_LAST",
    "build",
    "describe",
    "find_blocks",
    "find_layers",
    "layer_outputs",
    "owns",
    "prepare",
    "read_variable",
    "record",
    "stepper",
    "trainer",
    "write_variables",
]

KERNELS_LAST = False

LEAVES = {"kernel": "weight", "bias": "bias"}
NORM_LEAVES = {"scale": "weight", "offset": "bias", "mean": "running_mean", "variance": "running_var"}


def describe() -> dict[str, Any]:
    """The framework, its version, and its devices by kind."""
    devices = {"cpu": "cpu"}
    if torch.cuda.is_available():
        devices["gpu"] = torch.cuda.get_device_name()
    return {"framework": "torch", "version": torch.__version__, "devices": devices}


def prepare(tf32: bool) -> dict[str, Any]:
    """Make this process deterministic and, but for TF32 where it is asked for, exact; the switches that it set."""
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    return {"deterministic": True, "tf32": tf32}


def owns(model: Any) -> bool:
    """Whether `model` is of this framework."""
    return isinstance(model, nn.Module)


def build(spec: Spec, *, shape: tuple[int | None, ...], data_format: str, dtype: str, device: str) -> nn.Module:
    """A model that is the one block of `spec`, for an input of `shape`; with weights in float32 for a mixed dtype."""
    block: type[Block] = getattr(attention_torch, spec.options_class.class_name)
    mixed, compute = dtype.startswith("mixed_"), getattr(torch, dtype.removeprefix("mixed_"))
    device = "cuda" if device == "gpu" else device
    made = block.from_spec(spec, device=device, dtype=torch.float32 if mixed else compute)
    return Autocast(made, compute) if mixed else made


class Autocast(nn.Module):
    """A block as mixed precision runs it: `torch.autocast` casts the weights of its linear maps as they are used."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        super().__init__()
        self.block, self.dtype = block, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """y, in the dtype of x."""
        with torch.autocast(x.device.type, self.dtype):
            return self.block(x)


def find_blocks(model: nn.Module, wanted: Mapping[str, Spec]) -> dict[str, LiveBlock]:
    """The blocks of `model` by the path of their module; all of them carry their spec. Those inside of a network are
    its parts.
    """
    found: dict[str, LiveBlock] = {}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, Block) and not name.startswith(inside):
            found[name] = _live(module)
            inside += (f"{name}." if name else "",)
    return found


def _live(module: Block) -> LiveBlock:
    variables = {name: _variable(module, name) for name in module.spec.parameters()}
    extras = {name: value for name, value in module.named_buffers() if name.endswith("num_batches_tracked")}
    return LiveBlock(module.spec.to_json(), variables, extras, "first")


def _variable(module: nn.Module, name: str) -> torch.Tensor:
    path, _, leaf = name.rpartition(".")
    part, attribute = module.get_submodule(path), (LEAVES | NORM_LEAVES)[leaf]
    own: Any = part._parameters | part._buffers
    variable = own.get(attribute)
    if variable is None or variable.is_meta:
        # A parametrized weight is computed anew at each look: to write it would change nothing.
        what = "is on the meta device" if variable is not None else "is computed, not stored"
        raise InputError(
            f"received a module whose {path}.{attribute} {what}",
            "parameters that hold values",
            "call module.to_empty(device=...) first" if variable is not None else "remove its parametrization first",
        )
    return variable


def read_variable(model: nn.Module, variable: torch.Tensor) -> Any:
    """The value of a variable as a NumPy array; a bfloat16 one as its bits, uint16."""
    return from_tensor(variable)


def write_variables(model: nn.Module, values: Iterable[tuple[torch.Tensor, Any]]) -> None:
    """Set variables to NumPy arrays of their shapes."""
    with torch.no_grad():
        for variable, value in values:
            variable.copy_(torch.tensor(value))


def to_tensor(array: Any, device: torch.device) -> torch.Tensor:
    """A NumPy array, of bfloat16 too, as a tensor of its own memory."""
    if array.dtype.name == "bfloat16":  # unknown to PyTorch: its bits are not
        return torch.tensor(array.view("int16"), device=device).view(torch.bfloat16)
    return torch.tensor(array, device=device)


def from_tensor(tensor: torch.Tensor) -> Any:
    """A tensor as a NumPy array; a bfloat16 one as its bits, uint16."""
    value = tensor.detach().cpu()
    return value.view(torch.uint16).numpy() if value.dtype == torch.bfloat16 else value.numpy()


def to_channels_first(value: torch.Tensor, data_format: str) -> torch.Tensor:
    """A map in `data_format` as PyTorch has it: a view, so that a channels-last array becomes a tensor in channels-last
    memory, not a transposed copy.
    """
    return value.movedim(-1, 1) if data_format == "channels_last" else value


def from_channels_first(value: torch.Tensor, data_format: str) -> torch.Tensor:
    """The inverse of `to_channels_first`; what is no map has no other order."""
    return value.movedim(1, -1) if data_format == "channels_last" else value


def gradient(tensor: torch.Tensor) -> torch.Tensor:
    """The gradient of a leaf: zeros where the output does not hang on it."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def stepper(
    model: nn.Module,
    variables: Mapping[str, torch.Tensor],
    *,
    training: bool,
    data_format: str,
    learning_rate: float,
    mode: str = "plain",
) -> Callable[[Any, Any, bool], tuple[Any, dict[str, Any]]]:
    """A function (x, cotangent or None, update) -> (output, gradients by name), all NumPy.

    The gradients are those of <cotangent, output>, of "input" and of every parameter; `update` then takes one step of
    gradient descent. In training mode each call updates the running statistics.
    """
    model.train(training)
    run: Any = model
    own: Mapping[str, Any] = variables
    device = next(model.parameters()).device

    def tensor(array: Any) -> torch.Tensor:
        return to_channels_first(to_tensor(array, device), data_format)

    def array(value: Any) -> Any:
        return from_tensor(from_channels_first(value, data_format))

    def step(x: Any, cotangent: Any, update: bool) -> tuple[Any, dict[str, Any]]:
        nonlocal run, own
        source = tensor(x).requires_grad_(cotangent is not None)
        if mode != "plain" and run is model:
            from attention_torch import _modes

            run, own = _modes.prepare(mode, model, variables, source.detach())
            if own is not variables:  # so that nothing can come of the model that was saved unseen
                write_variables(model, ((variable, float("nan")) for variable in variables.values()))
        output = run(source)
        parameters = {name: variable for name, variable in own.items() if not is_statistic(name)}
        gradients = {}
        if cotangent is not None:
            optimizer = torch.optim.SGD(parameters.values(), learning_rate)
            optimizer.zero_grad()
            output.backward(tensor(cotangent))
            gradients = {"input": array(gradient(source))}
            gradients |= {name: from_tensor(gradient(variable)).copy() for name, variable in parameters.items()}
            if update:
                optimizer.step()
        if own is not variables:  # they are read from the model that was asked for
            with torch.no_grad():
                for name, variable in variables.items():
                    variable.copy_(own[name])
        return array(output), gradients

    return step


def layer_outputs(model: nn.Module, x: Any, names: Collection[str], *, data_format: str) -> dict[str, Any]:
    """What the parts `names` of a network give for x in inference mode, all NumPy and in `data_format`."""
    network = next(module for module in model.modules() if isinstance(module, Block))
    found: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: torch.Tensor) -> None:
            found[name] = from_tensor(from_channels_first(output, data_format)).copy()

        return network.get_submodule(name).register_forward_hook(hook)

    training = model.training
    hooks = [keep(name) for name in names]
    try:
        model.eval()
        with torch.no_grad():
            model(to_channels_first(to_tensor(x, next(model.parameters()).device), data_format))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found
