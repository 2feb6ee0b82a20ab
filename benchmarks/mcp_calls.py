"""How fast is `tools/call` of an echo tool in MCP 2026-07-28, beside a bare Starlette handler and beside the peers?

Requests a second, p50 and p99 by `wrk` with one thread and 32 kept connections, as a ratio to a Starlette handler that reads JSON and
answers as much JSON as the tool does, in one run on one machine: `agentmesh serve` as users start it (Host and Origin checks, validation,
metrics, its store), with one tool and with 1,000; the SDK's MCPServer and its low-level server; FastMCP with one tool and with 200; the
TypeScript SDK. All Python ones run on uvicorn with uvloop and httptools, one process each. A round goes through all of them in turn, each
time in another order; a ratio is to the bare handler of the same round, and the medians of the rounds stand. Beside it the processor time
that a request takes the server, which a machine that does other things too changes less. Two workers are measured where cores remain for
them and for `wrk`.

Last, what 1,000 idle `subscriptions/listen` streams add to the server's resident memory.

    python benchmarks/mcp_calls.py [--rounds 5] [--seconds 4] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import environments, postgres

HERE = Path(__file__).parent
RESULT = HERE / "results" / "mcp_calls.json"
DRIVERS = HERE / "drivers"
CONNECTIONS, ROUNDS, SECONDS = 32, 5, 4
STREAMS = 1000
FILE = 250
"""Tools in one file of servers/."""
GOALS = {"one tool": 0.45, "two workers": 1.8, "megabytes of streams": 100.0}
AIM = 0.5
MEASURED_WITH = {"mcp", "mcp-types", "starlette", "uvicorn", "uvloop", "httptools", "pydantic"}
TICKS = os.sysconf("SC_CLK_TCK")
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
ECHO = """async def echo(text):
    return {"text": text}
"""
TOOL = """  {name}:
    description: Echo.
    input: {{type: object, properties: {{text: {{type: string}}}}, required: [text]}}
    python: bench_echo:echo
