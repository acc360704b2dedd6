"""keras-cv, keras-hub and tfimm: squeeze and excitation as layers of Keras."""

from __future__ import annotations

from parity.dialects._table import ECA, ECA_FACTS, SE, TAPS_LAST, Dialect, keras_layer, pair

# Activation and gate are arguments of the layers, and models pass others.
DIALECTS = (
    Dialect(
        id="keras-cv/SqueezeAndExcite2D",
        block="se",
        tensors=pair(keras_layer, "squeeze_conv excite_conv", "conv1x1_last", bias=True),
        defaults=SE,
        doubtful=("gate", "activation"),
        source="keras-cv 0.9.0, layers/regularization/squeeze_excite.py",
    ),
    Dialect(
        id="keras-hub/SqueezeAndExcite2D",
        block="se",
        tensors=pair(keras_layer, "*_conv_reduce *_conv_expand", "conv1x1_last", bias=True),
        defaults=SE,
        doubtful=("gate", "activation"),
        inline=True,
        source="keras-hub 0.32.0, models/mobilenet/mobilenet_backbone.py",
    ),
    Dialect(
        id="tfimm/SEModule",
        block="se",
        tensors=pair(keras_layer, "fc1 fc2", "conv1x1_last", bias=True),
        defaults=SE,
        doubtful=("gate", "activation"),
        source="tfimm, layers/attention.py",
    ),
    Dialect(
        id="tfimm/SqueezeExcite",
        block="se",
        tensors=pair(keras_layer, "conv_reduce conv_expand", "conv1x1_last", bias=True),
        defaults=SE,
        doubtful=("gate", "activation"),
        source="tfimm, layers/efficientnet_blocks.py",
    ),
    Dialect(
        id="tfimm/EcaModule",
        block="eca",
        tensors=keras_layer("conv", "conv", "conv_last", bias=False, shape=TAPS_LAST),
        facts=ECA_FACTS,
        defaults=ECA,
        source="tfimm, layers/attention.py",
    ),
)
