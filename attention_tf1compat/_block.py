"""What the functions of all blocks share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar, cast

import tensorflow as tf

from parity.spec import AXIS_NAMES, InputError, Options, Spec, SpecError, channel_axis, spec_from_json

# The graph collection of the specs: JSON texts {"scope": .., "spec": .., "part": ..}, because a MetaGraph exports text.
SPECS = "attention_tf1compat/specs"

# Whether a block is being built, so that what is called now is a part of it.
_is_inside = ContextVar("_is_inside", default=False)

Scope: TypeAlias = "str | tf.compat.v1.VariableScope | None"

S = TypeVar("S", bound=Spec)


@contextmanager
def block_scope(
    x: Any,
    options: Options,
    spec: S | None,
    *,
    training: Any,
    data_format: str,
    dtype: tf.DType | str,
    scope: Scope,
    reuse: Any,
) -> Iterator[tuple[tf.Tensor, S]]:
    """Open the variable scope of a block; x as a tensor, checked, and the spec, which the graph keeps from then on."""
    if tf.executing_eagerly():
        raise InputError("received a call in eager mode", "a graph", "call it under `with tf.Graph().as_default():`")
    x = tf.convert_to_tensor(x)
    check_dtype(x, dtype)
    static_training(training)  # for its check, which blocks without a norm would not reach
    spec = resolve(x, options, spec, data_format)
    with tf.compat.v1.variable_scope(scope, options.block, [x], reuse=reuse) as opened:
        kept, was_part = _find_spec(tf.compat.v1.get_default_graph(), opened.name)
        if kept is not None and kept.differences(spec):
            raise SpecError(
                f"received a spec for the scope {opened.name!r} that differs from the one of its first call "
                f"(first call, this call): {'; '.join(kept.differences(spec))}",
                "equal specs, because the calls share their weights",
                "use another scope",
            )
        is_part = _is_inside.get()
        before = _is_inside.set(True)
        try:
            yield x, spec
        finally:
            _is_inside.reset(before)
        if kept is None or (is_part and not was_part):  # at the end, so that a call that failed keeps no spec
            text = json.dumps({"scope": opened.name, "spec": spec.to_json(), "part": is_part})
            tf.compat.v1.add_to_collection(SPECS, text)


def static_training(training: Any) -> bool | tf.Tensor:
    """`training` as True or False where that is known when the graph is built, else as a scalar boolean tensor."""
    if isinstance(training, bool):
        return training
    tensor = None if training is None else tf.convert_to_tensor(training)
    if tensor is None or tensor.dtype.base_dtype != tf.bool or not tensor.shape.is_compatible_with(()):
        raise InputError(f"received training={training!r}", "True, False or a scalar boolean tensor")
    value = tf.get_static_value(tensor)
    return tensor if value is None else bool(value)


def check_dtype(x: tf.Tensor, dtype: tf.DType | str) -> None:
    """Raise `parity.spec.InputError` unless x has the floating dtype of the weights."""
    dtype, received = tf.as_dtype(dtype), x.dtype.base_dtype
    if not dtype.is_floating:
        raise InputError(f"received dtype={dtype.name}", "a floating-point dtype of the weights")
    if received != dtype:
        remedy = f"cast x with tf.cast(x, tf.{dtype.name})"
        if received.is_floating:
            remedy = f"pass dtype=tf.{received.name} for weights of that dtype, or {remedy}"
        raise InputError(
            f"received an input of dtype {received.name}", f"{dtype.name}, the dtype of the weights", remedy
        )


def resolve(x: tf.Tensor, options: Options, spec: S | None, data_format: str) -> S:
    """`spec`, or what `options` come to for x; raises `parity.spec.InputError` where x does not fit."""
    if x.shape.rank is None:
        raise InputError("received an input of unknown rank", "3, 4 or 5 axes", "call x.set_shape first")
    shape = x.shape.as_list()
    if spec is None:
        if len(shape) - 2 not in AXIS_NAMES:
            raise InputError(f"received an input of shape {tuple(shape)}", "3, 4 or 5 axes")
        channels = shape[channel_axis(len(shape) - 2, data_format)]
        if channels is None:
            raise InputError(
                f"received an input of shape {tuple(shape)} with data_format={data_format!r}",
                "a known number of channels",
                "call x.set_shape first",
            )
        spec = cast(S, options.resolve(channels, len(shape) - 2))
    else:
        options.given_by(spec)
    spec.check_input(shape, data_format)
    return spec


def find_specs(graph: tf.Graph) -> dict[str, Spec]:
    """The specs that `graph` keeps, by the name of their variable scope; the parts of a network are left out."""
    entries = list(_entries(graph))
    parts = {scope for scope, entry in entries if entry.get("part")}
    return {scope: spec_from_json(entry["spec"]) for scope, entry in entries if scope not in parts}


def _find_spec(graph: tf.Graph, scope: str) -> tuple[Spec | None, bool]:
    """The spec that `graph` keeps for one scope, or None; and whether it is that of a part of a network."""
    entries = [entry for name, entry in _entries(graph) if name == scope]
    if not entries:
        return None, False
    return spec_from_json(entries[0]["spec"]), any(entry.get("part") for entry in entries)


def _entries(graph: tf.Graph) -> Iterator[tuple[str, dict[str, Any]]]:
    for text in graph.get_collection(SPECS):
        # Importing a MetaGraph with import_scope="a" puts "a/" before every text, as before every variable's name.
        prefix, brace, rest = tf.compat.as_text(text).partition("{")
        entry = json.loads(brace + rest)
        yield (prefix + entry["scope"]).strip("/"), entry


def variable(name: str, shape: Sequence[int], dtype: tf.DType, initializer: Any, trainable: bool = True) -> tf.Variable:
    """The resource variable `name` of the open scope."""
    return tf.compat.v1.get_variable(name, shape, dtype, initializer, trainable=trainable, use_resource=True)


def kernel_and_bias(name: str, shape: Sequence[int], bias: bool, dtype: tf.DType) -> tuple[tf.Variable, Any]:
    """The variables of a layer whose kernel is (*spatial, in, out); None for an absent bias."""
    with tf.compat.v1.variable_scope(name):
        kernel = variable("kernel", shape, dtype, tf.compat.v1.glorot_uniform_initializer())
        return kernel, variable("bias", shape[-1:], dtype, tf.compat.v1.zeros_initializer()) if bias else None


def add_bias(u: tf.Tensor, bias: tf.Variable | None) -> tf.Tensor:
    """u + bias along the last axis, or u where there is none."""
    return u if bias is None else u + bias


def dense(name: str, inputs: int, outputs: int, bias: bool, dtype: tf.DType) -> Callable[[tf.Tensor], tf.Tensor]:
    """The map z -> z W + b on the last axis, with the variables `name`/kernel (inputs, outputs) and `name`/bias."""
    w, b = kernel_and_bias(name, (inputs, outputs), bias, dtype)
    # tensordot flattens the leading axes; matmul would keep a gradient of W for each sample until it adds them up.
    return lambda z: add_bias(tf.matmul(z, w) if z.shape.rank == 2 else tf.tensordot(z, w, 1), b)


def pointwise(
    name: str, inputs: int, outputs: int, bias: bool, dtype: tf.DType, data_format: str
) -> Callable[[tf.Tensor], tf.Tensor]:
    """The map x -> W x + b at each position of a map, in its layout, with the variables of `dense`."""
    if data_format == "channels_last":
        return dense(name, inputs, outputs, bias, dtype)
    w, b = kernel_and_bias(name, (inputs, outputs), bias, dtype)

    def at_each(x: tf.Tensor) -> tf.Tensor:
        # The map is multiplied as it lies, neither transposed nor convolved: that TensorFlow cannot on the CPU.
        batch, *sizes = (tf.shape(x)[axis] if size is None else size for axis, size in enumerate(x.shape) if axis != 1)
        u = tf.matmul(w, tf.reshape(x, [batch, inputs, math.prod(sizes)]), transpose_a=True)
        return tf.reshape(u if b is None else u + b[:, None], [batch, outputs, *sizes])

    return at_each


def widen(x: tf.Tensor) -> tf.Tensor:
    """x in float32 if it is of half precision, else x."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def mean(x: tf.Tensor, axes: Sequence[int] | int) -> tf.Tensor:
    """The mean of x over `axes`, accumulated in float32 at least: float16 overflows on large maps."""
    return tf.cast(tf.reduce_mean(widen(x), axes), x.dtype)


