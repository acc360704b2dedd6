"""The tutorials that this project covers, in PyTorch, Keras, TensorFlow and TensorFlow 1."""

from __future__ import annotations

from typing import Any

from parity.dialects._table import Dialect, batch_norm, keras_layer, layer

COMMON: dict[str, Any] = {"gate": "sigmoid", "spatial_dims": 2}
RELU: dict[str, Any] = {**COMMON, "activation": "relu"}
ECA: dict[str, Any] = {**COMMON, "padding": "zeros"}

CBAM: dict[str, Any] = {
    "channel_merge": "add",
    "spatial_features": "pooled",
    "spatial_source": "refined",
    "residual": False,
}
MLP = {"shared_layer_one": ("dense",), "shared_layer_two": ("dense",)}
SPATIAL = {"spatial_conv": ("conv2d",)}

PYTORCH = (
    Dialect(
        id="tutorial-pytorch/SEAttention",
        block="se",
        tensors=layer("fc.0", "fc1", "linear", bias=False) + layer("fc.2", "fc2", "linear", bias=False),
        defaults=RELU,
    ),
    Dialect(
        id="tutorial-pytorch/CBAMAttention",
        block="cbam",
        tensors=(
            *layer("ca.se.0", "channel.fc1", "conv1x1", bias=False),
            *layer("ca.se.2", "channel.fc2", "conv1x1", bias=False),
            *layer("sa.conv", "spatial.conv", "conv swap_planes", bias=True),
        ),
        facts=CBAM,
        defaults=RELU,
    ),
    Dialect(
        id="tutorial-pytorch/ECAAttention",
        block="eca",
        tensors=layer("conv", "conv", "conv", bias=True),
        defaults=ECA,
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
        facts={"norm": {"epsilon": 1e-5, "update_rate": 0.1, "unbiased_variance": True}, "residual": False},
        defaults=RELU,
    ),
)

KERAS_MLP = (
    *keras_layer("shared_layer_one", "channel.fc1", "dense", bias=True),
    *keras_layer("shared_layer_two", "channel.fc2", "dense", bias=True),
)
KERAS_SPATIAL = keras_layer("spatial_conv", "spatial.conv", "conv_last", bias=False)

KERAS = (
    Dialect(
        id="tutorial-keras/se_block",
        block="se",
        tensors=keras_layer("squeeze", "fc1", "dense", bias=True) + keras_layer("excite", "fc2", "dense", bias=True),
        defaults=RELU,
        numbered={"squeeze": ("dense",), "excite": ("dense",)},
    ),
    Dialect(
        id="tutorial-keras/cbam_block",
        block="cbam",
        tensors=KERAS_MLP + KERAS_SPATIAL,
        facts=CBAM,
        defaults=RELU,
        numbered=MLP | SPATIAL,
    ),
    Dialect(
        id="tutorial-keras/channel_attention",
        block="cbam",
        tensors=KERAS_MLP,
        facts={"channel_merge": "add", "residual": False},
        defaults=RELU,
        numbered=MLP,
    ),
    Dialect(
        id="tutorial-keras/spatial_attention",
        block="cbam",
        tensors=KERAS_SPATIAL,
        facts={"spatial_features": "pooled", "residual": False},
        defaults=COMMON,
        numbered=SPATIAL,
    ),
    Dialect(
        id="tutorial-keras/eca_block",
        block="eca",
        tensors=keras_layer("eca_layer_", "conv", "conv_last", bias=False),
        defaults=ECA,
        numbered={"eca_layer_": ("conv1d",)},
    ),
)

TENSORFLOW = (
    Dialect(
        id="tutorial-tensorflow/CBAM",
        block="cbam",
        tensors=(
            *keras_layer("dense1", "channel.fc1", "dense", bias=True),
            *keras_layer("dense2", "channel.fc2", "dense", bias=True),
            *keras_layer("conv1", "spatial.conv", "conv_last", bias=False),
        ),
        facts={**CBAM, "channel_merge": "concat", "spatial_features": "full"},
        defaults=RELU,
        numbered={"dense1": ("dense",), "dense2": ("dense",), "conv1": ("conv2d", "conv3d")},
    ),
)

TENSORFLOW_1 = (
    Dialect(
        id="tutorial-tf1/cbam_module",
        block="cbam",
        tensors=(
            *keras_layer("mlp_1", "channel.fc1", "dense", bias=True),
            *keras_layer("mlp_2", "channel.fc2", "dense", bias=True),
            *keras_layer("conv2d", "spatial.conv", "conv_last swap_planes", bias=True),
        ),
        facts={**CBAM, "spatial_source": "input"},
        defaults=RELU,
    ),
)

DIALECTS = PYTORCH + KERAS + TENSORFLOW + TENSORFLOW_1
