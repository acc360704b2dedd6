"""Networks: what their specs refuse and keep, what the oracle says of them, and the matrix that they are judged by."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

import parity
from parity import cases, cli, client, compare, network_cases, oracle, run
from parity.block import Block
from parity.errors import (
    InputError,
    MissingTensorError,
    SpecError,
    SpecMismatchError,
    TensorShapeError,
    UnexpectedTensorError,
)
from parity.network_cases import TOPOLOGIES, NetworkCase
from parity.spec import (
    NETWORKS,
    SPECS,
    BatchNorm,
    NetworkSpec,
    PlainNetworkOptions,
    ResidualUnitOptions,
    ResNetOptions,
    ResNetSpec,
    SqueezeExcitationOptions,
    is_statistic,
    spec_from_json,
)
from parity.spec.networks.residual import PLACEMENTS

STANDARD = network_cases.standard()
EVERY = [(block, variant) for block, topologies in TOPOLOGIES.items() for variant in topologies]
STEP = 2.0**-17  # the cube root of epsilon: where rounding and curvature of a central difference balance

# The known sizes of the paper's networks, as every framework's own have them.
SIZES = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}

TUTORIAL = {"channel_merge": "concat", "spatial_features": "full", "kernel_size": 3, "spatial_norm": None}


def spec_of(block, variant):
    return NetworkCase(block, variant, "channels_first", "float64", False).spec


def drawn(spec, seed=0):
    """A block of random weights, in float32."""
    rng = np.random.default_rng(seed)
    return Block("network", spec, {n: weight(n, s, rng).astype("float32") for n, s in spec.parameters().items()})


weight = cases._weight


def names_of(cases_):
    return [case.id for case in cases_]


# ---------------------------------------------------------------------------------------------------------------------
# Specs


@pytest.mark.parametrize(("block", "variant"), EVERY)
def test_specs_survive_json_and_their_own_options(block, variant):
    spec = spec_of(block, variant)
    again = spec_from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert hash(again) == hash(spec)
    assert not spec.differences(again)
    options = spec.options()
    assert options.resolve(spec.channels, spec.spatial_dims) == spec
    assert type(options).from_json(json.loads(json.dumps(options.to_json()))) == options


@pytest.mark.parametrize(("block", "variant"), EVERY)
def test_weights_tell_what_they_can(block, variant):
    """Names and shapes, with the facts that they do not tell, give the spec."""
    spec = spec_of(block, variant)
    facts = spec.options().arguments() | spec.arguments()
    told = (
        "stride",
        "strides",
        "placement",
        "shortcut",
        "norm",
        "activation",
        "padding",
        "head",
        "map_sizes",
        "output",
    )
    given = {name: facts[name] for name in told if facts.get(name) is not None}
    attention = spec.attention if isinstance(spec.attention, tuple) else (spec.attention,)
    inside = next((one for one in attention or () if one), None)
    if inside:
        kept = ("activation", "gate", "norm", "spatial_norm", "spatial_features", "merge", "padding", "num_heads")
        given["attention"] = inside.block
        given["attention_options"] = {name: value for name, value in inside.arguments().items() if name in kept}
    assert type(spec).infer(spec.parameters(), **given) == spec


def test_a_network_is_no_block():
    assert not set(NETWORKS) & set(SPECS)
    for kind in NETWORKS.values():
        assert issubclass(kind, NetworkSpec)
    with pytest.raises(SpecError, match=r"received attention='resnet'; expected one of 'se'"):
        ResidualUnitOptions(attention="resnet")


REFUSED = {
    "placement": (
        lambda: ResidualUnitOptions(attention="se", placement="inside"),
        r"received placement='inside'; expected one of 'before_addition', 'after_addition', 'before_unit', 'identity'",
    ),
    "attention": (lambda: ResNetOptions(attention="cbma"), r"received attention='cbma'; expected one of 'se', 'cbam'"),
    "no attention": (
        lambda: ResNetOptions(attention_options={"reduction": 4}),
        r"received attention_options=\{'reduction': 4\} without attention",
    ),
    "unknown option": (
        lambda: ResidualUnitOptions(attention="eca", attention_options={"reduction": 4}),
        r"received attention_options with 'reduction' for attention='eca'; expected some of kernel_size, gamma",
    ),
    "wrong option": (
        lambda: ResidualUnitOptions(attention="se", attention_options={"reduction": 0}),
        r"received reduction=0",
    ),
    "options": (
        lambda: PlainNetworkOptions(attention_options=7),
        r"received attention_options=7; expected a mapping of arguments of CBAM",
    ),
    "options of stages": (
        lambda: ResNetOptions(depths=(1, 1), attention="se", attention_options=[{}, {}, {}]).resolve(3),
        r"received attention_options for 3 stages; expected one mapping, or one for each stage: 2",
    ),
    "depth": (lambda: ResNetOptions(depth=19), r"received depth=19; expected one of 18, 34, 50, 101, 152"),
    "depths": (lambda: ResNetOptions(depths=()), r"received depths=\(\); expected at least one integer"),
    "depths of text": (lambda: ResNetOptions(depths="22"), r"received depths='22'; expected a sequence of integers"),
    "depth and depths": (lambda: ResNetOptions(depth=50, depths=(1,)), r"received depth=50 and depths=\(1,\)"),
    "bottleneck": (lambda: ResNetOptions(bottleneck=True), r"received bottleneck=True without depths"),
    "bottleneck width": (
        lambda: ResidualUnitOptions(bottleneck=True).resolve(6),
        r"received out_channels=6 with bottleneck=True; expected a multiple of 4",
    ),
    "stem": (lambda: ResNetOptions(stem="cifar"), r"received stem='cifar'; expected one of 'imagenet', 'small'"),
    "shortcut": (lambda: ResNetOptions(shortcut="pad"), r"received shortcut='pad'; expected one of 'convolution'"),
    "norm": (lambda: ResNetOptions(norm="layer"), r"received 'layer' as a norm; expected a BatchNorm, or a"),
    "classes": (lambda: ResNetOptions(classes=0), r"received classes=0; expected an integer of at least 1"),
    "strides": (lambda: PlainNetworkOptions(strides=(1, 2)), r"received 3 filters and 2 strides"),
    "map_sizes": (
        lambda: PlainNetworkOptions().resolve(3),
        r"received head='flatten' with map_sizes=None; expected the 2 spatial sizes of the input",
    ),
    "map_sizes of another rank": (
        lambda: PlainNetworkOptions(map_sizes=(8, 8)).resolve(3, 3),
        r"received head='flatten' with map_sizes=\(8, 8\); expected the 3 spatial sizes",
    ),
    "head": (lambda: PlainNetworkOptions(head="max"), r"received head='max'; expected one of 'flatten', 'mean'"),
    "after": (lambda: PlainNetworkOptions(attention_after="first"), r"received attention_after='first'"),
    "padding": (lambda: PlainNetworkOptions(padding="same"), r"received padding='same'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_network_is_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(SpecError, match=message):
        make()


def test_a_spec_is_checked_like_options():
    """A file may hold any JSON."""
    value = ResNetOptions(depths=(1, 1), width=8, attention="se").resolve(3).to_json()
    channels = SqueezeExcitationOptions().resolve(7).to_json()
    for changes, message in (
        ({"placement": "inside"}, "received placement='inside'"),
        ({"depths": [1, 0]}, r"received depths\[1\]=0"),
        ({"attention": [channels, channels]}, "received the spec of a block 'se' for 7 channels"),
        ({"attention": value["attention"][:1]}, "expected a sequence of one for each stage: 2"),
        ({"attention": [value, value]}, "as an attention"),
        ({"attention": None}, "without attention"),
        ({"stages": 4}, "unknown 'stages'"),
        ({"shortcut": None}, "received shortcut=None"),
    ):
        with pytest.raises(SpecError, match=message):
            spec_from_json(value | changes)


class Halved(type(SqueezeExcitationOptions().resolve(8))):
    """A block that gives back half of the map."""

    def output_shape(self, shape, data_format):
        return (*shape[:-1], shape[-1] // 2)


def test_a_block_that_does_not_keep_the_shape_is_refused_where_it_must():
    attention = Halved(**SqueezeExcitationOptions().resolve(8).arguments())
    unit = ResidualUnitOptions(attention="se").resolve(8)
    with pytest.raises(SpecError, match=r"expected a block that gives back a map of 8 channels and of the same size"):
        replace(unit, attention=attention)
    plain = PlainNetworkOptions(filters=(8, 8), strides=(1, 1), attention="se", head="mean").resolve(3)
    with pytest.raises(
        SpecError, match=r"behind each convolution, which does not keep .*; pass attention_after='last'"
    ):
        replace(plain, attention=(attention, attention))
    assert replace(plain, attention=(None, attention)).features == 8


def test_equal_functions_have_equal_specs():
    """Fields that mean nothing do not tell specs apart."""
    assert ResidualUnitOptions(placement="identity", shortcut="average").resolve(8) == ResidualUnitOptions().resolve(8)
    one, other = (ResidualUnitOptions(out_channels=4, shortcut=way).resolve(8) for way in ("average", "convolution"))
    assert one == other  # nothing to pool over
    assert ResNetOptions(depth=50).resolve(3) == ResNetOptions(depths=(3, 4, 6, 3), bottleneck=True).resolve(3)
    assert ResNetOptions(depths=(2,), shortcut="average").resolve(3) == ResNetOptions(depths=(2,)).resolve(3)
    flat = PlainNetworkOptions(strides=(1, 1, 1), head="mean", map_sizes=(5, 5))
    assert flat.resolve(3) == replace(flat, padding="symmetric", map_sizes=None).resolve(3)
    eca = ResNetOptions(depths=(1,), attention="eca").resolve(3)
    open_ = replace(eca, attention=(replace(eca.attention[0], channels=None),))
    assert open_ == eca


@pytest.mark.parametrize(("depth", "size"), SIZES.items())
def test_the_papers_networks_have_their_sizes(depth, size):
    shapes = ResNetOptions(depth=depth).resolve(3).parameters()
    assert sum(math.prod(shape) for name, shape in shapes.items() if not is_statistic(name)) == size


def test_the_tutorial_has_its_shapes():
    """Conv3D of 64, 128 and 256 filters on 32^3, each followed by a CBAM; Flatten; Dense(10)."""
    options = PlainNetworkOptions(attention_options=TUTORIAL | {"reduction": 8}, map_sizes=(32, 32, 32))
    spec = options.resolve(3, 3)
    shapes = spec.parameters()
    assert shapes["conv1.kernel"] == (64, 3, 3, 3, 3)
    assert shapes["conv3.kernel"] == (256, 128, 3, 3, 3)
    assert shapes["attention2.channel.fc1.kernel"] == (16, 256)
    assert shapes["attention3.spatial.conv.kernel"] == (1, 256, 3, 3, 3)
    assert shapes["head.kernel"] == (10, 256 * 8**3)
    assert spec.output_shape((2, 32, 32, 32, 3), "channels_last") == (2, 10)
    with pytest.raises(InputError, match=r"expected a map of \(32, 32, 32\): the head's weights are for that size"):
        spec.check_input((2, 3, 32, 32, 31), "channels_first")
    assert spec.check_input((None, 3, None, 32, None), "channels_first") == 3


def test_shapes_follow_strides():
    unit = ResidualUnitOptions(out_channels=24, stride=2).resolve(12)
    assert unit.output_shape((2, 5, None, 12), "channels_last") == (2, 3, None, 24)
    assert unit.output_shape((None, 12, 8, 9), "channels_first") == (None, 24, 4, 5)
    assert ResNetOptions(classes=7).resolve(3).output_shape((None, 3, 8, 8), "channels_first") == (None, 7)


def test_attention_of_an_entering_unit_sees_the_stage_before():
    spec = ResNetOptions(depths=(2, 2), width=8, attention="se", placement="before_unit").resolve(3)
    shapes = spec.parameters()
    assert shapes["stage2.unit1.attention.fc2.kernel"] == (8, 1)
    assert shapes["stage2.unit2.attention.fc2.kernel"] == (16, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def test_weights_that_do_not_fit_are_named():
    spec = ResNetOptions(depths=(1, 1), width=4, attention="se", classes=5).resolve(3)
    tensors = dict(drawn(spec).tensors)
    lacking = {name: value for name, value in tensors.items() if name != "stage2.unit1.shortcut.conv.kernel"}
    with pytest.raises(MissingTensorError, match=r"lacks stage2\.unit1\.shortcut\.conv\.kernel"):
        Block("network", spec, lacking)
    with pytest.raises(UnexpectedTensorError, match=r"has the unexpected stage1\.unit1\.attention\.fc3\.bias"):
        Block("network", spec, tensors | {"stage1.unit1.attention.fc3.bias": np.ones(3)})
    with pytest.raises(TensorShapeError, match=r"head\.kernel of shape \(6, 8\) instead of \(5, 8\)"):
        Block("network", spec, tensors | {"head.kernel": np.ones((6, 8))})
    with pytest.raises(MissingTensorError, match=r"stage2\.unit2\.conv1\.kernel"):
        Block("network", replace(spec, depths=(1, 2)), tensors)


@pytest.mark.parametrize(("block", "variant"), EVERY)
def test_an_exchange_file_holds_a_network(block, variant, tmp_path):
    network = drawn(spec_of(block, variant))
    parity.write(tmp_path / "network.safetensors", [network])
    (again,) = parity.read(tmp_path / "network.safetensors")
    assert again.spec == network.spec
    assert all(np.array_equal(again.tensors[name], value) for name, value in network.tensors.items())


def test_torch_takes_a_network_from_a_file(tmp_path):
    torch = pytest.importorskip("torch")
    attention_torch = pytest.importorskip("attention_torch")
    one = attention_torch.ResNet(3, depths=(1, 2), width=4, attention="cbam", placement="identity", classes=5)
    parity.write(tmp_path / "network.safetensors", parity.blocks_of(one))
    (block,) = parity.read(tmp_path / "network.safetensors")
    other = attention_torch.ResNet.from_spec(block.spec)
    assert parity.load_into(other, tmp_path / "network.safetensors").unverified == {}
    x = torch.randn(2, 3, 33, 35)
    assert torch.equal(one(x), other(x))
    elsewhere = attention_torch.ResNet(3, depths=(1, 2), width=4, attention="cbam", classes=5)
    with pytest.raises(SpecMismatchError, match="placement: weights 'identity', model 'before_addition'"):
        parity.load_into(elsewhere, tmp_path / "network.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": None}, r"attention: weights \['se', 'se'\], model None; placement: weights 'before_addition'"),
        ({"attention": "eca"}, r"attention\[0\]: weights 'se', model 'eca'; attention\[1\]: weights 'se', model 'eca'"),
        (
            {"attention_options": ({}, {"reduction": 2})},
            r"computes \(attention\[1\]\.hidden_channels: weights 1, model 4\)",
        ),
        ({"depths": (1, 3)}, r"computes \(depths: weights \[1, 2\], model \[1, 3\]\)"),
    ],
)
def test_the_error_for_another_network_names_the_fields_alone(options, message):
    pytest.importorskip("torch")
    attention_torch = pytest.importorskip("attention_torch")
    common = {"depths": (1, 2), "width": 4, "attention": "se", "classes": 5}
    one = attention_torch.ResNet(3, **common)
    other = attention_torch.ResNet(3, **common | options)
    with pytest.raises(SpecMismatchError, match=message) as caught:
        parity.load_into(other, parity.blocks_of(one))
    assert len(str(caught.value)) < 300
    ours, theirs = parity.blocks_of(one)[0].spec, parity.blocks_of(other)[0].spec
    assert len(ours.differences(theirs)) == message.count("weights")


def test_the_error_for_many_tensors_is_short():
    tensors = drawn(ResNetOptions(depth=18, width=4).resolve(3)).tensors
    deeper = ResNetOptions(depth=34, width=4).resolve(3)
    with pytest.raises(MissingTensorError, match=r"lacks stage1\.unit3\.conv1\.kernel, .* and 68 more") as caught:
        Block("network", deeper, tensors)
    assert len(str(caught.value)) < 1000


def test_a_network_is_found_as_one_block():
    torch = pytest.importorskip("torch")
    attention_torch = pytest.importorskip("attention_torch")
    unit = attention_torch.ResidualUnit(8, attention="se")
    model = torch.nn.Sequential(unit, attention_torch.ECA(8), torch.nn.Conv2d(8, 8, 1))
    assert [(block.name, block.spec.block) for block in parity.blocks_of(model)] == [("0", "residual"), ("1", "eca")]


@pytest.mark.parametrize(("depth", "size"), list(SIZES.items())[:3])
def test_torch_has_the_papers_networks(depth, size):
    attention_torch = pytest.importorskip("attention_torch")
    network = attention_torch.ResNet(3, depth=depth, device="meta")
    assert sum(value.numel() for value in network.parameters()) == size


# ---------------------------------------------------------------------------------------------------------------------
# The oracle


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("block", "variant"), [pair for pair in EVERY if not pair[1].startswith("depth")])
def test_gradient_is_the_central_difference(block, variant, training):
    """Along one random direction of everything at once, and along one of a few parameters each."""
    case = NetworkCase(block, variant, "channels_first", "float64", training)
    problem = case.problem()
    rng = np.random.default_rng(7)
    point = {"input": problem.x} | {n: v for n, v in problem.block.tensors.items() if not is_statistic(n)}
    names = list(point)

    def loss(moved):
        tensors = {name: value + moved.get(name, 0.0) for name, value in problem.block.tensors.items()}
        x = problem.x + moved.get("input", 0.0)
        y = oracle.evaluate(case.spec, tensors, x, training=training)["output"].value
        return float((y * problem.cotangent).sum())

    step = STEP * min(1.0, margin_of(problem))
    for chosen in (names, *([name] for name in rng.choice(names, 3, replace=False))):
        direction = {name: rng.uniform(-1, 1, point[name].shape) for name in chosen}
        ahead, behind = (loss({name: sign * step * value for name, value in direction.items()}) for sign in (1, -1))
        along = sum(float((problem.expected[f"grad.{n}"].value * value).sum()) for n, value in direction.items())
        scale = sum(float(np.abs(problem.expected[f"grad.{n}"].value * v).sum()) for n, v in direction.items())
        size = float(np.abs(problem.expected["output"].value * problem.cotangent).sum())
        rounding = 2.0**-44 * size / step
        assert abs((ahead - behind) / (2 * step) - along) <= 2.0**-10 * scale + rounding, chosen


def margin_of(problem):
    return min(value.margin for value in problem.expected.values())


def test_placements_differ_from_one_another():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 8, 5, 7))
    tensors = drawn(ResidualUnitOptions(attention="se").resolve(8)).tensors
    outputs = {}
    for placement in PLACEMENTS:
        spec = ResidualUnitOptions(attention="se", placement=placement).resolve(8)
        outputs[placement] = oracle.evaluate(spec, tensors, x)["output"].value
    for one, other in itertools.combinations(PLACEMENTS, 2):
        size = np.abs(outputs[one]).max()
        assert np.abs(outputs[one] - outputs[other]).max() > size / 100, (one, other)


def test_paddings_and_shortcuts_differ():
    """The very mistakes that ports of strided layers make."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 4, 6, 8))
    options = PlainNetworkOptions(filters=(5,), strides=(2,), attention=None, head="mean", output="logits")
    one, other = (replace(options, padding=how).resolve(4) for how in ("tensorflow", "symmetric"))
    tensors = drawn(one).tensors
    maps = [oracle.evaluate(spec, tensors, x)["layer.conv1"].value for spec in (one, other)]
    assert np.abs(maps[0] - maps[1]).max() > np.abs(maps[0]).max() / 10
    # By hand: position (0, 0) of "same" with stride 2 sees x from 0, that of symmetric padding from -1.
    kernel, bias = tensors["conv1.kernel"].astype(float), tensors["conv1.bias"].astype(float)
    assert maps[0][0, :, 0, 0] == pytest.approx(np.einsum("ochw,chw->o", kernel, x[0, :, :3, :3]) + bias)
    corner = np.einsum("ochw,chw->o", kernel[:, :, 1:, 1:], x[0, :, :2, :2]) + bias
    assert maps[1][0, :, 0, 0] == pytest.approx(corner)
    unit = ResidualUnitOptions(out_channels=6, stride=2)
    spec, averaged = unit.resolve(4), replace(unit, shortcut="average").resolve(4)
    tensors = drawn(spec).tensors
    outputs = [oracle.evaluate(one, tensors, x)["output"].value for one in (spec, averaged)]
    assert np.abs(outputs[0] - outputs[1]).max() > np.abs(outputs[0]).max() / 100


