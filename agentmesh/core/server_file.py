"""Server file: the shape of a file in servers/: tools, resources and prompts of our own, or somebody else's server to offer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentmesh.core.tool import ToolSpec
from agentmesh.core.workflow import Duration


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OAuth(_Part):
    """How tokens for the upstream are had (MCP 2026-07-28 basic/authorization). The caller's own token is never passed on."""

    flow: Literal["client_credentials", "authorization_code"]
    """`client_credentials`: one token for the mesh. `authorization_code`: one for each user, who logs in once in a browser."""
    client_id: str | None = None
    """None: the client registers itself, by metadata document or dynamically, where the authorization server lets it."""
    client_key: str | None = Field(None, repr=False)
    """The client's secret, or its private key in PEM form: `${{ secrets.NAME }}`."""
    issuer: str | None = None
    """The authorization server that `client_id` belongs to; None: the one that it is first used with. Its secret goes to no other."""
    scopes: list[str] | None = None
    """None: those that the upstream names."""


class Upstream(_Part):
    """An MCP server to offer: over HTTP (`url`), or a child process that speaks on its stdin and stdout (`command`)."""

    url: str | None = None
    token: str | None = Field(None, repr=False)
    """A bearer token that is always the same: `${{ secrets.NAME }}`."""
    headers: dict[str, str] = Field({}, repr=False)
    """Sent with every request; values may hold secrets."""
    oauth: OAuth | None = None
    command: list[str] | None = None
    """A program and its arguments; never a shell's line."""
    env: dict[str, str] = Field({}, repr=False)
    """Of the child, beside PATH, HOME, LANG and the like; values may hold secrets."""
    cwd: str | None = None
    """Folder of the child, under the mesh's; None: the mesh's folder."""
    memory: str = "1GiB"
    """Most that the child and its children may have; then they are ended and begun again."""
    timeout: Duration = 60.0
    """For one call, from its sending to its answer; progress does not lengthen it."""
    at_once: int = Field(32, ge=1, le=1000)
    """Calls in flight; further ones wait their turn."""


class OpenApi(_Part):
    """An HTTP API by its OpenAPI document (3.0 or 3.1): each operation is a tool."""

    document: str
    """A file under the mesh's folder, or an http(s) address."""
    url: str | None = None
    """Where the API is; None: the document's first server."""
    token: str | None = Field(None, repr=False)
    """A bearer token: `${{ secrets.NAME }}`."""
    headers: dict[str, str] = Field({}, repr=False)
    """Sent with every request; values may hold secrets."""
    timeout: Duration = 30.0
    operations: dict[str, Operation] = {}
    """Changes to single operations, by operationId."""


class Operation(_Part):
    """How one operation is offered, where its own words do not do."""

    name: str | None = None
    """Of the tool; None: the operationId."""
    description: str | None = None
    arguments: dict[str, Any] = {}
    """Values that callers do not give: they are filled in and left out of the tool's input."""
    rename: dict[str, str] = {}
    """Parameters by other names: the API's name, and the tool's."""


OpenApi.model_rebuild()


class ResourceSpec(_Part):
    """One entry of `resources:`. Exactly one of `text`, `file` and `python`."""

    uri: str
    """With `{name}` in it a template (RFC 6570, level 1): `desk://orders/{id}`."""
    title: str | None = None
    description: str = Field(min_length=1)
    mime: str | None = None
    """MIME type; None: by the file's name, else text/plain."""
    text: str | None = None
    """The contents themselves; in a template `${{ input.NAME }}` is filled in."""
    file: str | None = None
    """A file under the mesh's folder, read when it is asked for."""
    python: str | None = None
    """`package.module:function`: called with the template's values by name; returns str, bytes, or JSON."""
    subscribe: bool = False
    """Whether clients may be told when it changes: a `file` is watched; a function says it by `ctx.changed(uri)`."""


class PromptArgumentSpec(_Part):
    title: str | None = None
    description: str = ""
    required: bool = False
    values: list[str] | None = None
    """What an editor offers while the argument is typed."""


class PromptMessageSpec(_Part):
    """One message; exactly one of `text`, `resource` and `file`."""

    role: Literal["user", "assistant"] = "user"
    text: str | None = None
    """A template: `${{ input.NAME }}` is an argument."""
    resource: str | None = None
    """URI of a resource of the mesh, embedded as it is then; a template."""
    file: str | None = None
    """An image, sound or text under the mesh's folder."""


class PromptSpec(_Part):
    """One entry of `prompts:`. Exactly one of `messages` and `python`."""

    title: str | None = None
    description: str = Field(min_length=1)
    arguments: dict[str, PromptArgumentSpec] = {}
    messages: list[PromptMessageSpec] = []
    python: str | None = None
    """`package.module:function`: called with the arguments by name; returns a string, or a list of messages in MCP's form."""


class ServerFile(_Part):
    """A file in servers/: tools offered as `name.tool`, or bare with `prefix: false`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    description: str = ""
    prefix: bool = True
    tools: dict[str, ToolSpec] = {}
    resources: dict[str, ResourceSpec] = {}
    prompts: dict[str, PromptSpec] = {}
    upstream: Upstream | None = None
    openapi: OpenApi | None = None
    expose: list[str] | None = None
    """Which of somebody else's tools are offered, by globs over their own names; None: all."""
    reads: list[str] = []
    """Which of them only read, by globs, as the operator knows: their own word for it is not taken."""
    approve: Literal["changed", "never"] = "changed"
    """`changed`: a tool whose description or schema changes is held back until an operator approves it."""
    offer: Literal["tools", "search"] | None = None
    """`search`: its tools are found by `search_tools` and called by `call_tool`; None: what agentmesh.yaml says."""
    pin: list[str] = []
    """Tools that are listed all the same, by globs over their own names."""

    @property
    def is_source(self) -> bool:
        """Whether somebody else serves it."""
        return self.upstream is not None or self.openapi is not None
