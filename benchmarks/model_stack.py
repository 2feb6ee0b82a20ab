"""What each layer between a caller and vLLM costs: 16-token answers, 1 and 32 at once, in one run on one machine.

Legs: the bare vLLM server; Ray Serve LLM with its default ingress; Ray's direct streaming (through its HAProxy); what
AgentMesh deploys, asked by the same raw client; and the same asked through AgentMesh's own client. Started one after
the other, so that each has the machine to itself. About five minutes. Not in the tests.

    python benchmarks/model_stack.py [--model DIR] [--seconds 8] [--legs bare,ingress,direct,replica,client]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# ruff: noqa: E402, ASYNC220  the path comes first; starting a server is what is measured
from agentmesh.adapters.model_child import ModelChild
from agentmesh.adapters.openai_http import OpenAiHttp
from agentmesh.adapters.processes import MARK, end_marked, free_ports
from agentmesh.core.model import ChatRequest, Deploy, Model
from benchmarks.load import Load, RawChat, drive

MESSAGES = [{"role": "user", "content": "Say what went wrong in this build."}]
BODY = {"model": "tiny", "messages": MESSAGES, "max_tokens": 16, "temperature": 0.0}
AT_ONCE = (1, 32)


@asynccontextmanager
async def bare(model: str) -> AsyncIterator[tuple[RawChat | Asked, float]]:
    """The bare server: `python -m vllm.entrypoints.openai.api_server`."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16"]
    command += ["--enforce-eager", "--max-num-seqs", "64", "--disable-uvicorn-access-log"]
    async with marked_process(command, lambda: answers(port)) as began:
        yield RawChat(f"http://127.0.0.1:{port}/v1/chat/completions", BODY), began


@asynccontextmanager
async def stock(mode: str, model: str) -> AsyncIterator[tuple[RawChat | Asked, float]]:
    """Ray Serve LLM by the book."""
    port = free_ports(1)[0]
    run = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
    command = [sys.executable, str(ROOT / "benchmarks" / "ray_stock.py"), mode, model, str(run), str(port)]
    try:
        async with marked_process(command, lambda: answers(port)) as began:
            yield RawChat(f"http://127.0.0.1:{port}/v1/chat/completions", BODY), began
    finally:
        shutil.rmtree(run, ignore_errors=True)


@asynccontextmanager
async def ours(model: str, *, client: bool) -> AsyncIterator[tuple[RawChat | Asked, float]]:
    """What `agentmesh serve` deploys; asked raw at the replica's address, or through AgentMesh's client."""
    models = {"tiny": Model(source=model, deploy=Deploy())}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with ModelChild(Path(folder), models) as child, OpenAiHttp(models, child) as backend:
            (url,) = await child.wait_ready("tiny", timeout=300)
            took = time.monotonic() - began
            request = ChatRequest("tiny", MESSAGES, max_tokens=16, temperature=0.0)

            yield (Asked(backend, request) if client else RawChat(f"{url}/chat/completions", BODY)), took


class Asked:
    """A call through AgentMesh's own client."""

    def __init__(self, backend: OpenAiHttp, request: ChatRequest) -> None:
        self._backend, self._request = backend, request
        self.tokens = 0

    async def __call__(self) -> None:
        async for chunk in self._backend.chat(self._request):
            if chunk.usage is not None:
                self.tokens = chunk.usage.completion_tokens


@asynccontextmanager
async def marked_process(command: list[str], ready: Callable[[], bool]) -> AsyncIterator[float]:
    """A process and all that it starts, ended by their mark; yields the seconds until it was ready."""
    mark = f"bench-{os.getpid()}"
    environ = {**os.environ, MARK: mark, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "SPT_NOENV": "1"}
    environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environ)
        try:
            while not await asyncio.to_thread(ready):
                if process.poll() is not None or time.monotonic() - began > 300:
                    log.seek(0)
                    raise SystemExit(f"{command[1:4]} did not start:\n{log.read()[-3000:].decode(errors='replace')}")
                await asyncio.sleep(0.3)
            yield time.monotonic() - began
        finally:
            await asyncio.to_thread(end_marked, mark)
            process.wait()


def answers(port: int) -> bool:
    data = json.dumps({**BODY, "max_tokens": 1}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", data, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def measure(name: str, leg: Any, seconds: float) -> dict[str, Any]:
    call: RawChat | Asked
    async with leg as (call, started):
        loads: list[Load] = [await drive(call, n, seconds) for n in AT_ONCE]
        used = json.loads(call.last)["usage"]["completion_tokens"] if isinstance(call, RawChat) else call.tokens
        if isinstance(call, RawChat):
            call.close()
        if used != 16:
            raise SystemExit(f"{name} answered {used} tokens, not 16: the legs would not compare")
    result = {"leg": name, "ready_s": round(started, 1), "loads": [load.to_json() for load in loads]}
    one, many = loads
    print(
        f"{name:8} ready after {started:5.1f} s   1 at once {one.per_second:6.1f}/s ({one.p50_ms:5.1f} ms)   "
        f"32 at once {many.per_second:6.1f}/s ({many.p50_ms:5.1f} ms)   failed {one.failed + many.failed}",
        flush=True,
    )
    return result


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(ROOT / "agentmesh" / "builtin" / "tiny"))
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--legs", default="bare,ingress,direct,replica,client")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "model_stack.json")
    given = parser.parse_args()
    legs: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare(given.model),
        "ingress": lambda: stock("ingress", given.model),
        "direct": lambda: stock("direct", given.model),
        "replica": lambda: ours(given.model, client=False),
        "client": lambda: ours(given.model, client=True),
    }
    results = [await measure(name, legs[name](), given.seconds) for name in given.legs.split(",")]
    rates = {r["leg"]: {load["at_once"]: load["per_second"] for load in r["loads"]} for r in results}
    ratios = {
        f"{a}/{b}@{n}": round(rates[a][n] / rates[b][n], 2)
        for a, b in (
            ("client", "direct"),
            ("client", "bare"),
            ("client", "replica"),
            ("direct", "bare"),
            ("ingress", "bare"),
        )
        for n in AT_ONCE
        if a in rates and b in rates
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    given.out.write_text(json.dumps({**about, "legs": results, "ratios": ratios}, indent=2) + "\n")
    print("model_stack: " + "  ".join(f"{name} {ratio}" for name, ratio in ratios.items()))


if __name__ == "__main__":
    asyncio.run(main())
