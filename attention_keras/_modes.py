"""The modes of Keras, on every engine: a model compiled, exported, converted, or saved and reloaded."""

from __future__ import annotations

import importlib
import io
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
from keras import ops

from attention_keras.adapter import split
from parity.spec import InputError, ModeMissingError

# What computes the output and the gradients in place of an engine, and the variables that it reads and writes.
Prepared = tuple[Callable[[Any, Any], tuple[Any, list]], Mapping[str, Any]]


def prepare(
    mode: str, engine: Any, model: keras.Model, variables: Mapping[str, keras.Variable], training: bool, x: Any
) -> Prepared:
    """What runs in place of `model` in `mode`; `x` is the first map that it will get, whose sizes it must not know.

    Raises:
        InputError: for a mode that this package does not know. A `ValueError`.
        ModeMissingError: for one that needs what is not installed here. A `ValueError`.
    """
    if mode not in MODES:
        raise InputError(f"received mode {mode!r}", f"one of plain, {', '.join(MODES)}")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="parity-") as folder:
        warnings.simplefilter("ignore")  # what exporters say of their own insides
        return MODES[mode](Setting(engine, model, variables, training, x, Path(folder)))


class Setting:
    """What a mode is made of.

    Args:
        engine: the class of the adapter that computes with `model` on its engine.
        model, variables: what is compiled or exported; it takes maps of any size.
        training: whether it is to run in training mode.
        x: a map that it will get.
        folder: for files; gone when the mode is prepared.
    """

    def __init__(
        self, engine: Any, model: keras.Model, variables: Mapping[str, Any], training: bool, x: Any, folder: Path
    ) -> None:
        self.engine, self.model, self.variables, self.training = engine, model, variables, training
        self.x, self.folder = x, folder

    def compute(self, model: Any, variables: Mapping[str, Any]) -> Any:
        """The engine, with `model` in place of the one that was asked for."""
        return self.engine(model, *split(variables), self.training)

    def signature(self) -> Any:
        """The open shape of the map, as Keras' exporters take it."""
        (source,) = self.model.inputs
        return keras.InputSpec(shape=source.shape, dtype=source.dtype)


def compiled(setting: Setting) -> Prepared:
    """`torch.compile` with its default backend, Inductor, which writes C++ (on a GPU Triton)."""
    import torch

    check_compiler()
    torch.compiler.reset()  # what was compiled for other blocks counts against a limit, and is never used again
    # A hard gate of the functional style is a Rescaling, which asks TensorFlow, where that is installed, for its graph.
    whole = not any(isinstance(layer, keras.layers.Rescaling) for layer in setting.model._flatten_layers())
    return setting.compute(torch.compile(setting.model, fullgraph=whole), setting.variables), setting.variables


def check_compiler() -> None:
    """Raise `ModeMissingError` where Inductor finds no C++ compiler."""
    names = ("g++", "clang++", "c++")
    if not any(map(shutil.which, (os.environ.get("CXX") or names[0], *names))):
        raise ModeMissingError(
            "received mode 'compile' on a machine without a C++ compiler",
            f"one of {', '.join(names)}, or CXX that names one",
        )


def exported(setting: Setting) -> Prepared:
    """`torch.export`, saved and loaded: a program with weights of its own and none of Keras' code."""
    import torch

    module = as_module(setting)
    program = torch.export.export(module, (other(setting),), dynamic_shapes=(open_axes(setting),), strict=False)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    own = dict([*loaded.named_parameters(), *loaded.named_buffers()])
    found = {name: TorchVariable(own[as_attribute(variable)]) for name, variable in setting.variables.items()}
    return setting.compute(lambda x, training: loaded(x), found), found


