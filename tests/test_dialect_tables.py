"""Every table of `parity.dialects`: sound in itself, bitwise there and back, and true to the implementations."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from timm_models import import_timm, randomize

from parity import detection, dialects, exchange, oracle
from parity.cases import OPTIONS
from parity.compare import compare
from parity.dialects._table import LAYOUTS, Dialect, Tensor
from parity.errors import DialectError, SpecError, UnexpectedTensorError
from parity.oracle import Measured
from parity.spec import SPECS, CBAMSpec, ECASpec

ALL = list(dialects.DIALECTS.values())
LOSSLESS = [one for one in ALL if not one.refused]
REFUSED = [one for one in ALL if one.refused]

DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)

CHANNELS = 24
STAR = "stage2_block1_"


def random(*shape):
    return np.random.default_rng(list(shape)).standard_normal(shape)


def by_id(values):
    return pytest.mark.parametrize("dialect", values, ids=lambda one: one.id)


# The tables in themselves


def test_ids_are_unique_and_name_a_project_and_a_class():
    assert len(ALL) == sum(len(family.DIALECTS) for family in dialects.FAMILIES)
    assert len(ALL) == 155
    for one in ALL:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w-]+)?", one.id)


def test_wanted_dialects_are_there():
    wanted = """timm/SEModule timm/SqueezeExcite timm/EcaModule timm/CecaModule timm/CbamModule timm/CoordAttn
        torchvision/SqueezeExcitation senet.pytorch/SELayer attention-module/CBAM attention-module/CBAM-no_spatial
        CBAM.PyTorch/CBAM CBAM.PyTorch/CBAM@c85f6a2 fightingcv/SEAttention fightingcv/CBAMBlock fightingcv/ECAAttention
        fightingcv/CoordAtt CoordAttention/CoordAtt CoordAttention/mbv2_ca.CoordAtt ECANet/eca_layer
        bubbliiiing/se_block bubbliiiing/cbam_block bubbliiiing/eca_block bubbliiiing/CA_Block
        mobilenetv3.pytorch/SELayer nikhilroxtomar/cbam monai/ChannelSELayer mmpretrain/SELayer pytorchcv/SEBlock
        pytorchcv/CbamBlock PaddleClas/SEModule efficientnet_pytorch/MBConvBlock
        keras.applications/mobilenet_v3_se_block keras.applications/efficientnet keras_cv_attention_models/se_module
        keras_cv_attention_models/eca_module CBAM-keras/cbam_block tf2cv/CbamBlock tutorial-pytorch/SEAttention
        tutorial-pytorch/CBAMAttention tutorial-pytorch/ECAAttention tutorial-pytorch/CAAttention
        tutorial-keras/se_block tutorial-keras/cbam_block tutorial-keras/eca_block tutorial-tensorflow/CBAM
        tutorial-tf1/cbam_module"""
    assert {one.id for one in LOSSLESS} >= set(wanted.split())


@by_id(ALL)
def test_a_table_is_sound(dialect):
    assert dialect.block in SPECS
    assert dialect.source
    assert set(dialect.doubtful) <= set(dialect.defaults)
    assert not set(dialect.facts) & set(dialect.doubtful)
    keys = [row.key for row in dialect.tensors if row.part[0] == 0]
    names = [row.canonical for row in dialect.tensors]
    assert len(set(keys)) == len(keys)
    parts = Counter((row.key, row.part[1]) for row in dialect.tensors)
    assert all(count == number for (_, count), number in parts.items())
    assert set(dialect.asked) <= set(dialect.defaults)
    assert not set(dialect.asked) & {*dialect.facts, *dialect.doubtful, *dialect.sizes.values()}
    assert set(dialect.sizes) <= {letter for row in dialect.tensors for letter in row.shape.split()}
    wanted = {field.name for field in fields(SPECS[dialect.block])}
    assert {*dialect.sizes.values(), *dialect.aliases.values()} <= wanted
    assert not dialect.aliases.keys() & wanted
    assert len(set(names)) == len(names)
    assert all(step in LAYOUTS for row in dialect.tensors for step in row.layout.split())
    assert not all(row.optional for row in dialect.tensors)
    # One separator throughout, and stars in all keys or in none.
    assert len({"*" in key for key in keys}) == 1
    assert all(key.count("*") <= 1 for key in keys)
    assert not any("/" in key and "." in key for key in keys)
    assert not dialect.numbered or dialect.numbered.keys() == {key.rpartition("/")[0] for key in keys}


@by_id(ALL)
def test_every_key_is_one_row(dialect):
    """No filled-in key fits two rows, whatever the star stands for."""
    for star in ("", "a", "a_", "squeeze_excite_conv_", "1_conv"):
        for row in dialect.tensors:
            key = row.key.replace("*", star)
            assert {one: {row.key: key} for one in [star if "*" in row.key else ""]} == dialect.match_keys([key])


@by_id(REFUSED)
def test_what_is_refused_has_a_reason(dialect):
    assert dialect.exactness == f"refused: {dialect.refused}"
    assert len(dialect.refused.split()) > 5
    sentence = re.escape(f"received the dialect {dialect.id}: {dialect.refused}; expected one that is lossless")
    with pytest.raises(DialectError, match=sentence):
        dialects.to_canonical(dialect, {})
    with pytest.raises(DialectError, match=sentence):
        dialects.from_canonical(dialect, {})


def test_refused_are_these():
    """A table that starts to refuse, or stops to, is news for its users."""
    assert sorted(one.id for one in REFUSED) == [
        "CoordAttention_keras/CoordAtt",
        "CoordAttention_tensorflow/CoordAtt",
        "ECANet/eca_ns",
        "MenghaoGuo/CBAM",
        "bubbliiiing-tf2/ca_block",
        "monai/ResidualSELayer",
        "nikhilroxtomar/cbam@47c17d1",
        "pytorch-toolbelt/ChannelSpatialGate2dV2",
        "timm/EcaModule-mlp",
        "timm/EfficientLocalAttn",
        "timm/LightCbamModule",
        "timm/SEModule-norm",
        "timm/SimpleCoordAttn",
        "ultralytics/CBAM",
    ]


# There and back


def candidates(block):
    """Specs of every structure that a block can have: whatever parameters exist, in every rank."""
    specs = []
    for options, rank in itertools.product(OPTIONS[block].values(), (1, 2, 3)):
        specs.append(options.resolve(CHANNELS, rank))
    if block == "cbam":
        more = itertools.product((True, False), (True, False), ("both", "channel", "spatial"), (True, False), (1, 2, 3))
        for mlp_bias, spatial_bias, parts, norm, rank in more:
            given = {"mlp_bias": mlp_bias, "spatial_bias": spatial_bias, "parts": parts, "kernel_size": 5}
            options = replace(OPTIONS[block]["default"], **given)
            specs.append((options if norm else replace(options, spatial_norm=None)).resolve(CHANNELS, rank))
    if block == "ca":
        for options, bias in itertools.product(OPTIONS[block].values(), (True, False)):
            specs.append(replace(options, bias=bias, head_bias=bias).resolve(CHANNELS, 2))
    return specs


CANDIDATES = {block: candidates(block) for block in SPECS}


def fitting(dialect):
    """The specs, one a set of parameters, whose weights `dialect` has a place for."""
    return _fitting(dialect.id)


@cache
def _fitting(name):
    dialect = dialects.get(name)
    rows = {row.canonical: row for row in dialect.tensors if not row.extra}
    needed = {name for name, row in rows.items() if not row.optional}
    found = {}
    for spec in CANDIDATES[dialect.block]:
        shapes = spec.parameters()
        if needed <= shapes.keys() <= rows.keys():
            spec = told(spec, dialect)
            tensors = {name: random(*shape) for name, shape in shapes.items()}
            if spec is None or spec.parameters() != shapes or not writable(dialect, tensors, spec):
                continue
            found.setdefault(tuple(shapes.items()), spec)
    return list(found.values())


def told(spec, dialect):
    """`spec` with what the dialect says; None where that is another structure."""
    given = spec.to_json()
    said = {**dialect.defaults, **dialect.facts}
    said.pop("spatial_dims", None)
    known = {name: value for name, value in said.items() if given[name] is not None or name in dialect.facts}
    try:
        changed = type(spec).from_json(given | known)
    except SpecError:  # an axis that this rank has not
        return None
    if isinstance(changed, CBAMSpec) and changed.parts == "spatial" and changed.spatial_features == "pooled":
        return replace(changed, channels=None)  # which its weights do not tell
    return replace(changed, channels=None) if isinstance(changed, ECASpec) else changed


def writable(dialect, tensors, spec):
    """Whether the table's layouts have these ranks."""
    try:
        dialects.from_canonical(dialect, tensors, star=star_of(dialect), spec=spec)
    except DialectError:
        return False
    return True


