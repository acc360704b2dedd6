"""Probes: for each block an input on which every parameter shows, and what the source of the weights made of it.

>>> from parity.spec import ECAOptions
>>> spec = ECAOptions(kernel_size=3).resolve(6)
>>> block = Block("eca", spec, {"conv.kernel": np.array([[[0.5, -1.0, 2.0]]])})
>>> probe_input(block).shape
(3, 6, 2, 4)
>>> blind_spots(block, probe_input(block))
[]
>>> with_probes([block])[0].probe.source
'oracle'
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity import client, oracle
from parity.backends import BACKENDS, Adapter, adapter_of
from parity.block import Block, Probe
from parity.errors import BackendMissingError, InputError, MissingTensorError, ParityError, UnexpectedTensorError
from parity.loading import blocks_of, plain_name
from parity.mistakes import readings
from parity.oracle import Measured
from parity.spec import BatchNorm, Gate, Spec, is_statistic
from parity.tolerances import EPSILON, MARGIN, tolerance

# A change of a parameter by this share of its tensor's size must be seen.
STEP = 1 / 4

# Tensors up to this size are seen by their elements, larger ones by their rows and columns: in float32 no output can
# show one weight among a million.
SMALL = 1024

# Samples, and the smallest spatial size, of a probe: of a block with a spatial kernel of k taps, and of one without.
# The first layout that keeps within the budget is taken, else the last. From k // 2 + 1 on each tap sees something.
LAYOUTS_WITH_KERNEL: tuple[Callable[[int], tuple[int, int]], ...] = (
    lambda k: (3, k),
    lambda k: (2, k),
    lambda k: (2, k // 2 + 1),
)
LAYOUTS = ((3, 2), (2, 3), (2, 1))
BUDGET = 8192  # elements
LIMIT = 2**26  # products of a convolution's taps and positions: the oracle's memory grows with them

CLEAR = 64  # times the allowed error: what moves the output by more could not be clearer

FINALISTS = 2  # inputs that are looked at closely, of all that were glanced at
REACH = 16  # times what is usual among hidden units: what is dead by more stays so
SCALES = tuple(4.0**power for power in range(-4, 5))
DRAWS = 32


def with_probes(
    blocks: Iterable[Block],
    source: Any = None,
    *,
    computed_by: str | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Block]:
    """The same blocks, each with a probe: a small input, and what the source of the weights makes of it.

    Without a source the oracle computes the output from the spec. Such a probe proves that a file arrived whole and
    that a backend computes what its specs say; it proves nothing about the spec itself, which a wrong hint made wrong
    for the oracle too. With the model that the weights came from, its own code computes the output, in its own dtype,
    on its own device, in inference mode: that proves the reading. (A block of TF1 variables, or of stock Keras layers
    that no layer of its own holds, has no code that could be called alone: a worker of its backend then runs the
    model's values under the spec, and the probe's source says so.)

    Args:
        blocks: as `parity.read` or `parity.blocks_of` give them.
        source: None; a torch module, a Keras model or layer, or a TF1 session, in which each block is found by its
            name ("." and "/" count as "_"); a function of an array (N, C, *spatial) that gives one of that shape, where
            there is one block; or a mapping of each block's name to any of these.
        computed_by: what the probes say of who computed them; None for the class and the framework's version.
        progress: called with the name of each block before its turn.

    Raises:
        MissingTensorError: where the source has no block of a name.
        UnexpectedTensorError: for an entry of a mapping that names no block.
        InputError: for weights or outputs that are not finite, and for a source that fails, that returns another
            shape, or that computes in half precision.

    Example:
        >>> from attention_torch import ECA
        >>> model = ECA(6)
        >>> with_probes(blocks_of(model), model)[0].probe.source.partition(" in ")[0]
        'attention_torch.eca.ECA'
    """
    blocks = list(blocks)
    runs = _runs(blocks, source)
    probed = []
    for block in blocks:
        progress(block.name)
        probed.append(replace(block, probe=_probe(block, runs[block.name], computed_by)))
    return probed


# --------------------------------------------------------------------------------------------------------------------
# The input


def probe_input(block: Block, dtype: str = "float32") -> NDArray:
    """A small input, (N, C, *spatial), on which every parameter of `block` that can show moves the output visibly.

    It is drawn from a seed that spec and names of the weights alone decide, and scaled to the weights. Channels and
    axes differ from each other in everything, sizes are pairwise distinct where the block leaves them open, no maximum
    is tied and no comparison is a close call in float32. Where no draw shows everything (a hidden unit that is dead,
    a gate that its bias has shut), the one that shows most is taken; `blind_spots` names the rest.

    Args:
        block: the weights and what they mean.
        dtype: "float64" or "float32"; the numbers are the same.

    Raises:
        InputError: for weights that are not finite, and for a spatial kernel that is very large.
    """
    if not all(np.isfinite(value.astype(np.float64)).all() for value in block.tensors.values()):
        raise InputError(f"received block {block.name!r} with weights that are not finite", "finite numbers")
    if too_large(block, _shape(block)):
        raise InputError(
            f"received block {block.name!r} with a kernel too large for a probe", f"at most {LIMIT} products"
        )
    # A wide block shows what it can at the first attempts, and each look at it takes long.
    wide = math.prod(_shape(block)) > BUDGET
    draws = [_draw(block, attempt) for attempt in range(1 if wide else 2)]
    awake = _waker(block)
    glances = sorted((_glance(block, awake(scale * x)) for x in draws for scale in SCALES), key=_score)
    best, bar = max((look_at(block, glance.x) for glance in glances[-FINALISTS:]), key=_score), glances[-1]
    scale = 2.0 ** round(math.log2(np.abs(best.x).max() / np.abs(draws[0]).max()))
    for attempt in range(2, 4 if wide else DRAWS):
        if best.decided and not best.blind_spots:
            break
        near = 2.0 ** (attempt % 5 - 2)
        x = near * scale * _draw(block, attempt)
        glance = _glance(block, x if attempt % 4 == 3 else awake(x))
        if glance.score[:2] >= bar.score[:2]:
            best, bar = max(best, look_at(block, glance.x), key=_score), glance
    return best.x.astype(dtype)


def blind_spots(block: Block, x: NDArray, dtype: str = "float32") -> list[str]:
    """What a probe of input `x` cannot tell, one phrase each: parameters, and readings of the same weights.

    An element of a parameter, or a row or column of a large one, shows where a change by a quarter of its tensor's root
    mean square moves the output by more than the tolerance of `dtype`. Inert parameters are not counted.

    Example:
        >>> from parity.spec import SqueezeExcitationOptions
        >>> spec = SqueezeExcitationOptions(hidden_channels=1).resolve(2, 1)
        >>> dead = {"fc1.kernel": np.ones((1, 2)), "fc1.bias": np.array([-1e9])}
        >>> block = Block("", spec, dead | {"fc2.kernel": np.ones((2, 1)), "fc2.bias": np.ones(2)})
        >>> blind_spots(block, probe_input(block))[:3]
        ['fc1.kernel: 2 of 2 elements', 'fc1.bias: 1 of 1 elements', 'fc2.kernel: 2 of 2 elements']
    """
    return look_at(block, x, dtype).blind_spots


def too_large(block: Block, shape: Sequence[int]) -> bool:
    """Whether an input of this shape would cost the oracle more than any probe is worth."""
    kernels = [value.shape for value in block.tensors.values() if value.ndim > 2]
    return any(math.prod((shape[0], *shape[2:], *kernel[1:])) > LIMIT for kernel in kernels)


@dataclass(frozen=True, eq=False)
class _Look:
    """What one input shows of a block: every figure is a multiple of what is allowed to be off."""

    x: NDArray
    parameters: Mapping[str, NDArray]
    kinds: Mapping[str, str]  # what the figures of a parameter are of
    readings: Mapping[str, float]
    margin: float
    corners: int  # of a hard gate, reached

    @property
    def decided(self) -> bool:
        """Whether no comparison is a close call."""
        return self.margin > MARGIN * EPSILON["float32"]

    @cached_property
    def blind_spots(self) -> list[str]:
        """Parameters, and other readings, that the input cannot tell."""
        unseen = {name: int((ratio <= 1).sum()) for name, ratio in self.parameters.items()}
        parts = [
            f"{name}: {count} of {self.parameters[name].size} {self.kinds[name]}"
            for name, count in unseen.items()
            if count
        ]
        return parts + [words for words, ratio in self.readings.items() if not ratio > 1]

    @property
    def sees_nothing(self) -> bool:
        """Whether no parameter shows at all."""
        return not any((ratio > 1).any() for ratio in self.parameters.values())

    @cached_property
    def score(self) -> tuple[bool, float, int, float, float]:
        """Better inputs have the greater: they show more, reach more corners, are clearer, and of more usual size."""
        seen = sum(float((ratio > 1).mean()) for ratio in self.parameters.values())
        seen += sum(ratio > 1 for ratio in self.readings.values())
        faintest = min([*map(np.median, self.parameters.values()), *self.readings.values()], default=0.0)
        clear = min(float(faintest), CLEAR)
        return self.decided, seen, self.corners, clear, -abs(math.log(np.abs(self.x).mean()))


def _score(look: _Look) -> Any:
    return look.score


def _glance(block: Block, x: NDArray) -> _Look:
    """A look at the parameters alone, in two directions: it misses some of what shows, and costs a fraction."""
    return look_at(block, x, directions=2, others=())


def look_at(
    block: Block,
    x: NDArray,
    dtype: str = "float32",
    directions: int = 4,
    others: Iterable[tuple[str, Block]] | None = None,
) -> _Look:
    """What the input `x` shows of the parameters and of the `others`, which are its other readings unless given."""
    spec, tensors = block.spec, block.tensors
    shape = spec.output_shape(x.shape, "channels_first")
    signs = np.random.default_rng(_seed(block)).choice((-1.0, 1.0), (directions, *shape))  # type: ignore[arg-type]
    looks = [oracle.evaluate(spec, tensors, x, cotangent=sign) for sign in signs]
    output = looks[0]["output"]
    allowed = tolerance("output", dtype, "cpu") * max(np.abs(output.value).max(), output.magnitude.max())
    # <signs, change of the output> is about as large as the change's Euclidean norm, which is at most the largest
    # element's times the root of their number.
    unit = allowed * math.sqrt(output.value.size)
    slopes = {
        name: np.maximum.reduce([_shown(_slope(block, name, look)) for look in looks])
        for name in spec.parameters()
        if name not in spec.inert(False)
    }
    return _Look(
        x,
        {name: slope * _step(tensors[name]) / unit if unit else slope * 0 for name, slope in slopes.items()},
        {name: "elements" if slopes[name].shape == tensors[name].shape else "rows and columns" for name in slopes},
        {
            words: _distance(other, x, output) / allowed if allowed else 0.0
            for words, other in (readings(block) if others is None else others)
        },
        min(value.margin for look in looks for value in look.values()),
        _corners(block, x, output.value),
    )


def _corners(block: Block, x: NDArray, output: NDArray) -> int:
    """How many of the two ends of its hard gate the block reaches: y = 0 and y = x, plus x with a residual."""
    if not _is_hard(block.spec):
        return 0
    base = x if block.spec.arguments().get("residual") else 0
    return int((output == base).any()) + int((output == base + x).any())


def _is_hard(spec: Spec) -> bool:
    return any(isinstance(value, Gate) and value.kind == "hard_sigmoid" for value in spec.arguments().values())


def _slope(block: Block, name: str, look: Mapping[str, Measured]) -> NDArray:
    """The derivative after one parameter; after a running statistic, from those after scale and offset of its norm."""
    if not is_statistic(name):
        return look[f"grad.{name}"].value
    path, _, leaf = name.rpartition(".")
    scale, variance = (block.tensors[f"{path}.{leaf}"].astype(np.float64) for leaf in ("scale", "variance"))
    (norm,) = (value for value in block.spec.arguments().values() if isinstance(value, BatchNorm))
    with np.errstate(invalid="ignore"):  # of a negative variance
        rate = (variance + norm.epsilon) ** -0.5
    if leaf == "mean":
        return scale * rate * look[f"grad.{path}.offset"].value
    return scale * rate**2 / 2 * look[f"grad.{path}.scale"].value


def _shown(slope: NDArray) -> NDArray:
    """How much each part of a parameter moves the output."""
    if slope.size <= SMALL or slope.ndim < 2:
        return np.abs(slope)
    squares = np.square(slope)
    return np.sqrt(np.concatenate([squares.sum(tuple(a for a in range(slope.ndim) if a != axis)) for axis in (0, 1)]))


def _step(value: NDArray) -> float:
    size = float(np.sqrt(np.square(value.astype(np.float64)).mean()))
    return STEP * (size or 1.0)


def _distance(other: Block, x: NDArray, output: Measured) -> float:
    with np.errstate(invalid="ignore"):  # of a variance that is none
        got = oracle.evaluate(other.spec, other.tensors, x)["output"].value
        if got.shape != output.value.shape:  # which shows at once
            return math.inf
        return float(np.nan_to_num(np.abs(got - output.value), nan=np.inf).max(initial=0))


def _seed(block: Block) -> int:
    return zlib.crc32(json.dumps([block.spec.to_json(), list(block.tensors)], sort_keys=True).encode())


def _draw(block: Block, attempt: int) -> NDArray:
    """Channels of different means, along every axis a slope of each channel's own, and noise; in float32."""
    samples, channels, *sizes = _shape(block)
    rng = np.random.default_rng([_seed(block), attempt])
    flat = (1,) * len(sizes)
    # The second sample leans the other way, so that a hidden unit that is dead in one lives in the other; the third
    # goes far out, where hard gates have their corners.
    centre = rng.normal(size=(1, channels, *flat)) * np.array([1.0, -1.25, 0.0])[:samples].reshape(-1, 1, *flat)
    far = 12 if _is_hard(block.spec) and attempt % 3 == 0 else 3
    centre[2:] = far * rng.normal(size=(max(samples - 2, 0), channels, *flat))
    # What all channels share is what their mean at each position keeps.
    spread = rng.normal(size=(samples, 1, *sizes)) + 0.5 * rng.normal(size=(samples, channels, *sizes))
    for axis, size in enumerate(sizes):
        ramp = np.linspace(-1, 1, size).reshape([-1 if axis == other else 1 for other in range(len(sizes))])
        spread = spread + ramp * rng.normal(size=(samples, channels, *flat))
    # Where maxima are far above their means, a unit that weighs maxima negatively never lives: half the draws are flat.
    x = centre + spread * (1.0, 0.25)[attempt % 2]
    return x.astype(np.float32).astype(np.float64)


