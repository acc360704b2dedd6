"""Plain network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, block_scope, dense, mean, widen
from attention_tf1compat._gate import apply_activation
from attention_tf1compat._norm import batch_norm
from attention_tf1compat.networks._parts import block_of, convolution, keep_layer, to_channels_last
from parity.spec import BatchNorm, InputError, PlainNetworkOptions, PlainNetworkSpec, spatial_axes


def plain_network(
    x: tf.Tensor,
    *,
    filters: Sequence[int] = (64, 128, 256),
    strides: Sequence[int] = (1, 2, 2),
    kernel_size: int = 3,
    conv_bias: bool = True,
    padding: str = "tensorflow",
    norm: BatchNorm | Mapping[str, Any] | None = None,
    activation: str = "identity",
    attention: str | None = "cbam",
    attention_options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
    attention_after: str = "each",
    head: str = "flatten",
    map_sizes: Sequence[int] | None = None,
    classes: int = 10,
    output: str = "softmax",
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: PlainNetworkSpec | None = None,
) -> tf.Tensor:
    """Plain network: convolutions one after the other, an attention block behind them, one dense layer (a network
    without shortcuts, as He et al., CVPR 2016, section 3.3, call it plain; Keras tutorials on attention build theirs
    so).

    For x of shape (N, C, S1..Sd), or channels last, kernels K_i of size k with F_i filters and stride s_i, attentions
    a_i, and u_0 = x::

        u_i = a_i(activation(norm_i(K_i * u_(i-1) + b_i)))    (N, F_i, S1/s_1../s_i, ..)
        z = flatten u_n                                       (N, P F_n)     over positions first, then over channels
        y = softmax(W z + b)                                  (N, classes)

    Sizes are divided rounding up. Convolutions are zero padded. The order of z is that of a channels-last map, in every
    layout: TensorFlow's. Inside, all is channels last: a channels-first x is transposed once, at the entry.

    Variables: ``conv1/kernel (*k, C, F_1)``, ``conv1/bias (F_1)``,
    ``norm1/{gamma,beta,moving_mean,moving_variance} (F_1)``, those of the block under ``attention1``, and so on;
    ``head/kernel (features, classes)``, ``head/bias (classes)``.

    What each convolution, with its bias alone, and each block put out is in the graph collections
    ``attention_tf1compat/layers/<scope>/conv1``, ``../attention1``, ..., a channels-last tensor for each call.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        filters: F_1..F_n.
        strides: s_1..s_n.
        kernel_size: k, odd.
        conv_bias: whether the b_i exist.
        padding: "tensorflow": as TensorFlow's "same", the odd one of the zeros at the end, as many as a stride needs;
            "symmetric": k // 2 zeros at both ends.
        norm: of every norm, a `parity.spec.BatchNorm` or its JSON form; None for none.
        activation: "relu", "silu", "hard_swish" or "identity".
        attention: a_i, a key of `parity.spec.SPECS`; None for none.
        attention_options: a mapping of the options of that block, or a sequence with one for each convolution; None for
            its defaults.
        attention_after: "each" convolution, or the "last" alone. A block that does not give back a map can only be
            behind the last.
        head: "flatten" as above; "mean": z = mean_S u_n, (N, F_n). Where the last block takes the positions away, z is
            what is left.
        map_sizes: S1..Sd, which "flatten" needs.
        classes: of the output.
        output: "softmax", or "logits": y = W z + b.
        training: whether the norms take the moments of the batch and add their updates to UPDATE_OPS: True, False, or a
            scalar boolean tensor that decides when the graph runs.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from "plain".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: a `PlainNetworkSpec` in place of the options.

    Returns:
        y, of shape (N, classes).

    Raises:
        SpecError: for an argument outside its domain, options beside `spec`, or another spec than the scope has. A
            `ValueError`.
        InputError: for a map of another or unknown rank, number of channels or dtype, or of another size than the
            head's weights are for, or for one value per channel before a norm in training mode (both a
            `tf.errors.InvalidArgumentError` where only the run tells). A `ValueError`.

    Example:
        >>> with tf.Graph().as_default():
        ...     x = tf.ones((2, 5, 7, 3))
        ...     plain_network(x, filters=(8, 16), strides=(1, 2), attention="se", map_sizes=(5, 7)).shape
        TensorShape([2, 10])
    """
    options = PlainNetworkOptions(
        filters=filters,
        strides=strides,
        kernel_size=kernel_size,
        conv_bias=conv_bias,
        padding=padding,
        norm=norm,
        activation=activation,
        attention=attention,
        attention_options=attention_options,
        attention_after=attention_after,
        head=head,
        map_sizes=map_sizes,
        classes=classes,
        output=output,
    )
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        u = check_sizes(to_channels_last(x, data_format), spec)
        inputs = spec.channels
        for number, outputs in enumerate(spec.filters, 1):
            sizes = (inputs, outputs, spec.kernel_size, spec.strides[number - 1], spec.spatial_dims)
            conv = convolution(f"conv{number}", *sizes, x.dtype, padding=spec.padding, bias=spec.conv_bias)
            attend = block_of(spec.attention[number - 1], f"attention{number}", training)
            u = conv(u)
            keep_layer(f"conv{number}", u)
            u = batch_norm(u, spec.norm, training, f"norm{number}") if spec.norm else u
            u = apply_activation(u, spec.activation)
            if attend:
                u = attend(u)
                keep_layer(f"attention{number}", u)
            inputs = outputs
        fc = dense("head", spec.features, spec.classes, True, x.dtype)
        y = fc(features(u, spec))
        return tf.cast(tf.nn.softmax(widen(y)), y.dtype) if spec.output == "softmax" else y


def check_sizes(u: tf.Tensor, spec: PlainNetworkSpec) -> tf.Tensor:
    """u, whose sizes are the head's, at the latest when the graph runs: other maps may flatten to as many features."""
    if spec.map_sizes is None or u.shape[1:-1].is_fully_defined():
        return u
    # Not tf.ensure_shape: LiteRT cannot.
    wanted = f"a map of {spec.map_sizes}: the head's weights are for that size"
    error = InputError("received a map of another size", wanted, "resize it, or use head='mean'")
    with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(u)[1:-1], spec.map_sizes, str(error))]):
        u = tf.identity(u)
    u.set_shape((None, *spec.map_sizes, spec.channels))
    return u


def features(u: tf.Tensor, spec: PlainNetworkSpec) -> tf.Tensor:
    """z, of shape (N, features)."""
    if not spec.ends_in_map:
        return u
    if spec.head == "flatten":
        return tf.reshape(u, (-1, spec.features))
    return mean(u, spatial_axes(u.shape.rank - 2, "channels_last"))  # the last block may take one away
