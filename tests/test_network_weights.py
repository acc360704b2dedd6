"""Residual networks of timm and torchvision as files: read whole, written back bit for bit, or refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from timm_models import import_timm, randomize

import parity
from parity import cli, dialects
from parity.backends import BACKENDS
from parity.compare import compare
from parity.detection import NothingFoundError
from parity.dialects import _networks
from parity.errors import DialectError, MissingTensorError, ParityError, UnexpectedTensorError
from parity.network import port
from parity.oracle import Measured
from parity.spec import BatchNorm, ResNetOptions

torch = pytest.importorskip("torch")

import attention_torch  # noqa: E402 (after importorskip)

ENGINES = sorted({backend.environment["KERAS_BACKEND"] for backend in BACKENDS.values() if backend.environment})

# Narrow networks of timm: the stem of 64 is fixed, what is behind it is not.
CHANNELS = (8, 16, 32, 64)
ATTENTIONS = (None, "se", "eca", "ceca", "cbam", "coord", "ese")


def timm_resnet(unit="BasicBlock", layers=(1, 2, 1, 1), attention=None, seed=0, **more):
    """A narrow ResNet of timm's class with random weights and statistics, in inference mode."""
    models = import_timm("timm.models.resnet")
    more |= {"block_args": {"attn_layer": attention}} if attention else {}
    model = models.ResNet(getattr(models, unit), layers, **{"channels": CHANNELS, "num_classes": 7} | more)
    return randomize(model, seed).double().eval()


def torchvision_model(name, **more):
    import_timm()  # for the operators that torchvision's import wants
    return randomize(getattr(__import__("torchvision").models, name)(**more)).double().eval()


def image(*sizes):
    return np.random.default_rng(list(sizes)).normal(size=(2, 3, *sizes))


def run(model, x):
    with torch.no_grad():
        return model(torch.tensor(x)).numpy()


def check_logits(expected, got, dtype="float64"):
    """Fail unless `got` are the logits `expected`, within what `parity.port` allows a network."""
    right = {"network.logits": Measured(expected.astype(np.float64), np.abs(expected).astype(np.float64))}
    (result,) = compare(right, {"network.logits": np.asarray(got)}, dtype=dtype, device="cpu")
    assert not result.failure, result.failure


def ours_of(block):
    model = attention_torch.ResNet.from_spec(block.spec, dtype=torch.float64).eval()
    parity.load_into(model, block)
    return model


def check_round_trip(model, dialect, folder, **options):
    """Fail unless the model's own weights come back bit for bit, out of a file that it loads strictly."""
    before = model.state_dict()
    torch.save(before, folder / "model.pth")
    (block,) = parity.read(folder / "model.pth", dialect, **options)
    x = image(33, 37)
    check_logits(run(model, x), run(ours_of(block), x))
    parity.write(folder / "block.safetensors", block)
    (again,) = parity.read(folder / "block.safetensors")
    assert again.spec == block.spec
    written = parity.write(folder / "again.pth", again, dialect)
    assert not written.dropped
    after = torch.load(folder / "again.pth", weights_only=True)
    assert after.keys() == before.keys()
    assert all(after[key].dtype == before[key].dtype and torch.equal(after[key], before[key]) for key in before)
    model.load_state_dict(after, strict=True)
    return block, written


# There and back


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("unit", ["BasicBlock", "Bottleneck"])
def test_a_network_of_timm_is_read_and_written_whole(unit, attention, tmp_path):
    options = {"hints": {"padding": "circular"}} if attention == "ceca" else {}
    block, written = check_round_trip(timm_resnet(unit, attention=attention), "timm/ResNet", tmp_path, **options)
    assert block.spec.depths == (1, 2, 1, 1)
    assert block.spec.bottleneck == (unit == "Bottleneck")
    assert written.hints == options.get("hints", {})
    kinds = {None: None, "ceca": "eca", "coord": "ca"}
    assert (block.spec.attention and block.spec.attention[0].block) == kinds.get(attention, attention)


def test_the_sizes_of_each_stage_come_from_its_weights(tmp_path):
    """timm rounds the hidden widths of SE to eights, and widens the kernels of ECA with the channels."""
    wide = {"channels": (64, 128, 256, 512), "layers": (1, 1, 1, 1)}
    block, _ = check_round_trip(timm_resnet(attention="se", **wide), "timm/ResNet", tmp_path)
    assert [one.hidden_channels for one in block.spec.attention] == [8, 8, 16, 32]
    block, _ = check_round_trip(timm_resnet(attention="eca", **wide), "timm/ResNet", tmp_path)
    assert [one.kernel_size for one in block.spec.attention] == [3, 5, 5, 5]


