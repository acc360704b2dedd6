"""Train a network in PyTorch, carry it to Keras and to TensorFlow 1, and see that all three say the same.

Run: python examples/port_network.py
"""

from __future__ import annotations

import sys

import keras
import numpy as np
import tensorflow as tf
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

import parity
from attention_keras.functional import resnet
from attention_tf1compat import resnet as resnet_tf1
from attention_torch import ResNet

v1 = tf.compat.v1

OPTIONS = {"depths": (1, 1), "width": 8, "stem": "small", "attention": "se", "classes": 10}
OPTIONS |= {"attention_options": {"reduction": 4}}


def main(file: str = "network.safetensors") -> None:
    """Train on scikit-learn's digits, write the network to `file`, and run what the others read from it."""
    torch.manual_seed(0)
    digits = load_digits()
    x, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    order = torch.randperm(len(x))
    train, test = order[:1440], order[1440:]

    network = ResNet(1, **OPTIONS)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for epoch in range(4):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(x[batch]), labels[batch])
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    parity.write(file, parity.blocks_of(network))  # the weights, and the spec of the whole network

    with torch.no_grad():
        logits = {"torch": network.eval()(x[test]).numpy()}

    images = np.moveaxis(x[test].numpy(), 1, -1)  # channels last
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, resnet(inputs, **OPTIONS, data_format="channels_last", name="network"))
    parity.load_into(model, file, mapping={"": "network"})
    logits["keras"] = model.predict(images, verbose=0)

    with tf.Graph().as_default(), v1.Session() as session:
        source = v1.placeholder(tf.float32, (None, 8, 8, 1))
        y = resnet_tf1(source, **OPTIONS, scope="network")
        parity.load_into(session, file, mapping={"": "network"})
        logits["tf1"] = session.run(y, {source: images})

    for name, value in logits.items():
        right = (value.argmax(1) == labels[test].numpy()).mean()
        off = np.abs(value - logits["torch"]).max() / np.abs(logits["torch"]).max()
        print(f"{name}: test accuracy {right:.3f}, logits off by {off:.1e} of the largest")


if __name__ == "__main__":
    main(*sys.argv[1:])