def _waker(block: Block) -> Callable[[NDArray], NDArray]:
    """A function that shifts each channel of an input's first sample so that no hidden unit is dead there.

    What a dead unit does shows nowhere; of a wide block, some are dead in every sample that is drawn by chance. A shift
    of a whole channel moves its mean and its maximum alike.
    """
    path = next((name.removesuffix("kernel") for name in block.tensors if name.endswith("fc1.kernel")), None)
    kernel = None if path is None else block.tensors[f"{path}kernel"].astype(np.float64)
    if kernel is None or kernel.shape[1] != block.spec.channels:  # of a squeeze that gives more than one number
        return lambda x: x
    inverse, bias = np.linalg.pinv(kernel), block.tensors.get(f"{path}bias", 0)

    def awake(x: NDArray) -> NDArray:
        hidden = kernel @ x[0].mean(tuple(range(1, x.ndim - 1))) + bias
        usual = np.median(np.abs(hidden))
        lit = np.maximum(np.abs(hidden), usual / 4)
        # A unit that its bias has shut for good would drag the input far away from all others.
        wanted = np.where(lit < REACH * usual, lit, hidden)
        shift = (inverse @ (wanted - hidden)).reshape(-1, *[1] * (x.ndim - 2))
        return np.concatenate([x[:1] + shift, x[1:]]).astype(np.float32).astype(np.float64)

    return awake


