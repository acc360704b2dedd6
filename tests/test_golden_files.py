"""The recordings: complete, in canonical terms, and met by the PyTorch blocks."""

from __future__ import annotations

import numpy as np
import pytest

from parity import cases, golden, oracle
from parity.compare import compare
from parity.errors import FormatError
from parity.loading import blocks_of, load_into
from parity.tolerances import tolerance

NAMES = [name for name in golden.names() if name != "real-ppocr-cls"]
RECORDED = [case for case in cases.recorded() if case.name in NAMES]


def off(got, expected):
    """The largest difference, in units of the largest expected value; infinite for NaN or another shape."""
    if got.shape != expected.shape or np.isnan(got).any():
        return np.inf
    worst = np.max(np.abs(got - expected))
    return float(worst / np.max(np.abs(expected))) if worst else 0.0


def failures(expected, got):
    """What `parity run` would print of a result."""
    return [one.failure for one in compare(expected, got, dtype="float64", device="cpu") if one.failure]


def counters(case):
    """The numbers of batches that the original had counted after a recorded training pass."""
    values = case._recording.modes[case.phase]
    return {key: value for key, value in values.items() if key.endswith("num_batches_tracked")}


def test_names():
    assert len(golden.names()) == 39
    with pytest.raises(FormatError, match="received 'nothing' as a recording; expected one of ca-bubbliiiing, ca-offi"):
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
        shape = recording.block.spec.output_shape(recording.x.shape, recording.data_format)
        assert values["output"].shape == recording.cotangent.shape == shape
    assert ("train" in recording.modes) == any(key.endswith("mean") for key in shapes)


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.id)
def test_the_oracle_meets_the_recordings(case):
    """Outputs, every gradient, and the statistics that a training pass leaves."""
    recording, problem = case._recording, case.problem()
    judged = oracle.evaluate(
        case.spec,
        recording.block.tensors,
        recording.x,
        cotangent=recording.cotangent,
        training=case.training,
        data_format=case.data_format,
    )
    assert judged.keys() == problem.expected.keys()
    assert failures(problem.expected, {key: value.value for key, value in judged.items()}) == []
    for key, value in counters(case).items():
        assert value == recording.block.extras[key.removeprefix("after.")] + 1


def test_the_oracle_would_not_meet_another_function():
    """The check above can fail, for what no shape tells: circular padding, a residual, a gate, an activation."""
    changes = {
        "timm-ceca": {"padding": "zeros"},
        "cbam-fightingcv": {"residual": False},
        "mobilenetv3-dli14": {"gate": "sigmoid"},
        "timm-effnet-se": {"activation": "relu"},
        "ca-official": {"activation": "relu"},
        "timm-cbam": {"spatial_norm": {"epsilon": 1e-3}},
        "timm-ese": {"gate": {"kind": "hard_sigmoid", "slope": 0.2, "offset": 0.5}},
        "smp-scse": {"merge": "max"},
    }
    for name, change in changes.items():
        (recording,) = golden.open(name)
        spec = type(recording.block.spec).from_json(recording.block.spec.to_json() | change)
        output = oracle.evaluate(spec, recording.block.tensors, recording.x)["output"].value
        assert off(output, recording.modes["eval"]["output"]) > 1e-5, name


def test_trained_blocks():
    recordings = golden.open("real-ppocr-cls")
    assert [recording.name for recording in recordings][::8] == ["real-ppocr-cls/block00", "real-ppocr-cls/block08"]
    for recording in recordings:
        assert recording.cotangent is None
        assert recording.x.dtype == recording.modes["eval"]["output"].dtype == np.float32
        assert list(recording.modes["eval"]) == ["output"]


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.id)
def test_torch_blocks_meet_the_recordings(case):
    pytest.importorskip("torch")
    from attention_torch import adapter

    problem, layout = case.problem(), {"data_format": case.data_format}
    model = adapter.build(case.spec, shape=problem.x.shape, dtype="float64", device="cpu", **layout)
    load_into(model, case._recording.block)
    variables = adapter.find_blocks(model, {})[""].variables
    step = adapter.stepper(model, variables, training=case.training, learning_rate=0.0, **layout)
    output, gradients = step(problem.x, problem.cotangent, False)
    (after,) = blocks_of(model)
    got = {"output": output} | {f"grad.{key}": value for key, value in gradients.items()}
    statistics = [key for key in problem.expected if key.startswith("after.")]
    got |= {key: after.tensors[key.removeprefix("after.")] for key in statistics}
    assert failures(problem.expected, got) == []
    for key, value in counters(case).items():
        assert after.extras[key.removeprefix("after.")] == value


@pytest.mark.parametrize("name", NAMES)
def test_the_flawed_recordings_are_those_of_the_flawed_kernel(name):
    """As recorded, their gradients are off by 1/6 in float32, and no others are."""
    (recording,) = golden.open(name)
    judged = oracle.evaluate(
        recording.block.spec,
        recording.block.tensors,
        recording.x,
        cotangent=recording.cotangent,
        data_format=recording.data_format,
    )
    inert = {f"grad.{name}" for name in recording.block.spec.inert(False)}  # nothing but rounding
    errors = [
        off(value, judged[key].value)
        for key, value in recording.modes["eval"].items()
        if key.startswith("grad.") and key not in inert
    ]
    assert recording.flawed == (name in ("timm-ese", "timm-se-hardsigmoid", "torchvision-mbv3-se"))
    if recording.flawed:
        assert 2e-8 < max(errors) < 4e-8
    else:
        assert max(errors) < tolerance("grad.input", "float64", "cpu")


def test_mended_gradient_needs_mending():
    """If PyTorch had multiplied by 1/6 itself, `golden.gradient` would spoil what it mends."""
    torch = pytest.importorskip("torch")
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
