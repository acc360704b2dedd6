"""Both models run on an example: the outputs agree, or the first layer that differs is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from parity import oracle
from parity.block import Block
from parity.compare import Comparison, compare
from parity.diagnosis import Observation, diagnose
from parity.errors import InputError, OutputMismatchError, ParityError
from parity.loading import Write, portable, write_all
from parity.network._checks import both
from parity.network._pairs import GUESSED, Paired
from parity.network._part import Call, Part, Side, laid_out, listed, moved
from parity.network._report import Report
from parity.oracle import Measured
from parity.spec import NETWORKS, SPECS, spec_from_json
from parity.tolerances import DTYPES, tolerance

Called = tuple[Part, Any]  # a part, and the input that it was called with
Ran = tuple[Part, Any, Any]  # and what came out


def as_inputs(example: Any) -> list[np.ndarray]:
    """The arrays of the user's example."""
    inputs = [_as_input(value) for value in (example if isinstance(example, tuple) else (example,))]
    if not inputs or any(value.dtype.kind not in "fiub" for value in inputs):
        raise InputError(f"received an example of {listed(str(value.dtype) for value in inputs)}", "arrays of numbers")
    shapes = listed(str(value.shape) for value in inputs)
    if not all(value.size and np.isfinite(value).all() for value in inputs):
        raise InputError(f"received an example of {shapes} that is empty or not finite", "finite numbers")
    if all(value.size > 1 and value.min() == value.max() for value in inputs):
        raise InputError(
            f"received an example of {shapes} that is {inputs[0].flat[0]} everywhere",
            "numbers that differ",
            "pass random numbers: on a constant map, layers that compute different things agree",
        )
    return inputs


def _as_input(value: Any) -> np.ndarray:
    try:
        return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except Exception as error:  # NumPy's, or that of the framework whose tensor it is
        raise InputError(
            f"received an example that is no array ({type(error).__name__}: {str(error).partition(chr(10))[0]})",
            "an array, or a tuple of arrays",
        ) from error


def prove(
    report: Report, source: Side, target: Side, pairs: list[Paired], writes: list[Write], inputs: Sequence[np.ndarray]
) -> Report:
    """Write, run both models and compare; on any failure the target gets its old values back."""
    expected, _ = source.record(inputs, [])
    _check_dtypes(source, expected)
    if any(np.isnan(value).any() for value in expected) or not any(np.isfinite(value).any() for value in expected):
        raise InputError("received a source whose outputs for the example are no numbers", "outputs that prove a thing")
    laid = laid_out(inputs, source, target)
    before = [(variable, portable(target.read(name, variable))) for variable, _, name in writes]
    write_all(target.adapter, target.session, writes)
    try:
        got, _ = target.record(laid, [])
        _check_dtypes(target, got)
        if len(got) != len(expected):
            raise OutputMismatchError(f"the target has {len(got)} outputs", f"the source's {len(expected)}")
        layouts = target.channels, source.channels
        results = [
            _closest(f"output {number}", *pair, *layouts) for number, pair in enumerate(zip(expected, got, strict=True))
        ]
        worst = max(results, key=lambda result: result[0].ratio)
        # The order in which layers run is only a guess, and outputs may hardly feel a layer.
        if worst[0].failure or any(how == GUESSED for _, _, how in pairs):
            where, last = _first_difference(report, source, target, pairs, inputs, laid)
            doubts = "".join(_doubts(report, one.name) for one, _, _ in pairs if one.kind in NETWORKS)
            behind = f"every layer that can be compared agrees: the fault lies behind {last}{doubts}"
            if worst[0].failure or where:
                raise _differs(where or behind, worst[0].failure)
    except BaseException:
        target.adapter.write_variables(target.session, before)
        raise
    error, allowed = worst[0].ratio * worst[1], worst[1]
    return Report(report.pairs, report.unverified, report.differences, report.left, error, allowed)


def _check_dtypes(side: Side, outputs: list[np.ndarray]) -> None:
    wrong = sorted({str(value.dtype) for value in outputs} - set(DTYPES))
    if wrong or not outputs:
        raise InputError(
            f"received a {side.role} whose outputs are {', '.join(wrong) or 'none'}",
            f"outputs in {' or '.join(DTYPES)}, for which there is a tolerance",
            "compare in one of them, or leave example out",
        )


def _closest(name: str, expected: np.ndarray, got: np.ndarray, theirs: str, ours: str) -> tuple[Comparison, float]:
    """The comparison of two maps, or of two sequences: those lie alike in every layout."""
    readings = [moved(theirs, ours)(got), got]
    fitting = [reading for reading in readings if reading.shape == expected.shape] or readings[:1]
    return min((_compared(name, expected, reading) for reading in fitting), key=lambda result: result[0].ratio)


def _compared(name: str, expected: np.ndarray, got: np.ndarray) -> tuple[Comparison, float]:
    """The comparison in the coarser of the two dtypes, and the tolerance that it went by."""
    dtype = min((str(expected.dtype), str(got.dtype)), key=lambda name: np.dtype(name).itemsize)
    dtype = dtype if dtype in DTYPES else "float32"
    scale = np.abs(expected).astype(np.float64)
    (result,) = compare(
        {f"network.{name}": Measured(expected.astype(np.float64), scale)},
        {f"network.{name}": got.astype(dtype)},
        dtype=dtype,
        device="cpu",
    )
    return result, tolerance("network", dtype, "cpu")


