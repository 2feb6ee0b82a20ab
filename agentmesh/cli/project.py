"""`init` and `check`: make a mesh, and read every file of one before anything runs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

import agentmesh
from agentmesh.cli.options import WRONG, Json, Mesh, WrongUsage, mesh_folder
from agentmesh.cli.output import note, print_json

if TYPE_CHECKING:
    from agentmesh.core.mesh import Mesh as Checked
    from agentmesh.core.preview import Firing

TEMPLATE = Path(__file__).parent / "template"
SCHEMAS = Path(agentmesh.__file__).parent / "schemas"
"""A JSON Schema for each kind of file, for editors; written by `agentmesh check --schemas`."""


def init(
    folder: Annotated[Path, typer.Argument(help="Where to make the mesh; made when it does not exist.")],
    as_json: Json = False,
) -> None:
    """Make a small mesh that works."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")
    name = name if name[:1].isalpha() else f"mesh-{name}".strip("-")
    files = {p.relative_to(TEMPLATE): p for p in sorted(TEMPLATE.rglob("*")) if p.is_file()}
    files |= {Path(".agentmesh", "schemas", p.name): p for p in sorted(SCHEMAS.glob("*.json"))}
    if there := [str(r) for r in files if (folder / r).exists()]:
        raise WrongUsage(f"{folder} has {', '.join(there)} already; `init` does not write over files")
    for relative, source in files.items():
        target = folder / relative
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text().replace("MESH_NAME", name[:63]))
        except OSError as e:
            raise WrongUsage(f"cannot write {target}: {(e.strerror or str(e)).lower()}") from e
    if as_json:
        print_json({"folder": str(folder), "files": [str(r) for r in files]})
        return
    for relative in files:
        if relative.parts[0] != ".agentmesh":
            print(folder / relative)
    note(f"now: cd {folder} && agentmesh run hello --input name=World")


def check(
    schemas: Annotated[
        Path | None, typer.Option("--schemas", metavar="FOLDER", help="Write the files' JSON Schemas there instead.")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the next 10 firings of every cron entry, and what clock changes do.")
    ] = False,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Check every file of this mesh; exit status 2 when one has a fault."""
    if schemas is not None:
        write_schemas(schemas)
        return
    from agentmesh.adapters.files import load_mesh
    from agentmesh.errors import ProjectError
    from agentmesh.settings import read_settings

    folder = mesh_folder(mesh)
    try:
        found = load_mesh(folder, read_settings(folder).secrets)
    except ProjectError as e:
        if as_json:
            fields = ("file", "line", "column", "message")
            print_json({"faults": [{name: getattr(f, name) for name in fields} for f in e.faults]})
        else:
            for fault in e.faults:
                print(fault)
            note(f"{len(e.faults)} fault{'s' if len(e.faults) != 1 else ''}")
        raise typer.Exit(WRONG) from None
    counts = {"servers": len(found.servers), "workflows": len(found.workflows), "policies": len(found.policies)}
    entries = _firings(found)
    if as_json:
        shown = [{**entry.head, "firings": [f.to_json() for f in entry.firings]} for entry in entries]
        print_json({"faults": [], "mesh": found.name} | counts | {"schedules": shown})
        return
    print(
        f"{found.name}: no faults in "
        + ", ".join(f"{n} {what if n != 1 else _one(what)}" for what, n in counts.items())
    )
    for entry in entries:
        for line in entry.lines(whole=preview):
            print(line)


@dataclass(frozen=True)
class _Entry:
    """A `cron` entry and when it fires next."""

    head: dict[str, Any]
    firings: list[Firing]

    def lines(self, *, whole: bool) -> list[str]:
        head = self.head
        name = f"{head['workflow']}: {head['schedule']} {head['timezone']}"
        late = f", each up to {head['jitter']} later" if head["jitter"] not in (0, "0") else ""
        if whole:
            firings = [f"  {f.local}{'  ' + f.note if f.note else ''}" for f in self.firings]
            return [f"{name}{late}", *firings]
        marked = next((f for f in self.firings[1:] if f.note), None)
        first = self.firings[0]
        text = f"{name}: next {first.local}{late}" + (f" ({first.note})" if first.note else "")
        return [text + (f"; {marked.local} {marked.note}" if marked is not None else "")]


def _firings(mesh: Checked) -> list[_Entry]:
    from agentmesh.core.preview import preview

    now = datetime.now(UTC)
    return [
        _Entry(
            {
                "workflow": workflow.name,
                "index": index,
                "schedule": entry.schedule,
                "timezone": entry.timezone,
                "jitter": entry.jitter,
            },
            preview(entry.schedule, ZoneInfo(entry.timezone), now),
        )
        for workflow in mesh.workflows.values()
        for index, entry in enumerate(workflow.on.cron)
    ]


def write_schemas(folder: Path) -> None:
    """A JSON Schema for each kind of project file, for editors."""
    from agentmesh.adapters.files import schemas

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, schema in schemas().items():
            name = "mesh" if kind == "agentmesh.yaml" else kind
            (folder / f"{name}.json").write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n")
            print(folder / f"{name}.json")
    except OSError as e:
        raise WrongUsage(f"cannot write {folder}: {(e.strerror or str(e)).lower()}") from e


def _one(what: str) -> str:
    return "policy" if what == "policies" else what.removesuffix("s")
