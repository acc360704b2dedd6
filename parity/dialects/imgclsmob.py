"""osmr/imgclsmob: pytorchcv, and its twin tf2cv."""

from __future__ import annotations

from parity.dialects._table import (
    CBAM,
    CBAM_FACTS,
    PLANES,
    PLANES_LAST,
    SE,
    TORCH_NORM,
    Dialect,
    Tensor,
    batch_norm,
    keras_batch_norm,
    keras_layer,
    layer,
    pair,
)

SOURCE = "pytorchcv 0.0.74"
SOURCE_TF2 = "tf2cv, osmr/imgclsmob 29fd1af"


def _tf2cv_cbam(conv: str) -> tuple[Tensor, ...]:
    return (
        *pair(keras_layer, "ch_gate/mlp/fc1 ch_gate/mlp/fc2", "dense", bias=True, path="channel."),
        *keras_layer(conv, "spatial.conv", "conv_last swap_planes", bias=False, shape=PLANES_LAST),
        *keras_batch_norm("sp_gate/conv/bn", "spatial.norm"),
    )


DIALECTS = (
    # MobileNetV3 passes a hard sigmoid.
    Dialect(
        id="pytorchcv/SEBlock",
        block="se",
        tensors=pair(layer, "conv1 conv2", "conv1x1", bias=True),
        defaults=SE,
        doubtful=("gate",),
        source=f"{SOURCE}, models/common/att.py",
    ),
    Dialect(
        id="pytorchcv/SEBlock-linear",
        block="se",
        tensors=pair(layer, "fc1 fc2", "linear", bias=True),
        defaults=SE,
        source=f"{SOURCE}, models/common/att.py, with use_conv=False",
    ),
    Dialect(
        id="pytorchcv/CbamBlock",
        block="cbam",
        tensors=(
            *pair(layer, "ch_gate.mlp.fc1 ch_gate.mlp.fc2", "linear", bias=True, path="channel."),
            *layer("sp_gate.conv.conv", "spatial.conv", "conv swap_planes", bias=False, shape=PLANES),
            *batch_norm("sp_gate.conv.bn", "spatial.norm"),
        ),
        facts={**CBAM_FACTS, "spatial_norm": TORCH_NORM},
        defaults=CBAM,
        source=f"{SOURCE}, models/cbamresnet.py",
    ),
    # Keras 2's fused kernel follows the unbiased variance; another Keras may not, so that the norm is no fact.
    Dialect(
        id="tf2cv/CbamBlock",
        block="cbam",
        tensors=_tf2cv_cbam("sp_gate/conv/conv"),
        facts=CBAM_FACTS,
        defaults={**CBAM, "spatial_norm": TORCH_NORM},
        source=f"{SOURCE_TF2}, models/cbamresnet.py, by the names of its layers",
    ),
    # The convolution sits in a layer of its own, of the same name.
    Dialect(
        id="tf2cv/CbamBlock-variables",
        block="cbam",
        tensors=_tf2cv_cbam("sp_gate/conv/conv/conv"),
        facts=CBAM_FACTS,
        defaults={**CBAM, "spatial_norm": TORCH_NORM},
        source=f"{SOURCE_TF2}, models/cbamresnet.py, by the names of its variables",
    ),
    Dialect(
        id="tf2cv/SEBlock",
        block="se",
        tensors=pair(keras_layer, "conv1/conv conv2/conv", "conv1x1_last", bias=True),
        defaults=SE,
        doubtful=("gate",),
        source=f"{SOURCE_TF2}, models/common.py",
    ),
)
