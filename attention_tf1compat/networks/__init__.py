"""Networks made of the blocks: a residual unit, ResNet, and a plain network, as functions of raw TensorFlow.

>>> import tensorflow as tf
>>> from attention_tf1compat.networks import resnet
>>> with tf.Graph().as_default():
...     resnet(tf.ones((2, 33, 35, 3)), depths=(1, 1), width=8, attention="cbam", classes=5).shape
TensorShape([2, 5])
"""

from attention_tf1compat.networks.plain import plain_network
from attention_tf1compat.networks.residual import residual_unit
from attention_tf1compat.networks.resnet import resnet

__all__ = ["plain_network", "residual_unit", "resnet"]
