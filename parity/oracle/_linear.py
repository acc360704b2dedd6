"""The two linear maps: a dense layer, and the convolution of planes to one map."""

from __future__ import annotations

import numpy as np

from parity.oracle._measured import Array, Measured, contract

Weights = dict[str, Measured]

SPACE, WINDOW = "xyz", "uvw"  # subscripts of the spatial axes and of the positions in a kernel


def dense(z: Measured, weights: Weights, path: str) -> Measured:
    """W z + b over the last axis of z."""
    u = contract("...i,oi->...o", z, weights[f"{path}.kernel"])
    return u + weights[f"{path}.bias"] if f"{path}.bias" in weights else u


def dense_gradient(du: Measured, z: Measured, weights: Weights, path: str) -> tuple[Measured, Weights]:
    """The gradients of z and of the layer's weights, given that of u = W z + b."""
    rows = tuple(range(du.value.ndim - 1))
    letters = "abc"[: len(rows)]
    gradients = {f"{path}.kernel": contract(f"{letters}o,{letters}i->oi", du, z)}
    if f"{path}.bias" in weights:
        gradients[f"{path}.bias"] = du.sum(rows)
    return contract("...o,oi->...i", du, weights[f"{path}.kernel"]), gradients


def convolution(p: Measured, weights: Weights, path: str) -> Measured:
    """u = K * p + b: (N, c, *S) to (N, *S), a zero-padded cross-correlation that keeps the size."""
    kernel = weights[f"{path}.kernel"][0]
    s, k = _letters(kernel)
    u = contract(f"nc{s}{k},c{k}->n{s}", _windows(p, kernel), kernel)
    return u + weights[f"{path}.bias"] if f"{path}.bias" in weights else u


def convolution_gradient(du: Measured, p: Measured, weights: Weights, path: str) -> tuple[Measured, Weights]:
    """The gradients of p and of the convolution's weights, given that of u = K * p + b."""
    kernel = weights[f"{path}.kernel"][0]
    s, k = _letters(kernel)
    gradients = {f"{path}.kernel": contract(f"n{s},nc{s}{k}->c{k}", du, _windows(p, kernel))[None]}
    if f"{path}.bias" in weights:
        gradients[f"{path}.bias"] = du.sum(range(du.value.ndim)).move(lambda array: array.reshape(1))
    # What reached position s through offset o of the kernel came from s + o: the same windows with the kernel reversed.
    reverse = kernel.move(lambda array: np.flip(array, tuple(range(1, array.ndim))))
    return contract(f"n{s}{k},c{k}->nc{s}", _windows(du[:, None], kernel)[:, 0], reverse), gradients


def _letters(kernel: Measured) -> tuple[str, str]:
    dims = kernel.value.ndim - 1
    return SPACE[:dims], WINDOW[:dims]


def _windows(p: Measured, kernel: Measured) -> Measured:
    """(N, c, *S) to (N, c, *S, *k): around each position what the kernel sees there, zeros beyond the border."""
    sizes = kernel.value.shape[1:]
    axes = tuple(range(2, 2 + len(sizes)))

    def move(array: Array) -> Array:
        padded = np.pad(array, [(0, 0), (0, 0), *((size // 2, size // 2) for size in sizes)])
        return np.lib.stride_tricks.sliding_window_view(padded, sizes, axes)

    return p.move(move)
