"""Weights between live models and files: everything is checked before the first variable is written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from parity.backends import Adapter, adapter_of
from parity.block import FLOAT_DTYPES, Block, kernels_first, kernels_last, listed
from parity.errors import (
    BackendMissingError,
    InputError,
    MissingTensorError,
    ParityError,
    SpecMismatchError,
    TensorShapeError,
    UnexpectedTensorError,
)
from parity.reading import read
from parity.spec import LiveBlock, Spec, differing, spec_from_json


@dataclass(frozen=True)
class Report:
    """What `load_into` did.

    Args:
        loaded: the name in the model of each block of the source.
        unverified: by block of the source, the fields of its spec that the model does not show and nobody could check.
    """

    loaded: Mapping[str, str]
    unverified: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def owner(model: Any) -> Adapter:
    """The adapter of the framework that `model` belongs to; no framework is imported for it."""
    adapter = adapter_of(model)
    if adapter is None:
        raise BackendMissingError(
            f"received a {type(model).__module__}.{type(model).__qualname__}",
            "a PyTorch module, a Keras model or layer, or a tf.compat.v1 session",
        )
    return adapter


def load_into(model: Any, source: Any, mapping: Mapping[str, str] | None = None, verify: bool = False) -> Report:
    """Load every block of `source` into `model`, and fill every block of the model.

    Blocks pair by name ("." and "/" count as "_"), or as `mapping` says; a model that is one block itself takes a
    source of one block whatever its name. Values take the dtype that the model's variables have. Blocks made of stock
    Keras layers are looked for under the names of the source alone: one that nobody names stays as it is, unseen.

    Args:
        model: a torch module, a Keras model or layer, or a TF1 session.
        source: a `Block`, a list of them, or anything that `parity.read` reads.
        mapping: the name in the model of a block of the source, where they differ.
        verify: whether every block must first prove itself: its probe is replayed in a worker process of the backend
            that the model belongs to, and where one is missing or does not agree, nothing is written.

    Raises:
        MissingTensorError, UnexpectedTensorError: for blocks without a partner, naming them all; and where `verify`
            finds no probe.
        SpecMismatchError: where a block of the model computes another function, naming field and both values; and
            where a probe does not agree, with the figures.
        TensorShapeError: where a variable has another shape than its tensor, or a dtype that cannot hold its numbers.

    Example:
        >>> from attention_torch import ECA
        >>> load_into(ECA(24), Block("eca", ECA(24).spec, {"conv.kernel": np.ones((1, 1, 3))})).loaded
        {'eca': ''}
    """
    adapter, blocks = owner(model), blocks_from(source)
    if verify:
        _prove(adapter, blocks)
    return load_blocks(adapter, model, blocks, mapping or {})


def load_blocks(adapter: Adapter, model: Any, blocks: list[Block], mapping: Mapping[str, str]) -> Report:
    """`load_into`, for blocks already read and a model whose adapter is known."""
    names = _renamed(blocks, mapping)
    live = adapter.find_blocks(model, {names[block.name]: block.spec for block in blocks})
    pairs = _pair(blocks, names, live)
    unverified = {block.name: _unverified(block.name, block.spec, live[name]) for block, name in pairs}
    writes = [write for block, name in pairs for write in _writes(adapter, block, name, live[name])]
    write_all(adapter, model, writes)
    return Report(
        {block.name: name for block, name in pairs}, {name: fields for name, fields in unverified.items() if fields}
    )


def blocks_of(model: Any, specs: Mapping[str, Spec] | None = None) -> list[Block]:
    """The blocks of a live model, ready for `parity.write`.

    Args:
        model: a torch module, a Keras model or layer, or a TF1 session.
        specs: the specs of blocks that do not show all of theirs, by name in the model.

    Raises:
        MissingTensorError: where the model has no block, or variables that hold no values yet.
        SpecMismatchError: where a block shows another spec than given, or not all of its spec and none is given.
    """
    adapter = owner(model)
    given = {plain_name(name): spec for name, spec in (specs or {}).items()}
    live = adapter.find_blocks(model, specs or {})
    if not live:
        raise MissingTensorError(
            f"received a {type(model).__module__}.{type(model).__qualname__} in which no block was found",
            "at least one",
            "for blocks made of stock Keras layers pass specs={'<name in the model>': <its spec>}",
        )
    return [_read_block(adapter, model, name, block, given.get(plain_name(name))) for name, block in live.items()]


def blocks_from(source: Any) -> list[Block]:
    """A block, a list of blocks, or whatever `parity.read` reads, as a list of blocks."""
    if isinstance(source, Block):
        return [source]
    is_list = isinstance(source, Iterable) and not isinstance(source, str | os.PathLike | Mapping)
    blocks = list(source) if is_list else []
    return blocks if blocks and all(isinstance(block, Block) for block in blocks) else read(source)


def _prove(adapter: Adapter, blocks: list[Block]) -> None:
    """Replay the probes of `blocks` in a worker of the adapter's backend; an error unless all of them agree."""
    from parity.probe import backend_of  # both read live models through this module
    from parity.verification import verify

    backend = backend_of(adapter)
    result = verify(blocks, [backend])
    if not result.agreed:
        kind: type[ParityError] = SpecMismatchError if result.failures else MissingTensorError
        why = "\n".join(result.explain())
        raise kind(
            f"received weights that are not proved in {backend!r}, so nothing was loaded:\n{why}\n",
            remedy="record probes with parity.probe.with_probes, or mend the hints with which the weights were read",
        )


