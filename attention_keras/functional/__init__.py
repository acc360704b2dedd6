"""SE, CBAM, ECA and coordinate attention as functions that lay stock Keras layers into a functional model.

    >>> import keras
    >>> from attention_keras.functional import cbam
    >>> x = keras.Input((5, 7, 64))
    >>> cbam(x, reduction=16, data_format="channels_last", name="stage1_cbam").shape
    (None, 5, 7, 64)

A model of blocks without a norm is made of stock layers and operations alone: its ``.keras`` file loads where this
package is not installed.
"""

from attention_keras.functional.attention_pooling import attention_pooling
from attention_keras.functional.ca import coordinate_attention
from attention_keras.functional.cbam import cbam
from attention_keras.functional.conv_attention import convolution_attention
from attention_keras.functional.eca import eca
from attention_keras.functional.ese import effective_squeeze_excitation
from attention_keras.functional.multi_head_eca import multi_head_eca
from attention_keras.functional.networks import plain_network, residual_unit, resnet
from attention_keras.functional.scse import scse
from attention_keras.functional.se import squeeze_excitation

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
