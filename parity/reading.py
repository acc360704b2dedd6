"""Blocks from anywhere: exchange files, recordings, other people's checkpoints, mappings of arrays."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

import ml_dtypes
import numpy as np

from parity import dialects, exchange
from parity.block import Block, native
from parity.dialects import Dialect
from parity.errors import (
    BackendMissingError,
    DialectError,
    FormatError,
    MissingTensorError,
    SpecError,
    TensorShapeError,
    UnexpectedTensorError,
)
from parity.spec import ACTIVATIONS, SPECS, Spec
from parity.spec._gate import KINDS as GATES
from parity.spec.eca import PADDINGS

KINDS = "an exchange file, any other .safetensors file, or the prefix of a tf.compat.v1 Saver checkpoint"

GOLDEN = "attention-golden/1"
GOLDEN_ONNX = "attention-golden-onnx/1"

# What a doubtful field may be, for the error that asks for it.
ALLOWED = {
    "gate": (*GATES, {"kind": "hard_sigmoid", "slope": 0.2, "offset": 0.5}),
    "activation": ACTIVATIONS,
    "padding": PADDINGS,
}

FIELDS = {field.name for spec in SPECS.values() for field in fields(spec)}  # type: ignore[arg-type]

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Match:
    """A block found in foreign weights: whose it is, under which prefix, and the key of each row of its table."""

    dialect: Dialect
    prefix: str
    keys: Mapping[str, str]
    spec: Spec
    tensors: Arrays
    extras: Arrays

    @property
    def name(self) -> str:
        """The block's name: the prefix without its separator."""
        return self.prefix[:-1]

    def block(self) -> Block:
        """The block itself."""
        return Block(self.name, self.spec, self.tensors, self.extras)


def read(source: Any, dialect: str | Dialect | None = None, hints: Mapping[str, Any] | None = None) -> list[Block]:
    """The blocks of `source`, with canonical names and layouts.

    Args:
        source: a path (an exchange file, any other safetensors file, the prefix of a TF1 Saver checkpoint), a mapping
            of arrays such as a PyTorch state dict.
        dialect: the id of the implementation that the weights come from (`parity.dialects.DIALECTS`), whose defaults
            then hold; None to tell it from keys and shapes, which never tell gate, activation or padding.
        hints: spec fields by name, in their JSON form, for what keys and shapes cannot tell: ``{"gate":
            "hard_sigmoid"}``. For some blocks only: ``{"<name, or pattern as of fnmatch>": {...}}``.

    Raises:
        FormatError: for a file of no supported kind, or a damaged one.
        DialectError: for weights that fit no dialect, or several; for facts that only a hint can tell; and for hints
            that contradict weights or dialect.
        MissingTensorError, UnexpectedTensorError, TensorShapeError: naming the tensors.

    Example:
        >>> weights = {"fc.0.weight": np.ones((6, 24)), "fc.2.weight": np.ones((24, 6))}
        >>> read(weights, hints={"gate": "sigmoid", "activation": "relu"})[0].spec.hidden_channels
        6
    """
    hints = _checked(hints)
    if isinstance(source, Mapping):
        return [match.block() for match in matches(source, dialect, hints)]
    if isinstance(source, str | os.PathLike):
        return _read_path(os.fspath(source), dialect, hints)
    received = f"received a {type(source).__module__}.{type(source).__qualname__}"
    raise FormatError(received, f"{KINDS}, or a mapping of arrays", "parity.blocks_of takes live models")


def _checked(hints: Mapping[str, Any] | None) -> dict[str, Any]:
    if hints is None:
        return {}
    if not isinstance(hints, Mapping) or not all(isinstance(name, str) for name in hints):
        raise DialectError(f"received hints={hints!r}", "a mapping of spec fields by name", "as {'gate': 'sigmoid'}")
    return dict(hints)


# Files