def _renamed(blocks: list[Block], mapping: Mapping[str, str]) -> dict[str, str]:
    """The wanted name in the model of each block."""
    unknown = [name for name in mapping if name not in {block.name for block in blocks}]
    if unknown:
        present = ", ".join(repr(block.name) for block in blocks)
        raise MissingTensorError(f"received a mapping of {', '.join(map(repr, unknown))}", f"of the blocks {present}")
    return {block.name: mapping.get(block.name, block.name) for block in blocks}


def plain_name(name: str) -> str:
    """`name` as it is compared: frameworks join the steps of a path with different signs."""
    return name.replace(".", "_").replace("/", "_")


def _pair(blocks: list[Block], names: Mapping[str, str], live: Mapping[str, LiveBlock]) -> list[tuple[Block, str]]:
    """Each block with the name of its partner in the model."""
    if list(live) == [""] and len(blocks) == 1 and names[blocks[0].name] == blocks[0].name:
        return [(blocks[0], "")]
    wanted = _distinct("the source", [names[block.name] for block in blocks])
    found = _distinct("the model", list(live))
    missing = [name for plain, name in found.items() if plain not in wanted]
    unexpected = [name for plain, name in wanted.items() if plain not in found]
    remedy = "pass mapping={'<name in the source>': '<name in the model>'}"
    faults = [f"no weights for the model's {', '.join(map(repr, missing))}"] if missing else []
    faults += [f"weights for {', '.join(map(repr, unexpected))} that the model lacks"] if unexpected else []
    if faults:
        kind: type[ParityError] = MissingTensorError if missing else UnexpectedTensorError
        raise kind(f"received {' and '.join(faults)}", "one block of the source for each block of the model", remedy)
    return [(block, found[plain_name(names[block.name])]) for block in blocks]


def _distinct(place: str, names: list[str]) -> dict[str, str]:
    plain: dict[str, str] = {}
    for name in names:
        other = plain.setdefault(plain_name(name), name)
        if names.count(name) > 1 or other != name:
            raise UnexpectedTensorError(
                f"received {place} with blocks {other!r} and {name!r}",
                "names that differ in more than '.', '/' and '_'",
            )
    return plain