def as_module(setting: Setting) -> Any:
    """The model as a module of one tensor, its variables parameters and buffers, by Keras' `stateless_call`.

    Keras' layers read their weights past the module that they are: PyTorch's exporters would take them for constants.
    """
    import torch

    model = setting.model

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for variable in model.trainable_variables:
                self.register_parameter(as_attribute(variable), torch.nn.Parameter(variable.value.detach().clone()))
            for variable in model.non_trainable_variables:
                self.register_buffer(as_attribute(variable), variable.value.detach().clone())

        def forward(self, x: Any) -> Any:
            trainable, others = ([getattr(self, as_attribute(variable)) for variable in part] for part in parts)
            output, states = model.stateless_call(trainable, others, x, training=setting.training)
            if setting.training:
                for kept, state in zip(others, states, strict=True):
                    kept.copy_(state.detach())
            return output

    parts = (model.trainable_variables, model.non_trainable_variables)
    return Module()


def as_attribute(variable: keras.Variable) -> str:
    """The path of a variable as PyTorch allows it for an attribute."""
    return variable.path.replace("/", "_")


def open_axes(setting: Setting) -> dict[int, Any]:
    """Every axis but the channels as one whose size is open."""
    from torch.export import Dim

    return {axis: Dim.DYNAMIC for axis, size in enumerate(setting.model.inputs[0].shape) if size is None}


class TorchVariable:
    """A tensor of a loaded program with what a step of gradient descent needs of a `keras.Variable`."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def assign(self, value: Any) -> None:
        """Set it."""
        self.value.data.copy_(ops.convert_to_tensor(value))

    def __array__(self, *_: Any, **__: Any) -> Any:
        return ops.convert_to_numpy(self.value)


def onnx(setting: Setting) -> Prepared:
    """Keras' own exporter, on PyTorch PyTorch's: Keras has none there for unknown sizes. Run by onnxruntime."""
    file = setting.folder / "model.onnx"
    if keras.backend.backend() == "torch":
        import torch

        require("onnx", "onnxscript")
        axes = open_axes(setting)
        torch.onnx.export(
            as_module(setting),
            (other(setting),),
            file,
            dynamo=True,
            dynamic_shapes=(axes,),
            external_data=False,
            verbose=False,
        )
    else:
        setting.model.export(file, format="onnx", verbose=False, input_signature=[setting.signature()])
    require("onnxruntime")
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    return lambda x, cotangent: (session.run(None, {source.name: x})[0], []), setting.variables


def require(*modules: str) -> None:
    """Raise `ModeMissingError` unless the modules are installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ModeMissingError(f"this mode needs {' and '.join(missing)}, not installed here")


def other(setting: Setting) -> Any:
    """A map of other sizes than those of x, its channels but: what is traced with it must not keep them."""
    (source,) = setting.model.inputs
    sizes = zip(source.shape, setting.x.shape, strict=True)
    shape = [size + axis + 1 if fixed is None else size for axis, (fixed, size) in enumerate(sizes)]
    return ops.reshape(ops.linspace(-1, 1, math.prod(shape), dtype=source.dtype), shape)


def function(setting: Setting, jit_compile: bool = False) -> Prepared:
    """One `tf.function` for the output, one for the gradients, each of unknown sizes."""
    import tensorflow as tf

    (source,), (output,) = setting.model.inputs, setting.model.outputs
    compute = setting.compute(setting.model, setting.variables)
    signature = tf.TensorSpec(source.shape, source.dtype)
    result = tf.TensorSpec(output.shape, source.dtype)
    graph = partial(tf.function, jit_compile=jit_compile, autograph=False)
    forward = graph(lambda x: compute(x, None), input_signature=[signature])
    backward = graph(compute, input_signature=[signature, result])
    return lambda x, cotangent: forward(x) if cotangent is None else backward(x, cotangent), setting.variables