"""


class Failed(Exception):
    """A measurement that cannot stand."""


@dataclass(frozen=True)
class Server:
    """One that listens. `pids`: its processes."""

    ports: tuple[int, ...]
    pids: tuple[int, ...]

    @property
    def cpu(self) -> float:
        """Processor seconds so far."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in self.pids]
        return sum(int(f[11]) + int(f[12]) for f in fields) / TICKS

    @property
    def resident_mb(self) -> float:
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids)
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def started(command: Sequence[str | Path], port: Callable[[Path, Path], int | None], **given: Any) -> Iterator[Server]:
    """A server from its command until the end of the block. `port`: read from the files of its stdout and stderr, once it is there."""
    with tempfile.TemporaryDirectory(prefix="bench-mcp-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr, **given)
        try:
            until = time.monotonic() + 60
            while (found := port(out, err)) is None:
                if process.poll() is not None or time.monotonic() > until:
                    raise Failed(f"{command[0]} did not start:\n{err.read_text()[-2000:]}")
                time.sleep(0.05)
            yield Server((found,), (process.pid,))
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _printed(out: Path, err: Path) -> int | None:
    line, newline, _ = out.read_text().partition("\n")
    return int(json.loads(line)["port"]) if newline else None


def _announced(out: Path, err: Path) -> int | None:
    found = re.search(r"MCP +http://127\.0\.0\.1:(\d+)/mcp", err.read_text())
    return int(found[1]) if found else None


@contextmanager
def mesh(tools: int, *, servers: int = 1, store: str | None = None) -> Iterator[Server]:
    """`agentmesh serve` of a mesh with this many tools; several servers share one store."""
    with tempfile.TemporaryDirectory(prefix="bench-mesh-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "servers").mkdir()
        (folder / "agentmesh.yaml").write_text("name: bench\n")
        (folder / "bench_echo.py").write_text(ECHO)
        names = ["echo", *(f"tool_{number}" for number in range(1, tools))]
        for begin in range(0, tools, FILE):
            entries = "".join(TOOL.format(name=tool) for tool in names[begin : begin + FILE])
            (folder / "servers" / f"s{begin}.yaml").write_text(f"name: s{begin}\nprefix: false\ntools:\n{entries}")
        path = os.pathsep.join([str(folder), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"PYTHONPATH": path} | ({} if store is None else {"AGENTMESH_STORE": store})
        command = [sys.executable, "-m", "agentmesh", "serve", "--no-models", "--port", "0", "--mesh", name]
        each = [
            stack.enter_context(started(command, _announced, cwd=folder, env=env | {"AGENTMESH_LOG": "error"}))
            for _ in range(servers)
        ]
        yield Server(tuple(s.ports[0] for s in each), tuple(s.pids[0] for s in each))


def driver(kind: str, tools: int = 1, python: Path | None = None) -> Callable[[], Any]:
    command = [python or sys.executable, DRIVERS / "mcp_servers.py", kind, "--tools", str(tools)]
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return lambda: started(command, _printed, env=kept)


def typescript(folder: Path) -> Callable[[], Any]:
    return lambda: started(["node", DRIVERS / "mcp_typescript.mjs"], _printed, cwd=folder)


def contestants(only: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """How each is started. CannotInstall when a peer cannot be had."""
    wanted: dict[str, Callable[[], Callable[[], Any]]] = {
        "Starlette": lambda: driver("starlette"),
        "AgentMesh": lambda: lambda: mesh(1),
        "AgentMesh, 1,000 tools": lambda: lambda: mesh(1000),
        "SDK MCPServer": lambda: driver("mcpserver"),
        "SDK low-level": lambda: driver("lowlevel"),
        "FastMCP": lambda: driver("fastmcp", 1, environments.environment("fastmcp")),
        "FastMCP, 200 tools": lambda: driver("fastmcp", 200, environments.environment("fastmcp")),
        "TypeScript SDK": lambda: typescript(environments.node_environment("typescript")),
    }
    return {name: make() for name, make in wanted.items() if not only or name in {"Starlette", *only}}


def check(port: int) -> None:
    """Failed unless the server answers the very call that is measured."""
    body = {
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": "hello"}, "_meta": META},
    }  # fmt: skip
    headers = {
        "Host": f"127.0.0.1:{port}", "Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call", "Mcp-Name": "echo",
    }  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/mcp", json.dumps(body), headers)
    response = connection.getresponse()
    said = response.read()
    connection.close()
    try:
        good = response.status == 200 and json.loads(said)["result"]["structuredContent"] == {"text": "hello"}
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise Failed(f"the call was answered with {response.status}: {said[:500]!r}")


def measure(server: Server, seconds: float) -> dict[str, float]:
    """What `wrk` found, one for each port at once; the connections are shared between them."""
    each = CONNECTIONS // len(server.ports)
    before = server.cpu
    running = []
    for port in server.ports:
        command = [
            "wrk",
            "-t1",
            f"-c{each}",
            f"-d{seconds}s",
            "--timeout",
            "30s",
            "-s",
            str(DRIVERS / "mcp_call.lua"),
            f"http://127.0.0.1:{port}/mcp",
        ]
        env = os.environ | {"BENCH_HOST": f"127.0.0.1:{port}", "BENCH_TOOL": "echo"}
        running.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    found = []
    for process in running:
        out, err = process.communicate(timeout=seconds + 60)
        if process.returncode:
            raise Failed(f"wrk failed: {err or out}")
        found.append(json.loads(out.strip().splitlines()[-1]))
    if failed := sum(one["failed"] for one in found):
        raise Failed(f"{failed} requests failed")
    requests = sum(one["requests"] for one in found)
    return {
        "per_second": sum(one["requests"] / one["seconds"] for one in found),
        "p50_ms": max(one["p50_ms"] for one in found),
        "p99_ms": max(one["p99_ms"] for one in found),
        "cpu_us": 1e6 * (server.cpu - before) / requests,
    }


def rounds_of(servers: dict[str, Server], rounds: int, seconds: float) -> dict[str, list[dict[str, float]]]:
    """Every round of every contestant, in turn; each is warmed up first."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    for server in servers.values():
        for port in server.ports:
            check(port)
        measure(server, 1)
    names = list(servers)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            one = measure(servers[name], seconds)
            found[name].append(one)
            print(
                f"  round {number + 1}: {name}: {one['per_second']:.0f}/s, p99 {one['p99_ms']:.1f} ms", file=sys.stderr
            )
    return found


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Medians, and ratios to the bare handler of the same round; a ratio of times is the bare one's to the other's."""
    bare = found["Starlette"]
    result: dict[str, dict[str, Any]] = {}
    for name, rounds in found.items():
        ratios = sorted(one["per_second"] / base["per_second"] for one, base in zip(rounds, bare, strict=True))
        result[name] = {
            **{key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]},
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(one, 3) for one in ratios],
            **{
                f"{key}_ratio": round(statistics.median(b[key] / o[key] for o, b in zip(rounds, bare, strict=True)), 3)
                for key in ("p50_ms", "p99_ms", "cpu_us")
            },
        }
    return result


def two_workers(one: float, rounds: int, seconds: float) -> dict[str, Any]:
    """Two servers on one store beside one, or why that cannot be measured here."""
    cores = os.cpu_count() or 1
    if cores < 4:
        return {"measured": False, "why": f"not measurable: two workers and wrk need 4 cores, this machine has {cores}"}
    try:
        postgres.programs()
    except postgres.NoPostgres as missing:
        return {"measured": False, "why": f"not measurable: servers that share a store need PostgreSQL ({missing})"}
    with postgres.server() as database, mesh(1, servers=2, store=database.create("bench")) as both:
        for port in both.ports:
            check(port)
        measure(both, 1)
        rates = [measure(both, seconds)["per_second"] for _ in range(rounds)]
    return {
        "measured": True,
        "per_second": round(statistics.median(rates)),
        "times": round(statistics.median(rates) / one, 2),
    }


async def streams(server: Server, count: int) -> dict[str, float]:
    """Opens idle listen streams, each until it was acknowledged; what they add to the server's memory."""
    before = server.resident_mb
    opened: list[asyncio.StreamWriter] = []
    port = server.ports[0]
    try:
        for number in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened.append(writer)
            params = {"_meta": META, "notifications": {"toolsListChanged": True}}
            body = json.dumps(
                {"jsonrpc": "2.0", "id": number, "method": "subscriptions/listen", "params": params}
            ).encode()
            head = (
                f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
                "accept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\n"
                f"mcp-method: subscriptions/listen\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            said = await asyncio.wait_for(reader.readuntil(b"notifications/subscriptions/acknowledged"), 30)
            if b" 200 " not in said.split(b"\r\n", 1)[0]:
                raise Failed(f"stream {number} was answered with {said[:200]!r}")
        check(port)
        await asyncio.sleep(1)
        return {"streams": count, "before_mb": round(before, 1), "added_mb": round(server.resident_mb - before, 1)}
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError) as error:
        raise Failed(f"listen stream {len(opened)} did not open: {error!r}") from None
    finally:
        for writer in opened:
            writer.close()


def table(found: dict[str, dict[str, Any]]) -> None:
    print(
        f"\n{'tools/call of echo, 32 at once':32}{'requests/s':>12}{'ratio':>8}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'ratio':>8}"
    )
    for name, row in found.items():
        print(
            f"{name:32}{row['per_second']:>12.0f}{row['ratio']:>8.3f}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
            f"{row['cpu_us']:>9.0f}{row['cpu_us_ratio']:>8.3f}"
        )


def line(found: dict[str, dict[str, Any]], workers: dict[str, Any], memory: dict[str, float]) -> str:
    ours, many = found["AgentMesh"], found["AgentMesh, 1,000 tools"]
    peers = ", ".join(
        f"{name} {row['ratio']:.2g}" for name, row in found.items() if not name.startswith(("AgentMesh", "Starlette"))
    )
    both = f"two workers {workers['times']} times" if workers["measured"] else "two workers not measurable here"
    return (
        f"tools/call {ours['ratio']:.2f} of bare Starlette ({ours['per_second']:.0f}/s, p50 {ours['p50_ms']:.1f} ms, "
        f"p99 {ours['p99_ms']:.1f} ms; goal {GOALS['one tool']}, aim {AIM}), {many['ratio']:.2f} with 1,000 tools; {both}; "
        f"{memory['streams']:.0f} idle listen streams {memory['added_mb']:.0f} MB "
        f"(goal {GOALS['megabytes of streams']:.0f}); peers: {peers}"
    )


def main() -> int:
    """Prints a table and one line; writes the result beside this script. 1 when something is missing or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each measurement")
    parser.add_argument("--only", nargs="+", default=[], help="these beside Starlette; nothing is written")
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed; install it (Debian: apt-get install wrk)")
        return 1
    try:
        kinds = contestants(asked.only)
        with ExitStack() as stack:
            servers = {name: stack.enter_context(start()) for name, start in kinds.items()}
            found = summary(rounds_of(servers, asked.rounds, asked.seconds))
            table(found)
            if asked.only:
                return 0
            memory = asyncio.run(streams(servers["AgentMesh"], STREAMS))
        workers = two_workers(found["AgentMesh"]["per_second"], asked.rounds, asked.seconds)
    except (Failed, environments.CannotInstall, postgres.NoPostgres) as failed:
        print(failed)
        return 1
    here = environments.installed(Path(sys.executable))
    result = {
        "systems": found, "two_workers": workers, "listen_streams": memory, "goals": GOALS, "aim": AIM,
        "connections": CONNECTIONS, "rounds": asked.rounds, "seconds": asked.seconds,
        "packages": {
            "here": {name: version for name, version in here.items() if name in MEASURED_WITH},
            "fastmcp": environments.installed(environments.environment("fastmcp")), "typescript": environments.NODE_PEERS["typescript"],
        },
        "machine": {
            "cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release(),
            "load_average_15_minutes": os.getloadavg()[2],
        },
    }  # fmt: skip
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print()
    print(line(found, workers, memory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
