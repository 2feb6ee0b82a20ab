"""Webhooks: who knows the secret starts the workflow, once for each event."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette

from agentmesh.core.policy import PolicyFile
from agentmesh.core.store import RunFilter
from agentmesh.engine import Engine
from agentmesh.errors import ServeError
from agentmesh.http.auth import Guard
from agentmesh.http.problems import HANDLERS
from agentmesh.http.shapes import workflow_to_json
from agentmesh.http.webhooks import webhook_routes, webhooks_of
from agentmesh.settings import Limits, Secrets, Settings
from tests.engine.meshes import LOCAL, mesh, serving, workflow
from tests.http.serving import served

pytestmark = pytest.mark.anyio

SECRETS = {"TOKEN": "s3cret", "KEY": "signing key"}
TOKEN, KEY = "${{ secrets.TOKEN }}", "${{ secrets.KEY }}"
BEARER = {"Authorization": "Bearer s3cret"}


def hooked(**hook: Any) -> Any:
    return workflow(
        "greet", {"id": "a", "set": "${{ input.text }}"}, on={"webhook": {"path": "desk", "token": TOKEN} | hook}
    )


@asynccontextmanager
async def listening(of: Any = None, **given: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Engine]]:
    of = of or mesh(hooked(**given))
    settings = Settings(folder=Path("mesh"), secrets=Secrets(SECRETS), limits=Limits(body=10_000))
    async with serving(of) as engine:
        app = Starlette(routes=webhook_routes(settings, of, lambda: engine), exception_handlers=HANDLERS)
        guard = Guard(app, limits=settings.limits)
        async with served(guard) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
            yield client, engine


def signed(body: bytes, key: str = SECRETS["KEY"], prefix: str = "sha256=") -> dict[str, str]:
    return {"X-Signature-256": prefix + hmac.digest(key.encode(), body, hashlib.sha256).hex()}


async def test_a_call_with_the_token_starts_a_run() -> None:
    """202 with the run's id and address; it acts for the webhook, and its input is the body."""
    async with listening() as (client, engine):
        answer = await client.post("/webhooks/desk", json={"text": "hi"}, headers=BEARER)
        assert answer.status_code == 202
        body = answer.json()
        assert answer.headers["location"] == f"/v1/runs/{body['run']}"
        assert body["url"] == f"{client.base_url}/v1/runs/{body['run']}".replace("//v1", "/v1")
        run = await engine.runs.wait(LOCAL, body["run"])
    assert (run.owner, run.source, run.input, run.output) == ("webhook:greet", "webhook", {"text": "hi"}, "hi")


async def test_a_signature_over_the_raw_body() -> None:
    """With or without `sha256=`, in any case of letters, in the header that the file names."""
    body = b'{ "text": "hi" }'
    async with listening(token=None, key=KEY, header="X-Hub-Signature-256") as (client, _):
        for headers in (
            signed(body),
            signed(body, prefix=""),
            {k: v.upper().replace("SHA", "sha") for k, v in signed(body).items()},
        ):
            sent = {"X-Hub-Signature-256": headers["X-Signature-256"], "Content-Type": "application/json"}
            assert (await client.post("/webhooks/desk", content=body, headers=sent)).status_code == 202
            changed = await client.post("/webhooks/desk", content=body.replace(b"hi", b"ho"), headers=sent)
            assert changed.status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"},
        {"Authorization": "Basic s3cret"}, {"Authorization": "s3cret"}, {"Authorization": "Bearer s3cret x"},
        {"Authorization": "Bearer ${{ secrets.TOKEN }}"},
    ],
)  # fmt: skip
async def test_a_wrong_token_is_refused_before_the_body_is_looked_at(headers: dict[str, str]) -> None:
    """All in the same words; nothing is started, and a fault in the body is not told."""
    async with listening() as (client, engine):
        for body in (b'{"text": "hi"}', b"not JSON"):
            answer = await client.post("/webhooks/desk", content=body, headers=headers)
            assert (answer.status_code, answer.json()["detail"]) == (401, "this needs the webhook's secret")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await engine.runs.list(LOCAL, RunFilter())).total == 0


@pytest.mark.parametrize("right", [{"token"}, {"key"}, set()], ids=["token only", "signature only", "neither"])
async def test_a_webhook_with_both_secrets_wants_both(right: set[str]) -> None:
    """And says of neither that it was wrong."""
    body = b'{"text": "hi"}'
    good = {**BEARER, **signed(body), "Content-Type": "application/json"}
    headers = {**good}
    if "token" not in right:
        headers["Authorization"] = "Bearer no"
    if "key" not in right:
        headers |= signed(body, "another")
    async with listening(key=KEY) as (client, _):
        answer = await client.post("/webhooks/desk", content=body, headers=headers)
        assert (answer.status_code, answer.json()["detail"]) == (401, "this needs the webhook's secret")
        assert (await client.post("/webhooks/desk", content=body, headers=good)).status_code == 202


