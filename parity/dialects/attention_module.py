"""Jongchan/attention-module: the code of CBAM's authors."""

from __future__ import annotations

from parity.dialects._table import CBAM, CBAM_FACTS, PLANES, TORCH_NORM, Dialect, batch_norm, layer, pair

SOURCE = "Jongchan/attention-module 459efad, MODELS/cbam.py"

CHANNEL_GATE = pair(layer, "ChannelGate.mlp.1 ChannelGate.mlp.3", "linear", bias=True, path="channel.")

# Its `pool_types` other than mean and maximum, which no weight shows, have no counterpart here.
DIALECTS = (
    Dialect(
        id="attention-module/CBAM",
        block="cbam",
        tensors=(
            *CHANNEL_GATE,
            *layer("SpatialGate.spatial.conv", "spatial.conv", "conv swap_planes", bias=False, shape=PLANES),
            *batch_norm("SpatialGate.spatial.bn", "spatial.norm"),
        ),
        facts={**CBAM_FACTS, "spatial_norm": {**TORCH_NORM, "update_rate": 0.01}},
        defaults=CBAM,
        source=SOURCE,
    ),
    Dialect(
        id="attention-module/CBAM-no_spatial",
        block="cbam",
        tensors=CHANNEL_GATE,
        facts={"parts": "channel", "channel_merge": "add", "residual": False},
        defaults=CBAM,
        source=f"{SOURCE}, with no_spatial",
    ),
)