def _read_path(path: str, dialect: str | Dialect | None, hints: dict[str, Any]) -> list[Block]:
    prefix = path.removesuffix(".index")
    if os.path.isfile(f"{prefix}.index"):
        return read(_checkpoint(prefix), dialect, hints)
    if not os.path.isfile(path):
        raise FormatError(f"received {path!r}, which is no file", KINDS)
    if not _looks_like_safetensors(path):
        remedy = (
            "open it with its own library and pass a mapping of its arrays, as from torch.load(path, weights_only=True)"
        )
        raise FormatError(f"received {path!r}, a file of unknown kind", KINDS, remedy)
    tensors, metadata = exchange.read_tensors(path)
    if exchange.METADATA_KEY in metadata:
        if dialect is not None or hints:
            raise DialectError("received a dialect or hints for an exchange file", "neither: it carries its own specs")
        return exchange.read(path)
    return [match.block() for match in matches(*recording(path, tensors, metadata, dialect, hints))]


def _looks_like_safetensors(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return path.endswith(".safetensors") or file.read(9)[8:] == b"{"
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}", "a whole, readable file") from error


def recording(
    path: str,
    tensors: Arrays,
    metadata: Mapping[str, str],
    dialect: str | Dialect | None = None,
    hints: Mapping[str, Any] | None = None,
) -> tuple[Arrays, str | Dialect | None, dict[str, Any]]:
    """The weights, dialect and hints of a safetensors file: its own if it is a recording, else those that are given."""
    kind, given = metadata.get("format"), _checked(hints)
    try:
        if kind == GOLDEN:
            state = {name.removeprefix("state/"): tensors[name] for name in tensors if name.startswith("state/")}
            own = _checked(json.loads(metadata.get("hints", "{}")))
            return state, metadata["dialect"] if dialect is None else dialect, own | given
        if kind == GOLDEN_ONNX:
            state = {name: value for name, value in tensors.items() if not name.endswith(("/input", "/output"))}
            gates = {block["name"]: {"gate": _onnx_gate(block)} for block in json.loads(metadata["blocks"])}
            return state, "torchvision/SqueezeExcitation" if dialect is None else dialect, _checked(gates) | given
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path} is a recording with unreadable metadata ({error!r})") from error
    return tensors, dialect, given


def _onnx_gate(block: Mapping[str, Any]) -> dict[str, Any] | str:
    if block["gate"] == "HardSigmoid":
        return {"kind": "hard_sigmoid", "slope": block["alpha"], "offset": block["beta"]}
    return block["gate"].lower()


