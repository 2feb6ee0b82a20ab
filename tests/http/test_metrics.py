"""/metrics says what was counted, in a form that Prometheus reads, and to those whom policies let see it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from agentmesh.core.policy import PolicyFile, Rule
from agentmesh.engine import Engine
from agentmesh.engine.meter import SECONDS
from agentmesh.http.auth import Guard, route_of
from agentmesh.http.metrics import OPEN_METRICS, TEXT, escape, metrics_routes, process_lines
from agentmesh.http.problems import HANDLERS
from tests.engine import meshes

pytestmark = pytest.mark.anyio

LINE = re.compile(
    r'(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z_]+="([^"\\\n]|\\["\\n])*",?)*\})? [0-9.e+-]+(Inf)?|# EOF)'
)
"""A line of the text format: a description or a sample."""


async def boom(request: object) -> PlainTextResponse:
    raise ZeroDivisionError


@asynccontextmanager
async def client(*rules: Rule, started: bool = True) -> AsyncIterator[tuple[httpx.AsyncClient, Engine]]:
    policies = (PolicyFile(name="test", rules=list(rules)),) if rules else ()
    async with meshes.serving(meshes.mesh(policies=policies)) as engine:
        routes = [*metrics_routes(lambda: engine if started else None, started=1.5), Route("/v1/boom", boom)]
        app = Guard(Starlette(routes=routes, exception_handlers=HANDLERS), meter=engine.meter)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as found:
            yield found, engine


def samples(text: str) -> dict[str, float]:
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


async def test_what_was_counted_is_shown() -> None:
    """Buckets add up, the count is the last of them, the sum is that of the seconds; every line is well formed."""
    async with client() as (http, engine):
        for seconds in (0.0005, 0.003, 0.003, 7.0, 1000.0):
            engine.meter.calls.record(("desk.echo", "mcp", ""), seconds)
        engine.meter.calls.record(('a"b\\c\nd', "a2a", "failed"), 0.001)
        answer = await http.get("/metrics")
    assert answer.headers["content-type"] == TEXT
    assert all(LINE.fullmatch(line) for line in answer.text.splitlines()), answer.text
    found = samples(answer.text)
    name, labels = "agentmesh_tool_call_duration_seconds", 'gen_ai_tool_name="desk.echo",agentmesh_edge="mcp"'
    buckets = [found[f'{name}_bucket{{{labels},le="{bound:g}"}}'] for bound in SECONDS]
    assert buckets == sorted(buckets)
    assert found[f'{name}_bucket{{{labels},le="0.001"}}'] == 1
    assert found[f'{name}_bucket{{{labels},le="0.005"}}'] == 3
    assert found[f'{name}_bucket{{{labels},le="+Inf"}}'] == found[f"{name}_count{{{labels}}}"] == 5
    assert found[f"{name}_sum{{{labels}}}"] == pytest.approx(1007.0065)
    assert 'gen_ai_tool_name="a\\"b\\\\c\\nd"' in answer.text
    assert found["process_start_time_seconds"] == 1.5
    assert found["process_resident_memory_bytes"] > 1_000_000


async def test_open_metrics_for_those_who_ask_for_it() -> None:
    """OpenMetrics 1.0 ends with # EOF, and names a counter's family without _total."""
    async with client() as (http, _):
        answer = await http.get(
            "/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        )
    assert answer.headers["content-type"] == OPEN_METRICS
    assert answer.text.endswith("# EOF\n")
    assert "# TYPE process_cpu_seconds counter" in answer.text


async def test_requests_are_counted_by_the_part_of_the_server() -> None:
    """Refused ones too; no caller can make a label: an unknown path or method is `other`. 5xx and what broke off are errors."""
    async with client() as (http, engine):
        await http.get("/metrics")
        await http.get("/v1/boom")
        await http.request("BREW", "/coffee/1")
        await http.get("/coffee/2", headers={"host": "evil.example"})
        counted = {labels: sum(counts) for labels, _, counts in engine.meter.requests.series()}
    assert counted == {
        ("GET", "/metrics", "200", ""): 1,
        ("GET", "/v1", "500", "500"): 1,
        ("other", "other", "404", ""): 1,
        ("GET", "other", "421", ""): 1,
    }


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/mcp", "/mcp"),
        ("/mcp/", "/mcp"),
        ("/mcpx", "other"),
        ("/a2a/acme/message:send", "/a2a"),
        ("/v1/runs", "/v1"),
        ("/", "other"),
    ],
)
def test_a_path_belongs_to_one_part(path: str, route: str) -> None:
    """By whole segments."""
    assert route_of(path) == route


@pytest.mark.parametrize(
    ("rule", "status"), [(Rule(allow="admin.read", on=["resource:mesh://metrics"]), 200), (Rule(allow="tools.*"), 403)]
)
async def test_policies_decide_who_sees_it(rule: Rule, status: int) -> None:
    """Names of tools stand in it, so that it needs `admin.read` on `resource:mesh://metrics` once there is a policy."""
    async with client(rule) as (http, _):
        assert (await http.get("/metrics")).status_code == status


async def test_a_mesh_that_is_being_opened_tells_of_its_process() -> None:
    """Whoever scrapes from the first second on sees a process and no calls, not an error."""
    async with client(started=False) as (http, _):
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert samples(answer.text).keys() == {
        "process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds",
    }  # fmt: skip
    assert list(process_lines(0, open_metrics=False))
    assert escape("a") == "a"
