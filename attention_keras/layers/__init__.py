"""SE, CBAM, ECA and coordinate attention as Keras layers.

>>> import keras
>>> from attention_keras.layers import CBAM
>>> CBAM(reduction=16, data_format="channels_last")(keras.Input((5, 7, 64))).shape
(None, 5, 7, 64)
"""

from attention_keras.layers.attention_pooling import AttentionPooling
from attention_keras.layers.ca import CoordinateAttention
from attention_keras.layers.cbam import CBAM
from attention_keras.layers.conv_attention import ConvolutionAttention
from attention_keras.layers.eca import ECA
from attention_keras.layers.ese import EffectiveSqueezeExcitation
from attention_keras.layers.multi_head_eca import MultiHeadECA
from attention_keras.layers.networks import PlainNetwork, ResidualUnit, ResNet
from attention_keras.layers.scse import SCSE
from attention_keras.layers.se import SqueezeExcitation

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
