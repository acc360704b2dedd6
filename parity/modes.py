"""The ways to run a block: as its framework runs it by itself, compiled, exported, saved and reloaded.

A backend's adapter runs the modes that its framework has. `MODES` says which those are, and `LIMITS` what of them
cannot be and why, with a fragment of the error that an attempt ends with, so that `parity modes --check` finds out when
the table is out of date.

    >>> has("torch", "onnx")
    True
    >>> print(impossible("torch", "onnx", block="cbam", dtype="float64"))
    onnxruntime has no float64 convolution
    >>> print(impossible("keras-layers@jax", "tflite"))
    Keras exports LiteRT on TensorFlow and PyTorch alone
    >>> print(impossible("torch", "xla"))
    a mode of TensorFlow alone
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from parity.spec import SPECS, Spec

# How a backend runs a block when nothing else is asked for: eager PyTorch and TensorFlow, compiled JAX, a TF1 session.
PLAIN = "plain"


@dataclass(frozen=True)
class Mode:
    """One way to run a block.

    Args:
        id: what users and reports call it, and the end of the ids of its cases.
        words: what it is.
        backends: patterns of the ids of the backends that can be asked for it.
        of: whose it is, for the others.
        inference_only: why it has neither gradients nor training; empty where it has both.
    """

    id: str
    words: str
    backends: tuple[str, ...]
    of: str = ""
    inference_only: str = ""


TORCH, KERAS_TORCH = "torch", "keras-*@torch"
KERAS_TENSORFLOW, KERAS_JAX, TF1 = "keras-*@tensorflow", "keras-*@jax", "tf1compat"

# A new mode is one entry here, and one function in the module `_modes` of each package that has it. Keras models and
# TF1 graphs are made for unknown batch and spatial sizes in every mode but "plain"; what PyTorch exports is traced with
# a map of other sizes than those that it meets when it runs.
MODES: dict[str, Mode] = {
    mode.id: mode
    for mode in (
        Mode(PLAIN, "as the framework runs it by itself: eagerly, on JAX under jax.jit, in TF1 in a session", ("*",)),
        Mode("compile", "torch.compile, by Inductor", (TORCH, KERAS_TORCH), "PyTorch"),
        Mode(
            "export",
            "torch.export, saved and loaded; its gradients and its training, too",
            (TORCH, KERAS_TORCH),
            "PyTorch",
        ),
        Mode(
            "onnx",
            "exported to ONNX, run by onnxruntime",
            (TORCH, "keras-*"),
            of="PyTorch and Keras",
            inference_only="an ONNX file is exported for inference",
        ),
        Mode(
            "function",
            "tf.function; for TF1 tf.compat.v1.wrap_function",
            (KERAS_TENSORFLOW, TF1),
            of="TensorFlow",
        ),
        Mode("xla", "tf.function(jit_compile=True), gradients and all", (KERAS_TENSORFLOW, TF1), "TensorFlow"),
        Mode("jit", "Keras' stateless_call with its gradients under one jax.jit", (KERAS_JAX,), "JAX"),
        Mode(
            "savedmodel",
            "a SavedModel, reloaded without the code that wrote it, gradients and training included",
            ("keras-*", TF1),
            of="TensorFlow and Keras",
        ),
        Mode("keras-file", "a .keras file, reloaded in safe mode", ("keras-*",), "Keras"),
        Mode(
            "tflite",
            "converted to LiteRT (TFLite), run by its interpreter",
            ("keras-*", TF1),
            of="TensorFlow and Keras",
            inference_only="a LiteRT file is exported for inference",
        ),
    )
}


@dataclass(frozen=True)
class Limit:
    """What cannot be, of a mode that its backends can be asked for.

    Args:
        mode: its id, or a pattern.
        backends: a pattern of their ids.
        reason: why not, for people.
        symptom: a fragment of what an attempt ends with: an error, or results that do not agree.
        blocks, dtypes: of which blocks and dtypes alone; none for all.
    """

    mode: str
    backends: str
    reason: str
    symptom: str
    blocks: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()

    def covers(self, backend: str, mode: str, block: str | None, dtype: str | None) -> bool:
        """Whether this cell is one of those; what is None stands for all of its kind."""
        return (
            (fnmatchcase(mode, self.mode) and fnmatchcase(backend, self.backends))
            and (not self.blocks or block in self.blocks)
            and (not self.dtypes or dtype in self.dtypes)
        )

    @property
    def scope(self) -> str:
        """What of the mode it is about: "float64 cbam, eca", or nothing for all."""
        return " ".join(filter(None, (", ".join(self.dtypes), ", ".join(self.blocks))))


def _has_convolution(spec: type[Spec]) -> bool:
    """Whether a kernel of the block has axes for positions."""
    shapes = spec.options_class().resolve(channels=24).parameters().values()
    return any(len(shape) > 2 for shape in shapes)


CONVOLVED = tuple(block for block, spec in SPECS.items() if _has_convolution(spec))
OTHERS = tuple(block for block in SPECS if block not in CONVOLVED)

LIMITS: tuple[Limit, ...] = (
    Limit(
        "*",
        TF1,
        "raw TensorFlow mixes dtypes by a rewriter of whole graphs alone, for GPUs",
        "received dtype 'mixed_",
        dtypes=("mixed_float16", "mixed_bfloat16"),
    ),
    *(
        Limit(
            "onnx",
            backends,
            "onnxruntime has no float64 convolution",
            "Could not find an implementation for Conv",
            blocks=CONVOLVED,
            dtypes=("float64",),
        )
        for backends in (TORCH, KERAS_TORCH)
    ),
    *(
        Limit(
            "onnx",
            backends,
            "onnxruntime computes nothing in bfloat16 on the CPU",
            symptom,
            blocks=blocks,
            dtypes=("bfloat16", "mixed_bfloat16"),
        )
        for backends in (TORCH, KERAS_TORCH)
        for symptom, blocks in (
            ("Could not find an implementation for", OTHERS),
            ("Type 'tensor(bfloat16)' of input parameter", CONVOLVED),
        )
    ),
    Limit(
        "onnx",
        "keras-functional@torch",
        "Keras' take squeezes an axis that is longer than one, which PyTorch allows and onnxruntime does not",
        "while running Squeeze node",
        blocks=("ca",),
        dtypes=("float64", "float32", "float16", "mixed_float16"),
    ),
    Limit(
        "onnx",
        KERAS_TENSORFLOW,
        "Keras on TensorFlow exports ONNX by tf2onnx, which this project does not require",
        "This requires the tf2onnx module",
    ),
    Limit(
        "onnx",
        KERAS_JAX,
        "Keras on JAX exports ONNX by jax2onnx, which this project does not require",
        "This requires the jax2onnx module",
    ),
    Limit(
        "savedmodel",
        KERAS_TORCH,
        "Keras on PyTorch writes SavedModels by torch_xla, which this project does not require",
        "This requires the torch_xla module",
    ),
    Limit(
        "tflite",
        KERAS_TORCH,
        "Keras on PyTorch exports LiteRT by litert-torch, which this project does not require",
        "you must install the `litert-torch` package",
    ),
    Limit(
        "tflite",
        KERAS_JAX,
        "Keras exports LiteRT on TensorFlow and PyTorch alone",
        "LiteRT export requires TensorFlow or PyTorch backend",
    ),
    Limit(
        "tflite",
        KERAS_TENSORFLOW,
        "LiteRT computes in float32 alone",
        "Select TensorFlow op(s), included in the given model, is(are) not supported",
        dtypes=("float64", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16"),
    ),
    Limit(
        "tflite",
        TF1,
        "LiteRT computes in float32 alone",
        "op is neither a custom op nor a flex op",
        dtypes=("float64", "bfloat16", "float16"),
    ),
)


def has(backend: str, mode: str) -> bool:
    """Whether `backend` can be asked for `mode` at all."""
    return any(fnmatchcase(backend, pattern) for pattern in MODES[mode].backends)


def limits(backend: str, mode: str) -> list[Limit]:
    """What of `mode` cannot be on `backend`."""
    return [limit for limit in LIMITS if fnmatchcase(mode, limit.mode) and fnmatchcase(backend, limit.backends)]


def impossible(
    backend: str, mode: str, *, block: str | None = None, dtype: str | None = None, training: bool | None = None
) -> str:
    """Why this cell of the matrix cannot be; empty if it can. Without block, dtype or training: whether any can."""
    known = MODES[mode]
    if not has(backend, mode):
        return f"a mode of {known.of} alone"
    if training and known.inference_only:
        return known.inference_only
    return next((limit.reason for limit in LIMITS if limit.covers(backend, mode, block, dtype)), "")


def table(backends: Any) -> list[dict[str, Any]]:
    """Every backend with every mode: whether it runs, and all that cannot be, with reasons; ready for JSON."""
    return [
        {
            "backend": backend,
            "mode": mode.id,
            "possible": not impossible(backend, mode.id),
            "reason": impossible(backend, mode.id),
            "inference_only": mode.inference_only,
            "limits": [
                {"of": limit.scope, "reason": limit.reason} for limit in limits(backend, mode.id) if limit.scope
            ],
        }
        for backend in backends
        for mode in MODES.values()
    ]