def maximum(x: tf.Tensor, axes: Sequence[int] | int) -> tf.Tensor:
    """The maximum of x over `axes`; tied elements share the gradient evenly."""
    # The gradient divides by the number of ties, which float16 cannot count.
    return tf.cast(tf.reduce_max(widen(x), axes), x.dtype)


def larger(x: tf.Tensor, c: tf.Tensor, s: tf.Tensor) -> tf.Tensor:
    """The larger of x * c and x * s, element by element; where both are the same they share the gradient evenly."""
    # tf.maximum gives the gradient of a tie to the first of both: here each of them is the first of a half.
    one, two = x * (c * 0.5), x * (s * 0.5)
    return tf.maximum(one, two) + tf.maximum(two, one)


def softmax(u: tf.Tensor, axis: int) -> tf.Tensor:
    """The softmax of u along `axis`, in float32 at least: half precision would lose what many small terms come to."""
    return tf.nn.softmax(widen(u), axis)


def weighed(x: tf.Tensor, a: tf.Tensor, axis: int) -> tf.Tensor:
    """The sum of a * x along `axis`, accumulated in float32 at least, and so are the gradients; in the dtype of x."""
    return tf.cast(tf.reduce_sum(widen(x) * widen(a), axis), x.dtype)


def broadcast(s: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    """s with axes of size one put in at `axes`, in ascending order, so that it multiplies a map."""
    for axis in axes:
        s = tf.expand_dims(s, axis)
    return s
