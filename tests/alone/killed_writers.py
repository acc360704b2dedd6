"""A writer that is killed at any moment leaves the old file or the new one, whole.

`tests/test_kill.py` runs it in a process of its own: a fork of one in which a framework has computed may wait for ever
for a lock that another thread held.
"""

import os
import random
import shutil
import signal
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from parity import files, writing
from parity.block import Block
from parity.spec import SqueezeExcitationOptions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks"),
    # A forked process runs one write and ends; nothing here has threads that it would wait for.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning"),
]

# Two hundred in all.
KILLS = {"a.safetensors": 140, "a.pth": 40, "a.ckpt": 20}
LIBRARIES = {"a.pth": "torch", "a.ckpt": "tensorflow"}

SPEC = SqueezeExcitationOptions(reduction=1).resolve(400)


def blocks(value, count):
    """Blocks of 1.3 megabytes each, all of whose numbers are `value`."""
    tensors = {name: np.full(shape, value, np.float32) for name, shape in SPEC.parameters().items()}
    return [Block(f"layer{number}", SPEC, tensors) for number in range(count)]


OLD, NEW = blocks(1.0, 2), blocks(2.0, 3)


class Writer:
    """A process that waits for a word, writes, and waits to be killed."""

    def __init__(self, write):
        begin, self.begin = os.pipe()
        self.done, done = os.pipe()
        self.child = os.fork()
        if not self.child:
            try:
                os.close(self.begin)
                os.read(begin, 1)
                write()
                os.write(done, b"x")
                os.read(begin, 1)
            finally:
                os._exit(0)
        os.close(begin)
        os.close(done)

    def start(self):
        """Let it write."""
        os.write(self.begin, b"x")

    def wait(self):
        """Whether it wrote to the end; returns when it has, or is dead."""
        return bool(os.read(self.done, 1))

    def kill(self):
        """Kill it: whether it was still at it."""
        os.kill(self.child, signal.SIGKILL)
        was_writing = not self.wait()
        os.waitpid(self.child, 0)
        os.close(self.begin)
        os.close(self.done)
        return was_writing


def whole(write):
    """Write to the end, in another process: how many seconds it takes."""
    writer = Writer(write)
    start = time.perf_counter()
    writer.start()
    assert writer.wait()
    seconds = time.perf_counter() - start
    writer.kill()
    return seconds


def killed_after(write, seconds):
    """Start to write, and kill the writer after `seconds`: whether it was still at it."""
    writer = Writer(write)
    end = time.perf_counter() + seconds
    writer.start()
    time.sleep(max(0.0, seconds - 0.002))
    while time.perf_counter() < end:  # sleep would wake up too late
        pass
    return writer.kill()


class Place:
    """A path to write to, and what it holds when it is the old file and when it is the new one."""

    def __init__(self, folder, name):
        self.folder, self.path = folder / "place", str(folder / "place" / name)
        self.folder.mkdir()
        self.whole = {}
        for kind in ("old", "new"):
            self.seconds = [whole(getattr(self, kind)) for _ in range(1 if kind == "old" else 5)]
            self.whole[kind] = self.held()
            if kind == "new":
                continue
            shutil.copytree(self.folder, folder / "old")
        self.backup = folder / "old"

    def old(self):
        writing.write(self.path, OLD)

    def new(self):
        writing.write(self.path, NEW)

    def held(self):
        """The bytes of each file by name; those of no finished file have names with a dot before them."""
        return {file.name: file.read_bytes() for file in self.folder.iterdir() if not file.name.startswith(".")}

    def reset(self):
        """Put the old file back, and leave what a killed writer has left of the others alone."""
        for file in self.folder.iterdir():
            if not file.name.startswith("."):
                file.unlink()
        shutil.copytree(self.backup, self.folder, dirs_exist_ok=True)

    def leftovers(self):
        """What killed writers have left."""
        return [file for file in self.folder.iterdir() if file.name.startswith(".")]


@pytest.fixture(params=KILLS)
def place(request, tmp_path):
    """A place of each kind of file."""
    if library := LIBRARIES.get(request.param):
        pytest.importorskip(library)  # imported here, and not in each process; nothing is computed here
    return Place(tmp_path, request.param)


def state(place):
    """Which of the two files is there, bit by bit; fails where it is neither.

    A checkpoint is what its index says: files that it does not name may lie beside it.
    """
    found = place.held()
    index = f"{Path(place.path).name}.index"
    for kind, files_ in place.whole.items():
        same = all(found.get(name) == data for name, data in files_.items())
        if same and (index in files_ or found.keys() == files_.keys()):
            return kind
    raise AssertionError(f"neither the old nor the new file: {[(name, len(data)) for name, data in found.items()]}")


def test_killed_at_any_moment(place, record_property):
    rng = random.Random(0)
    name = Path(place.path).name
    duration = statistics.median(place.seconds)
    counts = Counter()
    for _ in range(KILLS[name]):
        place.reset()
        counts["hit"] += killed_after(place.new, rng.uniform(0, 1.1 * duration))
        counts[state(place)] += 1
        for file in place.leftovers()[3:]:  # the next writer meets some
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    record_property("kills", dict(counts))
    print(f"{name}: {KILLS[name]} kills within {duration * 1100:.0f} ms: {dict(counts)}")
    assert counts["old"] + counts["new"] == KILLS[name]
    assert counts["hit"] > KILLS[name] // 4
    assert counts["old"] > KILLS[name] // 5
    assert place.leftovers()  # some were hit between the first byte and the last
    check_next_write(place)


def check_next_write(place):
    """What killed writers have left does not hinder the next one."""
    whole(place.new)
    held = files.open(place.path)
    arrays = [*held.tensors.values(), *(value for block in held.blocks for value in block.tensors.values())]
    assert sum(value.size for value in arrays) == sum(value.size for block in NEW for value in block.tensors.values())
    assert all((value == NEW[0].tensors["fc1.bias"][0]).all() for value in arrays)


# The calls that change what is on the disk, or wait for it.
STEPS = ("open", "chmod", "fsync", "replace", "unlink", "mkdir", "rmdir")


def steps(place, at=None, after=False):
    """Write with each of the `STEPS` counted; the process kills itself before, or `after`, the one of number `at`."""
    made = []

    def counted(step):
        real = getattr(os, step)

        def call(*arguments, **options):
            made.append(step)
            number = len(made) - 1
            if number == at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*arguments, **options)
            finally:  # there may be nothing to unlink
                if number == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    def write():
        for step in STEPS:
            setattr(os, step, counted(step))
        place.new()
        (place.folder.parent / "steps").write_text(" ".join(made))

    return write


def test_killed_between_the_steps(place):
    whole(steps(place))
    made = (place.folder.parent / "steps").read_text().split()
    assert {"open", "fsync", "replace"} <= set(made)
    seen = Counter()
    for number in range(len(made)):
        for after in (False, True):
            place.reset()
            writer = Writer(steps(place, number, after))
            writer.start()
            assert not writer.wait(), f"step {number} of {made} was not reached"
            writer.kill()
            seen[state(place)] += 1
    print(f"{Path(place.path).name}: killed before and after each of {made}: {dict(seen)}")
    assert seen["old"] >= made.index("replace")
    assert seen["new"] >= 1
    check_next_write(place)
