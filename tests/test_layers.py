"""The direction of imports, and the one address of each third-party package. Each message says why."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
EVERYTHING = {
    "errors", "settings", "telemetry", "core", "engine", "mcp", "a2a", "http", "adapters", "builtin", "app", "cli",
}  # fmt: skip

MAY_IMPORT: dict[str, tuple[set[str], str]] = {
    "errors": (set(), "everybody imports the errors, so they can import nobody"),
    "settings": ({"errors"}, "settings are plain values that any layer may be handed"),
    "telemetry": ({"errors", "settings"}, "logging is set up before anything else exists"),
    "core": ({"errors"}, "nouns know no I/O and no verbs; then a tool, an agent and a workflow cannot form a ring"),
    "engine": (
        {"core", "errors"},
        "verbs see adapters through core's Protocols only, so that any of them can be replaced",
    ),
    "mcp": (
        {"engine", "core", "errors", "settings"},
        "an edge speaks one protocol and leaves the deciding to the engine",
    ),
    "a2a": (
        {"engine", "core", "errors", "settings"},
        "an edge speaks one protocol and leaves the deciding to the engine",
    ),
    "http": (
        {"engine", "core", "errors", "settings"},
        "an edge speaks one protocol and leaves the deciding to the engine",
    ),
    "adapters": ({"core", "errors", "settings"}, "an adapter does I/O when asked; it never decides what happens next"),
    "builtin": ({"core", "errors"}, "what the shipped mesh calls is user code: it sees what a user's function may see"),
    "app": (EVERYTHING, ""),
    "cli": (EVERYTHING, ""),
    "__main__": ({"cli"}, "it is the command line by another name"),
    "": (set(), "importing agentmesh must cost nothing"),
}
"""Layer -> what it may import of ours besides itself, and why not more."""

RAY = ("ray_child.py", "ray_deploy.py")
ADDRESS: dict[str, tuple[tuple[str, ...], str]] = {
    "mcp": (("mcp/", "adapters/upstream_mcp", "adapters/upstream_oauth"), "MCP's types stop at its edge"),
    "mcp_types": (("mcp/", "adapters/upstream_mcp", "adapters/upstream_oauth"), "MCP's types stop at its edge"),
    "httpx2": (
        ("mcp/", "adapters/upstream_mcp", "adapters/upstream_oauth"),
        "the MCP SDK's HTTP client does not leak past it",
    ),
    "a2a": (("a2a/", "adapters/upstream_a2a"), "A2A's types stop at its edge"),
    "grpc": (
        ("a2a/", "adapters/upstream_a2a"),
        "gRPC is a binding of A2A, spoken by its edge and by the client of its peers",
    ),
    "sqlalchemy": (("adapters/sql/",), "SQL stands in one folder, behind core's Store"),
    "alembic": (("adapters/sql/",), "SQL stands in one folder, behind core's Store"),
    "ray": (tuple(f"adapters/{name}" for name in RAY), "the server process never imports ray"),
    "vllm": (tuple(f"adapters/{name}" for name in RAY), "the server process never imports vllm"),
    "torch": (("adapters/vllm_worker.py",), "torch is a second and a gigabyte: only training/ and vLLM itself use it"),
    "transformers": ((), "only training/ and vLLM itself use it"),
    "cel_expr_python": (("core/cel.py", "core/expression.py"), "expressions are compiled and evaluated in one place"),
    "cronsim": (
        ("core/schedule.py", "core/workflow.py", "core/check.py", "engine/scheduler.py"),
        "cron has one reading",
    ),
    "yaml": (("adapters/",), "files are read by adapters, in one safe way"),
    "fastapi": (("http/", "app.py"), "FastAPI is the HTTP edge's"),
    "httpx": (("adapters/", "a2a/"), "outgoing HTTP is an adapter's"),
    "typer": (("cli/",), "the command line is an edge for people"),
    "rich": (("cli/",), "the command line is an edge for people"),
    "uvicorn": (
        ("app.py", "http/connection.py", "adapters/scripted_server.py"),
        "only the application serves, and the scripted model of tests; the bounds of a connection stand in one of uvicorn's own",
    ),
    "jwt": (
        ("http/", "engine/identity.py", "adapters/upstream_oauth_client.py", "adapters/upstream_a2a_card.py"),
        "credentials become a Principal in one place, the mesh's own are shown in one, and others' signatures are checked in one",
    ),
    "cryptography": (
        ("adapters/keyring.py", "adapters/vault.py", "adapters/upstream_oauth_client.py", "adapters/card_keys.py"),
        "keys are derived, secrets are sealed, and agent cards are signed and checked, each in one place",
    ),
}
"""Third-party package -> the files and folders that may import it, and why."""


def modules() -> list[Path]:
    found = sorted((ROOT / "agentmesh").rglob("*.py"))
    assert len(found) > 10, "the tree is not where this test looks"
    return found


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import anywhere in a module, those in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; agentmesh.mcp and mcp are different packages"
            yield node.lineno, node.module or ""
            if node.module == "agentmesh":
                yield from ((node.lineno, f"agentmesh.{name.name}") for name in node.names)


def layer(dotted: str) -> str:
    """`agentmesh.core.run` is in `core`; `agentmesh` itself in the empty layer."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else ""


