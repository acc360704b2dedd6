"""What the adapters of both styles share: this package behind the interface of `parity.backends.Adapter`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import keras
import numpy as np
from keras import ops

from attention_keras._float64 import enable_float64
from attention_keras._network import find_layers, record, walk
from attention_keras._stock import LEAVES, NORM_LEAVES, live_stock
from attention_keras.functional._block import normalise
from attention_keras.layers._block import Block
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
    "write_variables",
]

KERNELS_LAST = True


def describe() -> dict[str, Any]:
    """The framework and its engine, their versions, and the engine's devices by kind."""
    engine = keras.backend.backend()
    version, gpu = ENGINES[engine].describe()
    return {
        "framework": "keras",
        "version": keras.__version__,
        "engine": engine,
        "engine_version": version,
        "devices": {"cpu": "cpu"} | ({"gpu": gpu} if gpu else {}),
    }


def prepare(tf32: bool) -> dict[str, Any]:
    """Make this process deterministic and, but for TF32 where it is asked for, exact; the switches that it set."""
    enable_float64()
    keras.utils.set_random_seed(0)
    engine = keras.backend.backend()
    ENGINES[engine].prepare(tf32)
    # On a GPU, JAX is deterministic by a flag of its compiler alone, which a running process cannot set.
    is_random = engine == "jax" and ENGINES[engine].describe()[1] is not None
    return {"deterministic": not is_random, "tf32": tf32, "float64": True}


def owns(model: Any) -> bool:
    """Whether `model` is of this framework."""
    return isinstance(model, keras.layers.Layer)


def build(block: Callable[[Any], Any], *, shape: tuple[int | None, ...], dtype: str, device: str) -> keras.Model:
    """A model of `block`, a function of a Keras tensor, for an input of `shape` and any batch size.

    Its kernels are zeros: they are about to be loaded, and JAX would compile random ones anew for each shape, which
    takes half the time of a case.
    """
    zeros = patch.object(keras.initializers.GlorotUniform, "__call__", keras.initializers.Zeros.__call__)
    # To PyTorch "cpu:0" is another device than "cpu", and what has moved between devices is no nn.Parameter any more.
    place = "cpu" if device == "cpu" and keras.backend.backend() == "torch" else f"{device}:0"
    with keras.device(place), zeros:
        x = keras.Input(shape[1:], dtype=keras.dtype_policies.get(dtype).compute_dtype)
        return keras.Model(x, block(x))


def find_blocks(model: keras.layers.Layer, wanted: Mapping[str, Spec]) -> dict[str, LiveBlock]:
    """The blocks of `model`: layers of this package by their path, and those of `wanted` that are of stock layers.

    The stock layers of a block are found by their path in the model, which is the block's name and the canonical path;
    ``.``, ``/`` and ``_`` count as the same.
    """
    blocks: dict[str, LiveBlock] = {}
    stock: dict[str, list[keras.layers.Layer]] = {}
    for name, layer in walk(model):
        if not isinstance(layer, Block):
            stock.setdefault(normalise(name), []).append(layer)
        elif name in blocks:
            raise InputError(f"received a model with two blocks named {name!r}", "distinct names", "rename one of them")
        else:
            blocks[name] = _live(layer)
    for name, spec in wanted.items():
        live = None if normalise(name) in map(normalise, blocks) else live_stock(stock, name, spec)
        if live:
            blocks[name] = live
    return blocks


def _live(layer: Block) -> LiveBlock:
    variables = {name: _variable(layer, name) for name in layer.spec.parameters()}
    return LiveBlock(layer.spec.to_json(), variables, channels=layer.data_format.removeprefix("channels_"))


def _variable(layer: Block, name: str) -> keras.Variable:
    path, _, leaf = name.rpartition(".")
    return getattr(_part(layer, path), (LEAVES | NORM_LEAVES)[leaf])


def _part(layer: Any, path: str) -> Any:
    """What stands at the canonical `path` in `layer`."""
    for step in path.split("."):
        layer = layer[step] if isinstance(layer, Mapping) else getattr(layer, step)
    return layer