def extras_of(dialect):
    return {row.canonical: np.array(7, np.int64) for row in dialect.tensors if row.extra}


def star_of(dialect):
    return STAR if "*" in dialect.tensors[0].key else ""


def same(a, b):
    """Bit for bit, names and dtypes included."""
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and a[key].shape == b[key].shape and a[key].tobytes() == b[key].tobytes()
        for key in a
    )


def scattered(value):
    """The same numbers in another order of memory."""
    return np.asfortranarray(value) if value.ndim > 1 else np.repeat(value, 2)[::2] if value.ndim else value


@by_id(LOSSLESS)
def test_canonical_foreign_canonical_is_bitwise(dialect):
    specs = fitting(dialect)
    assert specs
    for spec, dtype in itertools.product(specs, DTYPES):
        tensors = {name: random(*shape).astype(dtype) for name, shape in spec.parameters().items()}
        extras = extras_of(dialect)
        state = dialects.from_canonical(dialect, tensors, extras, star=star_of(dialect), spec=spec)
        assert not any("*" in key for key in state)
        back, kept = dialects.to_canonical(dialect, state)
        assert same(back, tensors)
        assert same(kept, extras)
        assert same(dialects.from_canonical(dialect, back, kept, star=star_of(dialect), spec=spec), state)
        other = {name: scattered(value) for name, value in tensors.items()}
        assert same(dialects.from_canonical(dialect, other, extras, star=star_of(dialect), spec=spec), state)
        assert same(dialects.to_canonical(dialect, {key: scattered(value) for key, value in state.items()})[0], tensors)