def test_flatten_runs_over_positions_first():
    spec = PlainNetworkOptions(
        filters=(3,), strides=(1,), kernel_size=1, attention=None, map_sizes=(2, 5), output="logits", classes=1
    ).resolve(3)
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 5))
    tensors = {"conv1.kernel": np.eye(3)[:, :, None, None], "conv1.bias": np.zeros(3), "head.bias": np.zeros(1)}
    for place in (0, 7, 29):
        head = np.zeros((1, 30))
        head[0, place] = 1
        y = oracle.evaluate(spec, tensors | {"head.kernel": head}, x)["output"].value
        assert y[0, 0] == x[0].transpose(1, 2, 0).ravel()[place]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("head", ["flatten", "mean"])
def test_the_last_block_may_take_an_axis_away(dims, head):
    """The mean runs over the axes that are left; with one dimension, none is."""
    sizes = (5, 6, 7)[:dims]
    options = PlainNetworkOptions(
        **{"filters": (4,), "strides": (1,), "attention": "attention_pooling", "head": head, "map_sizes": sizes},
        output="logits",
    )
    spec = options.resolve(3, dims)
    tensors = drawn(spec).tensors
    expected = oracle.evaluate(spec, tensors, np.random.default_rng(0).normal(size=(2, 3, *sizes)))
    u = expected["layer.attention1"].value
    assert u.shape == (2, 4, *sizes[1:])
    z = u.reshape(2, 4, -1)
    z = z.transpose(0, 2, 1).reshape(2, -1) if head == "flatten" else z.mean(-1)
    y = z @ tensors["head.kernel"].astype(float).T + tensors["head.bias"]
    assert expected["output"].value == pytest.approx(y)


