"""Plug an attention block into a graph of TensorFlow 1, train it in a session, and save a checkpoint.

Run: python examples/tf1_graph.py
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import parity
from attention_tf1compat import cbam

v1 = tf.compat.v1


def conv(x: tf.Tensor, filters: int, stride: int, name: str) -> tf.Tensor:
    """A convolution of 3x3 with a ReLU."""
    with v1.variable_scope(name):
        kernel = v1.get_variable("kernel", (3, 3, x.shape[-1], filters), initializer=v1.glorot_uniform_initializer())
        bias = v1.get_variable("bias", (filters,), initializer=v1.zeros_initializer())
        return tf.nn.relu(tf.nn.conv2d(x, kernel, stride, "SAME") + bias)


def main(checkpoint: str = "tf1_graph/model") -> None:
    """Train on scikit-learn's digits, and write a checkpoint."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype("float32")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    train, test = order[:1440], order[1440:]

    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(0)
        x = v1.placeholder(tf.float32, (None, 8, 8, 1), "x")
        labels = v1.placeholder(tf.int64, (None,), "labels")
        training = v1.placeholder_with_default(False, (), "training")
        u = conv(x, 8, 1, "conv1")
        u = conv(u, 16, 2, "conv2")
        u = cbam(u, reduction=4, kernel_size=3, training=training, scope="conv2/cbam")
        weights = v1.get_variable("head", (16, 10), initializer=v1.glorot_uniform_initializer())
        logits = tf.matmul(tf.reduce_mean(u, (1, 2)), weights)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        # The running statistics of the block's norm move with each step.
        with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
            step = v1.train.AdamOptimizer(1e-2).minimize(loss)
        right = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), labels), tf.float32))

        session.run(v1.global_variables_initializer())
        for epoch in range(12):
            for batch in np.array_split(rng.permutation(train), len(train) // 32):
                feed = {x: images[batch], labels: digits.target[batch], training: True}
                value, _ = session.run((loss, step), feed)
            print(f"epoch {epoch + 1}: loss {value:.3f}")
        accuracy = session.run(right, {x: images[test], labels: digits.target[test]})
        print(f"test accuracy {accuracy:.3f}")

        v1.train.Saver().save(session, checkpoint, write_meta_graph=False)
        parity.write(f"{checkpoint}.safetensors", parity.blocks_of(session))
    (block,) = parity.read(f"{checkpoint}.safetensors")
    print(f"{checkpoint}.safetensors: {block.name}, {type(block.spec).__name__} of {block.spec.channels} channels")


if __name__ == "__main__":
    main(*sys.argv[1:])
