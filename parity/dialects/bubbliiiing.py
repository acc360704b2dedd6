"""bubbliiiing: the attention blocks of the yolov4-tiny repositories, in PyTorch and in TensorFlow 2 and Keras."""

from __future__ import annotations

from parity.dialects._table import (
    CA,
    CBAM,
    CBAM_FACTS,
    ECA,
    ECA_FACTS,
    PLANES,
    PLANES_LAST,
    SE,
    TAPS,
    TAPS_LAST,
    TORCH_NORM,
    Dialect,
    batch_norm,
    keras_batch_norm,
    keras_layer,
    layer,
    pair,
)

SOURCE = "bubbliiiing/yolov4-tiny-pytorch 1bbb2f2, nets/attention.py"

PYTORCH = (
    Dialect(
        id="bubbliiiing/se_block",
        block="se",
        tensors=pair(layer, "fc.0 fc.2", "linear", bias=False),
        defaults=SE,
        source=SOURCE,
    ),
    Dialect(
        id="bubbliiiing/cbam_block",
        block="cbam",
        tensors=(
            *pair(layer, "channelattention.fc1 channelattention.fc2", "conv1x1", bias=False, path="channel."),
            *layer("spatialattention.conv1", "spatial.conv", "conv", bias=False, shape=PLANES),
        ),
        facts=CBAM_FACTS,
        defaults=CBAM,
        source=SOURCE,
    ),
    Dialect(
        id="bubbliiiing/eca_block",
        block="eca",
        tensors=layer("conv", "conv", "conv", bias=False, shape=TAPS),
        facts=ECA_FACTS,
        defaults=ECA,
        source=SOURCE,
    ),
    Dialect(
        id="bubbliiiing/CA_Block",
        block="ca",
        tensors=(
            *layer("conv_1x1", "reduce", "conv1x1", bias=False),
            *batch_norm("bn", "norm"),
            *layer("F_h", "expand.h", "conv1x1", bias=False),
            *layer("F_w", "expand.w", "conv1x1", bias=False),
        ),
        facts={"norm": TORCH_NORM, "residual": False},
        defaults=CA,
        source=SOURCE,
    ),
)

SOURCE_TF2 = "bubbliiiing/yolov4-tiny-tf2 b3e32e2, nets/attention.py; yolov4-tiny-keras"

TF2 = (
    Dialect(
        id="bubbliiiing-tf2/se_block",
        block="se",
        tensors=pair(keras_layer, "se_block_one_* se_block_two_*", "dense", bias=False),
        defaults=SE,
        inline=True,
        source=SOURCE_TF2,
    ),
    Dialect(
        id="bubbliiiing-tf2/cbam_block",
        block="cbam",
        tensors=(
            *keras_layer("channel_attention_shared_one_*", "channel.fc1", "dense", bias=False),
            *keras_layer("channel_attention_shared_two_*", "channel.fc2", "dense", bias=False),
            *keras_layer("spatial_attention_*", "spatial.conv", "conv_last", bias=False, shape=PLANES_LAST),
        ),
        facts=CBAM_FACTS,
        defaults=CBAM,
        inline=True,
        source=SOURCE_TF2,
    ),
    Dialect(
        id="bubbliiiing-tf2/eca_block",
        block="eca",
        tensors=keras_layer("eca_layer_*", "conv", "conv_last", bias=False, shape=TAPS_LAST),
        facts=ECA_FACTS,
        defaults=ECA,
        inline=True,
        source=SOURCE_TF2,
    ),
    Dialect(
        id="bubbliiiing-tf2/ca_block",
        block="ca",
        tensors=(
            *keras_layer("ca_block_conv1_*", "reduce", "conv1x1_last", bias=False),
            *keras_batch_norm("ca_block_bn_*", "norm"),
            *keras_layer("ca_block_conv2_*", "expand.h", "conv1x1_last", bias=False),
            *keras_layer("ca_block_conv3_*", "expand.w", "conv1x1_last", bias=False),
        ),
        refused="it pools the width by its maximum and joins the two axes in the other order than it splits them",
        inline=True,
        source=SOURCE_TF2,
    ),
)

DIALECTS = PYTORCH + TF2
