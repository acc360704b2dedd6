"""SE, CBAM, ECA and coordinate attention as Keras layers.

>>> import keras
>>> from attention_keras.layers import CBAM
>>> CBAM(reduction=16, data_format="channels_last")(keras.Input((5, 7, 64))).shape
(None, 5, 7, 64)
"""

from attention_keras.layers.ca import CoordinateAttention
from attention_keras.layers.cbam import CBAM
from attention_keras.layers.eca import ECA
from attention_keras.layers.se import SqueezeExcitation

__all__ = ["CBAM", "ECA", "CoordinateAttention", "SqueezeExcitation"]
