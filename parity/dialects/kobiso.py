"""kobiso: CBAM-keras, whose layers have the names that Keras gives, and CBAM-tensorflow."""

from __future__ import annotations

from parity.dialects._table import CBAM, CBAM_FACTS, PLANES_LAST, SE, Dialect, keras_layer, pair

SOURCE_KERAS = "kobiso/CBAM-keras 796ae9e, models/attention_module.py"
SOURCE_TENSORFLOW = "kobiso/CBAM-tensorflow, attention_module.py"

DIALECTS = (
    Dialect(
        id="CBAM-keras/se_block",
        block="se",
        tensors=pair(keras_layer, "squeeze excite", "dense", bias=True),
        defaults=SE,
        doubtful=("gate", "activation"),  # numbers tell nothing of who wrote the code
        numbered={"squeeze": ("dense",), "excite": ("dense",)},
        inline=True,
        source=SOURCE_KERAS,
    ),
    Dialect(
        id="CBAM-keras/cbam_block",
        block="cbam",
        tensors=(
            *pair(keras_layer, "shared_layer_one shared_layer_two", "dense", bias=True, path="channel."),
            *keras_layer("spatial_conv", "spatial.conv", "conv_last", bias=False, shape=PLANES_LAST),
        ),
        facts=CBAM_FACTS,
        defaults=CBAM,
        numbered={"shared_layer_one": ("dense",), "shared_layer_two": ("dense",), "spatial_conv": ("conv2d",)},
        inline=True,
        source=SOURCE_KERAS,
    ),
    Dialect(
        id="CBAM-tensorflow/se_block",
        block="se",
        tensors=pair(keras_layer, "bottleneck_fc recover_fc", "dense", bias=True),
        defaults=SE,
        source=SOURCE_TENSORFLOW,
    ),
    Dialect(
        id="CBAM-tensorflow/cbam_block",
        block="cbam",
        tensors=(
            *pair(keras_layer, "ch_at/mlp_0 ch_at/mlp_1", "dense", bias=True, path="channel."),
            *keras_layer("sp_at/conv", "spatial.conv", "conv_last", bias=False, shape=PLANES_LAST),
        ),
        facts=CBAM_FACTS,
        defaults=CBAM,
        source=SOURCE_TENSORFLOW,
    ),
)
