"""``python -m fuzz READER``: mutated files for one reader, in a process that this one watches.

Exit status: 0 without findings, 1 with some, 2 for misuse.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from fuzz import _guide
from fuzz._target import Target, find, names
from fuzz._worker import State, keep
from parity.cli._output import add_json, check_writable, progress_bar, write_json
from parity.errors import ParityError

CLEAN, FOUND, MISUSED = 0, 1, 2
COUNT = 10_000
FINDINGS = Path("build/fuzz")

# A process is ended when one file takes so many times its seconds by the clock: others may be at work here, too.
PATIENCE = 10


@dataclass
class Summary:
    """What came of a search; `edges` are those that the seeds reached, and those that were reached in the end."""

    reader: str
    guide: str
    seed: int
    seeds: int = 0
    count: int = 0
    seconds: float = 0.0
    accepted: int = 0
    refused: int = 0
    given_up: int = 0
    found: int = 0
    edges: tuple[int, int] = (0, 0)
    corpus: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        given_up = f", {self.given_up} given up" if self.given_up else ""
        return (
            f"{self.reader}: {self.count:,} files in {self.seconds:.0f} s, {self.accepted:,} accepted, "
            f"{self.refused:,} refused{given_up}; {self.edges[0]:,} edges by {self.seeds} seeds, {self.edges[1]:,} in "
            f"the end by {self.corpus} files ({self.guide}); {len(self.findings)} findings"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = _parser()
    given = parser.parse_args(arguments)
    console = Console(stderr=True)
    if given.list:
        print("\n".join(names()))
        return CLEAN
    if not given.reader:
        parser.error(f"received no reader; expected one of {', '.join(names())}")
    try:
        target = find(given.reader)
    except (ImportError, AttributeError) as error:
        parser.error(f"received {given.reader!r}; expected one of {', '.join(names())} ({error})")
    if given.count < 1 or not given.seconds > 0 or (given.replay and not given.replay.is_file()):
        parser.error("expected a positive --count, a positive --seconds, and a file for --replay")
    try:
        check_writable(given.json)
        with _folder() as folder:
            run = Run(target, folder, given)
            return run.replay(given.replay) if given.replay else run.search(console)
    except (ParityError, WorkerError) as error:
        console.print(f"fuzz: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return MISUSED
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "fuzz",
        description="Mutated files for one reader of foreign files.",
        epilog="Exit status: 0 without findings, 1 with some, 2 for misuse.",
    )
    parser.add_argument("reader", nargs="?", metavar="READER", help="which (--list names them)")
    parser.add_argument("--list", action="store_true", help="name the readers")
    parser.add_argument("--count", type=int, default=COUNT, metavar="N", help=f"how many files (default: {COUNT})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another search (default: 0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="LIMIT", help="end after so long")
    parser.add_argument(
        "--guide", choices=(_guide.ATHERIS, _guide.LINES), help="what finds new code (default: atheris)"
    )
    parser.add_argument("--findings", type=Path, default=FINDINGS, metavar="DIR", help=f"default: {FINDINGS}")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="read this finding again")
    add_json(parser, "the summary as JSON")
    return parser


class WorkerError(Exception):
    """The process that reads the files failed for no file."""


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # ten thousand files need no disk
    with tempfile.TemporaryDirectory(prefix="parity-fuzz-", dir=memory, ignore_cleanup_errors=True) as folder:
        (Path(folder) / "corpus").mkdir()
        yield Path(folder)


class Run:
    """One search, or one replay, of `target`, in `folder`."""

    def __init__(self, target: Target, folder: Path, given: argparse.Namespace) -> None:
        self.target, self.folder, self.given = target, folder, given
        self.state = State(folder / "state")
        self.summary = Summary(given.reader, given.guide or _guide.available(), given.seed)
        self.settings: dict[str, Any] = {
            "name": given.reader,
            "folder": str(folder),
            "findings": str(given.findings.resolve()),
            "guide": self.summary.guide,
            "modules": target.modules,
            "count": given.count,
        }
        self.deaths = 0
        self._make_seeds()

    def _make_seeds(self) -> None:
        process = self._start("seeds")
        if process.wait():
            raise WorkerError(f"the seeds of {self.given.reader} cannot be made:\n{self._log()}")
        self.settings["seeds"] = sorted(file.name for file in (self.folder / "corpus").iterdir())
        self.summary.seeds = len(self.settings["seeds"])

    def _start(self, task: str, **more: Any) -> subprocess.Popen[bytes]:
        path = self.folder / "settings.json"
        path.write_text(json.dumps(self.settings | more))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "fuzz._worker", task, str(path)],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _log(self) -> str:
        return (self.folder / "log").read_bytes()[-3000:].decode(errors="replace")

    # A search

    def search(self, console: Console) -> int:
        """Read files until they are enough; the exit status."""
        start = time.monotonic()
        with progress_bar(console) as bar:
            task = bar.add_task(self.given.reader, total=self.given.count)
            while self.state["tried"] < self.given.count and time.monotonic() - start < self.given.seconds:
                self._once(start + self.given.seconds, lambda: bar.update(task, completed=self.state["tried"]))
        self._sum_up(time.monotonic() - start)
        for finding in self.summary.findings:
            console.print(f"{finding['what']}\n{finding['detail']}", markup=False, highlight=False, soft_wrap=True)
            print(f"python -m fuzz {self.given.reader} --replay {finding['file']}", file=sys.stderr)
        print(self.summary, file=sys.stderr if self.given.json == Path("-") else sys.stdout)
        write_json(self.given.json, asdict(self.summary))
        return FOUND if self.summary.findings else CLEAN

    def _once(self, end: float, progress: Any) -> None:
        """One process, until it is done or dead."""
        before = self.state["tried"]
        known = [finding["what"] for finding in self._findings()]
        process = self._start("search", seed=self.given.seed + 1000 * self.deaths, known=known)
        reason = ""
        while process.poll() is None and not reason:
            time.sleep(0.05)
            progress()
            started = self.state["started"]
            if started and time.monotonic_ns() - started > PATIENCE * self.target.seconds * 1e9:
                reason = f"hang: no answer in {PATIENCE * self.target.seconds:.0f} seconds"
            elif time.monotonic() > end:
                break
        process.kill()
        status = process.wait()
        if reason or (status and self.state["started"] and time.monotonic() < end):
            self._died(reason or _death(status))
        elif (status or self.state["tried"] == before) and time.monotonic() < end:
            raise WorkerError(f"{self.given.reader} cannot be searched:\n{self._log()}")

    def _died(self, reason: str) -> None:
        """Note what was being read when the process died."""
        self.deaths += 1
        self.state["started"] = 0
        self.state["tried"] += 1
        if self.target.contained:
            self.summary.given_up += 1
            return
        self.state["found"] += 1
        if reason not in {finding["what"] for finding in self._findings()}:
            keep(self.settings, (self.folder / "current").read_bytes(), reason, self._log())

    def _findings(self) -> list[dict[str, Any]]:
        path = self.folder / "findings.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _sum_up(self, seconds: float) -> None:
        summary = self.summary
        edges = [int(count) for count in re.findall(r"\bcov: (\d+)", (self.folder / "log").read_text(errors="replace"))]
        summary.edges = (edges[0], max(edges)) if edges else (0, 0)
        summary.seconds, summary.count = seconds, self.state["tried"]
        summary.accepted, summary.refused = self.state["accepted"], self.state["refused"]
        summary.found, summary.findings = self.state["found"], self._findings()
        summary.corpus = len(list((self.folder / "corpus").iterdir()))

    # A replay

    def replay(self, file: Path) -> int:
        """Read one file again, and print what comes of it; the exit status."""
        (self.folder / "log").unlink()
        process = self._start("replay", data=str(file.resolve()), guide=_guide.LINES)
        try:
            status = process.wait(PATIENCE * self.target.seconds + 60)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        answer = self._log().strip().splitlines()[-1:] if not status else []
        outcome = json.loads(answer[0]) if answer else {"kind": "found", "what": _death(status), "detail": self._log()}
        print(f"{outcome['kind']}: {outcome['what']}\n{outcome['detail']}".strip(": \n"))
        return FOUND if outcome["kind"] == "found" else CLEAN


def _death(status: int) -> str:
    return f"crash: {signal.Signals(-status).name}" if status < 0 else f"crash: status {status}"


if __name__ == "__main__":
    sys.exit(main())
