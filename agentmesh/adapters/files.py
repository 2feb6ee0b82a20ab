"""Files: the mesh folder on disk, read, checked, and assembled.

`load_mesh` reads agentmesh.yaml, servers/, workflows/ and policies/, and raises one ProjectError with every fault of
every file. It blocks (YAML is slow): call it in a thread.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import BaseModel

import agentmesh
from agentmesh.adapters.file_schemas import schemas
from agentmesh.adapters.mesh_files import refusal
from agentmesh.adapters.yaml_document import MAX_BYTES, read_yaml
from agentmesh.core.check import Function, Project, check
from agentmesh.core.inference import closest
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.policy import PolicyFile
from agentmesh.core.secret import fill_secrets
from agentmesh.core.server_file import ServerFile
from agentmesh.core.shape import Source, read_shape
from agentmesh.core.workflow import Workflow
from agentmesh.errors import Fault, ProjectError
from agentmesh.settings import Secrets

__all__ = ["MESH_FILE", "find_function", "find_path", "find_weights", "load_mesh", "schemas"]

MESH_FILE = "agentmesh.yaml"
MAX_FILES = 1000
"""Files of one kind."""

T = TypeVar("T", bound=BaseModel)


def load_mesh(folder: Path, secrets: Secrets) -> Mesh:
    """The mesh in a folder. ProjectError carries every fault there is, sorted by file and line."""
    reader = _Reader(folder)
    file = reader.one(MESH_FILE, MeshFile)
    servers = list(reader.all("servers", ServerFile))
    workflows = list(reader.all("workflows", Workflow))
    policies = [_named(p) for p in reader.all("policies", PolicyFile)]
    mesh_file = file.value if file is not None else MeshFile(name="mesh")
    mesh = assemble(
        folder, mesh_file, (s.value for s in servers), (w.value for w in workflows), (p.value for p in policies)
    )
    faults = reader.faults + check(
        Project(file, servers, workflows, policies, frozenset(reader.unreadable)),
        mesh,
        find_function=find_function,
        find_weights=lambda source: find_weights(source, folder),
        find_path=lambda path, kind: find_path(path, kind, folder),
        secrets=frozenset(secrets.values),
    )
    if faults:
        raise ProjectError(sorted(dict.fromkeys(faults), key=lambda f: (f.file != MESH_FILE, f.file, f.line, f.column)))
    filled = {
        name: model.model_copy(update={"key": fill_secrets(model.key, secrets.values)}) if model.key else model
        for name, model in mesh_file.models.items()
    }
    databases = {name: fill_secrets(url, secrets.values) for name, url in mesh_file.databases.items()}
    agents = {name: _filled(peer, secrets.values, "token") for name, peer in mesh_file.agents.items()}
    return assemble(
        folder,
        mesh_file.model_copy(update={"models": filled, "databases": databases, "agents": agents}),
        [_filled_server(server, secrets.values) for server in mesh.servers.values()],
        mesh.workflows.values(),
        mesh.policies,
    )


def _filled_server(server: ServerFile, secrets: Mapping[str, str]) -> ServerFile:
    """A server file with the secrets of what others serve in place; those of its own tools are filled in when they are sent."""
    update: dict[str, BaseModel] = {}
    if server.upstream is not None:
        oauth = server.upstream.oauth
        filled = None if oauth is None else _filled(oauth, secrets, "client_key")
        update["upstream"] = _filled(server.upstream, secrets, "token", "headers", "env").model_copy(
            update={"oauth": filled}
        )
    if server.openapi is not None:
        update["openapi"] = _filled(server.openapi, secrets, "token", "headers")
    return server.model_copy(update=update) if update else server


def _filled(part: T, secrets: Mapping[str, str], *names: str) -> T:
    """A part of a file with the secrets in these fields in place: a text, or texts by name."""
    update: dict[str, object] = {}
    for name in names:
        value = getattr(part, name)
        if isinstance(value, str):
            update[name] = fill_secrets(value, secrets)
        elif isinstance(value, dict):
            update[name] = {key: fill_secrets(text, secrets) for key, text in value.items()}
    return part.model_copy(update=update)


class _Reader:
    """Reads files to typed values, keeping the faults."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[Fault] = []
        self.unreadable: set[str] = set()

    def one(self, name: str, model: type[T]) -> Source[T] | None:
        path = self.folder / name
        source: Source[T] | None = None
        if not path.is_file():
            self.faults.append(Fault(name, 0, 0, f"there is no {name} in {self.folder}; `agentmesh init` makes a mesh"))
        else:
            source = self._read(path, name, model)
        if source is None:
            self.unreadable.add("mesh")
        return source

    def all(self, kind: str, model: type[T]) -> Iterator[Source[T]]:
        folder = self.folder / kind
        if not folder.is_dir():
            return
        paths = sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and not _set_aside(p.name))
        if len(paths) > MAX_FILES:
            self.faults.append(Fault(kind, 0, 0, f"the folder has {len(paths)} files, more than {MAX_FILES}"))
        for path in paths[:MAX_FILES]:
            source = self._read(path, f"{kind}/{path.name}", model)
            if source is None:
                self.unreadable.add(kind)
            else:
                yield source

    def _read(self, path: Path, name: str, model: type[T]) -> Source[T] | None:
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                # Opening a pipe waits for its writer, for ever where there is none.
                self.faults.append(Fault(name, 0, 0, "cannot be read: it is not a regular file"))
                return None
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                self.faults.append(
                    Fault(name, 0, 0, f"the file has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
                )
                return None
            source, faults = read_shape(read_yaml(data, name), model, _fitting_name(path.stem))
        except OSError as error:
            self.faults.append(Fault(name, 0, 0, f"cannot be read: {(error.strerror or str(error)).lower()}"))
            return None
        except ProjectError as error:
            self.faults += error.faults
            return None
        self.faults += faults
        return source


def _set_aside(name: str) -> bool:
    """Hidden files, and the golden cases that stand beside a workflow: `agentmesh test` reads those."""
    return name.startswith(".") or name.endswith((".cases.yaml", ".cases.yml"))


def _named(policy: Source[PolicyFile]) -> Source[PolicyFile]:
    """A policy is known by its file, unless it says otherwise."""
    if policy.value.name:
        return policy
    return Source(policy.document, policy.value.model_copy(update={"name": policy.document.file}), policy.removed)


def _fitting_name(stem: str) -> str:
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in stem.lower()).strip("-_")[:63]
    return name if name[:1].isalpha() else f"x-{name}"[:63].rstrip("-")


