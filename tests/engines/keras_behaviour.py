"""What Keras users expect of a layer and a function: run once for each engine by test_keras.py."""

import itertools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import attention_keras
import parity
from attention_keras import functional, layers
from parity import cases
from parity.block import Block
from parity.compare import compare
from parity.oracle._measured import given
from parity.spec import NETWORKS, SPECS, BatchNorm, InputError, SpecError
from parity.tolerances import tolerance

RNG = np.random.default_rng(0)
SMALL = {"se": {"reduction": 4}, "cbam": {"reduction": 4, "kernel_size": 3}, "eca": {}, "ca": {"reduction": 4}}
# Networks with attention, and with what pads and pools in each of the ways there are.
SMALL |= {
    "residual": {"out_channels": 8, "stride": 2, "shortcut": "average", "attention": "se", "placement": "before_unit"},
    "resnet": {"depths": (1, 1), "width": 4, "classes": 5, "attention": "cbam", "attention_options": SMALL["cbam"]},
    "plain": {"filters": (4, 6), "strides": (1, 2), "padding": "symmetric", "output": "logits", "attention": "ca"},
}
SMALL["plain"] |= {"attention_options": [None, {"gate": "hard_sigmoid"}], "map_sizes": (5, 7), "classes": 5}
EVERYTHING = SPECS | NETWORKS


def layer_of(block, **more):
    return getattr(layers, EVERYTHING[block].options_class.class_name)(**(SMALL.get(block, {}) | more))


def function_of(block, x, **more):
    return getattr(functional, EVERYTHING[block].options_class.function_name)(x, **(SMALL.get(block, {}) | more))


def spec_of(network):
    return EVERYTHING[network].options_class(**SMALL[network]).resolve(12, 2)


def functional_model(block, shape=(None, None, 12), **more):
    x = keras.Input(shape)
    return keras.Model(x, function_of(block, x, data_format="channels_last", name="attention", **more))


def layer_model(block, shape=(None, None, 12), **more):
    x = keras.Input(shape)
    return keras.Model(x, layer_of(block, data_format="channels_last", name="attention", **more)(x))


def image(*shape):
    return RNG.normal(size=shape or (2, 5, 7, 12)).astype("float32")


def run(model, x, **more):
    return keras.ops.convert_to_numpy(model(x, **more))


def nearly(one, other):
    """Whether two float32 arrays agree as a backend must agree with the oracle."""
    (found,) = compare({"output": given(other)}, {"output": np.asarray(one)}, dtype="float32", device="cpu")
    return not found.failure


def spread_out(model):
    """Give every weight a value of its own, so that one that is lost or exchanged shows."""
    for weight in model.weights:
        value = np.abs(RNG.normal(size=weight.shape)) + 0.1
        weight.assign(value.astype(weight.dtype))


@pytest.mark.parametrize("make", [functional_model, layer_model])
@pytest.mark.parametrize("block", EVERYTHING)
def test_keras_file_and_weights_file_round_trip(block, make, tmp_path):
    model, x = make(block), image()
    spread_out(model)
    y = run(model, x)
    model.save(tmp_path / "model.keras")
    assert np.array_equal(run(keras.models.load_model(tmp_path / "model.keras"), x), y)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = make(block)
    assert not nearly(run(fresh, x), y)
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert np.array_equal(run(fresh, x), y)


RELOAD = """
import sys, keras, numpy as np
sys.modules["attention_keras"] = sys.modules["parity"] = None
model = keras.models.load_model(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], keras.ops.convert_to_numpy(model(x)))
"""

NORM_FREE_NETWORK = {"attention": "se", "attention_options": {"gate": "hard_sigmoid"}, "map_sizes": (6, 9)}
NORM_FREE = {
    "se": {"gate": {"kind": "hard_sigmoid", "slope": 0.2, "offset": 0.5}},
    "cbam": {"spatial_norm": None, "residual": True},
    "eca": {"kernel_size": 5, "padding": "circular"},
    "ca": {"norm": None},
}


