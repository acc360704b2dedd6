"""torchvision: ``torchvision.ops.SqueezeExcitation`` (EfficientNet, MaxViT, MobileNetV3, RegNet)."""

from __future__ import annotations

from parity.dialects._table import Dialect, layer

DIALECTS = (
    Dialect(
        id="torchvision/SqueezeExcitation",
        block="se",
        tensors=layer("fc1", "fc1", "conv1x1", bias=True) + layer("fc2", "fc2", "conv1x1", bias=True),
        # MobileNetV3 has a hard sigmoid, EfficientNet and MaxViT a SiLU; the weights are the same.
        defaults={"gate": "sigmoid", "activation": "relu", "spatial_dims": 2},
    ),
)
