"""Weights of whole networks between live models: attention blocks and the standard layers around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity import dialects
from parity.dialects import NetworkDialect
from parity.errors import DialectError
from parity.loading import write_all
from parity.network._blocks import find_blocks
from parity.network._checks import check, check_shared, orders, writes_into
from parity.network._names import Mapped, Names
from parity.network._pairs import pair_up, refuse_unknown
from parity.network._part import Side, apart, find_layouts
from parity.network._proof import as_inputs, prove
from parity.network._report import Pair, Report


def port(
    source_model: Any,
    target_model: Any,
    mapping: Mapped | None = None,
    example: Any = None,
    hints: Mapping[str, Any] | None = None,
    dialect: str | None = None,
) -> Report:
    """Write the weights of one live model into another that computes the same function.

    Ported are attention blocks, those of this project and of known dialects, and standard layers: convolutions of any
    rank, with groups, depthwise or transposed; dense; batch, layer and group norm; embedding; multi-head attention.
    They pair as `mapping` says; else by name ("." and "/" count as "_"); else by structure, where kind and shapes leave
    one choice, or where the order in which both models run `example` does. Everything is checked before anything is
    written, and where the example's outputs differ, the target gets its old values back.

    Args:
        source_model: a torch module, a Keras model or layer, a TF1 session, or (session, input tensor, output tensor).
        target_model: likewise.
        mapping: the target's name of a layer of the source, or of all layers under a prefix; None for a layer of either
            side that shall stay as it is.
        example: an input in the layout of the source, or a tuple of inputs: random numbers rather than zeros or ones,
            which show little. Both models then run in inference mode.
        hints: what neither the weights nor the modules of a foreign block tell, as `parity.read` takes it.
        dialect: the id of the whole network that one of the models is ("torchvision/ResNet"), where its class is not
            the one of that name but a copy of it; the other must be such a network of this project.

    Raises:
        MissingTensorError, UnexpectedTensorError: for layers without a partner, naming them all.
        SpecMismatchError: where two partners compute different functions, naming layers, fields and values.
        TensorShapeError: for partners of different shapes, or numbers that the target's dtype cannot hold.
        DialectError: for a foreign block that needs a hint.
        OutputMismatchError: where the outputs for the example differ, naming the first layer that does.
        InputError: for an example that proves nothing or does not fit, and for variables that cannot be written.

    Example:
        >>> import numpy, torch
        >>> a, b = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(3, 4, 1)
        >>> port(a, b, example=numpy.random.rand(1, 3, 2, 2)).pairs
        (Pair(source='', target='', kind='convolution', how='name'),)
    """
    source, target = Side("source", source_model), Side("target", target_model)
    names = Names({} if mapping is None else mapping, {*source.network.layers, *target.network.layers})
    find_blocks(source, target, names, hints or {}, _network(dialect))
    mine, yours = source.parts(), target.parts()
    mine, yours = apart(source, mine, yours), apart(target, yours, mine)
    ours, theirs = names.without_left(mine), names.without_left(yours)
    names.check(mine, yours)
    refuse_unknown(source, ours, target, theirs)
    inputs = None if example is None else as_inputs(example)
    if inputs is not None:
        find_layouts(source, target, inputs)
    pairs = pair_up(source, ours, target, theirs, names, inputs)
    unverified, differences = check(pairs)
    if inputs is None:  # an example would show it
        unverified |= orders(source, target, [one for one, _, _ in pairs], unverified)
    writes = [write for one, other, _ in pairs for write in writes_into(source, one, target, other)]
    check_shared(writes)
    found = Report(
        tuple(Pair(one.name, other.name, one.kind, how) for one, other, how in pairs),
        unverified,
        differences,
        tuple(names.left),
    )
    if inputs is not None:
        return prove(found, source, target, pairs, writes, inputs)
    write_all(target.adapter, target.session, writes)
    return found


def _network(dialect: str | None) -> NetworkDialect | None:
    found = None if dialect is None else dialects.get(dialect)
    if found is None or (isinstance(found, NetworkDialect) and not found.refused):
        return found
    known = [one.id for one in dialects.NETWORKS.values() if not one.refused]
    reason = f": {found.refused}" if found.refused else ""
    raise DialectError(f"received dialect={dialect!r}{reason}", f"that of a whole network: {' or '.join(known)}")


__all__ = ["Pair", "Report", "port"]
