"""PaddleClas: the SEModule of MobileNetV3 and PP-LCNet, one name for three gates, and the ESEModule of PP-HGNet."""

from __future__ import annotations

from parity.dialects._table import ESE, HARD_SIGMOID_02, SE, Dialect, layer, pair

DIALECTS = (
    Dialect(
        id="PaddleClas/SEModule",
        block="se",
        # Not Linear layers: Paddle's convolutions lie as PyTorch's do.
        tensors=pair(layer, "conv1 conv2", "conv1x1", bias=True),
        defaults={**SE, "gate": HARD_SIGMOID_02},
        # The slope is 0.2 in MobileNetV3 and 1/6 in PP-LCNet; PP-LCNetV2 has a plain sigmoid.
        doubtful=("gate",),
        source="PaddleClas d178931, ppcls/arch/backbone/legendary_models/mobilenet_v3.py",
    ),
    Dialect(
        id="PaddleClas/ESEModule",
        block="ese",
        tensors=layer("conv", "fc", "conv1x1", bias=True, shape="C C 1 1"),
        defaults={**ESE, "gate": "sigmoid"},
        detected=False,  # its keys are those of any convolution at single positions that keeps its channels
        source="PaddleClas d178931, ppcls/arch/backbone/legendary_models/pp_hgnet.py",
    ),
)
