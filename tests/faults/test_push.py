"""Push notifications outlive the server that sends them: nothing is lost, nothing comes out of order, at most the last comes twice."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.served import Served, until
from tests.faults.webhook import Webhook, over

pytestmark = pytest.mark.timeout(240)

STEPS = 12
TALK = """
name: talk
description: Says many things.
on: {a2a: {tags: [talk]}}
input: {type: object, properties: {text: {type: string}}, required: [text], additionalProperties: false}
steps:
  - {id: begin, wait: 100ms}
""" + "".join(f"  - {{id: s{number}, set: {{n: {number}}}}}\n" for number in range(STEPS))


def write(folder: Path, store: str) -> Path:
    for name, text in {
        "agentmesh.yaml": f"name: push\nstore: {store}\na2a: {{webhooks: [127.0.0.1]}}\n",
        "workflows/talk.yaml": TALK,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def place(tmp_path: Path, store: str) -> Path:
    """The mesh folder."""
    return write(tmp_path / "mesh", store)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook().serving() as served:
        yield served


def send(server: Served, webhook: Webhook, ident: str = "m1") -> str:
    """A task whose events go to the webhook; its id."""
    message = {"messageId": ident, "role": "ROLE_USER", "parts": [{"text": "go"}], "metadata": {"skill": "talk"}}
    hook = {"url": webhook.url, "token": "tok", "authentication": {"scheme": "Bearer", "credentials": "cred"}}
    configuration = {"returnImmediately": True, "taskPushNotificationConfig": hook}
    answer = rpc(server, "SendMessage", {"message": message, "configuration": configuration})
    task: str = answer["task"]["id"]
    return task


def rpc(server: Served, method: str, params: dict[str, Any]) -> dict[str, Any]:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = server.http.post("/a2a", json=body, headers={"A2A-Version": "1.0"}).json()
    assert "result" in answer, answer
    found: dict[str, Any] = answer["result"]
    return found


def whole(webhook: Webhook, task: str, within: float = 60.0) -> list[tuple[int, int]]:
    """Where the notifications of a task stand, in the order in which they came, when its end was told."""
    until(lambda: True if over(webhook.of(task)) else None, within, lambda: f"the end was not told: {webhook.of(task)}")
    return [one.place for one in webhook.of(task)]


def expected(server: Served, task: str) -> int:
    """How many entries of the journal are somebody's news."""
    quiet = {"run.submitted", "run.traced"}
    return len([entry for entry in server.journal(task) if entry["kind"] not in quiet])


@pytest.mark.parametrize("store", ["sqlite:///mesh.db"])
@pytest.mark.parametrize("answered", [False, True], ids=["before the answer", "after the answer"])
def test_a_server_that_is_killed_between_events(place: Path, webhook: Webhook, *, answered: bool) -> None:
    """Killed at five events of one task, and started again each time."""
    kills = {2, 5, 6, 9, 13}
    with Served(place) as server:

        def harm(_ident: str, number: int) -> None:
            if number in kills and not answered:
                server.kill(signal.SIGKILL)

        webhook.before = harm
        server.start()
        task = send(server, webhook)
        for number in sorted(kills):
            if answered:
                until(lambda n=number: True if len(webhook.told) >= n else None, 30, "the webhook was not told")
                server.kill(signal.SIGKILL)
            else:
                until(lambda: True if server._process is None else None, 30, "the server lives on")
            server.start()
        places = whole(webhook, task)
        assert places[0][0] > 1
        assert places == sorted(places), "an event came after a later one"
        assert len(places) - len(set(places)) <= len(kills)
        if not answered:
            assert len(places) > len(set(places)), "nothing was cut off: the test proves nothing"
        seqs = {seq for seq, _ in places}
        last = max(entry["seq"] for entry in server.journal(task))
        assert last in seqs
        assert len(seqs) == expected(server, task)


def test_another_replica_takes_over(tmp_path: Path, webhook: Webhook, postgres_url: str) -> None:
    """The server that delivers is killed in the middle; the other goes on where it was."""
    folders = [write(tmp_path / name, postgres_url) for name in ("a", "b")]
    webhook.pause = 0.05
    keys = "k" * 40
    with Served(folders[0], AGENTMESH_KEYS=keys) as one, Served(folders[1], AGENTMESH_KEYS=keys) as other:
        one.start()
        task = send(one, webhook)
        until(lambda: True if len(webhook.told) >= 4 else None, 30, "the webhook was not told")
        one.kill(signal.SIGKILL)
        begun = time.monotonic()
        other.start()
        places = whole(webhook, task, within=120)
        assert time.monotonic() - begun < 90
        assert places == sorted(places)
        assert len(places) - len(set(places)) <= 1
        assert len({seq for seq, _ in places}) == expected(other, task)


def test_two_replicas_never_tell_the_same_thing(tmp_path: Path, webhook: Webhook, postgres_url: str) -> None:
    """Both at work, on fifty tasks: each event comes once, in order, and no two of one task at the same time."""
    folders = [write(tmp_path / name, postgres_url) for name in ("a", "b")]
    webhook.pause = 0.005
    keys = "k" * 40
    with ExitStack() as stack:
        servers = [stack.enter_context(Served(folder, AGENTMESH_KEYS=keys)).start() for folder in folders]
        tasks = [send(servers[number % 2], webhook, f"m{number}") for number in range(50)]
        for task in tasks:
            places = whole(webhook, task, within=120)
            assert places == sorted(set(places))
            assert len({seq for seq, _ in places}) == expected(servers[0], task)
        assert not webhook.together


@pytest.mark.parametrize("store", ["sqlite:///mesh.db"])
def test_a_slow_webhook_delays_the_stream_by_nothing(place: Path, webhook: Webhook) -> None:
    """It takes three seconds for its first event; by then the stream of the same task is long over."""
    webhook.pause = 3.0
    with Served(place).start() as server:
        times = []
        for hooked in (False, True, False, True):
            hook = {"taskPushNotificationConfig": {"url": webhook.url}} if hooked else {}
            message = {
                "messageId": f"m{len(times)}",
                "role": "ROLE_USER",
                "parts": [{"text": "go"}],
                "metadata": {"skill": "talk"},
            }
            body = {
                "jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage",
                "params": {"message": message, "configuration": hook},
            }  # fmt: skip
            begun = time.monotonic()
            with server.http.stream("POST", "/a2a", json=body, headers={"A2A-Version": "1.0"}) as stream:
                events = [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
            times.append(time.monotonic() - begun)
            assert events[-1]["result"]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED", events[-1]
        assert not webhook.told, "the webhook was quicker than three seconds: the test proves nothing"
        assert max(times) < 2.0
