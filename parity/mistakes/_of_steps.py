"""The second half of the table: another computation of the right things - pooling, gates, norms, gradients, rounding.

A mistake names steps (`parity.oracle._steps`), not blocks: a new block that is made of them has its mistakes for free.
"""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from parity.mistakes import _computations as wrong
from parity.mistakes._kinds import either, gradients, instead, only
from parity.mistakes._mistake import Mistake, leaf, trains
from parity.mistakes._variation import Setting, Variation
from parity.oracle._steps import Replacement
from parity.spec import AXIS_NAMES
from parity.spec._self_attention import PARTS


def _has_heads(setting: Setting) -> bool:
    """Whether several heads share the channels."""
    return setting.spec.arguments().get("num_heads", 1) > 1


def _has_wide_heads(setting: Setting) -> bool:
    """Whether a head has several channels."""
    heads, widths = (
        setting.spec.arguments().get("num_heads"),
        [len(setting.tensors[name]) for name in setting.tensors if name.endswith("query.kernel")],
    )
    return heads is not None and any(width > heads for width in widths)


def _has_zeros(path: str, setting: Setting) -> bool:
    """Whether there are zeros before the first position, of which one can stand behind the last."""
    return setting.spec.arguments().get("padding") not in (None, 0, "valid")


def _infers(setting: Setting) -> bool:
    return not setting.training


def _over_the_map(path: str, setting: Setting) -> bool:
    """Poolings over all of space: not over channels, not over all axes but one, and not over maps that are merged."""
    return path not in ("spatial", "merge", *AXIS_NAMES[3])


def _merging(path: str, setting: Setting) -> bool:
    """Where an MLP sees more than one descriptor, one at a time."""
    return setting.spec.arguments().get("channel_merge") == "add"


def _several_maps(path: str, setting: Setting) -> bool:
    return len(setting.taken.get("gate", ())) > len(setting.taken["attend"])


def _batch(setting: Setting) -> int:
    return setting.x.shape[0]


def _averaged_gradients(setting: Setting) -> Iterator[Variation]:
    size = setting.x.shape[0]
    if size > 1:
        change = gradients("divided by the batch's size", leaf("kernel", "bias", "scale", "offset"), lambda g: g / size)
        yield from list(change(setting))[-1:]


def _single_precision(setting: Setting) -> Iterator[Variation]:
    for dtype, name in ((np.float32, "float32"), (np.float16, "float16"), (ml_dtypes.bfloat16, "bfloat16")):
        if dtype is not np.float32 or setting.x.dtype == np.float64:
            made = wrong.rounding(dtype)
            steps = tuple(
                Replacement(step, made) for step in ("mean", "dense", "pointwise", "gate", "softmax", "convolution")
            )
            yield Variation(f"{name} inside", steps=steps)


