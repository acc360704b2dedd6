"""Efficient channel attention with self-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers, ops

from attention_keras._block import scale as gated
from attention_keras._gate import apply_gate
from attention_keras._maps import channels_back, channels_last
from attention_keras.layers._block import Block
from attention_keras.layers._self_attention import SelfAttention
from parity.spec import Gate, MultiHeadECAOptions


@keras.saving.register_keras_serializable(package="attention_keras")
class MultiHeadECA(Block):
    """Efficient channel attention (Wang et al., "ECA-Net", CVPR 2020, equations 5 to 8), then multi-head self-attention
    over positions (Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.2).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, a kernel w of k taps, and H heads of
    D = C / H channels::

        z = mean_S x                                         (N, C)
        s_c = gate(sum_j w_j z_(c + j - k // 2))             (N, C)
        t = x * s, one row a position                        (N, T, C)      T = S1 .. Sd
        q, k, v = Wq t + bq, Wk t + bk, Wv t + bv            (N, H, T, D)   head h: channels h D to h D + D - 1
        u = Wo [softmax(q k^T / sqrt(D)) v of each head] + bo     (N, C, S1..Sd)
        y = scale * u + offset                               (N, C, S1..Sd)

    Beyond the first and last channel there are zeros.

    Args:
        kernel_size: k, odd; None for the rule of `ECA` with gamma=2 and beta=1.
        num_heads: H, which divides C.
        attention_bias: whether bq, bk, bv and bo exist.
        scale: a number, no parameter.
        offset: likewise.
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        kwargs: of every Keras layer: name, dtype, trainable.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> MultiHeadECA(num_heads=4, data_format="channels_last")(keras.Input((5, 7, 16))).shape
        (None, 5, 7, 16)
    """

    def __init__(
        self,
        *,
        kernel_size: int | None = 3,
        num_heads: int = 4,
        attention_bias: bool = True,
        scale: float = 2.0,
        offset: float = 1.0,
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        options = MultiHeadECAOptions(
            kernel_size=kernel_size,
            num_heads=num_heads,
            attention_bias=attention_bias,
            scale=scale,
            offset=offset,
            gate=gate,
        )
        super().__init__(options, data_format=data_format, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        spec = self.spec
        self.conv = layers.Conv1D(
            1, spec.kernel_size, padding="same", data_format="channels_last", use_bias=False, **self.named("conv")
        )
        self.attention = SelfAttention(spec.num_heads, spec.attention_bias, **self.named("attention"))
        self.conv.build((None, None, 1))
        self.attention.build((None,) * (spec.spatial_dims + 1) + (spec.channels,))

    def call(self, x: Any) -> Any:
        """y, of the shape of x."""
        self.check_input(x)
        z = ops.mean(x, self.spatial_axes)
        s = apply_gate(ops.squeeze(self.conv(ops.expand_dims(z, -1)), -1), self.spec.gate)
        u = channels_last(gated(x, ops.expand_dims(s, self.spatial_axes)), self.data_format)
        return self.spec.scale * channels_back(self.attention(u), self.data_format) + self.spec.offset