@by_id(LOSSLESS)
def test_every_optional_tensor_may_be_there_and_may_not(dialect):
    present = [set(spec.parameters()) for spec in fitting(dialect)]
    for row in dialect.tensors:
        if not row.extra:
            assert any(row.canonical in names for names in present), row
            assert row.optional == any(row.canonical not in names for names in present), row


@by_id(LOSSLESS)
def test_a_named_dialect_tells_the_spec(dialect):
    """Sizes and biases from the weights, the rest from the dialect, under any prefix."""
    for spec in fitting(dialect):
        tensors = {name: random(*shape) for name, shape in spec.parameters().items()}
        state = dialects.from_canonical(dialect, tensors, extras_of(dialect), star=star_of(dialect), spec=spec)
        prefix = "net" + dialect.separator
        hints = {name: spec.to_json()[name] for name in ("spatial_dims", *dialect.asked)}
        # Two layers as wide inside as outside may be a plain perceptron: that these are none must be said.
        wide = any(len(size) == 2 and size[0] >= size[1] for size in [*spec.parameters().values()][:1])
        found = detection.detect(
            {prefix + key: value for key, value in state.items()}, dialect, hints, include=["net*"] if wide else ()
        )
        (block,) = found.blocks()
        assert block.spec == spec
        assert same(dict(block.tensors), tensors)


# What is asked for where nobody names the dialect; "" where keys and shapes tell everything.
ASKED = {
    "attention-module/CBAM": "",
    "timm/CbamModule": "",
    "CBAM.PyTorch/CBAM": "",
    "CBAM.PyTorch/CBAM@c85f6a2": "",
    "changzy00/CBAM": "",
    "nikhilroxtomar/cbam": "",
    "fightingcv/CBAMBlock": "residual",
    "tutorial-pytorch/CBAMAttention": "residual",
    "bubbliiiing/cbam_block": "",
    "mmyolo/CBAM": "",
    "pytorchcv/CbamBlock": "",
    "senet.pytorch/SELayer": "",
    "monai/ChannelSELayer": "gate",
    "mobilenetv3.pytorch/SELayer": "gate",
    "timm/SEModule": "gate activation",
    "torchvision/SqueezeExcitation": "gate activation",
    "mmpretrain/SELayer": "gate",
    "PaddleClas/SEModule": "gate",
    "pytorchcv/SEBlock": "gate",
    "timm/SqueezeExcite": "gate activation",
    "efficientnet_pytorch/MBConvBlock": "activation",
    "keras.applications/efficientnet": "activation",
    "keras.applications/mobilenet_v3_se_block": "",
    "timm/EcaModule": "padding",
    "timm/CecaModule": "padding",
    "ECANet/eca_layer": "padding",
    "fightingcv/ECAAttention": "padding",
    "CoordAttention/CoordAtt": "gate activation",
    "changzy00/CoordinateAttention": "gate activation",
    "CoordAttention/mbv2_ca.CoordAtt": "",
    "bubbliiiing/CA_Block": "",
    "tutorial-pytorch/Conv1dWithAttention": "stride padding dilation groups num_heads",
    "tutorial-pytorch/ECAAttention-multihead": "scale offset num_heads",
    "keras/Conv-MultiHeadAttention": "stride padding dilation groups",
    "keras/ECA-MultiHeadAttention": "gate scale offset",
    "vovnet-detectron2/eSEModule": "gate include",
    "ultralytics/ChannelAttention": "gate include",
    "segmentation_models_pytorch/SCSEModule": "",
    "squeeze_and_excitation/ChannelSpatialSELayer": "",
    "pytorch-toolbelt/ChannelSpatialGate2d": "",
    "keras-squeeze-excite-network/channel_spatial_squeeze_excite": "gate activation merge",
}


