"""Exchange files: a header of JSON, in whose metadata is JSON again, and tensors behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz import change
from fuzz._target import Target
from fuzz.targets import _safetensors
from parity import exchange
from parity.block import Block, Probe
from parity.spec import CBAMOptions, CoordinateAttentionOptions, ECAOptions, SqueezeExcitationOptions

SPECS = (
    *(SqueezeExcitationOptions(reduction=2, gate=gate).resolve(4, 1) for gate in ("hard_sigmoid", "identity")),
    CBAMOptions(reduction=2, kernel_size=3).resolve(4, 2),
    ECAOptions(kernel_size=3, bias=True).resolve(None, 2),
    ECAOptions(kernel_size=3).resolve(4, 3),
    *(CoordinateAttentionOptions(hidden_channels=2, norm=norm).resolve(3, rank) for norm, rank in ((None, 1), ({}, 3))),
)
WORDS: tuple[Any, ...] = (
    *("se", "cbam", "eca", "ca", "sigmoid", "hard_sigmoid", "identity", "relu", "silu", None, True, False, 1, 2, 3, 7),
    *(change.Pairs([["kind", "hard_sigmoid"], ["slope", slope]]) for slope in (0.2, -1, change.Raw("NaN"), "0.2")),
    *(change.Pairs([["epsilon", change.Raw(value)]]) for value in ("1e999", "0", "NaN", "[]", "1e-5")),
    *("version", "blocks", "probes", "source", "block", "channels", "spatial_dims", "norm", "gate", "conv.kernel"),
)


def seeds(folder: Path) -> Iterator[bytes]:
    """Every block, and kinds of numbers, gates, norms and ranks; several blocks, extras, probes."""
    path = folder / "a.safetensors"
    blocks = [_block(f"stage{number}/attn", spec, number) for number, spec in enumerate(SPECS)]
    for chosen in (*([block] for block in blocks), blocks, [_block("", SPECS[3], 0)]):
        exchange.write(path, chosen)
        yield path.read_bytes()


def _block(name: str, spec: Any, number: int) -> Block:
    dtype = _safetensors.FLOATS[number % len(_safetensors.FLOATS)]
    tensors = {key: np.ones(shape, dtype) for key, shape in spec.parameters().items()}
    extras = {"num_batches_tracked": np.array(7)} if number % 2 else {}
    x = np.ones((1, spec.channels or 4, *range(2, 2 + spec.spatial_dims)), dtype)
    return Block(name, spec, tensors, extras, Probe(x, x, "oracle") if number % 3 == 0 else None)


PLAIN = (
    "a",
    "",
    "a/b/c",
    "a.b",
    "\u00e9",
    "extras:",
    "probe:input",
    "__metadata__",
    "n" * 3000,
    "stage1/attn",
    "/",
    "..",
    " ",
)


def mutate(data: bytes, rng: Random) -> bytes:
    """A change of the file, with words that mean something in specs; or other names, in the header and in its JSON."""
    if rng.random() < 0.8:
        return _safetensors.mutate(data, rng, WORDS)
    header, body = _safetensors.parts(data)
    if header is None:
        return change.change_bytes(data, rng)
    text = change.dump_json(header).replace(
        rng.choice((b"stage", b"/attn", b"conv.", b"attn/")), rng.choice(PLAIN).encode()
    )
    return len(text).to_bytes(8, "little") + text + body


def read(path: str) -> None:
    """Read the blocks, and look at each array as its user would."""
    for block in exchange.read(path):
        for value in (*block.tensors.values(), *block.extras.values()):
            value.tobytes()
        block.spec.to_json()


TARGET = Target("exchange", ("parity.exchange", "parity.block", "parity.spec"), seeds, mutate, read)
