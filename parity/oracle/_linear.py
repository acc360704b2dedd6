"""The linear maps: a dense layer, two of them, and the convolution of planes to one map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.oracle._gate import activation, activation_derivative
from parity.oracle._measured import Measured, contract
from parity.oracle._steps import step

Weights = dict[str, Measured]

SPACE, WINDOW = "xyz", "uvw"  # subscripts of the spatial axes and of the positions in a kernel


@step
def dense(z: Measured, weights: Weights, path: str) -> Measured:
    """W z + b over the last axis of z."""
    return biased(contract("...i,oi->...o", z, weights[f"{path}.kernel"]), weights, path)


def dense_gradient(du: Measured, z: Measured, weights: Weights, path: str) -> tuple[Measured, Weights]:
    """The gradients of z and of the layer's weights, given that of u = W z + b."""
    rows = tuple(range(du.value.ndim - 1))
    letters = "abc"[: len(rows)]
    gradients = {f"{path}.kernel": contract(f"{letters}o,{letters}i->oi", du, z)}
    if f"{path}.bias" in weights:
        gradients[f"{path}.bias"] = du.sum(rows)
    return contract("...o,oi->...i", du, weights[f"{path}.kernel"]), gradients


@step
def excite(zs: Sequence[Measured], weights: Weights, how: str, path: str = "") -> Measured:
    """The sum of W2 activation(W1 z + b1) + b2 over the zs: one pair of layers for all."""
    first, *others = [_two_layers(z, weights, how, path) for z in zs]
    for other in others:
        first = first + other
    return first


def excite_gradient(
    dv: Measured, zs: Sequence[Measured], weights: Weights, how: str, path: str = ""
) -> tuple[list[Measured], Weights]:
    """The gradients of each z and of the two layers' weights, given that of the sum."""
    dzs: list[Measured] = []
    gradients: Weights = {}
    for z in zs:
        u = dense(z, weights, _of(path, "fc1"))
        dh, of_fc2 = dense_gradient(dv, activation(u, how, path), weights, _of(path, "fc2"))
        dz, of_fc1 = dense_gradient(dh * activation_derivative(u, how), z, weights, _of(path, "fc1"))
        dzs.append(dz)
        for name, value in (of_fc1 | of_fc2).items():
            gradients[name] = gradients[name] + value if name in gradients else value
    return dzs, gradients


def _two_layers(z: Measured, weights: Weights, how: str, path: str) -> Measured:
    h = activation(dense(z, weights, _of(path, "fc1")), how, path)
    return dense(h, weights, _of(path, "fc2"))


def _of(path: str, layer: str) -> str:
    return f"{path}.{layer}" if path else layer


@step
def convolution(p: Measured, weights: Weights, path: str) -> Measured:
    """u = K * p + b: (N, c, *S) to (N, *S), a zero-padded cross-correlation that keeps the size."""
    kernel = weights[f"{path}.kernel"][0]
    s, k = _letters(kernel)
    return biased(contract(f"nc{s}{k},c{k}->n{s}", _windows(p, kernel, path), kernel), weights, path)


def convolution_gradient(du: Measured, p: Measured, weights: Weights, path: str) -> tuple[Measured, Weights]:
    """The gradients of p and of the convolution's weights, given that of u = K * p + b."""
    kernel = weights[f"{path}.kernel"][0]
    s, k = _letters(kernel)
    gradients = {f"{path}.kernel": contract(f"n{s},nc{s}{k}->c{k}", du, _windows(p, kernel, path))[None]}
    if f"{path}.bias" in weights:
        gradients[f"{path}.bias"] = du.sum(range(du.value.ndim)).move(lambda array: array.reshape(1))
    # What reached position s through offset o of the kernel came from s + o: the same windows with the kernel reversed.
    reverse = kernel.move(lambda array: np.flip(array, tuple(range(1, array.ndim))))
    return contract(f"n{s}{k},c{k}->nc{s}", _windows(du[:, None], kernel, path)[:, 0], reverse), gradients


def biased(u: Measured, weights: Weights, path: str) -> Measured:
    """u + b, where there is a b."""
    return u + weights[f"{path}.bias"] if f"{path}.bias" in weights else u


@step
def padded(p: Measured, sizes: Sequence[int], padding: str, path: str = "") -> Measured:
    """p with size // 2 more at both ends of each of its last axes: "zeros", or "circular" what is at the other end."""
    widths = [(0, 0)] * (p.value.ndim - len(sizes)) + [(size // 2, size // 2) for size in sizes]
    return p.move(lambda array: np.pad(array, widths, mode="wrap" if padding == "circular" else "constant"))


def windows(p: Measured, sizes: Sequence[int]) -> Measured:
    """All that a kernel of `sizes` sees as it slides along the last axes of p: (.., *S, *sizes)."""
    axes = tuple(range(p.value.ndim - len(sizes), p.value.ndim))
    return p.move(lambda array: np.lib.stride_tricks.sliding_window_view(array, tuple(sizes), axes))


def _letters(kernel: Measured) -> tuple[str, str]:
    dims = kernel.value.ndim - 1
    return SPACE[:dims], WINDOW[:dims]


def _windows(p: Measured, kernel: Measured, path: str) -> Measured:
    """(N, c, *S) to (N, c, *S, *k): around each position what the kernel sees there, zeros beyond the border."""
    sizes = kernel.value.shape[1:]
    return windows(padded(p, sizes, "zeros", path), sizes)
