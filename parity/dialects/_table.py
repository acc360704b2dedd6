"""What a dialect is: a table of names and layouts, and the two functions that go through it in either direction."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from parity.block import kernels_first, kernels_last
from parity.errors import DialectError, UnexpectedTensorError
from parity.spec import Spec

Arrays = Mapping[str, np.ndarray]

# The pattern of the number that Keras gives the second layer of a name and those after it.
NUMBER = r"(?:_\d{1,9})?"


@dataclass(frozen=True)
class Layout:
    """How a foreign tensor lies: a permutation of its elements into the canonical one, and the inverse."""

    ranks: Sequence[int]
    to_canonical: Callable[[np.ndarray], np.ndarray] = lambda w: w
    from_canonical: Callable[[np.ndarray], np.ndarray] = lambda w: w

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of `shape` can lie like this."""
        return len(shape) in self.ranks


@dataclass(frozen=True)
class Pointwise(Layout):
    """A convolution over single positions: its spatial sizes are all one."""

    last: bool = False  # whether the channels are the last axes

    def accepts(self, shape: Sequence[int]) -> bool:
        return super().accepts(shape) and set(shape[:-2] if self.last else shape[2:]) == {1}


@dataclass(frozen=True)
class Merged(Layout):
    """Attention heads and their size as two axes of a tensor, one in the canonical one.

    The way back must be told how many heads there are, the letter H of a row's shape.
    """

    axis: int = 0  # of the canonical tensor

    def split(self, value: np.ndarray, heads: int | None) -> np.ndarray:
        """The inverse of `to_canonical`."""
        axis = self.axis % value.ndim
        if not heads or value.shape[axis] % heads:
            raise DialectError(
                f"received a tensor of shape {value.shape}, whose axis {axis} is to hold {heads or 'untold'} heads",
                "a number of heads that divides it",
                "tell it with spec=" if not heads else "",
            )
        return value.reshape(*value.shape[:axis], heads, -1, *value.shape[axis + 1 :])


def _merge_first(w: np.ndarray) -> np.ndarray:
    return w.reshape(-1, *w.shape[2:])


def _merge_last(w: np.ndarray) -> np.ndarray:
    return w.reshape(*w.shape[:-2], -1)


LAYOUTS: dict[str, Layout] = {
    "scalar": Layout((0,)),
    "vector": Layout((1,)),
    "linear": Layout((2,)),  # (out, in)
    "dense": Layout((2,), np.transpose, np.transpose),  # (in, out)
    "conv1x1": Pointwise((4,), lambda w: w[:, :, 0, 0], lambda w: w[:, :, None, None]),  # (out, in, 1, 1)
    "conv1x1x1": Pointwise((5,), lambda w: w[..., 0, 0, 0], lambda w: w[..., None, None, None]),  # (out, in, 1, 1, 1)
    "conv1x1_last": Pointwise((4,), lambda w: w[0, 0].T, lambda w: w.T[None, None], last=True),  # (1, 1, in, out)
    "conv": Layout((3, 4, 5)),  # (out, in, *spatial)
    "conv_last": Layout(  # (*spatial, in, out)
        (3, 4, 5), lambda w: kernels_first("kernel", w), lambda w: kernels_last("kernel", w)
    ),
    "heads_first": Merged((3,), _merge_first),  # (heads, size, out), then as (in, out)
    "heads_last": Merged((2, 3), _merge_last, axis=-1),  # (in, heads, size), then as (in, out); (heads, size)
    "swap_planes": Layout((3, 4, 5), lambda w: w[:, ::-1], lambda w: w[:, ::-1]),  # canonical, planes [max, mean]
}


