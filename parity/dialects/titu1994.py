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
    Dialect(
        id="keras-squeeze-excite-network/channel_spatial_squeeze_excite",
        block="scse",
        tensors=(
            *pair(keras_layer, "squeeze excite", "dense", bias=False, path="channel."),
            *keras_layer("spatial", "spatial.fc", "conv1x1_last", bias=False, shape="1 1 C 1"),
        ),
        defaults={**SE, "merge": "add"},
        doubtful=("gate", "activation", "merge"),
        numbered={"squeeze": ("dense",), "excite": ("dense",), "spatial": ("conv2d",)},
        inline=True,
        source="titu1994/keras-squeeze-excite-network 98f8c0b, se.py",
    ),
)
