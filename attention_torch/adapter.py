"""What the harness calls: this package behind the interface of `parity.backends.Adapter`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

import attention_torch
from attention_torch._block import Block
from attention_torch._network import find_layers, record
from parity.spec import InputError, LiveBlock, Spec, is_statistic

__all__ = [
    "KERNELS_LAST",
    "build",
    "describe",
    "find_blocks",
    "find_layers",
    "owns",
    "prepare",
    "read_variable",
    "record",
    "stepper",
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
    """Make this process deterministic and, but for TF32 where that is asked for, exact; the switches that it set."""
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    return {"deterministic": True, "tf32": tf32}


def owns(model: Any) -> bool:
    """Whether `model` is of this framework."""
    return isinstance(model, nn.Module)


def build(spec: Spec, *, shape: tuple[int, ...], data_format: str, dtype: str, device: str) -> nn.Module:
    """A model that is the one block of `spec`, for an input of `shape`."""
    block: type[Block] = getattr(attention_torch, spec.options_class.class_name)
    return block.from_spec(spec, device="cuda" if device == "gpu" else device, dtype=getattr(torch, dtype))


def find_blocks(model: nn.Module, wanted: Mapping[str, Spec]) -> dict[str, LiveBlock]:
    """The blocks of `model` by the path of their module; all of them carry their spec."""
    return {name: _live(module) for name, module in model.named_modules() if isinstance(module, Block)}


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
    value = variable.detach().cpu()
    return value.view(torch.uint16).numpy() if value.dtype == torch.bfloat16 else value.numpy()


def write_variables(model: nn.Module, values: Iterable[tuple[torch.Tensor, Any]]) -> None:
    """Set variables to NumPy arrays of their shapes."""
    with torch.no_grad():
        for variable, value in values:
            variable.copy_(torch.tensor(value))


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
    parameters: dict[str, Any] = {name: variable for name, variable in variables.items() if not is_statistic(name)}
    optimizer = torch.optim.SGD(parameters.values(), learning_rate)
    device = next(model.parameters()).device

    def tensor(array: Any) -> torch.Tensor:
        value = torch.tensor(array, device=device)
        # A view: a channels-last array becomes a tensor in channels-last memory, not a transposed copy.
        return value.movedim(-1, 1) if data_format == "channels_last" else value

    def array(value: Any) -> Any:
        value = value.movedim(1, -1) if data_format == "channels_last" else value
        return value.detach().cpu().numpy()

    def step(x: Any, cotangent: Any, update: bool) -> tuple[Any, dict[str, Any]]:
        source = tensor(x).requires_grad_(cotangent is not None)
        output = model(source)
        if cotangent is None:
            return array(output), {}
        optimizer.zero_grad()
        output.backward(tensor(cotangent))
        gradients = {"input": array(source.grad)}
        gradients |= {name: variable.grad.cpu().numpy().copy() for name, variable in parameters.items()}
        if update:
            optimizer.step()
        return array(output), gradients

    return step
