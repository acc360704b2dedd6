"""The one tree of errors: every message says what was received, what was expected and what to do."""

from __future__ import annotations


class ParityError(Exception):
    """The root of every error that this project raises on purpose.

    Args:
        received: what was given, with its name: ``"reduction=0"``.
        expected: what would have been right; may be left out where `received` says it all.
        remedy: what the reader can do about it.
    """

    def __init__(self, received: str, expected: str = "", remedy: str = "") -> None:
        parts = [received, f"expected {expected}" if expected else "", remedy]
        super().__init__("; ".join(part for part in parts if part))

    def __str__(self) -> str:
        # KeyError would print the repr of its argument, quotes and escapes included.
        return str(self.args[0])


class SpecError(ParityError, ValueError):
    """An option or a specification that means nothing."""


class InputError(ParityError, ValueError):
    """A feature map, cotangent or mode that does not fit the block."""


class SpecMismatchError(ParityError, ValueError):
    """Weights of one function offered to a block that computes another."""


class MissingTensorError(ParityError, KeyError):
    """A block or a tensor that should be there and is not."""


class UnexpectedTensorError(ParityError, KeyError):
    """A block or a tensor that nobody asked for."""


class TensorShapeError(ParityError, ValueError):
    """A tensor of another shape or kind of number than the specification says."""


class OutputMismatchError(ParityError, ValueError):
    """Two models of equal weights whose outputs differ."""


class FormatError(ParityError, ValueError):
    """A file, or a text in it, that is not what its place says."""


class VersionError(FormatError):
    """An exchange file of a format version that this release does not know."""


class DialectError(ParityError, ValueError):
    """Foreign weights that fit no known dialect, or several."""


class BackendMissingError(ParityError, ValueError):
    """A backend that is unknown, or whose packages are not installed."""


class DeviceMissingError(ParityError, ValueError):
    """A device that the backend's framework does not see."""


class ModeMissingError(ParityError, ValueError):
    """A mode that the backend cannot run: anywhere, or with what is installed here."""


class BackendCrashedError(ParityError, RuntimeError):
    """A worker process that died, hung or failed; its standard error is in the message."""


class BackendDiedError(BackendCrashedError):
    """A worker process that is gone: killed, ended, hung or out of memory. The next request needs a new one."""