def test_shortcuts_that_pool_show_in_the_keys(tmp_path):
    """As `ecaresnetlight` has them: the first stage too, whose stride of one leaves nothing to pool."""
    model = timm_resnet("Bottleneck", attention="eca", avg_down=True)
    block, _ = check_round_trip(model, "timm/ResNet", tmp_path)
    assert block.spec.shortcut == "average"
    assert block.spec.units()[0][0].shortcut == "convolution"


@pytest.mark.parametrize("name", ["resnet18", *(pytest.param(f"resnet{n}", marks=pytest.mark.slow) for n in (34, 50))])
def test_the_networks_of_torchvision_and_timm_have_the_same_weights(name, tmp_path):
    model = torchvision_model(name)
    block, _ = check_round_trip(model, "torchvision/ResNet", tmp_path)
    depth = int(name.removeprefix("resnet"))
    assert block.spec == ResNetOptions(depth=depth).resolve(3)
    twin = import_timm().create_model(name)
    theirs = {key: value.shape for key, value in twin.state_dict().items()}
    assert theirs == {key: value.shape for key, value in model.state_dict().items()}
    (other,) = parity.read(model.state_dict(), "timm/ResNet")
    assert other.spec == block.spec


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seresnet18", "seresnet34", "seresnet50", "ecaresnetlight"])
def test_the_networks_of_timm_with_attention(name, tmp_path):
    model = randomize(import_timm().create_model(name)).double().eval()
    check_round_trip(model, "timm/ResNet", tmp_path)


def test_what_weights_do_not_tell_is_told(tmp_path):
    """A norm of another epsilon and a gate of another kind leave the same keys, and must be said in both directions."""
    model = timm_resnet(attention="se")
    hints = {"gate": "hard_sigmoid", "norm": BatchNorm(epsilon=1e-3).to_json()}
    (block,) = parity.read(model.state_dict(), "timm/ResNet", hints)
    assert block.spec.norm.epsilon == 1e-3
    assert {one.gate.kind for one in block.spec.attention} == {"hard_sigmoid"}
    written = parity.write(tmp_path / "a.pth", block, "timm/ResNet")
    assert written.hints.keys() == {"gate", "norm"}
    (again,) = parity.read(tmp_path / "a.pth", "timm/ResNet", written.hints)
    assert again.spec == block.spec
    assert parity.read(tmp_path / "a.pth", "timm/ResNet")[0].spec != block.spec


def test_a_stem_of_three_is_asked_for():
    model = timm_resnet()
    model.conv1, model.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    model = randomize(model).double()
    with pytest.raises(DialectError, match=r"a kernel of 3; expected one of 7.*hints={'stem': 'small'}"):
        parity.read(model.state_dict(), "timm/ResNet")
    (block,) = parity.read(model.state_dict(), "timm/ResNet", {"stem": "small"})
    x = image(17, 19)
    check_logits(run(model, x), run(ours_of(block), x))


def test_networks_are_found_under_any_prefix():
    one, other = timm_resnet(seed=1), timm_resnet("Bottleneck", (1, 1), attention="se", channels=(8, 16))
    state = {f"teacher.module.{key}": value for key, value in one.state_dict().items()}
    state |= {f"pupil.{key}": value for key, value in other.state_dict().items()} | {"epoch": torch.zeros(1)}
    blocks = parity.read(state, "timm/ResNet")
    assert [(block.name, block.spec.depths) for block in blocks] == [
        ("teacher.module", (1, 2, 1, 1)),
        ("pupil", (1, 1)),
    ]
    assert list(parity.inspect(state, "timm/ResNet").rest) == ["epoch"]
    (pupil,) = parity.read(state, "timm/ResNet", include=["pupil"])
    assert pupil.spec == blocks[1].spec
    told = {"pupil": {"gate": "hard_sigmoid"}}
    assert parity.read(state, "timm/ResNet", told)[1].spec.attention[0].gate.kind == "hard_sigmoid"


