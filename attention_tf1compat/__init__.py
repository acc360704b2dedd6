"""SE, CBAM, ECA and coordinate attention as functions of raw TensorFlow: `tf.compat.v1` variable scopes, graph mode.

>>> import tensorflow as tf
>>> from attention_tf1compat import cbam
>>> with tf.Graph().as_default():
...     cbam(tf.ones((2, 5, 7, 64)), reduction=16).shape
TensorShape([2, 5, 7, 64])
"""

from attention_tf1compat.attention_pooling import attention_pooling
from attention_tf1compat.ca import coordinate_attention
from attention_tf1compat.cbam import cbam
from attention_tf1compat.conv_attention import convolution_attention
from attention_tf1compat.eca import eca
from attention_tf1compat.ese import effective_squeeze_excitation
from attention_tf1compat.multi_head_eca import multi_head_eca
from attention_tf1compat.networks import plain_network, residual_unit, resnet
from attention_tf1compat.scse import scse
from attention_tf1compat.se import squeeze_excitation

__all__ = [
    "attention_pooling",
    "cbam",
    "convolution_attention",
    "coordinate_attention",
    "eca",
    "effective_squeeze_excitation",
    "multi_head_eca",
    "plain_network",
    "residual_unit",
    "resnet",
    "scse",
    "squeeze_excitation",
]