def _shape(block: Block) -> tuple[int, ...]:
    dims, shapes = block.spec.spatial_dims, block.spec.parameters().values()
    taps = max((shape[-1] for shape in shapes if len(shape) > 2), default=0)
    channels = block.spec.channels or max(12, 2 * taps + 1)
    kernel = max((shape[-1] for shape in shapes if len(shape) == dims + 2), default=0)
    layouts = [layout(kernel) for layout in LAYOUTS_WITH_KERNEL] if kernel > 1 else list(LAYOUTS)
    for samples, smallest in layouts:
        # A lone axis of size 1 would be no axis.
        free = (size for size in range(max(smallest, 3 - dims), 99 + kernel) if size not in (samples, channels))
        shape = (samples, channels, *(next(free) for _ in range(dims)))
        if math.prod(shape) <= BUDGET:
            break
    return shape


# --------------------------------------------------------------------------------------------------------------------
# The output

# A function of an input in float64 that gives the input as it was fed, the output, and who computed it.
_Run = Callable[[Block, NDArray], tuple[NDArray, NDArray, str]]


def _probe(block: Block, run: _Run, computed_by: str | None) -> Probe:
    x, output, source = run(block, probe_input(block, "float64"))
    shape = block.spec.output_shape(x.shape, "channels_first")
    if output.shape != shape or str(output.dtype) not in EPSILON:
        raise InputError(
            f"the source of block {block.name!r}, {source}, gave {output.dtype} of shape {output.shape} for a probe "
            f"of shape {x.shape}",
            f"{' or '.join(EPSILON)} of shape {shape}",
            "name the block itself in the mapping; a model in half precision cannot prove much: convert it first",
        )
    if not np.isfinite(output).all():
        raise InputError(f"the source of block {block.name!r}, {source}, gave numbers that are not finite")
    return Probe(x, output, computed_by or source)


