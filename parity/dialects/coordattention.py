"""houqb/CoordAttention: the code of coordinate attention's authors, whose two files name the heads differently; and
its ports to Keras and slim.
"""

from __future__ import annotations

from parity.dialects._table import TORCH_NORM, Dialect, Tensor, batch_norm, keras_batch_norm, keras_layer, layer

SOURCE = "houqb/CoordAttention 7619bea"

REDUCE = layer("conv1", "reduce", "conv1x1", bias=True) + batch_norm("bn1", "norm")

# What the code fixes: changzy00's has the same keys, another activation and no gate.
FACTS = {"gate": "sigmoid", "activation": "hard_swish", "norm": TORCH_NORM, "residual": False}

COORD_ATT = (
    *REDUCE,
    *layer("conv_h", "expand.h", "conv1x1", bias=True),
    *layer("conv_w", "expand.w", "conv1x1", bias=True),
)

DIALECTS = (
    Dialect(
        id="CoordAttention/CoordAtt",
        block="ca",
        tensors=COORD_ATT,
        facts=FACTS,
        source=f"{SOURCE}, coordatt.py",
    ),
    Dialect(
        id="CoordAttention/mbv2_ca.CoordAtt",
        block="ca",
        tensors=(
            *REDUCE,
            *layer("conv2", "expand.h", "conv1x1", bias=True),
            *layer("conv3", "expand.w", "conv1x1", bias=True),
        ),
        facts=FACTS,
        source=f"{SOURCE}, mbv2_ca.py, which loads the released weights",
    ),
    Dialect(
        id="CoordAttention_keras/CoordAtt",
        block="ca",
        tensors=(
            *keras_layer("conv2d", "reduce", "conv1x1_last", bias=True),
            *keras_batch_norm("batch_normalization", "norm"),
            *keras_layer("conv2d_1", "expand.h", "conv1x1_last", bias=True),
            *keras_layer("conv2d_2", "expand.w", "conv1x1_last", bias=True),
        ),
        refused="its batch norm is frozen unless bn_trainable is set, and normalises by its statistics in training too",
        detected=False,
        source="lancelee98/CoordAttention_keras b3148a0, CoordAtt.py",
    ),
    Dialect(
        id="CoordAttention_tensorflow/CoordAtt",
        block="ca",
        tensors=(
            Tensor("ca_conv1/weights", "reduce.kernel", "conv1x1_last"),
            *(
                Tensor(f"ca_conv1/BatchNorm/{leaf}", f"norm.{ours}", "vector")
                for leaf, ours in {"beta": "offset", "moving_mean": "mean", "moving_variance": "variance"}.items()
            ),
            *(
                Tensor(f"ca_conv{number}/{leaf}", f"expand.{axis}.{ours}", layout)
                for number, axis in ((2, "h"), (3, "w"))
                for leaf, ours, layout in (("weights", "kernel", "conv1x1_last"), ("biases", "bias", "vector"))
            ),
        ),
        refused="its batch norm has no gamma: training would move a scale that its own code keeps at one",
        source="Zhengtq/CoordAttention_tensorflow, slim",
    ),
)
