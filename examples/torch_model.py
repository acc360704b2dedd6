"""Plug an attention block into a model of torchvision's style, train it, and save the weights with their meaning.

Run: python examples/torch_model.py
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import parity
from attention_torch import CBAM


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, as in torchvision, with an attention block before the addition."""

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.attention = CBAM(planes, reduction=4, kernel_size=3)  # the line that is new
        self.downsample = None
        if stride != 1 or inputs != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = self.attention(out)  # and the one that calls it
        return functional.relu(out + identity)


class Model(nn.Module):
    """A stem, two residual blocks, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = BasicBlock(8, 8)
        self.layer2 = BasicBlock(8, 16, stride=2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


def main(file: str = "torch_model.safetensors") -> None:
    """Train on scikit-learn's digits, and write the two blocks to `file`."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(x))
    train, test = order[:1440], order[1440:]

    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(4):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x[batch]), labels[batch])
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    model.eval()
    with torch.no_grad():
        right = (model(x[test]).argmax(1) == labels[test]).float().mean().item()
    print(f"test accuracy {right:.3f}")

    parity.write(file, parity.blocks_of(model))
    for block in parity.read(file):
        print(f"{file}: {block.name}, {type(block.spec).__name__} of {block.spec.channels} channels")


if __name__ == "__main__":
    main(*sys.argv[1:])
