"""changzy00/pytorch-attention: its coordinate attention has the authors' keys, another activation and no gate."""

from __future__ import annotations

from parity.dialects._table import (
    CBAM,
    CBAM_FACTS,
    ECA,
    ECA_FACTS,
    PLANES,
    SE,
    TAPS,
    TORCH_NORM,
    Dialect,
    layer,
    pair,
)
from parity.dialects.coordattention import COORD_ATT

SOURCE = "changzy00/pytorch-attention, attention_mechanisms"

DIALECTS = (
    Dialect(
        id="changzy00/SELayer",
        block="se",
        tensors=pair(layer, "fc.0 fc.2", "linear", bias=False),
        defaults=SE,
        source=f"{SOURCE}/se_module.py",
    ),
    Dialect(
        id="changzy00/CBAM",
        block="cbam",
        tensors=(
            *pair(layer, "ca.fc.0 ca.fc.2", "conv1x1", bias=False, path="channel."),
            *layer("sa.conv", "spatial.conv", "conv", bias=False, shape=PLANES),
        ),
        facts=CBAM_FACTS,
        defaults=CBAM,
        source=f"{SOURCE}/cbam.py",
    ),
    Dialect(
        id="changzy00/ECALayer",
        block="eca",
        tensors=layer("conv", "conv", "conv", bias=False, shape=TAPS),
        facts=ECA_FACTS,
        defaults=ECA,
        source=f"{SOURCE}/eca.py",
    ),
    Dialect(
        id="changzy00/CoordinateAttention",
        block="ca",
        tensors=COORD_ATT,
        facts={"gate": "identity", "activation": "relu", "norm": TORCH_NORM, "residual": False},
        source=f"{SOURCE}/coordatten.py",
    ),
)
