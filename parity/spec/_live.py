"""What an adapter tells of what it found in a live model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The kinds of standard layers that live in every framework. "unknown" is what holds variables and is none of them.
KINDS = (
    "convolution",
    "transposed convolution",
    "dense",
    "batch norm",
    "layer norm",
    "group norm",
    "embedding",
    "attention",
    "unknown",
)


@dataclass(frozen=True)
class LiveBlock:
    """A block inside a live model.

    Args:
        shown: the fields of its spec, in JSON form, that the model shows: all of them where it carries its spec, else
            those that the configuration of its layers tells.
        variables: the framework's variable of each canonical parameter.
        extras: the framework's variables without canonical meaning, by name (PyTorch's ``num_batches_tracked``).
        channels: "first" or "last" in its maps; empty where the model does not show it.
    """

    shown: Mapping[str, Any]
    variables: Mapping[str, Any]
    extras: Mapping[str, Any] = field(default_factory=dict)
    channels: str = ""


@dataclass(frozen=True)
class LiveLayer:
    """A standard layer inside a live model.

    Canonical parameters are those of blocks: kernels (out, in, *spatial), or (in, out, *spatial) where a convolution is
    transposed; ``embeddings`` (entries, features); ``query.kernel``, ``key.kernel``, ``value.kernel`` and
    ``output.kernel`` of an attention, with the heads one after the other.

    Args:
        kind: one of `KINDS`.
        shown: what its configuration tells, in JSON form and in words that all frameworks share.
        variables: the framework's variable of each canonical parameter; of an unknown layer by their own names.
        layouts: how a variable lies, where it does not lie as the canonical parameter does: a key of
            `parity.network._part.LAYOUTS`.
        extras: the framework's variables without canonical meaning, by name.
        channels: "first" or "last" in its output, where that is a feature map; else empty.
        origin: whose it is: ``"torch.nn.modules.conv.Conv2d"``.
    """

    kind: str
    shown: Mapping[str, Any]
    variables: Mapping[str, Any]
    layouts: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    channels: str = ""
    origin: str = ""


@dataclass(frozen=True)
class LiveNetwork:
    """All that holds variables inside a live model.

    Args:
        layers: by their path, in the order of definition; those inside of attention blocks too.
        state: every variable by the name that the framework itself gives it, as in its files.
        classes: ``"<project>/<class>"`` of what stands at a path, where the framework has such a thing.
        facts: what the parts of it show of a block's spec, by path: ``{"gate": "sigmoid"}``.
        functions: the name of each gate or activation that stands by itself, by path.
    """

    layers: Mapping[str, LiveLayer]
    state: Mapping[str, Any]
    classes: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    functions: Mapping[str, str] = field(default_factory=dict)
