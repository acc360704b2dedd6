"""Live networks of timm into and out of Keras and TF1: run once for each engine by test_network_weights.py."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from timm_models import import_timm, randomize

import attention_torch
from attention_keras import enable_float64, functional, layers
from parity.errors import DialectError, MissingTensorError, OutputMismatchError, SpecMismatchError
from parity.network import port
from parity.spec import ResNetOptions

enable_float64()

ENGINE = keras.backend.backend()
SIZES = {"depths": (1, 2, 1, 1), "width": 8, "stem_channels": 64, "classes": 7}
SE = {"attention": "se", "attention_options": {"hidden_channels": 8}}
FORMATS = ("channels_last", "channels_first")


def timm_resnet(unit="BasicBlock", layers=(1, 2, 1, 1), attention="se", seed=0, **more):
    models = import_timm("timm.models.resnet")
    model = models.ResNet(
        getattr(models, unit),
        layers,
        channels=(8, 16, 32, 64),
        num_classes=7,
        block_args={"attn_layer": attention} if attention else {},
        **more,
    )
    return randomize(model, seed).eval()


def keras_input(data_format, dtype="float32"):
    return keras.Input((None, None, 3) if data_format == "channels_last" else (3, None, None), dtype=dtype)


def of_functions(data_format="channels_last", dtype="float32", **options):
    x = keras_input(data_format, dtype)
    return keras.Model(x, functional.resnet(x, data_format=data_format, dtype=dtype, **options))


def of_layers(data_format="channels_last", dtype="float32", **options):
    x = keras_input(data_format, dtype)
    return keras.Model(x, layers.ResNet(data_format=data_format, dtype=dtype, **options)(x))


def of_tf1(data_format="channels_last", dtype="float32", **options):
    if ENGINE != "tensorflow":
        pytest.skip("TensorFlow 1 has no engine")
    import tensorflow as tf

    from attention_tf1compat import resnet

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(dtype, keras_input(data_format).shape)
        resnet(x, training=False, data_format=data_format, dtype=dtype, **options)
        session = tf.compat.v1.Session(graph=graph)
        session.run(tf.compat.v1.global_variables_initializer())
    return session


STYLES = (of_functions, of_layers, of_tf1)


def image(data_format="channels_first", dtype="float32"):
    x = np.random.default_rng(0).normal(size=(2, 3, 33, 37)).astype(dtype)
    return x if data_format == "channels_first" else np.moveaxis(x, 1, -1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("style", STYLES)
def test_timm_ports_into(style, data_format, dtype):
    source = timm_resnet().to(getattr(torch, dtype))
    target = style(data_format, dtype, **SIZES, **SE)
    report = port(source, target, example=image(dtype=dtype))
    assert [(pair.source, pair.kind, pair.how) for pair in report.pairs] == [("", "resnet", "structure")]
    assert report.error <= report.allowed
    again = timm_resnet(seed=5).to(getattr(torch, dtype))
    port(target, again, example=image(data_format, dtype))
    before = source.state_dict()
    after = again.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if not key.endswith("num_batches_tracked"))


@pytest.mark.parametrize("style", STYLES)
def test_bottlenecks_that_pool_with_eca_port_into(style):
    source = timm_resnet("Bottleneck", attention="eca", avg_down=True)
    eca = {"attention": "eca", "attention_options": [{"kernel_size": size} for size in (3, 3, 5, 5)]}
    port(source, style(**SIZES, **eca, bottleneck=True, shortcut="average"), example=image())


@pytest.mark.parametrize("style", STYLES)
def test_this_projects_networks_port_between_styles(style):
    source = attention_torch.ResNet(3, **SIZES, **SE).eval()
    randomize(source)
    target = style(**SIZES, **SE)
    port(source, target, example=image())
    again = attention_torch.ResNet(3, **SIZES, **SE)
    port(target, again, example=image("channels_last"))
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SE | {"depths": (1, 1, 1, 1)}, r"depths: source \[1, 2, 1, 1\], target \[1, 1, 1, 1\]"),
        (SE | {"depths": (2, 2, 2, 2)}, r"depths: source \[1, 2, 1, 1\], target \[2, 2, 2, 2\]"),
        (SE | {"classes": 9}, "classes: source 7, target 9"),
        (SE | {"norm": {"epsilon": 1e-3}}, "norm: source {'epsilon': 1e-05"),
        (SE | {"attention_options": {"hidden_channels": 4}}, "attention 2: hidden_channels: source 8, target 4"),
        (SE | {"attention_options": {"gate": "hard_sigmoid", "hidden_channels": 8}}, "gate: source 'sigmoid'"),
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_what_differs_is_named_and_nothing_is_written(style, options, words):
    with pytest.raises(SpecMismatchError, match=words):
        port(timm_resnet(), style(**SIZES | options), example=image())


def test_where_stock_layers_show_nothing_the_example_does():
    """Where the blocks stand in the units is nowhere in a model's configuration."""
    target = of_functions(**SIZES, **SE, placement="after_addition")
    assert "placement" in port(timm_resnet(), target).unverified[""]
    before = [np.array(value) for value in target.get_weights()]
    with pytest.raises(OutputMismatchError, match=r"not comparable by configuration: .*placement"):
        port(timm_resnet(seed=3), target, example=image())
    assert all(np.array_equal(value, old) for value, old in zip(target.get_weights(), before, strict=True))


def test_a_network_of_stock_layers_goes_by_its_name():
    x = keras_input("channels_last")
    options = ResNetOptions(**SIZES, **SE).resolve(3)
    both = [functional.resnet(x, spec=options, data_format="channels_last", name=name) for name in ("one", "other")]
    with pytest.raises(MissingTensorError):
        port(timm_resnet(), keras.Model(x, both))
    target = keras.Model(x, both)
    report = port(timm_resnet(), target, mapping={"": "one", "other": None})
    assert [(pair.source, pair.target, pair.how) for pair in report.pairs] == [("", "one", "mapping")]


def test_keras_applications_are_refused_with_their_reason():
    source = keras.applications.ResNet50(weights=None, input_shape=(33, 37, 3), classes=7)
    with pytest.raises(DialectError, match=r"is a keras\.applications/ResNet: its convolutions have biases"):
        port(source, attention_torch.ResNet(3, depth=50, classes=7))