@pytest.mark.parametrize("name", ASKED)
def test_detection_asks_what_no_weight_tells(name):
    dialect = dialects.get(name)
    spec = fitting(dialect)[0]
    tensors = {key: random(*shape) for key, shape in spec.parameters().items()}
    state = dialects.from_canonical(dialect, tensors, star=star_of(dialect), spec=spec)
    arrays = {f"net{dialect.separator}{key}": value for key, value in state.items()}
    (found,) = detection.detect(arrays).found
    assert {doubt.fact for doubt in found.doubts} == set(ASKED[name].split())
    assert name in [reading.dialect.id for reading in found.readings]
    asked = [fact for fact in ASKED[name].split() if fact != detection.PLAIN_LAYERS]
    answers = {fact: spec.to_json()[fact] for fact in ["spatial_dims", *asked]}
    included = ("net",) if detection.PLAIN_LAYERS in ASKED[name].split() else ()
    (block,) = detection.detect(arrays, None, answers, include=included).blocks()
    assert block.spec == spec


def test_bias_free_coordinate_attention_is_timm_alone():
    dialect = dialects.get("timm/CoordAttn")
    spec = next(spec for spec in fitting(dialect) if not (spec.bias or spec.head_bias))
    tensors = {key: random(*shape) for key, shape in spec.parameters().items()}
    (block,) = detection.detect(dialects.from_canonical(dialect, tensors)).blocks()
    assert block.spec == spec


HEADS = np.arange(24.0).reshape(2, 3, 4)  # as Keras has it: (in, heads, size), or (heads, size, out)


def test_heads_are_merged_in_order_and_split_again():
    query, output = (
        Tensor("query/kernel", "query.kernel", "heads_last dense", shape="C H D"),
        Tensor("output/kernel", "output.kernel", "heads_first dense", shape="H D C"),
    )
    assert query.to_canonical(HEADS)[7].tolist() == HEADS[:, 1, 3].tolist()  # head 1, its channel 3
    assert output.to_canonical(HEADS)[:, 5].tolist() == HEADS[1, 2].tolist()
    for row, heads in ((query, 3), (output, 2)):
        assert np.array_equal(row.from_canonical(row.to_canonical(HEADS), {"H": heads}), HEADS)
        assert row.from_canonical(row.to_canonical(HEADS), {"H": 1}).shape != HEADS.shape
        with pytest.raises(DialectError, match="is to hold 5 heads; expected a number"):
            row.from_canonical(row.to_canonical(HEADS), {"H": 5})
        with pytest.raises(
            DialectError, match="untold heads; expected a number of heads that divides it; tell it with"
        ):
            row.from_canonical(row.to_canonical(HEADS))


def test_one_tensor_that_holds_several_is_read_as_views_and_written_whole():
    dialect = dialects.get("tutorial-pytorch/Conv1dWithAttention")
    spec = next(spec for spec in fitting(dialect) if spec.attention_bias)
    tensors = {name: random(*shape) for name, shape in spec.parameters().items()}
    state = dialects.from_canonical(dialect, tensors)
    whole = state["attention.in_proj_weight"]
    assert whole.shape == (3 * spec.out_channels, spec.out_channels)
    order = [tensors[f"attention.{part}.kernel"] for part in ("query", "key", "value")]
    assert np.array_equal(whole, np.concatenate(order))
    back, _ = dialects.to_canonical(dialect, state)
    assert all(np.shares_memory(back[f"attention.{part}.kernel"], whole) for part in ("query", "key", "value"))
    with pytest.raises(DialectError, match="in_proj_weight; expected 3 tensors of one shape and dtype"):
        dialects.from_canonical(dialect, {name: tensors[name] for name in tensors if "value" not in name})
    halved = tensors | {"attention.key.kernel": tensors["attention.key.kernel"].astype(np.float32)}
    with pytest.raises(DialectError, match=r"attention\.key\.kernel float32.*3 tensors of one shape and dtype"):
        dialects.from_canonical(dialect, halved)
    with pytest.raises(DialectError, match=r"in_proj_weight of shape .* 3 of them along the first axis"):
        dialects.to_canonical(dialect, state | {"attention.in_proj_weight": whole[1:]})


def test_heads_are_asked_for_where_no_shape_tells_them():
    dialect = dialects.get("tutorial-pytorch/ECAAttention-multihead")
    spec = fitting(dialect)[0]
    tensors = {name: random(*shape) for name, shape in spec.parameters().items()}
    state = dialects.from_canonical(dialect, tensors)
    with pytest.raises(DialectError, match=r"do not tell num_heads; .*num_heads: 1, 2, 3, 4, 6, 8, 12, 24"):
        detection.detect(state, dialect).blocks()
    (block,) = detection.detect(state, dialect, {"num_heads": 4, "gamma": 3, "b": -1}).blocks()
    assert (block.spec.num_heads, block.spec.scale, block.spec.offset) == (4, 3.0, -1.0)
    with pytest.raises(DialectError, match="received the hints scale=3 and gamma=2; expected one of them"):
        detection.detect(state, dialect, {"num_heads": 4, "scale": 3, "gamma": 2}).blocks()
    with pytest.raises(DialectError, match="received num_heads=5 for 24 channels; expected a divisor of them"):
        detection.detect(state, dialect, {"num_heads": 5}).blocks()
    with pytest.raises(DialectError, match="received the hints 'c'"):
        detection.detect(state, dialect, {"num_heads": 4, "c": 5})