def _runs(blocks: Sequence[Block], source: Any) -> dict[str, _Run]:
    """For each block, by its name, what computes its output."""
    names = [block.name for block in blocks]
    if source is None:
        return dict.fromkeys(names, _by_oracle)
    if isinstance(source, Mapping):
        missing = [name for name in names if name not in source]
        unexpected = [name for name in source if name not in names]
        if missing or unexpected:
            kind: type[ParityError] = MissingTensorError if missing else UnexpectedTensorError
            raise kind(
                f"received sources for {', '.join(map(repr, source))}", f"one for each of {', '.join(map(repr, names))}"
            )
        return {block.name: _runs([block], source[block.name])[block.name] for block in blocks}
    adapter = adapter_of(source)
    if adapter is not None:
        found = _parts(source)
        return {block.name: _run_of(adapter, source, found, block, len(blocks) == 1) for block in blocks}
    if callable(source) and len(blocks) == 1:
        return {names[0]: _by_function(source)}
    raise InputError(
        f"received a {type(source).__module__}.{type(source).__qualname__} as the source of {len(blocks)} blocks",
        "a torch module, a Keras model or layer, a tf.compat.v1 session, or a mapping of each block's name to one of "
        "these or to a function",
    )


def _run_of(adapter: Adapter, source: Any, found: Mapping[str, Any], block: Block, alone: bool) -> _Run:
    """What computes `block`: the part of its name, else the source itself or the values in it, run by a worker."""
    part = found.get(plain_name(block.name))
    if part is None:
        live = {plain_name(name) for name in adapter.find_blocks(source, {block.name: block.spec})}
        if plain_name(block.name) in live:
            return _by_worker(adapter, source)
        part = source if alone and callable(source) else None
    if part is None:
        raise MissingTensorError(
            f"received a {type(source).__qualname__} in which nothing is named {block.name!r}",
            "a module, layer or scope for each block",
            "pass a mapping of the blocks' names to modules, layers or functions",
        )
    return _by_torch(part) if not _is_keras(part) else _by_keras(part)