def _unverified(name: str, spec: Spec, live: LiveBlock) -> tuple[str, ...]:
    """The fields of `spec` that the live block does not show; a `SpecMismatchError` where it shows another value."""
    ours, shown = spec.to_json(), dict(live.shown)
    if None in (ours["channels"], shown.get("channels", 0)) and "channels" in shown:
        shown["channels"] = ours["channels"]
    different = [one for key in shown for one in differing(key, ours.get(key), shown[key])]
    if different:
        faults = [f"{key}: weights {weights!r}, model {model!r}" for key, weights, model in different]
        raise SpecMismatchError(
            f"block {name!r} means another function than the model computes ({'; '.join(faults)})",
            "equal specs",
            "build the model from the block's spec",
        )
    return tuple(key for key in ours if key not in shown and key != "block")


def _writes(adapter: Adapter, block: Block, name: str, live: LiveBlock) -> list[Write]:
    values = {key: kernels_last(key, value) if adapter.KERNELS_LAST else value for key, value in block.tensors.items()}
    homeless = [key for key in live.variables if key not in values]
    missing = [key for key in values if key not in live.variables]
    if homeless or missing:
        kind: type[ParityError] = MissingTensorError if homeless else UnexpectedTensorError
        faults = [f"lacks {listed(missing)}"] if missing else []
        faults += [f"has the unexpected {listed(homeless)}"] if homeless else []
        raise kind(f"block {block.name!r}: model {name!r} {' and '.join(faults)}", f"exactly {listed(values)}")
    pairs = [(key, live.variables[key], value) for key, value in values.items()]
    pairs += [(key, live.extras[key], value) for key, value in block.extras.items() if key in live.extras]
    wrong = [
        f"{key}: tensor {value.shape}, variable {shape_of(variable)}"
        for key, variable, value in pairs
        if shape_of(variable) != value.shape
    ]
    if wrong:
        raise TensorShapeError(
            f"block {block.name!r} does not fit model {name!r} ({listed(wrong, '; ')})", "equal shapes"
        )
    lost = [
        f"{key}: tensor {value.dtype}, variable {variable.dtype}"
        for key, variable, value in pairs
        if overflows(variable, value)
    ]
    if lost:
        raise TensorShapeError(
            f"block {block.name!r} has finite numbers that model {name!r} would hold as infinite "
            f"({listed(lost, '; ')})",
            "numbers within the range of the variable's dtype",
            "build the model with a wider dtype",
        )
    return [(variable, portable(value), f"{name}: {key}".removeprefix(": ")) for key, variable, value in pairs]


def shape_of(variable: Any) -> tuple[int, ...]:
    """The shape of a variable of any framework."""
    return tuple(int(size) for size in variable.shape)


def overflows(variable: Any, value: np.ndarray) -> bool:
    """Whether a finite number of `value` becomes infinite in the dtype of `variable`, of whatever framework."""
    kind = re.search("bfloat16|float16|float32|float64", str(variable.dtype))
    if kind is None or value.dtype not in FLOAT_DTYPES:
        return False
    dtype = np.dtype(kind.group())  # ml_dtypes tells NumPy of bfloat16
    if ml_dtypes.finfo(value.dtype).max <= ml_dtypes.finfo(dtype).max:
        return False
    with np.errstate(over="ignore"):
        return bool(np.any(np.isfinite(value) & ~np.isfinite(value.astype(dtype))))


def portable(value: np.ndarray) -> np.ndarray:
    """`value` as every framework takes it: contiguous, and float32 for bfloat16, which holds the same numbers."""
    return np.asarray(value, dtype=np.float32 if value.dtype == ml_dtypes.bfloat16 else None, order="C")


Write = tuple[Any, np.ndarray, str]  # a variable, its value, and a name for messages


