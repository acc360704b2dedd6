"""What learns: for each block a plain network of two convolutions, with the block behind each of them.

>>> network("se").parameters()["head.kernel"]
(10, 16)
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from parity import oracle
from parity.block import Block
from parity.errors import SpecError
from parity.oracle._measured import given
from parity.oracle._steps import watched
from parity.spec import SPECS, BatchNorm, PlainNetworkOptions, PlainNetworkSpec
from parity.training.data import CLASSES, SIZES

FILTERS, STRIDES = (8, 16), (1, 2)

# Smooth: among 50,000 comparisons a step one always comes so close to zero that float32 has the other sign.
ACTIVATION = "silu"

# Small, for maps of 8 and 16 channels; of these a block takes those that are its options.
SMALL_OPTIONS: dict[str, Any] = {"reduction": 4, "kernel_size": 3, "num_heads": 2, "activation": ACTIVATION}

# A bias before a norm is inert, but not in inference, when it has drifted away from the running mean.
OWN_OPTIONS: dict[str, dict[str, Any]] = {"ca": {"bias": False}, "scse": {"merge": "add"}}

NAME = "block"  # of the network in the files: that of the one block of a live model


def network(block: str, conv_bias: bool = False) -> PlainNetworkSpec:
    """The network that learns with attentions of the kind `block`: behind each convolution, or behind the last alone,
    where the block does not give back the map's shape, or looks at all pairs of positions.

    With `conv_bias`, convolutions have a bias before their norm: inert parameters, to see where they go.

    Raises:
        SpecError: for a block that is none.
    """
    if block not in SPECS:
        raise SpecError(f"received block {block!r}", f"one of {', '.join(SPECS)}")
    known = SPECS[block].options_class().arguments()
    options = {name: value for name, value in SMALL_OPTIONS.items() if name in known} | OWN_OPTIONS.get(block, {})
    shape = (2, FILTERS[0], *SIZES)
    spec = SPECS[block].options_class(**options).resolve(FILTERS[0], len(SIZES))
    after = spec.output_shape(shape, "channels_first")
    anywhere = after == shape and not spec.quadratic
    whole = len(after) == len(shape)  # the mean is over all axes of a map
    return PlainNetworkOptions(
        filters=FILTERS,
        strides=STRIDES,
        conv_bias=conv_bias,
        norm=BatchNorm(update_rate=2.0**-2),
        activation=ACTIVATION,
        attention=block,
        attention_options=options,
        attention_after="each" if anywhere else "last",
        head="mean" if whole else "flatten",
        map_sizes=None if whole else SIZES,
        classes=CLASSES,
        output="logits",
    ).resolve(1, len(SIZES))


@functools.cache
def takes_maxima(block: str) -> bool:
    """Whether the block compares numbers of the map with each other, however smooth its activations are.

    The steps that the oracle takes tell.

    Example:
        >>> takes_maxima("cbam"), takes_maxima("se")
        (True, False)
    """
    spec = network(block)
    weights = {name: given(value) for name, value in initial(spec).tensors.items()}
    x = given(np.ones((1, 1, *SIZES)))
    oracle.forward(spec, weights, x, False)  # imports the steps that are to be watched
    with watched() as steps:
        oracle.forward(spec, weights, x, False)
    return "maximum" in steps


def initial(spec: PlainNetworkSpec) -> Block:
    """The weights that every backend begins with, drawn from a seed of each parameter's name.

    Each is a float32 number, so that training in float64 and in float32 begins at the same point.

    Example:
        >>> block = initial(network("se"))
        >>> bool((block.tensors["head.bias"] == block.tensors["head.bias"].astype("float32")).all())
        True
    """
    tensors = {name: _drawn(name, shape) for name, shape in spec.parameters().items()}
    return Block(NAME, spec, {name: value.astype(np.float32).astype(np.float64) for name, value in tensors.items()})


def _drawn(name: str, shape: Sequence[int]) -> np.ndarray:
    leaf = name.rpartition(".")[2]
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    if leaf == "kernel":
        return noise * math.sqrt((2 if len(shape) == 4 else 1) / math.prod(shape[1:]))
    if leaf in ("scale", "variance"):
        return np.ones(shape)
    return np.zeros(shape) if leaf == "mean" else noise / 16  # a bias of zero would hide one that is left out
