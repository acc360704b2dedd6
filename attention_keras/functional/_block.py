"""What the functions of all blocks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from attention_keras._block import choose_data_format, resolve
from attention_keras._gate import KERAS_NAMES
from parity.spec import Gate, Options, Spec, channel_axis, spatial_axes


class Block:
    """One block under construction: its spec, its layout, and the name and dtype of its layers.

    Args:
        x: the map that the block reads.
        options: the block's options.
        spec: the spec to use instead of `options`, which must then be the defaults; or None.
        data_format: "channels_first", "channels_last", or None for Keras' setting.
        dtype: a Keras dtype policy, its name, or None for the global policy.
        name: the prefix of the layers' names, with ``.`` and ``/`` written as ``_``; None for a new one.

    Raises:
        SpecError, InputError: as the functions say.
    """

    def __init__(
        self,
        x: Any,
        options: Options,
        *,
        spec: Spec | None,
        data_format: str | None,
        dtype: Any,
        name: str | None,
    ) -> None:
        self.data_format = choose_data_format(data_format)
        if spec is not None:
            options = options.given_by(spec)
            spec.check_input(x.shape, self.data_format)
        self.spec: Any = resolve(options, x.shape, self.data_format)
        self.spatial_axes = spatial_axes(self.spec.spatial_dims, self.data_format)
        self.channel_axis = channel_axis(self.spec.spatial_dims, self.data_format)
        self.dtype = keras.dtype_policies.get(dtype)
        block = options.block
        # PyTorch allows no dots in the names of layers, and Keras no slashes.
        self.name = f"{block}_{keras.backend.get_uid(block)}" if name is None else normalise(name)

    def cast(self, x: Any) -> Any:
        """x in the compute dtype: a layer casts its own input, an operation such as a mean does not."""
        dtype = self.dtype.compute_dtype
        return x if keras.backend.standardize_dtype(x.dtype) == dtype else ops.cast(x, dtype)

    def named(self, path: str) -> dict[str, Any]:
        """The keywords of the stock layer at the canonical `path`."""
        return {"name": f"{self.name}_{normalise(path)}", "dtype": self.dtype}

    def precise(self, path: str) -> dict[str, Any]:
        """The keywords of the stock layer at the canonical `path` if it is to compute in float32 at least."""
        is_half = self.dtype.compute_dtype in ("float16", "bfloat16")
        return self.named(path) | ({"dtype": "float32"} if is_half else {})

    def gate(self, path: str, gate: Gate) -> Callable[[Any], Any]:
        """gate(u), element by element, as stock layers whose configuration tells the gate."""
        if gate.kind == "hard_sigmoid":
            line = layers.Rescaling(self.number(gate.slope), self.number(gate.offset), **self.named(path))
            clip = layers.ReLU(max_value=1.0, **self.named(f"{path}_clip"))
            return lambda u: clip(line(u))
        return layers.Activation("sigmoid" if gate.kind == "sigmoid" else "linear", **self.named(path))

    def number(self, value: float) -> Any:
        """`value` as `Rescaling` must have it to keep all its digits: plain floats it rounds to float32."""
        is_double = self.dtype.compute_dtype == "float64"
        return ops.convert_to_tensor(value, dtype="float64") if is_double else value

    def activation(self, path: str, activation: str) -> Callable[[Any], Any]:
        """activation(u), element by element, as stock layers whose configuration tells the activation."""
        if activation == "hard_swish":
            # Not Keras' hard_silu: PyTorch's kernel for GPUs takes a float32 sixth in float64 too.
            gate = self.gate(path, Gate("hard_sigmoid"))
            return lambda u: u * gate(u)
        return layers.Activation(KERAS_NAMES[activation], **self.named(path))


def normalise(name: str) -> str:
    """`name` as every engine allows it."""
    return name.replace(".", "_").replace("/", "_")
