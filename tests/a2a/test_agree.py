"""The bindings agree: one request means the same over JSON-RPC and HTTP+JSON, whatever stands in it."""

from __future__ import annotations

import re
from typing import Any

import anyio
import pytest
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmesh.a2a import convert
from agentmesh.adapters.memory_peer import MemoryPeer
from agentmesh.core.run import Run, RunState
from tests.a2a.calling import Outcome, call, events_of, sent
from tests.a2a.conftest import Serving, serving_mesh, skills_mesh
from tests.a2a.test_relayed import work
from tests.requirements import covers

ID = re.compile(r"billing-\d+-\d+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**55), 2**55) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)
PARTS = st.one_of(
    st.builds(lambda text: {"text": text}, TEXTS),
    st.builds(lambda data: {"data": data}, JSON),
    st.builds(lambda raw: {"raw": raw, "mediaType": "image/png"}, st.sampled_from(["aGk=", "aGk", "-_8=", "%", ""])),
    st.builds(lambda url: {"url": url, "filename": "x"}, TEXTS),
    st.sampled_from([{}, {"text": "a", "data": 1}, {"text": None}, 5, None]),
)
ROLES = st.sampled_from(["ROLE_USER", "ROLE_USER", "ROLE_AGENT", "user", 1])
MESSAGES = st.fixed_dictionaries(
    {"messageId": TEXTS, "role": ROLES, "parts": st.lists(PARTS, max_size=3)},
    optional={
        "contextId": TEXTS, "metadata": st.dictionaries(TEXTS, JSON, max_size=2) | JSON, "taskId": st.sampled_from(["", "no-such"]),
        "extensions": st.lists(TEXTS, max_size=2), "unknown": JSON,
    },
)  # fmt: skip
SENDS = st.fixed_dictionaries(
    {"message": MESSAGES},
    optional={
        "configuration": st.fixed_dictionaries(
            {},
            optional={
                "historyLength": st.integers(-2, 3), "returnImmediately": st.just(False),
                "acceptedOutputModes": st.lists(st.sampled_from(["text/plain", "application/json", "image/png", "*/*"]), max_size=2),
            },
        ),
        "tenant": st.sampled_from(["", "billing", "nobody"]),
    },
)  # fmt: skip
LISTS = st.fixed_dictionaries(
    {},
    optional={
        "contextId": st.sampled_from(["", "ctx", "nope", "é/ü&=?#"]), "pageSize": st.integers(-1, 102), "historyLength": st.integers(-1, 2),
        "status": st.sampled_from(["TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_UNSPECIFIED", "NOPE", "3"]),
        "includeArtifacts": st.booleans(), "pageToken": st.sampled_from(["", "no-such"]), "tenant": st.sampled_from(["billing", "nobody"]),
        "statusTimestampAfter": st.sampled_from(["2020-01-01T00:00:00Z", "2999-01-01T00:00:00.5Z", "soon", "2020-01-01T00:00:00+02:00"]),
    },
)  # fmt: skip


def shape(found: Outcome) -> Any:
    """What came of a call, without the binding's own numbers, ids and times."""
    if found.reason is not None:
        return found.reason, _plain(found.message), _plain(found.details)
    return _plain(found.result)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return STAMP.sub("TIME", ID.sub("ID", value))
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, list) else value


class Served:
    """One mesh for all the examples, in a thread of its own: Hypothesis calls functions that do not wait."""

    def __init__(self, portal: Any, on: Serving) -> None:
        self.portal = portal
        self.on = on

    def both(self, method: str, params: dict[str, Any], agent: str | None = None) -> list[Any]:
        async def ask() -> list[Any]:
            return [
                shape(await call(self.on, binding, method, params, agent=agent)) for binding in ("JSONRPC", "HTTP+JSON")
            ]

        return self.portal.call(ask)  # type: ignore[no-any-return]


@pytest.fixture
def served() -> Any:
    serving = serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", work)])
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(serving) as on:
        portal.call(call, on, "JSONRPC", "SendMessage", sent(contextId="ctx"))
        yield Served(portal, on)


EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@covers("A2A-1.0.1 5.1#equivalence")
@EXAMPLES
@given(SENDS, st.sampled_from([None, "billing"]))
def test_messages_mean_the_same(served: Served, params: dict[str, Any], agent: str | None) -> None:
    """Accepted or refused, with the same words."""
    rpc, rest = served.both("SendMessage", params, agent)
    assert rpc == rest
    if isinstance(rpc, tuple):
        assert rpc[0] in {"INVALID_PARAMS", "CONTENT_TYPE_NOT_SUPPORTED", "TASK_NOT_FOUND", "AGENT_NOT_FOUND"}


