"""Tasks of agents elsewhere, when the mesh in front of them is killed, and when they are: two real meshes, one the other's agent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.served import Served, until
from tests.faults.test_a2a_streams import JSON, TICKS, Stream, ask, state_of, task_of, ticks

pytestmark = pytest.mark.timeout(240)

EVENTS = 30
ASKS = """
name: asks
on: {a2a: {}}
steps:
  - {id: look, set: {n: 1}}
  - {id: sure, approve: {ask: "Really?", expires: 1h}}
output: {done: true}
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Served]:
    """The mesh that does the work."""
    folder = tmp_path / "agent"
    (folder / "workflows").mkdir(parents=True)
    (folder / "agentmesh.yaml").write_text("name: worker\nstore: sqlite:///mesh.db\n")
    (folder / "workflows" / "ticks.yaml").write_text(TICKS)
    (folder / "workflows" / "asks.yaml").write_text(ASKS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Served(folder, port=port) as served:  # where its card says, also after it was killed
        yield served.start()


def gateway(folder: Path, agent: Served, store: str = "sqlite:///mesh.db") -> Path:
    folder.mkdir(parents=True)
    card = f"{agent.http.base_url}/.well-known/agent-card.json".replace("//.well", "/.well")
    (folder / "agentmesh.yaml").write_text(f"name: front\nstore: {store}\nagents:\n  worker: {{card: '{card}'}}\n")
    return folder


@pytest.fixture
def front(tmp_path: Path, agent: Served) -> Iterator[Served]:
    """The mesh that passes messages on to it."""
    with Served(gateway(tmp_path / "front", agent)) as served:
        yield known(served.start())


def known(front: Served) -> Served:
    """When it has read the agent's card."""
    until(lambda: front.get("/v1/agents/worker").get("skills"), 30, "the agent's card was not read")
    return front


def send(skill: str, data: JSON) -> JSON:
    metadata = {"skill": skill}
    return {
        "tenant": "worker",
        "message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"data": data}], "metadata": metadata},
    }


def done_by(agent: Served) -> list[JSON]:
    """Every task that the agent was ever given."""
    found: list[JSON] = ask(agent, "ListTasks", {})["tasks"]
    return found


def ended(server: Served, ident: str) -> JSON:
    return until(
        lambda: found if state_of(found := task_of(server, ident)) in ("completed", "failed") else None, 90,
        lambda: f"it has not ended: {task_of(server, ident)['status']}",
    )  # fmt: skip


def all_ticks(task: JSON) -> list[str]:
    return [artifact["artifactId"] for artifact in task["artifacts"] if artifact["artifactId"].startswith("tick-")]


def test_the_mesh_in_front_is_killed_while_its_agent_works(front: Served, agent: Served) -> None:
    """After its restart it asks the agent how the task stands: nothing is sent again, nothing is missing, nothing there twice."""
    stream = Stream(front, "SendStreamingMessage", send("ticks", {"events": EVENTS, "pause": 0.2}))
    ident = stream.task()["id"]
    until(lambda: len(ticks(stream.events)) >= 5, 30, "the agent's artifacts did not come")
    front.kill()
    known(front.start())
    again = Stream(front, "SubscribeToTask", {"id": ident})
    again.ended()
    task = ended(front, ident)
    assert state_of(task) == "completed", task["status"]["message"]["parts"]
    assert all_ticks(task) == [f"tick-{number}" for number in range(EVENTS)]
    assert len(done_by(agent)) == 1


def test_the_agent_is_killed_while_it_works(front: Served, agent: Served) -> None:
    """It comes back, and so does its task: the mesh in front has waited for it."""
    stream = Stream(front, "SendStreamingMessage", send("ticks", {"events": EVENTS, "pause": 0.1}))
    ident = stream.task()["id"]
    until(lambda: len(ticks(stream.events)) >= 3, 30, "the agent's artifacts did not come")
    agent.kill()
    agent.start()
    task = ended(front, ident)
    assert state_of(task) == "completed", task["status"]["message"]["parts"]
    assert sorted(set(all_ticks(task)), key=lambda tick: int(tick[5:])) == [f"tick-{n}" for n in range(EVENTS)]
    assert len(done_by(agent)) == 1


def test_what_the_agent_asks_is_answered_after_a_kill(front: Served, agent: Served) -> None:
    """The question is the mesh's own, durable; its answer goes to the same task."""
    task = ask(front, "SendMessage", send("asks", {}))["task"]
    assert state_of(task) == "input_required"
    front.kill()
    known(front.start())
    reply = {"messageId": "m2", "role": "ROLE_USER", "taskId": task["id"], "parts": [{"text": "yes"}]}
    answered = ask(front, "SendMessage", {"message": reply})["task"]
    assert state_of(answered) == "completed", answered["status"]
    assert len(done_by(agent)) == 1


def test_another_server_goes_on_with_the_agents_task(tmp_path: Path, agent: Served, postgres_url: str) -> None:
    """Of two on one PostgreSQL the one that follows the task is killed; the other asks the agent, and tells the end."""
    with ExitStack() as stack:
        both = [
            stack.enter_context(Served(gateway(tmp_path / name, agent, postgres_url), AGENTMESH_LEASE="3"))
            for name in ("a", "b")
        ]
        one, other = (known(server.start()) for server in both)
        stream = Stream(one, "SendStreamingMessage", send("ticks", {"events": EVENTS, "pause": 0.2}))
        ident = stream.task()["id"]
        until(lambda: len(ticks(stream.events)) >= 3, 30, "the agent's artifacts did not come")
        one.kill()
        task = ended(other, ident)
        assert state_of(task) == "completed", task["status"]["message"]["parts"]
        assert all_ticks(task) == [f"tick-{number}" for number in range(EVENTS)]
        assert len(done_by(agent)) == 1
