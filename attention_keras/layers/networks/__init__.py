"""Networks made of the blocks: a residual unit, ResNet, and a plain network, as Keras layers.

>>> import keras
>>> from attention_keras.layers.networks import ResNet
>>> network = ResNet(depths=(1, 1), width=8, attention="cbam", classes=5, data_format="channels_last")
>>> network(keras.Input((33, 35, 3))).shape
(None, 5)
"""

from attention_keras.layers.networks.plain import PlainNetwork
from attention_keras.layers.networks.residual import ResidualUnit
from attention_keras.layers.networks.resnet import ResNet

__all__ = ["PlainNetwork", "ResNet", "ResidualUnit"]
