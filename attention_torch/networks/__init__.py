"""Networks made of the blocks: a residual unit, ResNet, and a plain network, as PyTorch modules.

>>> import torch
>>> from attention_torch.networks import ResNet
>>> ResNet(3, depths=(1, 1), width=8, attention="cbam", classes=5)(torch.ones(2, 3, 33, 35)).shape
torch.Size([2, 5])
"""

from attention_torch.networks.plain import PlainNetwork
from attention_torch.networks.residual import ResidualUnit
from attention_torch.networks.resnet import ResNet

__all__ = ["PlainNetwork", "ResNet", "ResidualUnit"]