OF_STEPS: tuple[Mistake, ...] = (
    # Pooling
    Mistake(
        "sum-for-mean",
        "a sum in place of a mean",
        "a count that was lost with a reshape",
        instead("mean", "as a sum", wrong.summed),
    ),
    Mistake(
        "maximum-for-mean",
        "a maximum in place of a mean",
        "bubbliiiing's TensorFlow coordinate attention",
        instead("mean", "as a maximum", lambda mean, x, axes, *path: x.max(axes)),
    ),
    Mistake(
        "mean-for-maximum",
        "a mean in place of a maximum",
        "xmu-xiaoma666/External-Attention-pytorch#9",
        instead("maximum", "as a mean", lambda maximum, x, axes, *path: x.mean(axes)),
    ),
    Mistake(
        "average-twice",
        "the average's pass used for the maximum too",
        "MenghaoGuo/Awesome-Vision-Attentions#32, nikhilroxtomar/Attention-Mechanism-Implementation#1",
        either(
            instead("excite", "of the mean twice", wrong.first_twice, _merging),
            instead(
                "joined",
                "of the mean twice",
                wrong.first_repeated,
                lambda path, setting: path in ("channel", "spatial"),
            ),
        ),
    ),
    Mistake(
        "maximum-from-zero",
        "a maximum that starts at 0",
        "max pooling with zero padding",
        instead("maximum", "started at 0", wrong.of_relu),
    ),
    Mistake(
        "maximum-of-magnitudes",
        "a maximum of absolute values",
        "an infinity norm for a maximum",
        instead("maximum", "of absolute values", wrong.of_magnitudes),
    ),
    Mistake(
        "tie-gradient",
        "the gradient of tied maxima sent to one of them",
        "adaptive and global max pooling in PyTorch; amax and reduce_max share",
        instead("maximum", "with the gradient of ties sent to the first", wrong.first_winner),
    ),
    Mistake(
        "batch-mixed",
        "pooled over the samples too",
        "DavidLandup0/deepvision#50",
        only(lambda setting: _batch(setting) > 1, instead("mean", "over the batch too", wrong.over_the_batch)),
    ),
    Mistake(
        "square-pooling",
        "a map pooled with a square kernel of its first side",
        "Jongchan/attention-module's BAM, deepvision",
        only(
            lambda setting: setting.spec.spatial_dims > 1,
            either(
                instead("mean", "over a square alone", wrong.over_a_square, _over_the_map),
                instead("maximum", "over a square alone", wrong.over_a_square, _over_the_map),
            ),
        ),
    ),
    # Softmax and weighted sum
    Mistake(
        "softmax-axis",
        "a softmax along another axis",
        "nn.Softmax() without dim; axis=-1 on channels-first maps",
        either(
            instead("softmax", "along the axis before its own", wrong.beside(-1)),
            instead("softmax", "along the axis behind its own", wrong.beside(1)),
        ),
    ),
    Mistake(
        "softmax-everywhere",
        "one softmax over all positions",
        "a map that is flattened before its softmax",
        instead("softmax", "over all positions", wrong.everywhere),
    ),
    Mistake(
        "softmax-missing",
        "the scores themselves for weights",
        "a softmax in the loss alone",
        instead("softmax", "left out", wrong.nothing),
    ),
    Mistake(
        "softmax-twice",
        "the softmax applied twice",
        "activation='softmax' of a layer, and a softmax behind it",
        instead("softmax", "applied twice", wrong.softmax_twice),
    ),
    Mistake(
        "softmax-unnormalized",
        "exponentials that are not divided by their sum",
        "a softmax by hand",
        instead("softmax", "without its sum", wrong.unnormalized),
    ),
    Mistake(
        "softmax-logarithm",
        "the logarithm of the softmax for weights",
        "log_softmax, because the loss takes it",
        instead("softmax", "as its logarithm", wrong.log_softmax),
    ),
    Mistake(
        "softmax-sigmoid",
        "a sigmoid of each score in place of the softmax",
        "gated attention pooling",
        instead("softmax", "as a sigmoid", wrong.sigmoids),
    ),
    Mistake(
        "softmax-uniform",
        "the same weight for every position",
        "average pooling; scores that nobody uses",
        instead("softmax", "as a plain mean", wrong.uniform),
    ),
    Mistake(
        "softmax-largest",
        "all weight on the largest score",
        "hard attention by argmax",
        instead("softmax", "as its largest alone", wrong.winner_alone),
    ),
    Mistake(
        "mean-for-sum",
        "a mean of what was weighed in place of its sum",
        "global average pooling behind a softmax, whose weights divide already",
        instead("summed", "as a mean", wrong.averaged_sum),
    ),
    Mistake(
        "maximum-for-sum",
        "a maximum of what was weighed in place of its sum",
        "global max pooling behind an attention map",
        instead("summed", "as a maximum", wrong.largest_of_sum),
    ),
    # The two layers
    Mistake(
        "unshared-layers",
        "two MLPs where one is shared",
        "Peachypie98/CBAM#3, arp95/cbam_cnn_architectures_image_classification#1",
        either(
            instead("excite", "with layers of its own for the maximum", wrong.unshared, _merging),
            instead("excite", "with a copy of its layers for the maximum", wrong.copied, _merging),
        ),
    ),
    Mistake(
        "merge-before-layers",
        "the descriptors added before the MLP",
        "one pass is cheaper",
        instead("excite", "behind the sum", wrong.merged_first, _merging),
    ),
    Mistake(
        "half-sums",
        "half the mean and half the maximum before the MLP",
        "timm's LightCbam",
        instead("excite", "behind half the sum", wrong.half_sums, _merging),
    ),
    Mistake(
        "passes-averaged",
        "the mean of the two passes in place of their sum",
        "keras.layers.Average for Add",
        instead("excite", "with its passes averaged", wrong.averaged, _merging),
    ),
    Mistake(
        "passes-maximum",
        "the larger of the two passes in place of their sum",
        "ai-med/squeeze_and_excitation#3",
        instead("excite", "with the larger of its passes", wrong.larger, _merging),
    ),
    Mistake(
        "maximum-before-relu",
        "the hidden layers merged by a maximum before the ReLU",
        "user forks of CBAM",
        instead("excite", "merged by a maximum before its activation", wrong.larger_before_relu, _merging),
    ),
    Mistake(
        "activation-behind",
        "an activation behind the second layer too",
        "Sequential blocks that end in ReLU",
        instead("excite", "with an activation behind it", wrong.activated),
    ),
    # Gates and what becomes of them
    Mistake(
        "gate-twice",
        "the gate applied twice",
        "a layer's own activation and one of its caller",
        instead("gate", "applied twice", wrong.twice),
    ),
    Mistake("gate-softmax", "a softmax in place of the gate", "SKNet", instead("gate", "as a softmax", wrong.softmax)),
    Mistake("gate-relu", "a ReLU in place of the gate", "MONAI's ResidualSE", instead("gate", "as a ReLU", wrong.relu)),
    Mistake("gate-tanh", "1 + tanh in place of the gate", "GCT", instead("gate", "as 1 + tanh", wrong.one_plus_tanh)),
    Mistake(
        "gate-unclipped",
        "a hard sigmoid without its ends",
        "quantized exports",
        instead(
            "gate",
            "without its ends",
            wrong.unclipped,
            lambda path, setting: setting.spec.arguments()["gate"].kind == "hard_sigmoid",
        ),
    ),
    Mistake("gate-per-branch", "a gate on each pass before the sum", "user forks of CBAM", wrong.gated_passes),
    Mistake(
        "gates-added",
        "one gate of the sum of the axes' logits in place of the product of their gates",
        "timm's SimpleCoordAttn",
        wrong.additive,
    ),
    Mistake(
        "gates-merged",
        "the larger of two gates multiplied, in place of the larger of two products",
        "one product less, and the same where no input is negative",
        wrong.larger_gate,
    ),
    Mistake(
        "maps-added",
        "the sum of the axes' gates in place of their product",
        "forks of coordinate attention",
        instead("attend", "of the sum of the gates", wrong.summed_maps, _several_maps),
    ),
    Mistake(
        "sum-for-product",
        "x + s in place of x * s",
        "a figure's arrow read as an addition",
        instead("attend", "as a sum", wrong.added),
    ),
    Mistake(
        "product-twice",
        "the gate multiplied twice",
        "a gate that multiplies, called by a block that multiplies",
        instead("attend", "taken twice", wrong.again),
    ),
    Mistake(
        "one-more",
        "x * (1 + s) in place of x * s",
        "BAM, residual attention",
        instead("attend", "with 1 + the gate", wrong.one_more),
    ),
    Mistake(
        "mask-alone",
        "the mask returned without the map",
        "Jongchan/attention-module's gates against its modules",
        instead("attend", "without the map", wrong.alone),
    ),
    # Concatenation and borders
    Mistake(
        "concatenation-order",
        "parts concatenated in the opposite order",
        "bubbliiiing's TensorFlow coordinate attention: width, then height",
        instead("joined", "in the opposite order", wrong.backwards),
    ),
    Mistake(
        "padding-mode",
        "a border of repeated or mirrored values, or a circular one",
        "padding_mode= of nn.Conv2d",
        either(
            instead("padded", "of repeated values", wrong.filled("edge")),
            instead("padded", "of mirrored values", wrong.filled("reflect")),
            instead("padded", "circular", wrong.filled("wrap"), lambda path, setting: path != "conv"),
        ),
    ),
    Mistake(
        "even-padding",
        'the lopsided "same" padding of an even kernel',
        "keras-team/keras#16363, BangguWu/ECANet#24",
        either(
            instead("padded", "lopsided by one", wrong.lopsided),
            instead("zero_padded", "lopsided by one", wrong.shifted_zeros, _has_zeros),
        ),
    ),
    # Self-attention
    Mistake(
        "scores-unscaled",
        "scores that are not divided by the root of the head's size",
        "hand-written attention; Keras' Attention with use_scale=False",
        only(_has_wide_heads, instead("scores", "without their scale", wrong.rescored(0.5))),
    ),
    Mistake(
        "scores-divided",
        "scores divided by the head's size, not by its root",
        "a square root that was forgotten",
        only(_has_wide_heads, instead("scores", "over the size of a head", wrong.rescored(-0.5))),
    ),
    Mistake(
        "scores-by-width",
        "scores divided by the root of all channels, not of those of a head",
        "embed_dim ** -0.5 in place of head_dim ** -0.5",
        only(_has_heads, instead("scores", "over the root of the width", wrong.scored_by_width)),
    ),
    Mistake(
        "heads-interleaved",
        "channels dealt out to the heads in turns",
        "a reshape to (size, heads) in place of (heads, size)",
        only(
            lambda setting: _has_heads(setting) and _has_wide_heads(setting),
            either(
                instead("split", "in turns", wrong.interleaved),
                instead("merged", "in turns", wrong.interleaved_back),
            ),
        ),
    ),
    Mistake(
        "projection-left-out",
        "an attention without one of its projections",
        "values taken from the map itself",
        instead("dense", "left out", wrong.nothing, lambda path, setting: path.rpartition(".")[2] in PARTS),
    ),
    Mistake(
        "tokens-reshaped",
        "a map cut into tokens by a reshape, not transposed",
        "x.view(N, -1, C) of channels-first memory",
        instead("tokens", "reshaped", wrong.tokens_reshaped),
    ),
    Mistake(
        "samples-attend",
        "attention of the samples to each other",
        "batch_first=False of nn.MultiheadAttention",
        instead("self_attention", "among samples", wrong.among_samples),
    ),
    # Norms
    Mistake(
        "norm-left-out",
        "no norm",
        "CBAM with and without its batch norm",
        instead("batch_norm", "left out", wrong.no_norm),
    ),
    Mistake(
        "norm-axis",
        "normalized over the wrong axis",
        "axis=-1 on channels-first maps; axis=1 in Keras",
        either(
            instead("batch_norm", "over each position", wrong.over("layer")),
            instead("batch_norm", "over each sample", wrong.over("instance")),
        ),
    ),
    Mistake(
        "norm-behind",
        "the norm behind the activation",
        "conv-bn-act against conv-act-bn",
        wrong.behind,
    ),
    Mistake(
        "statistics-frozen",
        "running statistics used in training",
        "lancelee98's frozen norms; trainable=False in Keras",
        only(trains, instead("batch_norm", "frozen", wrong.frozen)),
    ),
    Mistake(
        "batch-statistics",
        "the batch's own statistics in inference",
        "gmalivenko/pytorch2keras#13; a model left in training mode",
        only(_infers, instead("batch_norm", "with the batch's own statistics", wrong.of_the_batch)),
    ),
    Mistake(
        "statistics-not-updated",
        "running statistics that do not move",
        "UPDATE_OPS that nobody runs",
        only(trains, instead("running", "without updates", wrong.not_updated)),
    ),
    Mistake(
        "statistics-updated-twice",
        "running statistics that move twice for a batch",
        "UPDATE_OPS beside their own control dependency; gradient checkpointing",
        only(trains, instead("running", "updated twice", wrong.updated_twice)),
    ),
    Mistake(
        "unbiased-normalization",
        "the batch normalized with the variance over n - 1",
        "torch.var's default; pytorch/pytorch#19902",
        only(trains, instead("moments", "with the unbiased variance", wrong.unbiased)),
    ),
    # Gradients: the right output
    Mistake(
        "detached-branch",
        "a branch without a gradient: the right output",
        "stop_gradient, .detach(), .numpy() in the middle",
        either(
            instead("mean", "detached", wrong.detached),
            instead("maximum", "detached", wrong.detached),
            instead("attend", "with its gates detached", wrong.no_gradient_of_gates),
            instead("attend", "with its map detached", wrong.no_gradient_of_map),
            instead("softmax", "detached", wrong.detached),
            instead("softmax", "with its sum detached", wrong.no_gradient_of_sum),
            only(trains, instead("moments", "with its moments detached", wrong.detached)),
        ),
    ),
    Mistake(
        "gradient-lost",
        "a parameter that gets no gradient",
        "requires_grad=False, trainable=False",
        gradients("lost", leaf("kernel", "bias", "scale", "offset"), np.zeros_like),
    ),
    Mistake(
        "gradient-averaged",
        "parameter gradients divided by the batch's size",
        "a loss that is a mean against one that is a sum",
        _averaged_gradients,
    ),
    # Precision
    Mistake(
        "half-accumulation",
        "means accumulated in float16",
        "tensorflow/tensorflow#57057, google-ai-edge/LiteRT#9249",
        instead("mean", "accumulated in float16", wrong.in_half),
    ),
    Mistake(
        "lesser-precision",
        "a lesser precision inside",
        "keras-team/keras#23704: float64 is float32 inside",
        _single_precision,
    ),
    Mistake(
        "tf32",
        "the operands of a layer cut to TF32",
        "torch.backends.cuda.matmul.allow_tf32",
        either(instead("dense", "in TF32", wrong.tf32), instead("pointwise", "in TF32", wrong.tf32)),
    ),
)