@dataclass(frozen=True)
class Tensor:
    """One row of a dialect's table.

    Args:
        key: the foreign name, without the block's prefix; a ``*`` stands for the part of a layer's name that the
            author of the network chooses, the same text in every row.
        canonical: the canonical parameter.
        layout: a key of `LAYOUTS`, or several, applied from left to right on the way to the canonical layout.
        optional: whether a block may lack it.
        extra: whether it has no canonical meaning and travels in `Block.extras`.
        shape: for what `Spec.infer` does not see, the foreign shape as text: ``"C C 1 1"``. Numbers are sizes, equal
            letters are equal sizes, within the row and between rows.
        part: of a tensor that holds several canonical ones, one after another along its first axis: which of how many
            equal parts this is, from 0. Each part has a row, under the one key.
    """

    key: str
    canonical: str
    layout: str
    optional: bool = False
    extra: bool = False
    shape: str = ""
    part: tuple[int, int] = (0, 1)

    @property
    def steps(self) -> list[Layout]:
        """The layouts in the order in which they are applied."""
        return [LAYOUTS[name] for name in self.layout.split()]

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether a foreign tensor of `shape` can be this one."""
        fits = self.part[1] == 1 or (len(shape) > 0 and shape[0] % self.part[1] == 0)
        return fits and self.steps[0].accepts(shape) and self._spells(shape)

    def _spells(self, shape: Sequence[int]) -> bool:
        """Whether `shape` is what the row spells: its numbers, and one size a letter."""
        signs = self.shape.split()
        if not signs:
            return True
        letters = dict(zip(signs, shape, strict=False))
        sizes = [int(sign) if sign.isdecimal() else letters.get(sign) for sign in signs]
        return sizes == list(shape)

    def to_canonical(self, value: np.ndarray) -> np.ndarray:
        """The foreign array in canonical layout."""
        self._check(value.shape)
        number, count = self.part
        if count > 1:
            size = len(value) // count
            value = value[number * size : (number + 1) * size]
        for step in self.steps:
            value = step.to_canonical(value)
        return value

    def from_canonical(self, value: np.ndarray, sizes: Mapping[str, int] = MappingProxyType({})) -> np.ndarray:
        """The inverse of `to_canonical`; of a part, the part. `sizes` are those of the letters that it must be told."""
        try:
            for step in reversed(self.steps):
                value = step.split(value, sizes.get("H")) if isinstance(step, Merged) else step.from_canonical(value)
        except ValueError as error:  # axes that are not there
            raise DialectError(f"received {self.canonical} as {self.key}: {error}", self.expected) from error
        if self.part[1] == 1:
            self._check(value.shape)
        return value

    def _check(self, shape: Sequence[int]) -> None:
        if not self.accepts(shape):
            raise DialectError(f"received {self.key} of shape {tuple(shape)}", self.expected)

    @property
    def expected(self) -> str:
        """What an error says of it."""
        parts = f", {self.part[1]} of them along the first axis" if self.part[1] > 1 else ""
        shape = f" of shape ({', '.join(self.shape.split())})" if self.shape else ""
        return f"the layout {self.layout!r}{shape}{parts}"


@dataclass(frozen=True)
class Dialect:
    """How one foreign implementation names and lays out a block's weights, and what its code takes for granted.

    Args:
        id: ``project/class``.
        block: the block that it is, or is nearest to, a key of `parity.spec.SPECS`.
        source: the project and the version whose code this table was read from.
        tensors: the table.
        facts: spec fields that the code fixes; a hint that says otherwise is an error.
        defaults: spec fields as the class has them by default; hints override them.
        doubtful: the defaults that users of the class do set and weights do not show: they are asked for when the
            dialect was detected, and taken when it was named.
        asked: the defaults that nobody may guess: they are asked for wherever weights and dialect do not tell them.
        sizes: by letter of the rows' shapes, the spec field that it tells.
        aliases: by the project's own name of an argument, the spec field that a hint of that name means.
        numbered: for layers that Keras names by itself: their names in `tensors`, in the order of creation, and the
            names that Keras gives them (``dense``, ``dense_1``, ...), less the number.
        inline: whether its layers are members of the module around them, so that other tensors lie beside them.
        refused: why its weights cannot become those of `block` without loss; empty where they can. Its table then only
            serves to recognise it.
        detected: whether keys and shapes say enough to look for it where no dialect is named.
    """

    id: str
    block: str
    tensors: tuple[Tensor, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    doubtful: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    sizes: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    numbered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inline: bool = False
    refused: str = ""
    detected: bool = True
    source: str = ""

    @property
    def exactness(self) -> str:
        """What a user may expect of it: ``lossless``, or ``refused: <reason>``."""
        return f"refused: {self.refused}" if self.refused else "lossless"

    @property
    def separator(self) -> str:
        """What stands between a block's name and its keys."""
        return "/" if any("/" in tensor.key for tensor in self.tensors) else "."

    def told_by(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """The spec fields that the foreign `shapes` tell, by key of the table."""
        spelled = [
            pair for row in self.tensors for pair in zip(row.shape.split(), shapes.get(row.key, ()), strict=False)
        ]
        return {self.sizes[sign]: size for sign, size in spelled if sign in self.sizes}

    @cached_property
    def _plain_keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tensor.key for tensor in self.tensors if "*" not in tensor.key))

    @cached_property
    def _starred_keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tensor.key for tensor in self.tensors if "*" in tensor.key))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """One alternative with one group for each key with a star, which stands for a part of one layer's name."""
        return re.compile("|".join(re.escape(key).replace(r"\*", "([^/.]*)") for key in self._starred_keys))

    def match_keys(self, keys: Collection[str]) -> dict[str, dict[str, str]]:
        """The blocks among `keys`, whole or in part: for each text of the star, the key of each row that is there.

        The text is "" for a table without stars. Fastest where membership is: in a set or a mapping.
        """
        plain = {key: key for key in self._plain_keys if key in keys}
        found = {"": plain} if plain else {}
        if self._starred_keys:
            matches = ((self._pattern.fullmatch(key), key) for key in keys)
            for match, key in ((match, key) for match, key in matches if match):
                row = match.lastindex or 0  # the one group of the alternative that matched
                found.setdefault(match[row], {})[self._starred_keys[row - 1]] = key
        return found

    def spelling(self, keys: Collection[str]) -> dict[str, str]:
        """The key in `keys` of each key of the table, as far as they are there, in either spelling; of one block."""
        own = {tensor.key for tensor in self.tensors}
        named = max(self.match_keys(dict.fromkeys(keys)).values(), key=len, default={})
        if named or not self.numbered:
            return named
        layers = _numbered_layers(self.numbered, keys)
        parts = {key: key.partition("/") for key in keys}
        renamed = {f"{layers.get(layer)}/{leaf}": key for key, (layer, _, leaf) in parts.items()}
        return {name: key for name, key in renamed.items() if name in own}


