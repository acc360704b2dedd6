"""timm: the attention modules of ``timm.layers``, and the one of its EfficientNet and MobileNet blocks."""

from __future__ import annotations

from parity.dialects._table import (
    CA,
    CBAM,
    CBAM_FACTS,
    ECA,
    ECA_FACTS,
    ESE,
    OPTIONAL,
    PLANES,
    SE,
    TAPS,
    TORCH_NORM,
    Dialect,
    Tensor,
    batch_norm,
    layer,
    pair,
)

SOURCE = "timm 1.0.31"

SE_MODULE = pair(layer, "fc1 fc2", "conv1x1", bias=OPTIONAL)

CBAM_MODULE = pair(layer, "channel.fc1 channel.fc2", "conv1x1", bias=OPTIONAL, path="channel.")

DIALECTS = (
    # Its `add_maxpool`, which no weight shows, is "experimental" there and has no counterpart here.
    Dialect(
        id="timm/SEModule",
        block="se",
        tensors=SE_MODULE,
        defaults=SE,
        doubtful=("gate", "activation"),
        source=f"{SOURCE}, layers/squeeze_excite.py",
    ),
    Dialect(
        id="timm/SEModule-norm",
        block="se",
        tensors=SE_MODULE + batch_norm("bn", "bn"),
        refused="its batch norm between the two layers has no counterpart in squeeze and excitation",
        source=f"{SOURCE}, layers/squeeze_excite.py, with norm_layer",
    ),
    # Of EfficientNet (SiLU) and of MobileNetV3 (hard sigmoid).
    Dialect(
        id="timm/SqueezeExcite",
        block="se",
        tensors=pair(layer, "conv_reduce conv_expand", "conv1x1", bias=True),
        defaults=SE,
        doubtful=("gate", "activation"),
        source=f"{SOURCE}, models/_efficientnet_blocks.py",
    ),
    Dialect(
        id="timm/SqueezeExciteCl",
        block="se",
        tensors=pair(layer, "fc1 fc2", "linear", bias=OPTIONAL),
        defaults=SE,
        source=f"{SOURCE}, layers/squeeze_excite.py; its maps are channels last",
    ),
    # Its `add_maxpool`, which no weight shows, has no counterpart here either.
    Dialect(
        id="timm/EffectiveSEModule",
        block="ese",
        tensors=layer("fc", "fc", "conv1x1", bias=True, shape="C C 1 1"),
        defaults=ESE,
        doubtful=("gate",),
        source=f"{SOURCE}, layers/squeeze_excite.py",
    ),
    Dialect(
        id="timm/EseModule",
        block="ese",
        tensors=layer("conv", "fc", "conv1x1", bias=True, shape="C C 1 1"),
        defaults={**ESE, "gate": "sigmoid"},
        detected=False,  # its keys are those of any convolution at single positions that keeps its channels
        source=f"{SOURCE}, models/hgnet.py",
    ),
    Dialect(
        id="timm/EcaModule",
        block="eca",
        tensors=layer("conv", "conv", "conv", bias=False, shape=TAPS),
        facts=ECA_FACTS,
        defaults=ECA,
        source=f"{SOURCE}, layers/eca.py",
    ),
    Dialect(
        id="timm/EcaModule-mlp",
        block="eca",
        tensors=(
            *layer("conv", "conv", "conv", bias=True, shape="h 1 1"),
            *layer("conv2", "conv2", "conv", bias=True, shape="1 h k"),
        ),
        refused="its second convolution has no counterpart in efficient channel attention",
        source=f"{SOURCE}, layers/eca.py, with use_mlp",
    ),
    # `act_layer` gives it a bias, and is itself never applied.
    Dialect(
        id="timm/CecaModule",
        block="eca",
        tensors=layer("conv", "conv", "conv", bias=OPTIONAL, shape=TAPS),
        facts={"padding": "circular"},
        defaults=ECA,
        source=f"{SOURCE}, layers/eca.py",
    ),
    Dialect(
        id="timm/CbamModule",
        block="cbam",
        tensors=(
            *CBAM_MODULE,
            *layer("spatial.conv.conv", "spatial.conv", "conv", bias=False, shape=PLANES),
            *batch_norm("spatial.conv.bn", "spatial.norm"),
        ),
        facts={**CBAM_FACTS, "spatial_norm": TORCH_NORM},
        defaults=CBAM,
        source=f"{SOURCE}, layers/cbam.py",
    ),
    Dialect(
        id="timm/LightCbamModule",
        block="cbam",
        tensors=(
            *CBAM_MODULE,
            *layer("spatial.conv.conv", "spatial.conv", "conv", bias=False, shape="1 1 k k"),
            *batch_norm("spatial.conv.bn", "spatial.norm"),
        ),
        refused="it adds mean and maximum before its MLP and before its convolution, which sees one plane",
        source=f"{SOURCE}, layers/cbam.py",
    ),
    # `has_skip`, which no weight shows, is off wherever timm uses it.
    Dialect(
        id="timm/CoordAttn",
        block="ca",
        tensors=(
            *layer("conv1", "reduce", "conv1x1", bias=OPTIONAL),
            *batch_norm("bn1", "norm"),
            *layer("conv_h", "expand.h", "conv1x1", bias=OPTIONAL),
            *layer("conv_w", "expand.w", "conv1x1", bias=OPTIONAL),
        ),
        defaults={**CA, "activation": "hard_swish", "norm": TORCH_NORM, "residual": False},
        source=f"{SOURCE}, layers/coord_attn.py",
    ),
    Dialect(
        id="timm/SimpleCoordAttn",
        block="ca",
        tensors=(
            *layer("fc1", "reduce", "linear", bias=OPTIONAL),
            *layer("fc_h", "expand.h", "linear", bias=OPTIONAL),
            *layer("fc_w", "expand.w", "linear", bias=OPTIONAL),
        ),
        refused="it adds the logits of both axes before one gate, where coordinate attention multiplies two gates",
        source=f"{SOURCE}, layers/coord_attn.py",
    ),
    Dialect(
        id="timm/EfficientLocalAttn",
        block="ca",
        tensors=(
            *layer("conv_h", "conv_h", "conv", bias=OPTIONAL, shape="C 1 k 1"),
            *layer("conv_w", "conv_w", "conv", bias=OPTIONAL, shape="C 1 1 k"),
            *(
                Tensor(f"norm_{axis}.{leaf}", f"norm_{axis}.{leaf}", "vector")
                for axis in "hw"
                for leaf in ("weight", "bias")
            ),
        ),
        refused="its depthwise convolutions and group norms along each axis are another function",
        source=f"{SOURCE}, layers/coord_attn.py",
    ),
)
