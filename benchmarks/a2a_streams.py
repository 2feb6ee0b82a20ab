"""How soon is an agent's event with a client that streams, and does a slow webhook delay it?

Events say when they were written, and the client, on the same machine and by the same clock, when it has them. An agent elsewhere (the
SDK's own server) writes artifacts some milliseconds apart: the client streams it directly, and through the mesh, in turn. A workflow of
the mesh does the same by a function that gives artifacts as it goes. Through the mesh every event is in the journal before it is shown.

Then the workflow streams again, with a webhook for its task that takes three seconds for each notification, and without, in turn. Beside
it stands the SDK's own server with the same webhook and a stream of a few events.

    python benchmarks/a2a_streams.py [--streams 20]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks import environments
from benchmarks.a2a_proxy import PEER, proxy
from benchmarks.a2a_served import agent, check, machine, text, write
from benchmarks.mcp_calls import Failed

EVENTS = 10
"""Of a stream, that say when they were written."""
PAUSE = 20
"""Milliseconds before each."""
SLOW = 3.0
"""Seconds that the webhook takes for a notification."""
GOAL = 5.0
"""Milliseconds from the agent's first event to when the client has it."""
NOTHING = 5.0
"""Milliseconds that count as no delay: what the clock and the scheduler of a busy machine do by themselves."""
FEW = 2
"""Events, and streams, of the SDK's server with the slow webhook."""
TICKS = """name: ticks
input: {type: object, properties: {text: {type: string}}, required: [text]}
on: {a2a: {}}
steps:
  - {id: tick, python: "bench_ticks:tick", with: {events: "${{ input.text }}"}}
"""
FUNCTION = f"""import asyncio, time

async def tick(ctx, events):
    for number in range(int(events)):
        await asyncio.sleep({PAUSE / 1000})
        ctx.artifact(f"tick-{{number}}", {{"text": str(time.time_ns())}})
"""


@dataclass(frozen=True)
class Told:
    """What one stream told. Milliseconds."""

    lags: Sequence[float]
    """From when each event was written to when it was there."""
    opening: float
    """From the request to the first event of any kind."""
    whole: float


@dataclass
class Webhook:
    """A server on loopback that takes its time. `begun`: notifications that have come."""

    port: int = 0
    begun: list[float] = field(default_factory=list)


