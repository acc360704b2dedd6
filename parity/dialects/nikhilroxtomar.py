"""nikhilroxtomar/Attention-Mechanism-Implementation, in PyTorch and in TensorFlow."""

from __future__ import annotations

from parity.dialects._table import (
    CBAM,
    CBAM_FACTS,
    PLANES,
    PLANES_LAST,
    SE,
    Dialect,
    keras_layer,
    layer,
    pair,
)

SOURCE = "nikhilroxtomar/Attention-Mechanism-Implementation"

TORCH_CBAM = (
    *pair(layer, "ca.mlp.0 ca.mlp.2", "linear", bias=False, path="channel."),
    *layer("sa.conv", "spatial.conv", "conv", bias=False, shape=PLANES),
)

DIALECTS = (
    Dialect(
        id="nikhilroxtomar/SqueezeAndExcitation",
        block="se",
        tensors=pair(layer, "network.0 network.2", "linear", bias=False),
        defaults=SE,
        source=f"{SOURCE} ab095ee, PyTorch/squeeze_and_excitation.py",
    ),
    Dialect(
        id="nikhilroxtomar/cbam",
        block="cbam",
        tensors=TORCH_CBAM,
        facts=CBAM_FACTS,
        defaults=CBAM,
        source=f"{SOURCE}, PyTorch/cbam.py",
    ),
    # The same keys: whoever holds such weights has to say so.
    Dialect(
        id="nikhilroxtomar/cbam@47c17d1",
        block="cbam",
        tensors=TORCH_CBAM,
        refused="this revision adds what the mean gives to itself, and leaves the maximum out",
        detected=False,
        source=f"{SOURCE} 47c17d1, PyTorch/cbam.py",
    ),
    # Its channel half multiplies (N, H, W, C) by (N, C): the block for N = 1, an error or noise for others.
    Dialect(
        id="nikhilroxtomar-tf/cbam",
        block="cbam",
        tensors=(
            *pair(keras_layer, "l1 l2", "dense", bias=False, path="channel."),
            *keras_layer("conv", "spatial.conv", "conv_last", bias=True, shape=PLANES_LAST),
        ),
        facts=CBAM_FACTS,
        defaults=CBAM,
        numbered={"l1": ("dense",), "l2": ("dense",), "conv": ("conv2d",)},
        inline=True,
        source=f"{SOURCE} 3a78066, TensorFlow/cbam.py",
    ),
)
