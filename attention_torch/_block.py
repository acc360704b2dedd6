"""What the modules of all blocks share."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from attention_torch._norm import Host
from parity.spec import Spec, check_spec_of, spatial_axes

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Block(Host):
    """A module that knows its spec and checks its input."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.spatial_axes = spatial_axes(spec.spatial_dims, "channels_first")

    @classmethod
    def from_spec(
        cls, spec: Spec, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """The module that `spec` describes, with fresh weights; raises `SpecError` for a spec of another block."""
        check_spec_of(spec, cls)
        make: Any = cls  # the subclasses take options, not a spec
        arguments = spec.options().arguments()
        return make(spec.channels, spatial_dims=spec.spatial_dims, **arguments, device=device, dtype=dtype)

    def check_input(self, x: Tensor) -> None:
        """Raise `parity.spec.InputError` unless x is (N, C, *spatial) of the right rank and channels."""
        self.spec.check_input(x.shape, "channels_first")

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.spec.arguments().items())


def broadcast(s: Tensor, dims: int) -> Tensor:
    """s with `dims` axes of size one appended, so that it multiplies a map."""
    return s[(..., *(None,) * dims)]


def pointwise(layer: nn.Linear, x: Tensor) -> Tensor:
    """W x + b at each position of a map, in its layout, with the weights of `layer`."""
    # Calling the layer would have to move the channels behind all positions: the map is multiplied as it lies.
    w, b, flat = layer.weight.expand(x.shape[0], -1, -1), layer.bias, x.flatten(2)
    u = torch.bmm(w, flat) if b is None else torch.baddbmm(b[:, None], w, flat)
    return u.unflatten(2, x.shape[2:])


def softmax(u: Tensor, axis: int) -> Tensor:
    """The softmax of u along `axis`, in float32 at least: half precision would lose what many small terms come to."""
    return u.softmax(axis, torch.promote_types(u.dtype, torch.float32))


def weighed(x: Tensor, a: Tensor, axis: int) -> Tensor:
    """The sum of a * x along `axis`, accumulated in float32 at least, and so are the gradients; in the dtype of x."""
    return (x * a).sum(axis).to(x.dtype)
