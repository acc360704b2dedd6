"""keras.applications: blocks that are parts of functional models, their layers named after the block around them."""

from __future__ import annotations

from parity.dialects._table import SE, Dialect, keras_layer, pair

SOURCE = "keras 3.15.1"
SOURCE_2 = "tf-keras (Keras 2)"

# A hard sigmoid of slope 1/6, written out, in Keras 2 and 3 alike.
MOBILENET_V3 = {**SE, "gate": "hard_sigmoid"}

DIALECTS = (
    Dialect(
        id="keras.applications/mobilenet_v3_se_block",
        block="se",
        tensors=pair(keras_layer, "*squeeze_excite_conv *squeeze_excite_conv_1", "conv1x1_last", bias=True),
        defaults=MOBILENET_V3,
        inline=True,
        source=f"{SOURCE}, applications/mobilenet_v3.py",
    ),
    Dialect(
        id="keras.applications/mobilenet_v3_se_block@keras-2",
        block="se",
        tensors=pair(keras_layer, "squeeze_excite/Conv squeeze_excite/Conv_1", "conv1x1_last", bias=True),
        defaults=MOBILENET_V3,
        inline=True,
        source=f"{SOURCE_2}, applications/mobilenet_v3.py",
    ),
    # Versions 1 and 2; ResNet-RS has the same names and a ReLU.
    Dialect(
        id="keras.applications/efficientnet",
        block="se",
        tensors=pair(keras_layer, "*se_reduce *se_expand", "conv1x1_last", bias=True),
        defaults={**SE, "activation": "silu"},
        doubtful=("activation",),
        inline=True,
        source=f"{SOURCE}, applications/efficientnet.py and efficientnet_v2.py",
    ),
    Dialect(
        id="keras.applications/resnet_rs",
        block="se",
        tensors=pair(keras_layer, "*se_reduce *se_expand", "conv1x1_last", bias=True),
        defaults=SE,
        doubtful=("activation",),
        inline=True,
        source=f"{SOURCE_2}, applications/resnet_rs.py",
    ),
    Dialect(
        id="keras.applications/regnet",
        block="se",
        tensors=pair(keras_layer, "*squeeze_and_excite_squeeze *squeeze_and_excite_excite", "conv1x1_last", bias=True),
        defaults=SE,
        inline=True,
        source=f"{SOURCE_2}, applications/regnet.py",
    ),
)
