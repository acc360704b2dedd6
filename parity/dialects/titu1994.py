"""titu1994/keras-squeeze-excite-network: Keras, under the names that Keras gives, without biases."""

from __future__ import annotations

from parity.dialects._table import SE, Dialect, keras_layer, pair

DIALECTS = (
    Dialect(
        id="keras-squeeze-excite-network/squeeze_excite_block",
        block="se",
        tensors=pair(keras_layer, "squeeze excite", "dense", bias=False),
        defaults=SE,
        doubtful=("gate", "activation"),  # numbers tell nothing of who wrote the code
        numbered={"squeeze": ("dense",), "excite": ("dense",)},
        inline=True,
        source="titu1994/keras-squeeze-excite-network, se.py",
    ),
)