def _is_keras(part: Any) -> bool:
    return "keras" in sys.modules and isinstance(part, sys.modules["keras"].layers.Layer)


def _parts(source: Any) -> dict[str, Any]:
    """Every module or layer of a live model by its path, "." and "/" written as "_"; those of a session are none."""
    if not _is_keras(source):
        named = source.named_modules() if hasattr(source, "named_modules") else ()
        return {plain_name(name): module for name, module in named}
    found: dict[str, Any] = {}
    rest: list[tuple[str, Any]] = [("", source)]
    while rest:
        path, layer = rest.pop()
        if found.setdefault(plain_name(path), layer) is layer:
            inner = getattr(layer, "layers", None) or layer._flatten_layers(include_self=False, recursive=False)
            rest += [(f"{path}/{child.name}" if path else child.name, child) for child in inner]
    return found


def _by_oracle(block: Block, x: NDArray) -> tuple[NDArray, NDArray, str]:
    return x, oracle.evaluate(block.spec, block.tensors, x)["output"].value, "oracle"


def _by_function(function: Callable[[NDArray], Any]) -> _Run:
    def run(block: Block, x: NDArray) -> tuple[NDArray, NDArray, str]:
        wide = any(value.dtype == np.float64 for value in block.tensors.values())
        x = x.astype(np.float64 if wide else np.float32)
        name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
        return x, np.array(_tried(block, name, lambda: function(x.copy()))), name

    return run


