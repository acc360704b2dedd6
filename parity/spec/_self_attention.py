"""Multi-head self-attention over the positions of a map: what the blocks that have it share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parity.errors import SpecError
from parity.spec import _check
from parity.spec.se import dense, matrix

# The projections, in the order in which implementations that pack them have the first three.
PARTS = ("query", "key", "value", "output")


def projections(path: str, channels: int, bias: bool) -> dict[str, tuple[int, ...]]:
    """The parameters of the four dense layers under the canonical `path`."""
    parts = [dense(f"{path}.{part}", channels, channels, bias) for part in PARTS]
    return {name: shape for part in parts for name, shape in part.items()}


def inert_projections(path: str, bias: bool) -> frozenset[str]:
    """Those of them that cannot move the output: the key's bias adds one number to all scores of a query."""
    return frozenset({f"{path}.key.bias"} if bias else ())


def check_heads(num_heads: object, channels: int) -> int:
    """`num_heads` if that many heads share `channels` evenly, else a `SpecError`."""
    heads = _check.integer("num_heads", num_heads)
    if channels % heads:
        divisors = ", ".join(str(number) for number in range(1, channels + 1) if channels % number == 0)
        raise SpecError(f"received num_heads={heads} for {channels} channels", f"a divisor of them: {divisors}")
    return heads


def width(path: str, shapes: Mapping[str, Sequence[int]]) -> int:
    """The channels of the attention at `path`; raises `SpecError` where its query is no square matrix."""
    outputs, channels = matrix(f"{path}.query.kernel", shapes)
    if outputs != channels:
        raise SpecError(f"received {path}.query.kernel of shape {(outputs, channels)}", "a square matrix (C, C)")
    return channels