def _checkpoint(prefix: str) -> dict[str, np.ndarray]:
    """The arrays of a TF1 Saver checkpoint, without the slots of its optimizer."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise BackendMissingError(
            f"received {prefix!r}, a TensorFlow checkpoint, but TensorFlow is not installed",
            remedy="pip install 'attention-parity[tf1]'",
        ) from error
    try:
        reader = tf.train.load_checkpoint(prefix)
        arrays = {name: reader.get_tensor(name) for name in sorted(reader.get_variable_to_shape_map())}
    except Exception as error:  # the reader raises TensorFlow's own errors and bare RuntimeErrors
        raise FormatError(
            f"{prefix} cannot be read as a TensorFlow checkpoint: {error}", "whole, readable files"
        ) from error
    # A slot is named after its variable: cbam_block1/mlp_1/kernel/Momentum.
    slots = {
        name for name in arrays if any(name.startswith(f"{other}/") for other in _parents(name) if other in arrays)
    }
    return {name: value for name, value in arrays.items() if name not in slots and isinstance(value, np.ndarray)}


def _parents(name: str) -> list[str]:
    return [name[:end] for end, letter in enumerate(name) if letter == "/"]


# Mappings of arrays


def matches(
    source: Mapping[str, Any], dialect: str | Dialect | None = None, hints: Mapping[str, Any] | None = None
) -> list[Match]:
    """The blocks of a mapping of foreign arrays, in the order of their first keys; `read` tells the rest."""
    strange = [key for key in source if not isinstance(key, str)]
    if strange:
        raise DialectError(f"received a mapping with the keys {strange!r}", "names of tensors")
    arrays = {key.removesuffix(":0"): _array(key, value) for key, value in source.items()}
    groups = _by_prefix(list(arrays))
    candidates = list(dialects.DIALECTS.values()) if dialect is None else [dialects.get(dialect)]
    found = [match for one in candidates for match in _fits(one, groups, arrays, strict=dialect is not None)]
    found = _without_parts(found)
    if not found:
        known = ", ".join(one.id for one in candidates)
        raise DialectError(
            f"received {_some(list(arrays))}, which fit no block of {known}",
            "all weights of at least one block, under any prefix",
            "pass dialect= to learn what is missing, or build a parity.Block from canonical names; a state dict of "
            "attention_torch does not carry its meaning: load it into its module and pass that to parity.blocks_of",
        )
    _check_unambiguous(found)
    _check_consumed(found, groups, arrays)
    order = {key: number for number, key in enumerate(arrays)}
    found.sort(key=lambda match: min(order[key] for key in match.keys.values()))
    return _with_hints(found, _checked(hints), doubt=dialect is None)


def _array(key: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a PyTorch tensor, maybe on a GPU
        value = value.detach().cpu()
        if (
            str(value.dtype) == "torch.bfloat16"
        ):  # NumPy knows bfloat16 through ml_dtypes, and PyTorch does not know those
            return value.view(sys.modules["torch"].uint16).numpy().view(ml_dtypes.bfloat16)
    try:
        array = native(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TensorShapeError(f"received {key} of type {type(value).__name__} ({error})", "an array") from error
    if array.dtype.kind in "OSU":
        raise TensorShapeError(f"received {key} of type {type(value).__name__}", "an array of numbers")
    return array


def _by_prefix(keys: list[str]) -> dict[str, dict[str, str]]:
    """The full key of each remainder, under each prefix: "" and whatever ends in "." or "/"."""
    groups: dict[str, dict[str, str]] = {}
    for key in keys:
        for end in (0, *(number + 1 for number, letter in enumerate(key) if letter in "./")):
            groups.setdefault(key[:end], {})[key[end:]] = key
    return groups


def _fits(dialect: Dialect, groups: Mapping[str, Mapping[str, str]], arrays: Arrays, strict: bool) -> Iterator[Match]:
    """The blocks of `dialect`, under every prefix.

    Where `strict`, what looks like one but lacks tensors or has them in other shapes is an error.
    """
    for prefix, remainders in groups.items():
        spelling = dialect.spelling(list(remainders))
        rows = [row for row in dialect.tensors if row.key in spelling]
        keys = {row.key: remainders[spelling[row.key]] for row in rows}
        needed = [row for row in rows if not row.optional]
        if not needed or not all(row.accepts(arrays[keys[row.key]].shape) for row in rows):
            continue
        missing = [row.key for row in dialect.tensors if row.key not in keys and not row.optional]
        try:
            if missing:
                raise MissingTensorError(
                    f"received {', '.join(keys.values())} without {', '.join(prefix + key for key in missing)}",
                    f"all tensors of {dialect.id}",
                    "if they belong to something else, leave them out of the mapping",
                )
            yield _fit(dialect, prefix, keys, {row.key: arrays[keys[row.key]] for row in rows})
        except (MissingTensorError, DialectError):
            if strict:
                raise


def _fit(dialect: Dialect, prefix: str, keys: Mapping[str, str], state: Arrays) -> Match:
    tensors, extras = dialects.to_canonical(dialect, state)
    return Match(dialect, prefix, keys, _spec(dialect, prefix, tensors, {}), tensors, extras)


def _spec(dialect: Dialect, prefix: str, tensors: Arrays, hints: Mapping[str, Any]) -> Spec:
    """The spec that sizes, facts, defaults and hints give together; a `DialectError` where they do not agree."""
    shapes = {name: value.shape for name, value in tensors.items()}
    where = f"{dialect.id} under the prefix {prefix!r}"
    told = {**hints, **dialect.facts}
    try:
        spec = SPECS[dialect.block].infer(shapes, **{**dialect.defaults, **told})
        stated = type(spec).from_json({**spec.to_json(), **told})
        wished = type(spec).from_json({**spec.to_json(), **hints})
    except SpecError as error:
        raise DialectError(f"{where} does not work out: {error}") from error
    differences = spec.differences(stated) + stated.differences(wished)
    if differences:
        expected = "agreement of the weights, of what the dialect fixes and of the hints"
        raise DialectError(f"{where} contradicts itself (found, told): {'; '.join(differences)}", expected)
    if spec.parameters() != shapes:
        raise DialectError(f"{where} has the shapes {shapes}", f"{spec.parameters()}")
    return spec


def _without_parts(found: list[Match]) -> list[Match]:
    """`found` without the matches whose keys are a part of another's: half of a block is none."""
    keys = [set(match.keys.values()) for match in found]
    return [match for match, own in zip(found, keys, strict=True) if not any(own < other for other in keys)]


