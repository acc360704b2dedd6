"""Whole networks of foreign implementations: their keys and shapes tell the spec, and the spec tells the table.

They are read where they are named, never looked for: the tensors of a network hold those of the blocks in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from parity.dialects import timm
from parity.dialects._table import TORCH_NORM, Dialect, Tensor, batch_norm, layer, to_canonical
from parity.errors import DialectError, MissingTensorError, ParityError, SpecError, UnexpectedTensorError
from parity.spec import SPECS, ResidualUnitSpec, ResNetSpec, Spec
from parity.spec.networks.residual import EXPANSION

Shapes = Mapping[str, Sequence[int]]
Arrays = Mapping[str, np.ndarray]

# Networks in one file: a teacher and its pupil, their averages. More are a sign of something else.
MOST = 16

SIGN = "layer1.0.conv1.weight"

# Three times the units of the deepest that was ever trained.
MOST_UNITS = 2048

UNIT = re.compile(r"layer(\d{1,4})\.(\d{1,4})\.(.+)", re.DOTALL)
DEEP_STEM = re.compile(r"conv1\.\d{1,4}\.")

PLACEMENT = "before_addition"

# What a hint tells of the network itself; any other field is one of the blocks in it.
FIELDS = frozenset(field.name for field in fields(ResNetSpec))

# PyTorch's modules without weights in such a network, by project and class.
PLAIN_MODULES = frozenset(
    f"torch/{name}"
    for name in ("ReLU", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "Flatten", "Identity", "Dropout")
)


@dataclass(frozen=True)
class NetworkDialect(Dialect):
    """How a foreign implementation names the layers of a residual network, as torchvision did first.

    `tensors` is empty: a table belongs to a spec, and `table` makes it.

    Args:
        blocks: the dialects of the blocks that may stand in its units, under ``se``.
        modules: the modules without weights that its code has, as ``"<project>/<class>"``.
        sign: a key, or the name of a layer, that every such network has, whatever its depth and its stem.
    """

    tensors: tuple[Tensor, ...] = ()
    blocks: tuple[Dialect, ...] = ()
    modules: frozenset[str] = PLAIN_MODULES
    sign: str = SIGN
    detected: bool = False

    @property
    def fields(self) -> frozenset[str]:
        """What a hint may tell: the fields of the network's spec, and of the blocks in it."""
        kinds = {SPECS[block.block] for block in self.blocks}
        return FIELDS.union(field.name for kind in kinds for field in fields(kind))  # type: ignore[arg-type]

    def find(self, keys: Collection[str]) -> dict[str, dict[str, str]]:
        """The networks among `keys`: for each prefix, the full key of each key without it."""
        signs = [key for key in keys if key == self.sign or key.endswith(f".{self.sign}")]
        if len(signs) > MOST:
            raise DialectError(
                f"received the keys of {len(signs)} networks", f"at most {MOST}", "pass the tensors of one of them"
            )
        prefixes = sorted((sign.removesuffix(self.sign) for sign in signs), key=len, reverse=True)
        found: dict[str, dict[str, str]] = {}
        for key in keys:
            prefix = next((one for one in prefixes if key.startswith(one)), None)
            if prefix is not None:
                found.setdefault(prefix, {})[key[len(prefix) :]] = key
        return found

    def read(
        self, state: Arrays, hints: Mapping[str, Any]
    ) -> tuple[Dialect, ResNetSpec, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The table of the one network in `state`, its spec, and its tensors and extras by canonical name.

        Raises:
            DialectError: for another topology than a `ResNetSpec` tells, and for hints that contradict the weights.
            MissingTensorError, UnexpectedTensorError: naming the keys.
        """
        spec = self.spec({key: value.shape for key, value in state.items()}, hints)
        table = self.table(spec)
        known = {row.key: row.optional for row in table.tensors}
        missing = [key for key, optional in known.items() if not optional and key not in state]
        unexpected = [key for key in state if key not in known]
        if missing or unexpected:
            faults = [f"lack {_some(missing)}"] if missing else []
            faults += [f"have {_some(unexpected)}"] if unexpected else []
            kind: type[ParityError] = MissingTensorError if missing else UnexpectedTensorError
            raise kind(f"received weights that {' and '.join(faults)}", f"those of {_title(spec)} in {self.id}, whole")
        tensors, extras = to_canonical(table, state)
        keys = {row.canonical: row.key for row in table.tensors}
        wrong = [
            f"{keys[name]} of shape {state[keys[name]].shape}"
            for name, shape in spec.parameters().items()
            if tensors[name].shape != shape
        ]
        if wrong:
            raise DialectError(f"received {_some(wrong)}", f"the sizes of {_title(spec)} in {self.id}")
        return table, spec, tensors, extras

    def spec(self, shapes: Shapes, hints: Mapping[str, Any]) -> ResNetSpec:
        """What keys and `shapes` tell of a network, and `hints` or this dialect of what they do not."""
        units = _units(shapes)
        strange = next(_strange(shapes, units), None)
        if strange:
            raise DialectError(f"received {strange}", f"the topology of ResNet, which {self.id} is read as")
        if len(units) > MOST_UNITS:
            raise DialectError(f"received a network of {len(units)} units", f"at most {MOST_UNITS}")
        bottleneck = "conv3.weight" in units[1, 0]
        last = "conv3.weight" if bottleneck else "conv2.weight"
        outputs = _kernel(f"layer1.0.{last}", units[1, 0].get(last, ()))[0]
        depths, width = _depths(units), outputs // (EXPANSION if bottleneck else 1)
        for number in range(1, len(depths)):
            found = _kernel(f"layer{number + 1}.0.{last}", units[number + 1, 0].get(last, ()))[0]
            if found != outputs * 2**number:
                raise DialectError(
                    f"received layer{number + 1}.0.{last} with {found} channels",
                    f"{outputs * 2**number}, twice those of the stage before",
                )
        stem, channels, size, _ = _kernel("conv1.weight", shapes.get("conv1.weight", ()))
        classes = shapes.get("fc.weight", ())
        if len(classes) != 2:
            what = f"fc.weight of shape {tuple(classes)}" if "fc.weight" in shapes else "no fc.weight"
            raise MissingTensorError(f"received {what}", "a network with its dense layer (classes, features)")
        told = {
            "channels": channels,
            "spatial_dims": 2,
            "depths": depths,
            "bottleneck": bottleneck,
            "width": width,
            "stem": self._stem(size, hints),
            "stem_channels": stem,
            "shortcut": _shortcut(units),
            "norm": hints.get("norm", self.defaults["norm"]),
            "classes": classes[0],
        }
        try:
            attention = tuple(
                self._attention(f"layer{stage}.0.se", _below("se.", units[stage, 0]), hints)
                for stage in range(1, len(depths) + 1)
            )
            if any(attention) != all(attention):
                raise DialectError("received a block in some stages alone", "one in every unit, or none")
            told |= {
                "attention": attention if all(attention) else None,
                "placement": PLACEMENT if all(attention) else None,
            }
            spec = ResNetSpec(**told)
            self._check_hints(spec, hints)
        except SpecError as error:
            raise DialectError(f"received weights that do not work out as {self.id}: {error}") from error
        return spec

    def _stem(self, size: int, hints: Mapping[str, Any]) -> str:
        """The stem of a kernel of `size`: one of 3 tells nothing of its stride and of what comes behind it."""
        if size == 7:
            return "imagenet"
        if size == 3 and hints.get("stem") == "small":
            return "small"
        raise DialectError(
            f"received conv1.weight with a kernel of {size}",
            f"one of 7, as the code of {self.id} has",
            "pass hints={'stem': 'small'} if it has stride 1 and no maximum behind it" if size == 3 else "",
        )

    def _attention(self, path: str, shapes: Shapes, hints: Mapping[str, Any]) -> Spec | None:
        """The block whose weights lie at `path`; None for none."""
        if not shapes:
            return None
        fits = [block for block in self.blocks if _has_place(block, shapes)]
        if not fits:
            known = ", ".join(block.id for block in self.blocks if not block.refused) or "no block"
            raise DialectError(f"received {path} with {_some(list(shapes))}", f"in a unit of {self.id} {known}")
        readable = [block for block in fits if not block.refused]
        if not readable:
            raise DialectError(f"received {path}, which is {fits[0].id}: {fits[0].refused}", "a block without loss")
        given = {name: value for name, value in hints.items() if name not in FIELDS}
        # Zeros or a circle beyond the ends of the channels: the same weights, two classes.
        chosen = next((block for block in readable if all(block.facts.get(k, v) == v for k, v in given.items())), None)
        if chosen is None:
            raise DialectError(
                f"received hints {given!r} for {path}, which is {readable[0].id}", f"{readable[0].facts}"
            )
        own = {row.canonical: row.to_canonical(_hollow(shapes[row.key])) for row in chosen.tensors if row.key in shapes}
        sizes = {name: value.shape for name, value in own.items() if not name.endswith("num_batches_tracked")}
        own_fields = {field.name for field in fields(SPECS[chosen.block])}  # type: ignore[arg-type]
        given = {name: value for name, value in given.items() if name in own_fields}
        return SPECS[chosen.block].infer(sizes, **{**chosen.defaults, **given, **chosen.facts})

    def _check_hints(self, spec: ResNetSpec, hints: Mapping[str, Any]) -> None:
        """Raise `DialectError` for hints that the weights do not bear out, or that belong to nothing in the network."""
        inner = {name: value for name, value in hints.items() if name not in FIELDS}
        strange = [name for name in inner if not spec.attention or name not in spec.attention[0].arguments()]
        if strange:
            raise DialectError(f"received the hints {_some(strange)}", f"fields of {_title(spec)}")
        wished = type(spec).from_json({**spec.to_json(), **{name: hints[name] for name in hints if name in FIELDS}})
        differences = spec.differences(wished)
        for block in spec.attention or ():
            differences += block.differences(type(block).from_json({**block.to_json(), **inner}))
        if differences:
            raise DialectError(
                f"received hints against the weights (found, told): {'; '.join(dict.fromkeys(differences))}",
                "agreement of the weights, of what the dialect fixes and of the hints",
            )

    def table(self, spec: Spec) -> Dialect:
        """The dialect of the one network `spec`, with its table; `DialectError` where the code computes another."""
        if self.refused:
            raise DialectError(f"received the dialect {self.id}: {self.refused}", "one that is lossless")
        if not isinstance(spec, ResNetSpec):
            raise DialectError(f"received a block of kind {spec.block!r} for {self.id}", f"{self.block!r}")
        wrong = [f"spatial_dims: {spec.spatial_dims}, 2"] if spec.spatial_dims != 2 else []
        wrong += [f"placement: {spec.placement}, {PLACEMENT}"] if spec.placement not in (None, PLACEMENT) else []
        if wrong:
            raise DialectError(
                f"received a network that computes something else (network, {self.id}): {'; '.join(wrong)}"
            )
        block = self._block_for(spec.attention) if spec.attention else None
        rows = [*layer("conv1", "stem.conv", "conv", bias=False), *batch_norm("bn1", "stem.norm")]
        for stage, units in enumerate(spec.units(), 1):
            for number, unit in enumerate(units):
                # Of a network that pools, the first unit, too, has a place for its pool, which is then an identity.
                own = _unit(unit, spec.shortcut == "average", block)
                rows += _placed(f"layer{stage}.{number}.", f"stage{stage}.unit{number + 1}.", own)
        rows += layer("fc", "head", "linear", bias=True)
        return Dialect(id=self.id, block=self.block, tensors=tuple(rows), source=self.source)

    def _block_for(self, attention: Sequence[Spec]) -> Dialect:
        """The dialect of the blocks of every stage."""
        kind = attention[0].block
        for block in self.blocks:
            if block.block == kind and not block.refused and all(_can_be(block, one) for one in attention):
                return block
        known = ", ".join(block.id for block in self.blocks if not block.refused) or "no block"
        raise DialectError(f"received a network with {kind!r} as {attention[0].to_json()} in its units", f"{known}")

    def hints(self, spec: Spec, shapes: Shapes) -> dict[str, Any]:
        """What a reader of weights of these `shapes` must be told so that `spec`, of which they are, comes out."""
        assert isinstance(spec, ResNetSpec)
        told: dict[str, Any] = {} if spec.norm.to_json() == self.defaults["norm"] else {"norm": spec.norm.to_json()}
        told |= {} if spec.stem == "imagenet" else {"stem": spec.stem}
        seen = self.spec(shapes, told)
        for one, other in zip(seen.attention or (), spec.attention or (), strict=True):
            mine, theirs = one.to_json(), other.to_json()
            told |= {name: theirs[name] for name in mine if mine[name] != theirs[name]}
        differences = spec.differences(self.spec(shapes, told))
        if differences:
            raise DialectError(f"received a network that {self.id} cannot tell: {'; '.join(differences)}")
        return told


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _title(spec: ResNetSpec) -> str:
    """The network in an error's sentence."""
    units = "bottlenecks" if spec.bottleneck else "units"
    attention = f" with {spec.attention[0].block!r}" if spec.attention else ""
    return f"a ResNet of {', '.join(map(str, spec.depths))} {units}{attention}"


# From keys and shapes


def _units(shapes: Shapes) -> dict[tuple[int, int], dict[str, Sequence[int]]]:
    """The keys of each unit below it, with their shapes, by the numbers of its stage and of itself."""
    units: dict[tuple[int, int], dict[str, Sequence[int]]] = {(1, 0): {}}
    for key, shape in shapes.items():
        match = UNIT.fullmatch(key)
        if match:
            units.setdefault((int(match[1]), int(match[2])), {})[match[3]] = shape
    return units


def _depths(units: Collection[tuple[int, int]]) -> tuple[int, ...]:
    """How many units each stage has, as far as their numbers run."""
    depths: list[int] = []
    while (len(depths) + 1, 0) in units:
        depth = 1
        while (len(depths) + 1, depth) in units:
            depth += 1
        depths.append(depth)
    return tuple(depths)


def _below(path: str, shapes: Shapes) -> dict[str, Sequence[int]]:
    return {key.removeprefix(path): shape for key, shape in shapes.items() if key.startswith(path)}


def _kernel(key: str, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """(out, in, height, width) of a convolution's kernel."""
    if len(shape) != 4:
        raise MissingTensorError(
            f"received {key} of shape {tuple(shape)}" if shape else f"received no {key}", "a kernel"
        )
    return shape[0], shape[1], shape[2], shape[3]


def _strange(shapes: Shapes, units: Mapping[tuple[int, int], Shapes]) -> Iterator[str]:
    """What shows that a network is another than a ResNet as it is specified here."""
    if any(map(DEEP_STEM.match, shapes)):
        yield "a stem of several convolutions (conv1.0.weight, ...)"
    if any(key.startswith("maxpool.") for key in shapes):
        yield "a convolution in place of the maximum behind the stem (maxpool.0.weight, ...)"
    if "bn1.weight" in shapes and "bn1.running_mean" not in shapes:
        yield "norms without running statistics (no bn1.running_mean), such as group norms"
    for (stage, number), unit in units.items():
        path = f"layer{stage}.{number}"
        kernels = [tuple(unit[key]) for key in ("conv1.weight", "conv2.weight", "conv3.weight") if key in unit]
        if any(len(kernel) != 4 for kernel in kernels) or len(kernels) < 2:
            continue
        inner = kernels[0][0]
        if kernels[1][1] != inner and kernels[1][1] and inner % kernels[1][1] == 0:
            yield (
                f"grouped convolutions ({path}.conv2.weight of shape {kernels[1]} behind {inner} channels), as ResNeXt "
                "has"
            )
        if len(kernels) == 3 and (inner, kernels[1][0]) != (kernels[2][0] // EXPANSION,) * 2:
            yield (
                f"bottlenecks of {inner} and {kernels[1][0]} channels in {path}, where {kernels[2][0]} come out: a "
                "wide network, or a narrow one"
            )
        for place in "01":
            down = tuple(unit.get(f"downsample.{place}.weight", ()))
            if len(down) == 4 and down[2:] != (1, 1):
                yield f"{path}.downsample.{place}.weight with a kernel of {down[2]}, where one position is projected"


def _shortcut(units: Mapping[tuple[int, int], Shapes]) -> str:
    """Whether shortcuts pool: then their convolution is the second layer."""
    kinds = {
        kind
        for (_, number), unit in units.items()
        for place, kind in (("0", "convolution"), ("1", "average"))
        if number == 0 and len(unit.get(f"downsample.{place}.weight", ())) == 4
    }
    if len(kinds) > 1:
        raise DialectError("received shortcuts with and without a pool", "one kind throughout")
    return kinds.pop() if kinds else "convolution"


def _has_place(block: Dialect, shapes: Shapes) -> bool:
    """Whether the table of `block` has all of these keys in these shapes, and lacks none."""
    rows = {row.key: row for row in block.tensors}
    needed = {key for key, row in rows.items() if not row.optional}
    return needed <= shapes.keys() <= rows.keys() and all(rows[key].accepts(shape) for key, shape in shapes.items())


def _hollow(shape: Sequence[int]) -> np.ndarray:
    """An array of `shape` that takes no memory."""
    return np.broadcast_to(np.zeros((), np.int8), tuple(shape))


# From a spec


def _unit(unit: ResidualUnitSpec, pools: bool, block: Dialect | None) -> list[Tensor]:
    """The rows of one unit, below it."""
    rows: list[Tensor] = []
    for number in range(1, len(unit.convolutions) + 1):
        rows += layer(f"conv{number}", f"conv{number}", "conv", bias=False)
        rows += batch_norm(f"bn{number}", f"norm{number}")
    if block is not None and unit.attention is not None:
        parameters = unit.attention.parameters()
        own = [row for row in block.tensors if row.extra or row.canonical in parameters]
        rows += _placed("se.", "attention.", [row if row.extra else replace(row, optional=False) for row in own])
    if unit.projects:
        rows += layer(f"downsample.{int(pools)}", "shortcut.conv", "conv", bias=False)
        rows += batch_norm(f"downsample.{int(pools) + 1}", "shortcut.norm")
    return rows


def _placed(keys: str, path: str, rows: Sequence[Tensor]) -> list[Tensor]:
    return [replace(row, key=f"{keys}{row.key}", canonical=f"{path}{row.canonical}") for row in rows]


def _can_be(block: Dialect, spec: Spec) -> bool:
    """Whether a block of `spec` has the parameters of the dialect `block`, and computes what its code fixes."""
    rows = {row.canonical: row for row in block.tensors if not row.extra}
    shapes = spec.parameters()
    if not {name for name, row in rows.items() if not row.optional} <= shapes.keys() <= rows.keys():
        return False
    try:
        for name, shape in shapes.items():
            rows[name].from_canonical(_hollow(shape))
        return not spec.differences(type(spec).from_json({**spec.to_json(), **block.facts}))
    except (ParityError, ValueError, IndexError):  # of a layout that has no room for a tensor of this rank
        return False


def strides(spec: ResNetSpec) -> dict[str, tuple[int, int]]:
    """(kernel size, stride) of every convolution outside of its blocks, by canonical path."""
    found = {"stem.conv": (7, 2) if spec.stem == "imagenet" else (3, 1)}
    for stage, units in enumerate(spec.units(), 1):
        for number, unit in enumerate(units, 1):
            path = f"stage{stage}.unit{number}"
            found |= {f"{path}.conv{n}": (size, step) for n, (_, _, size, step) in enumerate(unit.convolutions, 1)}
            if unit.projects:
                found[f"{path}.shortcut.conv"] = (1, 1 if unit.shortcut == "average" else unit.stride)
    return found


DIALECTS = (
    # Its anti-aliasing, dilation, other activations and pools, which no weight shows, are off unless asked for.
    NetworkDialect(
        id="timm/ResNet",
        block="resnet",
        defaults={"norm": TORCH_NORM},
        blocks=timm.DIALECTS,
        modules=PLAIN_MODULES
        | {"timm/SelectAdaptivePool2d", "timm/FastAdaptiveAvgPool", "timm/DropPath", "timm/DropBlock2d"},
        source=f"{timm.SOURCE}, models/resnet.py",
    ),
    NetworkDialect(
        id="torchvision/ResNet",
        block="resnet",
        defaults={"norm": TORCH_NORM},
        source="torchvision 0.28.0, models/resnet.py",
    ),
    NetworkDialect(
        id="keras.applications/ResNet",
        block="resnet",
        refused="its convolutions have biases, which ResNet has not, and its bottlenecks stride in their first one",
        sign="conv2_block1_1_conv",
        source="Keras 3.15.1, applications/resnet.py",
    ),
)
