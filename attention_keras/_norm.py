"""Batch norm with both estimators of the running variance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from parity.spec import BatchNorm


@keras.saving.register_keras_serializable(package="attention_keras")
class BatchNormalization(keras.layers.BatchNormalization):
    """`parity.spec.BatchNorm` over the last axis, for maps of any rank from 2 up.

    A subclass of Keras' own, so that code that looks for batch norms to freeze them finds it. As there, the batch's
    statistics are used, and the running ones updated, when `training` is true and the layer is trainable;
    ``trainable = False`` means inference mode, not only frozen scales.

    Args:
        norm: a `parity.spec.BatchNorm`, or its JSON form.
        synchronized: whether the batch is that of all replicas together: of a `tf.distribute` strategy, or of the
            processes of `torch.distributed`. Without it each replica uses the statistics of its own part, and keeps its
            own running ones. On JAX the batch is always the whole one: an array that is sharded is still one array.
        kwargs: of every Keras layer: name, dtype, trainable.

    Raises:
        SpecError: for an argument outside its domain. A `ValueError`.
        InputError: from a call, for one value per channel in training mode, wherever the number of values is known:
            always but in a TensorFlow graph of unknown sizes, which leaves the running statistics as they are. A
            `ValueError`.

    Example:
        >>> BatchNormalization(BatchNorm(update_rate=0.01))(keras.Input((5, 3))).shape
        (None, 5, 3)
    """

    def __init__(
        self, norm: BatchNorm | Mapping[str, Any] = BatchNorm(), *, synchronized: bool = False, **kwargs: Any
    ) -> None:
        norm = BatchNorm.of(norm)
        super().__init__(momentum=1 - norm.update_rate, epsilon=norm.epsilon, **kwargs)
        self.norm = norm
        self.synchronized = synchronized  # Keras' own would refuse it on PyTorch and JAX

    def call(self, u: Any, training: bool | None = None) -> Any:
        """y, of the shape of u; half precision is normalised in float32."""
        dtype = keras.backend.standardize_dtype(u.dtype)
        u = ops.cast(u, "float32" if dtype in ("float16", "bfloat16") else dtype)
        mean, variance = self.moving_mean, self.moving_variance
        if training and self.trainable:
            mean, variance, n = self.moments(u)
            self.update(mean, variance, n)
        mean, variance = ops.cast(mean, u.dtype), ops.cast(variance, u.dtype)
        scale = ops.cast(self.gamma, u.dtype) / ops.sqrt(variance + self.norm.epsilon)
        return ops.cast((u - mean) * scale + ops.cast(self.beta, u.dtype), dtype)

    def moments(self, u: Any) -> tuple[Any, Any, Any]:
        """The mean and the biased variance of each channel, and of how many values.

        In two passes: `keras.ops.moments` on PyTorch is E[u^2] - E[u]^2, which loses the digits that the mean has.
        """
        axes = tuple(range(len(u.shape) - 1))
        total = sum_over_replicas() if self.synchronized else None
        if total is None:
            mean = ops.mean(u, axes)
            return mean, ops.mean(ops.square(u - mean), axes), count(u)
        # Replicas may hold batches of different sizes, so their means would not do.
        n = total(ops.cast(count(u), u.dtype))
        mean = total(ops.sum(u, axes)) / n
        return mean, total(ops.sum(ops.square(u - mean), axes)) / n, n

    def update(self, mean: Any, variance: Any, n: Any) -> None:
        """Move the running statistics towards those of a batch of n values per channel."""
        is_number = not ops.is_tensor(n)
        if is_number:
            self.norm.check_count(n)
        if self.norm.unbiased_variance:
            variance = variance * unbiased(n, variance.dtype)
        for running, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = ops.cast(running, batch.dtype)
            new = old + self.norm.update_rate * (batch - old)
            # A batch of one value, whose size only the running graph knows, must not move them.
            running.assign(new if is_number else ops.where(n > 1, new, old))

    def get_config(self) -> dict[str, Any]:
        return keras.layers.Layer.get_config(self) | {"norm": self.norm.to_json(), "synchronized": self.synchronized}


def count(u: Any) -> Any:
    """The number of values per channel: an int, a symbol as PyTorch traces, or a tensor where a graph cannot know."""
    n = math.prod(ops.shape(u)[:-1])
    # PyTorch reckons with its symbols, and would put the size that it traces with into a tensor.
    return n if isinstance(n, int) or keras.backend.backend() == "torch" else ops.convert_to_tensor(n)


def unbiased(n: Any, dtype: Any) -> Any:
    """n / (n - 1), the factor between the two estimators of the variance."""
    if not ops.is_tensor(n):
        return n / (n - 1)
    n = ops.cast(n, dtype)
    return n / ops.maximum(n - 1, 1)


def sum_over_replicas() -> Callable[[Any], Any] | None:
    """A differentiable sum over the replicas that run beside this one, or None where there is none."""
    find = {"tensorflow": _tensorflow_sum, "torch": _torch_sum}.get(keras.backend.backend())
    return find() if find else None


def _tensorflow_sum() -> Callable[[Any], Any] | None:
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return lambda u: context.all_reduce(tf.distribute.ReduceOp.SUM, u)


def _torch_sum() -> Callable[[Any], Any] | None:
    import torch
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return None

    class Total(torch.autograd.Function):
        """Its gradient is itself: every replica's loss depends on every replica's part."""

        @staticmethod
        def forward(context: Any, u: Any) -> Any:
            u = u.clone(memory_format=torch.contiguous_format)
            distributed.all_reduce(u)
            return u

        @staticmethod
        def backward(context: Any, *slopes: Any) -> Any:
            return Total.apply(*slopes)

    return Total.apply
