"""Convolutional block attention module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attention_torch._block import CONVOLUTIONS, Block, broadcast
from attention_torch._gate import apply_activation, apply_gate
from attention_torch._norm import BatchNormalization, Host
from parity.spec import BatchNorm, CBAMOptions, CBAMSpec, Gate


class CBAM(Block):
    """Convolutional block attention module (Woo et al., "CBAM", ECCV 2018, equations 1 to 3).

    For x of shape (N, C, S1..Sd) in any memory format, h hidden channels and a kernel K of size k::

        c = gate(MLP(mean_S x) + MLP(max_S x))    (N, C)       MLP(z) = W2 activation(W1 z + b1) + b2
        x' = x * c                                (N, C, S1..Sd)
        p = [mean_C x', max_C x']                 (N, 2, S1..Sd)
        m = gate(norm(K * p + b))                 (N, 1, S1..Sd)
        y = x' * m                                (N, C, S1..Sd)

    The convolution is zero padded to keep the size. Plane 0 is the mean and plane 1 the maximum, always. Tied maxima
    share the gradient evenly. The defaults are the authors' code.

    Args:
        channels: C; None leaves it open, for a spatial half on pooled planes alone.
        reduction: h = max(1, C // reduction), unless `hidden_channels` is given.
        hidden_channels: h itself, or None.
        mlp_bias: whether b1 and b2 exist.
        activation: of the MLP: "relu", "silu", "hard_swish" or "identity".
        channel_merge: "add" as above; "concat": c = gate(MLP([mean_S x, max_S x])), one pass, W1 is (h, 2 C).
        kernel_size: k, odd.
        spatial_bias: whether b exists.
        spatial_norm: a `parity.spec.BatchNorm` (or its JSON form) after the convolution, or None.
        spatial_features: "pooled" as above; "full": the convolution sees all C channels instead of the two planes.
        spatial_source: "refined" as above; "input": the planes are taken from x instead of x'.
        parts: "both", or "channel" (y = x') or "spatial" (x' = x) alone.
        gate: of both halves: "sigmoid", "hard_sigmoid", "identity", a `parity.spec.Gate`, or its JSON form.
        residual: whether x is added to y.
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: from a call, for a map of another rank or number of channels, or for one value per channel before
            the norm in training mode. A `ValueError`.

    Example:
        >>> CBAM(24, reduction=4)(torch.ones(2, 24, 5, 7)).shape
        torch.Size([2, 24, 5, 7])
    """

    spec: CBAMSpec

    def __init__(
        self,
        channels: int | None,
        *,
        reduction: int = 16,
        hidden_channels: int | None = None,
        mlp_bias: bool = True,
        activation: str = "relu",
        channel_merge: str = "add",
        kernel_size: int = 7,
        spatial_bias: bool = False,
        spatial_norm: BatchNorm | Mapping[str, Any] | None = BatchNorm(update_rate=0.01),
        spatial_features: str = "pooled",
        spatial_source: str = "refined",
        parts: str = "both",
        gate: Gate | str | Mapping[str, Any] = "sigmoid",
        residual: bool = False,
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = CBAMOptions(
            reduction=reduction,
            hidden_channels=hidden_channels,
            mlp_bias=mlp_bias,
            activation=activation,
            channel_merge=channel_merge,
            kernel_size=kernel_size,
            spatial_bias=spatial_bias,
            spatial_norm=spatial_norm,
            spatial_features=spatial_features,
            spatial_source=spatial_source,
            parts=parts,
            gate=gate,
            residual=residual,
        )
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        self.channel = ChannelAttention(spec, device=device, dtype=dtype) if spec.has_channel else None
        self.spatial = SpatialAttention(spec, device=device, dtype=dtype) if spec.has_spatial else None

    def forward(self, x: Tensor) -> Tensor:
        """y, of the shape of x."""
        self.check_input(x)
        refined = x * broadcast(self.channel(x), self.spec.spatial_dims) if self.channel else x
        y = refined * self.spatial(x if self.spec.spatial_source == "input" else refined) if self.spatial else refined
        return y + x if self.spec.residual else y


class ChannelAttention(nn.Module):
    """The channel half: c of shape (N, C) from x."""

    def __init__(
        self, spec: CBAMSpec, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        inputs = spec.channels * (2 if spec.channel_merge == "concat" else 1)
        self.fc1 = nn.Linear(inputs, spec.hidden_channels, spec.mlp_bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(spec.hidden_channels, spec.channels, spec.mlp_bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """c, of shape (N, C)."""
        spatial_axes = tuple(range(2, x.ndim))
        # amax, not max pooling: it shares the gradient of tied maxima evenly.
        z_mean, z_max = x.mean(spatial_axes), x.amax(spatial_axes)
        if self.spec.channel_merge == "concat":
            u = self.mlp(torch.cat([z_mean, z_max], dim=1))
        else:
            u = self.mlp(z_mean) + self.mlp(z_max)
        return apply_gate(u, self.spec.gate)

    def mlp(self, z: Tensor) -> Tensor:
        """W2 activation(W1 z + b1) + b2."""
        return self.fc2(apply_activation(self.fc1(z), self.spec.activation))


class SpatialAttention(Host):
    """The spatial half: m of shape (N, 1, *spatial) from the map that it is to judge."""

    def __init__(
        self, spec: CBAMSpec, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        planes = spec.channels if spec.spatial_features == "full" else 2
        self.conv = CONVOLUTIONS[spec.spatial_dims](
            planes,
            1,
            spec.kernel_size,
            padding=spec.kernel_size // 2,
            bias=spec.spatial_bias,
            device=device,
            dtype=dtype,
        )
        self.norm = BatchNormalization(1, spec.spatial_norm, device=device, dtype=dtype) if spec.spatial_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """m, of shape (N, 1, *spatial)."""
        p = x
        if self.spec.spatial_features == "pooled":
            p = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        if p.ndim == 5 and p.is_cpu:
            # Of a channels-last map in bfloat16, conv3d on the CPU gives a kernel gradient of memory never written.
            p = p.contiguous()
        u = self.conv(p)
        u = self.norm(u) if self.norm else u
        return apply_gate(u, self.spec.gate)
