"""What a user's mapping says of names."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from parity.errors import InputError, MissingTensorError
from parity.network._part import Part, listed

Mapped = Mapping[str, str | None]


class Names:
    """The wanted name in the target of each name in the source, as the user's mapping says."""

    def __init__(self, mapping: Mapped, known: Collection[str]) -> None:
        if not isinstance(mapping, Mapping) or not all(isinstance(name, str) for name in mapping):
            raise InputError(f"received mapping={mapping!r}", "a mapping of names to names, or to None")
        self.mapping, self.known = mapping, known
        self.left: list[str] = []

    def __call__(self, name: str) -> tuple[str, bool]:
        """The target's name, and whether the mapping says it."""
        key = self._key(name)
        wanted = self.mapping.get(key) if key is not None else None
        return (name, False) if key is None or wanted is None else (wanted + name[len(key) :], True)

    def back(self, name: str) -> str:
        """The source's name of a name in the target, with "." and "/" as the target has them."""
        for key, wanted in self.mapping.items():
            if wanted is not None and self._under(name, wanted):
                return key + name[len(wanted) :]
        return name

    def without_left(self, parts: Mapping[str, Part]) -> dict[str, Part]:
        """The parts that the mapping does not leave as they are."""
        is_left = {
            name: (key := self._key(name)) is not None and self.mapping[key] is None  # the longest key decides
            for name in parts
        }
        self.left += [name for name, left in is_left.items() if left and name not in self.left]
        return {name: part for name, part in parts.items() if not is_left[name]}

    def check(self, source: Mapping[str, Part], target: Mapping[str, Part]) -> None:
        """Raise `MissingTensorError` for keys that name nothing."""
        idle = [
            key
            for key, wanted in self.mapping.items()
            if not any(self._under(name, key) for name in (source if wanted is not None else [*source, *target]))
        ]
        if idle:
            raise MissingTensorError(
                f"received a mapping of {listed(map(repr, idle))}", f"of the layers {listed(map(repr, source))}"
            )

    def _under(self, name: str, prefix: str) -> bool:
        """Whether `prefix` is the name, or the start of its path; of conv_2, no layer conv is."""
        ends = (f"{prefix}.", f"{prefix}/") if prefix in self.known else (f"{prefix}.", f"{prefix}/", f"{prefix}_")
        return name == prefix or (bool(prefix) and name.startswith(ends))

    def _key(self, name: str) -> str | None:
        return max((key for key in self.mapping if self._under(name, key)), key=len, default=None)