def test_norm_free_functional_models_reload_without_this_package(tmp_path):
    inputs = x = keras.Input((None, None, 12))
    for block, options in NORM_FREE.items():
        x = function_of(block, x, data_format="channels_last", name=block, **options)
    x = function_of("plain", x, data_format="channels_last", name="plain", **NORM_FREE_NETWORK)
    model, images = keras.Model(inputs, x), image(2, 6, 9, 12)
    spread_out(model)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", images)
    paths = [str(tmp_path / name) for name in ("model.keras", "x.npy", "y.npy")]
    subprocess.run([sys.executable, "-c", RELOAD, *paths], check=True, env=os.environ | {"PYTHONPATH": ""})
    assert np.array_equal(np.load(paths[2]), run(model, images))


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("block", SPECS)
def test_unknown_sizes_give_what_known_sizes_give(block, dims, data_format):
    sizes = (4, 5, 7)[:dims]
    known = (12, *sizes) if data_format == "channels_first" else (*sizes, 12)
    unknown = tuple(size if size == 12 else None for size in known)
    spec = SPECS[block].options_class().resolve(12, dims)
    x = image(3, *known)
    for style in (layer_of, function_of):

        def model(shape, style=style):
            inputs = keras.Input(shape)
            options = {"data_format": data_format, "name": "attention"}
            output = style(block, inputs, **options) if style is function_of else style(block, **options)(inputs)
            return keras.Model(inputs, output)

        static, dynamic = model(known), model(unknown)
        spread_out(static)
        dynamic.set_weights(static.get_weights())
        assert dynamic.output.shape == spec.output_shape((None, *unknown), data_format)
        for training in (False, True):
            assert nearly(run(dynamic, x, training=training), run(static, x, training=training))
            for one, other in zip(dynamic.weights, static.weights, strict=True):
                assert nearly(one, other)


@pytest.mark.parametrize("block", SPECS)
def test_config_is_json_and_makes_an_equal_layer(block):
    for options in cases.OPTIONS[block].values():
        layer = type(layer_of(block))(**options.arguments(), data_format="channels_first", name="attention")
        again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
        layer.build((None, 12, None, None))
        again.build((None, 12, None, None))
        assert again.spec == layer.spec
        assert again.name == "attention"
        assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("block", SPECS)
def test_spec_builds_both_styles(block):
    spec = cases.OPTIONS[block]["default"].resolve(12, 2)
    layer = type(layer_of(block)).from_spec(spec, data_format="channels_last")
    assert layer.spec == spec
    x = keras.Input((None, None, 12))
    function = getattr(functional, spec.options_class.function_name)
    assert function(x, spec=spec, data_format="channels_last").shape == spec.output_shape(x.shape, "channels_last")
    # Any option that is not its default, beside a spec.
    name, value = next((n, v) for n, v in spec.options_class().arguments().items() if isinstance(v, bool))
    with pytest.raises(SpecError, match=f"received a spec together with {name}="):
        function(x, spec=spec, **{name: not value})


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_have_their_config_and_their_spec(network):
    layer = layer_of(network, data_format="channels_first", name="attention")
    again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    for one in (layer, again):
        one.build((None, 12, None, None))
    assert again.spec == layer.spec == spec_of(network)
    assert again.get_config() == layer.get_config()
    made = type(layer).from_spec(layer.spec, data_format="channels_last")
    assert made.spec == layer.spec
    assert [weight.shape for weight in made.weights] == [weight.shape for weight in layer.weights]
    function, x = getattr(functional, layer.spec.options_class.function_name), keras.Input((5, 7, 12))
    y = function(x, spec=layer.spec, data_format="channels_last")
    assert y.shape == made.compute_output_shape((None, 5, 7, 12)) == layer.spec.output_shape(x.shape, "channels_last")
    with pytest.raises(SpecError, match="received a spec together with attention="):
        function(x, spec=layer.spec, attention="eca")


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_give_the_same_in_both_formats_and_for_unknown_sizes(network):
    x, results = image(3, 5, 7, 12), []
    spec = spec_of(network)
    tensors = {name: np.abs(RNG.normal(size=shape)) + 0.1 for name, shape in spec.parameters().items()}
    for style in (layer_of, function_of):
        for shape in ((5, 7, 12), (12, None, None)):
            data_format = "channels_first" if shape[0] == 12 else "channels_last"
            options, inputs = {"data_format": data_format, "name": "attention"}, keras.Input(shape)
            y = style(network, inputs, **options) if style is function_of else style(network, **options)(inputs)
            model = keras.Model(inputs, y)
            assert dict(parity.load_into(model, Block("attention", spec, tensors)).loaded) == {"attention": "attention"}
            first = data_format == "channels_first"
            y = run(model, np.moveaxis(x, -1, 1) if first else x)
            results.append(np.moveaxis(y, 1, -1) if first else y)
    assert all(nearly(y, results[0]) for y in results[1:])