def test_a_network_is_looked_for_where_it_is_named_alone():
    state = timm_resnet(attention="se").state_dict()
    blocks = parity.read(state, hints={"gate": "sigmoid", "activation": "relu"}, include=["*.se"])
    assert {block.spec.block for block in blocks} == {"se"}
    assert len(parity.read(state, "timm/*", include=["*.se"])) == len(blocks) == 5


def test_every_table_is_a_one_to_one_naming():
    for attention in ("se", "eca", None):
        spec = ResNetOptions(depths=(2, 2), bottleneck=True, width=8, attention=attention).resolve(3)
        rows = dialects.NETWORKS["timm/ResNet"].table(spec).tensors
        assert len({row.key for row in rows}) == len({row.canonical for row in rows}) == len(rows)
        assert {row.canonical for row in rows if not row.extra} == spec.parameters().keys()


# Other networks are refused, and told why


def refusal(state, dialect="timm/ResNet", hints=None):
    with pytest.raises(ParityError) as caught:
        parity.read(state, dialect, hints)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stem_type": "deep", "stem_width": 32}, "a stem of several convolutions"),
        ({"replace_stem_pool": True}, "a convolution in place of the maximum behind the stem"),
        ({"norm_layer": "groupnorm", "channels": (32, 64, 128, 256)}, "norms without running statistics"),
        ({"unit": "Bottleneck", "cardinality": 2, "base_width": 32}, "grouped convolutions (layer1.0.conv2.weight"),
        ({"unit": "Bottleneck", "base_width": 128}, "bottlenecks of 16 and 16 channels in layer1.0, where 32 come out"),
        ({"unit": "Bottleneck", "block_reduce_first": 2}, "bottlenecks of 4 and 8 channels"),
        ({"down_kernel_size": 3}, "layer2.0.downsample.0.weight with a kernel of 3"),
        ({"channels": (8, 24, 32, 64)}, "layer2.0.conv2.weight with 24 channels; expected 16, twice those"),
        ({"attention": "ecam"}, "layer1.0.se, which is timm/EcaModule-mlp: its second convolution"),
        ({"attention": "lcbam"}, "layer1.0.se, which is timm/LightCbamModule: it adds mean and maximum"),
        ({"attention": "gc"}, "layer1.0.se with conv_attn.weight"),
        ({"num_classes": 0}, "received no fc.weight"),
    ],
)
def test_another_topology_is_refused_by_name(options, words):
    assert words in refusal(timm_resnet(**options).state_dict())


def test_attention_in_torchvisions_class_is_refused():
    state = timm_resnet(attention="se").state_dict()
    assert "layer1.0.se with fc1.weight" in refusal(state, "torchvision/ResNet")


def test_what_is_missing_or_too_much_is_named_in_its_own_keys():
    state = timm_resnet(attention="se").state_dict()
    short = {key: value for key, value in state.items() if key != "layer2.1.se.fc2.bias"}
    with pytest.raises(
        MissingTensorError, match=r"lack layer2\.1\.se\.fc2\.bias; expected those of a ResNet of 1, 2, 1, 1"
    ):
        parity.read(short, "timm/ResNet")
    with pytest.raises(UnexpectedTensorError, match=r"have layer2\.1\.extra\.weight"):
        parity.read(state | {"layer2.1.extra.weight": torch.zeros(2)}, "timm/ResNet")
    with pytest.raises(DialectError, match=r"layer2\.1\.bn1\.weight of shape \(3,\)"):
        parity.read(state | {"layer2.1.bn1.weight": torch.zeros(3)}, "timm/ResNet")
    with pytest.raises(MissingTensorError, match=r"in the network 'net': .*lack layer2"):
        parity.read({f"net.{key}": value for key, value in short.items()}, "timm/ResNet")
    some = {key: value for key, value in state.items() if not key.startswith("layer3.0.se.")}
    assert "a block in some stages alone" in refusal(some)
    gap = {key.replace("layer2.1.", "layer2.2."): value for key, value in state.items()}
    assert "have layer2.2.conv1.weight" in refusal(gap)


def test_hints_against_the_weights_are_refused():
    state = timm_resnet(attention="eca").state_dict()
    assert "depths: [1, 2, 1, 1], [1, 1, 1, 1]" in refusal(state, hints={"depths": [1, 1, 1, 1]})
    assert "stem: 'imagenet', 'small'" in refusal(state, hints={"stem": "small"})
    assert "received the hints 'nothing'" in refusal(state, hints={"nothing": 1})
    assert "received hints for 'other'" in refusal(state, hints={"other": {"gate": "sigmoid"}})
    assert "received the hints activation; expected fields" in refusal(state, hints={"activation": "relu"})
    assert "received hints" in refusal(state, hints={"padding": "reflected"})


