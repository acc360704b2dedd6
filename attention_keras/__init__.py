"""SE, CBAM, ECA and coordinate attention in Keras 3, in two styles and on every engine (TensorFlow, JAX, PyTorch).

`attention_keras.layers` has `keras.layers.Layer` subclasses, `attention_keras.functional` has functions that lay stock
Keras layers into a functional model::

    >>> import keras
    >>> from attention_keras.functional import cbam
    >>> from attention_keras.layers import CBAM
    >>> x = keras.Input((5, 7, 64))
    >>> CBAM(reduction=16, data_format="channels_last")(x).shape
    (None, 5, 7, 64)
    >>> cbam(x, reduction=16, data_format="channels_last", name="stage1_cbam").shape
    (None, 5, 7, 64)

For float64 on JAX and PyTorch call `enable_float64` first.
"""

from attention_keras._float64 import enable_float64

__all__ = ["enable_float64"]
