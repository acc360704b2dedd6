"""What the layers of all blocks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import keras

from attention_keras._block import choose_data_format, resolve
from parity.spec import Options, Spec, SpecError, channel_axis, check_spec_of, spatial_axes


class Block(keras.layers.Layer):
    """A layer that knows its spec, once it is built, and checks its input."""

    def __init__(self, options: Options, *, data_format: str | None, synchronized: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options = options
        self.synchronized = synchronized
        self.data_format = choose_data_format(data_format)
        self._spec: Any = None

    @classmethod
    def from_spec(cls, spec: Spec, **kwargs: Any) -> Self:
        """The layer that `spec` describes, built where the spec tells the channels; `kwargs` are the layer's others."""
        check_spec_of(spec, cls)
        layer = cls(**spec.options().arguments(), **kwargs)
        if spec.channels is not None:
            shape: list[int | None] = [None] * (spec.spatial_dims + 2)
            shape[channel_axis(spec.spatial_dims, layer.data_format)] = spec.channels
            layer.build(tuple(shape))
        return layer

    @property
    def spec(self) -> Any:
        """The resolved `parity.spec.Spec` of the block; raises `SpecError` before the layer is built."""
        if self._spec is None:
            raise SpecError(
                f"received layer {self.name!r}, which is not built and so knows neither channels nor rank",
                "a built layer",
                "call layer.build(input_shape), or call the layer on a map, first",
            )
        return self._spec

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Find the spec for maps of `input_shape`; the subclasses make the weights."""
        self._spec = resolve(self.options, input_shape, self.data_format)
        self.spatial_axes = spatial_axes(self._spec.spatial_dims, self.data_format)
        self.channel_axis = channel_axis(self._spec.spatial_dims, self.data_format)

    def named(self, name: str) -> dict[str, Any]:
        """The keywords of the sublayer `name`."""
        return sublayer(self, name)

    def check_input(self, x: Any) -> None:
        """Raise `parity.spec.InputError` unless x has the right rank and channels."""
        self.spec.check_input(x.shape, self.data_format)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        spec = self._spec or resolve(self.options, input_shape, self.data_format)
        spec.check_input(input_shape, self.data_format)
        return spec.output_shape(input_shape, self.data_format)

    def get_config(self) -> dict[str, Any]:
        options = {name: value for name, value in self.options.to_json().items() if name != "block"}
        shared = {"synchronized": True} if self.synchronized else {}
        return super().get_config() | options | {"data_format": self.data_format} | shared


def sublayer(layer: keras.layers.Layer, name: str) -> dict[str, Any]:
    """The keywords of the sublayer `name` of `layer`, which is made late and must not forget what was set before."""
    return {"name": name, "dtype": layer.dtype_policy, "trainable": layer.trainable}