def _check_unambiguous(found: list[Match]) -> None:
    owners: dict[str, Match] = {}
    for match in found:
        for key in match.keys.values():
            other = owners.setdefault(key, match)
            if other is not match:
                raise DialectError(
                    f"received {_some(list(match.keys.values()))}, which fit {other.dialect.id} and {match.dialect.id}",
                    "one dialect",
                    f"choose with dialect={other.dialect.id!r} or dialect={match.dialect.id!r}",
                )
    names = [match.name for match in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DialectError(
            f"received several blocks under {', '.join(map(repr, twice))}", "one block a prefix", "read them one by one"
        )


def _check_consumed(found: list[Match], groups: Mapping[str, Mapping[str, str]], arrays: Arrays) -> None:
    used = {key for match in found for key in match.keys.values()}
    for match in found:
        left = [key for key in groups[match.prefix].values() if key not in used]
        if left:
            raise UnexpectedTensorError(
                f"received {_some(left)} beside the block {match.name!r} ({match.dialect.id})",
                f"under the prefix {match.prefix!r} only {', '.join(match.keys)}",
                "leave what belongs to no block out of the mapping, or pass another dialect",
            )
    for dialect in {match.dialect.id: match.dialect for match in found}.values():
        # The same mistake as a block that lacks a tensor where it is alone: it must not vanish beside whole ones.
        rest = {prefix: {end: key for end, key in keys.items() if key not in used} for prefix, keys in groups.items()}
        list(_fits(dialect, rest, arrays, strict=True))


def _with_hints(found: list[Match], hints: dict[str, Any], doubt: bool) -> list[Match]:
    patterns = {name: value for name, value in hints.items() if name not in FIELDS and isinstance(value, Mapping)}
    everywhere = {name: value for name, value in hints.items() if name not in patterns}
    idle = [name for name in patterns if not any(fnmatchcase(match.name, name) for match in found)]
    if idle:
        names = ", ".join(repr(match.name) for match in found)
        raise DialectError(
            f"received hints for {', '.join(map(repr, idle))}", f"a spec field, or one of the blocks {names}"
        )
    return [_hinted(match, _own_hints(match, everywhere, patterns), doubt) for match in found]


def _own_hints(
    match: Match, everywhere: Mapping[str, Any], patterns: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    own = dict(everywhere)
    for pattern, hints in patterns.items():
        own |= hints if fnmatchcase(match.name, pattern) else {}
    return own


def _hinted(match: Match, hints: Mapping[str, Any], doubt: bool) -> Match:
    known = [name for name in match.spec.to_json() if name != "block"]
    unknown = [name for name in hints if name not in known]
    if unknown:
        raise DialectError(f"received the hints {', '.join(map(repr, unknown))}", f"of {', '.join(known)}")
    open_questions = [name for name in match.dialect.doubtful if doubt and name not in hints]
    if open_questions:
        raise _doubt(match, open_questions)
    spec = _spec(match.dialect, match.prefix, match.tensors, hints)
    return Match(match.dialect, match.prefix, match.keys, spec, match.tensors, match.extras)


def _doubt(match: Match, names: list[str]) -> DialectError:
    allowed = "; ".join(f"{name}: {', '.join(map(repr, ALLOWED[name]))}" for name in names)
    example = {name: match.spec.to_json()[name] for name in names}
    return DialectError(
        f"block {match.name!r} looks like {match.dialect.id}, whose weights do not tell {' and '.join(names)}",
        f"hints for them ({allowed})",
        f"pass parity.read hints={example!r}, or dialect={match.dialect.id!r} for the defaults of its class",
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "no tensors"
