"""What users of graphs and sessions expect of a function, beyond its numbers."""

import os
import subprocess
import sys

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1

import attention_tf1compat.adapter  # noqa: E402
import parity  # noqa: E402
from attention_tf1compat.networks._parts import average_pool, max_pool  # noqa: E402
from parity import cases  # noqa: E402
from parity.block import Block  # noqa: E402
from parity.compare import compare  # noqa: E402
from parity.oracle._measured import given  # noqa: E402
from parity.spec import SPECS, BatchNorm, InputError, ResNetOptions, SpecError  # noqa: E402

RNG = np.random.default_rng(0)
SMALL = {"se": {"reduction": 4}, "cbam": {"reduction": 4, "kernel_size": 3}, "eca": {}, "ca": {"reduction": 4}}


def call(block, x, **more):
    function = getattr(attention_tf1compat, SPECS[block].options_class.function_name)
    return function(x, **(SMALL.get(block, {}) | {"scope": "stage1/attention"} | more))


def image(*shape):
    return RNG.normal(size=shape or (2, 5, 7, 12)).astype("float32")


def variable_of(path):
    """The variable of the default graph at `path` in the scope of `call`."""
    (found,) = (variable for variable in v1.global_variables() if variable.op.name == f"stage1/attention/{path}")
    return found


def nearly(one, other, name="output"):
    """Whether two float32 arrays agree as a backend must agree with the oracle."""
    (found,) = compare({name: given(other)}, {name: one}, dtype="float32", device="cpu")
    return not found.failure


@pytest.fixture
def graph():
    with tf.Graph().as_default() as graph:
        yield graph


def started(graph):
    session = v1.Session(graph=graph)
    session.run(v1.global_variables_initializer())
    return session


def test_variables_are_the_canonical_paths(graph):
    call("cbam", v1.placeholder(tf.float32, (None, 5, 7, 12)))
    names = {variable.op.name for variable in v1.global_variables()}
    norm = {f"spatial/norm/{leaf}" for leaf in ("gamma", "beta", "moving_mean", "moving_variance")}
    dense = {f"channel/{path}/{leaf}" for path in ("fc1", "fc2") for leaf in ("kernel", "bias")}
    assert names == {f"stage1/attention/{name}" for name in norm | dense | {"spatial/conv/kernel"}}
    trainable = {variable.op.name.rpartition("/")[2] for variable in v1.trainable_variables()}
    assert not trainable & {"moving_mean", "moving_variance"}


@pytest.mark.parametrize("block", SPECS)
def test_calls_that_share_a_scope_share_weights(graph, block):
    x = tf.constant(image())
    one = call(block, x, reuse=v1.AUTO_REUSE)
    count = len(v1.global_variables())
    two = call(block, x, reuse=v1.AUTO_REUSE)
    assert len(v1.global_variables()) == count
    with started(graph) as session:
        y, again = session.run([one, two])
    assert np.array_equal(y, again)
    with pytest.raises(ValueError, match="already exists"):
        call(block, x)


def test_another_spec_in_a_shared_scope_is_refused(graph):
    x = tf.constant(image())
    call("cbam", x, reuse=v1.AUTO_REUSE)
    with pytest.raises(SpecError, match=r"residual: False, True.*use another scope"):
        call("cbam", x, reuse=v1.AUTO_REUSE, residual=True)


@pytest.mark.parametrize("block", SPECS)
def test_saver_restores_everything(graph, block, tmp_path):
    x = v1.placeholder(tf.float32, (None, 5, 7, 12))
    y = call(block, x, training=block in ("cbam", "ca"))
    updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
    saver, images = v1.train.Saver(), image()
    with started(graph) as session:
        session.run(updates, {x: images})
        before = session.run([y, *v1.global_variables()], {x: images})
        saver.save(session, str(tmp_path / "model"))
    with v1.Session(graph=graph) as session:
        saver.restore(session, str(tmp_path / "model"))
        after = session.run([y, *v1.global_variables()], {x: images})
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("unbiased", [True, False])
def test_updates_of_calls_that_share_a_scope_both_count(graph, unbiased):
    norm = BatchNorm(update_rate=0.25, unbiased_variance=unbiased)
    first, second = v1.placeholder(tf.float32, (2, 5, 7, 12)), v1.placeholder(tf.float32, (2, 5, 7, 12))
    for x in (first, second):
        call("ca", x, norm=norm, training=True, reuse=v1.AUTO_REUSE)
    images = image(), image()
    with started(graph) as session:
        session.run(v1.get_collection(v1.GraphKeys.UPDATE_OPS), dict(zip((first, second), images, strict=True)))
        together = session.run(variable_of("norm/moving_variance"))
        weights = {v.op.name: session.run(v) for v in v1.trainable_variables()}
    with tf.Graph().as_default() as alone:
        x = v1.placeholder(tf.float32, (2, 5, 7, 12))
        call("ca", x, norm=norm, training=True)
        with started(alone) as session:
            for variable in v1.trainable_variables():
                variable.load(weights[variable.op.name], session)
            for one in images:
                session.run(v1.get_collection(v1.GraphKeys.UPDATE_OPS), {x: one})
            apart = session.run(variable_of("norm/moving_variance"))
    assert nearly(together, apart)


