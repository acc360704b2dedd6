"""Batch norm with both estimators of the running variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from parity.spec import BatchNorm


class BatchNormalization(nn.modules.batchnorm._BatchNorm):
    """`parity.spec.BatchNorm` over (N, C, ...), of any rank from 2 up.

    A subclass of PyTorch's own base, so that `SyncBatchNorm.convert_sync_batchnorm` and weight-decay filters know it;
    what that converts it to follows the unbiased estimator, whatever the spec says.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(
        self,
        channels: int,
        norm: BatchNorm,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, eps=norm.epsilon, momentum=norm.update_rate, device=device, dtype=dtype)
        self.norm = norm

    def _check_input_dim(self, input: Tensor) -> None:
        """Any rank is welcome: the base class leaves this to its subclasses."""

    def forward(self, u: Tensor) -> Tensor:
        if not self.training:
            return super().forward(u)
        count = u.numel() // u.shape[1]
        self.norm.check_count(count)
        if self.norm.unbiased_variance:
            return super().forward(u)
        self.num_batches_tracked.add_(1)
        # The kernel knows the unbiased update alone, and keeps its buffer for the gradient: it gets a copy. The biased
        # update lies 1/n of the way from there to what a batch of variance 0 would have left.
        unbiased = self.running_var.clone()
        y = functional.batch_norm(u, self.running_mean, unbiased, self.weight, self.bias, True, self.momentum, self.eps)
        self.running_var.mul_(1 - self.norm.update_rate)
        self.running_var.copy_(torch.lerp(unbiased, self.running_var, 1 / count))
        return y
