"""The tutorials that this project covers, in PyTorch, Keras, TensorFlow and TensorFlow 1."""

from __future__ import annotations

from parity.dialects._table import (
    CA,
    CBAM,
    CBAM_FACTS,
    CONVOLUTION,
    ECA,
    ECA_FACTS,
    ONE_HEAD,
    OPTIONAL,
    PLANES,
    PLANES_LAST,
    SE,
    TAPS,
    TAPS_LAST,
    TORCH_NORM,
    Dialect,
    batch_norm,
    keras_layer,
    keras_multi_head_attention,
    layer,
    multi_head_attention,
    pair,
    projections,
)

MLP = {"shared_layer_one": ("dense",), "shared_layer_two": ("dense",)}
SPATIAL = {"spatial_conv": ("conv2d",)}

PYTORCH = (
    Dialect(
        id="tutorial-pytorch/SEAttention",
        block="se",
        tensors=pair(layer, "fc.0 fc.2", "linear", bias=False),
        defaults=SE,
        source="the tutorial in PyTorch",
    ),
    Dialect(
        id="tutorial-pytorch/CBAMAttention",
        block="cbam",
        tensors=(
            *pair(layer, "ca.se.0 ca.se.2", "conv1x1", bias=False, path="channel."),
            *layer("sa.conv", "spatial.conv", "conv swap_planes", bias=True, shape=PLANES),
        ),
        facts=CBAM_FACTS,
        defaults=CBAM,
        source="the tutorial in PyTorch",
    ),
    Dialect(
        id="tutorial-pytorch/ECAAttention",
        block="eca",
        tensors=layer("conv", "conv", "conv", bias=True, shape=TAPS),
        facts=ECA_FACTS,
        defaults=ECA,
        source="the tutorial in PyTorch",
    ),
    Dialect(
        id="tutorial-pytorch/CAAttention",
        block="ca",
        tensors=(
            *layer("conv_1x1", "reduce", "conv1x1", bias=False),
            *batch_norm("bn", "norm"),
            *layer("F_h", "expand.h", "conv1x1", bias=False),
            *layer("F_w", "expand.w", "conv1x1", bias=False),
        ),
        facts={"norm": TORCH_NORM, "residual": False},
        defaults=CA,
        source="the tutorial in PyTorch",
    ),
    Dialect(
        id="tutorial-pytorch/AttentionModule",
        block="attention_pooling",
        tensors=layer("conv", "score", "conv1x1x1", bias=True, shape="1 C 1 1 1"),
        facts={"spatial_dims": 3, "axis": "d"},
        detected=False,  # its keys are those of any last convolution to one map
        source="the tutorial in PyTorch, of volumes",
    ),
)

# What is not in the weights of a convolution and an attention, and what of it their users must be asked.
CONV_ATTENTION = {**CONVOLUTION, **ONE_HEAD}
MULTI_HEAD_ECA = {**ECA, **ONE_HEAD, "scale": 2.0, "offset": 1.0}
HEADS = ("num_heads",)

ATTENTION = (
    Dialect(
        id="tutorial-pytorch/Conv1dWithAttention",
        block="conv_attention",
        tensors=(
            *layer("conv", "conv", "conv", bias=OPTIONAL),
            *multi_head_attention("attention", "attention"),
        ),
        defaults=CONV_ATTENTION,
        doubtful=tuple(CONVOLUTION),
        asked=HEADS,
        source="the tutorial in PyTorch, of sequences",
    ),
    Dialect(
        id="tutorial-pytorch/ECAAttention-multihead",
        block="multi_head_eca",
        tensors=(
            *layer("conv", "conv", "conv", bias=False, shape=TAPS),
            *projections(
                layer,
                " ".join(f"multihead_attn.{part}_linear" for part in ("q", "k", "v", "out")),
                "linear",
                "attention",
            ),
        ),
        defaults=MULTI_HEAD_ECA,
        doubtful=("scale", "offset"),
        asked=HEADS,
        aliases={"gamma": "scale", "b": "offset"},
        source="the tutorial in PyTorch: ECA improved with multi-head attention",
    ),
    Dialect(
        id="keras/Conv-MultiHeadAttention",
        block="conv_attention",
        tensors=(
            *keras_layer("conv", "conv", "conv_last", bias=OPTIONAL),
            *keras_multi_head_attention("attention", "attention"),
        ),
        defaults=CONVOLUTION,
        doubtful=tuple(CONVOLUTION),
        sizes={"H": "num_heads"},
        source="Keras 3.15.1, MultiHeadAttention",
    ),
    Dialect(
        id="keras/ECA-MultiHeadAttention",
        block="multi_head_eca",
        tensors=(
            *keras_layer("conv", "conv", "conv_last", bias=False, shape=TAPS_LAST),
            *keras_multi_head_attention("attention", "attention"),
        ),
        defaults={name: value for name, value in MULTI_HEAD_ECA.items() if name != "num_heads"},
        doubtful=("gate", "scale", "offset"),
        sizes={"H": "num_heads"},
        source="Keras 3.15.1, MultiHeadAttention",
    ),
)

