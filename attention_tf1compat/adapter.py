"""What the harness calls: this package behind the interface of `parity.backends.Adapter`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import attention_tf1compat
from attention_tf1compat._block import find_specs
from attention_tf1compat._network import find_layers, record
from attention_tf1compat.networks._parts import layer_collection
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

KERNELS_LAST = True

LEAVES = {"kernel": "kernel", "bias": "bias"}
NORM_LEAVES = {"scale": "gamma", "offset": "beta", "mean": "moving_mean", "variance": "moving_variance"}

# The graph collections by which `stepper` finds what `build` made: the placeholder of x, and the output of either mode.
INPUT = "attention_tf1compat/input"
OUTPUT = "attention_tf1compat/output"
TRAINING_OUTPUT = "attention_tf1compat/training_output"
SCOPE = "block"
DEVICES = {"cpu": "/CPU:0", "gpu": "/GPU:0"}


def describe() -> dict[str, Any]:
    """The framework, its version, and its devices by kind."""
    devices = {"cpu": "cpu"}
    for gpu in tf.config.list_physical_devices("GPU")[:1]:
        devices["gpu"] = tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    return {"framework": "tensorflow", "version": tf.__version__, "devices": devices}


def prepare(tf32: bool) -> dict[str, Any]:
    """Make this process deterministic and, but for TF32 where it is asked for, exact; the switches that it set."""
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    tf.random.set_seed(0)
    # TensorFlow reads this one when it is imported, so that here it can only be told.
    return {"deterministic": True, "tf32": tf32, "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "")}


def owns(model: Any) -> bool:
    """Whether `model` is of this framework."""
    return isinstance(model, tf.compat.v1.Session | tf.compat.v1.InteractiveSession)


def build(
    spec: Spec, *, shape: tuple[int | None, ...], data_format: str, dtype: str, device: str
) -> tf.compat.v1.Session:
    """A session over a fresh graph that holds the one block of `spec`, for an input of `shape`."""
    if dtype.startswith("mixed_"):
        raise InputError(
            f"received dtype {dtype!r}",
            "a floating dtype: a function of this package takes x in the dtype of its weights",
            "raw TensorFlow mixes dtypes by a rewriter of whole graphs for GPUs (auto_mixed_precision) alone",
        )
    if device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise InputError("received device='gpu'", "a GPU that TensorFlow sees")
    with tf.Graph().as_default() as graph, tf.device(DEVICES[device]):
        tf.compat.v1.set_random_seed(0)  # the graph's own: deterministic initializers ask for it
        x = tf.compat.v1.placeholder(dtype, shape, "x")
        y = function(spec)(x, data_format=data_format, dtype=dtype, scope=SCOPE, spec=spec)
        tf.compat.v1.add_to_collection(INPUT, x)
        tf.compat.v1.add_to_collection(OUTPUT, y)
        initializer = tf.compat.v1.global_variables_initializer()
    session = tf.compat.v1.Session(graph=graph, config=configuration(device))
    session.run(initializer)
    return session


def function(spec: Spec) -> Callable[..., tf.Tensor]:
    """The function of the block of `spec`."""
    return getattr(attention_tf1compat, spec.options_class.function_name)


def configuration(device: str) -> tf.compat.v1.ConfigProto:
    """One thread, whose order is no chance, and the graph as written: to optimize takes longer than a few runs."""
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    config.allow_soft_placement = True  # strings and sizes live on the host
    config.gpu_options.allow_growth = True
    if device == "cpu":
        config.device_count["GPU"] = 0
    return config


def find_blocks(model: tf.compat.v1.Session, wanted: Mapping[str, Spec]) -> dict[str, LiveBlock]:
    """The blocks of the session's graph by the name of their variable scope; all of them carry their spec. Those inside
    of a network are its parts.
    """
    variables = {variable.op.name: variable for variable in global_variables(model.graph)}
    return {scope: _live(scope, spec, variables) for scope, spec in find_specs(model.graph).items()}


def global_variables(graph: tf.Graph) -> list[tf.Variable]:
    """The variables of `graph` that a Saver would save."""
    return graph.get_collection(tf.compat.v1.GraphKeys.GLOBAL_VARIABLES)


def _live(scope: str, spec: Spec, variables: Mapping[str, tf.Variable]) -> LiveBlock:
    names = {name: _variable_name(scope, name) for name in spec.parameters()}
    return LiveBlock(spec.to_json(), {name: variables[path] for name, path in names.items() if path in variables})


def _variable_name(scope: str, name: str) -> str:
    path, _, leaf = name.rpartition(".")
    return "/".join([*filter(None, [scope]), *path.split("."), (LEAVES | NORM_LEAVES)[leaf]])


def read_variable(model: tf.compat.v1.Session, variable: tf.Variable) -> Any:
    """The value of a variable as a NumPy array; a bfloat16 one as its bits, uint16."""
    value = model.run(variable)
    return value.view("uint16") if variable.dtype.base_dtype == tf.bfloat16 else value


def write_variables(model: tf.compat.v1.Session, values: Iterable[tuple[tf.Variable, Any]]) -> None:
    """Set variables to NumPy arrays of their shapes."""
    # Feeding the initial values adds nothing to the graph, which may be finalized. Variables that share one take turns.
    rounds: list[dict[str, tuple[tf.Operation, Any]]] = []
    for variable, value in values:
        initial = variable.initializer.inputs[1].name
        free = next((one for one in rounds if initial not in one), None)
        if free is None:
            rounds.append(free := {})
        free[initial] = (variable.initializer, value)
    for one in rounds:
        model.run([initializer for initializer, _ in one.values()], {name: value for name, (_, value) in one.items()})


def stepper(
    model: tf.compat.v1.Session,
    variables: Mapping[str, tf.Variable],
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
    if mode != "plain":
        from attention_tf1compat import _modes

        return _modes.stepper(
            mode, model, variables, training=training, data_format=data_format, learning_rate=learning_rate
        )
    graph = model.graph
    parameters = {name: variable for name, variable in variables.items() if not is_statistic(name)}
    (x,) = graph.get_collection(INPUT)
    with graph.as_default(), tf.device(x.device):
        output = _training_output(graph, x, data_format) if training else graph.get_collection(OUTPUT)[0]
        cotangent = tf.compat.v1.placeholder(output.dtype, output.shape, "cotangent")
        sources = {"input": x, **parameters}
        updates = graph.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS) if training else []

    @functools.cache
    def gradients() -> dict[str, tf.Tensor]:
        with graph.as_default(), tf.device(x.device):
            found = tf.gradients(output, list(sources.values()), cotangent, unconnected_gradients="zero")
        return dict(zip(sources, found, strict=True))

    @functools.cache
    def descent() -> tf.Operation:
        pairs = [(gradients()[name], variable) for name, variable in parameters.items()]
        # A bias may be read after its own gradient is known: nothing moves before everything is read.
        with graph.as_default(), tf.device(x.device), tf.control_dependencies([output, *gradients().values()]):
            # The optimizer would keep a Python float in float32.
            rate = tf.constant(learning_rate, tf.float64)
            return tf.compat.v1.train.GradientDescentOptimizer(rate).apply_gradients(pairs)

    @functools.cache
    def callable_of(backward: bool, update: bool) -> Callable[..., Any]:
        fetches = [output, gradients() if backward else {}, updates, [descent()] if update else []]
        return model.make_callable(fetches, [x, cotangent] if backward else [x])

    def step(source: Any, given: Any, update: bool) -> tuple[Any, dict[str, Any]]:
        backward = given is not None
        feeds = (source, given) if backward else (source,)
        y, found, *_ = callable_of(backward, update and backward)(*feeds)
        return y, found

    return step


def _training_output(graph: tf.Graph, x: tf.Tensor, data_format: str) -> tf.Tensor:
    """The output in training mode: a second call on the weights, made once, because its updates would chain."""
    if not graph.get_collection(TRAINING_OUTPUT):
        spec = find_specs(graph)[SCOPE]
        # A tensor, as in graphs that train and infer, where `build` has the False of a graph that only infers.
        training = tf.compat.v1.placeholder_with_default(True, (), "training")
        # Without it, a cond that a session has run once has no gradient any more.
        tf.compat.v1.experimental.output_all_intermediates(True)
        y = function(spec)(
            x, training=training, data_format=data_format, dtype=x.dtype, scope=SCOPE, reuse=True, spec=spec
        )
        tf.compat.v1.experimental.output_all_intermediates(None)
        graph.add_to_collection(TRAINING_OUTPUT, y)
    return graph.get_collection(TRAINING_OUTPUT)[0]


def trainer(
    model: tf.compat.v1.Session,
    variables: Mapping[str, tf.Variable],
    *,
    data_format: str,
    optimizer: str,
    learning_rate: float,
    momentum: float,
) -> Any:
    """The graph, whose output are logits, in training by TensorFlow's own `optimizer`: a `parity.backends.Trainer`.

    Raises:
        InputError: for an optimizer that this package does not know. A `ValueError`.
    """
    from attention_tf1compat import _training

    return _training.trainer(
        model,
        variables,
        data_format=data_format,
        optimizer=optimizer,
        learning_rate=learning_rate,
        momentum=momentum,
    )


def layer_outputs(model: tf.compat.v1.Session, x: Any, names: Collection[str], *, data_format: str) -> dict[str, Any]:
    """What the parts `names` of a network give for x in inference mode, all NumPy and in `data_format`."""
    graph = model.graph
    (source,) = graph.get_collection(INPUT)
    # The first is of the call that `build` made; a second call is that of `_training_output`.
    found = {name: graph.get_collection(layer_collection(SCOPE, name))[0] for name in names}
    values = model.run(found, {source: x})
    return {name: _in_layout(value, data_format) for name, value in values.items()}


def _in_layout(value: Any, data_format: str) -> Any:
    """A channels-last array in `data_format`; what is no map has no other order."""
    return np.moveaxis(value, -1, 1) if data_format == "channels_first" else value
