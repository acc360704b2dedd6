"""torchvision: ``torchvision.ops.SqueezeExcitation`` (EfficientNet, MaxViT, MobileNetV3, RegNet)."""

from __future__ import annotations

from parity.dialects._table import SE, Dialect, layer, pair

DIALECTS = (
    Dialect(
        id="torchvision/SqueezeExcitation",
        block="se",
        tensors=pair(layer, "fc1 fc2", "conv1x1", bias=True),
        defaults=SE,
        # MobileNetV3 has a hard sigmoid, EfficientNet and MaxViT a SiLU; the weights are the same.
        doubtful=("gate", "activation"),
        source="torchvision 0.28.0, ops/misc.py",
    ),
)
