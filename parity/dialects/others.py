"""Blocks that are called after one of ours and are another function: recognised, so that they can be refused."""

from __future__ import annotations

from parity.dialects._table import ESE, PLANES, Dialect, batch_norm, layer, pair

DIALECTS = (
    Dialect(
        id="ultralytics/CBAM",
        block="cbam",
        tensors=(
            *layer("channel_attention.fc", "channel_attention.fc", "conv1x1", bias=True, shape="C C 1 1"),
            *layer("spatial_attention.cv1", "spatial.conv", "conv", bias=False, shape=PLANES),
        ),
        refused="its channel half is one layer over the mean: no MLP, no maximum",
        source="ultralytics 8.4.190, nn/modules/conv.py",
    ),
    Dialect(
        id="ultralytics/ChannelAttention",
        block="ese",
        tensors=layer("fc", "fc", "conv1x1", bias=True, shape="C C 1 1"),
        defaults={**ESE, "gate": "sigmoid"},
        source="ultralytics 8.4.190, nn/modules/conv.py",
    ),
    Dialect(
        id="MenghaoGuo/CBAM",
        block="cbam",
        tensors=(
            *pair(layer, "ChannelGate.fc_avg.0 ChannelGate.fc_avg.2", "linear", bias=False, path="channel.avg."),
            *pair(layer, "ChannelGate.fc_max.0 ChannelGate.fc_max.2", "linear", bias=False, path="channel.max."),
            *layer("SpatialGate.spatial.conv", "spatial.conv", "conv swap_planes", bias=False, shape=PLANES),
            *batch_norm("SpatialGate.spatial.bn", "spatial.norm"),
        ),
        refused="it has two MLPs, and adds what the mean gives to itself",
        source="MenghaoGuo/Awesome-Vision-Attentions, code/channel_spatial_attentions/cbam.py (Jittor)",
    ),
)