def _by_torch(module: Any) -> _Run:
    import torch

    name = f"{type(module).__module__}.{type(module).__qualname__} in torch {torch.__version__}"

    def forward(x: NDArray) -> tuple[NDArray, NDArray]:
        held = [value for value in (*module.parameters(), *module.buffers()) if value.is_floating_point()]
        dtype, device = (held[0].dtype, held[0].device) if held else (torch.float32, torch.device("cpu"))
        source = torch.tensor(x, dtype=dtype, device=device)
        modes = {part: part.training for part in module.modules()}
        try:
            module.eval()
            with torch.no_grad():
                output = module(source)
        finally:
            for part, mode in modes.items():
                part.training = mode
        return x.astype(_numpy_dtype(dtype)), _numpy(output)

    return lambda block, x: (*_tried(block, name, lambda: forward(x)), name)


def _numpy(value: Any) -> NDArray:
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy().copy()


def _numpy_dtype(dtype: Any) -> str:
    """NumPy's name of a torch dtype; a probe in half precision is refused anyhow."""
    name = str(dtype).removeprefix("torch.")
    if name not in EPSILON:
        raise InputError(f"received a source in {name}", " or ".join(EPSILON), "convert it first: model.float()")
    return name


def _by_keras(layer: Any) -> _Run:
    import inspect

    import keras

    engine = keras.backend.backend()
    version = getattr(sys.modules.get(engine), "__version__", "")
    name = f"{type(layer).__module__}.{type(layer).__qualname__} in keras {keras.__version__} on {engine} {version}"

    def forward(block: Block, x: NDArray) -> tuple[NDArray, NDArray]:
        if not layer.built:
            raise InputError(f"received layer {layer.name!r}, which is not built", "a layer that holds the weights")
        fed = x.astype(_numpy_dtype(layer.compute_dtype))
        last = _data_format(layer, block.spec.channels) == "channels_last"
        given = keras.ops.convert_to_tensor(np.ascontiguousarray(np.moveaxis(fed, 1, -1)) if last else fed)
        options = {"training": False} if "training" in inspect.signature(layer.call).parameters else {}
        output = keras.ops.convert_to_numpy(keras.ops.stop_gradient(layer(given, **options)))
        return fed, np.ascontiguousarray(np.moveaxis(output, -1, 1)) if last else np.array(output)

    return lambda block, x: (*_tried(block, name, lambda: forward(block, x)), name)


def _data_format(layer: Any, channels: int | None) -> str:
    """The layout that a layer or model takes: what its input or it says, else what its parts say, else the default."""
    import keras

    shape = getattr(layer, "input_shape", None) if isinstance(layer, keras.Model) else None
    if isinstance(shape, tuple) and len(shape) > 2 and [shape[1], shape[-1]].count(channels) == 1:
        return "channels_first" if shape[1] == channels else "channels_last"
    said = [getattr(part, "data_format", None) for part in layer._flatten_layers()]
    return next((text for text in said if text), keras.config.image_data_format())


def _by_worker(adapter: Adapter, model: Any) -> _Run:
    """For blocks that are no module or layer of their own: the values in the model, run by its backend's worker."""

    def run(block: Block, x: NDArray) -> tuple[NDArray, NDArray, str]:
        blocks = {plain_name(live.name): live for live in blocks_of(model, {block.name: block.spec})}
        live = blocks[plain_name(block.name)]
        dtype = "float64" if all(value.dtype == np.float64 for value in live.tensors.values()) else "float32"
        backend = backend_of(adapter)
        output = client.evaluate(live, x, backend=backend, dtype=dtype)["output"]
        about = adapter.describe()
        return x.astype(dtype), output, f"a live model's weights under their spec, run by {backend} in {_about(about)}"

    return run


def _about(description: Mapping[str, Any]) -> str:
    text = f"{description['framework']} {description['version']}"
    return f"{text} on {description['engine']} {description['engine_version']}" if "engine" in description else text


def backend_of(adapter: Any) -> str:
    """The id of the backend whose adapter this is, on the engine that runs in this process."""
    engine = adapter.describe().get("engine")
    for backend in BACKENDS.values():
        if f"{backend.package}.adapter" == adapter.__name__ and backend.environment.get("KERAS_BACKEND") == engine:
            return backend.id
    raise BackendMissingError(f"received a model of {_about(adapter.describe())}", f"of one of {', '.join(BACKENDS)}")


def _tried(block: Block, name: str, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except ParityError:
        raise
    except Exception as error:  # whatever the source's framework raises
        raise InputError(
            f"the source of block {block.name!r}, {name}, fails on its probe ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]})",
            "one that takes maps of any spatial size",
            "pass a mapping of the blocks' names to modules, layers or functions that do",
        ) from error
