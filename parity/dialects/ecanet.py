"""BangguWu/ECANet: the code of efficient channel attention's authors."""

from __future__ import annotations

from parity.dialects._table import ECA, ECA_FACTS, TAPS, Dialect, layer

SOURCE = "BangguWu/ECANet b332f6b"

DIALECTS = (
    Dialect(
        id="ECANet/eca_layer",
        block="eca",
        tensors=layer("conv", "conv", "conv", bias=False, shape=TAPS),
        facts=ECA_FACTS,
        defaults=ECA,
        source=f"{SOURCE}, models/eca_module.py",
    ),
    # Any depthwise convolution over sequences looks like it.
    Dialect(
        id="ECANet/eca_ns",
        block="eca",
        tensors=layer("conv", "conv", "conv", bias=False, shape="C 1 k"),
        refused="each channel has weights of its own, where efficient channel attention shares one kernel",
        detected=False,
        source=f"{SOURCE}, models/eca_ns.py",
    ),
)
