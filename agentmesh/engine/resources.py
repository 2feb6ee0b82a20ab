"""Resources: what the mesh shows by URI: of servers/*.yaml, its own runs, workflows and card, and what its sources have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import TaskStatus

from agentmesh.core.caller import NOBODY, Caller
from agentmesh.core.content import contents
from agentmesh.core.expression import render
from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Action, Principal
from agentmesh.core.resource import Completion, Resource, ResourceTemplate
from agentmesh.core.server_file import ResourceSpec
from agentmesh.core.source import Source
from agentmesh.core.uri_template import UriTemplate, is_template, may_match, normal, uri_template
from agentmesh.engine.faults import as_json
from agentmesh.engine.guard import Guard
from agentmesh.engine.own_resources import OwnResources
from agentmesh.engine.prompts import Prompts, completion
from agentmesh.engine.shown import BYTES, JSON_TYPE, TEXT, Shown, as_text, type_of_file
from agentmesh.engine.sources import Sources
from agentmesh.engine.watching import Watching
from agentmesh.errors import InvalidInput, NotFound, TooLarge

LARGEST = 8 * 1024 * 1024
"""Bytes of what one resource of a server file may be: it is one message."""


@dataclass(frozen=True, slots=True)
class _Declared:
    """An entry of `resources:`, at a URI that it has."""

    name: str
    """`SERVER.NAME`."""
    uri: str
    spec: ResourceSpec
    values: Mapping[str, str]
    """Of its template's names."""


