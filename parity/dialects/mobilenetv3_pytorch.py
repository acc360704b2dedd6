"""d-li14/mobilenetv3.pytorch: senet.pytorch's keys with biases, and a hard sigmoid."""

from __future__ import annotations

from parity.dialects._table import SE, Dialect, layer, pair

DIALECTS = (
    Dialect(
        id="mobilenetv3.pytorch/SELayer",
        block="se",
        tensors=pair(layer, "fc.0 fc.2", "linear", bias=True),
        facts={"gate": "hard_sigmoid"},
        defaults=SE,
        source="d-li14/mobilenetv3.pytorch 3e6938c, mobilenetv3.py",
    ),
)