# What names outside the files mean


def find_function(name: str) -> Function | str:
    """What can be told of `package.module:function` without running its module; a string says what is wrong."""
    module_name, colon, attribute = name.partition(":")
    parts = [*module_name.split("."), *attribute.split(".")] if colon else []
    if not parts or not all(p.isidentifier() for p in parts):
        return f"{name!r} does not name a function; write package.module:function"
    found = _definitions(module_name)
    if isinstance(found, str):
        return f"{found}; is the package installed in this environment?"
    definitions, certain = found
    first = attribute.split(".")[0]
    if first not in definitions:
        if not certain:
            return Function()
        return f"module {module_name!r} has no {first!r}{closest(first, definitions)}"
    return definitions[first] if first == attribute else Function()


def _definitions(module_name: str) -> tuple[Mapping[str, Function], bool] | str:
    """Names that a module defines, and whether there can be no others; a string when it cannot be found."""
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError, AttributeError) as error:
        return f"cannot find the module {module_name!r} ({error})"
    if spec is None:
        return f"there is no module {module_name!r}"
    if not spec.origin or not spec.origin.endswith(".py"):
        return {}, False
    try:
        return _defined_in(spec.origin)
    except (OSError, SyntaxError, ValueError) as error:
        return f"the module {module_name!r} cannot be read ({error})"


@lru_cache(maxsize=256)
def _defined_in(path: str) -> tuple[Mapping[str, Function], bool]:
    """Kept for the life of the process, as imported modules are: a module that was not there is looked for each time."""
    tree = ast.parse(Path(path).read_bytes())
    found: dict[str, Function] = {}
    certain = True
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                certain = certain and alias.name != "*"
                found.setdefault(alias.asname or alias.name.split(".")[0], Function())
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, Function())
    for top in tree.body:
        if isinstance(top, ast.FunctionDef | ast.AsyncFunctionDef):
            found[top.name] = Function() if top.decorator_list else _signature(top.args)
        elif isinstance(top, ast.ClassDef):
            found[top.name] = Function()
    return found, certain and "__getattr__" not in found


def _signature(arguments: ast.arguments) -> Function:
    positional = [a.arg for a in [*arguments.posonlyargs, *arguments.args]]
    without_default = positional[: len(positional) - len(arguments.defaults)]
    without_default += [a.arg for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is None]
    names = positional + [a.arg for a in arguments.kwonlyargs]
    if names[:1] == ["ctx"]:
        names = names[1:]
        without_default = [n for n in without_default if n != "ctx"]
    return Function(None if arguments.kwarg else tuple(names), tuple(without_default))


def find_path(path: str, kind: str, folder: Path) -> str | None:
    """What is wrong with a path that must be a `file` or a `folder` under the mesh's; None when nothing is."""
    if path in (".", "./") and kind == "folder":
        return None
    if reason := refusal(path.rstrip("/")):
        return f"{path!r} {reason}"
    whole = folder / path
    there = whole.is_dir() if kind == "folder" else whole.is_file()
    if not there:
        names = [other.name for other in whole.parent.iterdir()] if whole.parent.is_dir() else []
        return f"the {kind} {path} is missing{closest(whole.name, names)}"
    at = folder
    for name in PurePosixPath(path).parts:
        at = at / name
        if at.is_symlink():
            return f"{path!r} goes by a link ({name}), which is not followed"
    return None


def find_weights(source: str, folder: Path) -> str | None:
    """What is wrong with a model's `source` (no such builtin, no such folder); None when nothing is."""
    if source.startswith("builtin:"):
        builtin = Path(agentmesh.__file__).parent / "builtin"
        name = source.removeprefix("builtin:")
        if name.isidentifier() and (builtin / name).is_dir():
            return None
        known = sorted(p.name for p in builtin.iterdir() if p.is_dir() and not p.name.startswith(("_", ".")))
        return f"there is no builtin model {name!r}{closest(name, known) or '; there is ' + ', '.join(known)}"
    if not source.startswith((".", "/", "~")):
        return None
    weights = folder / Path(source).expanduser()
    if not weights.is_dir():
        return f"the folder {source} is missing"
    if not (weights / "config.json").is_file():
        return f"the folder {source} holds no model: config.json is missing"
    return None