def read_variable(model: keras.layers.Layer, variable: keras.Variable) -> Any:
    """The value of a variable as a NumPy array; a bfloat16 one as its bits, uint16."""
    value = ops.convert_to_numpy(variable)
    return value.view("uint16") if variable.dtype == "bfloat16" else value


def write_variables(model: keras.layers.Layer, values: Iterable[tuple[keras.Variable, Any]]) -> None:
    """Set variables to NumPy arrays of their shapes."""
    for variable, value in values:
        with keras.device(ENGINES[keras.backend.backend()].device(variable)):
            variable.assign(value.copy())  # JAX may keep the memory that it is given


def stepper(
    model: keras.Model,
    variables: Mapping[str, keras.Variable],
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
    engine = ENGINES[keras.backend.backend()]
    device = engine.device(next(iter(variables.values())))
    own: Mapping[str, Any] = variables
    compute: Any = engine(model, *split(variables), training) if mode == "plain" else None

    def step(x: Any, cotangent: Any, update: bool) -> tuple[Any, dict[str, Any]]:
        nonlocal compute, own
        with keras.device(device):
            if compute is None:
                from attention_keras import _modes

                compute, own = _modes.prepare(mode, engine, model, variables, training, x)
                if own is not variables:  # so that nothing can come of the model that was saved unseen
                    spoiled = ((variable, ops.convert_to_numpy(variable) * math.nan) for variable in variables.values())
                    write_variables(model, spoiled)
            parameters = {name: variable for name, variable in own.items() if not is_statistic(name)}
            output, slopes = compute(x, cotangent)
            slopes = [ops.convert_to_numpy(slope) for slope in slopes]
            if update and slopes:
                for variable, slope in zip(parameters.values(), slopes[1:], strict=True):
                    variable.assign(ops.convert_to_numpy(variable) - learning_rate * slope)
            if own is not variables:  # they are read from the model that was asked for
                write_variables(model, ((variables[name], ops.convert_to_numpy(own[name])) for name in variables))
            return ops.convert_to_numpy(output), dict(zip(("input", *parameters), slopes, strict=False))

    return step


def layer_outputs(model: keras.Model, x: Any, names: Collection[str], *, data_format: str) -> dict[str, Any]:
    """What the parts `names` of the network "block" give for x in inference mode, all NumPy and in `data_format`."""
    engine = ENGINES[keras.backend.backend()]
    layers = {normalise(name): layer for name, layer in walk(model)}
    network = layers.get("block")  # of stock layers there are the parts alone
    parts = {id(_part(network, name) if network else layers[normalise(f"block.{name}")]): name for name in names}
    plain = keras.layers.Layer.__call__

    def run(x: Any, training: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def call(self: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
            output = plain(self, *args, **kwargs)
            if id(self) in parts:
                found[parts[id(self)]] = output
            return output

        with patch.object(keras.layers.Layer, "__call__", call):
            model(x, training=training)
        return found

    with keras.device(engine.device(model.variables[0])):
        outputs, _ = engine(run, model.variables, [], False)(x, None)
    arrays = {name: ops.convert_to_numpy(outputs[name]) for name in names}
    # Inside of a network every map is channels-last; what is no map has no other order.
    return {name: np.moveaxis(a, -1, 1) for name, a in arrays.items()} if data_format == "channels_first" else arrays


def split(variables: Mapping[str, Any]) -> tuple[list, list]:
    """The parameters, and the running statistics."""
    parameters = [variable for name, variable in variables.items() if not is_statistic(name)]
    return parameters, [variable for name, variable in variables.items() if is_statistic(name)]


class TensorFlow:
    """What the adapter needs of TensorFlow. Eager: to trace a graph costs more than to run a case once."""

    def __init__(self, model: keras.Model, parameters: Sequence, statistics: Sequence, training: bool) -> None:
        self.model, self.parameters, self.training = model, parameters, training

    def __call__(self, x: Any, cotangent: Any) -> tuple[Any, list]:
        """The output, and the gradients of x and of each parameter unless `cotangent` is None."""
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        if cotangent is None:
            return self.model(x, training=self.training), []
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = self.model(x, training=self.training)
        values = [x, *(variable.value for variable in self.parameters)]
        return output, tape.gradient(output, values, ops.cast(cotangent, output.dtype), unconnected_gradients="zero")

    @staticmethod
    def device(variable: keras.Variable) -> str:
        """Where `variable` is, as `keras.device` takes it."""
        return variable.value.device

    @staticmethod
    def prepare(tf32: bool) -> None:
        """Determinism on, TF32 as asked for."""
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
        tf.config.experimental.enable_tensor_float_32_execution(tf32)

    @staticmethod
    def describe() -> tuple[str, str | None]:
        """The version, and the name of the first GPU."""
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        name = tf.config.experimental.get_device_details(found[0]).get("device_name", "gpu") if found else None
        return tf.__version__, name


class JAX:
    """What the adapter needs of JAX. Compiled: else each operation is compiled for itself, at five times the cost."""

    def __init__(self, model: keras.Model, parameters: Sequence, statistics: Sequence, training: bool) -> None:
        import jax

        self.parameters, self.statistics = parameters, statistics

        def forward(values: list, x: Any, states: list) -> tuple[Any, list]:
            mapping = zip([*parameters, *statistics], [*values, *states], strict=True)
            with keras.StatelessScope(list(mapping)) as scope:
                output = model(x, training=training)
            return output, [scope.get_current_value(variable) for variable in statistics]

        def backward(values: list, x: Any, states: list, cotangent: Any) -> tuple[Any, list, Any, list]:
            output, vjp, states = jax.vjp(lambda values, x: forward(values, x, states), values, x, has_aux=True)
            slopes, slope = vjp(ops.cast(cotangent, output.dtype))
            return output, states, slope, slopes

        self.forward, self.backward = jax.jit(forward), jax.jit(backward)

    def __call__(self, x: Any, cotangent: Any) -> tuple[Any, list]:
        """The output, and the gradients of x and of each parameter unless `cotangent` is None."""
        arguments = (
            [variable.value for variable in self.parameters],
            x,
            [variable.value for variable in self.statistics],
        )
        slopes: list = []
        if cotangent is None:
            output, states = self.forward(*arguments)
        else:
            output, states, slope, slopes = self.backward(*arguments, cotangent)
            slopes = [slope, *slopes]
        for variable, value in zip(self.statistics, states, strict=True):
            variable.assign(value)
        return output, slopes

    @staticmethod
    def device(variable: keras.Variable) -> Any:
        """Where `variable` is, as `keras.device` takes it."""
        return next(iter(variable.value.devices()))

    @staticmethod
    def prepare(tf32: bool) -> None:
        """TF32 as asked for."""
        import jax

        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32 else "highest")

    @staticmethod
    def describe() -> tuple[str, str | None]:
        """The version, and the name of the first GPU."""
        import jax

        found = [device for device in jax.devices() if device.platform == "gpu"]
        return jax.__version__, found[0].device_kind if found else None


class Torch:
    """What the adapter needs of PyTorch."""

    def __init__(self, model: keras.Model, parameters: Sequence, statistics: Sequence, training: bool) -> None:
        self.model, self.parameters, self.training = model, parameters, training

    def __call__(self, x: Any, cotangent: Any) -> tuple[Any, list]:
        """The output, and the gradients of x and of each parameter unless `cotangent` is None."""
        import torch

        device = self.parameters[0].value.device
        x = ops.convert_to_tensor(x).to(device).requires_grad_(cotangent is not None)
        output = self.model(x, training=self.training)
        if cotangent is None:
            return output, []
        values = [x, *(variable.value for variable in self.parameters)]
        cotangent = ops.convert_to_tensor(cotangent).to(device, output.dtype)
        return output, list(torch.autograd.grad(output, values, cotangent, materialize_grads=True))

    @staticmethod
    def device(variable: keras.Variable) -> str:
        """Where `variable` is, as `keras.device` takes it."""
        return str(variable.value.device)

    @staticmethod
    def prepare(tf32: bool) -> None:
        """Determinism on, TF32 as asked for."""
        import torch

        torch.use_deterministic_algorithms(True)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32

    @staticmethod
    def describe() -> tuple[str, str | None]:
        """The version, and the name of the first GPU."""
        import torch

        return torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else None


ENGINES: dict[str, Any] = {"tensorflow": TensorFlow, "jax": JAX, "torch": Torch}
