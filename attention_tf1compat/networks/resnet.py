"""ResNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from attention_tf1compat._block import Scope, block_scope, dense, mean
from attention_tf1compat.networks._parts import keep_layer, max_pool, normed_convolution, to_channels_last
from attention_tf1compat.networks.residual import residual_unit
from parity.spec import BatchNorm, ResNetOptions, ResNetSpec, spatial_axes


def resnet(
    x: tf.Tensor,
    *,
    depth: int = 18,
    depths: Sequence[int] | None = None,
    bottleneck: bool | None = None,
    width: int = 64,
    stem: str = "imagenet",
    stem_channels: int | None = None,
    attention: str | None = None,
    attention_options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
    placement: str = "before_addition",
    shortcut: str = "convolution",
    norm: BatchNorm | Mapping[str, Any] = BatchNorm(),
    classes: int = 1000,
    training: bool | tf.Tensor = False,
    data_format: str = "channels_last",
    dtype: tf.DType | str = tf.float32,
    scope: Scope = None,
    reuse: Any = None,
    spec: ResNetSpec | None = None,
) -> tf.Tensor:
    """ResNet (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1), with an attention block
    in each unit where Hu et al. ("Squeeze-and-Excitation Networks", CVPR 2018, section 6.5) put it.

    For x of shape (N, C, S1..Sd), or channels last, and stages of n_1..n_k residual units::

        u = relu(norm(K * x))                        (N, stem channels, S1/s..Sd/s)
        u = unit_n(..unit_1(u))                      (N, F_i, ..)    for each stage i; F_i = width * 2^(i - 1), four
                                                     times that for bottlenecks; the first unit of all stages but the
                                                     first has stride 2
        y = W mean_S u + b                           (N, classes)    logits

    The stem "imagenet" has a kernel of 7 and stride 2, and then takes the maximum over windows of 3 positions along
    each axis, again with stride 2 (1 more at both ends, which is never the maximum); "small" has a kernel of 3, stride
    1, and no maximum. Convolutions are padded as in `residual_unit`. Inside, all is channels last: a channels-first x
    is transposed once, at the entry.

    Variables: ``stem/conv/kernel (*k, C, stem channels)``, ``stem/norm/{gamma,beta,moving_mean,moving_variance}``;
    those of each residual unit under ``stage1/unit1``, ...; ``head/kernel (F, classes)``, ``head/bias (classes)``.

    What the stem, behind its relu, and each unit put out is in the graph collections
    ``attention_tf1compat/layers/<scope>/stem``, ``../stage1.unit1``, ..., a channels-last tensor for each call.

    Args:
        x: the map, d = 1, 2 or 3; its rank and channels must be known, batch and spatial sizes need not be.
        depth: 18, 34, 50, 101 or 152: the paper's networks.
        depths: n_1..n_k instead, with the default depth.
        bottleneck: with `depths`, whether units are bottlenecks; None for not.
        width: of the first stage.
        stem: "imagenet" or "small".
        stem_channels: of the stem; None for width.
        attention: a key of `parity.spec.SPECS`, in every unit; None for none.
        attention_options: a mapping of the options of that block, or a sequence with one for each stage; None for its
            defaults. Sizes that follow from channels follow from the F_i, in the first unit of a stage, too.
        placement: in the units, as `residual_unit` tells.
        shortcut: of the units that change the shape: "convolution" or "average".
        norm: of all norms, a `parity.spec.BatchNorm` or its JSON form.
        classes: of the output.
        training: whether the norms take the moments of the batch and add their updates to UPDATE_OPS: True, False, or a
            scalar boolean tensor that decides when the graph runs.
        data_format: "channels_last" or "channels_first".
        dtype: of the weights; x must have it.
        scope: of the variables, a name or a `tf.compat.v1.VariableScope`; None for a unique name from "resnet".
        reuse: as in `tf.compat.v1.variable_scope`.
        spec: a `ResNetSpec` in place of the options.

    Returns:
        y, of shape (N, classes).

    Raises:
        SpecError: for an argument outside its domain, a block that does not keep the shape of its map, options beside
            `spec`, or another spec than the scope has. A `ValueError`.
        InputError: for a map of another or unknown rank, number of channels or dtype, or for one value per channel
            before a norm in training mode (a `tf.errors.InvalidArgumentError` where only the run tells). A
            `ValueError`.

    Example:
        >>> with tf.Graph().as_default():
        ...     resnet(tf.ones((2, 33, 35, 3)), depth=18, width=8, attention="se", classes=10).shape
        TensorShape([2, 10])
    """
    options = ResNetOptions(
        depth=depth,
        depths=depths,
        bottleneck=bottleneck,
        width=width,
        stem=stem,
        stem_channels=stem_channels,
        attention=attention,
        attention_options=attention_options,
        placement=placement,
        shortcut=shortcut,
        norm=norm,
        classes=classes,
    )
    scoped = block_scope(
        x, options, spec, training=training, data_format=data_format, dtype=dtype, scope=scope, reuse=reuse
    )
    with scoped as (x, spec):
        size, step = (7, 2) if spec.stem == "imagenet" else (3, 1)
        sizes = (spec.channels, spec.stem_channels, size, step, spec.spatial_dims)
        stem_of = normed_convolution("stem", *sizes, x.dtype, spec.norm, training)
        u = tf.nn.relu(stem_of(to_channels_last(x, data_format)))
        keep_layer("stem", u)
        u = max_pool(u) if spec.stem == "imagenet" else u
        for number, units in enumerate(spec.units(), 1):
            for place, unit in enumerate(units, 1):
                own = f"stage{number}/unit{place}"
                u = residual_unit(u, training=training, dtype=u.dtype, scope=own, spec=unit)
                keep_layer(own.replace("/", "."), u)
        head = dense("head", spec.features, spec.classes, True, x.dtype)
        return head(mean(u, spatial_axes(spec.spatial_dims, "channels_last")))
