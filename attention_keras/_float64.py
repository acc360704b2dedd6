"""Float64 that stays float64."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import keras

RULES = "keras.src.backend.common.dtypes"


def enable_float64() -> None:
    """Make Keras compute in float64 where it is told to; on the TensorFlow engine it does so anyway.

    On JAX and PyTorch, Keras demotes every promoted float64 to float32 (keras-team/keras#23704): means are off by 1e-7
    and `Dense` answers in float32, whatever its dtype policy. There is no public switch, so this one mends an entry of
    a private table. On JAX it also sets ``jax_enable_x64``; on PyTorch it lets a float64 `Conv2D` train on the CPU,
    which Keras' memory format for kernels (keras-team/keras#22324) prevents. Call it before the first float64 layer is
    built. It holds for the whole process and has no way back.

    Raises:
        RuntimeError: where this version of Keras has no such table, so that nobody computes in float32 unawares.

    Example:
        >>> import keras
        >>> enable_float64()
        >>> keras.backend.result_type("float64", "float32")
        'float64'
    """
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    with contextlib.suppress(ImportError, AttributeError):  # whether a missing table matters, the next line tells
        importlib.import_module(RULES).BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    if keras.backend.result_type("float64", "float32") != "float64":
        raise RuntimeError(
            f"received Keras {keras.__version__}, which demotes float64; expected {RULES}.BIT64_TO_BIT32_DTYPE to say "
            "so; use the TensorFlow engine, or Keras 3.15"
        )
    if keras.backend.backend() == "torch":
        _keep_kernels_contiguous()


def _keep_kernels_contiguous() -> None:
    # PyTorch's own convolution on the CPU, which float64 and float16 use, has no gradient for a kernel in channels-last
    # memory ("slow_conv2d: grad_weight must be contiguous"), which is how Keras lays it out; and oneDNN's conv3d, which
    # bfloat16 uses, a gradient of memory never written.
    nn: Any = importlib.import_module("keras.src.backend.torch.nn")
    convert = getattr(nn, "_maybe_convert_to_channels_last", None)
    if convert is None or hasattr(convert, "mended"):
        return

    def mended(tensor: Any) -> Any:
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        is_wrong = dtype in ("float64", "float16") or (dtype == "bfloat16" and tensor.ndim == 5)
        return tensor.contiguous() if is_wrong and tensor.device.type == "cpu" else convert(tensor)

    mended.mended = True  # type: ignore[attr-defined]
    nn._maybe_convert_to_channels_last = mended
