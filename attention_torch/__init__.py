"""SE, CBAM, ECA and coordinate attention as PyTorch modules.

>>> import torch
>>> from attention_torch import CBAM
>>> CBAM(64, reduction=16)(torch.ones(2, 64, 5, 7)).shape
torch.Size([2, 64, 5, 7])
"""

from attention_torch.attention_pooling import AttentionPooling
from attention_torch.ca import CoordinateAttention
from attention_torch.cbam import CBAM
from attention_torch.conv_attention import ConvolutionAttention
from attention_torch.eca import ECA
from attention_torch.ese import EffectiveSqueezeExcitation
from attention_torch.multi_head_eca import MultiHeadECA
from attention_torch.networks import PlainNetwork, ResidualUnit, ResNet
from attention_torch.scse import SCSE
from attention_torch.se import SqueezeExcitation

__all__ = [
    "CBAM",
    "ECA",
    "SCSE",
    "AttentionPooling",
    "ConvolutionAttention",
    "CoordinateAttention",
    "EffectiveSqueezeExcitation",
    "MultiHeadECA",
    "PlainNetwork",
    "ResNet",
    "ResidualUnit",
    "SqueezeExcitation",
]
