"""The contract: options, specs, and the sentences that refuse bad ones."""

import dataclasses
import json

import pytest

from parity import cases
from parity.spec import (
    SPECS,
    BatchNorm,
    CBAMOptions,
    CoordinateAttentionOptions,
    ECAOptions,
    Gate,
    InputError,
    SpecError,
    SqueezeExcitationOptions,
    channel_axis,
    parameters,
    spatial_axes,
    spec_from_json,
)

EVERY = [(block, name, dims) for block, variants in cases.OPTIONS.items() for name in variants for dims in (1, 2, 3)]


@pytest.mark.parametrize(("block", "name", "dims"), EVERY)
def test_spec_survives_json_options_and_its_own_weights(block, name, dims):
    spec = cases.OPTIONS[block][name].resolve(12, dims)
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.options().resolve(spec.channels, dims) == spec
    facts = {key: value for key, value in spec.arguments().items() if key not in ("channels", "spatial_dims")}
    assert not type(spec).infer(parameters(spec), spatial_dims=dims, **facts).differences(spec)


@pytest.mark.parametrize("block", SPECS)
def test_records_are_frozen_and_keyword_only(block):
    spec = SPECS[block].options_class(**({"kernel_size": 3} if block == "eca" else {})).resolve(12, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.channels = 3
    with pytest.raises(TypeError):
        type(spec)(12, 2)


def test_sizes_follow_the_rules_of_the_papers():
    assert SqueezeExcitationOptions().resolve(64, 2).hidden_channels == 4
    assert SqueezeExcitationOptions().resolve(8, 2).hidden_channels == 1
    assert CoordinateAttentionOptions().resolve(64, 2).hidden_channels == 8
    assert CoordinateAttentionOptions().resolve(960, 2).hidden_channels == 30
    # DIALECTS: the kernel size of the formula without timm's minimum of 3.
    sizes = {channels: ECAOptions().resolve(channels, 2).kernel_size for channels in (4, 8, 64, 128, 256, 512, 2048)}
    assert sizes == {4: 1, 8: 3, 64: 3, 128: 5, 256: 5, 512: 5, 2048: 7}


def test_canonical_parameters():
    assert parameters(CBAMOptions(reduction=4, spatial_bias=True).resolve(12, 3)) == {
        "channel.fc1.kernel": (3, 12),
        "channel.fc1.bias": (3,),
        "channel.fc2.kernel": (12, 3),
        "channel.fc2.bias": (12,),
        "spatial.conv.kernel": (1, 2, 7, 7, 7),
        "spatial.conv.bias": (1,),
        "spatial.norm.scale": (1,),
        "spatial.norm.offset": (1,),
        "spatial.norm.mean": (1,),
        "spatial.norm.variance": (1,),
    }
    assert list(parameters(CoordinateAttentionOptions(bias=False, head_bias=False, norm=None).resolve(12, 3))) == [
        "reduce.kernel",
        "expand.d.kernel",
        "expand.h.kernel",
        "expand.w.kernel",
    ]


def test_inert_parameters_are_biases_before_a_norm_in_training():
    assert CBAMOptions(spatial_bias=True).resolve(12, 2).inert(training=True) == {"spatial.conv.bias"}
    assert CBAMOptions(spatial_bias=True).resolve(12, 2).inert(training=False) == set()
    assert CBAMOptions(spatial_bias=True, spatial_norm=None).resolve(12, 2).inert(training=True) == set()
    assert CoordinateAttentionOptions().resolve(12, 2).inert(training=True) == {"reduce.bias"}


def test_equal_functions_have_equal_specs():
    assert CBAMOptions(parts="channel", kernel_size=3).resolve(12, 2) == CBAMOptions(parts="channel").resolve(12, 2)
    assert CBAMOptions(parts="spatial", reduction=2).resolve(12, 2) == CBAMOptions(parts="spatial").resolve(12, 2)
    assert Gate("sigmoid", slope=0.2) == Gate()


def test_differences_name_the_field_and_both_values():
    one, other = CBAMOptions().resolve(12, 2), CBAMOptions(gate="hard_sigmoid", kernel_size=3).resolve(12, 2)
    assert one.differences(other) == [
        "kernel_size: 7, 3",
        "gate: 'sigmoid', {'kind': 'hard_sigmoid', 'slope': 0.16666666666666666, 'offset': 0.5}",
    ]
    anywhere = ECAOptions(kernel_size=3).resolve(None)
    assert not anywhere.differences(ECAOptions(kernel_size=3).resolve(24))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SqueezeExcitationOptions(reduction=0), "received reduction=0; expected an integer of at least 1"),
        (lambda: SqueezeExcitationOptions(reduction=2.0), "received reduction=2.0; expected an integer of at least 1"),
        (lambda: SqueezeExcitationOptions(reduction=True), "received reduction=True; expected an integer"),
        (lambda: SqueezeExcitationOptions(bias=1), "received bias=1; expected True or False"),
        (
            lambda: SqueezeExcitationOptions(gate="hardsigmoid"),
            "received gate='hardsigmoid'; expected one of 'sigmoid'",
        ),
        (lambda: SqueezeExcitationOptions(gate={"slope": 0.2}), "expected the keys kind, slope, offset"),
        (lambda: Gate("hard_sigmoid", slope=float("nan")), "received gate slope=nan; expected a finite number above 0"),
        (lambda: SqueezeExcitationOptions(activation="gelu"), "received activation='gelu'; expected one of 'relu'"),
        (lambda: CBAMOptions(kernel_size=4), "received kernel_size=4; expected an odd integer; try 3 or 5"),
        (lambda: CBAMOptions(spatial_norm="batch"), "received 'batch' as a norm; expected None, a BatchNorm"),
        (lambda: BatchNorm(epsilon=0), "received norm epsilon=0; expected a finite number above 0"),
        (lambda: BatchNorm(update_rate=1.5), "received norm update_rate=1.5; expected a finite number of at least 0"),
        (lambda: ECAOptions().resolve(None), "received neither channels nor kernel_size"),
        (lambda: ECAOptions(kernel_size=9, padding="circular").resolve(3), "use a smaller kernel or padding='zeros'"),
        (lambda: CBAMOptions().resolve(0), "received channels=0; expected an integer of at least 1"),
        (lambda: CBAMOptions().resolve(12, 4), "received spatial_dims=4; expected 1, 2 or 3"),
        (lambda: spec_from_json({"block": []}), "expected a mapping whose 'block' is one of se, cbam, eca, ca"),
        (lambda: CBAMOptions().resolve(12, []), "received spatial_dims=[]; expected 1, 2 or 3"),
        (lambda: spec_from_json({"block": "bam"}), "expected a mapping whose 'block' is one of se, cbam, eca, ca"),
        (lambda: spec_from_json({"block": "eca", "bias": False}), "received a ECASpec with no 'channels', no"),
        (lambda: spatial_axes(2, "NCHW"), "received data_format='NCHW'; expected one of 'channels_first'"),
    ],
)
def test_bad_options_are_refused_with_a_sentence(make, sentence):
    with pytest.raises(SpecError) as caught:
        make()
    assert sentence in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("shape", "data_format", "sentence"),
    [
        ((2, 12, 5), "channels_first", "expected 4 axes (N, C, h, w) for spatial_dims=2, data_format='channels_first'"),
        ((2, 5, 7, 11), "channels_last", "11 channels on axis 3; expected 12 channels; 4 axes (N, h, w, C)"),
        ((2, None, 5, 7), "channels_first", "None channels on axis 1; expected 12 channels"),
        ((2, 12, 5, 0), "channels_first", "an empty map; expected at least one position along each of h, w"),
        ((0, 0, 7, 12), "channels_last", "an empty map; expected at least one position along each of h, w"),
    ],
)
def test_bad_inputs_are_refused_with_a_sentence(shape, data_format, sentence):
    with pytest.raises(InputError) as caught:
        SqueezeExcitationOptions().resolve(12, 2).check_input(shape, data_format)
    assert sentence in str(caught.value)


def test_layout_is_data():
    assert (channel_axis(3, "channels_first"), spatial_axes(3, "channels_first")) == (1, (2, 3, 4))
    assert (channel_axis(3, "channels_last"), spatial_axes(3, "channels_last")) == (4, (1, 2, 3))
    assert SqueezeExcitationOptions().resolve(12, 2).check_input((None, None, None, 12), "channels_last") == 12


def test_one_value_per_channel_is_refused():
    with pytest.raises(InputError, match="received one value per channel for a batch norm in training mode"):
        BatchNorm().check_count(1)


@pytest.mark.parametrize("block", SPECS)
def test_a_spec_says_whether_its_weights_tell_the_rank(block):
    ranks = [SPECS[block].options_class().resolve(12, rank).parameters() for rank in (1, 2, 3)]
    assert SPECS[block].rankless == all(shapes == ranks[0] for shapes in ranks)
