"""The wire to an upstream that is a child process: a JSON-RPC message a line on its stdin and stdout (MCP basic/transports/stdio).

The child gets its own process group, and every process of it a mark in its environment, so that none outlives its time: not one
that left the group, nor, at the next start, one whose server was killed. What it writes is bounded: lines, memory, log, rate.
Its environment is what its file says and a few names that any program needs; the server's own secrets are never in it.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc
import anyio.to_thread
from pydantic_core import to_json

from agentmesh.adapters.processes import MARK, PROC, end_marked, marked
from agentmesh.adapters.upstream_http import ANSWER_LIMIT
from agentmesh.adapters.upstream_mcp_wire import Hear, Message, Pace, parse
from agentmesh.errors import Fail, NotSent, Unanswered

log = logging.getLogger("agentmesh.sources")

KEPT_ENVIRONMENT: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL", "TERM",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
)  # fmt: skip
"""What a child gets of our own environment; npx and uvx find their caches and mirrors by these and their own files."""
LINE_LIMIT: Final = ANSWER_LIMIT
GRACE: Final = 1.0
"""Seconds in which a child has to read on when a call that was being written to it is given up."""
LOG_LINE: Final = 2000
LOG_RATE: Final = 50.0
"""Lines of its stderr a second that are logged; further ones are counted."""
MEMORY_EVERY: Final = 1.0
STRAYS_EVERY: Final = 10
"""Looks at the memory between two looks for processes that left their family."""
STOP_TIME: Final = 2.0
"""Seconds to end by itself when its stdin is closed, and again when it is told to."""
_HOLD = (
    "import ctypes,os,signal,sys;"
    "ctypes.CDLL(None).prctl(1,signal.SIGKILL,0,0,0);"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1);"
    "os.execvp(sys.argv[2],sys.argv[2:])"
)
"""Executes the program as one that the kernel kills with its parent (PR_SET_PDEATHSIG, which survives exec)."""


_starts = itertools.count(1)
"""Each start has a mark of its own: what replaces a child may begin before that one has ended."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to start."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    memory: int
    """Bytes that the child's processes may have together."""
    mark: str
    """What is written into the environment of all its processes; of one child of one mesh."""


@asynccontextmanager
async def child_wire(spec: ChildSpec) -> AsyncIterator[StdioWire]:
    """A child and the wire to it. Leaving ends every process of it. NotSent when it cannot be started."""
    spec = replace(spec, mark=f"{spec.mark}-{next(_starts)}")
    process = await _start(spec)
    wire = StdioWire(spec.name, process)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_log_stderr, spec.name, process)
            tasks.start_soon(_watch_memory, spec, process, wire)
            try:
                yield wire
            finally:
                tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            wire.end("it was ended")
            await _stop(spec, process)


def end_left(prefix: str) -> None:
    """Ends every process whose mark begins so: children of a server that was killed. Blocking."""
    if not PROC.exists():
        return
    wanted, found = f"{MARK}={prefix}".encode(), set[str]()
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            with suppress(OSError):
                for line in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    if line.startswith(wanted):
                        found.add(line.decode("utf-8", "replace").partition("=")[2])
    for mark in found:
        log.warning("ending what a server that was killed has left: %s", mark)
        end_marked(mark)


async def _start(spec: ChildSpec) -> anyio.abc.Process:
    environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    environment |= {**spec.env, MARK: spec.mark}
    command = list(spec.command)
    if sys.platform == "linux":
        if _which(command[0], environment, spec.folder) is None:
            raise NotSent(
                f"{spec.name} cannot be started: there is no program {command[0]!r}; see `command` of its file"
            )
        command = [sys.executable, "-I", "-S", "-c", _HOLD, str(os.getpid()), *command]
    try:
        return await anyio.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment, cwd=spec.folder, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise NotSent(
            f"{spec.name} cannot be started: {error.strerror}; see `command` and `cwd` of its file"
        ) from error


def _which(program: str, environment: Mapping[str, str], folder: Path) -> str | None:
    from shutil import which

    return which(str(folder / program) if "/" in program else program, path=environment.get("PATH"))


async def _stop(spec: ChildSpec, process: anyio.abc.Process) -> None:
    """Ends the child as the specification says: its stdin is closed, then it is told to, then it is killed, group and all."""
    if process.stdin is not None:
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await process.stdin.aclose()
    for number in (None, signal.SIGTERM):
        if number is not None:
            _signal(process, number)
        with anyio.move_on_after(STOP_TIME):
            await process.wait()
            break
    _signal(process, signal.SIGKILL)
    await process.wait()
    if PROC.exists():
        left = await anyio.to_thread.run_sync(end_marked, spec.mark)
        if left:
            log.error("upstream %s: these processes cannot be ended: %s", spec.name, left)
    await process.aclose()


