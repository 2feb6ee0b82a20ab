"""The mesh's models in OpenAI's form: `POST /v1/chat/completions` and `GET /v1/models/{id}`, for clients that know only that.

An edge like the others: the request becomes a `ChatRequest`, `engine.models` asks the policies and the model's own endpoint. What a
model may do is the endpoint's business, so tools, stop words and the like are handed on; what this edge could not answer truly (several
choices, log probabilities, sound) is refused by name. Errors have OpenAI's form, decided in one function: `to_openai`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sse_starlette.event import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from agentmesh.core.json_text import parse_json, write_json
from agentmesh.core.model import ChatChunk, ChatRequest, ToolUse, Usage
from agentmesh.core.policy import Principal
from agentmesh.engine import Engine
from agentmesh.errors import InvalidInput, MeshError, ModelRefused, NotFound, PolicyDenied
from agentmesh.http.asker import Asker, answer
from agentmesh.http.events import stream
from agentmesh.http.problems import openai_error, retry_headers, to_problem

TIME = 600.0
"""Seconds for an answer, as OpenAI's own client has it."""
_LARGE = 64 * 1024
"""Bodies over this are parsed in a thread."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Message(BaseModel):
    """A chat message. What else it holds is between the client and the model."""

    model_config = ConfigDict(extra="allow", frozen=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = "output"
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class _Format(_Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _StreamOptions(_Part):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Padding against those who measure packets: none is sent either way."""


Unit = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class ChatBody(_Part):
    """The body of a chat completion, as far as this edge takes it."""

    model: str = Field(min_length=1)
    messages: list[_Message] = Field(min_length=1)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    response_format: _Format | None = None
    tools: list[dict[str, Any]] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    metadata: dict[str, Any] | None = None
    """The client's own notes for a store of OpenAI's: there is none here, and `store` is refused."""
    # Handed on as they are.
    stop: str | list[str] | None = None
    top_p: Unit | None = None
    top_k: int | None = None
    min_p: Unit | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    user: str | None = None


_HANDED_ON = (
    "stop", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "tool_choice",
    "parallel_tool_calls", "reasoning_effort", "chat_template_kwargs", "user",
)  # fmt: skip


def openai_routes(app: FastAPI, engine: Engine) -> None:
    """Adds them to the application at `/v1`."""

    @app.post("/chat/completions", include_in_schema=False)
    async def create_chat_completion(principal: Asker, request: Request) -> Response:
        try:
            body = await _body(request)
            return await (_stream if body.stream else _whole)(engine, principal, body)
        except Exception as error:
            return openai_response(error)

    @app.get("/models/{name:path}", include_in_schema=False)
    async def show_model(principal: Asker, name: str) -> Response:
        try:
            return answer(model_to_json(engine, engine.models.get(principal, name)))
        except Exception as error:
            return openai_response(error)


def models_to_json(engine: Engine, principal: Principal) -> dict[str, Any]:
    """The list of models as OpenAI has it: those that the principal may ask."""
    return {"object": "list", "data": [model_to_json(engine, name) for name in engine.models.list(principal)]}


def model_to_json(engine: Engine, name: str) -> dict[str, Any]:
    """A model as OpenAI has it. `created`: when its state last changed, as far as that is known."""
    status = engine.models.status().get(name)
    created = int(status.since) if status is not None else 0
    return {"id": name, "object": "model", "created": created, "owned_by": engine.mesh.name}


# Reading


