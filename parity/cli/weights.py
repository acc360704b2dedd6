"""``parity inspect``, ``parity port``, ``parity verify`` and ``parity dialects``: weights in files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from parity import dialects, reading, verification, writing
from parity.backends import BACKENDS, DEVICES
from parity.block import Block
from parity.cli._output import AGREED, DISAGREED, add_json, check_writable, progress_bar, show, write_json
from parity.errors import DialectError, FormatError
from parity.exchange import strict_json
from parity.reading import Inspected, Inspection

# Of tensors that belong to no block: more would push the blocks off the screen.
SHOWN = 12


def add_commands(commands: Any) -> None:
    """Add the commands of this module to the parser's."""
    _add_inspect(commands)
    _add_port(commands)
    _add_verify(commands)
    _add_dialects(commands)


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect",
        help="the blocks in a file: dialect, meaning, doubts, and what is no block",
        description="Doubts are what `parity port` would ask for. Exit status: 0 if there is a block, 1 if there is "
        "none or one that no dialect reads without loss, 2 for a file that cannot be read.",
    )
    _add_source(parser)
    add_json(parser, "the same as JSON")
    parser.set_defaults(command=_inspect)


def _add_port(commands: Any) -> None:
    parser = commands.add_parser(
        "port",
        help="the blocks of one file into another, in any dialect that loses nothing",
        description="Exit status: 0 when DST is written and whole, 1 when a proof fails, 2 for anything that cannot be "
        "read, told or written. DST is untouched unless the status is 0.",
    )
    _add_source(parser)
    parser.add_argument(
        "target",
        metavar="DST",
        help="the file to write: .safetensors (an exchange file, or with --to a plain one), .pth, .ckpt (the prefix of "
        "a TensorFlow 1 checkpoint), or with --into .keras and .weights.h5",
    )
    parser.add_argument("--to", metavar="DIALECT", help="write the names and layouts of this implementation")
    parser.add_argument("--into", type=Path, metavar="MODEL", help="a .keras model whose blocks take the weights")
    parser.add_argument("--map", type=Path, metavar="FILE", help="JSON: the name in DST of a block of SRC, by name")
    parser.add_argument("--probe", action="store_true", help="store an input and the source's output with each block")
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")
    parser.add_argument("--dry-run", action="store_true", help="do everything but write")
    add_json(parser, "what was done as JSON")
    parser.set_defaults(command=_port)


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="replay the probes of an exchange file in every backend",
        description="Exit status: 0 if every block proved itself on every backend that ran, 1 if not, 2 for misuse.",
    )
    parser.add_argument("source", metavar="FILE", help="an exchange file with probes (`parity port --probe`)")
    parser.add_argument(
        "--backend", choices=list(BACKENDS), help="only this backend (may be repeated)", action="append", default=[]
    )
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where the backends compute (default: cpu)")
    add_json(parser, "every figure as JSON")
    parser.set_defaults(command=_verify)


def _add_dialects(commands: Any) -> None:
    parser = commands.add_parser("dialects", help="the implementations whose weights can be read and written")
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="of their ids: 'timm/*'")
    add_json(parser, "the same as JSON")
    parser.set_defaults(command=_dialects)


def _add_source(parser: argparse.ArgumentParser) -> None:
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("source", metavar="SRC", help="a checkpoint, a model file or folder, of any supported kind")
    parser.add_argument("--from", dest="dialect", metavar="DIALECT", help="the implementation that the weights are of")
    parser.add_argument(
        "--hint",
        metavar="[BLOCK:]FIELD=VALUE",
        help="what weights do not tell: gate=hard_sigmoid, 'stage1.*:activation=silu', "
        """'gate={"kind": "hard_sigmoid", "slope": 0.2, "offset": 0.5}'""",
        **several,
    )
    parser.add_argument("--include", metavar="PATTERN", help="only blocks of such names (may be repeated)", **several)
    parser.add_argument("--exclude", metavar="PATTERN", help="no blocks of such names (may be repeated)", **several)


# Inspect


def _inspect(given: argparse.Namespace) -> int:
    check_writable(given.json)
    with Console(stderr=True).status(f"reading {given.source}"):
        found = reading.inspect(
            given.source, given.dialect, _hints(given.hint), include=given.include, exclude=given.exclude
        )
    show(given, *_inspection(found))
    write_json(given.json, found.to_json())
    return AGREED if found.blocks and not any(block.fault for block in found.blocks) else DISAGREED