def test_keras_tells_the_heads_by_shape():
    dialect = dialects.get("keras/Conv-MultiHeadAttention")
    spec = replace(fitting(dialect)[0], num_heads=4)
    tensors = {name: random(*shape) for name, shape in spec.parameters().items()}
    state = dialects.from_canonical(dialect, tensors, spec=spec)
    assert state["attention/query/kernel"].shape == (spec.out_channels, 4, spec.out_channels // 4)
    (block,) = detection.detect(state, dialect).blocks()
    assert block.spec == spec
    with pytest.raises(DialectError, match="num_heads: 4, 2"):
        detection.detect(state, dialect, {"num_heads": 2})


def test_layouts_permute():
    """Each layout of one size along the map, on numbers that tell their place."""
    kernel = np.arange(6.0).reshape(1, 1, 2, 3)
    assert np.array_equal(LAYOUTS["conv1x1_last"].to_canonical(kernel), kernel[0, 0].T)
    assert np.array_equal(LAYOUTS["conv1x1_last"].from_canonical(kernel[0, 0].T), kernel)
    assert not LAYOUTS["conv1x1_last"].accepts((1, 2, 1, 1))
    assert not LAYOUTS["conv1x1"].accepts((2, 1, 1, 3))


def test_planes_change_places():
    """The authors' planes come as [max, mean], timm's as [mean, max]."""
    planes = random(1, 2, 7, 7)
    author, timm = dialects.get("attention-module/CBAM"), dialects.get("timm/CbamModule")
    key, _ = dialects.from_canonical(author, {"spatial.conv.kernel": planes}).popitem()
    assert key == "SpatialGate.spatial.conv.weight"
    assert np.array_equal(dialects.from_canonical(author, {"spatial.conv.kernel": planes})[key], planes[:, ::-1])
    assert np.array_equal(
        dialects.from_canonical(timm, {"spatial.conv.kernel": planes})["spatial.conv.conv.weight"], planes
    )


# Keys, stars and shapes


def test_match_keys_tells_blocks_apart():
    se = dialects.get("keras.applications/efficientnet")
    keys = [f"block{n}_se_{part}/{leaf}" for n in "12" for part in ("reduce", "expand") for leaf in ("kernel", "bias")]
    found = se.match_keys([*keys, "block1_expand_conv/kernel", "x/block3_se_reduce/kernel", "a.b_se_reduce/kernel"])
    assert list(found) == ["block1_", "block2_"]
    assert found["block2_"]["*se_expand/bias"] == "block2_se_expand/bias"
    assert dialects.get("timm/EcaModule").match_keys({"conv.weight": 0, "conv.bias": 0}) == {
        "": {"conv.weight": "conv.weight"}
    }


def test_states_of_several_blocks_are_refused():
    se = dialects.get("keras.applications/efficientnet")
    state = {f"{star}se_reduce/kernel": random(1, 1, 24, 6) for star in ("a_", "b_")}
    with pytest.raises(UnexpectedTensorError, match="received b_se_reduce/kernel; expected keys of the dialect keras"):
        dialects.to_canonical(se, state)


def test_the_star_itself_is_a_text():
    """What matches keys passes rows on by the names of the table."""
    se = dialects.get("keras.applications/efficientnet")
    tensors, _ = dialects.to_canonical(se, {"*se_reduce/kernel": random(1, 1, 24, 6)})
    assert tensors["fc1.kernel"].shape == (6, 24)


@pytest.mark.parametrize(
    ("name", "star"), [("timm/SEModule", "a"), ("keras.applications/efficientnet", "a/"), ("timm/SEModule", "a.")]
)
def test_stars_that_have_no_place(name, star):
    with pytest.raises(DialectError, match=re.escape(f"received star={star!r}; expected a text without '/' and '.'")):
        dialects.from_canonical(dialects.get(name), {"fc1.bias": random(6)}, star=star)


@pytest.mark.parametrize(
    ("name", "canonical", "shape"),
    [
        ("timm/CbamModule", "spatial.conv.kernel", (1, 2, 7, 7, 7)),
        ("timm/CbamModule", "spatial.conv.kernel", (1, 24, 7, 7)),
        ("timm/EcaModule", "conv.kernel", (24, 1, 3)),
        ("timm/SEModule", "fc1.kernel", (6, 24, 1)),
        ("keras.applications/efficientnet", "fc1.kernel", (6,)),
        ("attention_keras/CBAM", "spatial.conv.kernel", (2,)),
    ],
)
def test_shapes_without_a_place(name, canonical, shape):
    with pytest.raises(DialectError, match="expected the layout"):
        dialects.from_canonical(dialects.get(name), {canonical: random(*shape)})


def test_a_shape_is_numbers_and_letters():
    row = Tensor("fc.weight", "fc.kernel", "conv1x1", shape="C C 1 1")
    assert row.accepts((5, 5, 1, 1))
    assert not row.accepts((5, 6, 1, 1))
    assert not row.accepts((5, 5))
    assert not Tensor("w", "w", "conv", shape="1 2 k k").accepts((1, 2, 3, 5))


# What the originals compute


def judged_by_the_oracle(dialect, state, x, y, hints=None, data_format="channels_first"):
    """The failures of what the original made of x, when its weights are read as `dialect` says."""
    found = detection.detect(state, dialect, {"spatial_dims": x.ndim - 2} | (hints or {}))
    (block,) = found.blocks()
    output = oracle.evaluate(block.spec, block.tensors, x, data_format=data_format)["output"]
    expected = {"output": Measured(np.asarray(y, np.float64), output.magnitude)}
    results = compare(expected, {"output": output.value}, dtype="float64", device="cpu")
    return [one.failure for one in results if one.failure]


def state_of(module):
    return {key: value.detach().numpy() for key, value in module.state_dict().items()}


TIMM = {
    "se": ("timm.layers.SEModule", {"rd_ratio": 0.25}, "timm/SEModule", {}),
    "se-no-bias": ("timm.layers.SEModule", {"bias": False}, "timm/SEModule", {}),
    "se-hard": ("timm.layers.SEModule", {"gate_layer": "hard_sigmoid"}, "timm/SEModule", {"gate": "hard_sigmoid"}),
    "se-mobilenet": (
        "timm.models._efficientnet_blocks.SqueezeExcite",
        {"gate_layer": "hard_sigmoid"},
        "timm/SqueezeExcite",
        {"gate": "hard_sigmoid"},
    ),
    "se-efficientnet": (
        "timm.models._efficientnet_blocks.SqueezeExcite",
        {"act_layer": "silu"},
        "timm/SqueezeExcite",
        {"activation": "silu"},
    ),
    "se-senet": ("timm.models.senet.SEModule", {"reduction": 4}, "pretrained-models.pytorch/SEModule", {}),
    "ese": ("timm.layers.EffectiveSEModule", {}, "timm/EffectiveSEModule", {}),
    "ese-sigmoid": (
        "timm.layers.EffectiveSEModule",
        {"gate_layer": "sigmoid"},
        "timm/EffectiveSEModule",
        {"gate": "sigmoid"},
    ),
    "ese-hgnet": ("timm.models.hgnet.EseModule", {}, "timm/EseModule", {}),
    "eca": ("timm.layers.EcaModule", {"kernel_size": 5}, "timm/EcaModule", {}),
    "ceca": ("timm.layers.CecaModule", {"kernel_size": 5}, "timm/CecaModule", {}),
    "ceca-bias": ("timm.layers.CecaModule", {"act_layer": "relu"}, "timm/CecaModule", {}),
    "cbam": ("timm.layers.cbam.CbamModule", {"rd_ratio": 0.25}, "timm/CbamModule", {}),
    "cbam-bias": ("timm.layers.cbam.CbamModule", {"mlp_bias": True, "spatial_kernel_size": 3}, "timm/CbamModule", {}),
    "ca": ("timm.layers.coord_attn.CoordAttn", {}, "timm/CoordAttn", {}),
    "ca-bias": ("timm.layers.coord_attn.CoordAttn", {"bias": True}, "timm/CoordAttn", {}),
    "ca-skip": ("timm.layers.coord_attn.CoordAttn", {"has_skip": True}, "timm/CoordAttn", {"residual": True}),
}


def timm_module(path, options):
    import_timm()
    import torch

    package, _, name = path.rpartition(".")
    first = () if name in ("EcaModule", "CecaModule") else (CHANNELS,)  # whose channels would choose the kernel
    return randomize(getattr(import_timm(package), name)(*first, **options).to(torch.float64).eval())


def feature_map(*shape):
    """Channels of different means, sloping along every axis."""
    x = random(*shape) + 2 * random(shape[0], shape[1], *[1] * (len(shape) - 2))
    return x + np.linspace(-1, 1, shape[-1]) + np.linspace(-2, 1, shape[-2])[:, None]


@pytest.mark.parametrize("name", TIMM)
def test_timm_modules(name):
    path, options, dialect, hints = TIMM[name]
    module = timm_module(path, options)
    import torch

    x = feature_map(2, CHANNELS, 9, 11)
    y = module(torch.tensor(x)).detach().numpy()
    assert judged_by_the_oracle(dialect, state_of(module), x, y, hints) == []


def test_timm_channels_last_module():
    module = timm_module("timm.layers.squeeze_excite.SqueezeExciteCl", {"rd_ratio": 0.25})
    import torch

    x = np.moveaxis(feature_map(2, CHANNELS, 5, 7), 1, -1)
    y = module(torch.tensor(x)).detach().numpy()
    assert judged_by_the_oracle("timm/SqueezeExciteCl", state_of(module), x, y, data_format="channels_last") == []


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("ca", {"residual": True}),
        ("se", {"gate": "hard_sigmoid"}),
        ("se", {"activation": "silu"}),
        ("ese", {"gate": "sigmoid"}),
    ],
)
def test_a_wrong_hint_would_show(name, hints):
    path, options, dialect, _ = TIMM[name]
    module = timm_module(path, options)
    import torch

    x = feature_map(2, CHANNELS, 9, 11)
    y = module(torch.tensor(x)).detach().numpy()
    assert judged_by_the_oracle(dialect, state_of(module), x, y, hints) != []


