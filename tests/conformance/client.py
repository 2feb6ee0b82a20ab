"""The client under test: `conformance client --command "python -m tests.conformance.client" --requirements REVISION`.

The harness gives the URL of its server as the last argument and the scenario in the environment; what it wants to see is what this
mesh's adapters do towards upstreams. This driver only plays the two people beside them: whoever calls the tools, and the user with a
browser. Exit status 0 when the scenario was played to its end.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import httpx2
import mcp_types as types
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.upstream_oauth import UpstreamOAuth
from agentmesh.adapters.vault import Vault
from agentmesh.core.policy import Principal
from agentmesh.core.server_file import OAuth
from agentmesh.errors import LoginRequired

USER = Principal()
BASE_URL = "http://127.0.0.1:8080"
DOCUMENT = "https://conformance-test.local/client-metadata.json"
"""The harness's name for a client with a metadata document."""
LOGINS = 6
"""How often the user goes to log in for one scenario; a client that asks more often has lost its way."""
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
OLDER_SERVERS = frozenset({"json-schema-ref-no-deref"})
"""Scenarios of the newer revision whose servers speak only the older ones."""
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


class User:
    """Whoever calls, and logs in when a call says that this is wanted."""

    def __init__(self, oauth: UpstreamOAuth) -> None:
        self._oauth = oauth
        self._logins = 0

    async def calls(self, what: Callable[[], Awaitable[Any]]) -> Any:
        """Calls, logs in, and calls again."""
        while True:
            with self._oauth.attempt() as attempt:
                try:
                    return await what()
                except Exception:
                    refusal = attempt.refusal
                    if refusal is None:
                        raise
            if not isinstance(refusal, LoginRequired) or self._logins >= LOGINS:
                raise refusal
            self._logins += 1
            await self._log_in()

    async def _log_in(self) -> None:
        """Out to the authorization server, which sends the browser back at once."""
        begun = await self._oauth.start(USER)
        async with httpx2.AsyncClient() as browser:
            response = await browser.get(begun.url)
        back = urlsplit(response.headers["location"])
        await self._oauth.finish(USER, dict(parse_qsl(back.query)), begun.browser)


async def elicit(context: Any, params: Any) -> types.ElicitResult:
    """Accepts what the form proposes, and says yes where it proposes nothing."""
    properties = (getattr(params, "requested_schema", None) or {}).get("properties", {})
    content = {name: part["default"] for name, part in properties.items() if "default" in part}
    content |= {
        name: True for name, part in properties.items() if name not in content and part.get("type") == "boolean"
    }
    return types.ElicitResult(action="accept", content=content)


async def sampled(context: Any, params: Any) -> types.CreateMessageResult:
    return types.CreateMessageResult(role="assistant", content=types.TextContent(type="text", text=""), model="none")


async def roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


async def play(scenario: Scenario, url: str) -> None:
    """Connects, lists the tools, calls those that the scenario wants called."""
    older = scenario.revision < "2026-07-28" or scenario.name in OLDER_SERVERS
    async with MemoryStore() as store:
        oauth = oauth_of(url, scenario, store)
        user = User(oauth)

        async def session() -> None:
            auth = oauth.auth(USER) if scenario.authorizes else None
            async with (
                httpx2.AsyncClient(auth=auth, timeout=30) as http,
                Client(
                    streamable_http_client(url, http_client=http), mode="legacy" if older else "auto",
                    elicitation_callback=elicit, sampling_callback=sampled, list_roots_callback=roots,
                ) as client,
            ):  # fmt: skip
                listed = await user.calls(client.list_tools)
                for name, arguments in scenario.calls({tool.name: tool.input_schema for tool in listed.tools}):
                    try:
                        await user.calls(lambda name=name, arguments=arguments: client.call_tool(name, arguments))
                    except Exception as error:
                        if scenario.name not in REFUSED_ON_PURPOSE:
                            raise
                        sys.stderr.write(f"{name}: {error}\n")

        await user.calls(session)


if __name__ == "__main__":
    anyio.run(play, Scenario.of(os.environ), sys.argv[-1])
