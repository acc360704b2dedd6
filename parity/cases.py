"""The matrix: block x options x rank x shape x data format x dtype x mode, and the recordings of real input.

Every case has a stable id from which its numbers are drawn, so that one case can be reproduced alone, anywhere.

    >>> find("se-default-2d-odd-first-float64-eval").spec.hidden_channels
    3
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parity import golden, oracle
from parity.block import Block
from parity.errors import ParityError, SpecError
from parity.modes import MODES, PLAIN
from parity.oracle import Measured
from parity.spec import DATA_FORMATS, SPECS, BatchNorm, Options, Spec, is_statistic
from parity.tolerances import DTYPES, HALF_DTYPES, PRECISIONS, Precision

if TYPE_CHECKING:
    from parity.network_cases import NetworkCase  # which is made of what is here

STEPS = 3

HARD_SIGMOID_02 = {"kind": "hard_sigmoid", "slope": 0.2, "offset": 0.5}
HARD_SIGMOID_05 = {"kind": "hard_sigmoid", "slope": 0.5, "offset": 0.5}
KERAS_NORM = BatchNorm(epsilon=1e-3, update_rate=0.01, unbiased_variance=False)

# The options of the cases of each block: "default" is what the others are changes to. A block without a line here has
# its own defaults alone. Every name is part of the ids of its cases: add freely, rename never.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "se": {
        "default": {"reduction": 4},
        "no-bias": {"bias": False},
        "hidden5": {"hidden_channels": 5},
        "silu": {"activation": "silu"},
        "hard-swish": {"activation": "hard_swish"},
        "linear": {"activation": "identity", "gate": "identity"},
        "hard-sigmoid": {"gate": "hard_sigmoid"},
        "hard-sigmoid-0.2": {"gate": HARD_SIGMOID_02},
        # A square kernel can be left transposed, and no shape can tell.
        "square": {"reduction": 1, "activation": "silu"},
    },
    "cbam": {
        "default": {"reduction": 4},
        "timm": {"mlp_bias": False, "spatial_norm": BatchNorm(update_rate=0.1)},
        "keras-norm": {"spatial_norm": KERAS_NORM},
        "norm-free": {"spatial_norm": None},
        "biased-norm": {"spatial_bias": True},
        "kernel3": {"kernel_size": 3},
        "concat": {"channel_merge": "concat"},
        "full": {"spatial_features": "full", "kernel_size": 3},
        "input": {"spatial_source": "input"},
        "input-full": {"spatial_source": "input", "spatial_features": "full", "kernel_size": 3, "spatial_norm": None},
        "channel": {"parts": "channel"},
        "spatial": {"parts": "spatial"},
        "spatial-full": {"parts": "spatial", "spatial_features": "full", "kernel_size": 3},
        "silu": {"activation": "silu"},
        "hard-sigmoid": {"gate": "hard_sigmoid"},
        # So steep that its ends are reached.
        "hard-sigmoid-0.5": {"gate": HARD_SIGMOID_05},
        "square": {"reduction": 1, "activation": "silu"},
        "residual": {"residual": True},
        "residual-input": {"residual": True, "spatial_source": "input", "hidden_channels": 5},
        "tutorial-pytorch": {"mlp_bias": False, "spatial_bias": True, "spatial_norm": None},
        "tutorial-tensorflow": {
            "channel_merge": "concat",
            "spatial_features": "full",
            "kernel_size": 3,
            "spatial_norm": None,
        },
        "tutorial-tf1": {"spatial_bias": True, "spatial_norm": None, "spatial_source": "input"},
    },
    "eca": {
        "default": {},
        "kernel5": {"kernel_size": 5},
        "kernel1": {"kernel_size": 1},
        "gamma1": {"gamma": 1, "beta": 2},
        "biased": {"kernel_size": 3, "bias": True},
        "circular": {"kernel_size": 5, "padding": "circular"},
        "hard-sigmoid-0.2": {"gate": HARD_SIGMOID_02},
        "linear": {"gate": "identity"},
    },
    "ca": {
        "default": {"reduction": 4},
        "no-bias": {"bias": False, "head_bias": False},
        "no-head-bias": {"head_bias": False},
        "hidden5": {"hidden_channels": 5},
        "relu": {"activation": "relu"},
        "silu": {"activation": "silu"},
        "norm-free": {"norm": None},
        "keras-norm": {"norm": KERAS_NORM},
        "hard-sigmoid": {"gate": "hard_sigmoid"},
        "hard-sigmoid-0.5": {"gate": HARD_SIGMOID_05},
        "square": {"hidden_channels": 12},
        "residual": {"residual": True},
        "tutorial-pytorch": {"bias": False, "head_bias": False, "activation": "relu", "hidden_channels": 3},
    },
    # Its kernel is always square.
    "ese": {
        "default": {},
        "no-bias": {"bias": False},
        "sigmoid": {"gate": "sigmoid"},
        "hard-sigmoid-0.2": {"gate": HARD_SIGMOID_02},
        "hard-sigmoid-0.5": {"gate": HARD_SIGMOID_05},
        "linear": {"gate": "identity"},
    },
    "scse": {
        "default": {"reduction": 4},
        "no-bias": {"bias": False},
        "add": {"merge": "add"},
        "hidden5": {"hidden_channels": 5},
        "silu": {"activation": "silu"},
        "hard-swish": {"activation": "hard_swish", "merge": "add"},
        "linear": {"activation": "identity", "gate": "identity"},
        "hard-sigmoid": {"gate": "hard_sigmoid", "merge": "add"},
        # So steep that its ends are reached: there both gates are the same.
        "hard-sigmoid-0.5": {"gate": HARD_SIGMOID_05},
        "square": {"reduction": 1, "activation": "silu"},
        "titu1994": {"bias": False, "merge": "add"},
    },
    # An axis that every rank has.
    "attention_pooling": {
        "default": {},
        "width": {"axis": "w"},
        "no-bias": {"bias": False},
        "no-bias-width": {"axis": "w", "bias": False},
    },
    "conv_attention": {
        "default": {"padding": 1},
        "heads4": {"num_heads": 4},
        "stride2": {"stride": 2, "num_heads": 2},
        "valid": {"padding": "valid"},
        "kernel1": {"kernel_size": 1, "padding": 0, "num_heads": 3},
        "kernel4": {"kernel_size": 4, "padding": 2},
        "kernel5": {"kernel_size": 5, "padding": "same"},
        "dilated": {"dilation": 2, "padding": 2},
        "dilated-stride2": {"dilation": 2, "padding": 2, "stride": 2},
        "groups2": {"groups": 2, "num_heads": 2},
        "groups3": {"groups": 3, "out_channels": 6, "stride": 2},
        "wide": {"out_channels": 15, "num_heads": 3},
        "no-bias": {"bias": False, "attention_bias": False},
        "no-attention-bias": {"attention_bias": False, "num_heads": 2},
        "tutorial-pytorch": {"out_channels": 8},
    },
    "multi_head_eca": {
        "default": {"num_heads": 1},
        "heads2": {"num_heads": 2},
        "tutorial-pytorch": {"num_heads": 4},
        "heads3": {"num_heads": 3, "kernel_size": 1},
        "kernel5": {"kernel_size": 5},
        "rule": {"kernel_size": None},
        "no-bias": {"attention_bias": False, "num_heads": 2},
        "rescaled": {"scale": -0.75, "offset": 0.25},
        "hard-sigmoid-0.2": {"gate": HARD_SIGMOID_02},
        "linear": {"gate": "identity"},
    },
}


def _options(block: str) -> dict[str, Options]:
    kind, variants = SPECS[block].options_class, VARIANTS.get(block, {"default": {}})
    return {name: kind(**(variants["default"] | changes)) for name, changes in variants.items()}


OPTIONS = {block: _options(block) for block in SPECS}


@dataclass(frozen=True)
class Shape:
    """Sizes of an input, distinct so that no two axes can be exchanged unseen; `sizes` are those of d, h, w."""

    batch: int
    channels: int
    sizes: tuple[int, int, int]
    pattern: str = "regular"
    ranks: tuple[int, ...] = (1, 2, 3)


SHAPES = {
    "odd": Shape(2, 12, (3, 5, 7)),
    "even": Shape(3, 10, (2, 6, 8)),
    "single": Shape(1, 12, (3, 5, 7)),  # batch 1
    "narrow": Shape(2, 3, (4, 5, 7)),  # fewer channels than the reduction
    "point": Shape(5, 12, (1, 1, 1)),  # 1x1 maps: ill-conditioned under a training norm
    "ties": Shape(2, 12, (3, 5, 7), pattern="rectified"),  # after a ReLU, whole channels of tied zeros
    "large": Shape(16, 64, (56, 56, 56), pattern="dominant", ranks=(2,)),
}


# How many positions of the large map differ, where it repeats itself.
POSITIONS = 2

# Beside "odd", those at which half precision is run: ill-conditioned statistics, ties that are zeros, long sums.
HALF_SHAPES = ("point", "ties", "large")


def shapes_of(block: str) -> dict[str, Shape]:
    """The shapes at which a block is run: all but the large one, where each position attends to each other."""
    return {name: shape for name, shape in SHAPES.items() if name != "large" or not SPECS[block].quadratic}


@dataclass(frozen=True)
class Problem:
    """All that a backend is given, and all that it should give back.

    `expected` holds the oracle's arrays by name, in float64, each with its magnitude. With `by_norm`, gradients and the
    steps that follow them are judged by their relative L2 error: single elements may hang on a comparison that rounding
    turns.
    """

    block: Block
    x: NDArray
    cotangent: NDArray | None
    learning_rate: float
    steps: int
    expected: Mapping[str, Measured]
    by_norm: bool = False

    @property
    def fingerprint(self) -> str:
        """A digest of all that backends are given: where two machines drew the same numbers, it is the same."""
        parts = {"x": self.x, "cotangent": self.cotangent} | dict(self.block.tensors)
        digest = hashlib.sha256(json.dumps([self.block.spec.to_json(), self.learning_rate, self.steps]).encode())
        for name, value in parts.items():
            if value is not None:
                digest.update(f"{name} {value.dtype} {value.shape}".encode())
                digest.update(value.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    block: str
    variant: str
    spatial_dims: int
    shape: str
    data_format: str
    dtype: str
    training: bool
    mode: str = PLAIN

    @property
    def id(self) -> str:
        """The stable name: its parts joined by dashes."""
        layout = self.data_format.removeprefix("channels_")
        phase = "train" if self.training else "eval"
        parts = [self.block, self.variant, f"{self.spatial_dims}d", self.shape, layout, self.dtype, phase]
        return "-".join(parts if self.mode == PLAIN else [*parts, self.mode])

    @property
    def spec(self) -> Spec:
        """The spec of its block."""
        return OPTIONS[self.block][self.variant].resolve(SHAPES[self.shape].channels, self.spatial_dims)

    @property
    def inert(self) -> frozenset[str]:
        """The parameters whose gradient is zero by theory here."""
        names = self.spec.inert(self.training)
        if set(SHAPES[self.shape].sizes) != {1}:
            return names
        # A map of one position has nothing to attend to but itself, whatever is asked.
        return names | {name for name in self.spec.parameters() if name.split(".")[-2] in ("query", "key", "score")}

    @property
    def precision(self) -> Precision:
        """What it computes in."""
        return PRECISIONS[self.dtype]

    def problem(self) -> Problem:
        """Its numbers: the first draw in which nothing is dead and no comparison is a close call.

        The oracle is given what the backends are given: numbers that the dtype holds. What they round on the way (the
        refined map of CBAM, say, before its maxima are taken) it does not round; the magnitude counts it, so that a
        comparison whose margin is several epsilons goes the same way for all. Where no draw has such margins, as in
        half precision with a ReLU behind a norm or on a large map, gradients are judged by their norm.
        """
        steps = STEPS if self.training else 0
        undecided: Problem | None = None
        for attempt in range(self._draws):
            rng = np.random.default_rng([zlib.crc32(self.id.encode()), attempt])
            # In half precision, when nothing else helps, a smaller map and norm: hidden units stay clear of far kinks.
            size = 0.25 if self.precision.is_half and 2 * attempt >= self._draws else 1.0
            # At 50,000 positions some gates are too close to call; where positions repeat themselves there are few.
            repeats = self.shape == "large" and attempt > 0
            tensors, x, cotangent = draw = _draw(self, rng, size, repeats)
            expected = self._judge(draw)
            if not _alive(self.spec, expected, self.inert, SHAPES[self.shape]):
                continue
            rate = _learning_rate(tensors, expected)
            expected = self._judge(draw, rate, steps) if steps else expected
            block = Block("block", self.spec, tensors)
            if min(value.margin for value in expected.values()) > self.precision.margin:
                return Problem(block, x, cotangent, rate, steps, expected)
            undecided = undecided or Problem(block, x, cotangent, rate, steps, expected, by_norm=True)
        if undecided and self.precision.is_half:
            return undecided
        raise SpecError(
            f"case {self.id}: no draw of {self._draws} has every parameter alive and every comparison decided"
        )

    @property
    def _draws(self) -> int:
        """How many draws are tried; the large map is not worth many in half precision, where none would do."""
        return 3 if self.shape == "large" and self.precision.is_half else 100

    def _judge(self, draw: tuple[dict, NDArray, NDArray], rate: float = 0.0, steps: int = 0) -> dict[str, Measured]:
        tensors, x, cotangent = draw
        return oracle.evaluate(
            self.spec,
            tensors,
            x,
            cotangent=cotangent,
            training=self.training,
            data_format=self.data_format,
            steps=steps,
            learning_rate=rate,
        )


@dataclass(frozen=True)
class RecordedCase:
    """A recording of real input or of somebody else's implementation, judged at the oracle's scale."""

    name: str
    phase: str

    @property
    def id(self) -> str:
        """The stable name."""
        return f"recorded-{self.name}-{self.phase}"

    @cached_property
    def _recording(self) -> golden.Recording:
        return _recordings()[self.name]

    @property
    def block(self) -> str:
        """The id of its block."""
        return self.spec.block

    @property
    def spec(self) -> Spec:
        """The spec of its block."""
        return self._recording.block.spec

    @property
    def data_format(self) -> str:
        """The layout in which it was recorded."""
        return self._recording.data_format

    @property
    def dtype(self) -> str:
        """The precision in which it was recorded."""
        return str(self._recording.x.dtype)

    @property
    def training(self) -> bool:
        """Whether statistics are used and updated."""
        return self.phase == "train"

    @property
    def mode(self) -> str:
        """How it runs."""
        return PLAIN

    def _mended(self, name: str, value: NDArray) -> NDArray:
        is_gradient = name.startswith("grad.")
        return golden.gradient(self._recording, name.removeprefix("grad."), self.phase) if is_gradient else value

    def problem(self) -> Problem:
        """The recorded numbers, each with the magnitude that the oracle gives it."""
        recording = self._recording
        judged = oracle.evaluate(
            self.spec,
            recording.block.tensors,
            recording.x,
            cotangent=recording.cotangent,
            training=self.training,
            data_format=self.data_format,
        )
        recorded = {name: self._mended(name, value) for name, value in recording.modes[self.phase].items()}
        expected = {
            name: Measured(np.asarray(recorded[name], np.float64), value.magnitude)
            for name, value in judged.items()
            if name in recorded
        }
        block = Block("block", self.spec, recording.block.tensors)
        return Problem(block, recording.x, recording.cotangent, 0.0, 0, expected)


AnyCase: TypeAlias = "Case | RecordedCase | NetworkCase"


@lru_cache
def _recordings() -> dict[str, golden.Recording]:
    return {recording.name: recording for name in golden.names() for recording in golden.open(name)}


def recorded() -> list[RecordedCase]:
    """Every recording in every mode that it has."""
    return [RecordedCase(name, mode) for name, recording in _recordings().items() for mode in recording.modes]


def everything() -> Iterator[Case]:
    """The whole product; in half precision, of the shapes at which it is run."""
    for block, variants in OPTIONS.items():
        for variant, (shape, sizes) in itertools.product(variants, shapes_of(block).items()):
            for cell in itertools.product(sizes.ranks, DATA_FORMATS, DTYPES, (False, True)):
                rank, data_format, dtype, training = cell
                if _exists(block, variant, rank, sizes):
                    yield Case(block, variant, rank, shape, data_format, dtype, training)
            if shape == "odd" or (variant == "default" and shape in HALF_SHAPES):
                for cell in itertools.product(sizes.ranks, DATA_FORMATS, HALF_DTYPES, (False, True)):
                    rank, data_format, dtype, training = cell
                    yield Case(block, variant, rank, shape, data_format, dtype, training)


def _exists(block: str, variant: str, rank: int, shape: Shape) -> bool:
    """Whether the variant takes such maps: heads and groups must divide the channels, and the kernel must fit."""
    size = (shape.batch, shape.channels, *shape.sizes[3 - rank :])
    try:
        OPTIONS[block][variant].resolve(shape.channels, rank).check_input(size, "channels_first")
    except ParityError:
        return False
    return True


def standard() -> list[AnyCase]:
    """The matrix of a normal run: the recordings, each default over the whole product, and every variant and every
    shape with each rank, in combinations of format, dtype and phase that take turns; the half-precision cases; and
    those of the modes; and the networks.
    """
    from parity import network_cases

    chosen: list[AnyCase] = list(recorded())
    cells = list(itertools.product((1, 2, 3), (False, True)))
    for block, variants in OPTIONS.items():
        for (rank, training), data_format, dtype in itertools.product(cells, DATA_FORMATS, DTYPES):
            chosen.append(Case(block, "default", rank, "odd", data_format, dtype, training))
        for number, variant in enumerate(list(variants)[1:]):
            chosen += [Case(block, variant, rank, "odd", *_turn(number, rank, mode), mode) for rank, mode in cells]
        for number, shape in enumerate(list(shapes_of(block))[1:]):
            for (rank, training), dtype in itertools.product(cells, DTYPES):
                if rank in SHAPES[shape].ranks:
                    data_format, _ = _turn(number, rank, training)
                    chosen.append(Case(block, "default", rank, shape, data_format, dtype, training))
    return [*chosen, *half(), *in_modes(), *network_cases.standard()]


def quick() -> list[AnyCase]:
    """The part of a normal run that takes minutes: the recordings, and for each block so many cases that every variant
    is there in both phases, every shape, every mode, every rank in both formats, every dtype in both phases.
    """
    kept: list[AnyCase] = []
    seen: set[tuple[Any, ...]] = set()
    # In an order by chance, the same each time, so that ranks, formats and dtypes meet variants as they come.
    for case in sorted(standard(), key=lambda case: zlib.crc32(case.id.encode())):
        traits = _traits(case)
        if not traits <= seen:
            kept.append(case)
            seen |= traits
    return kept


def _traits(case: AnyCase) -> set[tuple[Any, ...]]:
    """What a quick run must have met once."""
    if isinstance(case, RecordedCase):
        return {(case.id,)}
    own: set[tuple[Any, ...]] = {(case.variant,), (case.data_format,), (case.dtype,), (case.training,)}
    if isinstance(case, Case):
        own = {(case.variant, case.training), (case.shape,), (case.mode,)}
        own |= {(case.spatial_dims, case.data_format), (case.dtype, case.training)}
    return {(case.block, *trait) for trait in own}


def half() -> list[Case]:
    """The half-precision cases of a normal run: each default with every rank, dtype and mode, every third variant, and
    the shapes at which half precision is hard.
    """
    chosen = []
    for block, variants in OPTIONS.items():
        for rank, training, dtype in itertools.product((1, 2, 3), (False, True), HALF_DTYPES):
            data_format = DATA_FORMATS[(rank + training + HALF_DTYPES.index(dtype)) % 2]
            chosen.append(Case(block, "default", rank, "odd", data_format, dtype, training))
        some = [(variant, "odd") for variant in list(variants)[1::3]]
        hard = [("default", shape) for shape in HALF_SHAPES if shape in shapes_of(block)]
        for number, (variant, shape) in enumerate([*some, *hard]):
            dtype = HALF_DTYPES[(number + len(some)) % 4]
            chosen.append(Case(block, variant, 2, shape, DATA_FORMATS[number % 2], dtype, number // 2 % 2 == 0))
    return chosen


def in_modes() -> list[Case]:
    """The cases of the modes of a normal run: for each block and mode the defaults in both dtypes, and a variant of
    another rank. Formats and phases, ranks and variants take turns, because some of these cases take seconds.
    """
    chosen = []
    modes = [mode for mode in MODES.values() if mode.id != PLAIN]
    for (row, (block, variants)), (column, mode) in itertools.product(enumerate(OPTIONS.items()), enumerate(modes)):
        others = list(variants)[1:] or ["default"]
        cells = [("default", 2, dtype) for dtype in DTYPES]
        cells.append((others[(row + column) % len(others)], (1, 3)[(row + column) % 2], DTYPES[column % 2]))
        for number, (variant, rank, dtype) in enumerate(cells):
            training = not mode.inference_only and (row + column + number) % 2 == 0
            data_format = DATA_FORMATS[(row + number // 2 + training) % 2]
            chosen.append(Case(block, variant, rank, "odd", data_format, dtype, training, mode.id))
    return chosen


def everything_in_modes() -> Iterator[Case]:
    """The whole product of the modes but the plain one, at the one shape at which they run."""
    for block, variants in OPTIONS.items():
        phases = (False, True)
        cells = itertools.product(variants, SHAPES["odd"].ranks, DATA_FORMATS, PRECISIONS, phases, MODES.values())
        for variant, rank, data_format, dtype, training, mode in cells:
            if mode.id != PLAIN and not (training and mode.inference_only):
                yield Case(block, variant, rank, "odd", data_format, dtype, training, mode.id)


def _turn(number: int, rank: int, training: bool) -> tuple[str, str]:
    """A format and a dtype, so that over the three ranks each mode meets both of both."""
    turn = rank + training
    return DATA_FORMATS[(turn + number) % 2], DTYPES[(turn // 2 + number) % 2]


def find(name: str) -> AnyCase:
    """The case of this id; raises `SpecError` when there is none."""
    from parity import network_cases

    for case in itertools.chain[AnyCase](recorded(), network_cases.everything(), everything(), everything_in_modes()):
        if case.id == name:
            return case
    raise SpecError(f"received case {name!r}", "an id as `parity run` prints them", "see `parity run --list`")


def _draw(
    case: Case, rng: np.random.Generator, scale: float = 1.0, repeats: bool = False
) -> tuple[dict[str, NDArray], NDArray, NDArray]:
    shape = SHAPES[case.shape]
    size = (shape.batch, shape.channels, *shape.sizes[3 - case.spatial_dims :])
    precision = case.precision
    tensors = {
        # Mixed precision rounds the weights as it uses them: these lose nothing by it.
        name: ((scale if name.endswith("scale") else 1) * _weight(name, extent, rng))
        .astype(precision.compute)
        .astype(precision.variables)
        for name, extent in case.spec.parameters().items()
    }
    # Among random numbers some maxima are closer than half precision can tell.
    pattern = "dominant" if precision.is_half and shape.pattern == "regular" else shape.pattern
    x = scale * _feature_map(size, pattern, rng)
    if repeats:
        x = x.reshape(*size[:2], -1)[..., np.arange(math.prod(size[2:])) % POSITIONS].reshape(size)
    # A white cotangent would cancel itself in every sum over the map, and leave gradients that only rounding tells
    # apart.
    cotangent = _feature_map(case.spec.output_shape(size, "channels_first"), "regular", rng)  # type: ignore[arg-type]
    if precision.is_half and case.shape == "large":
        cotangent /= 2**11  # nearly a mean over the map, as of most losses: the sums of float16 would overflow
    if case.data_format == "channels_last":
        x, cotangent = np.moveaxis(x, 1, -1), np.moveaxis(cotangent, 1, -1)
    return tensors, np.ascontiguousarray(x, precision.compute), np.ascontiguousarray(cotangent, precision.compute)


def _weight(name: str, extent: tuple[int, ...], rng: np.random.Generator) -> NDArray:
    leaf = name.rpartition(".")[2]
    if leaf in ("scale", "variance"):
        return rng.uniform(0.5, 1.5, extent)
    spread = 1.2 / math.sqrt(math.prod(extent[1:])) if leaf == "kernel" else 0.3
    return spread * rng.normal(size=extent)


def _feature_map(size: tuple[int, ...], pattern: str, rng: np.random.Generator) -> NDArray:
    """Channels of different means that slope differently along every axis: white noise would pool to almost nothing and
    hide the gate.
    """
    x = rng.normal(size=size[:2] + (1,) * (len(size) - 2)) + 0.5 * rng.normal(size=size)
    for axis in range(2, len(size)):
        ramp = np.linspace(-1, 1, size[axis]).reshape([-1 if i == axis else 1 for i in range(len(size))])
        x = x + ramp * rng.normal(size=size[:2] + (1,) * (len(size) - 2))
    if pattern == "rectified":
        x[:, ::3] = -1
        return np.maximum(x, 0)
    if pattern == "dominant":
        # 50,000 positions would hold some maxima too close to call: one channel alone is positive at each, so that no
        # positive gate changes which. The others differ in size, or every sample would pool to the same.
        x = -np.clip(np.abs(x), 0.25, 2) * rng.lognormal(size=size[:2] + (1,) * (len(size) - 2))
        leader = np.arange(math.prod(size[2:])).reshape(size[2:]) % size[1]
        where = np.broadcast_to(leader, (size[0], 1, *size[2:]))
        np.put_along_axis(x, where, 1 + rng.random(where.shape), axis=1)
    return x


def _alive(spec: Spec, expected: Mapping[str, Measured], inert: frozenset[str], shape: Shape) -> bool:
    """Whether every parameter that should move the output does, and every unit of the hidden layers with it."""
    for name in spec.parameters():
        if is_statistic(name) or name in inert:
            continue
        moves = expected[f"grad.{name}"].value != 0
        hidden = shape.pattern != "rectified" and moves.ndim == 2
        if not (moves.any(axis=1).all() if hidden else moves.any()):
            return False
    return True


def _learning_rate(tensors: Mapping[str, NDArray], expected: Mapping[str, Measured]) -> float:
    """A power of two (exact in every dtype) with which a step moves no parameter by more than a sixteenth: larger ones
    would multiply rounding from step to step until nothing could be told.
    """
    shares = [
        np.abs(tensors[name]).max() / value.magnitude.max()
        for name, value in ((key.removeprefix("grad."), value) for key, value in expected.items())
        if name in tensors and not is_statistic(name) and value.magnitude.max() > 0
    ]
    return 2.0 ** math.floor(math.log2(min(shares, default=1.0) / 16))
