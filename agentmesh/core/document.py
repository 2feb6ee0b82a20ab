"""Document: one project file as JSON values, knowing where each of them stands in the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentmesh.errors import Fault

Path = tuple[str | int, ...]
"""Keys and indexes from the top of a document."""

LONGEST_SHOWN = 200
"""Characters of a source line that is still shown under a fault."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: offsets into the text, and how a string was written."""

    start: int
    end: int
    style: str = ""
    """"" plain, ' or " quoted, | or > a block; meaningless for what is not a string."""
    key: int | None = None
    """Offset of the key that names it."""


@dataclass(frozen=True, slots=True)
class Document:
    """`file` is the name people know it by, relative to the mesh folder."""

    file: str
    text: str
    value: Any
    places: Mapping[Path, Place] = field(default_factory=dict, repr=False)

    def fault(self, path: Path, message: str, *, offset: int | None = None, key: bool = False) -> Fault:
        """A fault at a value, at its key, or at a character of a string (`offset` into the string's value).

        A path that is not in the file means the nearest value around it.
        """
        while path and path not in self.places:
            path = path[:-1]
        place = self.places.get(path)
        if place is None:
            return Fault(self.file, 0, 0, message)
        at = place.start
        if key and place.key is not None:
            at = place.key
        elif offset is not None:
            at = self._inside(place, path, offset)
        return self.fault_at(at, message)

    def fault_at(self, at: int, message: str) -> Fault:
        """A fault at an offset into the text."""
        at = min(at, len(self.text))
        begin = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        source = self.text[begin : end if end >= 0 else len(self.text)].rstrip("\r")
        line = self.text.count("\n", 0, begin) + 1
        shown = source.replace("\t", " ") if len(source) <= LONGEST_SHOWN else ""
        return Fault(self.file, line, at - begin + 1, message, shown)

    def get(self, path: Path) -> Any:
        """The value at a path; None when there is none."""
        value = self.value
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def _inside(self, place: Place, path: Path, offset: int) -> int:
        """Offset into the text of a character of a string's value: quotes, escapes and folded lines are walked past."""
        value = self.get(path)
        if not isinstance(value, str):
            return place.start
        at = place.start
        if place.style in ("|", ">"):
            at = self.text.find("\n", at) + 1
        elif place.style:
            at += 1
        for i, char in enumerate(value):
            while at < place.end:
                raw = self.text[at]
                if raw == "\\" and place.style == '"':
                    width = {"x": 4, "u": 6, "U": 10}.get(self.text[at + 1], 2)
                    if self.text[at + 1] in "\r\n":
                        at += width
                        continue
                    break
                if raw == char or (char.isspace() and raw.isspace()) or not raw.isspace():
                    width = 2 if raw == "'" and place.style == "'" else 1
                    break
                at += 1
            else:
                return place.start
            if i == offset:
                return at
            at += width
        return min(at, place.end)


def strings(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every string in a JSON value, with its path; keys are not among them."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from strings(inner, (*path, key))
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from strings(inner, (*path, i))
