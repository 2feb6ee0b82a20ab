"""Context: what a python function of a step or tool may know and do besides its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from agentmesh.core.caller import ELICITATION, NOBODY, ROOTS, SAMPLING, Caller, InputRequest, Level, Method

if TYPE_CHECKING:
    from agentmesh.core.source import Change

Changed = Callable[["Change", str | None], None]


class Context:
    """Given to a function whose first parameter is named `ctx`. Good until the function returns; safe to use from its thread.

    A function that asks (`elicit`, `sample`, `roots`, `ask`) is a coroutine, and is called again from its beginning when the answers
    are there: what it did before asking is done again, so it asks first and acts after.
    """

    def __init__(
        self,
        *,
        key: str,
        folder: PurePath,
        run_id: str | None = None,
        state: Mapping[str, Any] | None = None,
        message: Mapping[str, Any] | None = None,
        notify: Callable[[str], None] = lambda _: None,
        caller: Caller = NOBODY,
        changed: Changed = lambda *_: None,
        artifact: Callable[[Mapping[str, Any], bool], None] | None = None,
    ) -> None:
        self.key = key
        """The idempotency key: the same for every attempt of one step of one run (`RUN/PATH`)."""
        self.folder = folder
        """The mesh's folder."""
        self.run_id = run_id
        """None in a tool that passes through: it has no run."""
        self.state: Mapping[str, Any] = state if state is not None else {}
        """The durable values of this workflow (or tool), as they were when the attempt began."""
        self.message = message
        """The A2A message that started the run, as JSON."""
        self.puts: dict[str, Any] = {}
        self._notify = notify
        self._caller = caller
        self._changed = changed
        self._artifact = artifact

    def artifact(
        self, ident: str, *parts: Mapping[str, Any], name: str = "", description: str = "", append: bool = False
    ) -> None:
        """Gives a piece of the run's result to whoever follows it (an A2A Artifact), before the step ends; recorded.

        `parts`: A2A Parts as JSON, such as `{"text": ...}`, `{"data": ...}`, `{"raw": BASE64, "mediaType": ...}`. `append`: they follow
        what there is under `ident`, else they take its place. A step that is made again gives its artifacts again. ValueError in a tool
        that has no run.
        """
        if self._artifact is None:
            raise ValueError("only a step of a run makes artifacts; a tool that passes through has none")
        made: dict[str, Any] = {"artifactId": str(ident), "parts": [dict(part) for part in parts]}
        made |= {"name": name} if name else {}
        made |= {"description": description} if description else {}
        self._artifact(made, append)

    def put(self, key: str, value: Any) -> None:
        """Keeps a JSON value for later runs; written in the transaction that completes the step, and not at all if it fails."""
        self.puts[str(key)] = value

    def progress(self, line: str = "", *, done: float | None = None, total: float | None = None) -> None:
        """Tells whoever watches how far this is: a line, or `done` of `total` in any unit. Not recorded."""
        if done is None:
            self._notify(str(line))
        else:
            self._caller.progress(done, total, str(line))

    def log(self, level: Level, data: Any, logger: str | None = None) -> None:
        """Sends a log message (JSON) to the client that called, when it wants such. Not recorded."""
        self._caller.log(level, data, logger)

    def changed(self, change: Change, uri: str | None = None) -> None:
        """Says that a list (`tools`, `prompts`, `resources`) is another now, or (`updated`) the resource `uri`."""
        self._changed(change, uri)

    def can(self, method: Method) -> bool:
        """Whether the client that called may be asked this: `elicitation/create`, `sampling/createMessage`, `roots/list`."""
        return self._caller.can(method)

    async def elicit(self, key: str, message: str, form: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Asks the caller's user; the answer is {action: accept|decline|cancel, content?} (MCP `ElicitResult`).

        `key` names the question within this call. `form`: JSON Schema of a flat object. In a run the question is durable, and
        anybody who may answers it. MissingCapability when there is nobody to ask.
        """
        params = {"mode": "form", "message": message, "requestedSchema": form or {"type": "object", "properties": {}}}
        return (await self.ask({key: InputRequest(ELICITATION, params)}))[key]

    async def sample(
        self, key: str, messages: Sequence[Mapping[str, Any]], max_tokens: int, **params: Any
    ) -> Mapping[str, Any]:
        """Has the client's own model answer (MCP `CreateMessageResult`). `params`: systemPrompt, temperature and the like."""
        given = {"messages": [dict(message) for message in messages], "maxTokens": max_tokens, **params}
        return (await self.ask({key: InputRequest(SAMPLING, given)}))[key]

    async def roots(self, key: str = "roots") -> Sequence[Mapping[str, Any]]:
        """The client's roots: {uri, name?} each."""
        found: Sequence[Mapping[str, Any]] = (await self.ask({key: InputRequest(ROOTS, {})}))[key].get("roots", ())
        return found

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        """Asks several things at once; the answers by the same keys. InvalidInput when one does not fit what was asked."""
        return await self._caller.ask(requests)
