"""Attacks on the readers with native libraries: HDF5, Keras archives, TensorFlow's checkpoints, ONNX graphs."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import parity
from fuzz.targets import _bundles
from parity import files, golden
from parity.errors import DialectError, FormatError, InputError, ParityError
from parity.files import _child, tensorflow

ROOT = Path(__file__).parents[1]
SECONDS = 20  # that a small file may take of a processor


def refused(path, *words, but="did not answer"):
    """The file is refused in these words, and not because its reader waits for something that never comes."""
    with pytest.raises(FormatError) as caught:
        files.open(path)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert but not in str(caught.value)


@pytest.fixture
def impatient(monkeypatch):
    """Readers in processes of their own that are given up soon."""
    monkeypatch.setattr(_child, "SECONDS", float(SECONDS))


@pytest.fixture
def pipe(tmp_path):
    """A file that keeps whoever opens it waiting for ever."""
    (tmp_path / "elsewhere").mkdir()
    os.mkfifo(tmp_path / "elsewhere" / "pipe")
    return tmp_path / "elsewhere" / "pipe"


# ONNX


def field(number, content):
    """A field of a protobuf message that is a text or a message."""
    return _bundles.varint(number << 3 | 2) + _bundles.varint(len(content)) + content


def onnx_file(path, nodes, weights=None, functions=(), inputs=(("x", ("n", 4, 5, 6)),), stated=()):
    onnx = pytest.importorskip("onnx")
    make = onnx.helper.make_tensor_value_info
    held = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, given, [made], **more) for op, given, made, more in nodes],
        *("g", [make(name, 1, shape) for name, shape in inputs], [make("y", 1, None)], held),
        value_info=[make(name, 1, shape) for name, shape in stated],
    )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in (("", 17), ("own", 1), ("evil", 1))]
    functions = [
        onnx.helper.make_function(
            "own", name, ["a"], ["y"], [onnx.helper.make_node(*call, domain=domain) for *call, domain in body], opsets
        )
        for name, body in functions
    ]
    model = onnx.helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def node(op, inputs, output, **attributes):
    return op, inputs.split(" ") if isinstance(inputs, str) else inputs, output, attributes


def ones(*shape):
    return np.ones(shape, np.float32)


def block(first="w1", gate="Sigmoid", **more):
    """The nodes and the weights of a squeeze and excitation."""
    nodes = [
        node("GlobalAveragePool", "x", "p"),
        node("Conv", ["p", first], "a"),
        node("Relu", "a", "r"),
        node("Conv", "r w2", "u"),
        node(gate, "u", "s", **more),
        node("Mul", "x s", "y"),
    ]
    return nodes, {first: ones(2, 4, 1, 1), "w2": ones(4, 2, 1, 1)}


def chain(op, count, first="x", other=None, **attributes):
    """`count` nodes, each of what the one before made, and of `other` or of the same again."""
    names = [first, *(f"c{number}" for number in range(count))]
    return [node(op, [before, other or before], after, **attributes) for before, after in itertools.pairwise(names)]


Y = node("Relu", "x", "y")
ENDLESS = {
    # The parts of an axis of 2**60 parts, and of parts in parts in parts.
    "doubled joins": lambda: ([*chain("Concat", 60, axis=1), node("Shape", "c59", "s"), Y], {}),
    "joins of joins": lambda: ([*chain("Concat", 3000, other="x", axis=1), node("Shape", "c2999", "s"), Y], {}),
    "joins of ones": lambda: (
        [node("GlobalMaxPool", "x", "p"), *chain("Concat", 3000, "p", "p", axis=2), node("Shape", "c2999", "s"), Y],
        {},
    ),
    # A size of 2**40 digits.
    "sizes": lambda: ([*chain("Mul", 42, "k"), Y], {"k": np.array([3])}),
    # Names in which a search starts anew at each letter.
    "colons": lambda: block(":" * 200_000 + "\n"),
    "words": lambda: block("Constant" * 60_000 + "\n"),
    "axes": lambda: ([*chain("Add", 400, other="x"), Y], {}, (), (("x", (2,) * 100_000),)),
    "axes of a reshape": lambda: (
        [node("Reshape", "x", "c", shape=[1] * 100_000), *chain("Add", 400, "c", "c"), Y],
        {},
        (),
        (("x", (1,)),),
    ),
    # One weight, again and again.
    "copies by factors": lambda: (
        [*(node("Gemm", "x w", f"c{number}", alpha=2.0 + number) for number in range(1500)), node("Relu", "x", "y")],
        {"w": ones(256, 256)},
        (),
        (("x", ("n", 256)),),
    ),
    "copies by layouts": lambda: (
        [
            node("Transpose", "w", "t"),
            *(node("Reshape", "t s", f"c{number}") for number in range(1500)),
            node("Relu", "x", "y"),
        ],
        {"w": ones(256, 256), "s": np.array([-1])},
    ),
    # A function of calls of as many others, and functions that are each twice the one before.
    "many functions": lambda: (
        [node("big", "x", "y", domain="own")],
        {},
        [
            *((f"f{number}", [("Relu", ["a"], ["y"], "")]) for number in range(6000)),
            ("big", [(f"f{number}", ["a"], [f"y{number or ''}"], "own") for number in range(6000)]),
        ],
    ),
    "doubled functions": lambda: (
        [node("f19", "x", "y", domain="own")],
        {},
        [
            ("f0", [("Relu", ["a"], ["y"], "")]),
            *(
                (f"f{number}", [(f"f{number - 1}", ["a"], ["b"], "own"), (f"f{number - 1}", ["b"], ["y"], "own")])
                for number in range(1, 20)
            ),
        ],
    ),
    "no operators": lambda: ([node("", "x", f"c{number}") for number in range(20_000)], {}),
    # A node of many inputs in each of many blocks.
    "shared nodes": lambda: (
        [
            node("GlobalAveragePool", "x", "p"),
            node("Conv", "p w1", "a"),
            node("Relu", ["a", *(f"d{number}" for number in range(20_000))], "r"),
            *(
                step
                for number in range(1500)
                for step in (
                    node("Conv", ["r", f"v{number}"], f"u{number}"),
                    node("Sigmoid", f"u{number}", f"s{number}"),
                    node("Mul", f"x s{number}", f"y{number}"),
                )
            ),
            Y,
        ],
        {
            "w1": ones(2, 4, 1, 1),
            **{f"v{number}": np.full((4, 2, 1, 1), number, "f4") for number in range(1500)},
            **{f"d{number}": ones() for number in range(20_000)},
        },
    ),
}
REFUSED = {
    "copies by factors": "lays out its weights anew, many times over",
    "copies by layouts": "lays out its weights anew, many times over",
    "doubled functions": "too large once its functions are inlined",
    "no operators": "node 0 calls no operator",
}
BLOCKS = {"colons": 1, "words": 1, "shared nodes": 1500}


def bounded(path):
    """What comes of a file in a process that may compute for `SECONDS` and grow by 96 MiB."""
    program = (
        "import resource, sys, onnx, onnx.inliner; from parity import files; from parity.errors import ParityError\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        f"resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))\n"
        "before = peak()\n"
        "try: told = len(files.open(sys.argv[1]).blocks)\n"
        "except ParityError as error: told = str(error)[:1000]\n"
        "print(told, flush=True); sys.exit(f'grew by {peak() - before} MiB' if peak() - before > 96 else 0)"
    )
    command = [sys.executable, "-c", program, path]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10 * SECONDS).stdout.strip()


@pytest.mark.parametrize("name", ENDLESS)
def test_small_graphs_of_endless_things(tmp_path, name):
    told = bounded(onnx_file(tmp_path / "m.onnx", *ENDLESS[name]()))
    assert REFUSED[name] in told if name in REFUSED else told == str(BLOCKS.get(name, 0))


def test_sizes_are_those_of_a_machine(tmp_path):
    """What a size is not, a reshape cannot be told by: the block behind it is none."""
    onnx_file(tmp_path / "m.onnx", [*chain("Mul", 8, "k"), Y], {"k": np.array([3])})
    from parity.files.onnx._blocks import find
    from parity.files.onnx._model import Graph

    _, walk = find(Graph(str(tmp_path / "m.onnx")))
    entries = [walk.items[f"c{number}"].entries[0] for number in range(8)]
    assert entries == [3**2, 3**4, 3**8, 3**16, 3**32, None, None, None]


def test_operators_of_other_domains_are_others(tmp_path):
    nodes, weights = block()
    assert len(files.open(onnx_file(tmp_path / "m.onnx", nodes, weights)).blocks) == 1
    nodes, weights = block(domain="evil")
    assert not files.open(onnx_file(tmp_path / "m.onnx", nodes, weights)).blocks


def test_graphs_inside_graphs(tmp_path):
    for depth in (20, 2000):  # protobuf takes no more than a hundred messages in one another
        graph = field(1, field(1, b"x") + field(2, b"y") + field(4, b"Relu"))
        for _ in range(depth):
            attribute = field(1, b"then_branch") + b"\xa0\x01\x05" + field(6, graph)
            graph = field(1, field(2, b"y") + field(4, b"If") + field(5, attribute))
        value = field(11, field(1, b"x"))
        (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + field(7, graph + value) + field(8, b"\x10\x11"))
        if depth == 20:
            assert files.open(tmp_path / "m.onnx").blocks == ()
        else:
            refused(tmp_path / "m.onnx", "cannot be read as an ONNX file")


def test_loops_are_not_run(tmp_path):
    """A block whose gate is spread by sizes that a loop computes, without end."""
    onnx = pytest.importorskip("onnx")
    make = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [one], [other]) for one, other in (("c", "d"), ("s", "t"))],
        "body",
        [make("i", 7, ()), make("c", 9, ()), make("s", 7, (4,))],
        [make("d", 9, ()), make("t", 7, (4,))],
    )
    nodes, weights = block()
    nodes[-1:] = [
        node("Loop", ["", "yes", "shape"], "sizes", body=body),
        node("Expand", "s sizes", "e"),
        node("Mul", "x e", "y"),
    ]
    weights |= {"yes": np.array(True), "shape": np.array([1, 4, 1, 1])}
    path = onnx_file(tmp_path / "m.onnx", nodes, weights, stated=[("e", (None, 4, None, None))])
    assert [one.name for one in files.open(path).blocks] == ["se_0"]
    with pytest.raises(DialectError, match=r"holds graphs inside node 5 \(Loop 'sizes'\)"):
        run_blocks(path, "se_0")


def run_blocks(path, *names, x=None):
    """What the nodes of the blocks make of a map, in the process that ONNX Runtime has of its own."""
    pytest.importorskip("onnxruntime")
    from parity.files.onnx import with_probes

    x = ones(2, 4, 5, 6) if x is None else x
    return [block.probe.output for block in with_probes(str(path), dict.fromkeys(names, x))]


def spread(path, *sizes):
    """A block whose gate is spread over sizes that nobody knows before they are computed."""
    nodes, weights = block()
    nodes[-1:] = [node("CumSum", "k zero", "sizes"), node("Expand", "s sizes", "e"), node("Mul", "x e", "y")]
    weights |= {"k": np.diff(sizes, prepend=0), "zero": np.array(0)}
    return onnx_file(path, nodes, weights, stated=[("e", (None, 4, None, None))])


def test_blocks_that_take_much_memory(tmp_path, monkeypatch):
    """2 GiB, of which the process may have half, in a file of less than a kilobyte."""
    assert run_blocks(spread(tmp_path / "m.onnx", 1, 4, 5, 6), "se_0")[0].shape == (2, 4, 5, 6)
    path = spread(tmp_path / "m.onnx", 1, 4, 1 << 14, 1 << 13)
    monkeypatch.setitem(_child.MEMORY, "onnx._run", 1 << 30)
    with pytest.raises(InputError, match=r"m\.onnx: block 'se_0' does not run .*(allocat|memory)"):
        run_blocks(path, "se_0")


def test_outputs_of_another_shape(tmp_path):
    path = spread(tmp_path / "m.onnx", 5, 2, 4, 5, 6)
    with pytest.raises(InputError, match=r"its output has the shape \(5, 2, 4, 5, 6\)"):
        run_blocks(path, "se_0")


def test_runtime_that_dies(tmp_path, monkeypatch):
    """The caller lives on, whatever a kernel does: the library beside it is another one for its child."""
    pytest.importorskip("onnxruntime")  # this process has the right one now
    path = onnx_file(tmp_path / "m.onnx", *block())
    (tmp_path / "onnxruntime.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FormatError) as caught:
        run_blocks(path, "se_0")
    assert f"{path} cannot be read: its reader crashed (SIGSEGV)" in str(caught.value)


def two_blocks(path):
    """A file of two blocks that share their second layer, and their names."""
    nodes, weights = block()
    others, more = block("w3")
    for op, given, made, attributes in others:
        nodes.append(
            (op, [name if name in ("x", "w2", "w3") else f"{name}2" for name in given], f"{made}2", attributes)
        )
    onnx_file(path, nodes, weights | more)
    return path, [one.name for one in files.open(path).blocks]


def test_one_process_runs_all_blocks(tmp_path, monkeypatch):
    path, names = two_blocks(tmp_path / "m.onnx")
    calls, run = [], _child._run
    monkeypatch.setattr(_child, "_run", lambda *arguments: calls.append(arguments) or run(*arguments))
    one, two = run_blocks(path, *names)
    assert (len(calls), np.array_equal(one, two)) == (1, True)
    assert run_blocks(path) == []
    assert len(calls) == 1


def test_blocks_that_share_too_much(tmp_path, monkeypatch):
    """Each block is run with a copy of what it shares: as many copies as there are blocks would be a flood."""
    from parity.files.onnx import _run

    path, names = two_blocks(tmp_path / "m.onnx")
    monkeypatch.setattr(_run, "CUT", 1)
    monkeypatch.setattr(_run, "FREE_CUT_BYTES", 0)
    assert run_blocks(path, names[0])
    with pytest.raises(FormatError, match="has blocks that share too much to be run"):
        run_blocks(path, *names)


def test_external_data_in_a_pipe_or_in_a_constant(tmp_path, pipe):
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="pipe")
    path = onnx_file(pipe.parent / "m.onnx", [node("Constant", [], "k", value=tensor), Y])
    refused(path, "keeps 'w' in 'pipe', which is no plain file beside it")
    tensor.external_data[0].value = "../secret"
    path = onnx_file(pipe.parent / "m.onnx", [node("Constant", [], "k", value=tensor), Y])
    refused(path, "keeps 'w' in '../secret'; expected the plain name")


# HDF5


def hdf5_file(path, *fills, layers=("dense",), weights=("kernel",)):
    """A Keras 2 file of one layer, and what `fills` do to the file."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        group = file.create_group("dense")
        group.attrs["weight_names"] = [name.encode() for name in weights]
        group["kernel"] = np.ones(3)
        for fill in fills:
            fill(file)
    return path


