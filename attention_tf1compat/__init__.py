"""SE, CBAM, ECA and coordinate attention as functions of raw TensorFlow: `tf.compat.v1` variable scopes, graph mode.

>>> import tensorflow as tf
>>> from attention_tf1compat import cbam
>>> with tf.Graph().as_default():
...     cbam(tf.ones((2, 5, 7, 64)), reduction=16).shape
TensorShape([2, 5, 7, 64])
"""

from attention_tf1compat.ca import coordinate_attention
from attention_tf1compat.cbam import cbam
from attention_tf1compat.eca import eca
from attention_tf1compat.se import squeeze_excitation

__all__ = ["cbam", "coordinate_attention", "eca", "squeeze_excitation"]
