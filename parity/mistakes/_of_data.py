"""The first half of the table: the right computation of the wrong things - fields, weights, layouts.

A mistake names fields and parameters by their canonical names, not blocks: a new block has its mistakes for free.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from parity.mistakes import _computations as wrong
from parity.mistakes._kinds import (
    either,
    field,
    instead,
    layers,
    layout,
    leaves,
    norm_field,
    only,
    projections,
    tensor,
    tensor_values,
    whole,
)
from parity.mistakes._mistake import Mistake, leaf, several, trains
from parity.mistakes._variation import Setting
from parity.spec import ACTIVATIONS, AXIS_NAMES, Gate
from parity.spec.cbam import SPATIAL_SOURCES
from parity.spec.eca import PADDINGS
from parity.spec.scse import MERGES

HARD = tuple(Gate("hard_sigmoid", slope) for slope in (1 / 6, 0.2, 0.5))
EPSILONS = (1e-5, 1e-3)  # of PyTorch, of Keras and TensorFlow


def dense(name: str, value: NDArray, setting: Setting) -> bool:
    """Kernels of dense layers."""
    return name.endswith("kernel") and value.ndim == 2


def square(name: str, value: NDArray, setting: Setting) -> bool:
    """Those of them that fit transposed too."""
    return dense(name, value, setting) and value.shape[0] == value.shape[1]


def windowed(name: str, value: NDArray, setting: Setting) -> bool:
    """Kernels of convolutions."""
    return name.endswith("kernel") and value.ndim > 2


def _spatial(value: NDArray) -> tuple[int, ...]:
    return tuple(range(2, value.ndim))


def _half_turned(value: NDArray) -> NDArray:
    return np.roll(value, value.shape[1] // 2, 1)


def _reshaped(value: NDArray) -> NDArray:
    """What TensorFlow's layout, (*s, in, out), gives when it is reshaped to ours."""
    return np.moveaxis(value, (0, 1), (-1, -2)).reshape(value.shape)


def _shifted(value: NDArray) -> NDArray:
    """One tap further along the last axis, with a zero behind it."""
    return np.pad(value, [(0, 0)] * (value.ndim - 1) + [(1, 0)])[..., :-1]


def _off(value: NDArray) -> NDArray:
    """The middle element off by a quarter of the root mean square."""
    changed = value.copy()
    changed.flat[value.size // 2] += 0.25 * (np.sqrt(np.square(value).mean()) or 1.0)
    return changed


def _read_as_first(x: NDArray) -> NDArray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)).reshape(x.shape)


def _read_as_last(y: NDArray) -> NDArray:
    n, c, *sizes = y.shape
    return np.moveaxis(np.ascontiguousarray(y).reshape(n, *sizes, c), -1, 1)


def _swapped(x: NDArray) -> NDArray:
    return x.swapaxes(-1, -2)


def _has_space(setting: Setting) -> bool:
    """Whether height and width are the last axes of the output too."""
    shape = (*setting.input_shape[:-2], 101, 103)  # sizes that no other axis has
    return len(setting.output_shape(shape)) == len(shape) or setting.output_shape(shape)[-2:] == shape[-2:]


def _may_add(setting: Setting) -> bool:
    """Whether the input can be added to the output, and no field says whether it is."""
    return "residual" not in setting.spec.arguments() and setting.output_shape() == setting.input_shape