def test_average_pools_count_what_is_there():
    from parity.oracle._measured import given
    from parity.oracle.networks._parts import average_pool

    x = np.arange(1.0, 16.0).reshape(1, 1, 3, 5)
    pooled = average_pool(given(x), 2).value[0, 0]
    assert pooled[0].tolist() == [4.0, 6.0, 7.5]
    assert pooled[1].tolist() == [11.5, 13.5, 15.0]


def test_an_oracle_of_a_network_gives_each_layer_in_inference_alone():
    case = NetworkCase("resnet", "se", "channels_last", "float64", False)
    expected = case.problem().expected
    assert [name for name in expected if name.startswith("layer.")] == [f"layer.{name}" for name in case.spec.layers()]
    assert expected["layer.stage2.unit1"].value.shape[-1] == 12
    training = NetworkCase("resnet", "se", "channels_last", "float64", True).problem().expected
    assert not any(name.startswith("layer.") for name in training)


# ---------------------------------------------------------------------------------------------------------------------
# The matrix


def test_ids_are_unique_and_find_their_case():
    every = names_of(network_cases.everything())
    assert len(set(every)) == len(every)
    assert set(names_of(STANDARD)) <= set(every)
    for case in STANDARD[::7]:
        assert cases.find(case.id) == case
    assert set(names_of(STANDARD)) <= {case.id for case in cases.standard()}


