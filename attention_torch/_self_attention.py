"""Multi-head self-attention over the positions of a map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """Wo [softmax(q k^T / sqrt(D)) v of each head] + bo over the positions of a map (N, C, S1..Sd), of its shape.

    Args:
        channels: C.
        num_heads: H, which divides C: D = C / H.
        bias: whether the four projections have biases.
        device, dtype: of the weights, as in every PyTorch module.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        bias: bool,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(channels, channels, bias, device=device, dtype=dtype)
        self.key = nn.Linear(channels, channels, bias, device=device, dtype=dtype)
        self.value = nn.Linear(channels, channels, bias, device=device, dtype=dtype)
        self.output = nn.Linear(channels, channels, bias, device=device, dtype=dtype)

    def forward(self, u: Tensor) -> Tensor:
        """y, of the shape of u."""
        t = u.flatten(2).mT  # (N, T, C)
        q, k, v = self.heads(self.query(t)), self.heads(self.key(t)), self.heads(self.value(t))
        z = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.output(z).mT.reshape(u.shape)

    def heads(self, z: Tensor) -> Tensor:
        """(N, T, C) to (N, H, T, D)."""
        return z.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
