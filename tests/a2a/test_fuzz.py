"""Requests made of the right names with wrong values: in both versions and bindings they are answered, and never as a fault of ours."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmesh.adapters.memory_peer import MemoryPeer
from tests.a2a.calling import V
from tests.a2a.conftest import Serving, serving_mesh, skills_mesh
from tests.a2a.test_relayed import work
from tests.requirements import covers

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.sampled_from(
    [
        "text",
        "data",
        "file",
        "message",
        "user",
        "agent",
        "ROLE_USER",
        "ROLE_AGENT",
        "application/json",
        "http://x",
        "aGk=",
        "no-such",
        "shout",
    ]
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | WORDS
NAMES = st.sampled_from(
    [
        "message", "request", "messageId", "message_id", "role", "parts", "content", "kind", "text", "data", "file", "bytes", "uri",
        "raw", "url", "fileWithBytes", "fileWithUri", "mimeType", "mediaType", "name", "filename", "metadata", "contextId", "taskId",
        "id", "historyLength", "configuration", "blocking", "returnImmediately", "acceptedOutputModes", "pushNotificationConfig",
        "taskPushNotificationConfig", "config", "configId", "authentication", "schemes", "scheme", "credentials", "token", "extensions",
        "referenceTaskIds", "skill", "tags", "tenant", "status", "pageSize", "pageToken", "statusTimestampAfter", "includeArtifacts",
        "data_part_compat", "value", "parent", "urn:agentmesh:a2a:skill:1", "urn:agentmesh:a2a:answer:1", "urn:agentmesh:a2a:signal:1",
    ]
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=12
)
GOOD = st.sampled_from(
    [
        {"kind": "message", "messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}]},
        {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]},
        {"messageId": "m", "role": "ROLE_USER", "content": [{"text": "hi"}]},
    ]
)
MORE = st.dictionaries(NAMES, ANYTHING, max_size=2)
PARAMS = st.one_of(
    st.dictionaries(NAMES, ANYTHING, max_size=6),
    st.builds(lambda good, key, value, more: {"message": {**good, key: value}, **more}, GOOD, NAMES, ANYTHING, MORE),
    st.builds(lambda good, part: {"message": {**good, "parts": [part], "content": [part]}}, GOOD, MORE),
)
METHODS = [
    "message/send", "message/stream", "tasks/get", "tasks/cancel", "tasks/resubscribe", "tasks/pushNotificationConfig/set",
    "tasks/pushNotificationConfig/get", "tasks/pushNotificationConfig/list", "tasks/pushNotificationConfig/delete",
    "agent/getAuthenticatedExtendedCard", "SendMessage", "SendStreamingMessage", "GetTask", "ListTasks", "CancelTask", "SubscribeToTask",
    "CreateTaskPushNotificationConfig", "GetTaskPushNotificationConfig", "ListTaskPushNotificationConfigs",
    "DeleteTaskPushNotificationConfig", "GetExtendedAgentCard",
]  # fmt: skip
PATHS = [
    "/message:send", "/message:stream", "/tasks/x:cancel", "/tasks/x:subscribe", "/tasks/x/pushNotificationConfigs", "/v1/message:send",
    "/v1/message:stream", "/v1/tasks/x:cancel", "/v1/tasks/x:subscribe", "/v1/tasks/x/pushNotificationConfigs",
]  # fmt: skip
PYTHON = (
    "Traceback",
    "object has no attribute",
    "validation error",
    "Input should be",
    "unexpected keyword",
    "codec can't",
)


class Fuzzed:
    def __init__(self, portal: Any, on: Serving) -> None:
        self.portal = portal
        self.on = on

    def post(self, path: str, body: Any, headers: dict[str, str]) -> Any:
        return self.portal.call(lambda: self.on.http.post(path, json=body, headers=headers))


@pytest.fixture
def fuzzed() -> Any:
    serving = serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", work)])
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(serving) as on:
        on.gate.go.set()
        yield Fuzzed(portal, on)


EXAMPLES = settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
)


@covers("A2A-1.0.1 9#json-rpc", "A2A-0.3 8#errors")
@EXAMPLES
@given(st.sampled_from(METHODS), PARAMS, st.sampled_from(["", "/billing"]))
def test_calls_with_wrong_values(fuzzed: Fuzzed, method: str, params: Any, agent: str) -> None:
    """A result, or an error of the caller's."""
    headers = V if method[0].isupper() else {}
    answer = fuzzed.post(f"/a2a{agent}", {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, headers)
    assert answer.status_code == 200, answer.text
    assert "-32603" not in answer.text, answer.text
    assert not [word for word in PYTHON if word in answer.text], answer.text


@covers("A2A-1.0.1 11#http-json", "A2A-0.3 8#errors")
@EXAMPLES
@given(st.sampled_from(PATHS), PARAMS, st.sampled_from(["", "/billing"]))
def test_requests_with_wrong_values(fuzzed: Fuzzed, path: str, body: Any, agent: str) -> None:
    """2xx, or 4xx of the caller's."""
    answer = fuzzed.post(f"/a2a{agent}{path}", body, {} if path.startswith("/v1") else V)
    assert answer.status_code < 500, answer.text
    assert not [word for word in PYTHON if word in answer.text], answer.text
