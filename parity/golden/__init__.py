"""Numbers recorded from real implementations, run as their authors wrote them; in float64, but for trained blocks.

`names` lists the recordings, `open` translates one into canonical names and layouts. Maps stay in the layout in which
they were recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity import detection, dialects, exchange
from parity.block import Block
from parity.errors import FormatError
from parity.files import recordings

FOLDER = Path(__file__).parent

# A real tf.compat.v1.train.Saver checkpoint, of the variables of the recording "tutorial-tf1-cbam".
CHECKPOINT = FOLDER / "tutorial-tf1-cbam.ckpt" / "model"

# The projects whose hard sigmoid in PyTorch is its own `Hardsigmoid`, whose backward pass is flawed: see `gradient`.
# Others write relu6(u + 3) / 6, which is right.
CALL_HARDSIGMOID = ("timm", "torchvision")


@dataclass(frozen=True, eq=False)
class Recording:
    """One block with its input and what the original made of it.

    Args:
        name: of the recording; with the block's name where a file holds several.
        block: the weights, and what they mean.
        x: the input, (N, C, *spatial) or (N, *spatial, C) as `data_format` says; the same holds for outputs.
        data_format: "channels_first" or "channels_last".
        cotangent: what the gradients were taken for; None where none were recorded.
        modes: for "eval", and "train" where the block has a norm: "output", "grad.input", "grad.<parameter>", and in
            training "after.<parameter or extra>", the running statistics that one pass leaves.
        flawed: whether its gradients went through PyTorch's `Hardsigmoid`.
    """

    name: str
    block: Block
    x: np.ndarray
    data_format: str
    cotangent: np.ndarray | None
    modes: Mapping[str, Mapping[str, np.ndarray]]
    flawed: bool = False


def names() -> list[str]:
    """The names of the files of recordings."""
    return sorted(file.stem for file in FOLDER.glob("*.safetensors"))


def path(name: str) -> Path:
    """The file of a recording, as `parity.read` takes it."""
    if name not in names():
        raise FormatError(f"received {name!r} as a recording", f"one of {', '.join(names())}")
    return FOLDER / f"{name}.safetensors"


def open(name: str) -> list[Recording]:
    """The recordings of a file: one, but for "real-ppocr-cls", which holds nine trained blocks."""
    file = path(name)
    tensors, metadata = exchange.read_tensors(file)
    contents = recordings.recording(str(file), tensors, metadata)
    found = detection.detect(contents.tensors, contents.dialect, contents.hints).found
    if metadata["format"] == recordings.GOLDEN_ONNX:
        return [_trained(name, one, tensors, metadata) for one in found]
    return [_recorded(name, one, tensors, metadata) for one in found]


def gradient(recording: Recording, name: str, mode: str = "eval") -> np.ndarray:
    """The recorded gradient "grad.<name>", with one flaw of some originals taken out.

    PyTorch's `Hardsigmoid` multiplies gradients by 1/6 rounded to float32, in float64 too: what went through the gate
    is too large by 3e-8. What goes past it, cotangent * gate, is right.
    """
    value = recording.modes[mode][f"grad.{name}"]
    if not recording.flawed:
        return value
    past = recording.cotangent * recording.modes[mode]["output"] / recording.x if name == "input" else 0.0
    return past + (value - past) * (1 / 6 / float(np.float32(1 / 6)))


def _trained(
    name: str, one: detection.Found, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> Recording:
    modes = {"eval": {"output": tensors[f"{one.name}/output"]}}
    x = tensors[f"{one.name}/input"]
    return Recording(f"{name}/{one.name}", one.block(), x, metadata["input_layout"], None, modes)


def _recorded(
    name: str, one: detection.Found, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> Recording:
    modes = {mode: _mode(mode, one, tensors) for mode in ("eval", "train") if f"{mode}/output" in tensors}
    block, project = one.block(), metadata["dialect"].partition("/")[0]
    torch, gate = metadata["framework"].startswith("torch "), block.spec.arguments().get("gate")
    flawed = torch and project in CALL_HARDSIGMOID and gate is not None and gate.kind == "hard_sigmoid"
    x, cotangent = tensors["input"], tensors["cotangent"]
    return Recording(name, block, x, metadata["input_layout"], cotangent, modes, flawed)


def _mode(mode: str, one: detection.Found, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    values = {"output": tensors[f"{mode}/output"], "grad.input": tensors[f"{mode}/grad/input"]}
    for kind in ("grad", "after"):
        recorded = {own: f"{mode}/{kind}/{key}" for own, key in one.keys.items()}
        state = {own: tensors[full] for own, full in recorded.items() if full in tensors}
        for part in dialects.to_canonical(one.dialect, state):
            values |= {f"{kind}.{canonical}": value for canonical, value in part.items()}
    return values
