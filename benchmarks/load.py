"""A load generator shared by the benchmarks: n callers at once for some seconds, and what came of it.

`RawChat` speaks HTTP/1.1 by hand over kept connections, so that on a small machine the generator does not take the core
that it measures.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

Call = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Load:
    """What one leg gave."""

    at_once: int
    seconds: float
    requests: int
    failed: int
    per_second: float
    p50_ms: float
    p95_ms: float

    def to_json(self) -> dict[str, Any]:
        return {k: round(v, 2) if isinstance(v, float) else v for k, v in asdict(self).items()}


async def drive(call: Call, at_once: int, seconds: float, warm: int = 4) -> Load:
    """Keep `at_once` calls going for `seconds`; those in flight at the end are waited for and counted."""
    await asyncio.gather(*(call() for _ in range(max(warm, at_once))))
    times: list[float] = []
    failed = 0
    began = time.perf_counter()

    async def caller() -> None:
        nonlocal failed
        while time.perf_counter() - began < seconds:
            at = time.perf_counter()
            try:
                await call()
            except (OSError, RuntimeError, asyncio.IncompleteReadError):
                failed += 1
                await asyncio.sleep(0.01)
            else:
                times.append(time.perf_counter() - at)

    await asyncio.gather(*(caller() for _ in range(at_once)))
    took = time.perf_counter() - began
    ordered = sorted(times) or [0.0]
    return Load(
        at_once=at_once,
        seconds=took,
        requests=len(times),
        failed=failed,
        per_second=len(times) / took,
        p50_ms=statistics.median(ordered) * 1000,
        p95_ms=ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] * 1000,
    )


class RawChat:
    """Posts one prepared body to one URL over kept connections, and reads the answer by its length or its chunks."""

    def __init__(self, url: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        data = json.dumps(body).encode()
        lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", "content-type: application/json"]
        lines += [f"content-length: {len(data)}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        self._request = "\r\n".join(lines).encode() + b"\r\n\r\n" + data
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.last = b""
        """The body of the last answer."""

    async def __call__(self) -> None:
        while self._idle and self._idle[-1][0].at_eof():  # closed by the other side while it was idle
            self._idle.pop()[1].close()
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length:" in head:
            self.last = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        else:
            parts = []
            while size := int(await reader.readline(), 16):
                parts.append(await reader.readexactly(size))
                await reader.readline()
            await reader.readline()
            self.last = b"".join(parts)
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            writer.close()
            first = head.split(b"\r\n", 1)[0].decode()
            raise RuntimeError(f"{first}: {self.last[:300].decode(errors='replace')}")
        self._idle.append((reader, writer))

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()