KERAS_MLP = pair(keras_layer, "shared_layer_one shared_layer_two", "dense", bias=True, path="channel.")
KERAS_SPATIAL = keras_layer("spatial_conv", "spatial.conv", "conv_last", bias=False, shape=PLANES_LAST)

KERAS = (
    Dialect(
        id="tutorial-keras/se_block",
        block="se",
        tensors=pair(keras_layer, "squeeze excite", "dense", bias=True),
        defaults=SE,
        doubtful=("gate", "activation"),  # numbers tell nothing of who wrote the code
        numbered={"squeeze": ("dense",), "excite": ("dense",)},
        inline=True,
        source="the tutorial in Keras, functional",
    ),
    Dialect(
        id="tutorial-keras/cbam_block",
        block="cbam",
        tensors=KERAS_MLP + KERAS_SPATIAL,
        facts=CBAM_FACTS,
        defaults=CBAM,
        numbered=MLP | SPATIAL,
        inline=True,
        source="the tutorial in Keras, functional",
    ),
    Dialect(
        id="tutorial-keras/channel_attention",
        block="cbam",
        tensors=KERAS_MLP,
        facts={"channel_merge": "add", "residual": False},
        defaults=CBAM,
        numbered=MLP,
        inline=True,
        source="the tutorial in Keras, functional",
    ),
    Dialect(
        id="tutorial-keras/spatial_attention",
        block="cbam",
        tensors=KERAS_SPATIAL,
        facts={"spatial_features": "pooled", "residual": False},
        defaults={"gate": "sigmoid", "spatial_dims": 2},
        numbered=SPATIAL,
        inline=True,
        source="the tutorial in Keras, functional",
    ),
    Dialect(
        id="tutorial-keras/eca_block",
        block="eca",
        tensors=keras_layer("eca_layer_*", "conv", "conv_last", bias=False, shape=TAPS_LAST),
        facts=ECA_FACTS,
        defaults=ECA,
        numbered={"eca_layer_*": ("conv1d",)},
        inline=True,
        source="the tutorial in Keras, functional",
    ),
)

TENSORFLOW = (
    Dialect(
        id="tutorial-tensorflow/CBAM",
        block="cbam",
        tensors=(
            *pair(keras_layer, "dense1 dense2", "dense", bias=True, path="channel."),
            *keras_layer("conv1", "spatial.conv", "conv_last", bias=False),
        ),
        facts={**CBAM_FACTS, "channel_merge": "concat", "spatial_features": "full"},
        defaults=CBAM,
        numbered={"dense1": ("dense",), "dense2": ("dense",), "conv1": ("conv2d", "conv3d")},
        source="the tutorial in TensorFlow, subclasses of layers",
    ),
)

TENSORFLOW_1 = (
    Dialect(
        id="tutorial-tf1/cbam_module",
        block="cbam",
        tensors=(
            *pair(keras_layer, "mlp_1 mlp_2", "dense", bias=True, path="channel."),
            *keras_layer("conv2d", "spatial.conv", "conv_last swap_planes", bias=True, shape=PLANES_LAST),
        ),
        facts={**CBAM_FACTS, "spatial_source": "input"},
        defaults=CBAM,
        source="the tutorial in TensorFlow 1",
    ),
)

DIALECTS = PYTORCH + ATTENTION + KERAS + TENSORFLOW + TENSORFLOW_1
