"""ModelBackend over any OpenAI-compatible endpoint: the replicas we deploy, and whatever a `url` points to.

One request to one endpoint is `_Call`; around it: which replica (the one with the fewest calls in flight), waiting for
a model that is loading, and trying again when a replica died with the call in its hands. A call that was cut off after
text was handed on is not repeated here: the caller has seen half an answer, and decides.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import anyio

from agentmesh.adapters.http1 import Answer, Client, Dropped, Http1Client, HttpxClient, Oversized, Unreachable
from agentmesh.adapters.openai_embeddings import embedding_bodies, vectors_of
from agentmesh.core.model import ChatChunk, ChatRequest, Model, ModelState, ModelStatus, Progress, ToolUse, Usage
from agentmesh.core.trace import current
from agentmesh.errors import ModelFailed, ModelRefused, ModelUnavailable, NotFound

PATIENCE = 4
"""How much a call may lose after it was sent: a refusal for now counts 1, a connection that broke 2.

A call that kills whatever answers it must not be offered to many replicas."""
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 4.0


class Deployed(Protocol):
    """The models we deploy ourselves: `ModelChild`."""

    def status(self) -> Mapping[str, ModelStatus]: ...

    async def wait_ready(
        self, name: str, progress: Progress | None = None, timeout: float = 600.0
    ) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class _Try:
    """The endpoint could not answer now."""

    message: str
    loss: int
    """0: the request was not sent."""
    after: float = 0.0


class _Again(Exception):
    def __init__(self, reason: _Try) -> None:
        super().__init__(reason.message)
        self.reason = reason


class OpenAiHttp:
    """Every model of the mesh. `async with` it; live as long as the server."""

    def __init__(
        self,
        models: Mapping[str, Model],
        deployed: Deployed | None = None,
        *,
        model_wait: float = 600.0,
        plain: Client | None = None,
        secure: Client | None = None,
    ) -> None:
        """`model_wait`: seconds a call waits for a model that is still loading. `deployed` None: none are."""
        self._models = dict(models)
        self._deployed = deployed
        self._wait = model_wait
        self._plain: Client = plain or Http1Client()
        self._secure: Client = secure or HttpxClient(max([m.concurrency for m in models.values()] or [64]))
        self._in_flight: dict[str, int] = {}
        self._limits = {name: anyio.Semaphore(model.concurrency, fast_acquire=True) for name, model in models.items()}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2):
            await self._plain.aclose()
            await self._secure.aclose()

    def status(self) -> dict[str, ModelStatus]:
        """Where each model stands; a `url` is `remote`, whatever it may be doing."""
        ours = self._deployed.status() if self._deployed else {}
        return {name: ours.get(name) or self._unmanaged(name, model) for name, model in self._models.items()}

    async def chat(self, request: ChatRequest, progress: Progress | None = None) -> AsyncIterator[ChatChunk]:
        """See `ModelBackend.chat`."""
        model = self._models.get(request.model)
        if model is None:
            raise NotFound(f"there is no model {request.model!r}; agentmesh.yaml has {', '.join(sorted(self._models))}")
        body = json.dumps(_body(request, model)).encode()
        async with self._limits[request.model]:
            lost, pause, deadline = 0, FIRST_PAUSE, time.monotonic() + self._wait
            while True:
                url = await self._choose(request.model, model, progress, deadline - time.monotonic())
                call = _Call(request, self._secure if url.startswith("https:") else self._plain, model.key)
                self._in_flight[url] = self._in_flight.get(url, 0) + 1
                try:
                    async with aclosing(call.run(url, body)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    return
                except _Again as again:
                    reason = again.reason
                finally:
                    self._in_flight[url] -= 1
                    if not self._in_flight[url]:
                        del self._in_flight[url]  # replicas come and go
                # Not sent at all, the call may wait for the model to come back; lost in its hands, only so often.
                lost += reason.loss if model.deploy is not None else max(1, reason.loss)
                if call.told or lost > PATIENCE or time.monotonic() + pause > deadline:
                    raise ModelUnavailable(f"model {request.model!r}: {reason.message}; try again later")
                if progress is not None:
                    progress(f"model {request.model!r}: {reason.message}; trying again")
                await anyio.sleep(max(pause, min(reason.after, LONGEST_PAUSE)))
                pause = min(LONGEST_PAUSE, pause * 2)

    async def embed(self, model: str, texts: Sequence[str], *, timeout: float = 60.0) -> list[list[float]]:
        """See `ModelBackend.embed`. Many texts go in several requests, one after the other."""
        known = self._models.get(model)
        if known is None:
            raise NotFound(f"there is no model {model!r}; agentmesh.yaml has {', '.join(sorted(self._models))}")
        found: list[list[float]] = []
        try:
            with anyio.fail_after(timeout):
                async with self._limits[model]:
                    for body, count in embedding_bodies(
                        model if known.deploy is not None else known.model or model, texts
                    ):
                        found += vectors_of(model, await self._embedded(model, known, body, timeout), count)
        except TimeoutError:
            raise ModelUnavailable(f"model {model!r} did not make embeddings within {timeout:g} s") from None
        if any(len(vector) != len(found[0]) for vector in found):
            raise ModelUnavailable(f"model {model!r} made embeddings of different lengths; is `url` right?")
        return found

    async def _embedded(self, name: str, model: Model, body: bytes, timeout: float) -> bytes:
        """The answer to one request for embeddings. Asking twice does no harm, so a lost one is asked again."""
        headers = {"content-type": "application/json", "accept": "application/json"}
        if model.key:
            headers["authorization"] = f"Bearer {model.key}"
        for last in (False, True):
            url = await self._choose(name, model, None, timeout)
            client = self._secure if url.startswith("https:") else self._plain
            try:
                async with client.post(f"{url}/embeddings", headers, body) as answer:
                    data = await answer.read()
                    if answer.status == 200:
                        return data
                    raise _error(name, answer, data)
            except (Unreachable, Dropped, _Again) as error:
                if last:
                    raise ModelUnavailable(f"model {name!r}: {error}; try again later") from error
            except Oversized as error:
                raise ModelRefused(f"model {name!r} gave {error} for embeddings") from None
            await anyio.sleep(FIRST_PAUSE)
        raise AssertionError("unreachable")

    async def _choose(self, name: str, model: Model, progress: Progress | None, seconds: float) -> str:
        """The base URL to ask: of several replicas the one with the fewest calls in flight."""
        if model.deploy is None:
            if model.url is None:
                raise ModelFailed(f"model {name!r} has neither `deploy` nor `url`; give one in agentmesh.yaml")
            return model.url.rstrip("/")
        if self._deployed is None or name not in self._deployed.status():
            raise ModelFailed(f"model {name!r} is not deployed: this server was started without models")
        urls = await self._deployed.wait_ready(name, progress, max(0.0, seconds))
        return urls[0] if len(urls) == 1 else min(urls, key=lambda url: self._in_flight.get(url, 0))

    def _unmanaged(self, name: str, model: Model) -> ModelStatus:
        if model.deploy is None and model.url is not None:
            return ModelStatus(name, ModelState.REMOTE, urls=(model.url.rstrip("/"),), source=model.model or "")
        return ModelStatus(
            name, ModelState.STOPPED, "this server was started without models", source=model.source or ""
        )


class _Call:
    """One request to one address."""

    def __init__(self, request: ChatRequest, client: Client, key: str | None) -> None:
        self._request, self._client, self._key = request, client, key
        self.told = False
        """Text was handed on: the call cannot be repeated unseen."""

    async def run(self, url: str, body: bytes) -> AsyncGenerator[ChatChunk, None]:
        headers = {
            "content-type": "application/json",
            "accept": "application/json",
            **current(),
            **self._request.headers,
        }
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        began = time.monotonic()
        try:
            if self._request.stream:
                async with aclosing(self._stream(url, headers, body, began)) as chunks:
                    async for chunk in chunks:
                        self.told = self.told or bool(chunk.text)
                        yield chunk
            else:
                yield await self._whole(url, headers, body, began)
        except Unreachable as error:
            raise _Again(_Try(str(error), loss=0)) from error
        except Dropped as error:
            raise _Again(_Try(str(error), loss=2)) from error
        except Oversized as error:
            raise ModelRefused(
                f"model {self._request.model!r} gave {error}; bound what it may say with `max_tokens`"
            ) from None
        except TimeoutError:
            raise ModelUnavailable(
                f"model {self._request.model!r} did not answer within {self._request.timeout:.0f} s; "
                "ask for less or give it longer"
            ) from None

    async def _whole(self, url: str, headers: Mapping[str, str], body: bytes, began: float) -> ChatChunk:
        with anyio.fail_after(self._request.timeout):
            async with self._client.post(f"{url}/chat/completions", headers, body) as answer:
                data = await answer.read()
                if answer.status != 200:
                    raise _error(self._request.model, answer, data)
        try:
            document = json.loads(data)
            choice = document["choices"][0]
            text = choice["message"].get("content") or ""
            calls = _Calls()
            calls.add(choice["message"].get("tool_calls"))
            tool_uses = calls.joined()
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelUnavailable(f"model {self._request.model!r} sent no chat completion; is `url` right?") from error
        usage = _usage(document.get("usage"), time.monotonic() - began)
        return ChatChunk(text, choice.get("finish_reason") or "stop", usage, _answerer(document), tool_uses)

    async def _stream(
        self, url: str, headers: Mapping[str, str], body: bytes, began: float
    ) -> AsyncGenerator[ChatChunk, None]:
        deadline = began + self._request.timeout
        finish: str | None = None
        usage, who, calls = None, None, _Calls()
        # No cancel scope may be open across a yield: each wait has its own.
        post = self._client.post(f"{url}/chat/completions", headers, body)
        with anyio.fail_after(self._request.timeout):
            answer = await post.__aenter__()
        try:
            if answer.status != 200:
                with anyio.fail_after(max(0.0, deadline - time.monotonic())):
                    data = await answer.read()
                raise _error(self._request.model, answer, data)
            lines = answer.lines()
            while True:
                with anyio.fail_after(max(0.0, deadline - time.monotonic())):
                    line = await anext(lines, None)
                if line is None:
                    break
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    continue  # read on to the end of the body, so that the connection can be kept
                try:
                    document = json.loads(data)
                    failed = "error" in document
                    who = _answerer(document) or who
                    if document.get("usage"):
                        usage = _usage(document["usage"], time.monotonic() - began)
                    texts: list[str] = []
                    for choice in document.get("choices") or ():
                        finish = choice.get("finish_reason") or finish
                        delta = choice.get("delta") or {}
                        calls.add(delta.get("tool_calls"))
                        texts.append(delta.get("content") or "")
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    raise ModelUnavailable(
                        f"model {self._request.model!r} sent no chat completion; is `url` right?"
                    ) from error
                if failed:
                    raise _Again(_Try(_message(data) or "the stream broke off", loss=1))
                for text in filter(None, texts):
                    yield ChatChunk(text, model=who)
        finally:
            with anyio.CancelScope(shield=True):
                await post.__aexit__(None, None, None)
        if finish is None:
            raise Dropped("the stream ended before the answer did")
        yield ChatChunk("", finish, usage or Usage(seconds=time.monotonic() - began), who, calls.joined())


class _Calls:
    """The tools that an answer asks for, put together from what it says in pieces (or at once)."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[str, str]] = {}

    def add(self, calls: Sequence[Mapping[str, Any]] | None) -> None:
        for place, call in enumerate(calls or ()):
            # Streams number the calls; some endpoints do not, and send each as a whole with an id of its own.
            index = call.get("index")
            if index is None:
                index = len(self._parts) if call.get("id") else max(self._parts, default=place)
            part = self._parts.setdefault(index, {"id": "", "name": "", "arguments": ""})
            function = call.get("function") or {}
            said = function.get("arguments")
            part["id"] = part["id"] or call.get("id") or ""
            part["name"] = part["name"] or function.get("name") or ""
            part["arguments"] += said if isinstance(said, str) else "" if said is None else json.dumps(said)

    def joined(self) -> tuple[ToolUse, ...]:
        return tuple(
            ToolUse(part["id"] or f"call_{index}", part["name"], part["arguments"])
            for index, part in sorted(self._parts.items())
        )


