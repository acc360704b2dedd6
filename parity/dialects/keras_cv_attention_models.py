"""keras_cv_attention_models: functions of functional models, their layers named after the stage and the block."""

from __future__ import annotations

from parity.dialects._table import ECA, ECA_FACTS, SE, TAPS_LAST, Dialect, keras_layer, pair

SOURCE = "keras_cv_attention_models 1.4.3, common_layers.py"

DIALECTS = (
    # Both functions are arguments: a SiLU in EfficientNet, a hard sigmoid in MobileNetV3.
    Dialect(
        id="keras_cv_attention_models/se_module",
        block="se",
        tensors=pair(keras_layer, "*1_conv *2_conv", "conv1x1_last", bias=True),
        defaults=SE,
        doubtful=("gate", "activation"),
        inline=True,
        source=SOURCE,
    ),
    Dialect(
        id="keras_cv_attention_models/se_module-dense",
        block="se",
        tensors=pair(keras_layer, "*1_dense *2_dense", "dense", bias=True),
        defaults=SE,
        doubtful=("gate", "activation"),
        inline=True,
        source=f"{SOURCE}, with use_conv=False",
    ),
    Dialect(
        id="keras_cv_attention_models/eca_module",
        block="eca",
        tensors=keras_layer("*conv1d", "conv", "conv_last", bias=False, shape=TAPS_LAST),
        facts=ECA_FACTS,
        defaults=ECA,
        inline=True,
        source=SOURCE,
    ),
)
