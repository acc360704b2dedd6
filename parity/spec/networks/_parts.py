"""What the specs of networks share: the attention inside of them, and the shapes of their convolutions and norms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from parity.errors import SpecError
from parity.spec import _check, _norm
from parity.spec._base import Options, Spec
from parity.spec._layout import channel_axis, spatial_axes

# Sizes of a map on which it is tried whether an attention keeps its shape: no two alike, none that a small kernel ends.
TRIAL = (23, 29, 31)


class NetworkSpec(Spec):
    """The spec of a block that is made of blocks."""

    def layers(self) -> tuple[str, ...]:
        """The parts whose outputs are compared by themselves, in the order in which they run."""
        return ()


def blocks() -> dict[str, type[Spec]]:
    """The registry of blocks, which is complete once everything is imported."""
    from parity.spec import SPECS

    return SPECS


def options_of(attention: str | None, given: Any) -> Options | None:
    """The options of the block `attention` with the changes `given`; raises `SpecError` where there is none such."""
    if attention is None:
        if given is not None:
            raise SpecError(
                f"received attention_options={given!r} without attention",
                f"attention, one of {', '.join(map(repr, blocks()))}",
                "name the block, or leave attention_options out",
            )
        return None
    kind = blocks()[_check.choice("attention", attention, list(blocks()))].options_class
    if given is None:
        return kind()
    if not isinstance(given, Mapping):
        raise SpecError(f"received attention_options={given!r}", f"a mapping of arguments of {kind.class_name}")
    known = list(kind().arguments())
    unknown = [repr(name) for name in given if name not in known]
    if unknown:
        raise SpecError(
            f"received attention_options with {', '.join(unknown)} for attention={attention!r}",
            f"some of {', '.join(known)}",
        )
    return kind(**given)


def canonical_options(attention: str | None, given: Any) -> dict[str, Any] | None:
    """`given` in canonical form, as a mapping of its own; checked."""
    made = options_of(attention, given)
    return None if made is None or given is None else {name: made.arguments()[name] for name in given}


def several_options(attention: str | None, given: Any) -> Any:
    """`canonical_options` of a mapping, or of each mapping in a sequence."""
    if attention is None or not isinstance(given, Sequence) or isinstance(given, str):
        return canonical_options(attention, given)
    return tuple(canonical_options(attention, one) for one in given)


def spread(attention: str | None, given: Any, count: int, what: str) -> list[Options | None]:
    """The options of each of `count` attentions, `given` one mapping for all or a sequence with one for each."""
    if not isinstance(given, tuple):
        return [options_of(attention, given)] * count
    if len(given) != count:
        raise SpecError(
            f"received attention_options for {len(given)} {what}s", f"one mapping, or one for each {what}: {count}"
        )
    return [options_of(attention, one) for one in given]


def attention_of(value: Any, channels: int, spatial_dims: int) -> Spec | None:
    """The spec `value` of a block, or its JSON form, at these sizes; channels that it leaves open become known."""
    from parity.spec import spec_from_json

    spec = spec_from_json(value) if isinstance(value, Mapping) else value
    if spec is None:
        return None
    if not isinstance(spec, Spec) or spec.block not in blocks():
        raise SpecError(f"received {value!r} as an attention", f"None, or the spec of one of {', '.join(blocks())}")
    if spec.channels is None:
        spec = replace(spec, channels=channels)  # type: ignore[type-var]
    sizes = (spec.channels, spec.spatial_dims)
    if sizes != (channels, spatial_dims):
        raise SpecError(
            f"received the spec of a block {spec.block!r} for {sizes[0]} channels and spatial_dims={sizes[1]}",
            f"one for {channels} channels and spatial_dims={spatial_dims}, where it stands",
        )
    return spec


def attentions_of(values: Any, channels: Sequence[int], spatial_dims: int, what: str) -> tuple[Any, ...]:
    """`attention_of` each of `values`, one for each `what`; all of them of one block."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(channels):
        raise SpecError(f"received attention={values!r}", f"a sequence of one for each {what}: {len(channels)}")
    found = tuple(attention_of(one, size, spatial_dims) for one, size in zip(values, channels, strict=True))
    kinds = sorted({one.block for one in found if one})
    if len(kinds) > 1:
        raise SpecError(f"received attentions of the blocks {', '.join(kinds)}", "one block throughout")
    return found