def test_nothing_is_looked_up_through_links(tmp_path, pipe, impatient):
    """An optimizer's state is not read, but names in attributes could lead through it."""
    h5py = pytest.importorskip("h5py")
    outside = h5py.ExternalLink(str(pipe), "/x")

    def external(name):
        return lambda file: file.__setitem__(name, outside)

    path = tmp_path / "a.h5"
    refused(hdf5_file(path, external("optimizer"), layers=["optimizer"]), "'optimizer' is a ExternalLink")
    refused(hdf5_file(path, external("optimizer/x"), layers=["optimizer/x"]), "'optimizer/x' is named and not there")
    refused(hdf5_file(path, external("optimizer/x"), weights=["../optimizer/x"]), "is named and not there")
    assert files.open(hdf5_file(path, external("optimizer/x"))).tensors.keys() == {"dense/kernel"}

    def cycle(file):
        file["optimizer_weights/a"], file["optimizer_weights/b"] = h5py.SoftLink("b"), h5py.SoftLink("a")

    for name in ("optimizer_weights/a", "optimizer_weights/a/a/a"):
        refused(hdf5_file(path, cycle, layers=[name]), "is named and not there")


def test_data_that_lie_in_a_pipe_are_not_waited_for(tmp_path, pipe, impatient):
    h5py = pytest.importorskip("h5py")

    def virtual(file):
        layout = h5py.VirtualLayout((3,), "f8", maxshape=(None,))  # its size is that of its sources
        layout[: h5py.h5s.UNLIMITED] = h5py.VirtualSource(str(pipe), "w", (3,), maxshape=(None,))[: h5py.h5s.UNLIMITED]
        file.create_virtual_dataset("dense/more", layout)

    def external(file):
        file.create_dataset("dense/more", (3,), "f8", external=[(str(pipe), 0, 24)])

    for fill in (virtual, external):
        refused(hdf5_file(tmp_path / "a.h5", fill), "the data of 'dense/more' lies in another file")


