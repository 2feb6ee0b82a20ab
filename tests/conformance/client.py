"""The client under test: `conformance client --command "python -m tests.conformance.client" --requirements REVISION`.

The harness gives the URL of its server as the last argument and the scenario in the environment; what it wants to see is what this
mesh's adapters do towards upstreams. This driver only plays the two people beside them: whoever calls the tools, and the user with a
browser. Exit status 0 when the scenario was played to its end.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import httpx2

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.upstream_http import PlainHttp
from agentmesh.adapters.upstream_mcp import UpstreamMcp
from agentmesh.adapters.upstream_mcp_http import HttpWire
from agentmesh.adapters.upstream_mcp_link import LinkPace
from agentmesh.adapters.upstream_mcp_session import Exchange, Session, negotiate
from agentmesh.adapters.upstream_oauth import UpstreamOAuth
from agentmesh.adapters.vault import Vault
from agentmesh.core.caller import ROOTS, SAMPLING, InputRequest, Method, NoCaller
from agentmesh.core.policy import Principal
from agentmesh.core.server_file import OAuth, ServerFile, Upstream
from agentmesh.core.source import SourceCall
from agentmesh.core.tool import Tool
from agentmesh.errors import Fail, MeshError

USER = Principal()
BASE_URL = "http://127.0.0.1:8080"
DOCUMENT = "https://conformance-test.local/client-metadata.json"
"""The harness's name for a client with a metadata document."""
LOGINS = 6
"""How often the user goes to log in for one scenario; a client that asks more often has lost its way."""
WAIT = 60.0
"""Seconds for an answer, and for the tools to be listed: the harness plays all scenarios at once."""
CALLS: Mapping[str, list[tuple[str, dict[str, Any]]]] = {
    "tools_call": [("add_numbers", {"a": 5, "b": 3})],
    "request-metadata": [("add_numbers", {"a": 5, "b": 3})],
    "http-standard-headers": [("add_numbers", {"a": 5, "b": 3})],
    "elicitation-sep1034-client-defaults": [("test_client_elicitation_defaults", {})],
    "sse-retry": [("test_reconnection", {})],
    "sep-2322-client-request-state": [
        ("test_mrtr_echo_state", {}),
        ("test_mrtr_unrelated", {}),
        ("test_mrtr_no_state", {}),
        ("test_mrtr_no_result_type", {}),
    ],
}
"""What is called, after the tools were listed."""
REFUSED_ON_PURPOSE = frozenset({"http-custom-headers", "http-invalid-tool-headers"})
"""Scenarios whose servers refuse some of the calls: the others are made all the same."""
UNLISTED = frozenset({"request-metadata", "http-standard-headers"})
"""Scenarios whose servers do not list the tool that is to be called."""
SAMPLES: Mapping[str, Any] = {
    "string": "x", "integer": 0, "number": 0, "boolean": False, "object": {}, "array": [], "null": None,
}  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """What the harness says in the environment."""

    name: str
    revision: str
    context: Mapping[str, Any]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Scenario:
        return cls(
            environ.get("MCP_CONFORMANCE_SCENARIO", "initialize"),
            environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "2026-07-28"),
            json.loads(environ.get("MCP_CONFORMANCE_CONTEXT") or "{}"),
        )

    @property
    def authorizes(self) -> bool:
        return self.name.startswith("auth/")

    def calls(self, tools: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        """What is called, by the input schemas of the tools that are offered."""
        if self.authorizes:
            return [(name, {}) for name in list(tools)[:1]]
        if self.name == "http-custom-headers":
            wanted = self.context.get("toolCalls", [])
            return [(call["name"], call.get("arguments") or {}) for call in wanted if call["name"] in tools]
        if self.name == "http-invalid-tool-headers":
            return [(name, sample(schema)) for name, schema in tools.items()]
        if self.name == "json-schema-2020-12-preservation":
            return [("json_schema_echo", {"schema": tools["json_schema_2020_12_tool"]})]
        return [(name, arguments) for name, arguments in CALLS.get(self.name, [])]


def sample(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The least that fits a schema's `required`."""
    properties = schema.get("properties", {})
    return {name: SAMPLES.get(properties.get(name, {}).get("type"), "x") for name in schema.get("required", [])}


def oauth_of(url: str, scenario: Scenario, store: MemoryStore) -> UpstreamOAuth:
    """As `oauth:` of a server file would have it."""
    given = scenario.context
    spec = OAuth(
        flow="client_credentials" if "client-credentials" in scenario.name else "authorization_code",
        client_id=given.get("client_id"),
        client_key=given.get("client_secret") or given.get("private_key_pem"),
    )
    vault = Vault(store, [b"conformance-" * 4])
    return UpstreamOAuth("upstream", url, spec, vault=vault, base_url=BASE_URL, client_document=DOCUMENT)


class User(NoCaller):
    """Whoever calls, as the mesh's adapters see them: logs in when asked to, and says to a form what it proposes."""

    def __init__(self, oauth: UpstreamOAuth) -> None:
        self._oauth = oauth
        self.logins = 0

    def can(self, method: Method) -> bool:
        return True

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        return {key: await self._answer(request) for key, request in requests.items()}

    async def _answer(self, request: InputRequest) -> Mapping[str, Any]:
        if request.method == SAMPLING:
            return {"role": "assistant", "content": {"type": "text", "text": ""}, "model": "none"}
        if request.method == ROOTS:
            return {"roots": []}
        if request.params.get("mode") == "url":
            await self.log_in()
            return {"action": "accept"}
        properties = request.params.get("requestedSchema", {}).get("properties", {})
        return {"action": "accept", "content": {name: part.get("default", True) for name, part in properties.items()}}

    async def log_in(self) -> None:
        """Out to the authorization server, which sends the browser back at once."""
        self.logins += 1
        if self.logins > LOGINS:
            raise Fail("the user was sent to log in again and again")
        begun = await self._oauth.start(USER)
        async with httpx2.AsyncClient() as browser:
            response = await browser.get(begun.url)
        back = urlsplit(response.headers["location"])
        await self._oauth.finish(USER, dict(parse_qsl(back.query)), begun.browser)


async def play(scenario: Scenario, url: str) -> None:
    """Connects, has the tools listed, calls those that the scenario wants called."""
    await (unlisted if scenario.name in UNLISTED else offered)(scenario, url)


async def unlisted(scenario: Scenario, url: str) -> None:
    """Calls what the server does not list, which no gateway would offer: by the session beneath it."""
    user = User(oauth_of(url, scenario, MemoryStore()))
    async with anyio.create_task_group() as tasks:
        http = PlainHttp()
        try:
            session = Session("upstream", HttpWire("upstream", url, http, {}), tasks, lambda method, params: None)
            try:
                await negotiate(session, legacy=False, probe_time=WAIT)
            except Fail:
                await negotiate(session, legacy=False, probe_time=WAIT)  # a link connects again, too
            await session.request("tools/list", {}, timeout=WAIT)
            for name, arguments in CALLS[scenario.name]:
                params = {"name": name, "arguments": arguments}
                await session.request("tools/call", params, timeout=WAIT, exchange=Exchange(user))
        finally:
            await http.aclose()


async def offered(scenario: Scenario, url: str) -> None:
    """Calls what the upstream offers, as the mesh does."""
    server = ServerFile(name="upstream", upstream=Upstream(url=url))
    async with MemoryStore() as store:
        oauth = oauth_of(url, scenario, store)
        user = User(oauth)
        source = UpstreamMcp(
            server, folder=Path.cwd(), store=store, oauth=oauth if scenario.authorizes else None,
            pace=LinkPace(backoff=0.1, again=0.05, older=scenario.revision < "2026-07-28"),
        )  # fmt: skip
        async with source:
            tools = await listed(source, oauth if scenario.authorizes and oauth.per_user else None, user)
            for name, arguments in scenario.calls(
                {tool.name.partition(".")[2]: tool.input_schema for tool in tools.values()}
            ):
                call = SourceCall(tools[f"upstream.{name}"], arguments, USER, caller=user, writes=False)
                try:
                    await source.call(call)
                except MeshError as error:
                    if scenario.name not in REFUSED_ON_PURPOSE:
                        raise
                    sys.stderr.write(f"{name}: {error}\n")


async def listed(source: UpstreamMcp, oauth: UpstreamOAuth | None, user: User) -> Mapping[str, Tool]:
    """The upstream's tools; whoever waits for them logs in where that is wanted, as every caller does."""
    with anyio.move_on_after(WAIT):
        while not source.tools():
            if oauth is not None:
                await oauth.require(USER, user)
            if user.logins and source.status().state == "failed":
                break
            await anyio.sleep(0.02)
    if not source.tools():
        raise Fail(f"no tools were listed: {source.status().detail}")
    return source.tools()


if __name__ == "__main__":
    anyio.run(play, Scenario.of(os.environ), sys.argv[-1])