def _inspection(found: Inspection) -> list[Any]:
    narrow = Column("block", overflow="fold"), Column("dialect", overflow="fold")
    table = Table(*narrow, "what it is", "doubts", "proof", title=found.kind)
    for block in found.blocks:
        doubts = f"[red]{escape(block.fault)}[/]" if block.fault else f"[yellow]{escape(_doubts(block))}[/]"
        table.add_row(
            escape(repr(block.name)),
            escape("\n".join(block.dialects)) or "(the file tells)",
            escape(_spec(block)),
            doubts,
            escape(block.proved or ""),
        )
    names = [f"{name} {list(shape)}" for name, shape in found.rest.items()]
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    rest = f"{len(names)} tensors of no block: {', '.join(names[:SHOWN])}{more}" if names else "nothing left over"
    return [table if found.blocks else "[red]no block found[/]", escape(rest)]


def _spec(block: Inspected) -> str:
    if block.spec is None:
        return ""
    fields = block.spec.to_json()
    name = fields.pop("block")
    return f"{name} " + " ".join(f"{field}={_short(value)}" for field, value in fields.items())


def _short(value: Any) -> str:
    """A field's value in a table: of a gate or a norm, its numbers; of blocks, which they are."""
    if isinstance(value, Mapping):
        kind = value.get("kind", "batch_norm")
        return f"{kind}({', '.join(f'{item:.7g}' for name, item in value.items() if name != 'kind')})"
    if isinstance(value, list) and all(isinstance(item, Mapping) and "block" in item for item in value):
        return f"[{', '.join(item['block'] for item in value)}]"  # of the stages of a network
    return json.dumps(value).strip('"')


def _doubts(block: Inspected) -> str:
    told = [f"{doubt.fact}: {doubt.reason}" for doubt in block.doubts]
    asked = [
        f"--hint {doubt.fact}={_as_hint(doubt.values[0])}" if doubt.values else f"--include {block.name!r}"
        for doubt in block.doubts
    ]
    return "; ".join(told) + (f" ({' '.join(asked)}, for one)" if told else "")


