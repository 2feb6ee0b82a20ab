"""A mesh folder, a fake server for it, and the command line run on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest

from agentmesh.cli.main import main
from tests.cli.fake import Fake, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


class Agentmesh(Protocol):
    def __call__(self, *arguments: str) -> Done: ...


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    """A folder with the smallest agentmesh.yaml."""
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "agentmesh.yaml").write_text("name: m\n")
    return folder


@pytest.fixture
def server(mesh: Path) -> Iterator[Fake]:
    """A fake server for the mesh."""
    with serving(mesh) as fake:
        yield fake


@pytest.fixture
def agentmesh(capfd: pytest.CaptureFixture[str]) -> Agentmesh:
    """Runs the program with these arguments in this process."""

    def call(*arguments: str) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capfd.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else int(code is not None), said.out, said.err)

    return call
