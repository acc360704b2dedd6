"""Probes: inputs on which everything shows, and the source's own output."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from dataclasses import replace
from math import prod

import numpy as np
import pytest

from parity import cases, oracle
from parity.block import Block
from parity.compare import compare
from parity.errors import InputError, MissingTensorError, UnexpectedTensorError
from parity.loading import blocks_of
from parity.mistakes import readings
from parity.probe import STEP, blind_spots, probe_input, with_probes
from parity.spec import (
    CBAMOptions,
    CoordinateAttentionOptions,
    ECAOptions,
    SqueezeExcitationOptions,
)
from parity.tolerances import EPSILON, MARGIN

torch = pytest.importorskip("torch")

from attention_torch import CBAM, ECA, SqueezeExcitation  # noqa: E402 (after importorskip)

VARIANTS = [(block, variant) for block, variants in cases.VARIANTS.items() for variant in variants]

# A kernel of one tap has no neighbours, so that its padding means nothing.
SAME_FUNCTION = {("eca", "kernel1"): ['padding "circular" instead of "zeros"']}


def drawn(spec, name="block", dtype=np.float32):
    """A block with weights as the matrix draws them."""
    rng = np.random.default_rng(zlib.crc32(repr(spec).encode()))
    tensors = {key: cases._weight(key, shape, rng).astype(dtype) for key, shape in spec.parameters().items()}
    return Block(name, spec, tensors)


def of(block, variant, channels=12, rank=2):
    return drawn(cases.OPTIONS[block][variant].resolve(channels, rank))


def judged(block, x):
    return oracle.evaluate(block.spec, block.tensors, x)["output"]


def moves(block, changed, x):
    """Whether the outputs of two blocks differ by more than float32 may."""
    got = {"output": judged(changed, x).value.astype(np.float32)}
    (result,) = compare({"output": judged(block, x)}, got, dtype="float32", device="cpu")
    return bool(result.failure)


@pytest.mark.parametrize(("block", "variant"), VARIANTS)
def test_every_parameter_shows(block, variant):
    block, unseen = of(block, variant), SAME_FUNCTION.get((block, variant), [])
    x = probe_input(block)
    spots = [words for words in blind_spots(block, x) if words not in unseen]
    if block.spec.quadratic:
        # Where a softmax is nearly one or zero, scores move nothing: some of their weights stay in the dark, and are
        # named. Most show.
        counts = [re.fullmatch(r".*: (\d+) of (\d+) elements", words) for words in spots]
        assert all(found and int(found[1]) < int(found[2]) / 2 for found in counts), spots
    else:
        assert not spots
    rng = np.random.default_rng(0)
    for name, value in block.tensors.items():
        if name in block.spec.inert(False):
            continue
        for i in rng.choice(value.size, min(value.size, 6), replace=False):
            changed = value.astype(np.float64)
            changed.flat[i] += STEP * np.sqrt(np.square(changed).mean())
            seen = moves(block, Block("", block.spec, {**block.tensors, name: changed}), x)
            assert seen or any(words.startswith(f"{name}: ") for words in spots), (name, i)
    for words, other in readings(block):
        assert moves(block, other, x) or words in unseen, words


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("block", "variant"), [v for v in VARIANTS if v[1] in ("default", "full", "hard-sigmoid")])
def test_inputs_are_asymmetric_decided_and_small(block, variant, rank):
    block = of(block, variant, rank=rank)
    x = probe_input(block)
    assert x.dtype == np.float32
    assert x.nbytes < 2**16
    assert len(set(x.shape)) == x.ndim
    assert len(np.unique(x)) == x.size  # no tie, no mirror image
    signs = np.random.default_rng(0).choice((-1.0, 1.0), block.spec.output_shape(x.shape, "channels_first"))
    every = oracle.evaluate(block.spec, block.tensors, x, cotangent=signs)
    assert min(value.margin for value in every.values()) > MARGIN * EPSILON["float32"]
    for axis in range(x.ndim):  # no axis is one value repeated
        assert x.shape[axis] == 1 or not np.array_equal(x, np.roll(x, 1, axis))


def test_padding_and_interior_of_the_kernel_both_matter():
    for rank in (1, 2):
        assert min(probe_input(of("cbam", "default", rank=rank)).shape[2:]) >= 7


def test_both_corners_and_the_slope_of_a_hard_gate_are_hit():
    block = of("se", "hard-sigmoid-0.2")
    x = probe_input(block, "float64")
    gate = (judged(block, x).value / x)[:, :, 0, 0]
    assert (gate == 0).any()
    assert (gate == 1).any()
    assert ((gate > 0.1) & (gate < 0.9)).any()


def test_wide_blocks_get_small_probes():
    for options in (SqueezeExcitationOptions(), CoordinateAttentionOptions(), CBAMOptions(kernel_size=3)):
        spec = options.resolve(1024)
        assert prod(probe_input(drawn(spec)).shape) <= 2 * 1024 * 12
    assert probe_input(drawn(ECAOptions(kernel_size=9).resolve(None))).shape[1] == 19


SEEDED = """
import numpy as np
from parity.block import Block
from parity.probe import probe_input
from parity.spec import CBAMOptions
spec = CBAMOptions(reduction=2, kernel_size=3).resolve(6)
tensors = {name: np.linspace(0.1, 1, int(np.prod(shape))).reshape(shape) for name, shape in spec.parameters().items()}
print(probe_input(Block("a", spec, tensors)).tobytes().hex())
"""


def test_inputs_are_the_same_in_every_process():
    seen = {
        subprocess.run(
            [sys.executable, "-c", SEEDED], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in "01"
    }
    assert len(seen) == 1
    assert len(seen.pop()) > 100


def test_both_dtypes_hold_the_same_numbers():
    block = of("se", "default")
    assert np.array_equal(probe_input(block, "float64"), probe_input(block, "float32"))
    assert probe_input(block, "float64").dtype == np.float64


def test_what_cannot_show_is_named():
    block = of("se", "hidden5")
    bias = block.tensors["fc1.bias"].copy()
    bias[2] = -1e6
    kernel = block.tensors["fc1.kernel"].copy()
    kernel[2] = 0
    dead = Block("", block.spec, {**block.tensors, "fc1.kernel": kernel, "fc1.bias": bias})
    assert blind_spots(dead, probe_input(dead)) == [
        "fc1.kernel: 12 of 60 elements",
        "fc1.bias: 1 of 5 elements",
        "fc2.kernel: 12 of 60 elements",
    ]


def test_no_hidden_unit_of_a_wide_block_is_dead():
    """Of 32 units some are dead in both samples that chance draws; a change of what they do would pass unseen."""
    for options in (SqueezeExcitationOptions(reduction=16), CBAMOptions(reduction=16)):
        block = drawn(options.resolve(512))
        assert not [words for words in blind_spots(block, probe_input(block)) if "fc1.bias" in words]


def test_a_wide_tensor_is_seen_by_rows_and_columns():
    block = drawn(SqueezeExcitationOptions(reduction=16).resolve(256))
    kernel = block.tensors["fc2.kernel"].copy()
    kernel[:, 3] = 0  # nobody listens to this hidden unit
    deaf = Block("", block.spec, {**block.tensors, "fc2.kernel": kernel})
    assert "fc1.kernel: 1 of 272 rows and columns" in blind_spots(deaf, probe_input(deaf))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_get_no_probe(value):
    block = drawn(ECAOptions(kernel_size=3).resolve(6))
    broken = Block("eca", block.spec, {"conv.kernel": np.full((1, 1, 3), value)})
    with pytest.raises(InputError, match="block 'eca' with weights that are not finite"):
        probe_input(broken)


def test_a_kernel_beyond_reason_gets_no_probe():
    spec = CBAMOptions(parts="spatial", kernel_size=61).resolve(None, 3)
    huge = Block("", spec, {name: np.ones(shape, np.float16) for name, shape in spec.parameters().items()})
    with pytest.raises(InputError, match="a kernel too large for a probe"):
        probe_input(huge)


# Sources


def test_without_a_source_the_oracle_answers():
    block = of("ca", "default")
    (probed,) = with_probes([block])
    assert probed.probe.source == "oracle"
    assert np.array_equal(probed.probe.output, judged(block, probed.probe.x).value)
    assert probed.probe.x.dtype == probed.probe.output.dtype == np.float64


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stage = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 1), SqueezeExcitation(12, reduction=4))
        self.cbam = CBAM(12, reduction=4)

    def forward(self, x):
        raise AssertionError("the whole network is not run")


def test_blocks_of_a_network_answer_by_name_in_inference_mode():
    net = Net().train()
    net.stage.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    seen = []
    probed = with_probes(blocks_of(net), net, progress=seen.append)
    assert seen == [block.name for block in probed] == ["stage.1", "cbam"]
    assert (net.training, net.stage.training, net.cbam.training) == (True, False, True)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    for block, module in zip(probed, (net.stage[1], net.cbam), strict=True):
        expected = module.eval()(torch.tensor(block.probe.x)).detach().numpy()
        assert np.array_equal(block.probe.output, expected)
        assert block.probe.x.dtype == np.float32
        assert block.probe.source == f"{type(module).__module__}.{type(module).__name__} in torch {torch.__version__}"


def test_the_sources_own_code_answers_in_its_own_dtype():
    class Foreign(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x):
            assert x.dtype == torch.float64
            return x * self.gain * 3

    block = of("se", "default")
    (probed,) = with_probes([block], Foreign())
    assert np.array_equal(probed.probe.output, 3 * probed.probe.x)
    assert probed.probe.output.dtype == np.float64


def test_functions_and_mappings_answer():
    one, two = replace(of("se", "default"), name="a"), replace(of("eca", "default"), name="b/c")
    probed = with_probes([one, two], {"a": lambda x: x + 1, "b/c": ECA(12)}, computed_by="the test")
    assert np.array_equal(probed[0].probe.output, probed[0].probe.x + 1)
    assert probed[0].probe.source == probed[1].probe.source == "the test"
    assert probed[0].probe.x.dtype == np.float32
    (alone,) = with_probes([one], np.negative)
    assert np.array_equal(alone.probe.output, -alone.probe.x)


def test_sources_that_do_not_fit():
    one, two = replace(of("se", "default"), name="a"), replace(of("eca", "default"), name="b")
    with pytest.raises(MissingTensorError, match=r"received sources for 'a'; expected one for each of 'a', 'b'"):
        with_probes([one, two], {"a": np.negative})
    with pytest.raises(UnexpectedTensorError, match=r"received sources for 'a', 'b'; expected one for each of 'a'"):
        with_probes([one], {"a": np.negative, "b": np.negative})
    with pytest.raises(InputError, match="as the source of 2 blocks"):
        with_probes([one, two], np.negative)
    with pytest.raises(InputError, match=r"received a builtins\.int as the source"):
        with_probes([one], 3)
    with pytest.raises(MissingTensorError, match="in which nothing is named 'a'"):
        with_probes([one, two], Net())


def test_sources_that_fail():
    block = of("se", "default")
    with pytest.raises(InputError, match=r"fails on its probe \(ZeroDivisionError: division by zero\)"):
        with_probes([block], lambda x: 1 / 0)
    with pytest.raises(InputError, match=r"gave float32 of shape \(12, 2, 4\) for a probe of shape \(3, 12, 2, 4\)"):
        with_probes([block], lambda x: x[0])
    with pytest.raises(InputError, match="gave numbers that are not finite"):
        with_probes([block], lambda x: x * np.nan)
    with pytest.raises(InputError, match="gave object"):
        with_probes([block], lambda x: None)
    with pytest.raises(InputError, match=r"received a source in float16; .*model.float\(\)"):
        with_probes([block], SqueezeExcitation(12, reduction=4, dtype=torch.float16))
    module = SqueezeExcitation(12, reduction=4).train()
    module.fc1 = torch.nn.Linear(5, 3)
    with pytest.raises(InputError, match=r"fails on its probe \(RuntimeError"):
        with_probes([block], module)
    assert module.training


def test_readings_are_single_mistakes():
    def words(spec):
        return {text for text, _ in readings(drawn(spec))}

    assert {
        'gate "sigmoid" instead of "hard_sigmoid"',
        'gate {"kind": "hard_sigmoid", "slope": 0.2, "offset": 0.5} instead of "hard_sigmoid"',
        'activation "silu" instead of "relu"',
        "fc1.kernel transposed",
        "fc1 and fc2 exchanged",
    } <= words(SqueezeExcitationOptions(hidden_channels=4, gate="hard_sigmoid").resolve(4))
    assert {
        "spatial.conv.kernel with its two planes exchanged",
        "spatial.conv.kernel flipped",
        "spatial.conv.kernel with its spatial axes reversed",
        "spatial.norm.scale and spatial.norm.offset exchanged",
        'spatial_source "input" instead of "refined"',
        "residual true instead of false",
    } <= words(CBAMOptions(reduction=4).resolve(12))
    assert "channel.fc1.kernel with its two halves exchanged" in words(
        CBAMOptions(reduction=4, channel_merge="concat").resolve(12)
    )
    assert "expand.h and expand.w exchanged" in words(CoordinateAttentionOptions(reduction=4).resolve(12))
    assert {'padding "circular" instead of "zeros"', "conv.kernel flipped"} <= words(ECAOptions().resolve(12))
    symmetric = Block("", ECAOptions(kernel_size=3).resolve(12), {"conv.kernel": np.ones((1, 1, 3))})
    assert "conv.kernel flipped" not in {text for text, _ in readings(symmetric)}


def test_the_figures_behind_a_probe_are_those_of_the_oracle():
    # A running statistic's derivative is derived from those after scale and offset: hold it against a difference.
    from parity.probe import _slope

    block = of("ca", "default")
    x = probe_input(block, "float64")
    cotangent = np.random.default_rng(1).normal(size=x.shape)
    look = oracle.evaluate(block.spec, block.tensors, x, cotangent=cotangent)
    for name in ("norm.mean", "norm.variance"):
        slope = _slope(block, name, look)
        for i in range(slope.size):
            ends = []
            for step in (1e-6, -1e-6):
                moved = block.tensors[name].astype(np.float64)
                moved[i] += step
                ends.append((cotangent * judged(Block("", block.spec, {**block.tensors, name: moved}), x).value).sum())
            difference = (ends[0] - ends[1]) / 2e-6
            assert abs(abs(slope[i]) - abs(difference)) < 1e-6 * max(1, abs(difference))
