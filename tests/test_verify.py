"""Replayed probes: what the source computed, held against the oracle and the backends."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from parity import cases, client, diagnosis, exchange, verification
from parity.block import Block, Probe
from parity.errors import BackendCrashedError, BackendMissingError, InputError
from parity.probe import with_probes
from parity.spec import (
    BatchNorm,
    CBAMOptions,
    CoordinateAttentionOptions,
    ECAOptions,
    SqueezeExcitationOptions,
)
from parity.verification import verify

torch = pytest.importorskip("torch")

from attention_torch import SqueezeExcitation  # noqa: E402 (after importorskip)

GATE_02 = {"kind": "hard_sigmoid", "slope": 0.2, "offset": 0.5}


def drawn(spec, name="block"):
    rng = np.random.default_rng(zlib.crc32(repr(spec).encode()))
    tensors = {key: cases._weight(key, shape, rng).astype(np.float32) for key, shape in spec.parameters().items()}
    return Block(name, spec, tensors)


def probed(options, channels=12, name="block", **kwargs):
    (block,) = with_probes([drawn(options.resolve(channels, **kwargs), name)])
    return block


def read_as(block, tensors=None, **fields):
    """The block as somebody reads it: other fields, other tensors, the same probe."""
    spec = replace(block.spec, **fields)
    tensors = {name: {**block.tensors, **(tensors or {})}[name] for name in spec.parameters()}
    return Block(block.name, spec, tensors, {}, block.probe)


def judge(block):
    (outcome,) = verify(block, []).outcomes
    assert outcome.backend == "oracle"
    return outcome


def exchanged(block, *pairs):
    return {name: block.tensors[other] for one, two in pairs for name, other in ((one, two), (two, one))}


SE = SqueezeExcitationOptions(reduction=4, gate="hard_sigmoid")
CBAM = CBAMOptions(reduction=4)
CA = CoordinateAttentionOptions(reduction=4)
ECA = ECAOptions(kernel_size=5)
SQUARE = CBAMOptions(parts="spatial", kernel_size=5)


def _heads(block):
    return {"tensors": exchanged(block, *((f"expand.h.{leaf}", f"expand.w.{leaf}") for leaf in ("kernel", "bias")))}


def _kernel(name, change):
    return lambda block: {"tensors": {name: change(block.tensors[name])}}


# What is true, how it is misread, and the words that say what would mend it.
WRONG = {
    "sigmoid": (SE, {"gate": "sigmoid"}, 'gate "hard_sigmoid" instead of "sigmoid"'),
    "slope": (SE, {"gate": GATE_02}, 'gate "hard_sigmoid" instead of {"kind": "hard_sigmoid", "slope": 0.2'),
    "slope-back": (
        replace(SE, gate=GATE_02),
        {"gate": "hard_sigmoid"},
        '"slope": 0.2, "offset": 0.5} instead of "hard',
    ),
    "activation": (SE, {"activation": "silu"}, 'activation "relu" instead of "silu"'),
    "planes": (
        CBAM,
        _kernel("spatial.conv.kernel", lambda k: k[:, ::-1]),
        "spatial.conv.kernel with its two planes exchanged",
    ),
    "heads": (CA, _heads, "expand.h and expand.w exchanged"),
    "flipped": (ECA, _kernel("conv.kernel", lambda k: k[..., ::-1]), "conv.kernel flipped"),
    "transposed": (
        SQUARE,
        _kernel("spatial.conv.kernel", lambda k: k.swapaxes(2, 3)),
        "spatial.conv.kernel with its spatial axes reversed",
    ),
    "dense-transposed": (
        SqueezeExcitationOptions(reduction=1),
        _kernel("fc1.kernel", lambda k: k.T),
        "fc1.kernel transposed",
    ),
    "halves": (
        replace(CBAM, channel_merge="concat"),
        _kernel("channel.fc1.kernel", lambda k: np.roll(k, 12, 1)),
        "channel.fc1.kernel with its two halves exchanged",
    ),
    "epsilon": (CA, {"norm": BatchNorm(epsilon=1e-3)}, "norm.epsilon 1e-05 instead of 0.001"),
    "epsilon-back": (
        replace(CBAM, spatial_norm=BatchNorm(epsilon=1e-3)),
        {"spatial_norm": BatchNorm(epsilon=1e-5)},
        "spatial_norm.epsilon 0.001 instead of 1e-05",
    ),
    "residual": (replace(CBAM, residual=True), {"residual": False}, "residual true instead of false"),
    "source": (CBAM, {"spatial_source": "input"}, 'spatial_source "refined" instead of "input"'),
    "padding": (replace(ECA, padding="circular"), {"padding": "zeros"}, 'padding "circular" instead of "zeros"'),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_reading_is_caught_and_named(mistake):
    options, changes, remedy = WRONG[mistake]
    block = probed(options)
    assert judge(block).agreed
    wrong = judge(read_as(block, **(changes(block) if callable(changes) else changes)))
    assert not wrong.agreed
    assert wrong.ratio > 1
    assert "elements differ" in wrong.explanation
    mended = wrong.explanation.partition("What reproduces it: ")[2]
    assert remedy in mended


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (SqueezeExcitationOptions(reduction=4), {"bias": False}),
        (CBAMOptions(reduction=4, spatial_bias=True, spatial_norm=None), {"spatial_bias": False}),
        (CoordinateAttentionOptions(reduction=4), {"head_bias": False}),
        (ECAOptions(kernel_size=3, bias=True), {"bias": False}),
    ],
)
def test_a_dropped_bias_is_caught(options, fields, monkeypatch):
    monkeypatch.setattr(diagnosis, "PAIRS", 100)
    wrong = judge(read_as(probed(options), **fields))
    assert not wrong.agreed
    assert "None of " in wrong.explanation
    assert "the nearest is" in wrong.explanation


def test_a_wrong_hint_for_a_live_models_weights_is_caught(tmp_path):
    # The model is a stranger's: nothing tells its gate but what it computes.
    class Foreign(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = torch.nn.Conv2d(12, 3, 1), torch.nn.Conv2d(3, 12, 1)

        def forward(self, x):
            z = x.mean((2, 3), keepdim=True)
            return x * torch.nn.functional.hardsigmoid(self.fc2(torch.relu(self.fc1(z))))

    torch.manual_seed(0)
    model = Foreign()
    tensors = {
        f"{path}.{leaf}": value.detach().numpy().reshape(value.shape[:2])
        for path in ("fc1", "fc2")
        for leaf, value in (("kernel", getattr(model, path).weight), ("bias", getattr(model, path).bias))
    }
    results = {}
    for gate in ("hard_sigmoid", "sigmoid"):
        blocks = with_probes([Block("se", replace(SE, gate=gate).resolve(12), tensors)], model)
        exchange.write(tmp_path / gate, blocks)
        results[gate] = verify(tmp_path / gate, ["torch"])
    right, wrong = results["hard_sigmoid"], results["sigmoid"]
    assert right.agreed
    assert right.explain() == []
    assert [outcome.backend for outcome in right.outcomes] == ["oracle", "torch"]
    assert right.sources["se"].endswith(f"Foreign in torch {torch.__version__}")
    assert not wrong.agreed
    oracle, backend = wrong.explain()
    assert 'What reproduces it: gate "hard_sigmoid" instead of "sigmoid"' in oracle
    assert "off by" in oracle
    assert "The backend agrees with the oracle" in backend


def test_a_broken_backend_is_told_from_a_wrong_reading(monkeypatch):
    block = probed(SE)

    def wrong(block, x, **options):
        return {"output": block.probe.output.astype(options["dtype"]) * 1.001}

    monkeypatch.setattr(client, "evaluate", wrong)
    result = verify(block, ["torch"])
    assert [outcome.agreed for outcome in result.outcomes] == [True, False]
    (text,) = result.explain()
    assert text.startswith("torch: block 'block', whose probe comes from oracle\noutput: ")
    assert "The backend is off from the oracle too (" in text


def test_probes_run_in_their_own_precision_and_are_held_to_it(monkeypatch):
    seen = []

    def recorded(block, x, **options):
        seen.append((str(x.dtype), options["dtype"]))
        return {"output": block.probe.output.astype(options["dtype"])}

    monkeypatch.setattr(client, "evaluate", recorded)
    double = probed(SE)
    (single,) = with_probes([drawn(SE.resolve(12))], SqueezeExcitation.from_spec(SE.resolve(12)))
    mixed = replace(double, probe=replace(double.probe, output=double.probe.output.astype(np.float32)))
    for block in (double, single, mixed):
        verify(block, ["torch"])
    assert seen == [("float64", "float64"), ("float32", "float32"), ("float64", "float32")]
    off = replace(double.probe, output=double.probe.output * (1 + 1e-9))
    assert judge(replace(mixed, probe=replace(mixed.probe, output=off.output.astype(np.float32)))).agreed
    assert not judge(replace(double, probe=off)).agreed


def test_several_backends_and_blocks(tmp_path):
    pytest.importorskip("jax")
    pytest.importorskip("keras")
    exchange.write(tmp_path / "a", [probed(SE, name="one"), probed(CA, name="two")])
    seen = []
    result = verify(tmp_path / "a", ["torch", "keras-layers@jax"], progress=lambda o: seen.append((o.block, o.backend)))
    assert result.agreed, result.explain()
    pairs = [(block, backend) for backend in ("oracle", "torch", "keras-layers@jax") for block in ("one", "two")]
    assert [(outcome.block, outcome.backend) for outcome in result.outcomes] == pairs
    assert sorted(seen) == sorted(pairs)
    assert set(result.present) == {"torch", "keras-layers@jax"}
    assert all(outcome.comparison.epsilons >= 0 for outcome in result.outcomes)


def absent(backend, device):
    raise BackendMissingError(f"backend {backend!r} needs it, not installed here")


def test_absent_backends_are_named_and_never_passed(monkeypatch):
    block = probed(SE)
    assert verify(block, []).agreed  # nobody asked for a backend
    monkeypatch.setattr(client, "worker", absent)
    result = verify(block)
    assert set(result.absent) == set(verification.BACKENDS)
    assert result.outcomes[0].agreed
    assert not result.agreed
    assert result.explain()[0].startswith("no backend ran: ")


def test_a_crash_is_a_failure(monkeypatch):
    def crash(*arguments, **options):
        raise BackendCrashedError("the worker died")

    block = probed(SE)
    with monkeypatch.context() as patch:
        patch.setattr(client, "evaluate", crash)
        result = verify(block, ["torch"])
        assert not result.agreed
        assert "BackendCrashedError: the worker died" in result.explain()[0]
    monkeypatch.setattr(client, "worker", crash)
    assert not verify(block, ["torch"]).agreed


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda probe: None, "no probe"),
        (lambda probe: Probe(probe.x * 0, probe.output * 0, "me"), "its probe shows none of its weights"),
        (lambda probe: Probe(probe.x * np.nan, probe.output * np.nan, "me"), "numbers that are not finite"),
        (lambda probe: Probe(probe.x.astype(np.float16), probe.output, "me"), "in float16 and float64"),
        (lambda probe: Probe(probe.x.astype(ml_dtypes.bfloat16), probe.output, "me"), "no tolerance"),
    ],
)
def test_what_proves_nothing_is_no_pass(spoil, reason):
    block = probed(SE, name="a")
    result = verify([replace(block, probe=spoil(block.probe)), probed(SE, name="b")], [])
    assert reason in result.unproved["a"]
    assert [outcome.block for outcome in result.outcomes] == ["b"]
    assert not result.agreed
    assert result.explain() == [f"block 'a': {result.unproved['a']}; this is no pass"]


def test_a_probe_beyond_reason_is_not_run():
    spec = CBAMOptions(parts="spatial", kernel_size=15, spatial_norm=None).resolve(None, 3)
    x = np.ones((1, 1, 30, 30, 30), np.float32)
    block = Block("a", spec, {"spatial.conv.kernel": np.ones((1, 2, 15, 15, 15))}, {}, Probe(x, x, "me"))
    assert "too large" in verify(block, []).unproved["a"]


def test_nothing_to_verify_is_no_pass():
    result = verify([replace(probed(SE), probe=None)], [])
    assert (result.agreed, result.outcomes, list(result.unproved)) == (False, [], ["block"])


def test_blind_spots_are_told():
    block = drawn(SE.resolve(12))
    bias = block.tensors["fc1.bias"].copy()
    bias[1] = -1e6
    (probed_,) = with_probes([Block("a", block.spec, {**block.tensors, "fc1.bias": bias})])
    result = verify(probed_, [])
    assert result.agreed
    assert any(spot.startswith("fc2.kernel: ") for spot in result.blind_spots["a"])


def test_the_result_is_json():
    block = probed(SE)
    broken = replace(block, probe=replace(block.probe, output=block.probe.output * 1e300 * 1e5))
    text = json.loads(json.dumps(verify([block], []).to_json(), allow_nan=False))
    assert text["agreed"] is True
    assert text["outcomes"][0]["comparison"]["name"] == "output"
    assert text["sources"] == {"block": "oracle"}
    assert json.loads(json.dumps(verify([broken], []).to_json(), allow_nan=False))["agreed"] is False


def test_unknown_backends_are_refused():
    with pytest.raises(InputError, match="received backend 'theano'; expected some of torch"):
        verify(probed(SE), ["theano"])