def test_training_as_a_tensor_is_training_as_a_bool(graph):
    x, training = v1.placeholder(tf.float32, (2, 5, 7, 12)), v1.placeholder(tf.bool, ())
    y = call("cbam", x, training=training)
    statistics = [v for v in v1.global_variables() if "moving" in v.op.name]
    updates, images = v1.get_collection(v1.GraphKeys.UPDATE_OPS), image()
    with started(graph) as session:
        idle = session.run(statistics)
        inferred, _ = session.run([y, updates], {x: images, training: False})
        assert all(np.array_equal(a, b) for a, b in zip(idle, session.run(statistics), strict=True))
        trained, _ = session.run([y, updates], {x: images, training: True})
        moved = session.run(statistics)
    assert not np.array_equal(inferred, trained)
    assert not any(np.array_equal(a, b) for a, b in zip(idle, moved, strict=True))


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("block", SPECS)
def test_unknown_sizes_give_what_known_sizes_give(graph, block, dims, data_format):
    sizes = (4, 5, 7)[:dims]
    known = (3, 12, *sizes) if data_format == "channels_first" else (3, *sizes, 12)
    unknown = tuple(size if size == 12 else None for size in known)
    feeds = [v1.placeholder(tf.float32, shape) for shape in (known, unknown)]
    options = {"data_format": data_format, "training": True, "reuse": v1.AUTO_REUSE}
    outputs = [call(block, x, **options) for x in feeds]
    gradients = [tf.gradients(y, x)[0] for y, x in zip(outputs, feeds, strict=True)]
    images = image(*known)
    with started(graph) as session:
        feed = dict.fromkeys(feeds, images)
        (y, other), (slope, other_slope) = session.run([outputs, gradients], feed)
        session.run(v1.get_collection(v1.GraphKeys.UPDATE_OPS), feed)
    assert nearly(y, other)
    assert nearly(slope, other_slope, "grad.input")


def test_one_value_per_channel_is_an_error_now_or_when_the_graph_runs(graph):
    with pytest.raises(InputError, match="received one value per channel for a batch norm in training mode"):
        call("cbam", tf.constant(image(1, 1, 1, 12)), training=True)
    x = v1.placeholder(tf.float32, (None, None, None, 12))
    y = call("cbam", x, training=True, scope="other")
    with started(graph) as session:
        session.run(y, {x: image()})
        with pytest.raises(tf.errors.InvalidArgumentError, match="received one value per channel"):
            session.run(y, {x: image(1, 1, 1, 12)})


def test_half_precision_means_do_not_overflow(graph):
    x = np.full((1, 256, 256, 4), 100, np.float16)
    y = attention_tf1compat.squeeze_excitation(tf.constant(x), dtype=tf.float16)
    with started(graph) as session:
        assert np.isfinite(session.run(y)).all()


def test_specs_travel_with_a_meta_graph(graph):
    call("ca", v1.placeholder(tf.float32, (None, 5, 7, 12)))
    exported = v1.train.export_meta_graph()
    with tf.Graph().as_default() as imported:
        v1.train.import_meta_graph(exported)
        with started(imported) as session:
            (block,) = parity.blocks_of(session)
    assert (block.name, block.spec) == ("stage1/attention", cases.OPTIONS["ca"]["default"].resolve(12, 2))