def filtered(file):
    h5py = pytest.importorskip("h5py")
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((3,))
    properties.set_filter(305, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((3,))
    dataset = h5py.h5d.create(file["dense"].id, b"more", h5py.h5t.IEEE_F64LE, space, properties)
    dataset.write_direct_chunk((0,), bytes(24))


def test_filters_are_not_loaded(tmp_path, pipe, impatient, monkeypatch):
    """Nobody looks for a filter of number 305 where the environment says that there are some."""
    path = hdf5_file(tmp_path / "a.h5", filtered, weights=["kernel", "more"])
    pipe.rename(pipe.with_name("libfilter.so"))
    monkeypatch.setenv("HDF5_PLUGIN_PATH", str(pipe.parent))
    refused(path, "a.h5 cannot be read", "OSError")
    monkeypatch.setattr(_child, "SECONDS", 5.0)
    monkeypatch.delitem(_child.ENVIRONMENT, "HDF5_PLUGIN_PRELOAD")
    refused(path, "did not answer within 5 seconds", but="OSError")  # this test can fail


def test_data_of_objects_and_without_end(tmp_path):
    h5py = pytest.importorskip("h5py")
    odd = {
        "times those that are stored": lambda file: file.create_dataset(
            "dense/more", (1 << 60,), "f4", chunks=(1024,), fillvalue=1
        ),
        "dense/more' has the dtype object": lambda file: file.create_dataset(
            "dense/more", (2,), h5py.vlen_dtype(np.int32)
        ),
        "'dense/more' has the dtype object ": lambda file: file.create_dataset("dense/more", (2,), h5py.ref_dtype),
        "'dense/more' has the dtype": lambda file: file.create_dataset("dense/more", (2,), "(3,)f4"),
        "'dense/more' is empty": lambda file: file.create_dataset("dense/more", data=h5py.Empty("f4")),
    }
    for words, fill in odd.items():
        refused(hdf5_file(tmp_path / "a.h5", fill), words.rstrip())


def test_depth_of_groups(tmp_path):
    h5py = pytest.importorskip("h5py")
    for depth in (64, 65, 300):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            group = file
            for _ in range(depth - 1):
                group = group.create_group("g")
            group["vars/0"] = np.ones(3)
        if depth == 64:
            assert len(files.open(tmp_path / "a.h5").tensors) == 1
        else:
            refused(tmp_path / "a.h5", "or is more than 64 groups deep")


def test_names_in_hdf5_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.Group(h5py.h5g.create(file.id, b"\xff"))["vars/0"] = np.ones(3)
    refused(tmp_path / "a.h5", "the group '' holds b'\\xff'; expected names of text")
    with h5py.File(tmp_path / "a.h5", "w") as file:  # a path, as the one name of a link
        file["optimizer"] = h5py.ExternalLink("nowhere.h5", "/")
        file["optimize%x"] = np.ones(3)
    content = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(content.replace(b"optimize%x", b"optimize/x"))
    refused(tmp_path / "a.h5", "the group '' holds 'optimize/x'")
    with h5py.File(tmp_path / "a.h5", "w") as file:  # 100 kB of file, 120 MB of names
        group = file.create_group("g" * 60_000 + "/vars")
        group["0"] = np.ones(3)
        for number in range(1, 2000):
            group[str(number)] = group["0"]
    refused(tmp_path / "a.h5", "holds names of", "expected at most 67108864")


# Keras archives


def archive(path, layers, name="model.weights.h5"):
    """A Keras archive of `layers`, with a weight that is theirs if the first is a dense one."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["layers/dense/vars/0"] = np.ones((2, 3), "float32")
    config = layers if isinstance(layers, str) else json.dumps({"config": {"layers": layers}})
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("config.json", config)
        packed.write(path.with_suffix(".h5"), name)
    return path


def test_configurations_are_not_run(tmp_path, monkeypatch):
    """Layers of any class, functions as code, modules that would be imported."""
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')\nclass Layer: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None, "closure": None}}
    layers = [
        {"module": "keras.layers", "class_name": "Dense", "config": {"name": "own"}, "registered_name": None},
        {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "run", "function": code}},
        {"module": "planted", "class_name": "Layer", "config": {}, "registered_name": "planted>Layer"},
        {"module": "os", "class_name": "system", "config": "true", "registered_name": "os.system"},
        {"module": "builtins", "class_name": "eval", "config": {"name": "__import__('planted')"}},
    ]
    contents = files.open(archive(tmp_path / "a.keras", layers))
    assert (contents.tensors.keys(), contents.hints) == ({"own/kernel"}, {})
    assert not (tmp_path / "touched").exists()


def cbam(**config):
    return {
        "class_name": "CBAM",
        "registered_name": "attention_keras>CBAM",
        "config": {"name": "attn", **config},
        "build_config": {"input_shape": [None, 8, 8, 4]},
    }


def cbam_named(number):
    return cbam(name=f"attn{number}")


def test_configurations_of_no_sense(tmp_path):
    path = tmp_path / "a.keras"
    deep = "[" * 700 + "]" * 700
    refused(archive(path, [cbam(gate=json.loads(deep))]), "the configuration of 'attn' has an endless 'gate'")
    refused(archive(path, '{"config": 1, "config": 2}'), "it names 'config' twice")
    refused(archive(path, [cbam(name="\ud800")]), "UnicodeEncodeError")
    for odd in ({"name": ["x"]}, {"gate": float("nan")}, {"gate": {"kind": "hard_sigmoid", "slope": float("inf")}}):
        with pytest.raises(ParityError):
            parity.read(archive(path, [cbam(**odd)]))
    long = cbam(name="n" * 1_000_000)
    inner = {"name": "m" * 1_000_000, "layers": [long, *map(cbam_named, range(80))]}
    refused(archive(path, [{"class_name": "Functional", "config": inner}]), "holds names of")


# TensorFlow


def checkpoint(folder, prefix="model"):
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in (".index", ".data-00000-of-00001"):
        (folder / f"{prefix}{suffix}").write_bytes(Path(f"{golden.CHECKPOINT}{suffix}").read_bytes())
    return folder / prefix


def test_files_of_a_checkpoint_that_are_none(tmp_path, pipe):
    prefix = checkpoint(tmp_path / "a")
    data = prefix.with_name("model.data-00000-of-00001")
    data.rename(tmp_path / "numbers")
    data.symlink_to(tmp_path / "numbers")
    refused(prefix, "model.data-00000-of-00001 is a link out of its folder")
    data.unlink()
    data.symlink_to(pipe)
    refused(prefix, "model.data-00000-of-00001 is no file")
    data.unlink()
    os.mkfifo(data)
    refused(prefix, "model.data-00000-of-00001 is no file")
    prefix = checkpoint(tmp_path / "b")
    index = prefix.with_suffix(".index")
    index.rename(tmp_path / "index")
    index.symlink_to(tmp_path / "index")
    refused(prefix, "model.index is a link out of its folder")


def test_variables_of_a_model_that_lie_elsewhere(tmp_path):
    checkpoint(tmp_path / "elsewhere", "variables")
    model = tmp_path / "model"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(b"\x08\x01")
    (model / "variables").symlink_to(tmp_path / "elsewhere")
    refused(model, "variables.index is a link out of its folder")


@pytest.mark.slow
def test_models_whose_graph_is_never_read(tmp_path, impatient):
    """A graph of nonsense, as a downloader stores it: the variables are read, and nothing else."""
    pytest.importorskip("tensorflow")
    model = tmp_path / "snapshots" / "1a2b"
    prefix = checkpoint(model / "variables", "variables")
    (tmp_path / "blobs").mkdir()
    for file in [*prefix.parent.iterdir()]:
        file.rename(tmp_path / "blobs" / file.name)
        file.symlink_to(tmp_path / "blobs" / file.name)
    (model / "saved_model.pb").write_bytes(b"\x08\x01\x12\xff\xff\xff\xff\x7f/etc/passwd EvilOp" * 9)
    (model / "assets").mkdir()
    os.mkfifo(model / "assets" / "vocabulary")
    os.mkfifo(model / "fingerprint.pb")
    assert files.open(model).tensors.keys() == collected(str(golden.CHECKPOINT)).keys()


@pytest.mark.slow
def test_state_file_of_a_folder_named_like_the_checkpoint(tmp_path):
    pytest.importorskip("tensorflow")
    outside = checkpoint(tmp_path / "outside")
    (tmp_path / "a" / "model").mkdir(parents=True)
    (tmp_path / "a" / "model" / "checkpoint").write_text(f'model_checkpoint_path: "{outside}"\n')
    (tmp_path / "a" / "model.index").write_bytes(b"nothing")
    with pytest.raises(FormatError, match="cannot be read as a TensorFlow checkpoint"):
        collected(str(tmp_path / "a" / "model"))


def bundle(folder, change, data=bytes(24)):
    """A checkpoint of one variable of six floats; `change` gives the entries of its index."""
    bundles = pytest.importorskip("tensorflow.core.protobuf.tensor_bundle_pb2")
    header = bundles.BundleHeaderProto(num_shards=1)
    header.version.producer = 1
    entry = bundles.BundleEntryProto(dtype=1, size=24, crc32c=_bundles.masked(_bundles.crc(data)))
    entry.shape.dim.add().size = 6
    pairs = [(key, message.SerializeToString()) for key, message in change(header, entry)]
    (folder / "model.index").write_bytes(_bundles.table(sorted(pairs)))
    (folder / "model.data-00000-of-00001").write_bytes(data)
    return str(folder / "model")


def collected(prefix):
    """What the child would do, in this process."""
    return {name: stored.load() for name, stored in tensorflow.collect(prefix).tensors.items()}


@pytest.mark.slow
def test_indexes_that_lie(tmp_path):
    assert collected(bundle(tmp_path, lambda header, entry: [(b"", header), (b"a", entry)]))["a"].shape == (6,)

    def shards(header, entry):
        header.num_shards, entry.shard_id = 1_000_000, 999_999
        return [(b"", header), (b"a", entry)]

    def twice(header, entry):
        return [(b"", header), (b"a", entry), (b"b", entry)]

    def huge(header, entry):
        entry.shape.dim[0].size = 1 << 40
        return [(b"", header), (b"a", entry)]

    def parts(header, entry):
        entry.shape.dim[0].size, entry.size = 1 << 40, 0
        extent = entry.slices.add().extent.add()
        extent.start, extent.length = 0, 1 << 40
        return [(b"", header), (b"a", entry)]

    def sized(header, entry):
        entry.size = 12
        return [(b"", header), (b"a", entry)]

    for change, words in {
        shards: "cannot be read as a TensorFlow checkpoint",
        twice: "declares 48 bytes of data in files of 24",
        huge: "declares 4398046511104 bytes of data in files of 24",
        parts: "declares 4398046511104 bytes of data in files of 24",
        sized: "cannot be read as a TensorFlow checkpoint",
    }.items():
        with pytest.raises(FormatError, match=words):
            collected(bundle(tmp_path, change))


@pytest.mark.slow
def test_index_over_which_tensorflow_ends_its_process(tmp_path):
    """The caller lives on, and says how the reader ended."""

    def change(header, entry):
        entry.shape.dim[0].size = -1
        return [(b"", header), (b"a", entry)]

    refused(bundle(tmp_path, change), "its reader crashed (SIGABRT)")


def test_slots_of_names_of_slashes():
    names = ["a", "a/b", "a/b/c", "a!", "a.b", "b/a", "b/a/x", "c/d/e", "c/d", "/" * 300_000, "/" * 300_000 + "x"]
    left = tensorflow._without_slots(dict.fromkeys(names))
    assert list(left) == ["a", "a!", "a.b", "b/a", "c/d", "/" * 300_000, "/" * 300_000 + "x"]


def graph_node(*children):
    names = [SimpleNamespace(node_id=number, local_name=name) for number, name in children]
    return SimpleNamespace(children=names, slot_variables=[], attributes=[])


def test_graphs_of_objects_that_lead_nowhere():
    for number in (-1, 2, 1 << 31):
        with pytest.raises(FormatError, match="a graph of objects that leads nowhere"):
            list(tensorflow._reached([graph_node((number, "a")), graph_node()]))
    # One long name, which is part of each of many paths.
    wide = [graph_node((1, "n" * 100_000)), graph_node(*((number, "a") for number in range(2, 2000)))]
    with pytest.raises(FormatError, match="a graph of objects that leads nowhere"):
        list(tensorflow._reached([*wide, *(graph_node() for _ in range(2000))]))
    circle = [graph_node((1, "a")), graph_node((0, "b"), (1, "c"))]
    assert [path for path, _ in tensorflow._reached(circle)] == ["", "a"]


# The process of a reader


DEATHS = {
    "was killed (SIGKILL), as a system does that runs out of memory": "import os; os.kill(os.getpid(), 9)",
    "crashed (SIGABRT): terminate called": (
        "import os, sys; sys.stderr.write('terminate called\\n'); sys.stderr.flush(); os.abort()"
    ),
    "crashed (SIGSEGV)": "import os; os.kill(os.getpid(), 11)",
    "computed without end": "while True: pass",
    "ran out of memory": "bytearray(1 << 31)",
    "failed with status 5": "import os; [os.write(2, b'n' * 65536 + b'\\n') for _ in range(99)]; os._exit(5)",
    "did not answer within 3 seconds": "import time; time.sleep(60)",
}


@pytest.mark.parametrize("words", DEATHS)
def test_readers_that_die_leave_nothing_behind(tmp_path, monkeypatch, words):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "h5py.py").write_text(DEATHS[words])
    (tmp_path / "temporary").mkdir()
    (tmp_path / "a.h5").write_bytes(files.HDF5 + bytes(99))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(_child, "SECONDS", 3.0 if "answer" in words else 60.0)
    monkeypatch.setitem(_child.PROCESSOR_SECONDS, "hdf5", 2.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(FormatError, match=r"a\.h5 cannot be read: its reader") as caught:
        files.open(tmp_path / "a.h5")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert os.listdir(tmp_path / "temporary") == []


def test_answers_that_are_none(tmp_path):
    for answer in (b"", b"{", b"[" * 100_000, b"\xff"):
        (tmp_path / "answer.json").write_bytes(answer)
        with pytest.raises(FormatError, match="it died"):
            _child.taken("a.h5", str(tmp_path), "it died")


# Mutations


@pytest.mark.parametrize("reader", ["hdf5", "keras_archive", "onnx"])
def test_mutated_files(tmp_path, reader):
    fuzz(reader, 60, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["tensorflow", "saved_model"])
def test_mutated_checkpoints(tmp_path, reader):
    pytest.importorskip("tensorflow")
    fuzz(reader, 20, tmp_path)


def fuzz(reader, count, folder):
    for library in ("torch", "h5py", "onnx"):
        pytest.importorskip(library)
    command = [sys.executable, "-m", "fuzz", reader, "--count", str(count), "--guide", "lines", "--json", "-"]
    process = subprocess.run(
        [*command, "--findings", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stdout + process.stderr
    summary = json.loads(process.stdout)
    assert summary["count"] == count == sum(summary[key] for key in ("accepted", "refused", "given_up"))
    assert summary["accepted"] > 0
    assert summary["refused"] > 0