def _body(request: ChatRequest, model: Model) -> dict[str, Any]:
    body: dict[str, Any] = {
        **request.options,
        "model": request.model if model.deploy is not None else model.model or request.model,
        "messages": list(request.messages),
    }
    for name in ("max_tokens", "temperature", "seed"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.tools:
        body["tools"] = list(request.tools)
    if request.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if request.schema is not None:
        schema = {"name": "output", "strict": True, "schema": request.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _error(name: str, answer: Answer, data: bytes) -> Exception:
    """What a status other than 200 means to the caller: wrong request, or not now."""
    said = _message(data) or f"HTTP {answer.status}"
    if answer.status in {401, 403}:
        return ModelRefused(
            f"model {name!r} refused the key: {said}; check `key` in agentmesh.yaml", answered=answer.status
        )
    if answer.status in {408, 409, 425, 429} or answer.status >= 500:
        after = answer.headers.get("retry-after", "")
        return _Again(
            _Try(f"it answered {answer.status}: {said}", loss=1, after=float(after) if after.isdigit() else 0)
        )
    return ModelRefused(f"model {name!r} refused the request ({answer.status}): {said}", answered=answer.status)


def _message(data: bytes) -> str:
    """The endpoint's own words, as far as they are in one of the usual places."""
    try:
        document = json.loads(data)
    except ValueError:
        return data[:300].decode(errors="replace").strip()
    if isinstance(document, dict):
        error = document.get("error", document)
        if isinstance(error, dict):
            error = error.get("message") or error.get("detail") or error
        document = error
    return (document if isinstance(document, str) else json.dumps(document))[:500]


def _usage(document: Mapping[str, Any] | None, seconds: float) -> Usage:
    fields = document or {}
    details = fields.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=int(fields.get("prompt_tokens") or 0),
        completion_tokens=int(fields.get("completion_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
        seconds=seconds,
    )


def _answerer(document: Mapping[str, Any]) -> str | None:
    model, build = document.get("model"), document.get("system_fingerprint")
    return f"{model} ({build})" if model and build else model