def _as_hint(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _hints(texts: list[str]) -> dict[str, Any]:
    """The hints of ``[BLOCK:]FIELD=VALUE``; a value is JSON, or else a string."""
    hints: dict[str, Any] = {}
    for text in texts:
        head, equals, value = text.partition("=")
        block, colon, field = head.rpartition(":")
        if not equals or not field:
            raise DialectError(f"received --hint {text}", "[BLOCK:]FIELD=VALUE", "as --hint gate=hard_sigmoid")
        place = hints.setdefault(block, {}) if colon else hints
        if not isinstance(place, dict):
            raise DialectError(f"received --hint {text}, and {block!r} as a field before", "one meaning of a name")
        place[field] = _value(value)
    return hints


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# Port


def _port(given: argparse.Namespace) -> int:
    check_writable(given.json)
    if not given.dry_run:
        writing.check_target(given.target, overwrite=given.force)
    names, model = _names(given.map), _model(given.into)
    console = Console(stderr=True)
    with progress_bar(console) as bar:
        task = bar.add_task(f"reading {given.source}", total=None)
        options = {"include": given.include, "exclude": given.exclude}
        if given.probe:
            options["progress"] = lambda name: bar.update(task, description=f"probing {name}")
        read = reading.read_with_probes if given.probe else reading.read
        blocks = _renamed(read(given.source, given.dialect, _hints(given.hint), **options), names)
        proved = [block for block in blocks if block.probe]
        verdict = verification.verify(proved, backends=[]) if proved else None
        if verdict and verdict.failures:
            console.print("\n\n".join(verdict.explain()), markup=False, highlight=False, soft_wrap=True)
            show(given, "[red]nothing written: the weights as they were read are not what the source computed[/]")
            return DISAGREED
        bar.update(task, description=f"writing {given.target}", total=len(blocks))
        written = writing.write(
            given.target,
            blocks,
            given.to,
            model=model,
            overwrite=given.force,
            dry_run=given.dry_run,
            progress=lambda done: bar.update(task, completed=done),
        )
    show(given, *_told(given, blocks, written))
    write_json(given.json, written.to_json() | {"dry_run": given.dry_run})
    return AGREED


def _names(file: Path | None) -> dict[str, str]:
    """The names that ``--map`` gives."""
    if file is None:
        return {}
    try:
        names = strict_json(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"received --map {file}, which cannot be read: {error}", "a JSON object of names") from error
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise FormatError(f"received --map {file}, which holds something else", "a JSON object of names by name")
    return names


def _renamed(blocks: list[Block], names: Mapping[str, str]) -> list[Block]:
    unknown = [name for name in names if name not in {block.name for block in blocks}]
    if unknown:
        present = ", ".join(repr(block.name) for block in blocks)
        raise DialectError(f"received --map with {', '.join(map(repr, unknown))}", f"names of the blocks {present}")
    return [replace(block, name=names.get(block.name, block.name)) for block in blocks]


def _model(file: Path | None) -> Any:
    """The Keras model in `file`; nothing in it is run but layers that this machine's packages register."""
    if file is None:
        return None
    try:
        import keras

        import attention_keras.layers  # noqa: F401 (registers its layers)

        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its layers do
        raise FormatError(f"received --into {file}, which Keras cannot load: {error}", "a .keras model") from error


def _told(given: argparse.Namespace, blocks: list[Block], written: Any) -> list[Any]:
    table = Table("block", "what it is", "tensors", title=f"{given.source} -> {given.target}")
    for block in blocks:
        shown = Inspected(block.name, (), block.spec)
        table.add_row(escape(repr(block.name)), escape(_spec(shown)), str(len(block.tensors)))
    done = "would be written" if given.dry_run else "written"
    return [table, f"[green]{len(blocks)} blocks {done}[/]: {escape(str(written))}"]


# Verify


def _verify(given: argparse.Namespace) -> int:
    check_writable(given.json)
    console = Console(stderr=True)
    blocks = reading.read(given.source)
    backends = list(dict.fromkeys(given.backend)) or list(BACKENDS)
    with progress_bar(console) as bar:
        task = bar.add_task(f"replaying the probes of {given.source}", total=len(blocks) * (len(backends) + 1))
        verdict = verification.verify(
            blocks, backends, device=given.device, progress=lambda outcome: bar.update(task, advance=1)
        )
    show(given, _verdict_table(verdict))
    for text in verdict.explain():
        console.print(text + "\n", markup=False, highlight=False, soft_wrap=True)
    proved = len({outcome.block for outcome in verdict.outcomes} - {outcome.block for outcome in verdict.failures})
    told = f"{proved} of {len(blocks)} blocks proved on the oracle and {len(verdict.present)} backends"
    # A backend that was asked for by name and is absent proves nothing.
    agreed = verdict.agreed and not (given.backend and verdict.absent)
    show(given, f"[green]{told}[/]" if agreed else f"[red]failed[/]: {told}")
    write_json(given.json, verdict.to_json())
    return AGREED if agreed else DISAGREED


def _verdict_table(verdict: verification.Verification) -> Table:
    """Each block's worst error, as a share of the allowed one, on the oracle and on every backend."""
    ran = ["oracle", *verdict.present]
    columns = [Column(name, overflow="fold") for name in ("block", "computed by", *ran)]
    table = Table(*columns, title=f"error / allowed, {verdict.device}")
    for name, source in verdict.sources.items():
        found = {outcome.backend: outcome for outcome in verdict.outcomes if outcome.block == name}
        table.add_row(escape(repr(name)), escape(source), *(_ratio(found.get(backend)) for backend in ran))
    for backend, reason in verdict.absent.items():
        table.add_row(f"[yellow]{backend} absent[/]", escape(reason))
    return table


def _ratio(outcome: verification.Outcome | None) -> str:
    if outcome is None:
        return "-"
    return f"[{'green' if outcome.agreed else 'red'}]{outcome.ratio:.2g}[/]"


# Dialects


def _dialects(given: argparse.Namespace) -> int:
    check_writable(given.json)
    chosen = dialects.find(given.pattern)
    table = Table(Column("dialect", no_wrap=True), "block", "exactness", Column("asked for", no_wrap=True))
    for one in chosen:
        color = "red" if one.refused else "green"
        table.add_row(one.id, one.block, f"[{color}]{escape(one.exactness)}[/]", ", ".join(one.doubtful))
    show(given, table)
    facts = [
        {"id": one.id, "block": one.block, "exactness": one.exactness, "doubtful": list(one.doubtful)}
        | {"facts": dict(one.facts), "defaults": dict(one.defaults), "source": one.source}
        for one in chosen
    ]
    write_json(given.json, facts)
    return AGREED if chosen else DISAGREED
