"""ResNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_torch._block import Block
from attention_torch.networks._parts import NormedConvolution, max_pool
from attention_torch.networks.residual import ResidualUnit
from parity.spec import BatchNorm, ResNetOptions, ResNetSpec


class ResNet(Block):
    """ResNet (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1), with an attention block
    in each unit where Hu et al. ("Squeeze-and-Excitation Networks", CVPR 2018, section 6.5) put it.

    For x of shape (N, C, S1..Sd) in any memory format, and stages of n_1..n_k residual units::

        u = relu(norm(K * x))                        (N, stem channels, S1/s..Sd/s)
        u = unit_n(..unit_1(u))                      (N, F_i, ..)    for each stage i; F_i = width * 2^(i - 1), four
                                                     times that for bottlenecks; the first unit of all stages but the
                                                     first has stride 2
        y = W mean_S u + b                           (N, classes)    logits

    The stem "imagenet" has a kernel of 7 and stride 2, and then takes the maximum over windows of 3 positions along
    each axis, again with stride 2 (1 more at both ends, which is never the maximum); "small" has a kernel of 3, stride
    1, and no maximum. Convolutions are padded as in `ResidualUnit`.

    Args:
        channels: C.
        depth: 18, 34, 50, 101 or 152: the paper's networks.
        depths: n_1..n_k instead, with the default depth.
        bottleneck: with `depths`, whether units are bottlenecks; None for not.
        width: of the first stage.
        stem: "imagenet" or "small".
        stem_channels: of the stem; None for width.
        attention: a key of `parity.spec.SPECS`, in every unit; None for none.
        attention_options: a mapping of the options of that block, or a sequence with one for each stage; None for its
            defaults. Sizes that follow from channels follow from the F_i, in the first unit of a stage, too.
        placement: in the units, as `ResidualUnit` tells.
        shortcut: of the units that change the shape: "convolution" or "average".
        norm: of all norms, a `parity.spec.BatchNorm` or its JSON form.
        classes: of the output.
        spatial_dims: d: 1, 2 or 3.
        device, dtype: of the weights, as in every PyTorch module.

    Raises:
        SpecError: for an argument outside its domain, and for a block that does not keep the shape of its map. A
            `ValueError`.
        InputError: from a call, for a map of another rank or number of channels, or for one value per channel before a
            norm in training mode. A `ValueError`.

    Example:
        >>> ResNet(3, depth=18, width=8, attention="se", classes=10)(torch.ones(2, 3, 33, 35)).shape
        torch.Size([2, 10])
    """

    spec: ResNetSpec

    def __init__(
        self,
        channels: int,
        *,
        depth: int = 18,
        depths: Sequence[int] | None = None,
        bottleneck: bool | None = None,
        width: int = 64,
        stem: str = "imagenet",
        stem_channels: int | None = None,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        placement: str = "before_addition",
        shortcut: str = "convolution",
        norm: BatchNorm | Mapping[str, Any] = BatchNorm(),
        classes: int = 1000,
        spatial_dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = ResNetOptions(
            depth=depth,
            depths=depths,
            bottleneck=bottleneck,
            width=width,
            stem=stem,
            stem_channels=stem_channels,
            attention=attention,
            attention_options=attention_options,
            placement=placement,
            shortcut=shortcut,
            norm=norm,
            classes=classes,
        )
        spec = options.resolve(channels, spatial_dims)
        super().__init__(spec)
        size, stride = (7, 2) if spec.stem == "imagenet" else (3, 1)
        self.stem = Stem(
            spec.channels, spec.stem_channels, size, stride, spatial_dims, spec.norm, device=device, dtype=dtype
        )
        for number, units in enumerate(spec.units(), 1):
            made = {
                f"unit{place}": ResidualUnit.from_spec(unit, device=device, dtype=dtype)
                for place, unit in enumerate(units, 1)
            }
            self.add_module(f"stage{number}", nn.ModuleDict(made))
        self.head = nn.Linear(spec.features, spec.classes, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """y, of shape (N, classes)."""
        self.check_input(x)
        u = self.stem(x)
        u = max_pool(u) if self.spec.stem == "imagenet" else u
        for number in range(1, len(self.spec.depths) + 1):
            for unit in getattr(self, f"stage{number}").values():
                u = unit(u)
        return self.head(u.mean(self.spatial_axes))


class Stem(NormedConvolution):
    """relu(norm(K * x))."""

    def forward(self, x: Tensor) -> Tensor:
        """The map behind the activation."""
        return functional.relu(super().forward(x))