@covers("A2A-1.0.1 5.1#equivalence")
@EXAMPLES
@given(LISTS)
def test_lists_mean_the_same(served: Served, params: dict[str, Any]) -> None:
    """In the query as in the body."""
    rpc, rest = served.both("ListTasks", params)
    assert rpc == rest


@covers("A2A-1.0.1 5.1#equivalence")
@pytest.mark.parametrize(
    "method", ["GetTask", "CancelTask", "SubscribeToTask", "GetExtendedAgentCard", "ListTaskPushNotificationConfigs"]
)
def test_the_rest_means_the_same(served: Served, method: str) -> None:
    """Of a task that has ended, and of one that never was."""
    task = served.portal.call(call, served.on, "JSONRPC", "ListTasks").result["tasks"][0]["id"]
    for params in (
        {"id": task},
        {"id": "no-such"},
        {"id": task, "historyLength": 0},
        {"id": task, "historyLength": -1},
    ):
        given_ = {"taskId": params["id"]} if "Push" in method else params
        rpc, rest = served.both(method, given_)
        assert rpc == rest


@covers("A2A-1.0.1 5.5#camel-case", "A2A-1.0.1 5.6.1#timestamps")
def test_what_goes_out_is_what_the_sdks_messages_write(served: Served) -> None:
    """Every task and event is ProtoJSON: read as a message and written again, it is the same but for the digits of times."""

    async def everything() -> list[tuple[Any, Any]]:
        found: list[tuple[Any, Any]] = []
        for agent in (None, "billing"):
            params = {**sent(contextId="ctx"), "configuration": {"historyLength": 3}}
            answer = await call(served.on, "JSONRPC", "SendMessage", params, agent=agent)
            found.append((answer.result, pb.SendMessageResponse))
            found += [
                (e, pb.StreamResponse)
                for e in await events_of(served.on, "HTTP+JSON", "SendStreamingMessage", params, agent=agent)
            ]
        return found

    for value, kind in served.portal.call(everything):
        written = MessageToDict(ParseDict(value, kind()))
        assert _times(written) == _times(value)
        assert "_" not in "".join(_names(value))


def _times(value: Any) -> Any:
    if isinstance(value, str):
        return STAMP.sub(lambda match: match[0].partition(".")[0].rstrip("Z") + (match[1] or "").rstrip("0."), value)
    if isinstance(value, dict):
        return {name: _times(member) for name, member in value.items()}
    return [_times(member) for member in value] if isinstance(value, list) else value


def _names(value: Any) -> Any:
    if isinstance(value, dict):
        for name, member in value.items():
            if name not in ("metadata", "data"):
                yield name
                yield from _names(member)
    elif isinstance(value, list):
        for member in value:
            yield from _names(member)


@EXAMPLES
@given(JSON)
def test_any_output_is_a_message_that_protobuf_reads(output: Any) -> None:
    """As text, which has it exactly, and as data, unless that is nested too deep for protobuf."""
    task = convert.to_task(Run("r", "w", "", {}, state=RunState.COMPLETED, output=output))
    wire = ParseDict({"task": task}, pb.StreamResponse())
    assert pb.StreamResponse.FromString(wire.SerializeToString()) == wire


@pytest.mark.parametrize("leaf", [1, "x", "[{[", '"]}', None, [], {}])
def test_values_go_out_as_data_up_to_what_protobuf_reads(leaf: Any) -> None:
    """Deeper ones as text only, whatever they are nested in and whatever their strings hold."""
    for wrap in (lambda v: [v], lambda v: {"a": v}, lambda v: [{"a": v}], lambda v: {"a": [v, 1]}):
        value = leaf
        for _ in range(40):
            value = wrap(value)
            task = convert.to_task(Run("r", "w", "", {}, state=RunState.COMPLETED, output=value))
            wire = ParseDict({"task": task}, pb.StreamResponse())
            assert pb.StreamResponse.FromString(wire.SerializeToString()) == wire
            parts = task["artifacts"][0]["parts"]
            assert len(parts) == (2 if _depth(value) <= convert.LEVELS else 1), _depth(value)


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, _inside(value)), default=0) if isinstance(value, (dict, list)) else 0


def test_integers_past_every_double_go_out_as_text() -> None:
    """In the data part; the text part has them exactly."""
    output = {"n": 10**400, "list": [1, -(10**400)], "fits": 2**1000}
    parts = convert.to_task(Run("r", "w", "", {}, state=RunState.COMPLETED, output=output))["artifacts"][0]["parts"]
    assert parts[1]["data"] == {"n": str(10**400), "list": [1, str(-(10**400))], "fits": 2**1000}
    assert parts[0]["text"].count("0" * 400) == 2
