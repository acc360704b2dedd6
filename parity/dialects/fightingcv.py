"""fightingcv: the attention modules of the package fightingcv-attention."""

from __future__ import annotations

from parity.dialects._table import CBAM, CBAM_FACTS, ECA, ECA_FACTS, PLANES, SE, TAPS, Dialect, layer, pair
from parity.dialects.coordattention import COORD_ATT
from parity.dialects.coordattention import FACTS as COORD_ATT_FACTS

SOURCE = "fightingcv-attention 1.0.0"

DIALECTS = (
    Dialect(
        id="fightingcv/SEAttention",
        block="se",
        tensors=pair(layer, "fc.0 fc.2", "linear", bias=False),
        defaults=SE,
        source=f"{SOURCE}, SEAttention.py",
    ),
    Dialect(
        id="fightingcv/CBAMBlock",
        block="cbam",
        tensors=(
            *pair(layer, "ca.se.0 ca.se.2", "conv1x1", bias=False, path="channel."),
            *layer("sa.conv", "spatial.conv", "conv swap_planes", bias=True, shape=PLANES),
        ),
        facts={**CBAM_FACTS, "residual": True},
        defaults=CBAM,
        source=f"{SOURCE}, CBAM.py",
    ),
    Dialect(
        id="fightingcv/ECAAttention",
        block="eca",
        tensors=layer("conv", "conv", "conv", bias=True, shape=TAPS),
        facts=ECA_FACTS,
        defaults=ECA,
        source=f"{SOURCE}, ECAAttention.py",
    ),
    Dialect(
        id="fightingcv/CoordAtt",
        block="ca",
        tensors=COORD_ATT,
        facts=COORD_ATT_FACTS,
        source=f"{SOURCE}, CoordAttention.py",
    ),
)
