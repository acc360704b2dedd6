"""Residual unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from attention_torch._block import Block
from attention_torch._norm import BatchNormalization
from attention_torch.networks._parts import NormedConvolution, average_pool, block_of, convolution
from parity.spec import BatchNorm, ResidualUnitOptions, ResidualUnitSpec


class ResidualUnit(Block):
    """Residual unit (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, equations 1 and 2, figure
    5), with an attention block where Hu et al. ("Squeeze-and-Excitation Networks", CVPR 2018, section 6.5) put it.

    For x of shape (N, C, S1..Sd) in any memory format, O output channels, stride s, kernels K of 3 and L of 1 position
    along each axis, and an attention a::

        f(u) = norm2(K2 * relu(norm1(K1 * u)))                     (N, O, S1/s..Sd/s)   K1 strided
        f(u) = norm3(L3 * relu(norm2(K2 * relu(norm1(L1 * u)))))   the same             bottleneck: K2 strided
        i = x, or norm(L * x) where s > 1 or O differs from C      (N, O, S1/s..Sd/s)   L strided
        y = relu(a(f(x)) + i)          before_addition             (N, O, S1/s..Sd/s)
        y = a(relu(f(x) + i))          after_addition
        y = relu(f(a(x)) + i)          before_unit
        y = relu(f(x) + a(i))          identity
        y = relu(f(x) + i + a(i))      beside_identity

    Sizes are divided rounding up. Every convolution is zero padded by k // 2 at both ends of every axis and has no
    bias. A bottleneck is O // 4 channels wide.

    Args:
        channels: C.
        out_channels: O; None for C.
        stride: s.
        bottleneck: whether f is the second one.
        attention: a, a key of `parity.spec.SPECS`: "se", "cbam", ...; None for a(u) = u.
        attention_options: a mapping of the options of that block; None for its defaults.
        placement: where a is, as above.
        shortcut: "convolution" as above; "average": i = norm(L * pool x) with L not strided, where pool takes the mean
            over each s^d window; of a window at the border over the positions that are there.
        norm: of all norms, a `parity.spec.BatchNorm` or its JSON form.
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain, and for a block that does not keep the shape of its map. A
            `ValueError`.
        InputError: from a call, for a map of another rank or number of channels, or for one value per channel before a
            norm in training mode. A `ValueError`.

    Example:
        >>> ResidualUnit(12, out_channels=24, stride=2, attention="se")(torch.ones(2, 12, 5, 7)).shape
        torch.Size([2, 24, 3, 4])
    """

    spec: ResidualUnitSpec

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        stride: int = 1,
        bottleneck: bool = False,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        placement: str = "before_addition",
        shortcut: str = "convolution",
        norm: BatchNorm | Mapping[str, Any] = BatchNorm(),
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = ResidualUnitOptions(
            out_channels=out_channels,
            stride=stride,
            bottleneck=bottleneck,
            attention=attention,
            attention_options=attention_options,
            placement=placement,
            shortcut=shortcut,
            norm=norm,
        )
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        for number, (inputs, outputs, size, step) in enumerate(spec.convolutions, 1):
            conv = convolution(inputs, outputs, size, step, spatial_dims, device=device, dtype=dtype)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"norm{number}", BatchNormalization(outputs, spec.norm, device=device, dtype=dtype))
        self.shortcut = (
            NormedConvolution(
                spec.channels,
                spec.out_channels,
                1,
                1 if spec.shortcut == "average" else spec.stride,
                spatial_dims,
                spec.norm,
                device=device,
                dtype=dtype,
            )
            if spec.projects
            else None
        )
        self.attention = block_of(spec.attention, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """y, of shape (N, O, *spatial)."""
        self.check_input(x)
        placement = self.spec.placement
        f = self.branch(self.attend(x) if placement == "before_unit" else x)
        i = self.identity(x)
        if placement == "before_addition":
            f = self.attend(f)
        if placement == "identity":
            i = self.attend(i)
        if placement == "beside_identity":
            f, i = f + i, self.attend(i)
        y = functional.relu(f + i)
        return self.attend(y) if placement == "after_addition" else y

    def branch(self, u: Tensor) -> Tensor:
        """f(u)."""
        count = len(self.spec.convolutions)
        for number in range(1, count + 1):
            conv, norm = getattr(self, f"conv{number}"), getattr(self, f"norm{number}")
            u = norm(conv(u))
            u = functional.relu(u) if number < count else u
        return u

    def identity(self, x: Tensor) -> Tensor:
        """i."""
        if self.shortcut is None:
            return x
        return self.shortcut(average_pool(x, self.spec.stride) if self.spec.shortcut == "average" else x)

    def attend(self, u: Tensor) -> Tensor:
        """a(u)."""
        return u if self.attention is None else self.attention(u)