def write_all(adapter: Adapter, model: Any, writes: Sequence[Write]) -> None:
    """Set variables to arrays as `portable` makes them: all of them, or on any failure none.

    What was written is read again: a value that did not arrive would change the function without a word.
    """
    before = list(_held(adapter, model, [variable for variable, _, _ in writes]))
    try:
        adapter.write_variables(model, [(variable, value) for variable, value, _ in writes])
        lost = [name for variable, value, name in writes if not _arrived(adapter, model, variable, value)]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise InputError(
                f"received a model that does not keep what is written to {lost[0]!r}{more}", "variables of their own"
            )
    except BaseException as error:
        with suppress(Exception):  # the variable that could not be written cannot be restored either, and need not be
            adapter.write_variables(model, before)
        if isinstance(error, ParityError) or not isinstance(error, Exception):
            raise
        raise InputError(  # every framework has its own for a variable that takes no value
            f"received a model whose variables cannot be written ({type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]})",
            "variables that take values",
            "the model is as it was",
        ) from error


def _held(adapter: Adapter, model: Any, variables: Iterable[Any]) -> Iterator[tuple[Any, np.ndarray]]:
    """The variables with a copy of what they hold; a variable that holds nothing yet has nothing to lose."""
    for variable in variables:
        with suppress(Exception):  # every framework has its own
            yield variable, portable(value_of(adapter, model, variable))


def _arrived(adapter: Adapter, model: Any, variable: Any, value: np.ndarray) -> bool:
    """Whether the variable holds `value`, to the last but one bit of the coarser dtype: frameworks round as they do."""
    got = value_of(adapter, model, variable)
    if got.dtype == value.dtype or got.dtype not in FLOAT_DTYPES:
        return np.array_equal(got, value, equal_nan=got.dtype in FLOAT_DTYPES)
    unit = max(float(ml_dtypes.finfo(dtype).eps) for dtype in (got.dtype, value.dtype))
    least = float(ml_dtypes.finfo(got.dtype).tiny)
    got, value = got.astype(np.float64), value.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinities are equal, or as far apart as can be
        near = np.abs(got - value) <= np.maximum(unit * np.abs(value), least)
    return bool(np.all(near | (got == value) | (np.isnan(got) & np.isnan(value))))


def value_of(adapter: Adapter, model: Any, variable: Any) -> np.ndarray:
    """A copy of what a variable holds: the arrays of some frameworks are views that training goes on to change."""
    value = np.array(adapter.read_variable(model, variable))
    return value.view(ml_dtypes.bfloat16) if value.dtype == np.uint16 else value


def _read_block(adapter: Adapter, model: Any, name: str, live: LiveBlock, spec: Spec | None) -> Block:
    if spec is None:
        spec = _shown_spec(name, live)
    _unverified(name, spec, live)
    values = {
        key: read_value(adapter, model, f"block {name!r}: {key}", variable) for key, variable in live.variables.items()
    }
    tensors = {key: kernels_first(key, value) if adapter.KERNELS_LAST else value for key, value in values.items()}
    extras = {
        key: read_value(adapter, model, f"block {name!r}: {key}", variable) for key, variable in live.extras.items()
    }
    return Block(name, spec, tensors, extras)


def _shown_spec(name: str, live: LiveBlock) -> Spec:
    try:
        return spec_from_json(live.shown)
    except ParityError as error:
        raise SpecMismatchError(
            f"block {name!r} does not show all of its spec ({error})", remedy=f"pass specs={{{name!r}: <its spec>}}"
        ) from error


def read_value(adapter: Adapter, model: Any, where: str, variable: Any) -> np.ndarray:
    """The value of a variable, as a copy; raises `MissingTensorError`, which says `where`, for one that holds none."""
    try:
        return value_of(adapter, model, variable)
    except Exception as error:  # every framework has its own for a variable without value
        raise MissingTensorError(
            f"{where} cannot be read ({type(error).__name__}: {str(error).partition(chr(10))[0]})",
            "variables that hold values",
            "initialize the variables or load weights first",
        ) from error
