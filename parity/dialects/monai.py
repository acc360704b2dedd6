"""MONAI: squeeze and excitation over maps of one, two and three axes, which their weights do not tell."""

from __future__ import annotations

from parity.dialects._table import SE, Dialect, layer, pair

SOURCE = "MONAI 1.6.1, networks/blocks/squeeze_and_excitation.py"

FC = pair(layer, "fc.0 fc.2", "linear", bias=True)

DIALECTS = (
    # A gate that is fixed: mobilenetv3.pytorch has the same keys, and another.
    Dialect(
        id="monai/ChannelSELayer",
        block="se",
        tensors=FC,
        facts={"gate": "sigmoid"},
        defaults=SE,
        source=SOURCE,
    ),
    # The same keys: whoever holds such weights has to say so.
    Dialect(
        id="monai/ResidualSELayer",
        block="se",
        tensors=FC,
        refused="it gates with a ReLU after a leaky ReLU, and adds the map",
        detected=False,
        source=SOURCE,
    ),
)
