"""The recordings: complete, in canonical terms, and met by the PyTorch blocks."""

from __future__ import annotations

import numpy as np
import pytest

from parity import golden
from parity.errors import FormatError
from parity.port import blocks_of, load_into
from parity.tolerances import tolerance

NAMES = [name for name in golden.names() if name != "real-ppocr-cls"]


def off(got, expected):
    """The largest difference, in units of the largest expected value; infinite for NaN or another shape."""
    if got.shape != expected.shape or np.isnan(got).any():
        return np.inf
    worst = np.max(np.abs(got - expected))
    return float(worst / np.max(np.abs(expected))) if worst else 0.0


def test_names():
    assert len(golden.names()) == 13
    with pytest.raises(
        FormatError, match="received 'nothing' as a recording; expected one of real-ppocr-cls, torchvis"
    ):
        golden.open("nothing")


@pytest.mark.parametrize("name", NAMES)
def test_recordings_are_whole_and_canonical(name):
    (recording,) = golden.open(name)
    shapes = recording.block.spec.parameters()
    trained = {key: shape for key, shape in shapes.items() if key.rpartition(".")[2] not in ("mean", "variance")}
    for mode, values in recording.modes.items():
        gradients = {key[5:]: value.shape for key, value in values.items() if key.startswith("grad.")}
        assert gradients == trained | {"input": recording.x.shape}
        after = {key[6:] for key in values if key.startswith("after.")}
        assert after == (shapes.keys() - trained.keys() | recording.block.extras.keys() if mode == "train" else set())
        assert values["output"].shape == recording.cotangent.shape == recording.x.shape
    assert ("train" in recording.modes) == (name == "tutorial-pytorch-ca")


def test_trained_blocks():
    recordings = golden.open("real-ppocr-cls")
    assert [recording.name for recording in recordings][::8] == ["real-ppocr-cls/block00", "real-ppocr-cls/block08"]
    for recording in recordings:
        assert recording.cotangent is None
        assert recording.x.dtype == recording.modes["eval"]["output"].dtype == np.float32
        assert list(recording.modes["eval"]) == ["output"]


@pytest.mark.parametrize("name", NAMES)
def test_torch_blocks_meet_the_recordings(name):
    pytest.importorskip("torch")
    from attention_torch import adapter

    (recording,) = golden.open(name)
    layout = {"data_format": recording.data_format}
    for mode, expected in recording.modes.items():
        model = adapter.build(recording.block.spec, shape=recording.x.shape, dtype="float64", device="cpu", **layout)
        load_into(model, recording.block)
        variables = adapter.find_blocks(model, {})[""].variables
        step = adapter.stepper(model, variables, training=mode == "train", learning_rate=0.0, **layout)
        output, gradients = step(recording.x, recording.cotangent, False)
        (after,) = blocks_of(model)
        assert off(output, expected["output"]) < tolerance("output", "float64", "cpu")
        for key, value in gradients.items():
            assert off(value, golden.gradient(recording, key, mode)) < tolerance(f"grad.{key}", "float64", "cpu"), key
        left = {key[6:]: value for key, value in expected.items() if key.startswith("after.")}
        for key, value in left.items():
            assert off((after.tensors | after.extras)[key], value) < tolerance(f"after.{key}", "float64", "cpu"), key


def test_mended_gradient_needs_mending():
    """If PyTorch had multiplied by 1/6 itself, `golden.gradient` would spoil what it mends."""
    torch = pytest.importorskip("torch")
    (recording,) = golden.open("torchvision-mbv3-se")
    raw, mended = recording.modes["eval"]["grad.fc1.bias"], golden.gradient(recording, "fc1.bias")
    assert 2e-8 < off(raw, mended) < 4e-8
    u = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.hardsigmoid(u).backward()
    assert u.grad.item() in (float(np.float32(1 / 6)), 1 / 6)


def test_torch_blocks_meet_the_trained_activations():
    torch = pytest.importorskip("torch")
    from attention_torch import SqueezeExcitation

    for recording in golden.open("real-ppocr-cls"):
        model = SqueezeExcitation.from_spec(recording.block.spec)
        load_into(model, recording.block)
        output = model(torch.tensor(recording.x)).detach().numpy()
        assert off(output, recording.modes["eval"]["output"]) < tolerance("output", "float32", "cpu"), recording.name


def test_wrong_plane_order_would_show():
    """The check above can fail: the tutorial's planes are [max, mean], and reading them as [mean, max] is seen."""
    torch = pytest.importorskip("torch")
    from attention_torch import CBAM

    (recording,) = golden.open("tutorial-pytorch-cbam")
    model = CBAM.from_spec(recording.block.spec, dtype=torch.float64)
    load_into(model, recording.block)
    with torch.no_grad():
        model.spatial.conv.weight.copy_(model.spatial.conv.weight.flip(1))
    output = model(torch.tensor(recording.x)).detach().numpy()
    assert off(output, recording.modes["eval"]["output"]) > 1e-3


def test_wrong_concatenation_order_would_show():
    """W1 of the TensorFlow tutorial sees [mean, max]; the other order is seen."""
    torch = pytest.importorskip("torch")
    from attention_torch import CBAM

    (recording,) = golden.open("tutorial-tensorflow-cbam-3d")
    model = CBAM.from_spec(recording.block.spec, dtype=torch.float64)
    load_into(model, recording.block)
    with torch.no_grad():
        model.channel.fc1.weight.copy_(model.channel.fc1.weight.roll(recording.block.spec.channels, 1))
    output = model(torch.tensor(np.moveaxis(recording.x, -1, 1))).detach().movedim(1, -1).numpy()
    assert off(output, recording.modes["eval"]["output"]) > 1e-3