async def _body(request: Request) -> ChatBody:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidInput("send the body with Content-Type: application/json")
    data = await request.body()
    value = await anyio.to_thread.run_sync(parse_json, data) if len(data) > _LARGE else parse_json(data)
    try:
        return ChatBody.model_validate(value, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
    where = [str(part) for part in fault["loc"] if not (isinstance(part, str) and part[:1].isupper())]
    at = ".".join(where) or "body"
    if fault["type"] == "extra_forbidden":
        raise InvalidInput(f"{at} is not a parameter that this server takes; leave it out", param=at)
    raise InvalidInput(f"{at}: {str(fault['msg'])[:1].lower()}{str(fault['msg'])[1:]}", param=at)


def _asked(body: ChatBody) -> ChatRequest:
    schema, options = None, {name: value for name in _HANDED_ON if (value := getattr(body, name)) is not None}
    if body.response_format is not None:
        if body.response_format.type == "json_schema":
            if body.response_format.json_schema is None:
                raise InvalidInput("response_format of type json_schema has its json_schema", param="response_format")
            schema = body.response_format.json_schema.schema_
        elif body.response_format.type == "json_object":
            options["response_format"] = {"type": "json_object"}
    messages = [message.model_dump(exclude_unset=True) for message in body.messages]
    return ChatRequest(
        model=body.model, messages=messages, tools=tuple(body.tools or ()), schema=schema, options=options,
        max_tokens=body.max_completion_tokens or body.max_tokens, temperature=body.temperature, seed=body.seed,
        stream=bool(body.stream), timeout=TIME,
    )  # fmt: skip


# Answering


class _Frame:
    """What is the same in every piece of one answer."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._id = f"chatcmpl-{engine.random.randbytes(12).hex()}"
        self._created = int(engine.clock())
        self._model = model

    def filled(self, kind: str, choices: list[dict[str, Any]], answerer: str | None, **more: Any) -> dict[str, Any]:
        """`answerer`: the endpoint's own name for what answered, with its revision."""
        return {
            "id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices,
            "system_fingerprint": answerer, **more,
        }  # fmt: skip


async def _whole(engine: Engine, principal: Principal, body: ChatBody) -> Response:
    frame = _Frame(engine, body.model)
    text: list[str] = []
    last = ChatChunk()
    async with aclosing(engine.models.chat(principal, _asked(body))) as chunks:
        async for chunk in chunks:
            text.append(chunk.text)
            last = chunk
    said = "".join(text)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": said or (None if last.tool_uses else ""),
        "refusal": None,
    }
    if last.tool_uses:
        message["tool_calls"] = [_tool_call(use) for use in last.tool_uses]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish_reason or "stop"}
    usage = _usage(last.usage or Usage())
    return answer(frame.filled("chat.completion", [choice], last.model, usage=usage))


async def _stream(engine: Engine, principal: Principal, body: ChatBody) -> Response:
    chunks = engine.models.chat(principal, _asked(body))
    # What goes wrong before the first word has a status of its own; afterwards it can only be told in the stream.
    first = await anext(chunks, ChatChunk(finish_reason="stop"))
    return stream(_events(_Frame(engine, body.model), chunks, first, body))


async def _events(
    frame: _Frame, chunks: AsyncGenerator[ChatChunk, None], first: ChatChunk, body: ChatBody
) -> AsyncIterator[ServerSentEvent]:
    with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    more: dict[str, Any] = {"usage": None} if with_usage else {}

    def event(delta: Mapping[str, Any], finish: str | None, answerer: str | None) -> ServerSentEvent:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(frame.filled("chat.completion.chunk", [choice], answerer, **more))

    async with aclosing(chunks):
        yield event({"role": "assistant", "content": ""}, None, first.model)
        chunk, ended = first, False
        try:
            while True:
                if chunk.text:
                    yield event({"content": chunk.text}, None, chunk.model)
                if chunk.tool_uses:
                    calls = [{"index": i, **_tool_call(use)} for i, use in enumerate(chunk.tool_uses)]
                    yield event({"tool_calls": calls}, None, chunk.model)
                if chunk.finish_reason is not None:
                    yield event({}, chunk.finish_reason, chunk.model)
                    ended = True
                    break
                chunk = await anext(chunks, ChatChunk(finish_reason="stop"))
        except MeshError as error:
            yield _event(to_openai(error)[1])
    if ended:
        if with_usage:
            usage = _usage(chunk.usage or Usage())
            yield _event(frame.filled("chat.completion.chunk", [], chunk.model, usage=usage))
        yield ServerSentEvent("[DONE]", sep="\n")


def _tool_call(use: ToolUse) -> dict[str, Any]:
    return {"id": use.id, "type": "function", "function": {"name": use.name, "arguments": use.arguments}}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens, "total_tokens": usage.tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }  # fmt: skip


def _event(value: Mapping[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(write_json(value).decode(), sep="\n")


# Errors


def to_openai(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status and body of an error: what `to_problem` says, in OpenAI's form and by OpenAI's statuses."""
    problem = to_problem(error)
    status = int(problem["status"])
    if isinstance(error, ModelRefused):
        # A key that is not taken is this mesh's fault, not the client's.
        status = 502 if problem.get("answered") in {401, 403} else 400
    elif isinstance(error, InvalidInput):
        status = 400
    code = "model_not_found" if isinstance(error, NotFound) else str(problem["code"])
    kind = "permission_error" if isinstance(error, PolicyDenied) else None
    return status, openai_error(status, str(problem["detail"]), code, kind=kind, param=problem.get("param"))


def openai_response(error: Exception) -> Response:
    status, body = to_openai(error)
    return answer(body, status, retry_headers(error))