@pytest.mark.parametrize(
    ("path", "options", "dialect"),
    [
        ("timm.layers.cbam.LightCbamModule", {}, "timm/LightCbamModule"),
        ("timm.layers.EcaModule", {"use_mlp": True, "channels": CHANNELS}, "timm/EcaModule-mlp"),
        ("timm.layers.coord_attn.SimpleCoordAttn", {}, "timm/SimpleCoordAttn"),
        ("timm.layers.coord_attn.SimpleCoordAttn", {"bias": False}, "timm/SimpleCoordAttn"),
        ("timm.layers.coord_attn.EfficientLocalAttn", {}, "timm/EfficientLocalAttn"),
        ("timm.layers.SEModule", {"norm_layer": "batchnorm2d"}, "timm/SEModule-norm"),
    ],
)
def test_timm_modules_that_are_other_functions(path, options, dialect):
    """Recognised, whole, and refused: by their own table and by no other."""
    if "norm_layer" in options:
        options = {"norm_layer": pytest.importorskip("torch").nn.BatchNorm2d}
    state = {f"net.attn.{key}": value for key, value in state_of(timm_module(path, options)).items()}
    table = dialects.get(dialect)
    assert len(table.match_keys({key.removeprefix("net.attn."): 0 for key in state})[""]) == len(state)
    with pytest.raises(DialectError, match=re.escape(f"{dialect}: {table.refused}")):
        detection.detect(state).blocks()


