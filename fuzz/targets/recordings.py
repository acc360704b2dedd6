"""safetensors files of any meaning: plain weights, and recordings, whose metadata name a dialect and hints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import ml_dtypes
import numpy as np

from fuzz import change
from fuzz._target import Target, opened_by
from fuzz.targets import _safetensors
from parity import golden
from parity.block import Block
from parity.files.recordings import GOLDEN, GOLDEN_ONNX
from parity.spec import ECAOptions

BLOCK = Block("block00", ECAOptions(kernel_size=3).resolve(None), {"conv.kernel": np.ones((1, 1, 3))})
WORDS = (
    *("format", "dialect", "hints", "input_layout", "source", "blocks", "name", "gate", "alpha", "beta", "HardSigmoid"),
    *(GOLDEN, GOLDEN_ONNX, "channels_last", "channels_first", "Sigmoid", "attention-parity", "block00"),
    *("timm/EcaModule", "torchvision/SqueezeExcitation", "input", "state/a", "eval/output", "block00/input"),
)

OPEN = opened_by("recordings")


def seeds(folder: Path) -> Iterator[bytes]:
    """Small recordings of each format, and tensors of every kind without a meaning."""
    x = np.ones((1, 2, 3, 3))
    tensors: dict[str, np.ndarray] = {"input": x, "eval/output": x, "state/conv.weight": np.ones((1, 1, 3), np.float32)}
    metadata = {"format": GOLDEN, "dialect": "timm/EcaModule", "source": "a", "input_layout": "channels_last"}
    yield _safetensors.bytes_of(tensors, metadata | {"hints": '{"gate": "hard_sigmoid", "spatial_dims": 2}'})
    yield _safetensors.bytes_of(tensors, metadata | {"input_layout": "channels_first"})
    blocks = '[{"name": "block00", "gate": "HardSigmoid", "alpha": 0.2, "beta": 0.5}, {"name": "b", "gate": "Sigmoid"}]'
    tensors = {"block00/fc1.weight": np.ones((2, 4)), "block00/input": x, "block00/output": x, "b/fc1.weight": x}
    yield _safetensors.bytes_of(
        tensors, {"format": GOLDEN_ONNX, "blocks": blocks, "source": "a", "input_layout": "nchw"}
    )
    kinds = [np.int64, np.uint16, np.int8, np.bool_, np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
    plain = {f"layer.{np.dtype(kind).name}": np.ones((2, 3), kind) for kind in kinds}
    yield _safetensors.bytes_of(plain | {"empty": np.ones((0, 3)), "point": np.ones(())}, {"format": "pt"})
    yield _safetensors.bytes_of({}, {})
    for name in golden.names():
        if golden.path(name).stat().st_size < 1 << 14:
            yield golden.path(name).read_bytes()


def mutate(data: bytes, rng: Random) -> bytes:
    """A change of the file, with words that mean something in recordings."""
    return _safetensors.mutate(data, rng, (*WORDS, *change.RAW[:4]))


def read(path: str) -> None:
    """Open the file, and ask it for the proof of a block."""
    contents = OPEN(path)
    if contents.prove is not None:
        contents.prove([BLOCK])


TARGET = Target("recordings", ("parity.files.recordings", "parity.exchange"), seeds, mutate, read)