def test_keras_applications_are_refused_with_their_reason():
    state = {"conv2_block1_1_conv/kernel": np.ones((1, 1, 64, 64)), "conv2_block1_1_conv/bias": np.ones(64)}
    reason = "keras.applications/ResNet: its convolutions have biases"
    assert reason in refusal(state, "keras.applications/ResNet")
    with pytest.raises(NothingFoundError, match=reason):
        parity.read(state, "torchvision/ResNet")


def test_what_the_code_does_not_compute_is_not_written(tmp_path):
    def block(spatial_dims=2, **options):
        spec = ResNetOptions(depths=(1, 1), width=8, classes=3, **options).resolve(3, spatial_dims)
        return parity.Block("", spec, {name: np.ones(shape) for name, shape in spec.parameters().items()})

    def refused(one, dialect="timm/ResNet"):
        with pytest.raises(DialectError) as caught:
            parity.write(tmp_path / "a.pth", one, dialect)
        assert not (tmp_path / "a.pth").exists()
        return str(caught.value)

    assert "placement: after_addition, before_addition" in refused(block(attention="se", placement="after_addition"))
    assert "spatial_dims: 1, 2" in refused(block(1))
    assert "received a network with 'scse'" in refused(block(attention="scse"))
    assert "received a network with 'se'" in refused(block(attention="se"), "torchvision/ResNet")
    assert "received a network with 'cbam'" in refused(block(attention="cbam", attention_options={"residual": True}))
    gates = [{"gate": "sigmoid"}, {"gate": "hard_sigmoid"}]
    assert "cannot tell" in refused(block(attention="se", attention_options=gates))
    assert "its convolutions have biases" in refused(block(), "keras.applications/ResNet")
    se = parity.Block("", attention_torch.ECA(8).spec, {"conv.kernel": np.ones((1, 1, 3))})
    assert "received a block of kind 'eca'" in refused(se)


# Hostile keys


def within(seconds, state, hints=None):
    start = time.monotonic()
    text = refusal(state, hints=hints)
    assert time.monotonic() - start < seconds
    return text


def test_numbers_in_keys_are_not_taken_at_their_word():
    """A table has as many rows as there are units with keys of their own."""
    state = {key: value.numpy() for key, value in timm_resnet().state_dict().items()}
    for strange in ("layer9999.0", "layer1.9999", "layer999999999999.7", "layer1.99999999999999999999", "layer-1.0"):
        key = f"{strange}.conv1.weight"
        assert f"have {key}" in within(5, state | {key: np.ones((8, 8, 3, 3))})


def test_ever_more_units_and_networks_are_too_many():
    state = {key: value.numpy() for key, value in timm_resnet().state_dict().items()}
    units = {f"layer1.{number}.conv1.weight": np.zeros((8, 8, 3, 3), np.int8) for number in range(9000)}
    assert "expected at most 2048" in within(10, state | units)
    assert "expected at most 16" in within(10, {f"{n}.{_networks.SIGN}": np.ones((8, 8, 3, 3)) for n in range(9000)})


def test_widths_that_double_for_ever_end():
    """Sizes of nothing cost nothing: a thousand stages of no channels, and one of more than there are atoms."""
    empty = np.zeros((0, 0, 3, 3))
    state = {"conv1.weight": np.zeros((0, 3, 7, 7)), "fc.weight": np.zeros((3, 0)), "fc.bias": np.zeros(3)}
    state |= {f"layer{stage}.0.conv{n}.weight": empty for stage in range(1, 1500) for n in (1, 2)}
    assert "received width=0" in within(10, state)
    huge = np.zeros((2**40, 0, 1, 1))
    state |= {f"layer{stage}.0.conv{n}.weight": huge for stage in range(1, 1500) for n in (1, 2)}
    assert f"with {2**40} channels; expected {2**41}" in within(10, state)