@pytest.mark.parametrize("size", [5, 6, 7])
def test_pools_see_the_positions_that_are_there(size):
    from attention_keras._maps import average_pool, max_pool

    x = np.abs(image(2, size, size + 1, 3))
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-1)
    most = keras.ops.convert_to_numpy(max_pool(x))
    assert most.shape[1:3] == ((size + 1) // 2, (size + 2) // 2)
    for i, j in np.ndindex(*most.shape[1:3]):
        assert np.array_equal(most[:, i, j], padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)))
    for stride in (2, 3):
        mean = keras.ops.convert_to_numpy(average_pool(x, stride))
        expected = np.stack(
            [
                [x[:, i : i + stride, j : j + stride].mean((1, 2)) for j in range(0, size + 1, stride)]
                for i in range(0, size, stride)
            ]
        )
        assert nearly(mean, np.moveaxis(expected, 2, 0))


def test_a_network_is_one_block_and_refuses_another_function():
    spec = spec_of("resnet")
    block = Block("attention", spec, {name: np.ones(shape, "float32") for name, shape in spec.parameters().items()})
    (found,) = parity.blocks_of(layer_model("resnet"))
    assert (found.name, found.spec) == ("attention", spec)
    assert list(found.tensors) == list(spec.parameters())
    report = parity.load_into(functional_model("resnet"), block)
    assert report.unverified == {"attention": ("attention", "placement")}
    # The stem has other channels than the first unit, whose shortcut is no pool: it has no stride.
    averaged = {"shortcut": "average", "stem_channels": 3}
    spec = EVERYTHING["resnet"].options_class(**SMALL["resnet"] | averaged).resolve(12, 2)
    ones = Block("attention", spec, {name: np.ones(shape, "float32") for name, shape in spec.parameters().items()})
    parity.load_into(functional_model("resnet", **averaged), ones)
    other = {"attention_options": SMALL["cbam"] | {"gate": "hard_sigmoid"}}
    changes = {"attention": other, "norm": {"norm": {"epsilon": 0.1}}, "shortcut": {"shortcut": "average"}}
    for make, (field, changed) in itertools.product((functional_model, layer_model), changes.items()):
        with pytest.raises(parity.errors.SpecMismatchError, match=rf"{field}[\[\]\w.]*: "):
            parity.load_into(make("resnet", **changed), block)


def test_a_spec_before_build_is_a_sentence():
    with pytest.raises(SpecError, match=r"call layer\.build"):
        _ = layers.CBAM().spec


def test_names_of_layers_are_the_canonical_paths():
    model = functional_model("cbam")
    names = {layer.name for layer in model.layers}
    assert {
        "attention_channel_fc1",
        "attention_channel_fc2",
        "attention_spatial_conv",
        "attention_spatial_norm",
    } <= names
    unnamed = keras.Model(model.input, functional.eca(functional.eca(model.output)))
    assert len({layer.name for layer in unnamed.layers}) == len(unnamed.layers)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("make", [functional_model, layer_model])
def test_dtype_is_that_of_the_policy_and_not_of_the_input(make, dtype):
    attention_keras.enable_float64()
    model = make("cbam", dtype=dtype)
    policy = keras.dtype_policies.get(dtype)
    assert {weight.dtype for weight in model.trainable_weights} == {policy.variable_dtype}
    y = model(image())
    assert keras.backend.standardize_dtype(y.dtype) == policy.compute_dtype


def test_the_float64_switch_is_still_needed():
    """When this fails, Keras has mended keras-team/keras#23704 and `enable_float64` can go."""
    probe = (
        "import keras, numpy as np\n"
        "x = np.array([[0.1, 0.7, 0.4]])\n"
        "error = abs(float(keras.ops.convert_to_numpy(keras.ops.mean(x, axis=1))[0]) - x.mean())\n"
        f"print(error > {tolerance('output', 'float64', 'cpu')})"
    )
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.split()[-1] == str(keras.backend.backend() != "tensorflow")


def test_freezing_means_inference_as_in_keras():
    model = layer_model("ca")
    layer = model.get_layer("attention")
    before = [np.array(weight) for weight in model.weights]
    layer.trainable = False
    run(model, image(), training=True)
    assert all(np.array_equal(old, new) for old, new in zip(before, model.weights, strict=True))
    layer.trainable = True
    run(model, image(), training=True)
    assert not all(np.array_equal(old, new) for old, new in zip(before, model.weights, strict=True))


