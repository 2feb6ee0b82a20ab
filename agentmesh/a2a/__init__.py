"""The A2A edge.

The SDK imports gRPC and SQLAlchemy's ORM when it finds them, for a binding and stores that are not used here: 16 MB of the
server's memory and 0.2 s. They are hidden from it while it is imported, which it takes for "not installed". A gRPC binding
will have to take `grpc` off the list.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable


def _import_without(package: str, hidden: Iterable[str]) -> None:
    """Imports a package as if the hidden modules were not installed; those imported already stay what they are."""
    absent = [name for name in hidden if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        importlib.import_module(package)
    finally:
        for name in absent:
            if sys.modules.get(name) is None:
                del sys.modules[name]


_import_without("a2a.server.routes", ("grpc", "sqlalchemy.orm", "sqlalchemy.ext.asyncio"))