@contextmanager
def webhook(seconds: float) -> Iterator[Webhook]:
    """Answers each notification after so long, several at a time."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        found = Webhook(listening.getsockname()[1])

        def answer(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError), connection.makefile("rb") as lines:
                while (line := lines.readline()) and line:
                    length = 0
                    while (header := lines.readline()) not in (b"\r\n", b""):
                        if header.lower().startswith(b"content-length:"):
                            length = int(header.split(b":")[1])
                    lines.read(length)
                    found.begun.append(time.time())
                    time.sleep(seconds)
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield found
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def stream(port: int, path: str, events: int, *, skill: str = "", hook: str = "") -> Told:
    """Streams one task to its end. Failed when it is not completed, or lacks an event."""
    params = text(str(events))
    if skill:
        params["message"]["metadata"] = {"skill": skill}
    if hook:
        params["configuration"] = {"taskPushNotificationConfig": {"url": hook}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": params})
    headers = {"A2A-Version": "1.0", "Content-Type": "application/json", "Accept": "text/event-stream"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    lags: list[float] = []
    opening, state, began = 0.0, "", time.perf_counter()
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        while raw := answer.readline():
            now = time.time_ns()
            if not raw.startswith(b"data:"):
                continue
            opening = opening or (time.perf_counter() - began) * 1000
            result = json.loads(raw[5:]).get("result") or {}
            written = _written(result)
            if written:
                lags.append((now - written) / 1e6)
            state = result.get("statusUpdate", {}).get("status", {}).get("state") or state
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"a stream of {path} broke: {error!r}") from None
    finally:
        connection.close()
    if state != "TASK_STATE_COMPLETED" or len(lags) != events:
        raise Failed(f"a stream of {path} had {len(lags)} of {events} events, and ended {state or 'without a state'}")
    return Told(lags, opening, (time.perf_counter() - began) * 1000)


def _written(result: dict[str, Any]) -> int:
    """When an event was written, nanoseconds; 0 for one that does not say."""
    for part in result.get("artifactUpdate", {}).get("artifact", {}).get("parts", ()):
        if str(part.get("text", "")).isdigit():
            return int(part["text"])
    return 0


def summary(told: Sequence[Told]) -> dict[str, float]:
    every = sorted(lag for one in told for lag in one.lags)
    return {
        "first_ms": round(statistics.median(one.lags[0] for one in told), 3),
        "p50_ms": round(statistics.median(every), 3),
        "p99_ms": round(every[int(len(every) * 0.99)], 3),
        "most_ms": round(every[-1], 3),
        "opening_ms": round(statistics.median(one.opening for one in told), 3),
        "whole_ms": round(statistics.median(one.whole for one in told), 1),
        "streams": len(told),
    }


def measure(streams: int) -> dict[str, Any]:
    files = {"workflows/ticks.yaml": TICKS, "bench_ticks.py": FUNCTION}
    with agent("--pause", str(PAUSE)) as direct, webhook(SLOW) as slow:
        project = "a2a: {webhooks: [127.0.0.1]}\n"
        with proxy(direct.ports[0], files, project) as mesh:
            hook = f"http://127.0.0.1:{slow.port}/hook"
            check(direct.ports[0], "/")
            ways: dict[str, Any] = {
                "direct": lambda: stream(direct.ports[0], "/", EVENTS),
                "through the mesh": lambda: stream(mesh.ports[0], PEER, EVENTS),
                "own workflow": lambda: stream(mesh.ports[0], "/a2a", EVENTS, skill="ticks"),
                "with a slow webhook": lambda: stream(mesh.ports[0], "/a2a", EVENTS, skill="ticks", hook=hook),
            }
            told: dict[str, list[Told]] = {name: [] for name in ways}
            for way in ways.values():
                way()
            slow.begun.clear()
            for number in range(streams):
                for name in list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]:
                    told[name].append(ways[name]())
            if not slow.begun:
                raise Failed("no notification came to the webhook")
    result: dict[str, Any] = {name: summary(one) for name, one in told.items()}
    result["notifications"] = len(slow.begun)
    result["delay_ms"] = round(result["with a slow webhook"]["p50_ms"] - result["own workflow"]["p50_ms"], 3)
    result["longer_ms"] = round(result["with a slow webhook"]["whole_ms"] - result["own workflow"]["whole_ms"], 1)
    with agent("--pause", str(PAUSE), "--push") as pushing, webhook(SLOW) as slow:
        hook = f"http://127.0.0.1:{slow.port}/hook"
        result["SDK with a slow webhook"] = summary([stream(pushing.ports[0], "/", FEW, hook=hook) for _ in range(FEW)])
    return result


def line(found: dict[str, Any]) -> str:
    through, own, direct = found["through the mesh"], found["own workflow"], found["direct"]
    late, sdk = found["with a slow webhook"], found["SDK with a slow webhook"]
    return (
        f"an agent's first event is with the client after {through['first_ms']:.1f} ms through the mesh "
        f"({direct['first_ms']:.1f} directly), a workflow's after {own['first_ms']:.1f} ms (goal {GOAL:g}); p99 of all "
        f"{through['p99_ms']:.1f} and {own['p99_ms']:.1f} ms; a webhook that takes {SLOW:g} s delays a workflow's events by "
        f"{found['delay_ms']:.1f} ms (goal 0, give or take {NOTHING:g}) and a stream of {late['whole_ms']:.0f} ms by "
        f"{found['longer_ms']:.0f} ms; the first event of the SDK's own server by {sdk['first_ms'] / 1000:.1f} s"
    )


def main() -> int:
    """Prints one line; writes the result beside this script. 1 when something is missing or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=20, help="of each kind")
    asked = parser.parse_args()
    try:
        found = measure(asked.streams)
    except (Failed, environments.CannotInstall) as failed:
        print(failed)
        return 1
    write("a2a_streams", {
        **found, "events": EVENTS, "pause_ms": PAUSE, "slow_s": SLOW, "goal_ms": GOAL,
        "packages": {"agent": environments.installed(environments.environment("a2a"))}, "machine": machine(),
    })  # fmt: skip
    for name, row in found.items():
        if isinstance(row, dict):
            print(
                f"{name:26} first {row['first_ms']:9.2f} ms, p50 {row['p50_ms']:9.2f}, p99 {row['p99_ms']:9.2f}, "
                f"opening {row['opening_ms']:7.2f}, whole {row['whole_ms']:8.1f}"
            )
    print(line(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
