"""Squeeze and excitation in PyTorch, before the frameworks had it: moskomule's and Cadene's, and those after them."""

from __future__ import annotations

from parity.dialects._table import SE, Dialect, layer, pair

DIALECTS = (
    Dialect(
        id="senet.pytorch/SELayer",
        block="se",
        tensors=pair(layer, "fc.0 fc.2", "linear", bias=False),
        defaults=SE,
        source="moskomule/senet.pytorch 8cb2669, senet/se_module.py",
    ),
    # A gate that is fixed: mobilenetv3.pytorch has the same keys, and another.
    Dialect(
        id="senet.pytorch/SELayer@d3ee9f2",
        block="se",
        tensors=pair(layer, "fc.0 fc.2", "linear", bias=True),
        facts={"gate": "sigmoid"},
        defaults=SE,
        source="moskomule/senet.pytorch, before 9d279ec (2018-12-31) took the biases away",
    ),
    # It loads the weights of the paper's authors.
    Dialect(
        id="pretrained-models.pytorch/SEModule",
        block="se",
        tensors=pair(layer, "fc1 fc2", "conv1x1", bias=True),
        defaults=SE,
        doubtful=("gate", "activation"),
        source="Cadene/pretrained-models.pytorch, pretrainedmodels/models/senet.py",
    ),
    Dialect(
        id="squeeze_and_excitation/ChannelSELayer",
        block="se",
        tensors=pair(layer, "fc1 fc2", "linear", bias=True),
        defaults=SE,
        source="ai-med/squeeze_and_excitation, squeeze_and_excitation.py",
    ),
    # By the authors of the concurrent one.
    Dialect(
        id="squeeze_and_excitation/ChannelSpatialSELayer",
        block="scse",
        tensors=(
            *pair(layer, "cSE.fc1 cSE.fc2", "linear", bias=True, path="channel."),
            *layer("sSE.conv", "spatial.fc", "conv1x1", bias=True, shape="1 C 1 1"),
        ),
        facts={"merge": "max"},
        defaults=SE,
        source="ai-med/squeeze_and_excitation, squeeze_and_excitation.py",
    ),
    Dialect(
        id="fastai/SEModule",
        block="se",
        tensors=pair(layer, "layers.1.0 layers.2.0", "conv1x1", bias=True),
        defaults=SE,
        doubtful=("activation",),  # an argument that every model passes
        source="fastai 2, fastai/layers.py",
    ),
)