def test_exchange_files_load_into_sessions_by_scope(graph, tmp_path):
    spec = cases.OPTIONS["ca"]["default"].resolve(12, 2)
    tensors = {n: (np.abs(RNG.normal(size=s)) + 0.1).astype("float32") for n, s in spec.parameters().items()}
    parity.write(tmp_path / "ca.safetensors", Block("stage1.attention", spec, tensors))
    call("ca", v1.placeholder(tf.float32, (None, 5, 7, 12)))
    with started(graph) as session:
        parity.load_into(session, tmp_path / "ca.safetensors")
        (block,) = parity.blocks_of(session)
    assert all(np.array_equal(block.tensors[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("act", "kind", "sentence"),
    [
        (lambda x: call("se", x, reduction=0), SpecError, "received reduction=0"),
        (lambda x: call("cbam", x, kernel_size=4), SpecError, "received kernel_size=4; expected an odd integer"),
        (lambda x: call("eca", x, data_format="NHWC"), SpecError, "received data_format='NHWC'"),
        (lambda x: call("se", x, training="yes"), InputError, "True, False or a scalar boolean tensor"),
        (lambda x: call("cbam", x, training=1), InputError, "True, False or a scalar boolean tensor"),
        (lambda x: call("cbam", tf.cast(x, tf.float64)), InputError, "pass dtype=tf.float64"),
        (lambda x: call("cbam", x[0, 0]), InputError, "received an input of shape (7, 12)"),
        (lambda x: call("cbam", v1.placeholder(tf.float32)), InputError, "received an input of unknown rank"),
    ],
)
def test_misuse_is_a_value_error_with_a_sentence(graph, act, kind, sentence):
    with pytest.raises(kind) as caught:
        act(tf.constant(image()))
    assert isinstance(caught.value, ValueError)
    assert sentence in str(caught.value)


def test_eager_mode_is_refused_with_a_sentence():
    with pytest.raises(InputError, match="received a call in eager mode"):
        call("se", tf.constant(image()))


V1_BEHAVIOUR = """
import numpy as np, tensorflow as tf
tf.compat.v1.disable_v2_behavior()
from attention_tf1compat import cbam
x, training = tf.compat.v1.placeholder(tf.float32, (None, None, None, 12)), tf.compat.v1.placeholder(tf.bool, ())
y = cbam(x, reduction=4, training=training, scope="a")
slope = tf.gradients(y, x)[0]
with tf.compat.v1.Session() as session:
    session.run(tf.compat.v1.global_variables_initializer())
    images = np.random.default_rng(0).normal(size=(2, 5, 7, 12))
    updates = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS)
    for mode in (True, False):
        session.run([y, slope, updates], {x: images, training: mode})
    assert session.run("a/spatial/norm/moving_mean/Read/ReadVariableOp:0") != 0
"""


def test_it_works_where_the_behaviour_of_version_2_is_disabled():
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", V1_BEHAVIOUR], check=True, env=environment, capture_output=True)


def test_variables_of_one_initial_value_are_written_each(graph):
    """A tensor that initializes two variables can be fed one value at a time."""
    zeros = tf.zeros((3,))
    variables = [v1.get_variable(name, initializer=zeros) for name in ("a", "b", "c")]
    session = started(graph)
    values = [np.full(3, number, "float32") for number in (1, 2, 3)]
    attention_tf1compat.adapter.write_variables(session, zip(variables, values, strict=True))
    assert [value.tolist() for value in session.run(variables)] == [value.tolist() for value in values]


RESNET = {"depths": (1, 1), "width": 4, "stem": "small", "attention": "se", "attention_options": {"reduction": 2}}
NETWORKS = {
    "residual_unit": {"out_channels": 8, "stride": 2, "attention": "se", "attention_options": {"reduction": 2}},
    "resnet": RESNET | {"stem": "imagenet", "shortcut": "average", "classes": 5},
    "plain_network": {"filters": (4, 6), "strides": (1, 2), "attention": "se", "attention_options": {"reduction": 2}},
}


def network(name, x, **more):
    return getattr(attention_tf1compat, name)(x, **({"scope": "net"} | NETWORKS[name] | more))


def states():
    """The running statistics of the default graph by name."""
    return {variable.op.name: variable for variable in v1.global_variables() if "moving" in variable.op.name}


def test_variables_of_a_network_are_the_canonical_paths(graph):
    network("resnet", v1.placeholder(tf.float32, (None, 9, 11, 3)))
    names = {variable.op.name for variable in v1.global_variables()}
    units = {"stage1/unit1": ("norm1", "norm2"), "stage2/unit1": ("norm1", "norm2", "shortcut/norm")}
    norms = {f"{unit}/{norm}" for unit, parts in units.items() for norm in parts} | {"stem/norm"}
    wanted = {f"{norm}/{leaf}" for norm in norms for leaf in ("gamma", "beta", "moving_mean", "moving_variance")}
    wanted |= {f"{norm.replace('norm', 'conv')}/kernel" for norm in norms}
    dense = {"head"} | {f"{unit}/attention/{fc}" for unit in units for fc in ("fc1", "fc2")}
    wanted |= {f"{path}/{leaf}" for path in dense for leaf in ("kernel", "bias")}
    assert names == {f"net/{name}" for name in wanted}


def test_calls_of_a_network_share_weights_and_chain_their_updates(graph):
    first, second = (v1.placeholder(tf.float32, (4, 9, 11, 3)) for _ in range(2))
    options = {"norm": BatchNorm(update_rate=0.25), "training": True}
    outputs = [network("resnet", x, reuse=v1.AUTO_REUSE, **options) for x in (first, second)]
    count, images = len(v1.global_variables()), (image(4, 9, 11, 3), image(4, 9, 11, 3))
    with started(graph) as session:
        one, other = session.run(outputs, {first: images[0], second: images[0]})
        session.run(v1.get_collection(v1.GraphKeys.UPDATE_OPS), dict(zip((first, second), images, strict=True)))
        together, weights = session.run([states(), {v.op.name: v for v in v1.trainable_variables()}])
    assert np.array_equal(one, other)
    with tf.Graph().as_default() as alone:
        x = v1.placeholder(tf.float32, (4, 9, 11, 3))
        network("resnet", x, **options)
        assert len(v1.global_variables()) == count
        with started(alone) as session:
            for variable in v1.trainable_variables():
                variable.load(weights[variable.op.name], session)
            for batch in images:
                session.run(v1.get_collection(v1.GraphKeys.UPDATE_OPS), {x: batch})
            apart = session.run(states())
    assert together.keys() == apart.keys()
    assert all(nearly(together[name], apart[name]) for name in apart)


def test_a_network_trains_by_a_tensor_as_by_a_bool(graph):
    x, training = v1.placeholder(tf.float32, (4, 9, 11, 3)), v1.placeholder(tf.bool, ())
    y = network("resnet", x, training=training)
    updates, images = v1.get_collection(v1.GraphKeys.UPDATE_OPS), image(4, 9, 11, 3)
    always, never = (network("resnet", x, training=mode, reuse=True) for mode in (True, False))
    slopes = [tf.gradients(output, x)[0] for output in (y, always)]
    with started(graph) as session:
        idle = session.run(states())
        inferred, wanted, _ = session.run([y, never, updates], {x: images, training: False})
        still = session.run(states())
        trained, target, slope, other = session.run([y, always, *slopes], {x: images, training: True})
        session.run(updates, {x: images, training: True})
        moved = session.run(states())
    assert nearly(inferred, wanted)
    assert nearly(trained, target)
    assert nearly(slope, other, "grad.input")
    assert not np.array_equal(inferred, trained)
    assert all(np.array_equal(idle[name], still[name]) for name in idle)
    assert not any(np.array_equal(idle[name], moved[name]) for name in idle)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_does_not_mind_unknown_sizes_or_the_layout(graph, name, dims):
    sizes = (9, 12, 7)[:dims]
    options = {"map_sizes": sizes} if name == "plain_network" else {}
    options |= {"reuse": v1.AUTO_REUSE, "training": True}
    known = v1.placeholder(tf.float32, (4, *sizes, 3))
    unknown = v1.placeholder(tf.float32, (None, *(None,) * dims, 3))
    first = v1.placeholder(tf.float32, (None, 3, *(None,) * dims))
    outputs = [network(name, x, **options) for x in (known, unknown)]
    outputs.append(network(name, first, data_format="channels_first", **options))
    images = image(4, *sizes, 3)
    with started(graph) as session:
        y, other, turned = session.run(
            outputs, {known: images, unknown: images, first: np.moveaxis(images, -1, 1).copy()}
        )
    assert nearly(y, other)
    assert nearly(y, np.moveaxis(turned, 1, -1) if name == "residual_unit" else turned)


def test_a_network_is_one_block_and_what_stands_beside_it_another(graph):
    x = v1.placeholder(tf.float32, (None, 9, 11, 3))
    # The parts of a network are no blocks, even where one was before the network took it in.
    call("se", v1.placeholder(tf.float32, (None, 9, 11, 4)), scope="net/stage1/unit1/attention", reduction=2)
    with pytest.raises(InputError, match="received one value per channel"):
        network("resnet", tf.constant(image(1, 1, 1, 3)), training=True, scope="failed")
    network("resnet", x, reuse=v1.AUTO_REUSE)
    call("eca", x, scope="net/beside")
    attention_tf1compat.residual_unit(x, scope="other")
    blocks = attention_tf1compat.adapter.find_blocks(started(graph), {})
    assert {name: block.shown["block"] for name, block in blocks.items()} == {
        "net": "resnet",
        "net/beside": "eca",
        "other": "residual",
    }
    u = v1.placeholder(tf.float32, (None, 9, 11, 4))
    with pytest.raises(SpecError, match=r"'net/stage1/unit1'.*attention"):
        attention_tf1compat.residual_unit(u, scope="net/stage1/unit1", reuse=True)


def test_a_network_travels_with_a_meta_graph_and_a_saver(graph, tmp_path):
    x = v1.placeholder(tf.float32, (None, 9, 11, 3), "x")
    y = tf.identity(network("resnet", x), "y")
    saver, images = v1.train.Saver(), image(2, 9, 11, 3)
    with started(graph) as session:
        before = session.run(y, {x: images})
        (block,) = parity.blocks_of(session)
        saver.save(session, str(tmp_path / "model"))
    parity.write(tmp_path / "net.safetensors", block)
    with tf.Graph().as_default() as imported, v1.Session(graph=imported) as session:
        v1.train.import_meta_graph(str(tmp_path / "model.meta"), import_scope="copy")
        session.run(v1.global_variables_initializer())
        parity.load_into(session, tmp_path / "net.safetensors", mapping={"net": "copy/net"})
        (copy,) = parity.blocks_of(session)
        after = session.run("copy/y:0", {"copy/x:0": images})
    assert (copy.name, copy.spec) == ("copy/net", block.spec)
    assert np.array_equal(before, after)


def test_what_the_layers_of_a_network_put_out_survives_a_second_call():
    adapter = attention_tf1compat.adapter
    spec = ResNetOptions(**RESNET).resolve(3, 2)
    model = adapter.build(spec, shape=(4, 3, 9, 11), data_format="channels_first", dtype="float32", device="cpu")
    (block,) = adapter.find_blocks(model, {}).values()
    images = image(4, 3, 9, 11)
    before = adapter.layer_outputs(model, images, spec.layers(), data_format="channels_first")
    assert [value.shape for value in before.values()] == [(4, 4, 9, 11), (4, 4, 9, 11), (4, 8, 5, 6)]
    how = {"training": True, "data_format": "channels_first", "learning_rate": 0.0}
    step = adapter.stepper(model, block.variables, **how)
    statistics = model.run(block.variables["stem.norm.mean"])
    after = adapter.layer_outputs(model, images, spec.layers(), data_format="channels_first")
    assert np.array_equal(model.run(block.variables["stem.norm.mean"]), statistics)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    step(images, None, False)
    assert not np.array_equal(model.run(block.variables["stem.norm.mean"]), statistics)


def test_pools_see_the_positions_that_are_there():
    with tf.Graph().as_default() as graph:
        x = tf.constant(-1 - np.abs(image(2, 5, 7, 3)))
        highest, mean = max_pool(x), average_pool(x, 3)
        with started(graph) as session:
            images, found, middle = session.run([x, highest, mean])
    assert np.array_equal(found[:, 0, 3], images[:, :2, 5:].max((1, 2)))
    assert found.shape == (2, 3, 4, 3)
    assert middle.shape == (2, 2, 3, 3)
    assert nearly(middle[:, 1, 2], images[:, 3:, 6:].mean((1, 2)))


def test_a_map_of_another_size_than_the_head_is_an_error_now_or_when_the_graph_runs(graph):
    with pytest.raises(InputError, match=r"a map of \(9, 11\)"):
        network("plain_network", tf.constant(image(2, 11, 9, 3)), map_sizes=(9, 11))
    x = v1.placeholder(tf.float32, (None, None, None, 3))
    y = network("plain_network", x, map_sizes=(9, 11), scope="other")
    with started(graph) as session:
        session.run(y, {x: image(2, 9, 11, 3)})
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected a map of \(9, 11\)"):
            session.run(y, {x: image(2, 11, 9, 3)})


def test_an_unknown_placement_names_the_known_ones(graph):
    with pytest.raises(SpecError, match=r"received placement='behind'.*'before_addition', .*'beside_identity'"):
        network("resnet", tf.constant(image(2, 9, 11, 3)), placement="behind")
