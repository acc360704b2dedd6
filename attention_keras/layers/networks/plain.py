"""Plain network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers, ops

from attention_keras._gate import apply_activation
from attention_keras._maps import channels_last, pad_symmetric, spatial_axes
from attention_keras.layers._block import Block
from attention_keras.layers.networks._parts import block_of, convolution, normalization
from parity.spec import BatchNorm, PlainNetworkOptions


@keras.saving.register_keras_serializable(package="attention_keras")
class PlainNetwork(Block):
    """Plain network: convolutions one after the other, an attention block behind them, one dense layer (a network
    without shortcuts, as He et al., CVPR 2016, section 3.3, call it plain; Keras tutorials on attention build theirs
    so).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, kernels K_i of size k with F_i filters and stride
    s_i, attentions a_i, and u_0 = x::

        u_i = a_i(activation(norm_i(K_i * u_(i-1) + b_i)))    (N, F_i, S1/s_1../s_i, ..)
        z = flatten u_n                                       (N, P F_n)     over positions first, then over channels
        y = softmax(W z + b)                                  (N, classes)

    Sizes are divided rounding up. Convolutions are zero padded. The order of z is that of a channels-last map, in every
    layout: TensorFlow's. A channels-first map is transposed on its way in, once: inside, everything is channels-last.

    Args:
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
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        synchronized: whether replicas that train together share the norms' statistics, as Keras' own
            `BatchNormalization` has it. Not part of the spec: alone, a replica computes the same.
        kwargs: of every Keras layer: name, dtype, trainable.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: for a map of another rank or number of channels, or of another size than the head's weights are for,
            and from a call for one value per channel before a norm in training mode. A `ValueError`.

    Example:
        >>> import keras
        >>> options = {"filters": (8, 16), "strides": (1, 2), "attention": "se", "map_sizes": (5, 7)}
        >>> PlainNetwork(**options, data_format="channels_last")(keras.Input((5, 7, 3))).shape
        (None, 10)
    """

    def __init__(
        self,
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
        data_format: str | None = None,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
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
        super().__init__(options, data_format=data_format, synchronized=synchronized, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        spec, shared = self.spec, {"synchronized": self.synchronized}
        inputs = spec.channels
        for number, outputs in enumerate(spec.filters, 1):
            conv = convolution(
                inputs,
                outputs,
                spec.kernel_size,
                spec.strides[number - 1],
                spec.spatial_dims,
                padding="same" if spec.padding == "tensorflow" else None,
                bias=spec.conv_bias,
                **self.named(f"conv{number}"),
            )
            setattr(self, f"conv{number}", conv)
            named = shared | self.named(f"norm{number}")
            norm = normalization(outputs, spec.spatial_dims, spec.norm, **named) if spec.norm else None
            setattr(self, f"norm{number}", norm)
            attention = block_of(spec.attention[number - 1], **shared, **self.named(f"attention{number}"))
            setattr(self, f"attention{number}", attention)
            inputs = outputs
        self.head = layers.Dense(spec.classes, **self.named("head"))
        self.head.build((None, spec.features))

    def call(self, x: Any, training: bool | None = None) -> Any:
        """y, of shape (N, classes)."""
        self.check_input(x)
        u = channels_last(x, self.data_format)
        for number, stride in enumerate(self.spec.strides, 1):
            conv, norm, attention = (getattr(self, f"{part}{number}") for part in ("conv", "norm", "attention"))
            u = pad_symmetric(u, self.spec.kernel_size, stride) if self.spec.padding == "symmetric" else u
            u = conv(u)
            u = norm(u, training=training) if norm else u
            u = apply_activation(u, self.spec.activation)
            u = attention(u) if attention else u
        y = self.head(self.features(u))
        return ops.softmax(y) if self.spec.output == "softmax" else y

    def features(self, u: Any) -> Any:
        """z, of shape (N, features)."""
        if not self.spec.ends_in_map:
            return u
        if self.spec.head == "flatten":
            return ops.reshape(u, (ops.shape(u)[0], self.spec.features))
        return ops.mean(u, spatial_axes(u))
