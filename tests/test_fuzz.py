"""The fuzzing harness: a few hundred files for each reader, and a proof that each kind of finding is found."""

import contextlib
import io
import itertools
import json
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import fuzz
from fuzz import _guide, _worker, change
from fuzz.__main__ import main
from fuzz._judge import ACCEPTED, FOUND, REFUSED, Judge
from fuzz._target import Target
from parity import exchange, files
from parity.cli import weights
from parity.errors import FormatError, ParityError

ROOT = Path(__file__).parents[1]
# Those of other files' readers take a native library, a process or a second a file.
READERS = ("dispatch", "exchange", "json_map", "pytorch", "recordings", "sharded", "zip_members")


@pytest.fixture
def traced():
    """A judge starts to trace memory, which the tests of other things need not bear."""
    yield
    tracemalloc.stop()


def judged(target, folder):
    """A judge of `target` that has read its seeds, and the seeds."""
    for name in _worker.ANYWAY:
        __import__(name)
    (folder / "scratch").mkdir()
    inputs = list(target.seeds(folder / "scratch"))
    judge = Judge(target, folder / "files")
    judge.warm(inputs)
    return judge, inputs


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", READERS)
def test_nothing_but_results_and_named_errors(tmp_path, name):
    pytest.importorskip("torch")
    target = fuzz.find(name)
    judge, inputs = judged(target, tmp_path)
    outcomes, findings = Counter(), []

    def read(data):
        outcome = judge.judge(data)
        outcomes[outcome.kind] += 1
        if outcome.kind == FOUND:
            findings.append((outcome, data))

    first, last = _guide.by_lines(target, read, inputs, _guide.Valid(inputs), seed=0, count=120)
    assert not findings, findings[0]
    assert outcomes[ACCEPTED] > len(inputs) // 2
    assert outcomes[REFUSED] > 20
    assert last > first > 0  # mutated files reach what no valid file does


def test_targets_are_named_after_their_modules():
    assert set(READERS) <= set(fuzz.names())
    assert [fuzz.find(name).name for name in READERS] == list(READERS)


# The judge


def escape(path):
    os.system("true")


def forked(path):
    subprocess.run(["true"], check=True)


def planted_pickle(path):
    pickle.loads(b"cbuiltins\nlen\n(]tR.")


def connected(path):
    import socket

    socket.socket().close()


def outside(path):
    Path(path).parent.parent.joinpath("outside", "canary").read_bytes()


def outside_unseen(path):
    with pytest.raises(Exception, match="eader"):  # a library in another language raises no audit event
        safe_open(str(Path(path).parent.parent / "outside" / "canary"), framework="np")


def made_outside(path):
    Path(path).parent.parent.joinpath("outside", "created").touch()


def compiled(path):
    eval("1")


def hoarded(path):
    np.ones(10 << 20, np.uint8)


def slow(path):
    start = time.process_time()
    while time.process_time() - start < 0.1:
        pass


def wordy(path):
    raise FormatError("a" * 10**6)


def exited(path):
    raise SystemExit(0)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("read", "what"),
    [
        (escape, "os.system"),
        (forked, "subprocess.Popen"),
        (planted_pickle, "pickle.find_class"),
        (connected, "socket"),
        (outside, "open"),
        (outside_unseen, "touched the canary"),
        (made_outside, "outside/created"),
        (compiled, "compile"),
        (hoarded, "memory"),
        (slow, "time"),
        (wordy, "long message"),
        (exited, "SystemExit at test_fuzz.py"),
    ],
)
def test_judge_finds(tmp_path, read, what):
    def sometimes(path):
        if Path(path).read_bytes() == b"bad":
            read(path)

    target = Target("planted", (), lambda folder: [b"good"], lambda data, rng: data, sometimes, seconds=0.05)
    judge, _ = judged(target, tmp_path)
    assert judge.judge(b"good").kind == ACCEPTED
    found = judge.judge(b"bad")
    assert (found.kind, what in found.what) == (FOUND, True), found
    assert judge.judge(b"good").kind == ACCEPTED


# The search

WORD = b"seek"


def depth(data):
    """How many letters are right, in lines that are reached one after the other."""
    if data[0:1] != WORD[0:1]:
        return 0
    if data[1:2] != WORD[1:2]:
        return 1
    if data[2:3] != WORD[2:3]:
        return 2
    if data[3:4] != WORD[3:4]:
        return 3
    return 4