async def test_what_there_is_not_is_told_as_everywhere() -> None:
    """A webhook that no file has is a path that there is not; other methods are refused whatever the path."""
    async with listening() as (client, _):
        for path in ("/webhooks/none", "/webhooks/desk/more", "/webhooks/"):
            answer = await client.post(path, json={}, headers=BEARER)
            assert (answer.status_code, answer.json()["detail"]) == (404, f"there is nothing at {path}")
        for path in ("/webhooks/desk", "/webhooks/none"):
            assert (await client.get(path)).status_code == 405


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"", {}, 400, ""),
        (b"{", {}, 400, ""),
        (b'{"text": NaN}', {}, 400, ""),
        (b"\xff", {}, 400, ""),
        (b"[" * 5000, {}, 400, ""),
        (b"[]", {}, 422, "object"),
        (b'"text"', {}, 422, "object"),
        (b"{}", {}, 422, "text"),
        (b'{"text": 1}', {}, 422, "text"),
        (b'{"text": "a", "more": 1}', {}, 422, "more"),
        (b'{"text": "%s"}' % (b"x" * 20_000), {}, 413, "10000"),
        (b"text=hi", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
        (b'{"text": "a"}', {"Idempotency-Key": "x" * 600}, 422, "512"),
        (b'{"text": "a"}', {"Origin": "http://evil.example"}, 403, "evil.example"),
        (b'{"text": "a"}', {"Host": "evil.example"}, 421, "evil.example"),
    ],
)
async def test_bad_calls_are_the_callers(body: bytes, headers: dict[str, str], status: int, said: str) -> None:
    """A problem that says what is wrong; nothing is started."""
    async with listening() as (client, engine):
        sent = {"Content-Type": "application/json", **BEARER, **headers}
        answer = await client.post("/webhooks/desk", content=body, headers=sent)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert said in answer.json()["detail"]
        assert (await engine.runs.list(LOCAL, RunFilter())).total == 0


async def test_the_same_event_starts_one_run() -> None:
    """By Idempotency-Key, or by the header that the file names; the keys of two workflows do not meet."""
    other = workflow("other", {"id": "a", "set": 1}, on={"webhook": {"path": "other", "token": TOKEN}})
    async with listening(mesh(hooked(id_header="X-Delivery"), other)) as (client, engine):
        ids = []
        for header in ("Idempotency-Key", "X-Delivery", "x-delivery"):
            answer = await client.post("/webhooks/desk", json={"text": "hi"}, headers={**BEARER, header: "e 1"})
            ids.append(answer.json()["run"])
        assert len(set(ids)) == 1
        assert (await engine.runs.get(LOCAL, ids[0])).key == "webhook:greet:e 1"
        changed = await client.post("/webhooks/desk", json={"text": "ho"}, headers={**BEARER, "X-Delivery": "e 1"})
        assert changed.status_code == 409
        elsewhere = await client.post(
            "/webhooks/other", json={"text": "hi"}, headers={**BEARER, "Idempotency-Key": "e 1"}
        )
        assert elsewhere.json()["run"] != ids[0]


async def test_twenty_of_one_event_at_once_start_one_run() -> None:
    """Each caller is given the same run."""
    found: set[str] = set()
    async with listening() as (client, engine):

        async def call() -> None:
            answer = await client.post(
                "/webhooks/desk", json={"text": "hi"}, headers={**BEARER, "Idempotency-Key": "1"}
            )
            found.add(answer.json()["run"])

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(call)
        assert (await engine.runs.list(LOCAL, RunFilter())).total == len(found) == 1


async def test_a_policy_may_say_no() -> None:
    """The webhook is somebody whom rules name; 403 then."""
    policy = PolicyFile.model_validate(
        {
            "roles": {"hooks": {"subjects": ["webhook:*"]}},
            "rules": [{"allow": "*"}, {"deny": "runs.start", "to": ["hooks"]}],
        }
    )
    async with listening(replace(mesh(hooked()), policies=(policy,))) as (client, _):
        answer = await client.post("/webhooks/desk", json={"text": "hi"}, headers=BEARER)
        assert (answer.status_code, answer.json()["code"]) == (403, "denied")


async def test_a_secret_that_is_missing_or_empty_stops_the_server() -> None:
    """An empty one would let everybody in."""
    for secrets in ({}, {"TOKEN": ""}, {"TOKEN": " "}):
        with pytest.raises(ServeError, match="secret"):
            webhooks_of(mesh(hooked()), secrets)


async def test_secrets_are_shown_nowhere() -> None:
    """Neither by the API, nor in what a run is pinned to, nor by `repr`."""
    of = mesh(hooked(key=KEY))
    hook = webhooks_of(of, SECRETS)["desk"]
    assert not any(secret in repr(hook) for secret in SECRETS.values())
    assert workflow_to_json(of.workflows["greet"])["on"] == {"cron": [], "webhook": {"path": "desk"}}
    async with serving(of) as engine:
        run = await engine.runs.start(LOCAL, "greet", {"text": "x"})
        document = str(await engine.store.get_definition(run.definition))
        assert not any(secret in document for secret in SECRETS.values())