OF_DATA: tuple[Mistake, ...] = (
    # Fields: the same weights taken for another function
    Mistake(
        "hard-sigmoid-slope",
        "a hard sigmoid of another slope: 1/6, 0.2 and 0.5 have one name",
        "tensorflow/tensorflow#65381, PaddlePaddle/Paddle#44820, mmcv before 1.4.4",
        field("gate", lambda gate: HARD if gate.kind == "hard_sigmoid" else ()),
        is_reading=True,
    ),
    Mistake(
        "sigmoid-for-hard-sigmoid",
        "a sigmoid where a hard one was trained",
        "keras-team/keras-cv#1756",
        field("gate", lambda gate: (Gate(),) if gate.kind == "hard_sigmoid" else ()),
        is_reading=True,
    ),
    Mistake(
        "hard-sigmoid-for-sigmoid",
        "a hard sigmoid, of any slope, where a sigmoid was trained",
        "timm and torchvision: the same keys, either gate",
        field("gate", lambda gate: HARD if gate.kind == "sigmoid" else ()),
        is_reading=True,
    ),
    Mistake(
        "gate-missing",
        "no gate on the logits",
        "changzy00's coordinate attention; Peachypie98/CBAM#2",
        either(
            field("gate", lambda gate: (Gate("identity"),)),
            only(several("gate"), instead("gate", "left out", wrong.nothing)),
        ),
        is_reading=True,
    ),
    Mistake(
        "gate-added",
        "a gate where the logits themselves are meant",
        "houqb/CoordAttention against changzy00",
        field("gate", lambda gate: (Gate(), *HARD) if gate.kind == "identity" else ()),
        is_reading=True,
    ),
    Mistake(
        "activation",
        "another activation, or none, in the hidden layer",
        "the EfficientNet family: ReLU or SiLU by configuration alone",
        field("activation", lambda now: ACTIVATIONS),
        is_reading=True,
    ),
    Mistake(
        "padding",
        "the channels' border circular instead of zeros, or back",
        "timm's EcaModule and CecaModule: the same keys",
        field("padding", lambda now: PADDINGS),
        is_reading=True,
    ),
    Mistake(
        "merge",
        "the sum of the channels' and the positions' maps in place of their maximum, or back",
        "segmentation_models_pytorch against ai-med/squeeze_and_excitation",
        field("merge", lambda now: MERGES),
        is_reading=True,
    ),
    Mistake(
        "spatial-source",
        "the spatial gate taken from the raw input instead of the refined map, or back",
        "the TensorFlow 1 tutorial's cbam_module",
        field("spatial_source", lambda now: SPATIAL_SOURCES),
        is_reading=True,
    ),
    Mistake(
        "axis",
        "another axis pooled away: where sizes are equal, no shape can tell",
        "dim=2 of (N, C, D, H, W), which is the height of (N, D, H, W, C)",
        field("axis", lambda now: AXIS_NAMES[max(AXIS_NAMES)]),
        is_reading=True,
    ),
    Mistake(
        "residual",
        "the residual connection added, or left out",
        "fightingcv's CBAM; kobiso/CBAM-tensorflow#2",
        either(
            field("residual", lambda now: (not now,)),
            whole("residual added", wrong.with_input, _may_add),
        ),
        is_reading=True,
    ),
    Mistake(
        "epsilon",
        "the norm's epsilon of the other framework: 1e-3 for 1e-5, or back",
        "gzuidhof/nn-transfer#3",
        norm_field("epsilon", lambda now: EPSILONS),
        is_reading=True,
    ),
    Mistake(
        "epsilon-left-out",
        "no epsilon in the norm",
        "hand-written norms",
        norm_field("epsilon", lambda now: (1e-15,)),
    ),
    Mistake(
        "momentum-inverted",
        "the norm's momentum taken as the weight of the old statistics instead of the new, or back",
        "lukemelas/EfficientNet-PyTorch#8, gmalivenko/pytorch2keras#70",
        only(trains, norm_field("update_rate", lambda rate: (1 - rate,))),
    ),
    Mistake(
        "momentum-default",
        "the norm's momentum of another framework's default",
        "0.1 in PyTorch, 0.01 in Keras and TensorFlow",
        only(trains, norm_field("update_rate", lambda rate: (0.1, 0.01))),
    ),
    Mistake(
        "variance-estimator",
        "the running variance over n instead of n - 1, or back",
        "keras-team/keras#9028, tensorflow/tensorflow#55545, pytorch/pytorch#1410",
        only(trains, norm_field("unbiased_variance", lambda now: (not now,))),
    ),
    Mistake(
        "heads",
        "another number of heads",
        "nn.MultiheadAttention: no shape tells it",
        field("num_heads", lambda now: (1, 2, 3, 4, 8)),
        is_reading=True,
    ),
    Mistake(
        "rescaling",
        "another affine map behind the block, or none",
        "the ECA tutorial's constants gamma=2 and b=1",
        either(field("scale", lambda now: (1.0, -now)), field("offset", lambda now: (0.0, -now))),
        is_reading=True,
    ),
    # Weights: the right function of the wrong numbers
    Mistake(
        "kernel-transposed",
        "a square kernel left transposed: no shape can tell",
        "zsef123/EfficientNets-PyTorch#4; any SE with reduction 1",
        tensor("transposed", square, lambda value: value.T),
        is_reading=True,
    ),
    Mistake(
        "kernel-reshaped",
        "a kernel reshaped instead of transposed",
        "transformers' apply_transpose, tfimm",
        tensor("reshaped instead of transposed", lambda *given: dense(*given) or windowed(*given), _reshaped),
    ),
    Mistake(
        "kernel-axes-reversed",
        "a spatial kernel with its axes reversed",
        "a full transpose in place of (2, 3, 1, 0)",
        tensor(
            "with its spatial axes reversed",
            windowed,
            lambda value: value.transpose(0, 1, *reversed(_spatial(value))),
        ),
        is_reading=True,
    ),
    Mistake(
        "planes-exchanged",
        "the mean's plane of the spatial kernel applied to the maximum",
        "timm's CBAM against Jongchan/attention-module's",
        tensor(
            "with its two planes exchanged",
            lambda name, value, setting: windowed(name, value, setting) and value.shape[1] == 2,
            lambda value: value[:, ::-1],
        ),
        is_reading=True,
    ),
    Mistake(
        "halves-exchanged",
        "the mean's half of the first layer applied to the maximum",
        "the TensorFlow layers tutorial: concatenated descriptors",
        tensor(
            "with its two halves exchanged",
            lambda name, value, setting: (
                dense(name, value, setting) and value.shape[1] == 2 * (setting.spec.channels or 0)
            ),
            _half_turned,
        ),
        is_reading=True,
    ),
    Mistake(
        "kernel-flipped",
        "a convolution's kernel back to front",
        "scipy and true convolution against cross-correlation",
        tensor("flipped", windowed, lambda value: np.flip(value, _spatial(value))),
        is_reading=True,
    ),
    Mistake(
        "kernel-shifted",
        "a kernel shifted by a tap",
        "padding (k - 1) // 2 of a kernel that grew by one",
        tensor("shifted by a tap", windowed, _shifted),
    ),
    Mistake(
        "layers-exchanged",
        "two layers of the same shapes with each other's weights: coordinate attention's heads",
        "bubbliiiing's F_h and F_w",
        layers,
        is_reading=True,
    ),
    Mistake(
        "projections-rotated",
        "query, key and value, each with the weights of the next",
        "packed weights read in another order",
        projections,
        is_reading=True,
    ),
    Mistake(
        "scale-offset-exchanged",
        "gamma loaded as beta",
        "Keras' weight lists are by position",
        leaves("scale", "offset"),
        is_reading=True,
    ),
    Mistake(
        "mean-variance-exchanged",
        "the running mean loaded as the variance",
        "Keras' weight lists are by position",
        leaves("mean", "variance"),
    ),
    Mistake(
        "deviation-as-variance",
        "a standard deviation loaded as the variance, or back",
        "Lua Torch's running_std",
        either(
            tensor_values("taken for a deviation: squared", leaf("variance"), np.square),
            tensor_values("taken by its root", leaf("variance"), np.sqrt),
        ),
    ),
    Mistake(
        "statistics-not-loaded",
        "running statistics left at 0 and 1",
        "get_parameters() of a module without its buffers",
        either(
            tensor("left at 0", leaf("mean"), np.zeros_like),
            tensor_values("left at 1", leaf("variance"), np.ones_like, np.zeros_like),
        ),
    ),
    Mistake(
        "affine-not-loaded",
        "scale or offset of the norm left at 1 and 0",
        "slim's batch norm without gamma",
        either(
            tensor("left at 0", leaf("offset"), np.zeros_like),
            tensor_values("left at 1", leaf("scale"), np.ones_like, np.zeros_like),
        ),
    ),
    Mistake(
        "epsilon-folded",
        "the difference of two epsilons folded into the variance",
        "gzuidhof/nn-transfer",
        tensor_values("less 0.00099", leaf("variance"), lambda value: value - (EPSILONS[1] - EPSILONS[0])),
    ),
    Mistake(
        "bias-dropped",
        "a bias that is not used",
        "moskomule/senet.pytorch#44, titu1994/keras-squeeze-excite-network#5",
        tensor("dropped", leaf("bias"), np.zeros_like),
    ),
    Mistake(
        "half-weights",
        "weights that went through half precision",
        "checkpoints saved as float16 or bfloat16",
        only(
            lambda setting: str(setting.x.dtype) in ("float64", "float32"),
            either(
                tensor_values("through float16", leaf("kernel"), lambda v: v.astype(np.float16).astype(np.float64)),
                tensor_values(
                    "through bfloat16", leaf("kernel"), lambda v: v.astype(ml_dtypes.bfloat16).astype(np.float64)
                ),
            ),
        ),
    ),
    Mistake(
        "wrong-element",
        "one wrong element in one tensor",
        "a write that was cut short, a flipped bit",
        tensor_values("with one wrong element", lambda *given: True, _off),
    ),
    # Layouts
    Mistake(
        "last-as-first",
        "a channels-last map read as channels-first",
        "JanMarcelKezmann/TensorFlow-Advanced-Segmentation-Models#23, kobiso/CBAM-keras#7",
        layout("channels-last memory read as channels-first", _read_as_first, _read_as_last),
    ),
    Mistake(
        "space-exchanged",
        "height and width exchanged",
        "images as (W, H), arrays as (H, W)",
        layout("height and width exchanged", _swapped, _swapped, ranks=(2, 3), remains=_has_space),
    ),
    Mistake(
        "channels-reversed",
        "channels in the opposite order",
        "BGR for RGB",
        layout("channels reversed", lambda x: x[:, ::-1], lambda y: y[:, ::-1]),
    ),
)
