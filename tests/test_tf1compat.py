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
from parity import cases  # noqa: E402
from parity.block import Block  # noqa: E402
from parity.compare import compare  # noqa: E402
from parity.oracle._measured import given  # noqa: E402
from parity.spec import SPECS, BatchNorm, InputError, SpecError  # noqa: E402

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