def faults_of_direction(where: str, own: str, tree: ast.Module) -> list[str]:
    allowed, reason = MAY_IMPORT[own]
    return [
        f"{where}:{line} imports {name}: {own or 'agentmesh'} may import "
        f"{', '.join(sorted(allowed)) or 'nothing of ours'}; {reason}"
        for line, name in imports(tree)
        if name.split(".")[0] == "agentmesh" and layer(name) in EVERYTHING and layer(name) not in allowed | {own}
    ]


def faults_of_address(where: str, path: str, tree: ast.Module) -> list[str]:
    found = []
    for line, name in imports(tree):
        places, reason = ADDRESS.get(name.split(".")[0], (("",), ""))
        if not path.startswith(places):
            found.append(
                f"{where}:{line} imports {name}, whose address is {', '.join(places) or 'training/'}: {reason}"
            )
    return found


def test_imports_point_one_way() -> None:
    """Edges see the engine, the engine sees core, adapters see core; nobody looks back."""
    faults = []
    for file in modules():
        path = file.relative_to(ROOT / "agentmesh")
        own = path.parts[0].removesuffix(".py").replace("__init__", "")
        assert own in MAY_IMPORT, f"{path} is in no layer of docs/architecture.md; give it one here and there"
        faults += faults_of_direction(f"agentmesh/{path}", own, ast.parse(file.read_text()))
    assert not faults, "\n".join(faults)


def test_each_package_has_one_address() -> None:
    """A third party is imported where it is at home, so that replacing it is a matter of one place."""
    faults = []
    for file in modules():
        path = file.relative_to(ROOT / "agentmesh").as_posix()
        faults += faults_of_address(f"agentmesh/{path}", path, ast.parse(file.read_text()))
    assert not faults, "\n".join(faults)


def test_only_settings_read_the_environment() -> None:
    """Configuration is read once and handed down; a process that starts another one passes its environment on."""
    faults = []
    for file in modules():
        path = file.relative_to(ROOT / "agentmesh").as_posix()
        if path == "settings.py" or path.startswith("adapters/"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}:
                faults.append(f"agentmesh/{path}:{node.lineno} reads the environment; settings.py is its only reader")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("own", "source", "fault"),
    [
        ("core", "from agentmesh.engine.runs import Runs", "core may import errors"),
        ("core", "def f():\n    import agentmesh.adapters.memory", "imports agentmesh.adapters.memory"),
        ("engine", "from agentmesh import adapters", "through core's Protocols"),
        ("mcp", "from agentmesh.a2a.card import card", "an edge speaks one protocol"),
        ("core", "from agentmesh.errors import MeshError", ""),
        ("core", "from agentmesh.core.run import Run", ""),
        ("mcp", "import mcp", ""),
    ],
)
def test_the_rule_of_direction_bites(own: str, source: str, fault: str) -> None:
    """The test above fails for imports against the arrows, inside functions too, and for no other."""
    found = faults_of_direction("x.py", own, ast.parse(source))
    assert bool(found) == bool(fault)
    assert fault in "".join(found)


@pytest.mark.parametrize(
    ("path", "source", "bites"),
    [
        ("engine/models.py", "import ray", True),
        ("adapters/ray_deploy.py", "from ray import serve", False),
        ("http/api.py", "from mcp.server import Server", True),
        ("mcp/server.py", "from mcp.server import Server", False),
        ("adapters/sql/store.py", "import sqlalchemy as sa", False),
        ("adapters/memory.py", "import sqlalchemy as sa", True),
    ],
)
def test_the_rule_of_addresses_bites(path: str, source: str, bites: bool) -> None:
    """The test above fails for a package away from home, and for no other."""
    assert bool(faults_of_address(path, path, ast.parse(source))) == bites
