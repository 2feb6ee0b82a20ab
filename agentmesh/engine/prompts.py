"""Prompts: what a user picks to begin with: those of servers/*.yaml, and those that sources have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote

from agentmesh.core import content
from agentmesh.core.caller import NOBODY, Caller
from agentmesh.core.expression import render, segments
from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Action, Principal
from agentmesh.core.resource import Completion, Prompt, PromptArgument, PromptResult
from agentmesh.core.server_file import PromptMessageSpec, PromptSpec
from agentmesh.core.source import Source
from agentmesh.engine.faults import as_json
from agentmesh.engine.guard import Guard
from agentmesh.engine.shown import Shown, as_text, type_of_file
from agentmesh.engine.sources import Sources
from agentmesh.errors import Fail, InvalidInput, NotFound, TooLarge

COMPLETED = 100
"""Values in one answer (MCP `completion/complete`)."""
LARGEST_ARGUMENTS = 200_000
"""Bytes of the arguments of a prompt together: what is filled in from them is a message to a model."""


class Prompts:
    """Everything that `prompts/*` asks for. Lists answer at once; what policies hide is not there."""

    def __init__(self, mesh: Mesh, shown: Shown, sources: Sources, guard: Guard) -> None:
        self._mesh = mesh
        self._shown = shown
        self._sources = sources
        self._guard = guard
        self.read: Callable[[Principal, str, Caller], Awaitable[Sequence[Mapping[str, Any]]]] | None = None
        """Resources.read, for messages that embed a resource."""

    def list(self, principal: Principal) -> Sequence[Prompt]:
        """The prompts that the principal may list, by name."""
        found: dict[str, Prompt] = {}
        for source in self._sources.all():
            found = {**source.prompts(), **found}
        for name, (server, spec) in self._mesh.prompts.items():
            found[name] = _prompt(name, server, spec)
        return [prompt for name, prompt in sorted(found.items()) if self._may_list(principal, name)]

    def _may_list(self, principal: Principal, name: str) -> bool:
        return self._guard.allows(principal, Action("prompts.list", f"prompt:{name}", listing=True))

    async def get(
        self, principal: Principal, name: str, arguments: Mapping[str, str] | None = None, caller: Caller = NOBODY
    ) -> PromptResult:
        """A prompt, its arguments filled in.

        NotFound, PolicyDenied, InvalidInput (it names what is missing); InputRequired and MissingCapability where a function asks the
        caller's user.
        """
        arguments = dict(arguments or {})
        known = self._mesh.prompts.get(name)
        source = None if known is not None else self._source_of(name)
        if known is None and source is None:
            close = get_close_matches(name[:200], [prompt.name for prompt in self.list(principal)], 1)
            raise NotFound(f"there is no prompt {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        self._guard.authorize(principal, Action("prompts.get", f"prompt:{name}", arguments))
        if known is None:
            assert source is not None
            return await source.prompt(name, arguments, principal=principal, caller=caller)
        _, spec = known
        _require(name, spec, arguments)
        if spec.python is not None:
            result = await self._shown.call(spec.python, arguments, f"prompt:{name}", caller)
            return PromptResult(_messages(spec.python, result), spec.description)
        values = {argument: arguments.get(argument, "") for argument in spec.arguments}
        found: list[Mapping[str, Any]] = []
        for message in spec.messages:
            blocks = await self._blocks(principal, message, values, caller)
            found += [{"role": message.role, "content": block} for block in blocks]
        return PromptResult(tuple(found), spec.description)

    async def _blocks(
        self, principal: Principal, message: PromptMessageSpec, values: Mapping[str, str], caller: Caller
    ) -> Sequence[Mapping[str, Any]]:
        scope = {"input": values}
        if message.text is not None:
            said = render(message.text, scope)
            return [content.text(said if isinstance(said, str) else str(as_json(said, "the text of a message")))]
        if message.resource is not None:
            pieces = segments(message.resource)
            alone = len(pieces) == 1  # then the argument is the URI itself, and written as URIs are
            given = values if alone else {name: quote(value, safe="") for name, value in values.items()}
            uri = str(render(message.resource, {"input": given}))
            if self.read is None:
                raise Fail("this mesh shows no resources")
            return [{"type": "resource", "resource": dict(one)} for one in await self.read(principal, uri, caller)]
        assert message.file is not None
        path, data = await self._shown.file(message.file, values)
        return [_block_of_file(path, data)]

    async def complete(
        self, principal: Principal, ref: Mapping[str, Any], argument: Mapping[str, str], context: Mapping[str, str]
    ) -> Completion:
        """Values for an argument of a prompt: those that its file names and that begin as what was typed. NotFound, InvalidInput."""
        name, wanted = str(ref.get("name", "")), argument.get("name", "")
        known, source = self._mesh.prompts.get(name), self._source_of(name)
        if not self._may_list(principal, name) or (known is None and source is None):
            raise NotFound(f"there is no prompt {name!r}")
        if known is None:
            assert source is not None
            return await source.complete(ref, argument, context, principal=principal)
        arguments = known[1].arguments
        if wanted not in arguments:
            raise InvalidInput(f"prompt {name!r} has no argument {wanted!r}; it has {', '.join(arguments) or 'none'}")
        return completion(arguments[wanted].values or (), argument.get("value", ""))

    def _source_of(self, name: str) -> Source | None:
        return next((source for source in self._sources.all() if name in source.prompts()), None)


def completion(values: Sequence[str], begins: str) -> Completion:
    """Those of the values that begin so, whatever the case, in their own order."""
    fitting = [value for value in values if value.casefold().startswith(begins.casefold())]
    return Completion(tuple(fitting[:COMPLETED]), len(fitting), len(fitting) > COMPLETED)


def _prompt(name: str, server: str, spec: PromptSpec) -> Prompt:
    arguments = tuple(
        PromptArgument(argument, said.description, said.title, said.required)
        for argument, said in spec.arguments.items()
    )
    return Prompt(name, spec.description, spec.title, arguments, source=f"server:{server}")


def _require(name: str, spec: PromptSpec, arguments: Mapping[str, Any]) -> None:
    """InvalidInput unless these are arguments that the prompt has, as text, and none is missing."""
    missing = [argument for argument, said in spec.arguments.items() if said.required and argument not in arguments]
    if missing:
        raise InvalidInput(f"prompt {name!r} needs {', '.join(repr(one) for one in missing)}", missing=missing)
    for argument, value in arguments.items():
        if argument not in spec.arguments:
            close = get_close_matches(argument[:200], spec.arguments, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(spec.arguments) or 'nothing'}"
            raise InvalidInput(f"prompt {name!r} takes no {argument!r}; {hint}")
        if not isinstance(value, str):
            raise InvalidInput(f"the argument {argument!r} of prompt {name!r} must be text")
    size = sum(len(value.encode("utf-8", "surrogatepass")) for value in arguments.values())
    if size > LARGEST_ARGUMENTS:
        raise TooLarge(f"the arguments of prompt {name!r} are over {LARGEST_ARGUMENTS:,} bytes; send less")


def _messages(function: str, result: Any) -> tuple[Mapping[str, Any], ...]:
    """What a function returned, as messages."""
    said = result if isinstance(result, list | tuple) else [result]
    found = []
    for message in said:
        if isinstance(message, str):
            found.append({"role": "user", "content": content.text(message)})
            continue
        value = as_json(message, f"a message of {function}")
        block = value.get("content") if isinstance(value, dict) else None
        if isinstance(block, str):
            block = content.text(block)
        if not isinstance(block, dict) or "type" not in block or value.get("role") not in ("user", "assistant"):
            raise Fail(f"{function} returned a message that is none: {{role: user or assistant, content: ...}}")
        found.append({"role": value["role"], "content": block})
    return tuple(found)


def _block_of_file(path: str, data: bytes) -> Mapping[str, Any]:
    mime = type_of_file(path)
    kind = mime.partition("/")[0]
    given = as_text(data, mime)
    if isinstance(given, str) and kind != "image":
        return content.text(given)
    if kind == "image":
        return content.image(data, mime)
    if kind == "audio":
        return content.audio(data, mime)
    raise Fail(f"{path} is neither text nor an image nor a sound; embed it as a resource")