def test_the_standard_networks_cover_what_they_claim():
    assert len(STANDARD) <= 45
    specs = [case.spec for case in STANDARD]
    units = [s for spec in specs for s in (itertools.chain(*spec.units()) if isinstance(spec, ResNetSpec) else [spec])]
    seen = {field: {getattr(unit, field, None) for unit in units} for field in ("placement", "shortcut", "bottleneck")}
    assert seen["placement"] >= set(PLACEMENTS)
    assert seen["shortcut"] >= {"convolution", "average"}
    assert seen["bottleneck"] >= {True, False}
    assert {spec.stem for spec in specs if isinstance(spec, ResNetSpec)} == {"imagenet", "small"}
    attention = [spec.attention if isinstance(spec.attention, tuple) else (spec.attention,) for spec in specs]
    assert {one.block if one else None for several in attention for one in several} == {*SPECS, None}
    assert {spec.spatial_dims for spec in specs} == {1, 2, 3}
    cells = {(case.block, case.data_format, case.training) for case in STANDARD}
    assert len(cells) == 3 * 2 * 2
    assert {(case.dtype, case.training) for case in STANDARD} == set(
        itertools.product(("float64", "float32"), (False, True))
    )
    assert any(isinstance(spec, ResNetSpec) and spec.depths == (2, 2, 2, 2) for spec in specs)


