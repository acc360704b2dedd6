"""Plug an attention block into a Keras functional model, train it, save it as `.keras`, and load it again.

Run: python examples/keras_model.py
The engine is Keras' own choice: KERAS_BACKEND=tensorflow, jax or torch.
"""

from __future__ import annotations

import sys

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import parity
from attention_keras.functional import squeeze_excitation
from attention_keras.layers import ECA


def model() -> keras.Model:
    """Two convolutions, with a block of either style behind each."""
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = ECA(kernel_size=3, data_format="channels_last", name="eca")(x)  # a layer
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    x = squeeze_excitation(x, reduction=4, data_format="channels_last", name="se")  # a function, of stock layers
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="head")(x))


def main(file: str = "keras_model.keras") -> None:
    """Train on scikit-learn's digits, and write the model to `file`."""
    keras.utils.set_random_seed(0)
    digits = load_digits()
    x = (digits.images[..., None] / 16).astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1440], order[1440:]

    trained = model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    trained.fit(x[train], digits.target[train], batch_size=32, epochs=12, verbose=2)
    _, right = trained.evaluate(x[test], digits.target[test], verbose=0)
    print(f"test accuracy {right:.3f}")

    trained.save(file)
    again = keras.saving.load_model(file)
    same = np.array_equal(trained.predict(x[test], verbose=0), again.predict(x[test], verbose=0))
    print(f"{file}: loaded again, {'the same' if same else 'other'} logits")

    (eca,) = parity.blocks_of(trained)  # the layer carries its spec; of stock layers, a spec tells what they are
    print(f"block {eca.name}: kernel {eca.tensors['conv.kernel'].ravel()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
