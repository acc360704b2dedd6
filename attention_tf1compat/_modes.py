"""The modes of raw TensorFlow: a session's graph as a function, compiled by XLA, or saved and reloaded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from attention_tf1compat import adapter
from attention_tf1compat._block import find_specs
from parity.spec import InputError, is_statistic

# As `adapter.stepper` returns it.
Step = Callable[[Any, Any, bool], tuple[Any, dict[str, Any]]]


def stepper(
    mode: str,
    session: tf.compat.v1.Session,
    variables: Mapping[str, tf.Variable],
    *,
    training: bool,
    data_format: str,
    learning_rate: float,
) -> Step:
    """As `adapter.stepper`, in a mode that is not the plain one.

    Raises:
        InputError: for a mode that this package does not know. A `ValueError`.
    """
    if mode not in MODES:
        raise InputError(f"received mode {mode!r}", f"one of plain, {', '.join(MODES)}")
    return MODES[mode](session, variables, training, data_format, learning_rate)


def function(
    session: tf.compat.v1.Session,
    variables: Mapping[str, tf.Variable],
    training: bool,
    data_format: str,
    learning_rate: float,
    jit_compile: bool = False,
) -> Step:
    """The block under `tf.compat.v1.wrap_function`, as TensorFlow 2 calls code of TensorFlow 1; gradients by a tape.

    With `jit_compile` under one more `tf.function`, which XLA compiles, the gradients with it.
    """
    (source,) = session.graph.get_collection(adapter.INPUT)
    spec = find_specs(session.graph)[adapter.SCOPE]
    signature = tf.TensorSpec(source.shape, source.dtype)

    def block(x: tf.Tensor) -> tf.Tensor:
        y = adapter.function(spec)(
            x, training=training, data_format=data_format, dtype=x.dtype, scope=adapter.SCOPE, spec=spec
        )
        with tf.control_dependencies(tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS)):
            return tf.identity(y)

    wrapped = tf.compat.v1.wrap_function(block, [signature])
    own = {variable.name: variable for variable in wrapped.variables}
    found = {name: own[variable.name] for name, variable in variables.items()}
    for name, variable in variables.items():
        found[name].assign(session.run(variable))
    spoil(session, variables)
    parameters = {name: variable for name, variable in found.items() if not is_statistic(name)}

    def backward(x: tf.Tensor, cotangent: tf.Tensor) -> tuple[tf.Tensor, list]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = wrapped(x)
        return y, tape.gradient(y, [x, *parameters.values()], cotangent, unconnected_gradients="zero")

    forward = wrapped
    if jit_compile:
        result = tf.TensorSpec(wrapped.outputs[0].shape, signature.dtype)
        forward = tf.function(wrapped, input_signature=[signature], jit_compile=True, autograph=False)
        backward = tf.function(backward, input_signature=[signature, result], jit_compile=True, autograph=False)

    def step(x: Any, cotangent: Any, update: bool) -> tuple[Any, dict[str, Any]]:
        slopes: list = []
        if cotangent is None:
            y = forward(tf.constant(x))
        else:
            y, slopes = backward(tf.constant(x), tf.constant(cotangent))
        if update:
            for variable, slope in zip(parameters.values(), slopes[1:], strict=True):
                variable.assign_sub(tf.constant(learning_rate, slope.dtype) * slope)  # tf.cast would go by float32
        adapter.write_variables(session, ((variables[name], variable.numpy()) for name, variable in found.items()))
        return y.numpy(), {name: slope.numpy() for name, slope in zip(("input", *parameters), slopes, strict=False)}

    return step


def savedmodel(
    session: tf.compat.v1.Session,
    variables: Mapping[str, tf.Variable],
    training: bool,
    data_format: str,
    learning_rate: float,
) -> Step:
    """A SavedModel, loaded into a new graph and session, where the plain stepper goes on with what it finds."""
    (x,) = session.graph.get_collection(adapter.INPUT)
    if training:
        with session.graph.as_default():
            adapter._training_output(session.graph, x, data_format)
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        save(session, Path(folder, "model"))
        loaded = tf.compat.v1.Session(
            graph=tf.Graph(), config=adapter.configuration("gpu" if "GPU" in x.device else "cpu")
        )
        tf.compat.v1.saved_model.load(loaded, [tf.saved_model.SERVING], str(Path(folder, "model")))
    own = {variable.name: variable for variable in adapter.global_variables(loaded.graph)}
    found = {name: own[variable.name] for name, variable in variables.items()}
    spoil(session, variables)
    run = adapter.stepper(loaded, found, training=training, data_format=data_format, learning_rate=learning_rate)

    def step(x: Any, cotangent: Any, update: bool) -> tuple[Any, dict[str, Any]]:
        results = run(x, cotangent, update)
        values = loaded.run(found)
        adapter.write_variables(session, ((variables[name], value) for name, value in values.items()))
        return results

    return step


def spoil(session: tf.compat.v1.Session, variables: Mapping[str, tf.Variable]) -> None:
    """Fill the variables that were copied with NaN, so that nothing can come of them unseen."""
    values = session.run(dict(variables))
    adapter.write_variables(session, ((variables[name], np.full_like(value, np.nan)) for name, value in values.items()))


def save(session: tf.compat.v1.Session, folder: Path) -> None:
    """Write the graph of `session` with its inference output as a SavedModel."""
    (x,), (y,) = session.graph.get_collection(adapter.INPUT), session.graph.get_collection(adapter.OUTPUT)
    with session.graph.as_default():
        tf.compat.v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": y})


def tflite(
    session: tf.compat.v1.Session,
    variables: Mapping[str, tf.Variable],
    training: bool,
    data_format: str,
    learning_rate: float,
) -> Step:
    """The SavedModel, converted to LiteRT and run by its interpreter, resized for each map."""
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        save(session, Path(folder, "model"))
        model = tf.lite.TFLiteConverter.from_saved_model(str(Path(folder, "model"))).convert()
    interpreter = tf.lite.Interpreter(model_content=model, num_threads=1)
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def step(x: Any, cotangent: Any, update: bool) -> tuple[Any, dict[str, Any]]:
        interpreter.resize_tensor_input(source["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"]), {}

    return step


MODES: dict[str, Callable[..., Step]] = {
    "function": function,
    "xla": partial(function, jit_compile=True),
    "savedmodel": savedmodel,
    "tflite": tflite,
}