@pytest.mark.parametrize("case", STANDARD, ids=names_of(STANDARD))
def test_every_case_can_fail(case):
    """Every parameter that is not inert moves the output, and no comparison hangs on rounding."""
    problem = case.problem()
    assert problem.by_norm
    assert case._decided(problem.expected)
    for name in case.spec.parameters():
        if not is_statistic(name):
            gradient = problem.expected[f"grad.{name}"].value
            assert (name in case.spec.inert(case.training)) == (not gradient.any()), name


def test_every_layer_matters():
    """Each weight that is off by a hundredth shows, by itself, in an output and in a gradient."""
    case = cases.find("resnet-se-2d-first-float32-eval")
    problem = case.problem()
    how = {"dtype": "float32", "device": "cpu", "by_norm": True, "network": True}
    for name, value in problem.block.tensors.items():
        tensors = problem.block.tensors | {name: value * np.float32(1.01) + np.float32(2e-3)}
        off = oracle.evaluate(case.spec, tensors, problem.x, cotangent=problem.cotangent)
        got = {key: result.value.astype("float32") for key, result in off.items()}
        failed = {result.name for result in compare.compare(problem.expected, got, **how) if result.failure}
        assert "output" in failed, name
        assert name == "head.bias" or any(key.startswith("grad.") for key in failed), name  # it only shifts