@pytest.mark.parametrize("guided", [True, False])
def test_what_reaches_new_lines_is_changed_further(monkeypatch, guided):
    if not guided:
        monkeypatch.setattr(_guide.Trace, "new", lambda trace, read, data: bool(read(data)))  # `read` gives None

    def mutate(data, rng):
        return change.replace_at(data, rng.randrange(4), bytes([rng.randrange(97, 123)]))

    found = []
    target = Target("planted", (__name__,), lambda folder: [b"aaaa"], mutate, lambda path: None)

    def read(data):
        if depth(data) == 4:
            found.append(data)

    _guide.by_lines(target, read, [b"aaaa"], _guide.Valid([b"aaaa"]), seed=0, count=6000)
    assert bool(found) is guided


@pytest.mark.parametrize("name", READERS)
def test_mutations_bear_any_input(tmp_path, name):
    pytest.importorskip("torch")
    target, rng = fuzz.find(name), Random(0)
    for data in (b"", b"\0", bytes(range(256)), *itertools.islice(target.seeds(tmp_path), 12)):
        for _ in range(8):
            mutate = change.change_bytes if rng.random() < 0.2 else target.mutate
            data = mutate(data, rng)[: target.max_bytes]
            assert isinstance(data, bytes)


def test_mutations_are_the_same_each_time(tmp_path):
    target = fuzz.find("recordings")
    inputs = list(target.seeds(tmp_path))
    made = [
        [_guide.mutated(target, inputs[0], _guide.Valid(inputs), Random(seed), bytes) for seed in range(50)]
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert len(set(made[0])) > 40


def test_packed_files_come_back():
    parts = {"a": b"\n\n", "b/c": b"", "d": bytes(range(256))}
    assert fuzz.unpack(fuzz.pack(parts)) == parts
    for data in (b"", b"\n", b"{}\n", b'[["a", -1]]\nabc', b'[["a"]]\n', b"[1]\n", b"[" * 100_000):
        assert isinstance(fuzz.unpack(data), dict)


# The command line

PLANTED = """
import os, time
from fuzz import Target

def read(path):
    data = open(path, "rb").read()
    if data == b"crash":
        os.abort()
    if data == b"hang":
        time.sleep(3600)
    if data == b"room":
        bytearray(1 << 30)  # more than the process may grow by, and less than the machine has
    if data == b"error":
        raise KeyError(data)

def mutate(data, rng):
    return rng.choice((b"a", b"crash", b"hang", *[b"room", b"error"] * 3))

TARGET = Target("planted", (__name__,), lambda folder: [b"seed"], mutate, read, seconds=0.1, contained=CONTAINED)
"""


def run(*arguments, folder, **environment):
    path = os.pathsep.join((str(ROOT), str(folder)))
    return subprocess.run(
        [sys.executable, "-m", "fuzz", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("contained", [True, False])
def test_readers_that_crash_hang_or_take_all_memory(tmp_path, contained):
    (tmp_path / "plants").mkdir()
    (tmp_path / "plants" / "reader.py").write_text(PLANTED.replace("CONTAINED", str(contained)))
    done = run("plants.reader", "--guide", "lines", "--count", "14", "--json", folder=tmp_path)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["count"]) == (1, 14), done.stderr
    whats = sorted(finding["what"].partition(" at ")[0].partition(":")[0] for finding in summary["findings"])
    assert whats == (["KeyError", "MemoryError"] if contained else ["KeyError", "MemoryError", "crash", "hang"])
    assert bool(summary["given_up"]) is contained
    for finding in summary["findings"]:
        assert Path(finding["file"]).read_bytes() in (b"crash", b"hang", b"room", b"error")
        if not finding["what"].startswith("hang"):
            assert f"plants.reader --replay {finding['file']}" in done.stderr
            again = run("plants.reader", "--replay", finding["file"], folder=tmp_path)
            assert (again.returncode, finding["what"] in again.stdout) == (1, True), again.stdout


@pytest.mark.slow
def test_target_that_fails_itself(tmp_path):
    (tmp_path / "plants").mkdir()
    (tmp_path / "plants" / "broken.py").write_text(
        PLANTED.replace("CONTAINED", "True").replace("return rng", "return 1 / 0 or rng")
    )
    done = run("plants.broken", "--guide", "lines", "--count", "9", folder=tmp_path)
    assert (done.returncode, "ZeroDivisionError" in done.stderr) == (2, True), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("guide", [_guide.LINES, _guide.ATHERIS])
def test_search_in_a_process_of_its_own(tmp_path, guide):
    if guide == _guide.ATHERIS:
        pytest.importorskip("atheris")
    done = run("recordings", "--count", "200", "--guide", guide, "--json", "a.json", folder=tmp_path)
    summary = json.loads((tmp_path / "a.json").read_text())
    assert done.returncode == 0, done.stderr
    assert "200 files" in done.stdout
    assert summary["accepted"] + summary["refused"] == summary["count"] == 200
    assert summary["edges"][1] > summary["edges"][0] > 0
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "received 'nothing'; expected one of bundle, dispatch"),
        ([], "received no reader; expected one of bundle, dispatch"),
        (["no.such.module"], "received 'no.such.module'"),
        (["os.path"], "received 'os.path'"),
        (["exchange", "--count", "0"], "a positive --count"),
        (["exchange", "--seconds", "0"], "--seconds"),
        (["exchange", "--seconds", "nan"], "--seconds"),
        (["exchange", "--replay", "missing"], "a file for --replay"),
    ],
)
def test_misuse(capsys, arguments, said):
    """Nothing that was not searched is clean, and nothing that failed otherwise is a finding."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert (caught.value.code, said in capsys.readouterr().err) == (2, True)


def test_readers_are_listed(capsys):
    assert main(["--list"]) == 0
    assert set(READERS) <= set(capsys.readouterr().out.split())


# Properties: JSON of any shape where a reader takes some

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(change.NAMES)
VALUES = st.recursive(SCALARS, lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=5), items))
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F64", "U8", "BF16", "X"]) | VALUES,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | VALUES,
        "data_offsets": st.lists(st.integers(0, 32), min_size=2, max_size=2) | VALUES,
    },
)
HEADERS = st.dictionaries(st.text(max_size=8), ENTRIES | VALUES) | VALUES
SPECS = st.fixed_dictionaries(
    {"block": st.sampled_from(["se", "cbam", "eca", "ca"])},
    optional={
        name: VALUES | st.sampled_from([1, 2, 3, True, "sigmoid", {"kind": "hard_sigmoid"}, {}])
        for name in ("channels", "spatial_dims", "kernel_size", "bias", "gate", "norm", "hidden_channels", "activation")
    },
)
BOUNDED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def raises_nothing_else(read, *arguments):
    with contextlib.suppress(ParityError):
        read(*arguments)


@BOUNDED
@given(header=HEADERS, rest=st.binary(max_size=32))
def test_any_header(tmp_path, header, rest):
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + rest)
    raises_nothing_else(files.open, tmp_path / "a.safetensors")


@BOUNDED
@given(
    semantics=VALUES
    | st.fixed_dictionaries(
        {"version": st.just(1) | VALUES, "blocks": st.dictionaries(st.text(max_size=3), SPECS | VALUES) | VALUES},
        optional={"probes": st.dictionaries(st.text(max_size=3), st.fixed_dictionaries({"source": VALUES})) | VALUES},
    )
)
def test_any_semantics(tmp_path, semantics):
    path = tmp_path / "a.safetensors"
    exchange.write_tensors(path, {}, {exchange.METADATA_KEY: json.dumps(semantics)}, durable=False)
    raises_nothing_else(exchange.read, path)


@BOUNDED
@given(index=st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=3), SCALARS) | VALUES}) | VALUES)
def test_any_index(tmp_path, index):
    path = tmp_path / "a.safetensors.index.json"
    path.write_text(json.dumps(index))
    raises_nothing_else(files.open, path)


@BOUNDED
@given(names=st.dictionaries(st.text(max_size=3), st.text(max_size=3)) | VALUES, hints=st.lists(st.text(max_size=20)))
def test_any_map_and_hints(tmp_path, names, hints):
    (tmp_path / "map.json").write_text(json.dumps(names))
    raises_nothing_else(weights._names, tmp_path / "map.json")
    raises_nothing_else(weights._hints, hints)


@BOUNDED
@given(program=st.binary(max_size=40))
def test_any_pickle(tmp_path, program):
    members = [("a/data.pkl", b"\x80\x02" + program, 0), ("a/data/0", bytes(8), 0)]
    for data in (change.make_zip(members), b"\x80\x02" + program):
        (tmp_path / "a.pth").write_bytes(data)
        raises_nothing_else(files.open, tmp_path / "a.pth")


def test_archives_are_what_they_are_made_of():
    members = [("a/data.pkl", b"abc", 0), ("../b", b"", 8)]
    assert change.zip_members(change.make_zip(members)) == members
    assert change.zip_members(io.BytesIO(b"none").getvalue()) == []
