"""What the `a2a_*.py` scripts share: a served mesh, an agent of the SDK beside it, and `wrk` that sends messages.

An agent runs in an environment of its own (`environments.py`); both are processes on loopback, each with one event loop.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import environments
from benchmarks.mcp_calls import DRIVERS, HERE, Failed, Server, _printed, started

PATHS = {"rpc": "", "rest": "/message:send"}
"""Below an address, by binding."""
HELLO = """name: hello
description: Says that it is done.
input: {type: object, properties: {text: {type: string}}, required: [text]}
on: {a2a: {}}
steps:
  - {id: say, set: {text: done}}
output: ${{ steps.say.output.text }}
"""
"""The trivial agent of a mesh: a workflow with one `set` step."""
_NUMBERS = itertools.count(1)


def _announced(out: Path, err: Path) -> int | None:
    found = re.search(r"A2A +http://127\.0\.0\.1:(\d+)/", err.read_text())
    return int(found[1]) if found else None


@contextmanager
def mesh(files: Mapping[str, str], *, store: str | None = None) -> Iterator[Server]:
    """`agentmesh serve` of a mesh of these files (the workflow `hello` and an empty agentmesh.yaml are there already)."""
    with tempfile.TemporaryDirectory(prefix="bench-a2a-") as name:
        folder = Path(name)
        for path, text in {"agentmesh.yaml": "name: bench\n", "workflows/hello.yaml": HELLO, **files}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        path = os.pathsep.join([str(folder), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"PYTHONPATH": path, "AGENTMESH_LOG": "error"}
        if store is not None:
            env["AGENTMESH_STORE"] = store
        command = [sys.executable, "-m", "agentmesh", "serve", "--no-models", "--port", "0", "--mesh", name]
        with started(command, _announced, cwd=folder, env=env) as server:
            yield server


def agent(*options: str) -> AbstractContextManager[Server]:
    """The SDK's server, see drivers/a2a_servers.py. CannotInstall where its environment cannot be made."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    python = environments.environment("a2a")
    return started([python, DRIVERS / "a2a_servers.py", *options], _printed, env=kept)


def text(said: str, **more: Any) -> dict[str, Any]:
    """Parameters of SendMessage."""
    message = {"messageId": f"m{next(_NUMBERS)}", "role": "ROLE_USER", "parts": [{"text": said}]}
    return {"message": message, **more}


def call(port: int, path: str, method: str, params: Mapping[str, Any], *, within: float = 30) -> dict[str, Any]:
    """The result of one JSON-RPC call. Failed when there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    headers = {"A2A-Version": "1.0", "Content-Type": "application/json"}
    try:
        connection.request("POST", path or "/", body, headers)
        said = connection.getresponse().read()
        result: dict[str, Any] = json.loads(said)["result"]
    except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
        raise Failed(
            f"{method} at {path or '/'} was answered with {error!r}: {locals().get('said', b'')[:500]!r}"
        ) from None
    finally:
        connection.close()
    return result


def check(port: int, path: str, said: str = "hello") -> None:
    """Failed unless a message makes a task that is completed, with an artifact."""
    task = call(port, path, "SendMessage", text(said)).get("task", {})
    if task.get("status", {}).get("state") != "TASK_STATE_COMPLETED" or not task.get("artifacts"):
        raise Failed(f"the message was answered with {json.dumps(task)[:500]}")


def wrk(
    server: Server,
    path: str,
    binding: str,
    at_once: int,
    seconds: float,
    metadata: str = "",
    method: str = "SendMessage",
) -> dict[str, float]:
    """Sends messages to the agent at `path` for some seconds. `cpu_us`: processor time of the server for each."""
    port = server.ports[0]
    command = [
        "wrk", "-t1", f"-c{at_once}", f"-d{seconds:g}s", "--timeout", "60s", "-s", str(DRIVERS / "a2a_send.lua"),
        f"http://127.0.0.1:{port}{path}{PATHS[binding]}",
    ]  # fmt: skip
    env = os.environ | {
        "BENCH_HOST": f"127.0.0.1:{port}", "BENCH_BINDING": binding, "BENCH_NAME": f"w{next(_NUMBERS)}",
        "BENCH_METHOD": method,
    }  # fmt: skip
    if metadata:
        env["BENCH_META"] = metadata
    before = server.cpu
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds + 90, check=False)
    if done.returncode:
        raise Failed(f"wrk failed: {done.stderr or done.stdout}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return {
        **found, "per_second": (found["requests"] - found["failed"]) / found["seconds"],
        "cpu_us": 1e6 * (server.cpu - before) / max(1, found["requests"]),
    }  # fmt: skip


def medians(rounds: Sequence[Mapping[str, float]], *keys: str) -> dict[str, float]:
    return {key: round(statistics.median(one[key] for one in rounds), 3) for key in keys}


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release(),
        "load_average_15_minutes": os.getloadavg()[2],
    }  # fmt: skip


def write(name: str, result: Mapping[str, Any]) -> None:
    """The result, beside the others."""
    file = HERE / "results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n")