def _signal(process: anyio.abc.Process, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


async def _log_stderr(name: str, process: anyio.abc.Process) -> None:
    """Its stderr in our log: lines that are too long are cut, and too many are counted."""
    assert process.stderr is not None
    rest, cutting, left, at, dropped = b"", False, LOG_RATE, anyio.current_time(), 0
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for part in process.stderr:
            *lines, rest = (rest + part).split(b"\n")
            if cutting and lines:
                lines, cutting = lines[1:], False
            if len(rest) > LOG_LINE:
                if not cutting:
                    lines.append(rest)
                rest, cutting = b"", True
            for line in lines:
                now = anyio.current_time()
                left, at = min(LOG_RATE, left + (now - at) * LOG_RATE), now
                if left < 1:
                    dropped += 1
                    continue
                left -= 1
                if dropped:
                    log.info("upstream %s: (%d more lines)", name, dropped)
                    dropped = 0
                log.info("upstream %s: %s", name, line[:LOG_LINE].decode("utf-8", "replace").rstrip())


async def _watch_memory(spec: ChildSpec, process: anyio.abc.Process, wire: StdioWire) -> None:
    """Kills the child when its processes have more than they may."""
    if not PROC.exists():
        return
    strays: set[int] = set()
    for number in itertools.count():
        await anyio.sleep(MEMORY_EVERY)
        if number % STRAYS_EVERY == 0:  # reads of every process on the machine; a family is read in no time
            strays = set(await anyio.to_thread.run_sync(marked, spec.mark))
        held = _memory(process.pid, strays)
        if held > spec.memory:
            wire.end(
                f"it had {held // 2**20} MiB of memory, more than the {spec.memory // 2**20} MiB of `memory` in its file"
            )
            _signal(process, signal.SIGKILL)
            await anyio.to_thread.run_sync(end_marked, spec.mark)


def _memory(pid: int, strays: Iterable[int]) -> int:
    """Resident bytes of a process, of its descendants, and of those that left the family."""
    page, total = os.sysconf("SC_PAGE_SIZE"), 0
    waiting, seen = [pid, *strays], set[int]()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        with suppress(OSError, ValueError, IndexError):
            total += int((PROC / str(one) / "statm").read_text().split()[1]) * page
            for thread in os.scandir(PROC / str(one) / "task"):
                waiting += map(int, Path(thread.path, "children").read_text().split())
    return total


class StdioWire:
    """Messages to one child and from it. `listen` reads, and has to run for anything to be answered."""

    def __init__(self, name: str, process: anyio.abc.Process) -> None:
        self._name, self._process = name, process
        self._waiting: dict[int | str, _Waiting] = {}
        self._writing = anyio.Lock()
        self._pace = Pace()
        self._ended = ""
        """Why nothing can be sent any more."""

    def settle(self, version: str, *, modern: bool) -> None:
        pass

    def end(self, why: str) -> None:
        """Whoever waits for an answer hears why none comes."""
        self._ended = self._ended or why
        for waiting in self._waiting.values():
            waiting.done.set()

    async def request(self, message: Message, headers: Mapping[str, str], hear: Hear, *, again: bool) -> Message:
        waiting = self._waiting[message["id"]] = _Waiting(anyio.Event())
        try:
            await self._write(message)
            await waiting.done.wait()
        except anyio.get_cancelled_exc_class():
            if message["method"] not in ("initialize", "server/discover"):
                with anyio.move_on_after(1, shield=True), suppress(NotSent, Unanswered):
                    await self.send({
                        "jsonrpc": "2.0", "method": "notifications/cancelled",
                        "params": {"requestId": message["id"], "reason": "the caller no longer waits"},
                    })  # fmt: skip
            raise
        finally:
            del self._waiting[message["id"]]
        if waiting.answer is None:
            raise Unanswered(
                f"{self._name} ended before it answered {message['method']} ({self._ended}); it may have been done"
            )
        return waiting.answer

    async def send(self, message: Message) -> None:
        await self._write(message)

    async def _write(self, message: Message) -> None:
        line = to_json(message) + b"\n"
        if self._ended:
            raise NotSent(f"{self._name} is not running: {self._ended}")
        assert self._process.stdin is not None
        begun = False
        try:
            async with self._writing:
                begun = True  # the whole line is on its way, whether or not it is waited for
                await self._process.stdin.send(line)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            self.end("it closed its stdin")
            raise NotSent(f"{self._name} has ended and did not take the message") from error
        except anyio.get_cancelled_exc_class():
            if begun:
                with anyio.move_on_after(GRACE, shield=True) as grace, suppress(OSError, anyio.BrokenResourceError):
                    await self._process.stdin.send(b"")
                if grace.cancelled_caught:
                    self.end("it does not read what it is sent")
            raise

    async def listen(self, hear: Hear) -> None:
        """Reads until the child ends; NotSent then, and Fail for what no server may write."""
        assert self._process.stdout is not None
        rest: list[bytes] = []
        size = 0
        try:
            async for part in self._process.stdout:
                if b"\n" not in part:
                    rest.append(part)
                    size += len(part)
                    if size > LINE_LIMIT:
                        raise Fail(f"it wrote a line of more than {LINE_LIMIT // 2**20} MB")
                    continue
                *lines, last = b"".join((*rest, part)).split(b"\n")
                for line in lines:
                    if line.strip():
                        await self._take(line, hear)
                rest, size = ([last], len(last)) if last else ([], 0)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        except Fail as error:
            self.end(error.message)
            raise NotSent(f"{self._name} is ended and begun again: {error.message}") from None
        code = await self._code()
        self.end(f"it ended{code}")
        raise NotSent(f"{self._name} {self._ended.removeprefix('it ')}" if self._ended else f"{self._name} ended")

    async def _code(self) -> str:
        with anyio.move_on_after(0.5):
            code = await self._process.wait()
            return f" with status {code}" if code >= 0 else f" by signal {-code}"
        return ""

    async def _take(self, line: bytes, hear: Hear) -> None:
        try:
            message = await parse(line, self._name)
        except Fail:
            await self._pace.passing(len(line))
            log.warning("upstream %s: wrote to stdout what is no message: %r", self._name, line[:200])
            return
        ident: Any = message.get("id")
        waiting = self._waiting.get(ident) if "method" not in message and isinstance(ident, (int, str)) else None
        if waiting is not None:
            waiting.answer = message
            waiting.done.set()
            return
        await self._pace.passing(len(line))
        if "method" in message:
            await hear(message)

    async def aclose(self) -> None:
        """Nothing: the child ends with its context."""


@dataclass(slots=True)
class _Waiting:
    done: anyio.Event
    answer: Message | None = None