class Resources:
    """Everything that `resources/*` asks for. Lists answer at once; what policies hide is not there.

    `prompts` is for the completion of their arguments, which MCP asks for in the same verb.
    """

    def __init__(
        self, mesh: Mesh, shown: Shown, own: OwnResources, prompts: Prompts, sources: Sources, guard: Guard,
        watching: Watching,
    ) -> None:  # fmt: skip
        self._mesh = mesh
        self._shown = shown
        self.own = own
        self._prompts = prompts
        self._sources = sources
        self._guard = guard
        self._watching = watching
        self._revision = -1
        self._fixed: dict[str, tuple[str, str, ResourceSpec]] = {}
        self._templates: list[tuple[UriTemplate, str, str, ResourceSpec]] = []

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Looks at the runs and files that somebody subscribed to. Until it runs, nobody hears of their changes."""
        await self._watching.run(task_status=task_status)

    def list(self, principal: Principal) -> Sequence[Resource]:
        """Those that have a URI of their own and that the principal may list, by URI. Single runs are not among them."""
        self._look()
        found: dict[str, Resource] = {}
        for source in self._sources.all():
            for resource in source.resources():
                found.setdefault(resource.uri, resource)
        for uri, (server, name, spec) in self._fixed.items():
            found[uri] = Resource(
                uri, name, spec.description, spec.title, _type(spec), source=f"server:{server}",
                size=None if spec.text is None else len(spec.text.encode()),
            )  # fmt: skip
        found |= {resource.uri: resource for resource in self.own.list()}
        return [one for uri, one in sorted(found.items()) if self._may_list(principal, uri)]

    def templates(self, principal: Principal) -> Sequence[ResourceTemplate]:
        """The templates that the principal may list, by their text."""
        self._look()
        found: dict[str, ResourceTemplate] = {}
        for source in self._sources.all():
            for template in source.templates():
                found.setdefault(template.uri_template, template)
        for declared, server, name, spec in self._templates:
            uri = declared.text
            found[uri] = ResourceTemplate(
                uri, name, spec.description, spec.title, _type(spec), source=f"server:{server}"
            )
        found |= {template.uri_template: template for template in self.own.templates()}
        return [one for uri, one in sorted(found.items()) if self._may_list(principal, uri)]

    def _may_list(self, principal: Principal, uri: str) -> bool:
        return self._guard.allows(principal, Action("resources.list", f"resource:{uri}", {"uri": uri}, listing=True))

    async def read(self, principal: Principal, uri: str, caller: Caller = NOBODY) -> Sequence[Mapping[str, Any]]:
        """The contents of a resource, in the wire's spelling.

        NotFound, PolicyDenied, TooLarge; InputRequired and MissingCapability where a function asks the caller's user.
        """
        self._authorize(principal, uri)
        if (declared := self._declared(uri)) is not None:
            return [await self._read_declared(declared, caller)]
        if self.own.has(uri):
            return [await self.own.read(principal, uri)]
        return await self._source_of(uri).read(uri, principal=principal, caller=caller)

    def _authorize(self, principal: Principal, uri: str) -> None:
        """PolicyDenied unless the URI may be read, as it is written and as it is meant: `%70rivate` is `private`."""
        for form in dict.fromkeys((uri, normal(uri))):
            self._guard.authorize(principal, Action("resources.read", f"resource:{form}", {"uri": form}))

    async def subscribe(self, principal: Principal, uri: str) -> None:
        """Has `Changes` told when the resource changes (`updated`). Counted: as many `unsubscribe` end it.

        NotFound, PolicyDenied; InvalidInput for one of which nobody says that it changes.
        """
        self._authorize(principal, uri)
        declared = self._declared(uri)
        if declared is not None:
            if not declared.spec.subscribe:
                raise InvalidInput(f"the resource {uri} cannot be subscribed to; read it again when you need it")
            if declared.spec.file is not None:
                await self._watching.file(uri, self._shown.path(declared.spec.file, declared.values))
        elif self.own.has(uri):
            run_id = await self.own.run_of(principal, uri)
            if run_id is None:
                raise InvalidInput(f"the resource {uri} cannot be subscribed to; mesh://runs/ID can")
            self._watching.run_changes(uri, run_id)
        else:
            await self._source_of(uri).subscribe(uri)

    async def unsubscribe(self, principal: Principal, uri: str) -> None:
        """Ends one `subscribe`; nothing happens when there was none."""
        if self._watching.forget(uri) or self._declared(uri) is not None or self.own.has(uri):
            return
        try:
            source = self._source_of(uri)
        except NotFound:  # gone since
            return
        await source.unsubscribe(uri)

    async def complete(
        self, principal: Principal, ref: Mapping[str, Any], argument: Mapping[str, str],
        context: Mapping[str, str] | None = None,
    ) -> Completion:  # fmt: skip
        """Values that begin as `argument.value` does: of a prompt's argument (`ref/prompt`) or a template's (`ref/resource`).

        NotFound when there is no such prompt or template, InvalidInput for a name that it does not have.
        """
        kind = ref.get("type")
        if kind == "ref/prompt":
            return await self._prompts.complete(principal, ref, argument, context or {})
        if kind != "ref/resource":
            raise InvalidInput(f"{kind!r} cannot be completed; there are ref/prompt and ref/resource")
        uri = str(ref.get("uri", ""))
        if not self._may_list(principal, uri):
            raise NotFound(f"there is no resource template {uri!r}")
        self._look()
        name, begins = argument.get("name", ""), argument.get("value", "")
        own = {template.text: template for template, *_ in self._templates}
        if uri in own:
            _require(name, own[uri])
            return Completion()
        if any(template.uri_template == uri for template in self.own.templates()):
            _require(name, uri_template(uri))
            return completion(await self.own.values(principal, uri), begins)
        if uri in self._fixed or any(one.uri == uri for one in self.own.list()):
            return Completion()  # nothing in it to complete
        for source in self._sources.all():
            known = (*(t.uri_template for t in source.templates()), *(r.uri for r in source.resources()))
            if uri in known:
                return await source.complete(ref, argument, context or {}, principal=principal)
        raise NotFound(f"there is no resource template {uri!r}")

    # Finding

    def _look(self) -> None:
        """The declared ones as the files say now."""
        if self._revision != self._mesh.revision:
            self._fixed = {uri: one for uri, one in self._mesh.resources.items() if not is_template(uri)}
            self._templates = [
                (uri_template(uri), server, name, spec)
                for uri, (server, name, spec) in self._mesh.resources.items()
                if is_template(uri)
            ]
            self._revision = self._mesh.revision

    def _declared(self, uri: str) -> _Declared | None:
        self._look()
        if uri in self._fixed:
            server, name, spec = self._fixed[uri]
            return _Declared(f"{server}.{name}", uri, spec, {})
        for template, server, name, spec in self._templates:
            values = template.match(uri)
            if values is not None:
                return _Declared(f"{server}.{name}", uri, spec, values)
        return None

    def _source_of(self, uri: str) -> Source:
        for source in self._sources.all():
            if any(resource.uri == uri for resource in source.resources()):
                return source
        for source in self._sources.all():
            if any(may_match(template.uri_template, uri) for template in source.templates()):
                return source
        raise NotFound(f"there is no resource {uri!r}", uri=uri)

    async def _read_declared(self, one: _Declared, caller: Caller) -> dict[str, Any]:
        spec = one.spec
        if spec.text is not None:
            said = str(render(spec.text, {"input": dict(one.values)}))
            return contents(one.uri, said, spec.mime or TEXT)
        if spec.file is not None:
            path, data = await self._shown.file(spec.file, one.values)
            mime = spec.mime or type_of_file(path)
            return contents(one.uri, as_text(data, mime), mime)
        assert spec.python is not None
        result = await self._shown.call(spec.python, one.values, f"resource:{one.name}", caller)
        return _given(one, result)


def _given(one: _Declared, result: Any) -> dict[str, Any]:
    """What a function returned, as contents."""
    spec, given = one.spec, result
    if isinstance(result, bytes | bytearray):
        given, usual = bytes(result), BYTES
        mime = spec.mime or usual
        given = as_text(given, mime)
    elif isinstance(result, str):
        mime = spec.mime or TEXT
    else:
        value = as_json(result, f"the result of {spec.python}")
        given, mime = json.dumps(value, ensure_ascii=False), spec.mime or JSON_TYPE
    if len(given) > LARGEST:
        raise TooLarge(f"the resource {one.uri} has {len(given):,} characters, more than {LARGEST:,}")
    return contents(one.uri, given, mime)


def _type(spec: ResourceSpec) -> str | None:
    if spec.mime is not None or spec.python is not None:
        return spec.mime
    return TEXT if spec.file is None else type_of_file(spec.file)


def _require(name: str, template: UriTemplate) -> None:
    if name not in template.names:
        raise InvalidInput(f"{template.text} has no {name!r}; it has {', '.join(template.names)}")