# This project's own styles


def own_module(block, **options):
    torch = pytest.importorskip("torch")
    import attention_torch

    kind = getattr(attention_torch, SPECS[block].options_class.class_name)
    return randomize(kind(CHANNELS, **options).to(torch.float64).eval())


OWN = [
    ("se", {}, "attention_torch/SqueezeExcitation"),
    ("se", {"bias": False, "spatial_dims": 3}, "attention_torch/SqueezeExcitation"),
    ("cbam", {}, "attention_torch/CBAM"),
    ("cbam", {"spatial_bias": True, "spatial_norm": None, "spatial_dims": 3}, "attention_torch/CBAM"),
    ("cbam", {"channel_merge": "concat", "spatial_features": "full", "kernel_size": 3}, "attention_torch/CBAM"),
    ("cbam", {"parts": "channel", "mlp_bias": False}, "attention_torch/CBAM-channel"),
    ("cbam", {"parts": "spatial"}, "attention_torch/CBAM-spatial"),
    ("eca", {"bias": True, "kernel_size": 5}, "attention_torch/ECA"),
    ("ca", {}, "attention_torch/CoordinateAttention"),
    ("ca", {"spatial_dims": 1, "bias": False}, "attention_torch/CoordinateAttention"),
    ("ca", {"spatial_dims": 3, "norm": None}, "attention_torch/CoordinateAttention"),
    ("ese", {"spatial_dims": 3}, "attention_torch/EffectiveSqueezeExcitation"),
    ("scse", {"spatial_dims": 1}, "attention_torch/SCSE"),
]


@pytest.mark.parametrize(("block", "options", "dialect"), OWN)
def test_own_modules(block, options, dialect):
    module = own_module(block, **options)
    import torch

    x = feature_map(2, CHANNELS, *(9, 11, 5)[: module.spec.spatial_dims])
    y = module(torch.tensor(x)).detach().numpy()
    assert judged_by_the_oracle(dialect, state_of(module), x, y) == []


@by_id([one for one in ALL if one.id.startswith("attention_torch/") and one.detected])
def test_own_styles_leave_every_option_open(dialect):
    """Each field that changes the function and no shape tells is asked for, and no other."""
    for spec in fitting(dialect):
        tensors = {name: random(*shape) for name, shape in spec.parameters().items()}
        fields = spec.arguments()
        shown = {"channels", "spatial_dims", "hidden_channels", "kernel_size", "channel_merge", "spatial_features"}
        shown |= {"parts", "out_channels"} | {name for name in fields if name.endswith("bias")}
        hidden = {name for name, value in fields.items() if name not in shown and value is not None}
        assert hidden <= {*dialect.doubtful, *dialect.asked} <= set(fields)
        state = dialects.from_canonical(dialect, tensors)
        assert dialects.to_canonical(dialect, state)[0].keys() == tensors.keys()


