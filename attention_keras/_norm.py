"""Batch norm with both estimators of the running variance."""

from __future__ import annotations

import math
from collections.abc import Mapping
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

    def __init__(self, norm: BatchNorm | Mapping[str, Any] = BatchNorm(), **kwargs: Any) -> None:
        norm = BatchNorm.of(norm)
        super().__init__(momentum=1 - norm.update_rate, epsilon=norm.epsilon, **kwargs)
        self.norm = norm

    def call(self, u: Any, training: bool | None = None) -> Any:
        """y, of the shape of u; half precision is normalised in float32."""
        dtype = keras.backend.standardize_dtype(u.dtype)
        u = ops.cast(u, "float32" if dtype in ("float16", "bfloat16") else dtype)
        mean, variance = self.moving_mean, self.moving_variance
        if training and self.trainable:
            mean, variance = self.moments(u)
            self.update(mean, variance, count(u))
        mean, variance = ops.cast(mean, u.dtype), ops.cast(variance, u.dtype)
        scale = ops.cast(self.gamma, u.dtype) / ops.sqrt(variance + self.norm.epsilon)
        return ops.cast((u - mean) * scale + ops.cast(self.beta, u.dtype), dtype)

    def moments(self, u: Any) -> tuple[Any, Any]:
        """The mean and the biased variance of each channel.

        In two passes: `keras.ops.moments` on PyTorch is E[u^2] - E[u]^2, which loses the digits that the mean has.
        """
        axes = tuple(range(len(u.shape) - 1))
        mean = ops.mean(u, axes)
        return mean, ops.mean(ops.square(u - mean), axes)

    def update(self, mean: Any, variance: Any, n: Any) -> None:
        """Move the running statistics towards those of a batch of n values per channel."""
        if isinstance(n, int):
            self.norm.check_count(n)
        if self.norm.unbiased_variance:
            n = ops.cast(n, variance.dtype)
            variance = variance * (n / ops.maximum(n - 1, 1))
        for running, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = ops.cast(running, batch.dtype)
            # A batch of one value, whose size only the running graph knows, must not move them.
            running.assign(ops.where(n > 1, old + self.norm.update_rate * (batch - old), old))

    def get_config(self) -> dict[str, Any]:
        return keras.layers.Layer.get_config(self) | {"norm": self.norm.to_json()}


def count(u: Any) -> Any:
    """The number of values per channel: an int, or a tensor where a TensorFlow graph does not know it."""
    return math.prod(ops.shape(u)[:-1])
