"""What the oracle expects of replicas, and the replicas' results under the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from parity import oracle
from parity.cases import Case, Problem
from parity.distributed._replica import REPLICAS, parts
from parity.errors import SpecError
from parity.oracle import Measured
from parity.spec import is_statistic

# Of these, each replica has its part; of everything else, the whole.
SHARED_OUT = ("output", "grad.input")


def expected(case: Case, problem: Problem, per_replica: bool, broadcasts: bool) -> dict[str, Measured]:
    """The oracle's arrays by name, those of a replica with its number in it: "after.replica1.norm.mean".

    Args:
        case: what is trained.
        problem: its numbers.
        per_replica: whether a norm's batch is its replica's part alone.
        broadcasts: whether each step begins with the running statistics of the first replica.

    Raises:
        SpecError: where a comparison in a part of the batch is too close to call.
    """
    if not per_replica:
        return {
            copy: value
            for name, value in problem.expected.items()
            for copy in ([name] if name in SHARED_OUT else [named(name, number) for number in range(REPLICAS)])
        }
    found = _apart(case, problem, broadcasts)
    if min(value.margin for value in found.values()) <= case.precision.margin:
        raise SpecError(f"case {case.id}: a comparison in a part of its batch is too close to call")
    return found


def joined(replicas: Sequence[Mapping[str, NDArray]]) -> dict[str, NDArray]:
    """The results of the replicas as `expected` names them."""
    result = {name: np.concatenate([results[name] for results in replicas]) for name in SHARED_OUT}
    for number, results in enumerate(replicas):
        result |= {named(name, number): value for name, value in results.items() if name not in SHARED_OUT}
    return result


def named(name: str, number: int) -> str:
    """The name of a result on one replica."""
    kind, _, rest = name.partition(".")
    return f"{kind}.replica{number}.{rest}"


def _apart(case: Case, problem: Problem, broadcasts: bool) -> dict[str, Measured]:
    """Each replica its own batch; the gradients of both in each step."""
    found: dict[str, Measured] = {}
    assert problem.cotangent is not None  # only a recording may have none
    xs, cotangents = parts(problem.x), parts(problem.cotangent)
    weights = [dict(problem.block.tensors) for _ in range(REPLICAS)]
    for step in range(1, problem.steps + 1):
        seen = [
            oracle.evaluate(case.spec, own, x, cotangent=cotangent, training=True, data_format=case.data_format)
            for own, x, cotangent in zip(weights, xs, cotangents, strict=True)
        ]
        gradients = {
            name: reduce(add, (results[f"grad.{name}"] for results in seen))
            for name in case.spec.parameters()
            if not is_statistic(name)
        }
        if step == 1:
            found |= {name: _join([results[name] for results in seen]) for name in SHARED_OUT}
        for number, (own, results) in enumerate(zip(weights, seen, strict=True)):
            moved = {name: _given(own[name]) - slope * problem.learning_rate for name, slope in gradients.items()}
            after = {name.removeprefix("after."): value for name, value in results.items() if name.startswith("after.")}
            if step == 1:
                found |= {named(f"grad.{name}", number): value for name, value in gradients.items()}
                found |= {named(f"after.{name}", number): value for name, value in after.items()}
            found |= {named(f"step{step}.{name}", number): value for name, value in (moved | after).items()}
            own |= {name: value.value for name, value in (moved | after).items()}
        if broadcasts:
            for own in weights[1:]:
                own |= {name: value for name, value in weights[0].items() if is_statistic(name)}
    return found


def _given(value: NDArray) -> Measured:
    return Measured(np.asarray(value, np.float64), np.abs(np.asarray(value, np.float64)))


def _join(pieces: Sequence[Measured]) -> Measured:
    return Measured(
        np.concatenate([piece.value for piece in pieces]),
        np.concatenate([piece.magnitude for piece in pieces]),
        min(piece.margin for piece in pieces),
    )