NAMES = """
import json, sys
import keras
from attention_keras import functional, layers
from parity.spec import SPECS
names = {}
for kind in [spec.options_class.class_name for spec in SPECS.values()]:
    layer = getattr(layers, kind)(name="block")
    layer.build((None, 5, 7, 24))
    names[f"attention_keras/{kind}"] = {v.path: list(v.shape) for v in layer.weights}
for name in [spec.options_class.function_name for spec in SPECS.values()]:
    x = keras.Input((5, 7, 24))
    model = keras.Model(x, getattr(functional, name)(x, name="block"))
    names[f"attention_keras/{name}"] = {v.path: list(v.shape) for v in model.weights}
json.dump(names, sys.stdout)
"""


def output_of(script, *arguments, engine):
    """What `script` prints in a process of its own: Keras takes its engine from the environment."""
    environment = os.environ | {"KERAS_BACKEND": engine, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_own_keras_names():
    pytest.importorskip("keras")
    pytest.importorskip("torch")
    names = json.loads(output_of(NAMES, engine="torch"))
    assert len(names) == 2 * len(SPECS)
    for name, shapes in names.items():
        dialect = dialects.get(name)
        starred = "*" in dialect.tensors[0].key
        state = {key if starred else key.removeprefix("block/"): random(*shape) for key, shape in shapes.items()}
        tensors, _ = dialects.to_canonical(dialect, state)
        assert len(tensors) == len(shapes)
        assert same(dialects.from_canonical(dialect, tensors, star="block" if starred else ""), state)
        spec = SPECS[dialect.block].infer({key: value.shape for key, value in tensors.items()})
        assert spec.parameters() == {key: value.shape for key, value in tensors.items()}


def test_own_tf1_names():
    tf = pytest.importorskip("tensorflow")
    import attention_tf1compat

    for block, kind in SPECS.items():
        function = kind.options_class.function_name
        with tf.Graph().as_default():
            getattr(attention_tf1compat, function)(tf.zeros((2, 5, 7, 24)), scope="net/block")
            variables = {v.op.name: v.shape.as_list() for v in tf.compat.v1.global_variables()}
        dialect = dialects.get(f"attention_tf1compat/{function}")
        state = {key.removeprefix("net/block/"): random(*shape) for key, shape in variables.items()}
        tensors, _ = dialects.to_canonical(dialect, state)
        assert len(tensors) == len(variables) > 0
        assert block == dialect.block


# keras.applications

APPLICATIONS = """
import sys
import keras
import numpy as np
from safetensors.numpy import save_file
name, first, last, path = sys.argv[1:]
keras.utils.set_random_seed(7)
model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(32, 32, 3))
for variable in model.weights:
    variable.assign(np.random.default_rng(len(variable.path)).normal(size=variable.shape) / 3)
arrays = {f"state/{v.path}": np.array(v) for v in model.weights}
for layer in model.layers:
    if layer.name.endswith(first):
        block = layer.name.removesuffix(first)
        part = keras.Model(layer.input, model.get_layer(block + last).output)
        shape = (2, *layer.input.shape[1:])
        x = np.random.default_rng(list(shape)).normal(size=shape) + np.linspace(-1, 1, shape[-1])
        arrays[f"x/{block}"] = x = x.astype("float32")
        arrays[f"y/{block}"] = np.array(part(x))
save_file(arrays, path)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dialect", "first", "last", "count"),
    [
        (
            "MobileNetV3Small",
            "keras.applications/mobilenet_v3_se_block",
            "squeeze_excite_avg_pool",
            "squeeze_excite_mul",
            9,
        ),
        ("EfficientNetB0", "keras.applications/efficientnet", "se_squeeze", "se_excite", 16),
        ("EfficientNetV2B0", "keras.applications/efficientnet", "se_squeeze", "se_excite", 16),
    ],
)
def test_keras_applications(tmp_path, name, dialect, first, last, count):
    """Every block of the real networks is found by the names of its layers, and computes what its spec says."""
    pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    output_of(APPLICATIONS, name, first, last, str(tmp_path / "network.safetensors"), engine="tensorflow")
    tensors, _ = exchange.read_tensors(tmp_path / "network.safetensors")
    state = {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}
    blocks = detection.detect(state, dialect).blocks()
    assert len(blocks) == count
    for block in blocks:
        x, y = tensors[f"x/{block.name}"], tensors[f"y/{block.name}"]
        judged = oracle.evaluate(block.spec, block.tensors, x, data_format="channels_last")["output"]
        (result,) = compare({"output": judged}, {"output": y}, dtype="float32", device="cpu")
        assert not result.failure, result.failure


def test_dialects_stay_data():
    """A table holds no code but its layouts: it compares, prints and copies."""
    for one in ALL:
        assert isinstance(one, Dialect)
        assert replace(one) == one