def test_a_wrong_layer_is_named(monkeypatch):
    pytest.importorskip("torch")
    case = cases.find("resnet-se-2d-first-float32-eval")
    right = client.run

    def wrong(backend, device, block, *rest, **options):
        name = "stage2.unit1.conv2.kernel"
        tensors = block.tensors | {name: block.tensors[name] * np.float32(1.05)}
        return right(backend, device, Block(block.name, block.spec, tensors), *rest, **options)

    assert run.attempt(case, "torch").agreed
    monkeypatch.setattr(client, "run", wrong)
    outcome = run.attempt(case, "torch")
    assert not outcome.agreed
    assert "The first layer that differs is 'stage2.unit1'; 'stage1.unit1' before it still agrees" in outcome.explain()
    training = run.attempt(cases.find("resnet-se-2d-first-float64-train"), "torch")
    assert not training.agreed
    assert "more results" in training.explain()


def test_the_command_line_knows_networks(capsys):
    assert cli.main(["run", "--block", "resnet", "--list"]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [case.id for case in STANDARD if case.block == "resnet"]
    assert cli.main(["run", "--block", "plain", "--full", "--list"]) == 0
    assert len(capsys.readouterr().out.split()) == 8 * len(TOPOLOGIES["plain"])


def test_the_report_and_its_bundle_have_networks(capsys, tmp_path):
    pytest.importorskip("torch")
    chosen = ["--case", "plain-se-last-2d-last-float64-eval", "--case", "se-default-1d-odd-first-float64-eval"]
    assert cli.main(["run", "--backend", "torch", *chosen, "--out", str(tmp_path / "bundle")]) == 0
    printed = capsys.readouterr().out
    assert "worst error / allowed of networks, cpu" in printed
    results = json.loads((tmp_path / "bundle" / "results.json").read_text())
    assert {row["block"] for row in results["worst"]} == {"plain", "se"}
    assert cli.main(["compare", str(tmp_path / "bundle"), str(tmp_path / "bundle")]) == 0


def test_torch_agrees_with_the_oracle():
    pytest.importorskip("torch")
    few = [case for case in STANDARD if case.variant in ("identity", "cbam-after-addition", "tutorial", "line")]
    report = run.judge(few, ["torch"])
    assert report.agreed, [outcome.explain() for outcome in report.failures]


def test_parity_evaluate_takes_networks():
    pytest.importorskip("torch")
    network = drawn(
        PlainNetworkOptions(filters=(4,), strides=(2,), head="mean", classes=3, norm=BatchNorm()).resolve(2)
    )
    x = np.random.default_rng(0).normal(size=(3, 5, 6, 2))
    result = parity.evaluate(network, x, backend="torch", data_format="channels_last")
    assert set(result) == {"output", "layer.conv1", "layer.attention1"}
    assert result["layer.conv1"].shape == (3, 3, 3, 4)
    with pytest.raises(InputError, match=r"received a cotangent of shape \(3, 5, 6, 2\); expected .*\(3, 3\)"):
        parity.evaluate(network, x, backend="torch", data_format="channels_last", cotangent=x)