@pytest.mark.parametrize("make", [functional_model, layer_model])
def test_fit_trains_and_moves_the_statistics(make):
    model = make("ca", norm=BatchNorm(update_rate=0.5))
    model.compile(optimizer="sgd", loss="mse")
    before = [np.array(weight) for weight in model.weights]
    model.fit(image(4, 5, 7, 12), image(4, 5, 7, 12), epochs=1, batch_size=2, verbose=0)
    still = [w.path for old, w in zip(before, model.weights, strict=True) if np.array_equal(old, w)]
    assert all(path.endswith("reduce/bias") for path in still), still  # inert before the norm


def test_one_value_per_channel_is_an_error_where_it_is_known():
    with pytest.raises(InputError, match="received one value per channel for a batch norm in training mode"):
        layer_of("cbam", data_format="channels_last")(image(1, 1, 1, 12), training=True)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow draws graphs of unknown batch")
def test_one_value_per_channel_leaves_the_statistics_alone_where_only_the_graph_knows():
    import tensorflow as tf

    layer = layer_of("cbam", data_format="channels_last")
    layer.build((None, None, None, 12))
    before = [np.array(weight) for weight in layer.weights]
    graph = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec((None, None, None, 12))])
    assert np.isfinite(graph(image(1, 1, 1, 12))).all()
    assert all(np.array_equal(old, new) for old, new in zip(before, layer.weights, strict=True))
    graph(image())
    assert not all(np.array_equal(old, new) for old, new in zip(before, layer.weights, strict=True))


@pytest.mark.parametrize(
    ("act", "kind", "sentence"),
    [
        (lambda: layers.SqueezeExcitation(reduction=0), SpecError, "received reduction=0"),
        (lambda: layers.CBAM(kernel_size=4), SpecError, "received kernel_size=4; expected an odd integer"),
        (lambda: layers.ECA(data_format="NHWC"), SpecError, "received data_format='NHWC'"),
        (lambda: layers.CBAM()(image(2, 12)), InputError, "received an input of shape (2, 12)"),
        (lambda: layers.ResNet(attention="se", placement="here"), SpecError, "received placement='here'"),
        (lambda: functional.resnet(keras.Input((9, 9, 3)), attention="es"), SpecError, "received attention='es'"),
        (lambda: layers.PlainNetwork(map_sizes=(5, 7))(image(2, 7, 5, 3)), InputError, "a map of (5, 7)"),
        (lambda: functional.cbam(keras.Input((5, 7, 12)), gate="soft"), SpecError, "received gate='soft'"),
        (lambda: functional.cbam(keras.Input((5, 7, None))), InputError, "received an input of shape"),
    ],
)
def test_misuse_is_a_value_error_with_a_sentence(act, kind, sentence):
    with pytest.raises(kind) as caught:
        act()
    assert isinstance(caught.value, ValueError)
    assert sentence in str(caught.value)


def test_another_number_of_channels_is_refused():
    layer = layer_of("se", data_format="channels_last")
    layer(image())
    with pytest.raises(ValueError, match="12"):
        layer(image(2, 5, 7, 11))


@pytest.mark.parametrize("make", [functional_model, layer_model])
def test_exchange_files_load_into_models_by_name(make, tmp_path):
    spec = cases.OPTIONS["ca"]["default"].resolve(12, 2)
    tensors = {n: (np.abs(RNG.normal(size=s)) + 0.1).astype("float32") for n, s in spec.parameters().items()}
    parity.write(tmp_path / "ca.safetensors", Block("attention", spec, tensors))
    model = make("ca")
    report = parity.load_into(model, tmp_path / "ca.safetensors")
    assert dict(report.loaded) == {"attention": "attention"}
    assert bool(report.unverified) == (make is functional_model)
    (block,) = parity.blocks_of(model, {"attention": spec})
    assert all(np.array_equal(block.tensors[name], tensors[name]) for name in tensors)


def test_a_functional_model_of_another_function_is_refused():
    spec = cases.OPTIONS["ca"]["relu"].resolve(12, 2)
    block = Block("attention", spec, {n: np.ones(s, "float32") for n, s in spec.parameters().items()})
    with pytest.raises(parity.errors.SpecMismatchError, match="activation: weights 'relu', model 'hard_swish'"):
        parity.load_into(functional_model("ca"), block)


def test_the_plug_in_example_of_the_tutorials():
    """A residual unit: add([x, residual, cbam(residual)])."""
    inputs = keras.Input((8, 8, 12))
    residual = keras.layers.Conv2D(12, 3, padding="same", activation="relu")(inputs)
    attended = functional.cbam(residual, reduction=4, data_format="channels_last", name="unit_cbam")
    model = keras.Model(inputs, keras.layers.add([inputs, residual, attended]))
    assert run(model, image(2, 8, 8, 12)).shape == (2, 8, 8, 12)
