"""Streams of A2A tasks when clients leave, when there are two servers, and when the only one is killed."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.served import Served, check_journal, until

pytestmark = pytest.mark.timeout(240)

AT_ONCE = 100
ROUNDS = 6
MEGABYTES = 6.0
"""Most that the server may grow by over the later rounds of dropped streams: a leak of one stream's few kB would show."""
SOON = 0.1
"""Seconds within which an event of one server is with a client of the other, as a rule (the median)."""
JSON = dict[str, Any]
TICKS = """
name: ticks
input: {type: object, properties: {events: {type: integer}, pause: {type: number}}, required: [events, pause]}
on: {a2a: {}}
steps:
  - id: tick
    python: tests.faults.functions:tick
    with: {events: "${{ input.events }}", pause: "${{ input.pause }}"}
    effect: read
"""
GATED = """
name: gated
on: {a2a: {}}
steps:
  - {id: one, set: {n: 1}}
  - {id: first, wait: {signal: first, expires: 1h}}
  - {id: two, set: {n: 2}}
  - {id: second, wait: {signal: second, expires: 1h}}
output: {n: "${{ steps.two.output.n }}"}
"""


def write(folder: Path, store: str = "sqlite:///mesh.db") -> Path:
    (folder / "workflows").mkdir(parents=True)
    (folder / "agentmesh.yaml").write_text(f"name: streamed\nstore: {store}\n")
    (folder / "workflows" / "ticks.yaml").write_text(TICKS)
    (folder / "workflows" / "gated.yaml").write_text(GATED)
    return folder


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Served]:
    with Served(write(tmp_path / "mesh")) as served:
        yield served.start()


@pytest.fixture
def replicas(tmp_path: Path, postgres_url: str) -> Iterator[tuple[Served, Served]]:
    """Two servers of one mesh on one PostgreSQL."""
    with ExitStack() as stack:
        both = [
            stack.enter_context(Served(write(tmp_path / name, postgres_url), AGENTMESH_LEASE="3"))
            for name in ("a", "b")
        ]
        yield both[0].start(), both[1].start()


def message(skill: str, data: JSON, ident: str = "m") -> JSON:
    """Parameters of a message to one of the skills."""
    parts = [{"data": data}]
    return {"message": {"messageId": ident, "role": "ROLE_USER", "parts": parts, "metadata": {"skill": skill}}}


