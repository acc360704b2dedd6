"""luuuyi/CBAM.PyTorch: the two halves as members ``ca`` and ``sa`` of a ResNet's blocks, in two eras."""

from __future__ import annotations

from parity.dialects._table import CBAM, CBAM_FACTS, PLANES, Dialect, layer, pair

SPATIAL = layer("sa.conv1", "spatial.conv", "conv", bias=False, shape=PLANES)

DIALECTS = (
    Dialect(
        id="CBAM.PyTorch/CBAM",
        block="cbam",
        tensors=pair(layer, "ca.fc.0 ca.fc.2", "conv1x1", bias=False, path="channel.") + SPATIAL,
        facts=CBAM_FACTS,
        defaults=CBAM,
        inline=True,
        source="luuuyi/CBAM.PyTorch 83d3312, model/resnet_cbam.py",
    ),
    Dialect(
        id="CBAM.PyTorch/CBAM@c85f6a2",
        block="cbam",
        tensors=pair(layer, "ca.fc1 ca.fc2", "conv1x1", bias=False, path="channel.") + SPATIAL,
        facts=CBAM_FACTS,
        defaults=CBAM,
        inline=True,
        source="luuuyi/CBAM.PyTorch, before 1851f2a (2019-08-10), model/resnet_cbam.py",
    ),
)