def _first_difference(
    report: Report,
    source: Side,
    target: Side,
    pairs: list[Paired],
    inputs: Sequence[np.ndarray],
    laid: Sequence[np.ndarray],
) -> tuple[str, str]:
    """The first of the pairs, in the order in which the source runs, whose outputs differ, and the last that agrees."""
    _, calls = source.record(inputs, [one.name for one, _, _ in pairs])
    _, others = target.record(laid, [other.name for _, other, _ in pairs])
    partners = {one.name: (one, other) for one, other, _ in pairs}
    theirs: dict[str, list[Call]] = {}
    for call in others:
        theirs.setdefault(call[0], []).append(call)
    last = "the input"
    for name, x, y in calls:
        one, other = partners[name]
        if other.name not in theirs:
            continue
        if not theirs[other.name]:
            return f"source {name!r} runs more often than target {other.name!r}", last
        _, their_x, their_y = theirs[other.name].pop(0)
        found = _layer_failure(one, other, y, their_y) if _comparable(one, other) else ""
        if found:
            where = _where(report, source, target, (one, x), (other, their_x), last)
            why = _why(source, (one, x, y), (other, their_x, their_y)) if one.kind in SPECS else ""
            return f"the first layer that differs is {both(one, other)} ({one.kind}), {where}: {found}{why}", last
        last = repr(name) if _comparable(one, other) else last
    more = [name for name, _, _ in calls if theirs.get(partners[name][1].name)]
    if more:
        return f"target {partners[more[0]][1].name!r} runs more often than source {more[0]!r}", last
    return "", last


def _where(report: Report, source: Side, target: Side, ours: Called, theirs: Called, last: str) -> str:
    """What the inputs of the first layer that differs say of the place of the fault."""
    (one, x), (other, their_x) = ours, theirs
    if x is None or their_x is None:  # of a norm in TensorFlow's single operations
        return f"after {last} agrees"
    if not _layer_failure(one, other, x, their_x):
        return f"with equal inputs{_doubts(report, one.name)}"
    if one.kind == "dense" and _is_reordered(x, their_x):
        return (
            f"whose inputs are the same numbers in another order: a map is flattened behind {last}, with its channels "
            f"{source.channels} in the source and {target.channels} in the target (build the target so that it "
            "transposes the map to the source's layout before it flattens it)"
        )
    return f"whose inputs differ already: the fault lies between {last} and it"


def _why(source: Side, ours: Ran, theirs: Ran) -> str:
    """Which classic mistake explains an attention block, on each side that does not compute what its weights mean."""
    one, other = ours[0], theirs[0]
    if ours[1] is None or theirs[1] is None:
        return ""
    try:
        spec = spec_from_json({"block": one.kind, **other.shown, **one.shown})
        tensors = {leaf: slot.to_canonical(source.read(leaf, slot.variable)) for leaf, slot in one.slots.items()}
        block = Block(one.name, spec, tensors)
        seen = {"source": _observation(block, *ours), "target": _observation(block, *theirs)}
        told = [f"the {role}'s block is off. {diagnose(each).text}" for role, each in seen.items() if each.off]
    except ParityError:  # a block that neither side shows whole, or an input that does not fit it
        return ""
    return f". By the oracle, {' And '.join(told)}".removesuffix(".") if told else ""


def _observation(block: Block, part: Part, x: np.ndarray, y: np.ndarray) -> Observation:
    """A call of a block, channels first, beside what the oracle makes of it."""
    move = moved(part.channels, "first")
    x, dtype = np.ascontiguousarray(move(x)), str(y.dtype) if str(y.dtype) in DTYPES else "float32"
    right = oracle.evaluate(block.spec, block.tensors, x)["output"]
    got = np.ascontiguousarray(move(y), dtype)
    return Observation(block, x, {"output": got}, {"output": right}, dtype=dtype)


def _is_reordered(x: np.ndarray, their_x: np.ndarray) -> bool:
    """Whether the features of each sample are the same numbers in two orders."""
    return x.shape == their_x.shape and not _compared("", np.sort(x), np.sort(their_x))[0].failure


def _doubts(report: Report, name: str) -> str:
    fields = report.unverified.get(name, ())
    return f" (not comparable by configuration: {', '.join(fields)})" if fields else ""


def _comparable(one: Part, other: Part) -> bool:
    """Whether the outputs mean the same: an activation inside one of the layers is outside of the other."""
    return one.shown.get("activation") == other.shown.get("activation") or one.kind in SPECS


def _layer_failure(one: Part, other: Part, expected: np.ndarray, got: np.ndarray) -> str:
    result, _ = _closest("", expected, got, other.channels, one.channels)
    return result.failure.removeprefix("network.: ")


def _differs(where: str, failure: str) -> OutputMismatchError:
    what = failure.removeprefix("network.") or "its outputs do not show it"
    return OutputMismatchError(
        f"the models differ on the example ({what}); {where}",
        "equal outputs",
        "the target has its old weights again",
    )