def request(port: int, method: str, params: Mapping[str, Any]) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    lines = [
        "POST /a2a HTTP/1.1", f"host: 127.0.0.1:{port}", "content-type: application/json", "a2a-version: 1.0",
        "accept: text/event-stream", f"content-length: {len(body)}",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def ask(server: Served, method: str, params: Mapping[str, Any]) -> JSON:
    """The result of one request."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = server.http.post("/a2a", json=body, headers={"A2A-Version": "1.0"}).json()
    assert "result" in answer, answer
    found: JSON = answer["result"]
    return found


def task_of(server: Served, ident: str) -> JSON:
    return ask(server, "GetTask", {"id": ident})


def state_of(task: Mapping[str, Any]) -> str:
    return str(task["status"]["state"]).removeprefix("TASK_STATE_").lower()


class Stream:
    """A client that streams in a thread of its own, until the stream ends, however it does."""

    def __init__(self, server: Served, method: str, params: Mapping[str, Any]) -> None:
        port = server.http.base_url.port
        assert port is not None
        self.events: list[JSON] = []
        """StreamResponse objects, in order."""
        self.at: list[int] = []
        """When each was there, in nanoseconds of Unix time."""
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._sock.sendall(request(port, method, params))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError, http.client.HTTPException), self._sock:
            answer = http.client.HTTPResponse(self._sock)
            answer.begin()
            while line := answer.readline():
                if line.startswith(b"data:"):
                    now = time.time_ns()
                    said = json.loads(line[5:])
                    self.at.append(now)
                    self.events.append(said.get("result", said))

    def task(self) -> JSON:
        """The Task that it began with."""
        first = until(lambda: self.events[0] if self.events else None, 30, "the stream did not begin")
        assert "task" in first, first
        found: JSON = first["task"]
        return found

    def has(self, events: int) -> list[JSON]:
        """The first so many events, when they are there."""
        return until(
            lambda: self.events[:events] if len(self.events) >= events else None, 60,
            lambda: f"{len(self.events)} events: {self.events[-2:]}",
        )  # fmt: skip

    def ended(self) -> list[JSON]:
        """Every event, once there are no more."""
        self._thread.join(60)
        assert not self._thread.is_alive(), f"the stream has not ended: {self.events[-2:]}"
        return self.events

    def state(self) -> str:
        """The last state that it told."""
        told = [e["statusUpdate"]["status"]["state"] for e in self.events if "statusUpdate" in e]
        return str(told[-1]).removeprefix("TASK_STATE_").lower() if told else state_of(self.task())


def ticks(events: list[JSON]) -> list[str]:
    """The artifacts of `tick` that were told."""
    told = [e["artifactUpdate"]["artifact"]["artifactId"] for e in events if "artifactUpdate" in e]
    return [ident for ident in told if ident.startswith("tick-")]


def written(event: Mapping[str, Any]) -> int | None:
    """When an artifact of `tick` was written."""
    artifact = event.get("artifactUpdate", {}).get("artifact", {})
    return int(artifact["parts"][0]["text"]) if str(artifact.get("artifactId", "")).startswith("tick-") else None


def send_signal(server: Served, run: str, name: str) -> None:
    server.post(f"/v1/runs/{run}/signals", {"name": name})


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def resident_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def drop_many(server: Served, quiet: str) -> None:
    """Opens streams, half of them of a task that waits and half of ones that tell much, and drops them all at once."""
    port = server.http.base_url.port
    assert port is not None
    socks = []
    for number in range(AT_ONCE):
        sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        if number % 2:
            sock.sendall(request(port, "SubscribeToTask", {"id": quiet}))
        else:
            sock.sendall(request(port, "SendStreamingMessage", message("ticks", {"events": 50, "pause": 0.01})))
        socks.append(sock)
    for sock in socks:
        data = b""
        while b"data:" not in data:
            chunk = sock.recv(65536)
            assert chunk, data
            data += chunk
    for sock in socks:  # some with a word of good-bye, some with none
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()


def test_a_hundred_streams_dropped_at_once_leave_nothing(one: Served) -> None:
    """Their connections are closed, no thread stays, memory does not grow; their tasks go on to their end; others are served."""
    pid = one.process.pid
    quiet = ask(one, "SendMessage", {**message("gated", {}), "configuration": {"returnImmediately": True}})["task"][
        "id"
    ]
    drop_many(one, quiet)
    settled(one, quiet)
    before = {"descriptors": descriptors(pid), "threads": threads(pid)}
    memory = 0.0
    for number in range(ROUNDS):
        drop_many(one, quiet)
        settled(one, quiet)
        assert ask(one, "GetTask", {"id": quiet})["status"]["state"] == "TASK_STATE_WORKING"
        if number == 1:  # by then the pools and caches of the process are as large as they get
            memory = resident_mb(pid)
    until(lambda: True if descriptors(pid) <= before["descriptors"] + 2 else None, 20, "descriptors stay open")
    assert threads(pid) <= before["threads"] + 2
    grown = resident_mb(pid) - memory
    print(
        f"{(ROUNDS - 2) * AT_ONCE} dropped streams: {grown:.1f} MB, {descriptors(pid)} descriptors, {threads(pid)} threads"
    )
    assert grown < MEGABYTES
    one.post(f"/v1/runs/{quiet}/signals", {"name": "first"})
    one.post(f"/v1/runs/{quiet}/signals", {"name": "second"})
    assert one.ended(quiet)["state"] == "completed"


def settled(server: Served, quiet: str) -> None:
    """All runs but the quiet one have ended well: dropping a stream ends no task."""

    def look() -> bool | None:
        working = ask(server, "ListTasks", {"status": "TASK_STATE_WORKING", "pageSize": 10})["tasks"]
        return True if [task["id"] for task in working] == [quiet] else None

    until(look, 60, "tasks whose streams were dropped do not end")
    assert ask(server, "ListTasks", {"status": "TASK_STATE_CANCELED"})["totalSize"] == 0
    assert ask(server, "ListTasks", {"status": "TASK_STATE_FAILED"})["totalSize"] == 0


def test_two_servers_stream_one_task(replicas: tuple[Served, Served]) -> None:
    """Sent to one, followed at the other: the same events in the same order, each within a tenth of a second; the same task."""
    here, there = replicas
    first = Stream(here, "SendStreamingMessage", message("ticks", {"events": 40, "pause": 0.04}))
    ident = first.task()["id"]
    second = Stream(there, "SubscribeToTask", {"id": ident})
    assert second.task()["id"] == ident
    assert task_of(there, ident)["id"] == ident
    mine, other = first.ended(), second.ended()
    assert first.state() == second.state() == "completed"
    begin = next(n for n, event in enumerate(mine) if event == other[1])
    assert other[1:] == mine[begin:]
    assert ticks(mine) == [f"tick-{number}" for number in range(40)]
    for where, stream in (("its own", first), ("the other", second)):
        lags = [(at - since) / 1e9 for at, e in zip(stream.at, stream.events, strict=True) if (since := written(e))]
        print(f"at {where} server: median {statistics.median(lags) * 1000:.1f} ms, most {max(lags) * 1000:.1f} ms")
        assert statistics.median(lags) < SOON
    assert task_of(here, ident) == task_of(there, ident)


def test_a_task_is_cancelled_at_the_other_server(replicas: tuple[Served, Served]) -> None:
    """Both streams end with its end, and so does its work."""
    here, there = replicas
    first = Stream(here, "SendStreamingMessage", message("ticks", {"events": 10_000, "pause": 0.02}))
    ident = first.task()["id"]
    second = Stream(there, "SubscribeToTask", {"id": ident})
    first.has(5)
    second.has(2)
    assert state_of(ask(there, "CancelTask", {"id": ident})) == "canceled"
    assert first.ended()[-1]["statusUpdate"]["status"] == second.ended()[-1]["statusUpdate"]["status"]
    assert first.state() == second.state() == "canceled"
    assert state_of(task_of(here, ident)) == "canceled"


def test_the_other_server_goes_on_when_one_is_killed(replicas: tuple[Served, Served]) -> None:
    """A client of the one that stays keeps its stream; the other's client subscribes there, and both see the end."""
    here, there = replicas
    first = Stream(here, "SendStreamingMessage", message("ticks", {"events": 30, "pause": 0.1}))
    ident = first.task()["id"]
    second = Stream(there, "SubscribeToTask", {"id": ident})
    until(lambda: True if len(ticks(second.events)) >= 5 else None, 30, "no event came")
    here.kill()
    first.ended()
    assert first.state() == "working"
    third = Stream(there, "SubscribeToTask", {"id": ident})
    third.task()
    assert second.ended()[-1] == third.ended()[-1]
    assert second.state() == "completed"
    whole_at_the_end(there, ident, 30)


def whole_at_the_end(server: Served, ident: str, events: int) -> None:
    """The task is completed, with every artifact once and in order, and its journal is in order."""
    task = task_of(server, ident)
    assert state_of(task) == "completed"
    made = [artifact["artifactId"] for artifact in task["artifacts"]]
    assert [name for name in made if name.startswith("tick-")] == [f"tick-{number}" for number in range(events)]
    assert len(set(made)) == len(made)
    check_journal(server.journal(ident))


def test_a_stream_goes_on_after_its_only_server_was_killed(one: Served) -> None:
    """SubscribeToTask takes the task up where it is; in the end nothing is missing and nothing there twice."""
    first = Stream(one, "SendStreamingMessage", message("ticks", {"events": 40, "pause": 0.05}))
    ident = first.task()["id"]
    until(lambda: True if len(ticks(first.events)) >= 8 else None, 30, "no event came")
    one.kill()
    seen = len(ticks(first.ended()))
    assert first.state() == "working"
    one.start()
    second = Stream(one, "SubscribeToTask", {"id": ident})
    shown = [artifact["artifactId"] for artifact in second.task().get("artifacts", ())]
    assert len([ident for ident in shown if ident.startswith("tick-")]) >= seen, "what a client saw was not durable"
    assert second.ended()
    assert second.state() == "completed"
    whole_at_the_end(one, ident, 40)


def test_a_waiting_task_is_followed_over_restarts(one: Served) -> None:
    """Killed at each wait: a new stream begins with the task as it was, and is told what happens from there, once."""
    first = Stream(one, "SendStreamingMessage", message("gated", {}))
    ident = first.task()["id"]
    until(lambda: True if "first waits" in json.dumps(first.events) else None, 30, "it did not get to wait")
    one.kill()
    before = first.ended()
    one.start()
    second = Stream(one, "SubscribeToTask", {"id": ident})
    assert state_of(second.task()) == "working"
    send_signal(one, ident, "first")
    until(lambda: True if "second waits" in json.dumps(second.events) else None, 30, "it did not go on")
    one.kill(signal.SIGKILL)
    middle = second.ended()
    one.start()
    third = Stream(one, "SubscribeToTask", {"id": ident})
    third.task()
    send_signal(one, ident, "second")
    last = third.ended()
    assert third.state() == "completed"
    told = [
        e["statusUpdate"]["status"]["message"]["messageId"] for e in (*before, *middle, *last) if "statusUpdate" in e
    ]
    assert len(set(told)) == len(told), "an event was told twice"
    check_journal(one.journal(ident))
    assert state_of(task_of(one, ident)) == "completed"


def test_no_task_works_for_ever_after_a_crash(one: Served) -> None:
    """However many were at work when the only server was killed: after its restart each comes to its end by itself."""
    streams = [
        Stream(one, "SendStreamingMessage", message("ticks", {"events": 200, "pause": 0.005}, f"m{number}"))
        for number in range(20)
    ]
    idents = [stream.task()["id"] for stream in streams]
    one.kill()
    for stream in streams:
        stream.ended()
    one.start()
    for ident in idents:
        assert one.ended(ident)["state"] == "completed"
        whole_at_the_end(one, ident, 200)
