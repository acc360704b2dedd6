"""One file given to a reader, and what is held against it."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
import traceback
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz._target import Target

ACCEPTED, REFUSED, FOUND = "accepted", "refused", "found"

# A message may quote the file; one that is far longer than it floods a terminal or a log.
MESSAGE_BYTES = 1 << 14

# Audit events of code that runs, and of the world outside of files; what imports a module needs others anyway.
CODE = (
    *("compile", "exec", "import", "marshal.", "pickle.", "ctypes.", "code.__new__", "function.__new__", "cpython."),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill", "os.putenv", "pty."),
    *("subprocess.", "socket.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "signal.", "syslog."),
)
# Audit events whose first argument is a path.
PATHS = (
    *("open", "os.chmod", "os.chown", "os.link", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir"),
    *("os.scandir", "os.symlink", "os.truncate", "os.utime", "os.mkfifo", "os.mknod", "shutil.", "tempfile.", "glob."),
    *("os.chdir", "os.setxattr", "os.getxattr", "sqlite3.connect"),
)


@dataclass(frozen=True)
class Outcome:
    """What came of one file: `kind` is accepted, refused or found; of a finding, what is wrong and in which words."""

    kind: str
    what: str = ""
    detail: str = ""


class Judge:
    """Gives files to the reader of `target`, one by one, in a folder of their own beside a canary.

    An audit hook cannot be taken away again; it does nothing unless a file is being read.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.inside, self.outside = folder / "inside", folder / "outside"
        self.inside.mkdir(parents=True)
        self.outside.mkdir()
        self.canary = self.outside / "canary"
        self.canary.write_bytes(b"not for you")
        self.allowed = tuple(os.path.realpath(path) for path in (str(self.inside), *target.folders))
        self.watching = False
        self.events: list[str] = []
        sys.addaudithook(self._audit)

    def warm(self, seeds: Iterable[bytes]) -> None:
        """Read `seeds`, so that what they import is imported; the reader may refuse some, and raise nothing else.

        From then on memory is counted.
        """
        from parity.errors import ParityError

        for seed in seeds:
            with contextlib.suppress(ParityError):
                self.target.read(self.target.lay(seed, str(self.inside)))
        tracemalloc.start()  # not before: libraries take several times as long to import when it counts

    def judge(self, data: bytes) -> Outcome:
        """What comes of the file `data`."""
        from parity.errors import ParityError

        path = self.target.lay(data, str(self.inside))
        self._set_canary()
        self.events.clear()
        held = self._held()
        start = time.process_time()
        self.watching = True
        try:
            self.target.read(path)
            outcome = Outcome(ACCEPTED)
        except ParityError as error:
            self.watching = False
            outcome = self._message(str(error), data)
        except BaseException as error:  # SystemExit and KeyboardInterrupt, too, are no answers
            self.watching = False
            outcome = Outcome(FOUND, f"{type(error).__name__} at {_place(error)}", _told(error))
        finally:
            self.watching = False
        return self._broken(data, held, time.process_time() - start) or outcome

    def _held(self) -> int:
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        if held > 1 << 26:  # what refers to itself is still there
            gc.collect()
            tracemalloc.reset_peak()
            held = tracemalloc.get_traced_memory()[0]
        return held

    def _message(self, message: str, data: bytes) -> Outcome:
        allowed = MESSAGE_BYTES + 4 * len(data)
        if len(message) <= allowed:
            return Outcome(REFUSED)
        return Outcome(FOUND, "long message", f"{len(message)} letters, {allowed} allowed: {message[:200]}...")

    def _broken(self, data: bytes, held: int, seconds: float) -> Outcome | None:
        """What is wrong whatever the reader answered."""
        created = [path for path in self.outside.iterdir() if path != self.canary]
        for path in created:
            path.unlink()  # the next file did not make it
        if self.events:
            return Outcome(FOUND, f"reached out: {self.events[0]}", "; ".join(self.events[:20]))
        if created or self.canary.stat().st_atime_ns != 0:
            return Outcome(FOUND, "reached out: touched the canary", ", ".join(map(str, created)))
        peak = tracemalloc.get_traced_memory()[1] - held
        allowed = self.target.fixed_bytes + self.target.file_bytes * len(data)
        if peak > allowed:
            return Outcome(FOUND, "memory", f"{peak} bytes for a file of {len(data)}, {allowed} allowed")
        if seconds > self.target.seconds:
            return Outcome(FOUND, "time", f"{seconds:.1f} seconds, {self.target.seconds} allowed")
        return None

    def _set_canary(self) -> None:
        # A time of access before that of change is brought up to date by the next access, whatever is mounted how.
        os.utime(self.canary, ns=(0, 1))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event.startswith(CODE) and not event.startswith(self.target.events or ("-",)):
            self._note(f"{event} {_first(arguments)}")
        elif event.startswith(PATHS) and isinstance(path := _first(arguments), str | bytes):
            path = os.fsdecode(path)
            # realpath asks the system for links, which raises no event.
            if "\0" not in path and not _is_in(os.path.realpath(path), self.allowed):
                self._note(f"{event} {path}")

    def _note(self, event: str) -> None:
        if len(self.events) < 20:
            self.events.append(event[:200])


def _first(arguments: tuple[Any, ...]) -> Any:
    first = arguments[0] if arguments else None
    return os.fspath(first) if isinstance(first, os.PathLike) else first


def _is_in(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(folder + os.sep) for folder in folders)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "no frame"


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=-12))[-4000:]
