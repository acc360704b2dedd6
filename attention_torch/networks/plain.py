"""Plain network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attention_torch._block import Block
from attention_torch._gate import apply_activation
from attention_torch._norm import BatchNormalization
from attention_torch.networks._parts import block_of, convolution, pad_as_tensorflow, positions_first
from parity.spec import BatchNorm, PlainNetworkOptions, PlainNetworkSpec, spatial_axes


class PlainNetwork(Block):
    """Plain network: convolutions one after the other, an attention block behind them, one dense layer (a network
    without shortcuts, as He et al., CVPR 2016, section 3.3, call it plain; Keras tutorials on attention build theirs
    so).

    For x of shape (N, C, S1..Sd) in any memory format, kernels K_i of size k with F_i filters and stride s_i,
    attentions a_i, and u_0 = x::

        u_i = a_i(activation(norm_i(K_i * u_(i-1) + b_i)))    (N, F_i, S1/s_1../s_i, ..)
        z = flatten u_n                                       (N, P F_n)     over positions first, then over channels
        y = softmax(W z + b)                                  (N, classes)

    Sizes are divided rounding up. Convolutions are zero padded. The order of z is that of a channels-last map, in every
    layout: TensorFlow's.

    Args:
        channels: C.
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
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: from a call, for a map of another rank or number of channels, or of another size than the head's
            weights are for, or for one value per channel before a norm in training mode. A `ValueError`.

    Example:
        >>> network = PlainNetwork(3, filters=(8, 16), strides=(1, 2), attention="se", map_sizes=(5, 7))
        >>> network(torch.ones(2, 3, 5, 7)).shape
        torch.Size([2, 10])
    """

    spec: PlainNetworkSpec

    def __init__(
        self,
        channels: int,
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
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
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
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        inputs = spec.channels
        for number, outputs in enumerate(spec.filters, 1):
            conv = convolution(
                inputs,
                outputs,
                spec.kernel_size,
                spec.strides[number - 1],
                spatial_dims,
                padding=0 if spec.padding == "tensorflow" else None,
                bias=spec.conv_bias,
                device=device,
                dtype=dtype,
            )
            self.add_module(f"conv{number}", conv)
            norm_of = BatchNormalization(outputs, spec.norm, device=device, dtype=dtype) if spec.norm else None
            self.add_module(f"norm{number}", norm_of)
            self.add_module(f"attention{number}", block_of(spec.attention[number - 1], device=device, dtype=dtype))
            inputs = outputs
        self.head = nn.Linear(spec.features, spec.classes, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """y, of shape (N, classes)."""
        self.check_input(x)
        u = x
        for number, stride in enumerate(self.spec.strides, 1):
            conv, norm, attention = (getattr(self, f"{part}{number}") for part in ("conv", "norm", "attention"))
            u = pad_as_tensorflow(u, self.spec.kernel_size, stride) if self.spec.padding == "tensorflow" else u
            u = conv(u)
            u = norm(u) if norm else u
            u = apply_activation(u, self.spec.activation)
            u = attention(u) if attention else u
        y = self.head(self.features(u))
        return y.softmax(-1) if self.spec.output == "softmax" else y

    def features(self, u: Tensor) -> Tensor:
        """z, of shape (N, features)."""
        if not self.spec.ends_in_map:
            return u
        if self.spec.head == "flatten":
            return positions_first(u)
        return u.mean(spatial_axes(u.ndim - 2, "channels_first"))  # the last block may take one away
