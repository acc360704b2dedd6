"""The modes of PyTorch: a module as a compiled, exported or converted function of a map."""

from __future__ import annotations

import io
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from parity.spec import InputError, ModeMissingError

# What runs in place of a module, and the variables that it reads and writes, by canonical name.
Prepared = tuple[Callable[[Tensor], Tensor], Mapping[str, Tensor]]

COMPILERS = ("g++", "clang++", "c++")


def prepare(mode: str, model: nn.Module, variables: Mapping[str, Tensor], x: Tensor) -> Prepared:
    """What runs in place of `model` in `mode`, for maps of the rank and channels of `x`.

    Raises:
        InputError: for a mode that this package does not know. A `ValueError`.
        ModeMissingError: for one that needs what is not installed here. A `ValueError`.
    """
    if mode not in MODES:
        raise InputError(f"received mode {mode!r}", f"one of plain, {', '.join(MODES)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what exporters say of their own insides
        return MODES[mode](model, variables, x)


def compiled(model: nn.Module, variables: Mapping[str, Tensor], x: Tensor) -> Prepared:
    """`torch.compile` with its default backend, Inductor, which writes C++ (on a GPU Triton)."""
    if not any(map(shutil.which, (os.environ.get("CXX") or COMPILERS[0], *COMPILERS))):
        raise ModeMissingError(
            "received mode 'compile' on a machine without a C++ compiler",
            f"one of {', '.join(COMPILERS)}, or CXX that names one",
        )
    torch.compiler.reset()  # what was compiled for other blocks counts against a limit, and is never used again
    return torch.compile(model, fullgraph=True), variables


def exported(model: nn.Module, variables: Mapping[str, Tensor], x: Tensor) -> Prepared:
    """`torch.export`, saved and loaded: a program with weights of its own and none of this package's code."""
    program = torch.export.export(model, (_other(x),), dynamic_shapes=(_open_axes(x),))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    own = dict([*loaded.named_parameters(), *loaded.named_buffers()])
    paths = {id(value): path for path, value in [*model.named_parameters(), *model.named_buffers()]}
    return loaded, {name: own[paths[id(value)]] for name, value in variables.items()}


def onnx(model: nn.Module, variables: Mapping[str, Tensor], x: Tensor) -> Prepared:
    """`torch.onnx.export`, run by onnxruntime on the CPU."""
    require("onnx", "onnxscript", "onnxruntime")
    program = torch.onnx.export(
        model, (_other(x),), dynamo=True, dynamic_shapes=(_open_axes(x),), optimize=True, verbose=False
    )
    assert program is not None  # it is where nothing is written to a file
    return run_onnx(program.model_proto.SerializeToString()), variables


def run_onnx(model: bytes) -> Callable[[Tensor], Tensor]:
    """An ONNX model as a function of a tensor, on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    return lambda x: torch.from_numpy(session.run(None, {source.name: x.detach().cpu().contiguous().numpy()})[0])


def require(*modules: str) -> None:
    """Raise `ModeMissingError` unless the modules are installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ModeMissingError(f"this mode needs {' and '.join(missing)}, not installed here")


def _other(x: Tensor) -> Tensor:
    """A map of other sizes than those of x, its channels but: what is traced with it must not keep them."""
    shape = [size if axis == 1 else size + axis + 1 for axis, size in enumerate(x.shape)]
    # A ramp: a map of one value has ties everywhere.
    return torch.linspace(-1, 1, torch.Size(shape).numel(), device=x.device).to(x.dtype).view(shape)


def _open_axes(x: Tensor) -> dict[int, Any]:
    """Every axis but the channels as one whose size is open."""
    return {axis: torch.export.Dim.DYNAMIC for axis in range(x.ndim) if axis != 1}


MODES: dict[str, Callable[[nn.Module, Mapping[str, Tensor], Tensor], Prepared]] = {
    "compile": compiled,
    "export": exported,
    "onnx": onnx,
}
