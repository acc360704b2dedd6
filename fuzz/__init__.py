"""Coverage-guided fuzzing of every reader of foreign files: nothing but a valid result or a `ParityError` may come out.

``python -m fuzz READER`` makes ten thousand mutated files, gives each to the reader and exits with 1 if it found
anything; ``python -m fuzz --list`` names the readers. A reader runs in a process of its own, whose memory and time are
bounded, and which is started again when it dies. Inputs that reach new code are kept and changed further.

A finding is any of these, and is kept as a file that ``python -m fuzz READER --replay FILE`` reads again:

- another exception than a `ParityError`, or a message that is far longer than the file;
- a crash, more than a target's seconds, memory far beyond the file;
- code run: a process, a shared library, compiled or unpickled code, a module that no valid file needs, a connection;
- a file outside of the input's own folder that is opened, made, removed or listed.

A new reader is one module in ``fuzz/targets`` with one `Target`, named ``TARGET``; nothing else knows it::

    def seeds(folder): yield b"a valid file"
    def mutate(data, rng): return change.change_bytes(data, rng)  # better: a change of what the format means
    TARGET = Target("mine", ("parity.files.mine",), seeds, mutate, opened_by("mine"))

A reader of a native library that the product runs in a process of its own is opened by ``targets/_native.py`` instead,
and says ``contained=True``: then its death is an answer. The files::

    fuzz/_target.py   what a target says of itself, and how several files make one input
    fuzz/change.py    changes that targets are made of: of bytes, JSON, names, zip archives
    fuzz/_judge.py    one file given to a reader, and what is held against it
    fuzz/_guide.py    the loop that keeps what reaches new code: by atheris, or line by line without it
    fuzz/_worker.py   the process that does it, within bounds
    fuzz/__main__.py  the command line, which watches that process
"""

from fuzz._target import Target, find, names, pack, unpack

__all__ = ["Target", "find", "names", "pack", "unpack"]