def jit(setting: Setting) -> Prepared:
    """`stateless_call`, and the gradients of a loss around it, under one `jax.jit`: as users write training steps."""
    import jax

    model, training = setting.model, setting.training
    parameters, _ = split(setting.variables)
    order = [[variable.path for variable in model.trainable_variables].index(one.path) for one in parameters]

    def forward(trainable: Any, x: Any, others: Any) -> Any:
        return model.stateless_call(trainable, others, x, training=training)

    def loss(trainable: Any, x: Any, others: Any, cotangent: Any) -> Any:
        output, states = forward(trainable, x, others)
        return ops.sum(output * cotangent), (output, states)

    forward, backward = jax.jit(forward), jax.jit(jax.grad(loss, (0, 1), has_aux=True))

    def compute(x: Any, cotangent: Any) -> tuple[Any, list]:
        trainable, others = (
            [one.value for one in part] for part in (model.trainable_variables, model.non_trainable_variables)
        )
        slopes: list = []
        if cotangent is None:
            output, states = forward(trainable, x, others)
        else:
            (found, slope), (output, states) = backward(trainable, x, others, cotangent)
            slopes = [slope, *(found[index] for index in order)]
        for variable, value in zip(model.non_trainable_variables, states, strict=True):
            variable.assign(value)
        return output, slopes

    return compute, setting.variables


def savedmodel(setting: Setting) -> Prepared:
    """`keras.export.ExportArchive`, reloaded by `tf.saved_model.load`: a TensorFlow object, whatever the engine."""

    model = setting.model
    if keras.backend.backend() == "torch":  # its archive has no other way, and takes known sizes alone
        model.export(
            setting.folder,
            verbose=False,
            input_signature=[keras.InputSpec(shape=setting.x.shape, dtype=model.inputs[0].dtype)],
        )
    else:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("call", partial(model, training=setting.training), input_signature=[setting.signature()])
        archive.write_out(setting.folder, verbose=False)
    tf = importlib.import_module("tensorflow")
    loaded = tf.saved_model.load(setting.folder)
    # Saved in Keras' order on TensorFlow, on JAX the trainable ones first; the names tell less.
    is_jax = keras.backend.backend() == "jax"
    order = [*model.trainable_variables, *model.non_trainable_variables] if is_jax else model.variables
    own = dict(zip((variable.path for variable in order), loaded.variables, strict=True))
    found = {name: own[variable.path] for name, variable in setting.variables.items()}

    def compute(x: Any, cotangent: Any) -> tuple[Any, list]:
        x = tf.convert_to_tensor(x)
        if cotangent is None:
            return loaded.call(x), []
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = loaded.call(x)
        slopes = tape.gradient(
            output, [x, *split(found)[0]], tf.cast(cotangent, output.dtype), unconnected_gradients="zero"
        )
        return output, slopes

    return compute, found


def keras_file(setting: Setting) -> Prepared:
    """``model.save``, and `keras.saving.load_model` in safe mode: everything runs on the reloaded model."""
    file = setting.folder / "model.keras"
    setting.model.save(file)
    loaded = keras.saving.load_model(file, safe_mode=True)
    own = {variable.path: variable for variable in loaded.variables}
    found = {name: own[variable.path] for name, variable in setting.variables.items()}
    return setting.compute(loaded, found), found


def tflite(setting: Setting) -> Prepared:
    """Keras' own exporter to LiteRT; run by TensorFlow's interpreter, resized for each map."""
    file = setting.folder / "model.tflite"
    setting.model.export(file, format="litert", verbose=False, input_signature=[setting.signature()])
    return run_tflite(file.read_bytes()), setting.variables


def run_tflite(model: bytes) -> Callable[[Any, Any], tuple[Any, list]]:
    """A LiteRT model as a function of an array."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=model, num_threads=1)
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def compute(x: Any, cotangent: Any) -> tuple[Any, list]:
        interpreter.resize_tensor_input(source["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"]), []

    return compute


MODES: dict[str, Callable[[Setting], Prepared]] = {
    "compile": compiled,
    "export": exported,
    "onnx": onnx,
    "function": function,
    "xla": partial(function, jit_compile=True),
    "jit": jit,
    "savedmodel": savedmodel,
    "keras-file": keras_file,
    "tflite": tflite,
}
