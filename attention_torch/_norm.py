"""Batch norm with both estimators of the running variance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from parity.spec import BatchNorm


class BatchNormalization(nn.modules.batchnorm._BatchNorm):
    """`parity.spec.BatchNorm` over (N, C, ...), of any rank from 2 up.

    A subclass of PyTorch's own base, so that `SyncBatchNorm.convert_sync_batchnorm` and weight-decay filters know it;
    in a block, that makes it a `SynchronizedBatchNormalization`.
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


class SynchronizedBatchNormalization(BatchNormalization):
    """`BatchNormalization` over the batches of all processes of a group together, on any device.

    What `SyncBatchNorm.convert_sync_batchnorm` leaves in a block, unless its weights are on a GPU and the spec says
    unbiased: PyTorch's own knows nothing else, and serves there.

    Args:
        norm: the spec of the norm.
        converted: what PyTorch made of it, whose parameters and statistics it takes over.
    """

    def __init__(self, norm: BatchNorm, converted: nn.SyncBatchNorm) -> None:
        super().__init__(converted.num_features, norm, device="meta")
        self.process_group = converted.process_group
        self._parameters.update(converted._parameters)
        self._buffers.update(converted._buffers)
        self.training = converted.training

    def forward(self, u: Tensor) -> Tensor:
        if not self.training:
            return super().forward(u)
        v = u.float() if u.dtype in (torch.float16, torch.bfloat16) else u
        axes, size = [0, *range(2, u.ndim)], (-1, *(1,) * (u.ndim - 2))
        # Processes may hold batches of different sizes, so their means would not do.
        count = int(self.total(torch.tensor(u.numel() // u.shape[1], device=u.device)))
        self.norm.check_count(count)
        mean = self.total(v.sum(axes)) / count
        centred = v - mean.view(size)
        variance = self.total(centred.square().sum(axes)) / count
        self.update(mean.detach(), variance.detach(), count)
        scale = self.weight / torch.sqrt(variance + self.eps)
        return (centred * scale.view(size) + self.bias.view(size)).to(u.dtype)

    def total(self, u: Tensor) -> Tensor:
        """The sum over the processes of the group, which is differentiable."""
        alone = not distributed.is_available() or not distributed.is_initialized()
        return u if alone else _Total.apply(u, self.process_group)

    def update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards those of a batch of `count` values per channel."""
        self.num_batches_tracked.add_(1)
        variance = variance * (count / (count - 1)) if self.norm.unbiased_variance else variance
        for running, batch in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(batch.to(running.dtype), self.norm.update_rate)


class _Total(torch.autograd.Function):
    """A sum over processes. Its gradient is itself: every process' loss depends on every process' part."""

    @staticmethod
    def forward(context: Any, u: Tensor, group: Any) -> Tensor:
        context.group = group
        u = u.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(u, group=group)
        return u

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> Any:
        return _Total.apply(slopes[0], context.group), None


class Host(nn.Module):
    """A module with a batch norm, whose spec outlives PyTorch's conversion to a synchronised one."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        replaced = self._modules.get(name)
        if isinstance(module, nn.SyncBatchNorm) and isinstance(replaced, BatchNormalization):
            serves = replaced.norm.unbiased_variance and module.weight.is_cuda
            module = module if serves else SynchronizedBatchNormalization(replaced.norm, module)
        super().add_module(name, module)
