"""segmentation_models_pytorch: concurrent spatial and channel squeeze and excitation in the decoders."""

from __future__ import annotations

from parity.dialects._table import SE, Dialect, layer, pair

DIALECTS = (
    # A reduction by 16 of fewer than 16 channels leaves no hidden layer: such weights are empty, and no block here.
    Dialect(
        id="segmentation_models_pytorch/SCSEModule",
        block="scse",
        tensors=(
            *pair(layer, "cSE.1 cSE.3", "conv1x1", bias=True, path="channel."),
            *layer("sSE.0", "spatial.fc", "conv1x1", bias=True, shape="1 C 1 1"),
        ),
        facts={"merge": "add"},
        defaults=SE,
        source="segmentation_models_pytorch 0.6.0, base/modules.py",
    ),
)
