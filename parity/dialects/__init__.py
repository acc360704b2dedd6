"""The foreign implementations whose weights this project understands: one file a family, one table an implementation.

A new implementation is one `Dialect` in its family's file; a new family one file and one line here.
"""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase

from parity.dialects import (
    _networks,
    attention_module,
    attention_parity,
    bubbliiiing,
    cbam_pytorch,
    changzy00,
    coordattention,
    ecanet,
    efficientnet_pytorch,
    fightingcv,
    imgclsmob,
    keras_applications,
    keras_cv,
    keras_cv_attention_models,
    kobiso,
    mobilenetv3_pytorch,
    monai,
    nikhilroxtomar,
    openmmlab,
    others,
    paddleclas,
    pytorch_toolbelt,
    segmentation_models_pytorch,
    senet,
    timm,
    titu1994,
    torchvision,
    tutorials,
    vovnet,
)
from parity.dialects._networks import NetworkDialect
from parity.dialects._table import Dialect, from_canonical, to_canonical
from parity.errors import DialectError

# Where several fit and mean the same, the first gives its name.
FAMILIES = (
    tutorials,
    torchvision,
    timm,
    senet,
    attention_module,
    cbam_pytorch,
    coordattention,
    ecanet,
    fightingcv,
    bubbliiiing,
    changzy00,
    mobilenetv3_pytorch,
    nikhilroxtomar,
    monai,
    openmmlab,
    imgclsmob,
    paddleclas,
    efficientnet_pytorch,
    keras_applications,
    keras_cv_attention_models,
    keras_cv,
    kobiso,
    titu1994,
    vovnet,
    segmentation_models_pytorch,
    pytorch_toolbelt,
    attention_parity,
    others,
)

DIALECTS: dict[str, Dialect] = {dialect.id: dialect for family in FAMILIES for dialect in family.DIALECTS}

# Those of whole networks, which are read where they are named and never looked for.
NETWORKS: dict[str, NetworkDialect] = {dialect.id: dialect for dialect in _networks.DIALECTS}


def get(dialect: str | Dialect) -> Dialect:
    """The dialect of an id; raises `DialectError` for one that is unknown."""
    if isinstance(dialect, Dialect):
        return dialect
    known = DIALECTS | NETWORKS
    if not isinstance(dialect, str) or dialect not in known:
        near = get_close_matches(str(dialect), known, n=3)
        raise DialectError(
            f"received dialect={dialect!r}",
            f"one of the {len(known)} ids that `parity dialects` lists",
            f"did you mean {' or '.join(map(repr, near))}?" if near else "",
        )
    return known[dialect]


def find(pattern: str) -> list[Dialect]:
    """The dialects whose ids fit `pattern`, as of fnmatch."""
    return [dialect for name, dialect in (DIALECTS | NETWORKS).items() if fnmatchcase(name, pattern)]


__all__ = ["DIALECTS", "NETWORKS", "Dialect", "NetworkDialect", "find", "from_canonical", "get", "to_canonical"]
