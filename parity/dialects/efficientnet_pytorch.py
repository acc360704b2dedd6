"""lukemelas/EfficientNet-PyTorch: the two layers as members of its MBConvBlock."""

from __future__ import annotations

from parity.dialects._table import SE, Dialect, layer, pair

DIALECTS = (
    Dialect(
        id="efficientnet_pytorch/MBConvBlock",
        block="se",
        tensors=pair(layer, "_se_reduce _se_expand", "conv1x1", bias=True),
        defaults={**SE, "activation": "silu"},
        doubtful=("activation",),
        inline=True,
        source="efficientnet_pytorch 0.7.1, model.py",
    ),
)
