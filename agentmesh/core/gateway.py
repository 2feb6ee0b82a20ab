"""Gateway: does a server file that offers what others serve make sense: `upstream`, `openapi`, and what goes with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from agentmesh.core.checker import Checker, World
from agentmesh.core.document import Path
from agentmesh.core.server_file import OAuth, OpenApi, ServerFile, Upstream
from agentmesh.core.shape import Source
from agentmesh.core.size import size_in_bytes

TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
LEAST_MEMORY = 16 * 1024 * 1024
"""Bytes; below, no interpreter of any language starts."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_THEIRS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "mcp-session-id", "mcp-protocol-version"}
)


class GatewayChecker(Checker):
    """What somebody else serves."""

    def __init__(self, world: World, source: Source[ServerFile]) -> None:
        super().__init__(world, source)
        self.server = source.value

    def check(self) -> None:
        server = self.server
        if not server.prefix:
            self.fault(
                ("prefix",),
                "`prefix: false` is for tools of your own: what others call theirs is not known before they answer",
                key=True,
            )
        for name, what in (("tools", "tools"), ("resources", "resources"), ("prompts", "prompts")):
            if self.document.get((name,)):
                kind = "upstream" if server.upstream is not None else "openapi"
                self.fault(
                    (name,), f"this file offers the {what} of its `{kind}`; put your own into another file", key=True
                )
        if server.upstream is not None:
            self.upstream(("upstream",), server.upstream)
        if server.openapi is not None:
            self.openapi(("openapi",), server.openapi)
            if server.upstream is not None:
                self.fault(
                    ("openapi",), "a server file has `upstream` or `openapi`, not both: make two files", key=True
                )
        self.globs("expose", server.expose)
        self.globs("reads", server.reads)
        self.globs("pin", server.pin)
        if server.expose == [] and not self.damaged(("expose",)):
            self.fault(
                ("expose",), "must not be empty: nothing would be offered; leave it out to offer everything", key=True
            )

    def globs(self, name: str, globs: Sequence[str] | None) -> None:
        for i, glob in enumerate(globs or ()):
            if not glob.strip():
                self.fault((name, i), "must not be empty: * is everything")
            elif glob.startswith(f"{self.server.name}."):
                own = glob.removeprefix(f"{self.server.name}.")
                self.fault((name, i), f"this is looked for among the server's own names: write {own}")

    # MCP

    def upstream(self, path: Path, spec: Upstream) -> None:
        if (spec.url is None) == (spec.command is None) and not self.damaged(path):
            says = "this has both" if spec.url is not None else "this has neither"
            self.fault(path, f"an upstream has either `url` or `command`; {says}", key=True)
        if spec.url is not None:
            self.address((*path, "url"), spec.url)
        elif spec.command is not None:
            self.only(path, ("token", "headers", "oauth"), "an upstream with `url`; a child has `env`")
        if spec.command is not None:
            self.command((*path, "command"), spec.command)
        elif spec.url is not None:
            self.only(path, ("env", "cwd", "memory"), "an upstream with `command`")
        self.credentials(path, spec)
        for name in spec.env:
            if not _VARIABLE.fullmatch(name):
                self.fault((*path, "env", name), f"{name!r} is no name of a variable", key=True)
        if spec.cwd is not None and (message := self.world.find_path(spec.cwd, "folder")):
            self.fault((*path, "cwd"), message)
        try:
            if size_in_bytes(spec.memory) < LEAST_MEMORY:
                self.fault((*path, "memory"), f"nothing starts in {spec.memory}; the least is 16MiB")
        except ValueError as error:
            self.fault((*path, "memory"), str(error))
        self.span((*path, "timeout"))

    def command(self, path: Path, command: Sequence[str]) -> None:
        if not command and not self.damaged(path):
            self.fault(path, "must not be empty: a program, then its arguments", key=True)
        elif command and not command[0].strip():
            self.fault((*path, 0), "must name a program")
        elif len(command) == 1 and " " in command[0]:
            words = ", ".join(command[0].split())
            self.fault((*path, 0), f"no shell reads this: write each word by itself, [{words}]")

    def credentials(self, path: Path, spec: Upstream | OpenApi) -> None:
        self.headers((*path, "headers"), spec.headers, taken=spec.token is not None or getattr(spec, "oauth", None))
        if not isinstance(spec, Upstream) or spec.oauth is None:
            return
        if spec.token is not None:
            self.fault((*path, "token"), "`oauth` gets tokens by itself: leave one of the two out", key=True)
        self.oauth((*path, "oauth"), spec.oauth)

    def oauth(self, path: Path, spec: OAuth) -> None:
        if spec.client_key is not None and spec.client_id is None:
            self.fault((*path, "client_key"), "'client_id' is missing: whose key is this?", key=True)
        if spec.issuer is not None:
            self.address((*path, "issuer"), spec.issuer)
            if spec.client_id is None:
                self.fault((*path, "issuer"), "'client_id' is missing: the issuer says whom it belongs to", key=True)
        if spec.flow == "client_credentials" and not self.damaged(path):
            for name in ("client_id", "client_key"):
                if getattr(spec, name) is None and (name == "client_id" or spec.client_id is not None):
                    message = f"{name!r} is missing: with client_credentials the mesh itself is known to the authorization server"
                    self.fault(path, message, key=True)
        for i, scope in enumerate(spec.scopes or ()):
            if not scope or any(c.isspace() or c in '"\\' or not c.isprintable() for c in scope):
                self.fault((*path, "scopes", i), f"{scope!r} is no scope: one word each, without blanks and quotes")

    def headers(self, path: Path, headers: dict[str, str], *, taken: object) -> None:
        seen: set[str] = set()
        for name in headers:
            at, lower = (*path, name), name.lower()
            if not _HEADER.fullmatch(name):
                self.fault(at, f"{name!r} is no name of a header", key=True)
            elif lower in seen:
                self.fault(at, f"the header {name!r} stands here twice", key=True)
            elif lower in _NOT_THEIRS:
                self.fault(at, f"the header {name!r} is the connection's own", key=True)
            elif lower == "authorization" and taken:
                self.fault(at, "`token` and `oauth` are sent as Authorization: leave one of the two out", key=True)
            seen.add(lower)

    # OpenAPI

    def openapi(self, path: Path, spec: OpenApi) -> None:
        if "://" in spec.document:
            self.address((*path, "document"), spec.document)
        elif message := self.world.find_path(spec.document, "file"):
            self.fault((*path, "document"), message)
        if spec.url is not None:
            self.address((*path, "url"), spec.url)
        self.credentials(path, spec)
        self.span((*path, "timeout"))
        names: dict[str, str] = {}
        for operation, said in spec.operations.items():
            at = (*path, "operations", operation)
            if said.name is not None:
                if not TOOL_NAME.fullmatch(f"{self.server.name}.{said.name}"):
                    self.fault(
                        (*at, "name"),
                        f"{said.name!r} cannot name a tool: letters, digits, '_', '-' and '.', at most 64",
                    )
                elif said.name in names:
                    self.fault((*at, "name"), f"{said.name!r} is the name of {names[said.name]} already")
                names.setdefault(said.name, operation)
            for theirs, ours in said.rename.items():
                if theirs in said.arguments:
                    self.fault(
                        (*at, "rename", theirs),
                        f"{theirs!r} is filled in by `arguments`: callers never see it",
                        key=True,
                    )
                if list(said.rename.values()).count(ours) > 1:
                    self.fault((*at, "rename", theirs), f"two parameters would be called {ours!r}")

    # Shared

    def only(self, path: Path, names: Sequence[str], whose: str) -> None:
        for name in names:
            if self.document.get((*path, name)) is not None:
                self.fault((*path, name), f"`{name}` belongs to {whose}", key=True)

    def address(self, path: Path, url: str) -> None:
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            right, parts = False, None
        if not right:
            self.fault(path, f"{url!r} is not an address: http://HOST[:PORT]/... or https://...")
        elif parts is not None and (parts.username or parts.password):
            self.fault(path, "an address holds no name and password: write `token` or `headers`, with a secret")

    def span(self, path: Path) -> None:
        """A time that is not nothing."""
        self.duration(path)
        if self.document.get(path) in (0, 0.0, "0", "0s"):
            self.fault(path, "must be more than 0: nothing would be waited for")
