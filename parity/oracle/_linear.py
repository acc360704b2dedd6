"""The linear maps: a dense layer, two of them, one at each position, convolutions."""

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
def pointwise(x: Measured, weights: Weights, path: str) -> Measured:
    """W x + b at each position of a map: (N, C, *S) to (N, o, *S)."""
    s = SPACE[: x.value.ndim - 2]
    u = contract(f"nc{s},oc->no{s}", x, weights[f"{path}.kernel"])
    name = f"{path}.bias"
    return u + weights[name][(..., *(None,) * len(s))] if name in weights else u


def pointwise_gradient(du: Measured, x: Measured, weights: Weights, path: str) -> tuple[Measured, Weights]:
    """The gradients of x and of the layer's weights, given that of u = W x + b."""
    s = SPACE[: x.value.ndim - 2]
    gradients = {f"{path}.kernel": contract(f"no{s},nc{s}->oc", du, x)}
    if f"{path}.bias" in weights:
        gradients[f"{path}.bias"] = du.sum((0, *range(2, du.value.ndim)))
    return contract(f"no{s},oc->nc{s}", du, weights[f"{path}.kernel"]), gradients


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


@step
def convolve(
    x: Measured,
    weights: Weights,
    path: str,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int] = (),
    groups: int = 1,
) -> Measured:
    """u = K * x + b, a cross-correlation: (N, C, *S) with a kernel (O, C / groups, *k) to (N, O, *S').

    `strides`, `dilation` (none for 1) and `padding`, the zeros (before, after), are of each spatial axis.
    """
    kernel = weights[f"{path}.kernel"]
    s, k = _letters(kernel[0])
    seen, taps = _grouped(_strided_windows(x, kernel, strides, padding, dilation, path), kernel, groups)
    u = (
        contract(f"ngc{s}{k},goc{k}->ngo{s}", seen, taps)
        if groups > 1
        else contract(f"nc{s}{k},oc{k}->no{s}", seen, taps)
    )
    u = u.move(lambda array: array.reshape(len(array), len(kernel.value), *array.shape[-len(s) :]))
    name = f"{path}.bias"
    return u + weights[name][(..., *(None,) * len(s))] if name in weights else u


def convolve_gradient(
    du: Measured,
    x: Measured,
    weights: Weights,
    path: str,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int] = (),
    groups: int = 1,
) -> tuple[Measured, Weights]:
    """The gradients of x and of the convolution's weights, given that of u = K * x + b."""
    kernel = weights[f"{path}.kernel"]
    dims, dilation = kernel.value.ndim - 2, dilation or (1,) * len(strides)
    s, k = _letters(kernel[0])
    seen, taps = _grouped(_strided_windows(x, kernel, strides, padding, dilation, path), kernel, groups)
    slopes = du
    if groups > 1:
        slopes = du.move(lambda array: array.reshape(len(array), groups, array.shape[1] // groups, *array.shape[2:]))
        dkernel = contract(f"ngo{s},ngc{s}{k}->goc{k}", slopes, seen)
        spread = contract(f"ngo{s},goc{k}->ngc{s}{k}", slopes, taps)
    else:
        dkernel = contract(f"no{s},nc{s}{k}->oc{k}", slopes, seen)
        spread = contract(f"no{s},oc{k}->nc{s}{k}", slopes, taps)
    gradients = {f"{path}.kernel": dkernel.move(lambda array: array.reshape(kernel.value.shape))}
    if f"{path}.bias" in weights:
        gradients[f"{path}.bias"] = du.sum((0, *range(2, 2 + dims)))
    extents = x.value.shape[2:]

    def gathered(array: np.ndarray) -> np.ndarray:
        """What each position gave to the windows that saw it, added up."""
        array = array.reshape(*x.value.shape[:2], *array.shape[-2 * dims :])
        total = np.zeros(
            x.value.shape[:2] + tuple(size + sum(pads) for size, pads in zip(extents, padding, strict=True))
        )
        for offset in np.ndindex(*kernel.value.shape[2:]):
            places = tuple(
                slice(o * d, o * d + (count - 1) * stride + 1, stride)
                for o, d, count, stride in zip(offset, dilation, du.value.shape[2:], strides, strict=True)
            )
            total[(slice(None), slice(None), *places)] += array[(..., *offset)]
        inner = tuple(slice(pads[0], pads[0] + size) for size, pads in zip(extents, padding, strict=True))
        return total[(slice(None), slice(None), *inner)]

    return Measured(gathered(spread.value), gathered(spread.magnitude), spread.margin), gradients


def _strided_windows(
    x: Measured,
    kernel: Measured,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    path: str,
) -> Measured:
    """(N, C, *S) to (N, C, *S', *k): what the kernel sees at each of its places."""
    dilation = dilation or (1,) * len(strides)
    reach = [d * (size - 1) + 1 for d, size in zip(dilation, kernel.value.shape[2:], strict=True)]
    seen = windows(zero_padded(x, padding, path), reach)
    steps = [slice(None, None, step) for step in (*strides, *dilation)]
    return seen[(slice(None), slice(None), *steps)]


@step
def zero_padded(x: Measured, padding: Sequence[tuple[int, int]], path: str = "") -> Measured:
    """x with zeros (before, after) each of its last axes."""
    widths = [(0, 0)] * (x.value.ndim - len(padding)) + list(padding)
    return x.move(lambda array: np.pad(array, widths))


def _grouped(seen: Measured, kernel: Measured, groups: int) -> tuple[Measured, Measured]:
    """Windows and kernel with an axis of groups, where there are several."""
    if groups == 1:
        return seen, kernel
    split = seen.move(lambda array: array.reshape(len(array), groups, array.shape[1] // groups, *array.shape[2:]))
    return split, kernel.move(lambda array: array.reshape(groups, -1, *array.shape[1:]))


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