@pytest.mark.parametrize("shape", [(), (0,), (8,), (8, 8), (8, 8, 3), (8, 8, 3, 3, 3), (0, 8, 3, 3), (1, 1, 1, 1)])
def test_every_key_may_have_any_shape(shape):
    """Whatever one tensor of the network is instead, the answer is an error of this project's."""
    state = {key: value.numpy() for key, value in timm_resnet("Bottleneck", attention="se").state_dict().items()}
    for key, value in state.items():
        if value.shape != shape and not key.endswith("num_batches_tracked"):
            refusal(state | {key: np.zeros(shape)})
            refusal({name: other for name, other in state.items() if name != key})


# Live models

SIZES = {"depths": (1, 2, 1, 1), "width": 8, "stem_channels": 64, "classes": 7}
SE = {"attention": "se", "attention_options": {"hidden_channels": 8}}


def ours(**options):
    return attention_torch.ResNet(3, **SIZES | options).double()


def refused_port(source, target, **options):
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ParityError) as caught:
        port(source, target, **options)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    return str(caught.value)


def test_a_live_network_ports_both_ways():
    source, target, again = timm_resnet(attention="se"), ours(**SE), timm_resnet(attention="se", seed=9)
    source.bn1.num_batches_tracked += 5
    report = port(source, target, example=image(33, 37))
    assert [(pair.source, pair.target, pair.kind) for pair in report.pairs] == [("", "", "resnet")]
    assert report.unverified == {"": ("stem",)}
    port(target, again, example=image(33, 37))
    theirs, mine = again.state_dict(), source.state_dict()
    assert all(torch.equal(theirs[key], mine[key]) for key in mine)


def test_a_network_ports_as_a_part_of_a_model():
    source = torch.nn.ModuleDict({"body": timm_resnet(attention="se"), "last": torch.nn.Linear(7, 2)})
    target = torch.nn.ModuleDict({"net": ours(**SE), "last": torch.nn.Linear(7, 2)})
    report = port(source, target, mapping={"body": "net"})
    assert {(pair.source, pair.target, pair.how) for pair in report.pairs} == {
        ("body", "net", "mapping"),
        ("last", "last", "name"),
    }
    assert torch.equal(target["net"].stem.conv.weight, source["body"].conv1.weight)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"act_layer": "silu"}, "act1: torch/SiLU"),
        ({"output_stride": 8}, "layer3.0.conv1: strides [1, 1], not [2, 2]"),
        ({"global_pool": "max"}, "global_pool.pool: torch/AdaptiveMaxPool2d"),
        ({"aa_layer": "blur"}, "layer2.0.aa: timm/BlurPool2d"),
        ({"aa_layer": "avg"}, "maxpool: torch/AvgPool2d, not torch/MaxPool2d"),
        ({"stem_type": "deep"}, "a stem of several convolutions"),
        ({"avg_down": True}, "shortcut: source 'average', target 'convolution'"),
        ({"attention": "se"}, "attention: source ['se', 'se', 'se', 'se'], target None"),
        ({"layers": (1, 1, 1, 1)}, "depths: source [1, 1, 1, 1], target [1, 2, 1, 1]"),
    ],
)
def test_what_a_live_network_computes_otherwise_is_named(options, words):
    """Its weights alone would not show most of it."""
    layers = import_timm("timm.layers")
    kinds = {"blur": layers.BlurPool2d, "avg": torch.nn.AvgPool2d}
    options = {name: kinds.get(value, value) if name == "aa_layer" else value for name, value in options.items()}
    assert words in refused_port(timm_resnet(**options), ours())


def test_what_modules_show_needs_no_hint():
    """The class of ECA, the norm's epsilon, and a stem without a maximum behind it."""
    source = timm_resnet(attention="ceca")
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    eca = [{"kernel_size": size, "padding": "circular"} for size in (3, 3, 3, 3)]
    options = {"attention": "eca", "attention_options": eca, "norm": {"epsilon": 1e-3}}
    port(source, ours(**options), example=image(33, 37))
    assert "norm: source {'epsilon': 0.001" in refused_port(source, ours(**options | {"norm": {}}))
    hints = {"padding": "zeros"}
    assert "padding: module 'circular', hint 'zeros'" in refused_port(source, ours(**options), hints=hints)
    source.layer1[0].bn1.eps = 1e-4
    assert "one for the whole network" in refused_port(source, ours(**options))
    source = timm_resnet()
    source.maxpool = torch.nn.Identity()
    assert "maxpool: torch/Identity, not torch/MaxPool2d" in refused_port(source, ours())
    source.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False, dtype=torch.float64)
    port(source, ours(stem="small"), example=image(17, 19))


