"""pytorch-toolbelt: its SpatialGate2d weighs the channels, its ChannelGate2d the positions."""

from __future__ import annotations

from parity.dialects._table import SE, Dialect, layer, pair

GATES = (
    *pair(layer, "spatial_gate.squeeze spatial_gate.expand", "conv1x1", bias=True, path="channel."),
    *layer("channel_gate.squeeze", "spatial.fc", "conv1x1", bias=True, shape="1 C 1 1"),
)

DIALECTS = (
    Dialect(
        id="pytorch-toolbelt/ChannelSpatialGate2d",
        block="scse",
        tensors=GATES,
        facts={"merge": "add"},
        defaults=SE,
        source="BloodAxe/pytorch-toolbelt 1054a4f, pytorch_toolbelt/modules/scse.py",
    ),
    Dialect(
        id="pytorch-toolbelt/ChannelSpatialGate2dV2",
        block="scse",
        tensors=(*GATES, *layer("spatial_gate.conv", "channel.conv", "conv", bias=True)),
        refused="its channel half takes no mean, and has a dilated convolution between its layers",
        source="BloodAxe/pytorch-toolbelt 1054a4f, pytorch_toolbelt/modules/scse.py",
    ),
)
