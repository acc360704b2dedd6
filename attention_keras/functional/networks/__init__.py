"""Networks made of the blocks: a residual unit, ResNet, and a plain network, as functions that lay Keras layers into a
functional model.

>>> import keras
>>> from attention_keras.functional.networks import resnet
>>> x = keras.Input((33, 35, 3))
>>> resnet(x, depths=(1, 1), width=8, attention="cbam", classes=5, data_format="channels_last").shape
(None, 5)
"""

from attention_keras.functional.networks.plain import plain_network
from attention_keras.functional.networks.residual import residual_unit
from attention_keras.functional.networks.resnet import resnet

__all__ = ["plain_network", "residual_unit", "resnet"]