def test_units_of_this_project_ask_for_no_whole_network():
    """A network put together by its user stays so many parts."""
    source = torch.nn.ModuleDict({"body": timm_resnet("Bottleneck", cardinality=2, base_width=32)})
    target = torch.nn.ModuleDict({"unit": attention_torch.ResidualUnit(8), "body": timm_resnet()})
    assert "without weights" in refused_port(source, target)
    source["unit"] = attention_torch.ResidualUnit(8)
    report = port(source, torch.nn.ModuleDict({"unit": target["unit"], "body": source["body"]}))
    assert {pair.kind for pair in report.pairs} > {"residual", "convolution", "dense"}


def test_a_copy_of_a_class_is_told_by_its_dialect():
    models = import_timm("timm.models.resnet")
    source = timm_resnet(attention="se")
    source.__class__ = type("Mine", (models.ResNet,), {})
    assert "dialect='torchvision/ResNet' or 'timm/ResNet'" in refused_port(source, ours(**SE))
    report = port(source, ours(**SE), dialect="timm/ResNet", example=image(33, 37))
    assert report.unverified == {"": ("stem", "placement")}
    assert "that of a whole network" in refused_port(source, ours(**SE), dialect="timm/SEModule")
    assert "its convolutions have biases" in refused_port(source, ours(**SE), dialect="keras.applications/ResNet")
    line = torch.nn.Linear(2, 2)
    assert "a model of it, beside one" in refused_port(line, torch.nn.Linear(2, 2), dialect="timm/ResNet")


def test_a_class_that_computes_otherwise_is_seen_in_its_outputs():
    """Where it puts its blocks is in no module: the example shows it."""
    models = import_timm("timm.models.resnet")

    class Late(models.BasicBlock):
        def forward(self, x):
            se, self.se = self.se, None
            try:
                return se(super().forward(x))
            finally:
                self.se = se

    source = timm_resnet(attention="se")
    for module in source.modules():
        module.__class__ = Late if isinstance(module, models.BasicBlock) else module.__class__
    assert "the models differ on the example" in refused_port(source, ours(**SE), example=image(33, 37))
    port(source, ours(**SE))
    port(source, timm_resnet(attention="se", seed=4))  # layer by layer, as ever


# On the command line


def test_a_network_ports_on_the_command_line(tmp_path, capsys):
    model = timm_resnet(attention="se")
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "model.pth")
    source, target, back = (str(tmp_path / name) for name in ("model.pth", "blocks.safetensors", "back.pth"))
    assert cli.main(["inspect", source, "--from", "timm/ResNet"]) == cli.AGREED
    assert "attention=[se, se, se, se]" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert cli.main(["port", source, target, "--from", "timm/ResNet"]) == cli.AGREED
    assert cli.main(["port", target, back, "--to", "timm/ResNet", "--json", str(tmp_path / "told.json")]) == cli.AGREED
    assert json.loads((tmp_path / "told.json").read_text())["dialects"] == {"": "timm/ResNet"}
    after = torch.load(back, weights_only=True)
    assert all(torch.equal(value, after[key]) for key, value in model.state_dict().items())


# In every backend


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "seresnet50"])
def test_logits_are_those_of_timm_in_every_backend(name):
    """The weights as files carry them, in a worker of each backend, in both dtypes."""
    model = randomize(import_timm().create_model(name)).eval()
    (block,) = parity.read(model.state_dict(), "timm/ResNet")
    x = image(64, 64)
    for dtype in ("float64", "float32"):
        expected = run(model.to(getattr(torch, dtype)), x.astype(dtype))
        own = replace(block, tensors={key: value.astype(dtype) for key, value in block.tensors.items()})
        for backend in BACKENDS:
            pytest.importorskip({"tf1compat": "tensorflow"}.get(backend, backend.partition("@")[2] or backend))
            result = parity.evaluate(own, x.astype(dtype), backend=backend, dtype=dtype)
            check_logits(expected, result["output"], dtype)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_live_networks_port_beside_keras_on(engine):
    """Keras takes its engine from the environment of the process, so each engine gets a process of its own."""
    pytest.importorskip("keras")
    pytest.importorskip(engine)
    file = Path(__file__).parent / "engines" / "network_weights.py"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", str(file)]
    environment = os.environ | {"KERAS_BACKEND": engine, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
