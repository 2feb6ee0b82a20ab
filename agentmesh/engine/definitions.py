"""Definitions: what a run is pinned to, so that it ends though the files have changed or gone."""

from __future__ import annotations
from typing import Any
from agentmesh.core.mesh import Mesh
from agentmesh.core.model import ModelBackend
from agentmesh.core.store import Store


class Definitions:
    """Pins workflows and tools of the mesh, and loads what runs were pinned to."""

    def __init__(self, mesh: Mesh, backend: ModelBackend, store: Store) -> None:
        self._mesh = mesh
