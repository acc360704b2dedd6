"""The matrix of networks: topology x data format x dtype x phase.

>>> case = find("resnet-ca-identity-2d-first-float64-eval")
>>> case.spec.placement, case.spec.layers()
('identity', ('stem', 'stage1.unit1', 'stage2.unit1'))
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity import oracle
from parity.block import Block
from parity.cases import STEPS, Problem, _feature_map, _learning_rate, _weight
from parity.errors import SpecError
from parity.modes import PLAIN
from parity.oracle import Measured
from parity.oracle._measured import given
from parity.oracle._steps import STEPS as STEPS_OF_BLOCKS
from parity.oracle._steps import Replacement, replaced
from parity.spec import DATA_FORMATS, NETWORKS, BatchNorm, Spec, is_statistic
from parity.tolerances import DEEP_NETWORK_CONDITION, DTYPES, NETWORK_CONDITION, NETWORK_MARGIN, PRECISIONS, Precision

DRAWS = 100

NOISE = 2.0**-30  # between float64's epsilon and where gradients curve

KERAS_NORM = BatchNorm(epsilon=1e-3, update_rate=0.01, unbiased_variance=False)


@dataclass(frozen=True)
class Topology:
    """A network and the input that it is tried on: small, because each layer of it is compared.

    Args:
        options: of the network.
        channels, sizes: of the input; the sizes tell the rank.
        batch: so large that each norm sees some thirty values per channel, or gradients would be noise.
        standard: the phases, in training or not, that a normal run has of it.
        deep: whether roundings grow through so many layers that float64 alone tells anything of its gradients.
    """

    options: Mapping[str, Any]
    channels: int = 3
    sizes: tuple[int, ...] = (11, 13)
    batch: int = 4
    standard: tuple[bool, ...] = field(default=(False, True))
    deep: bool = False


SMALL_RESNET = MappingProxyType({"depths": (1, 1), "width": 6, "classes": 5})
# Pooled behind a ReLU, samples are so alike that a ReLU in the attention is dead in all or in none; these are not.
SE = {"reduction": 2, "activation": "silu"}
CBAM = SE | {"kernel_size": 3}
# A bias before a norm cannot move anything in training.
CA = {"reduction": 2, "bias": False}
HEADS = {"padding": "same", "num_heads": 2}
TUTORIAL_3D = CBAM | {"channel_merge": "concat", "spatial_features": "full", "spatial_norm": None}
SMALL_PLAIN = MappingProxyType({"filters": (4, 6, 8), "strides": (1, 2, 2), "classes": 7})

# Every name is part of the ids of its cases: add freely, rename never.
TOPOLOGIES: dict[str, dict[str, Topology]] = {
    "residual": {
        "plain": Topology({}, channels=6, sizes=(5, 7)),
        "before-addition": Topology(
            {"out_channels": 8, "stride": 2, "attention": "se", "attention_options": SE}, channels=6
        ),
        "after-addition": Topology(
            {"attention": "cbam", "attention_options": CBAM, "placement": "after_addition"}, channels=6, sizes=(5, 7)
        ),
        "before-unit": Topology(
            {"out_channels": 8, "attention": "ca", "attention_options": CA, "placement": "before_unit"},
            channels=6,
            sizes=(5, 7),
        ),
        "identity": Topology(
            {
                **{"out_channels": 8, "stride": 2, "bottleneck": True, "shortcut": "average"},
                **{"attention": "eca", "placement": "identity"},
            },
            channels=6,
        ),
        "beside-identity": Topology(
            {
                **{"attention": "cbam", "attention_options": CBAM, "placement": "beside_identity"},
                **{"stride": 3, "norm": KERAS_NORM},
            },
            channels=6,
            sizes=(13, 17),
        ),
        "scse": Topology(
            {"attention": "scse", "attention_options": SE, "placement": "identity"},
            channels=6,
            sizes=(5, 7),
            standard=(True,),
        ),
    },
    "resnet": {
        "none": Topology({**SMALL_RESNET, "shortcut": "average"}, sizes=(19, 21)),
        "se": Topology({**SMALL_RESNET, "attention": "se", "attention_options": SE}, sizes=(19, 21)),
        "cbam-after-addition": Topology(
            {
                **SMALL_RESNET,
                **{"stem": "small", "attention": "cbam", "attention_options": (CBAM, CBAM | {"kernel_size": 5})},
                **{"placement": "after_addition"},
            },
        ),
        "eca-before-unit": Topology(
            {**SMALL_RESNET, "stem_channels": 4, "attention": "eca", "placement": "before_unit"}, sizes=(33, 35)
        ),
        "ca-identity": Topology(
            {
                **SMALL_RESNET,
                **{"stem": "small", "bottleneck": True, "width": 4, "shortcut": "average"},
                **{"attention": "ca", "attention_options": CA, "placement": "identity"},
            },
        ),
        "beside-identity": Topology(
            {**SMALL_RESNET, "stem": "small", "attention": "eca", "placement": "beside_identity", "norm": KERAS_NORM},
        ),
        "line": Topology(
            {**SMALL_RESNET, "depths": (1, 2), "attention": "se", "attention_options": SE}, sizes=(131,), batch=5
        ),
        "volume": Topology(
            {**SMALL_RESNET, "stem": "small", "attention": "cbam", "attention_options": CBAM, "shortcut": "average"},
            channels=2,
            sizes=(5, 6, 7),
        ),
        # The paper's networks, an eighth or a sixteenth as wide.
        "depth18": Topology(
            {"width": 4, "classes": 10, "attention": "se", "attention_options": SE},
            sizes=(33, 35),
            batch=8,
            standard=(False,),
            deep=True,
        ),
        "depth34": Topology({"depth": 34, "width": 4, "classes": 10}, sizes=(33, 35), batch=8, standard=(), deep=True),
        "depth50": Topology({"depth": 50, "width": 4, "classes": 10}, sizes=(33, 35), batch=8, standard=(), deep=True),
        # At the end, because what is before it keeps its cells in a normal run.
        "ese": Topology({**SMALL_RESNET, "stem": "small", "attention": "ese"}, standard=(True,)),
    },
    "plain": {
        "tutorial": Topology(
            {**SMALL_PLAIN, "attention_options": TUTORIAL_3D, "map_sizes": (8, 7, 6)}, sizes=(8, 7, 6)
        ),
        "line": Topology(
            {**SMALL_PLAIN, "strides": (2, 1, 3), "attention": "eca", "activation": "silu", "map_sizes": (29,)},
            sizes=(29,),
        ),
        "se-last": Topology(
            {
                **SMALL_PLAIN,
                **{"activation": "relu", "attention": "se", "attention_options": SE, "attention_after": "last"},
                **{"head": "mean", "output": "logits"},
            },
        ),
        "normed": Topology(
            {
                **SMALL_PLAIN,
                **{"conv_bias": False, "norm": KERAS_NORM, "activation": "relu", "padding": "symmetric"},
                **{"kernel_size": 5, "attention": "cbam", "attention_options": CBAM, "map_sizes": (10, 12)},
                "attention_after": "last",  # before a norm, most of a gate's gradient cancels
            },
            sizes=(10, 12),
            batch=6,
        ),
        "no-attention": Topology(
            {**SMALL_PLAIN, "attention": None, "activation": "hard_swish", "map_sizes": (10, 13)}, sizes=(10, 13)
        ),
        "attention-pooling": Topology(
            {
                **SMALL_PLAIN,
                **{"activation": "silu", "attention": "attention_pooling", "attention_after": "last", "head": "mean"},
            },
            standard=(False,),
        ),
        "conv-attention": Topology(
            {**SMALL_PLAIN, "attention": "conv_attention", "attention_options": HEADS, "map_sizes": (6, 7)},
            sizes=(6, 7),
            standard=(True,),
        ),
        "multi-head-eca": Topology(
            {**SMALL_PLAIN, "attention": "multi_head_eca", "attention_options": {"num_heads": 2}, "head": "mean"},
            sizes=(6, 7),
            standard=(True,),
        ),
    },
}


@dataclass(frozen=True)
class NetworkCase:
    """One cell of the matrix of networks."""

    block: str
    variant: str
    data_format: str
    dtype: str
    training: bool

    @property
    def topology(self) -> Topology:
        """Its network and its sizes."""
        return TOPOLOGIES[self.block][self.variant]

    @property
    def id(self) -> str:
        """The stable name: its parts joined by dashes."""
        layout = self.data_format.removeprefix("channels_")
        phase = "train" if self.training else "eval"
        return "-".join([self.block, self.variant, f"{len(self.topology.sizes)}d", layout, self.dtype, phase])

    @property
    def spec(self) -> Spec:
        """The spec of its network."""
        options = NETWORKS[self.block].options_class(**self.topology.options)
        return options.resolve(self.topology.channels, len(self.topology.sizes))

    @property
    def precision(self) -> Precision:
        """What it computes in."""
        return PRECISIONS[self.dtype]

    @property
    def mode(self) -> str:
        """How it runs."""
        return PLAIN

    def problem(self) -> Problem:
        """Its numbers: the first draw in which nothing is dead, every comparison, of the three steps too, is further
        from its turning point than what roundings come to, and no gradient is what is left where larger ones cancel.
        Gradients are judged by their norm.
        """
        # Through fifty layers the roundings of one step are the signals of the next but one.
        steps = (1 if self.topology.deep else STEPS) if self.training else 0
        spec = self.spec
        for attempt in range(DRAWS):
            rng = np.random.default_rng([zlib.crc32(self.id.encode()), attempt])
            tensors, x, cotangent = draw = self._draw(spec, rng)
            if not self._decided(self._judge(spec, draw, forward=True)):  # the cheapest first
                continue
            expected = self._judge(spec, draw)
            limit = DEEP_NETWORK_CONDITION if self.topology.deep else NETWORK_CONDITION
            if not _alive(spec, expected, self.training) or self._condition(spec, draw, expected) > limit:
                continue
            rate = _learning_rate(tensors, expected)
            expected = self._judge(spec, draw, rate, steps) if steps else expected
            if self._decided(expected):
                return Problem(Block("block", spec, tensors), x, cotangent, rate, steps, expected, by_norm=True)
        raise SpecError(f"case {self.id}: no draw of {DRAWS} is alive, decided and well conditioned")

    def _draw(self, spec: Spec, rng: np.random.Generator) -> tuple[dict[str, NDArray], NDArray, NDArray]:
        size = (self.topology.batch, self.topology.channels, *self.topology.sizes)
        dtype = self.precision.variables
        tensors = {name: _weight(name, extent, rng) for name, extent in spec.parameters().items()}
        x = _feature_map(size, "regular", rng)
        tensors = tensors if self.training else _as_if_trained(spec, tensors, x, rng)
        tensors = {name: value.astype(dtype) for name, value in tensors.items()}
        shape: Any = spec.output_shape(size, "channels_first")
        cotangent = _feature_map(shape, "regular", rng)
        if self.data_format == "channels_last":
            x, cotangent = np.moveaxis(x, 1, -1), np.moveaxis(cotangent, 1, -1)
        return tensors, np.ascontiguousarray(x, dtype), np.ascontiguousarray(cotangent, dtype)

    def _judge(
        self,
        spec: Spec,
        draw: tuple[dict, NDArray, NDArray],
        rate: float = 0.0,
        steps: int = 0,
        forward: bool = False,
    ) -> dict[str, Measured]:
        tensors, x, cotangent = draw
        return oracle.evaluate(
            spec,
            tensors,
            x,
            cotangent=None if forward else cotangent,
            training=self.training,
            data_format=self.data_format,
            steps=steps,
            learning_rate=rate,
        )

    def _condition(self, spec: Spec, draw: tuple[dict, NDArray, NDArray], expected: Mapping[str, Measured]) -> float:
        """How many times as much any gradient is off, by norm, if each result of a step is off by chance, and each
        gradient that comes back to it.
        """
        rng = np.random.default_rng(0)

        def noise(shape: tuple[int, ...]) -> NDArray:
            return 1 + NOISE * rng.normal(size=shape)

        def noisy_of(y: Any) -> Any:
            if isinstance(y, tuple):
                return tuple(map(noisy_of, y))
            return (
                (y * given(noise(y.value.shape))).pulled(lambda g: g * noise(g.shape)) if isinstance(y, Measured) else y
            )

        def rounded(original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            return noisy_of(original(*arguments, **keywords))

        with replaced(*(Replacement(name, rounded) for name in STEPS_OF_BLOCKS)):
            noisy = self._judge(spec, draw)
        inert = {f"grad.{name}" for name in spec.inert(self.training)}
        names = [name for name in noisy if name.startswith("grad.") and name not in inert]
        off = [np.linalg.norm(noisy[name].value - expected[name].value) for name in names]
        sizes = [np.linalg.norm(expected[name].value) for name in names]
        return max(float(error / size) for error, size in zip(off, sizes, strict=True)) / NOISE

    def _decided(self, expected: Mapping[str, Measured]) -> bool:
        return min(value.margin for value in expected.values()) > NETWORK_MARGIN * self.precision.epsilon


def everything() -> Iterator[NetworkCase]:
    """The whole product."""
    for block, topologies in TOPOLOGIES.items():
        cells = itertools.product(topologies, DATA_FORMATS, DTYPES, (False, True))
        every = (NetworkCase(block, *cell) for cell in cells)
        yield from (case for case in every if case.dtype == "float64" or not case.topology.deep)


def standard() -> list[NetworkCase]:
    """The networks of a normal run: each in the phases that it has there, formats and dtypes taking turns."""
    chosen = []
    for block, topologies in TOPOLOGIES.items():
        for number, (variant, topology) in enumerate(topologies.items()):
            for training in topology.standard:
                turn = number + 3 * training
                cell = DATA_FORMATS[turn // 2 % 2], DTYPES[0 if topology.deep else turn % 2]
                chosen.append(NetworkCase(block, variant, *cell, training))
    return chosen


def find(name: str) -> NetworkCase | None:
    """The case of this id, if it is a network's."""
    return next((case for case in everything() if case.id == name), None)


def _as_if_trained(spec: Spec, tensors: dict[str, NDArray], x: NDArray, rng: np.random.Generator) -> dict[str, NDArray]:
    """The weights with running statistics near those of x itself, as training leaves them: with any others, some
    channels are dead from the first layer on, and the maps grow from layer to layer.
    """
    seen = []
    for start in (0.0, 1.0):
        given = {name: np.full_like(v, start) if is_statistic(name) else v for name, v in tensors.items()}
        seen.append(oracle.evaluate(spec, given, x, training=True))
    trained = dict(tensors)
    for name in filter(is_statistic, tensors):
        zero, one = (found[f"after.{name}"].value for found in seen)
        rate = 1 - (one - zero)  # one pass goes that much of the way from where it started to the batch
        trained[name] = zero / rate * rng.uniform(0.8, 1.25, zero.shape)
    return trained


def _alive(spec: Spec, expected: Mapping[str, Measured], training: bool) -> bool:
    """Whether every parameter that should move the output does, every output of each layer with it."""
    for name in spec.parameters():
        if is_statistic(name) or name in spec.inert(training):
            continue
        moves = expected[f"grad.{name}"].value != 0
        if not moves.reshape(len(moves), -1).any(axis=1).all():
            return False
    return True
