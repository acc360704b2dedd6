"""OpenMMLab: mmpretrain, mmdet, mmseg and mmyolo. Three classes called SELayer share their keys, not their gates."""

from __future__ import annotations

from parity.dialects._table import CBAM, CBAM_FACTS, ESE, PLANES, SE, Dialect, layer, pair

SE_LAYER = pair(layer, "conv1.conv conv2.conv", "conv1x1", bias=True)

DIALECTS = (
    # MobileNetV3 passes a hard sigmoid.
    Dialect(
        id="mmpretrain/SELayer",
        block="se",
        tensors=SE_LAYER,
        defaults=SE,
        doubtful=("gate",),
        source="mmpretrain 1.2.0, models/utils/se_layer.py",
    ),
    Dialect(
        id="mmpretrain/SELayer@before-03b7578",
        block="se",
        tensors=pair(layer, "conv1 conv2", "conv1x1", bias=True),
        defaults=SE,
        doubtful=("gate",),
        source="mmcls, before 03b75789 (2020-06-30) made its convolutions ConvModules",
    ),
    Dialect(
        id="mmdet/SELayer",
        block="se",
        tensors=SE_LAYER,
        defaults=SE,
        doubtful=("gate",),
        source="mmdet 3.3.0, models/layers/se_layer.py",
    ),
    Dialect(
        id="mmseg/SELayer",
        block="se",
        tensors=SE_LAYER,
        defaults={**SE, "gate": "hard_sigmoid"},
        doubtful=("gate",),
        source="mmseg, models/utils/se_layer.py",
    ),
    Dialect(
        id="mmdet/ChannelAttention",
        block="ese",
        tensors=layer("fc", "fc", "conv1x1", bias=True, shape="C C 1 1"),
        defaults=ESE,
        source="mmdet 3.3.0, models/layers/se_layer.py",
    ),
    Dialect(
        id="mmyolo/CBAM",
        block="cbam",
        tensors=(
            *pair(
                layer,
                "channel_attention.fc.0.conv channel_attention.fc.1.conv",
                "conv1x1",
                bias=True,
                path="channel.",
            ),
            *layer("spatial_attention.conv.conv", "spatial.conv", "conv", bias=True, shape=PLANES),
        ),
        facts=CBAM_FACTS,
        defaults=CBAM,
        source="mmyolo, models/plugins/cbam.py",
    ),
)
