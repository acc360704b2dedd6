"""What is learnt: the handwritten digits that ship with scikit-learn, split and put into batches once for all.

The 1,797 images are of 8 x 8 pixels with the values 0 to 16 (Alpaydin and Kaynak, "Optical Recognition of Handwritten
Digits", UCI Machine Learning Repository, 1998). Nothing is fetched.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parity.errors import BackendMissingError, InputError

TRAINING_IMAGES = 1437
BATCH = 64
CLASSES = 10
SIZES = (8, 8)
SEED = 1998

LARGEST = 16  # a power of two, so that every pixel is exact in every dtype


@dataclass(frozen=True, eq=False)
class Digits:
    """The digits in two parts.

    Args:
        x: the training images (N, 1, 8, 8) in float64, from 0 to 1.
        labels: what they show, (N,).
        test_x: the images that no step sees.
        test_labels: what they show.
    """

    x: NDArray
    labels: NDArray
    test_x: NDArray
    test_labels: NDArray


@functools.cache
def digits() -> Digits:
    """The digits, always in the same order.

    Raises:
        BackendMissingError: where scikit-learn is not installed.

    Example:
        >>> digits().x.shape, digits().test_x.shape
        ((1437, 1, 8, 8), (360, 1, 8, 8))
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BackendMissingError(
            "the digits need scikit-learn, not installed here", remedy="pip install 'attention-parity[train]'"
        ) from None
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(labels))
    x, labels = pixels[order].reshape(-1, 1, *SIZES) / LARGEST, labels[order].astype(np.int64)
    n = TRAINING_IMAGES
    return Digits(x[:n], labels[:n], x[n:], labels[n:])


def batches(steps: int) -> NDArray:
    """The numbers of the training images of each of the first `steps` batches, (steps, 64).

    Each epoch is another permutation, of which what does not fill a batch is left out: compilers want one shape.

    Raises:
        InputError: for less than one step.

    Example:
        >>> batches(200).shape, bool((batches(200)[:3] == batches(3)).all())
        ((200, 64), True)
    """
    if steps < 1:
        raise InputError(f"received steps={steps}", "at least 1")
    whole = TRAINING_IMAGES // BATCH
    epochs = [
        np.random.default_rng([SEED, epoch]).permutation(TRAINING_IMAGES)[: whole * BATCH].reshape(whole, BATCH)
        for epoch in range(-(-steps // whole))
    ]
    return np.concatenate(epochs)[:steps].astype(np.int64)
