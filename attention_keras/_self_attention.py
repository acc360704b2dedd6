"""Multi-head self-attention over the positions of a map, as both styles compute it."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from attention_keras._block import softmax

AXES = "xyz"  # of the positions that ask


def attend(q: Any, k: Any, v: Any) -> Any:
    """softmax(q k^T / sqrt(D)) v of each head: q (N, S1..Sd, H, D), k and v (N, T, H, D), the result as q."""
    # The map of those that ask keeps its axes: where their sizes are unknown, a functional graph has no way back.
    s = AXES[: len(q.shape) - 3]
    scores = ops.einsum(f"n{s}hd,nthd->nh{s}t", q / math.sqrt(q.shape[-1]), k)
    a = ops.cast(softmax(scores, -1), v.dtype)
    return ops.einsum(f"nh{s}t,nthd->n{s}hd", a, v)


def split(z: Any, num_heads: int) -> Any:
    """(N, S1..Sd, C) to (N, S1..Sd, H, D): the first D channels are those of the first head."""
    return ops.stack(ops.split(z, num_heads, axis=-1), axis=-2)


def merge(z: Any) -> Any:
    """The inverse of `split`."""
    return ops.concatenate(ops.unstack(z, axis=-2), axis=-1)
