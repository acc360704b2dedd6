"""youngwanLEE/vovnet-detectron2: effective squeeze and excitation, by its authors."""

from __future__ import annotations

from parity.dialects._table import ESE, Dialect, layer

DIALECTS = (
    Dialect(
        id="vovnet-detectron2/eSEModule",
        block="ese",
        tensors=layer("fc", "fc", "conv1x1", bias=True, shape="C C 1 1"),
        defaults=ESE,
        source="youngwanLEE/vovnet-detectron2, vovnet/vovnet.py",
    ),
)
