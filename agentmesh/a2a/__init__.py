"""The A2A edge.

The SDK imports gRPC and SQLAlchemy's ORM when it finds them, for a binding that may be off and stores that are not used here: 16 MB
of the server's memory and 0.2 s. They are hidden from it while it is imported, which it takes for "not installed". Only the thread
that imports it here is told so: whoever imports them elsewhere at that time gets them, as `agentmesh.a2a.grpc` does later.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Collection, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Absent:
    """A finder that says of some modules that they are not there, to the thread that made it."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._thread = threading.get_ident()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """ModuleNotFoundError for those; of all others it knows nothing."""
        if name in self._names and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is not imported here", name=name)
        return None


def _import_without(package: str, hidden: Collection[str]) -> None:
    """Imports a package as if the hidden modules were not installed; those imported already stay what they are."""
    absent = _Absent(hidden)
    sys.meta_path.insert(0, absent)
    try:
        importlib.import_module(package)
    finally:
        sys.meta_path.remove(absent)


_import_without("a2a.server.routes", ("grpc", "sqlalchemy.orm", "sqlalchemy.ext.asyncio"))
