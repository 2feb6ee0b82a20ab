"""What keeps a process from serving other files than it began with, beside faults in them."""

from __future__ import annotations

from pathlib import Path, PurePath

from agentmesh.app import _trouble
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.settings import Secrets, Settings
from tests.engine.meshes import workflow

HOOK = {"webhook": {"path": "p", "token": "${{ secrets.HOOK }}"}}


def of(*flows: object) -> Mesh:
    return assemble(PurePath("mesh"), MeshFile(name="a"), (), flows)  # type: ignore[arg-type]


def test_a_webhook_whose_secret_is_empty_is_not_served() -> None:
    """Everybody could start its workflow."""
    hooked = of(workflow("hooked", {"id": "a", "set": 1}, on=HOOK))
    for secret, wrong in (("k", False), ("", True)):
        settings = Settings(Path("mesh"), secrets=Secrets({"HOOK": secret}))
        assert bool(_trouble(hooked, settings, on_ray=False)) is wrong


def test_a_step_on_ray_wants_a_process_that_has_it() -> None:
    """Where models are not deployed it fails at its step as ever."""
    on_ray = of(workflow("far", {"id": "a", "python": "os:getpgid", "with": {"pid": 1}, "on": "ray"}))
    settings = Settings(Path("mesh"))
    assert "on: ray" in _trouble(on_ray, settings, on_ray=False)[0]
    assert _trouble(on_ray, settings, on_ray=True) == []
    assert _trouble(on_ray, Settings(Path("mesh"), models=False), on_ray=False) == []