def _numbered_layers(numbered: Mapping[str, tuple[str, ...]], keys: Collection[str]) -> dict[str, str]:
    """Which of the table's layers each numbered layer is; none where their count differs."""
    names: dict[str, list[str]] = {}
    for layer, kinds in numbered.items():
        for kind in kinds:
            names.setdefault(kind, []).append(layer)
    layers: dict[str, str] = {}
    for kind, ours in names.items():
        theirs = {key.partition("/")[0] for key in keys if re.fullmatch(rf"{kind}{NUMBER}/\w+", key)}
        if len(theirs) == len(ours):
            layers |= dict(zip(sorted(theirs, key=layer_number), ours, strict=True))
    return layers


def layer_number(layer: str) -> int:
    """The number that Keras gives a layer: ``dense`` has 0, ``dense_2`` has 2."""
    tail = layer.rpartition("_")[2]
    return int(tail) if tail.isdecimal() else 0


def to_canonical(dialect: Dialect, state: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The tensors and the extras of one block, by canonical name and in canonical layout.

    Weights or gradients of them: layouts are permutations. Keys may be absent; one that the table does not know raises
    `UnexpectedTensorError`. Keys with a star have one text in its place, the star itself or any other.
    """
    _check_lossless(dialect)
    spelling = dialect.spelling(state)
    own = set(spelling.values())
    unknown = [key for key in state if key not in own]
    if unknown:
        raise UnexpectedTensorError(f"received {', '.join(unknown)}", f"keys of the dialect {dialect.id}")
    parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    for tensor in dialect.tensors:
        if tensor.key in spelling:
            parts[tensor.extra][tensor.canonical] = tensor.to_canonical(state[spelling[tensor.key]])
    return parts


def from_canonical(
    dialect: Dialect, tensors: Arrays, extras: Arrays | None = None, *, star: str = "", spec: Spec | None = None
) -> dict[str, np.ndarray]:
    """The inverse of `to_canonical`, in the spelling of the table.

    Args:
        dialect: whose names and layouts.
        tensors: arrays by canonical name.
        extras: what has no canonical meaning, by name.
        star: the text in the place of the table's stars.
        spec: of the block, for a table whose shapes tell fields of it.

    Raises:
        DialectError: for parts of a tensor without the others, or of other dtypes; for what the dialect has no key or
            no such shape for, and for a star that it has no place for.
    """
    _check_lossless(dialect)
    _check_star(dialect, star)
    rows = {(tensor.canonical, tensor.extra): tensor for tensor in dialect.tensors}
    given = {(name, False): value for name, value in tensors.items()}
    given |= {(name, True): value for name, value in (extras or {}).items()}
    homeless = [name for name, extra in given if (name, extra) not in rows]
    if homeless:
        raise DialectError(f"received {', '.join(homeless)}", f"what the dialect {dialect.id} has keys for")
    fields = spec.arguments() if spec else {}
    sizes = {letter: fields[name] for letter, name in dialect.sizes.items() if name in fields}
    parts: dict[str, dict[Tensor, np.ndarray]] = {}
    for name, value in given.items():
        parts.setdefault(rows[name].key, {})[rows[name]] = rows[name].from_canonical(value, sizes)
    return {key.replace("*", star): _joined(parts[key]) for key in parts}


def _joined(parts: Mapping[Tensor, np.ndarray]) -> np.ndarray:
    """The foreign tensor that the values of its rows make."""
    rows = sorted(parts, key=lambda row: row.part)
    first = rows[0]
    if first.part[1] == 1:
        return parts[first]
    kinds = {(parts[row].shape, parts[row].dtype) for row in rows}
    if len(rows) != first.part[1] or len(kinds) != 1:
        received = ", ".join(f"{row.canonical} {parts[row].dtype}{parts[row].shape}" for row in rows)
        raise DialectError(f"received {received} for {first.key}", f"{first.part[1]} tensors of one shape and dtype")
    return np.concatenate([parts[row] for row in rows])


def _check_lossless(dialect: Dialect) -> None:
    if dialect.refused:
        raise DialectError(f"received the dialect {dialect.id}: {dialect.refused}", "one that is lossless")


def _check_star(dialect: Dialect, star: str) -> None:
    if re.search("[/.]", star) or (star and not dialect._starred_keys):
        keys = ", ".join(tensor.key for tensor in dialect.tensors)
        raise DialectError(f"received star={star!r}", f"a text without '/' and '.' for the place in {keys}")


# Rows

# Whether a layer has a bias: it must, it must not, or it may.
OPTIONAL = None


def layer(key: str, canonical: str, layout: str, *, bias: bool | None, shape: str = "") -> tuple[Tensor, ...]:
    """The rows of one PyTorch layer: ``<key>.weight`` and, with `bias`, ``<key>.bias``."""
    return _layer(f"{key}.weight", f"{key}.bias", canonical, layout, bias, shape)


def keras_layer(key: str, canonical: str, layout: str, *, bias: bool | None, shape: str = "") -> tuple[Tensor, ...]:
    """The rows of one Keras or TensorFlow layer: ``<key>/kernel`` and, with `bias`, ``<key>/bias``."""
    return _layer(f"{key}/kernel", f"{key}/bias", canonical, layout, bias, shape)


def _layer(weight: str, offset: str, canonical: str, layout: str, bias: bool | None, shape: str) -> tuple[Tensor, ...]:
    rows = (Tensor(weight, f"{canonical}.kernel", layout, shape=shape),)
    optional = bias is OPTIONAL
    return (*rows, Tensor(offset, f"{canonical}.bias", "vector", optional)) if bias or optional else rows


def batch_norm(key: str, canonical: str, *, optional: bool = False) -> tuple[Tensor, ...]:
    """The rows of one PyTorch batch norm."""
    leaves = {"weight": "scale", "bias": "offset", "running_mean": "mean", "running_var": "variance"}
    counter = "num_batches_tracked"
    return (
        *(Tensor(f"{key}.{leaf}", f"{canonical}.{ours}", "vector", optional) for leaf, ours in leaves.items()),
        # PyTorch before 0.4.1 wrote none.
        Tensor(f"{key}.{counter}", f"{canonical}.{counter}", "scalar", optional=True, extra=True),
    )


def keras_batch_norm(key: str, canonical: str, *, optional: bool = False) -> tuple[Tensor, ...]:
    """The rows of one Keras or TensorFlow batch norm."""
    leaves = {"gamma": "scale", "beta": "offset", "moving_mean": "mean", "moving_variance": "variance"}
    return tuple(Tensor(f"{key}/{leaf}", f"{canonical}.{ours}", "vector", optional) for leaf, ours in leaves.items())


def pair(
    rows: Callable[..., tuple[Tensor, ...]], keys: str, layout: str, *, bias: bool | None, path: str = ""
) -> tuple[Tensor, ...]:
    """The `rows` of the layers ``fc1`` and ``fc2`` under `path`; `keys` are their names: "conv_reduce conv_expand"."""
    first, second = keys.split()
    return rows(first, f"{path}fc1", layout, bias=bias) + rows(second, f"{path}fc2", layout, bias=bias)


def packed(key: str, canonicals: Sequence[str], layout: str, *, optional: bool = False) -> tuple[Tensor, ...]:
    """The rows of one tensor that holds several canonical ones, one after another along its first axis."""
    count = len(canonicals)
    return tuple(Tensor(key, name, layout, optional, part=(i, count)) for i, name in enumerate(canonicals))


def multi_head_attention(key: str, canonical: str) -> tuple[Tensor, ...]:
    """The rows of PyTorch's `nn.MultiheadAttention`, which packs query, key and value into one tensor."""
    parts = [f"{canonical}.{part}" for part in ("query", "key", "value")]
    return (
        *packed(f"{key}.in_proj_weight", [f"{part}.kernel" for part in parts], "linear"),
        *packed(f"{key}.in_proj_bias", [f"{part}.bias" for part in parts], "vector", optional=True),
        *layer(f"{key}.out_proj", f"{canonical}.output", "linear", bias=OPTIONAL),
    )


def keras_multi_head_attention(key: str, canonical: str) -> tuple[Tensor, ...]:
    """The rows of Keras' `MultiHeadAttention`, whose kernels have an axis of heads."""
    rows: tuple[Tensor, ...] = ()
    for part in ("query", "key", "value"):
        rows += (
            Tensor(f"{key}/{part}/kernel", f"{canonical}.{part}.kernel", "heads_last dense", shape="C H D"),
            Tensor(f"{key}/{part}/bias", f"{canonical}.{part}.bias", "heads_last vector", True, shape="H D"),
        )
    last, ours = f"{key}/attention_output", f"{canonical}.output"
    return (
        *rows,
        Tensor(f"{last}/kernel", f"{ours}.kernel", "heads_first dense", shape="H D C"),
        Tensor(f"{last}/bias", f"{ours}.bias", "vector", True, shape="C"),
    )


def projections(rows: Callable[..., tuple[Tensor, ...]], keys: str, layout: str, path: str) -> tuple[Tensor, ...]:
    """The `rows` of query, key, value and output under `path`; `keys` are their names."""
    parts = zip(keys.split(), ("query", "key", "value", "output"), strict=True)
    return tuple(row for key, part in parts for row in rows(key, f"{path}.{part}", layout, bias=OPTIONAL, shape="C C"))


# Functions: what the code of nearly every implementation fixes, and what it has by default.

SE: dict[str, Any] = {"gate": "sigmoid", "activation": "relu", "spatial_dims": 2}
CBAM: dict[str, Any] = SE
CA: dict[str, Any] = SE
ECA: dict[str, Any] = {"gate": "sigmoid", "spatial_dims": 2}
ESE: dict[str, Any] = {"gate": "hard_sigmoid", "spatial_dims": 2}

CBAM_FACTS: dict[str, Any] = {
    "channel_merge": "add",
    "spatial_features": "pooled",
    "spatial_source": "refined",
    "residual": False,
}
ECA_FACTS: dict[str, Any] = {"padding": "zeros"}

# What torch.nn.Conv1d has by default and its weights do not tell, and a number of heads that is always possible.
CONVOLUTION: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
ONE_HEAD: dict[str, Any] = {"num_heads": 1}

HARD_SIGMOID_02: dict[str, Any] = {"kind": "hard_sigmoid", "slope": 0.2, "offset": 0.5}

# torch.nn.BatchNorm2d as it comes.
TORCH_NORM: dict[str, Any] = {"epsilon": 1e-5, "update_rate": 0.1, "unbiased_variance": True}

# Shapes of the convolution over the planes of mean and maximum, and of that along the channels.
PLANES, PLANES_LAST = "1 2 k k", "k k 2 1"
TAPS, TAPS_LAST = "1 1 k", "k 1 1"
