"""Efficient channel attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers, ops

from attention_keras._block import scale
from attention_keras._gate import apply_gate
from attention_keras.layers._block import Block
from parity.spec import ECAOptions, Gate


@keras.saving.register_keras_serializable(package="attention_keras")
class ECA(Block):
    """Efficient channel attention (Wang et al., "ECA-Net", CVPR 2020, equations 5 to 8; kernel size: equation 12).

    For x of shape (N, C, S1..Sd) or (N, S1..Sd, C), d = 1, 2 or 3, and a kernel w of k taps::

        z = mean_S x                                  (N, C)
        s_c = gate(sum_j w_j z_(c + j - k // 2) + b)  (N, C)
        y = x * s                                     the shape of x

    Args:
        kernel_size: k, odd; None for the rule t = int(abs(log2(C) + beta) / gamma), k = t if t is odd else t + 1.
        gamma: of the rule, positive.
        beta: of the rule.
        bias: whether b exists.
        padding: beyond the first and last channel: "zeros", or "circular" (k // 2 at most C).
        gate: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        kwargs: of every Keras layer: name, dtype, trainable.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: for a map of another rank or number of channels. A `ValueError`.

    Example:
        >>> import keras
        >>> ECA(data_format="channels_last")(keras.Input((5, 7, 256))).shape
        (None, 5, 7, 256)
    """

    def __init__(
        self,
        *,
        kernel_size: int | None = None,
        gamma: float = 2,
        beta: float = 1,
        bias: bool = False,
        padding: str = "zeros",
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        options = ECAOptions(kernel_size=kernel_size, gamma=gamma, beta=beta, bias=bias, padding=padding, gate=gate)
        super().__init__(options, data_format=data_format, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find C and d, and make the weights."""
        super().build(input_shape)
        spec = self.spec
        self.conv = layers.Conv1D(
            1,
            spec.kernel_size,
            padding="same" if spec.padding == "zeros" else "valid",
            data_format="channels_last",
            use_bias=spec.bias,
            **self.named("conv"),
        )
        self.conv.build((None, None, 1))

    def call(self, x: Any) -> Any:
        """y, of the shape of x."""
        self.check_input(x)
        z = ops.mean(x, self.spatial_axes)
        if self.spec.padding == "circular":
            edge = self.spec.kernel_size // 2
            z = ops.concatenate([z[:, z.shape[1] - edge :], z, z[:, :edge]], axis=1)
        s = apply_gate(ops.squeeze(self.conv(ops.expand_dims(z, -1)), -1), self.spec.gate)
        return scale(x, ops.expand_dims(s, self.spatial_axes))