def keeps_shape(spec: Spec) -> bool:
    """Whether what comes out of a block has the shape of what goes in."""
    shape = (2, spec.channels, *TRIAL[: spec.spatial_dims])
    return spec.output_shape(shape, "channels_first") == shape


def arguments_of(spec: Spec) -> dict[str, Any]:
    """The options of a block's spec as `attention_options` holds them."""
    return spec.options().arguments()


def under(path: str, spec: Spec) -> dict[str, tuple[int, ...]]:
    """The parameters of a part under the canonical `path`."""
    return {f"{path}.{name}": shape for name, shape in spec.parameters().items()}


def below(path: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """The shapes under the canonical `path`, named without it."""
    return {name.removeprefix(f"{path}."): shape for name, shape in shapes.items() if name.startswith(f"{path}.")}


def inert_under(path: str, spec: Spec | None, training: bool) -> frozenset[str]:
    """The inert parameters of a part under the canonical `path`."""
    return frozenset(f"{path}.{name}" for name in spec.inert(training)) if spec else frozenset()


def convolution(
    path: str, inputs: int, outputs: int, size: int, spatial_dims: int, bias: bool = False
) -> dict[str, tuple[int, ...]]:
    """The parameters of a convolution under the canonical `path`."""
    shapes: dict[str, tuple[int, ...]] = {f"{path}.kernel": (outputs, inputs) + (size,) * spatial_dims}
    return shapes | ({f"{path}.bias": (outputs,)} if bias else {})


def normed(
    convolution_path: str, norm_path: str, inputs: int, outputs: int, size: int, spatial_dims: int
) -> dict[str, tuple[int, ...]]:
    """The parameters of a convolution without a bias, and of the norm behind it."""
    return convolution(convolution_path, inputs, outputs, size, spatial_dims) | _norm.parameters(norm_path, outputs)


def strided(
    shape: Sequence[int | None], channels: int, stride: int, spatial_dims: int, data_format: str
) -> tuple[int | None, ...]:
    """The shape of a map behind layers that keep its size but for a stride: every stride rounds up."""
    sizes = list(shape)
    for axis in spatial_axes(spatial_dims, data_format):
        size = sizes[axis]
        sizes[axis] = None if size is None else ceil_of(size, stride)
    sizes[channel_axis(spatial_dims, data_format)] = channels
    return tuple(sizes)


def ceil_of(size: int, stride: int) -> int:
    """size / stride, rounded up."""
    return -(-size // stride)


def kernel_shape(name: str, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int, list[int]]:
    """(out, in, the sizes) of the convolution kernel `name`; raises `SpecError` where it is none."""
    if name not in shapes:
        raise SpecError(f"received weights without {name}", "the weights of this network")
    outputs, inputs, *sizes = shapes[name]
    if len(sizes) not in (1, 2, 3):
        raise SpecError(f"received {name} of shape {tuple(shapes[name])}", "a kernel (out, in, *spatial)")
    return outputs, inputs, sizes


def inferred(shapes: Mapping[str, Sequence[int]], path: str, attention: Any, facts: Any, sizes: tuple[int, int]) -> Any:
    """The spec of the attention whose weights lie under `path`: of the kind `attention`, with `facts` about it."""
    own = below(path, shapes)
    if not own:
        return None
    if attention is None:
        raise SpecError(
            f"received weights under {path!r} without word of which block they are",
            f"attention=, one of {', '.join(map(repr, blocks()))}",
        )
    kind = blocks()[_check.choice("attention", attention, list(blocks()))]
    spec = kind.infer(own, **{"spatial_dims": sizes[1], **(facts or {})})
    return attention_of(spec, *sizes)


def count_of(prefix: str, shapes: Mapping[str, Sequence[int]]) -> int:
    """How many parts `prefix`1, `prefix`2, ... the weights have."""
    return sum(1 for _ in _numbered(prefix, shapes))


def _numbered(prefix: str, shapes: Mapping[str, Sequence[int]]) -> Iterator[int]:
    number = 1
    while any(name.startswith(f"{prefix}{number}.") for name in shapes):
        yield number
        number += 1
