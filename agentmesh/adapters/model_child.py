"""The server's side of the models' child: start it or find it, follow it, start it again, stop it.

Imports no Ray. Entering returns at once; deploying goes on behind. The child outlives a server that crashes, and is
found again through `.agentmesh/models/state.json`; every process of its cluster carries the mesh's mark, so whatever
dies, what is left can be found and ended. One `ModelChild` per mesh at a time: `serve` holds the mesh's lock.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

import agentmesh
from agentmesh.adapters.model_link import (
    LINE_LIMIT,
    PROTOCOL,
    Home,
    Spec,
    State,
    specs_to_json,
    status_from_json,
    to_line,
)
from agentmesh.adapters.model_source import check_engine, check_ray, locate
from agentmesh.adapters.processes import MARK, end_marked, marked, process
from agentmesh.core.model import Model, ModelState, ModelStatus, Progress
from agentmesh.errors import ModelFailed, ModelUnavailable

log = logging.getLogger("agentmesh.models")

PROGRAM = (sys.executable, "-m", "agentmesh.adapters.ray_deploy")
CONNECT_TIME = 20.0
LOG_LIMIT = 16 * 1024 * 1024
SILENCE = 30.0
"""Seconds without a line after which a child counts as hung; it sends one every two."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. Tests shorten them."""

    stop: float = 10.0
    """For the child to end by itself when told to."""
    backoff: float = 1.0
    """Before the first restart of a child that died; doubles up to `backoff_limit`."""
    backoff_limit: float = 60.0
    settled: float = 120.0
    """A child that lived this long begins again with `backoff`."""


class ModelChild:
    """The deployed models of one mesh. `async with` it in the server's lifespan.

    Leaving stops the models and waits until no process of theirs is left, unless `keep_models`.
    """

    def __init__(
        self,
        folder: Path,
        models: Mapping[str, Model],
        *,
        state_folder: Path | None = None,
        keep_models: bool = False,
        grace: float = 600.0,
        ray_address: str | None = None,
        tasks: bool = False,
        guest: bool = False,
        program: Sequence[str] = PROGRAM,
        environ: Mapping[str, str] | None = None,
        pace: Pace = Pace(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder` is the mesh's; of `models`, those with `deploy` are ours. `program` is replaced by tests.

        `tasks`: a cluster is wanted also without models, to run functions. `guest`: another server of the same folder has the
        child; this one uses it, and neither starts nor stops it.
        """
        self._folder = folder
        self._home = Home((state_folder or folder / ".agentmesh") / "models")
        self._models = {name: model for name, model in models.items() if model.deploy is not None}
        self._keep, self._grace, self._address = keep_models or guest, grace, ray_address
        self._for_tasks, self._guest = tasks, guest
        self.no_cluster = "" if tasks or self._models else "no workflow of this mesh says `on: ray` any more"
        """Why no function can run on Ray here; empty when they can."""
        self._program, self._pace, self._clock = program, pace, clock
        self._environ = os.environ if environ is None else environ
        self._specs: dict[str, Spec] = {}
        self._statuses: dict[str, ModelStatus] = {}
        self._changed = anyio.Event()
        self._spawned: subprocess.Popen[bytes] | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self.attached = False
        """True once a child of an earlier server was found running."""

    async def __aenter__(self) -> Self:
        await anyio.to_thread.run_sync(self._locate)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._tasks is None:
            return None
        self._tasks.cancel_scope.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
        finally:
            if self._keep:
                if self._spawned is not None:
                    self._spawned.returncode = 0  # left running on purpose: nothing to warn about
            else:
                with anyio.CancelScope(shield=True):
                    await self.stop()
        return None

    def status(self) -> dict[str, ModelStatus]:
        """How every deployed model is, as far as the child has said; never waits."""
        return dict(self._statuses)

    async def wait_ready(self, name: str, progress: Progress | None = None, timeout: float = 600.0) -> tuple[str, ...]:
        """The base URLs of a model's replicas, once there is one; says to `progress` what it waits for.

        Raises ModelFailed when it cannot start, ModelUnavailable when `timeout` seconds were not enough.
        """
        said = ""
        with anyio.move_on_after(timeout):
            while True:
                status = self._statuses.get(name)
                if status is None:
                    raise ModelFailed(f"model {name!r} is not one that this mesh deploys")
                if status.state is ModelState.READY:
                    return status.urls
                if status.state in {ModelState.FAILED, ModelState.STOPPED}:
                    raise ModelFailed(status.message or f"model {name!r} is stopped")
                line = f"waiting for model {name!r}: {status.message or status.state.value}"
                if progress is not None and line != said:
                    progress(line)
                    said = line
                await self._changed.wait()
        raise ModelUnavailable(
            f"model {name!r} was not ready within {timeout:.0f} s ({self._statuses[name].message}); "
            f"try again, or see `agentmesh models status` and {self._statuses[name].log}"
        )

    async def stop(self) -> None:
        """End the child and everything it started; returns when nothing is left. May be called twice."""
        state = self._home.load()
        if state is not None and process(state.pid) == state.process:
            await self._ask_to_stop(state)
        left = await anyio.to_thread.run_sync(end_marked, self._home.mesh_id)
        if left:
            log.error("these processes of the models cannot be ended: %s", left)
        self._home.remove_runs()
        self._home.save(None)
        self._reap()
        for status in list(self._statuses.values()):
            if status.state is not ModelState.FAILED:
                self._set(replace(status, state=ModelState.STOPPED, message="stopped", urls=(), replicas=0))

    # -- the child's life

    async def meet(self, seconds: float) -> tuple[anyio.abc.SocketStream, BufferedByteReceiveStream]:
        """A connection of one's own to the child, past token and greeting; waits for it to run. ModelUnavailable when it does not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self._home.load()
            if state is not None and state.pid and process(state.pid) == state.process:
                with suppress(OSError, TimeoutError, ModelUnavailable, anyio.BrokenResourceError):
                    stream = await self._connect(state)
                    lines = BufferedByteReceiveStream(stream)
                    try:
                        if _is_ours(await read_message(lines)):
                            return stream, lines
                    except BaseException:
                        await anyio.aclose_forcefully(stream)
                        raise
                    await stream.aclose()
            await anyio.sleep(0.1)
        raise ModelUnavailable(f"the process that runs Ray was not there within {seconds:.0f} s; see {self._home.logs}")

    async def _attend(self) -> None:
        """A guest's life: follow whatever child there is."""
        while True:
            try:
                stream, lines = await self.meet(SILENCE)
                async with stream:
                    await self._hear(lines)
            except (OSError, TimeoutError, ModelUnavailable) as error:
                log.debug("the models' process: %s", error)
            self._set_all("waiting for the server of this folder that has the models")

    async def _run(self) -> None:
        if self._guest:
            await self._attend()
        if not self._specs and not self._for_tasks:
            await anyio.to_thread.run_sync(self._clear)
            return
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._follow(await self._attach() or await self._start())
            except Exception as error:
                # Whatever it is, the answer is the same, and a server must not fall with its models.
                log.warning("the models' process: %s: %s", type(error).__name__, error)
            if await self._lives():
                continue  # it executes itself anew when its cluster is lost; meet it again
            lived = time.monotonic() - began
            failures = 0 if lived > self._pace.settled else failures + 1
            wait = min(self._pace.backoff_limit, self._pace.backoff * 2 ** max(0, failures - 1))
            self._set_all(f"the models' process died after {lived:.0f} s; starting it again")
            await anyio.to_thread.run_sync(self._clear)
            await anyio.sleep(wait)

    async def _attach(self) -> anyio.abc.SocketStream | None:
        """A connection to the child that runs already, or None. Ends one that cannot be talked to."""
        state = self._home.load()
        if state is None or process(state.pid) != state.process or state.pid not in marked(self._home.mesh_id):
            await anyio.to_thread.run_sync(self._clear)
            return None
        try:
            stream = await self._connect(state)
        except (OSError, ModelUnavailable, anyio.BrokenResourceError) as error:
            log.warning("the models' process %d does not answer (%s); starting another", state.pid, error)
            await anyio.to_thread.run_sync(self._clear)
            return None
        self.attached = self._spawned is None
        return stream

    async def _start(self) -> anyio.abc.SocketStream:
        self._set_all("starting the models' process")
        state = State(run=str(await anyio.to_thread.run_sync(self._home.new_run)))
        self._home.save(state)
        self._spawned = await anyio.to_thread.run_sync(self._spawn, state)
        found = process(self._spawned.pid)
        if found is None:
            raise ModelUnavailable(f"the models' process ended at once; see {self._home.logs / 'child.log'}")
        state = state.with_process(found)
        self._home.save(state)
        return await self._connect(state)

    def _spawn(self, state: State) -> subprocess.Popen[bytes]:
        arguments = ["--home", str(self._home.folder), "--run", state.run, "--grace", str(self._grace)]
        if self._address:
            arguments += ["--address", self._address]
        # The mesh's secrets are for calling others; no model needs them. Ray's settings are for a cluster that we join.
        ours = ("AGENTMESH_",) if self._address else ("AGENTMESH_", "RAY_")
        environ = {k: v for k, v in self._environ.items() if not k.startswith(ours)}
        root = str(Path(agentmesh.__file__).resolve().parents[1])
        environ |= {
            MARK: self._home.mesh_id,
            "PYTHONPATH": os.pathsep.join(filter(None, [root, environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
        }
        file = self._home.logs / "child.log"
        if file.exists() and file.stat().st_size > LOG_LIMIT:
            file.replace(file.with_suffix(".log.1"))
        with file.open("ab") as output:
            # Its own session: a Ctrl-C in the server's terminal is not for it, nor a crash of the server.
            return subprocess.Popen(
                [*self._program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environ,
                start_new_session=True,
            )

    async def _connect(self, state: State) -> anyio.abc.SocketStream:
        """Meet the child on its socket, which it opens some tenths of a second after its start."""
        with anyio.fail_after(CONNECT_TIME):
            while True:
                try:
                    stream = await anyio.connect_unix(state.socket)
                    break
                except OSError:
                    if process(state.pid) != state.process:
                        self._reap()
                        raise ModelUnavailable(
                            f"the models' process ended before it listened; see {self._home.logs / 'child.log'}"
                        ) from None
                    await anyio.sleep(0.05)
            await stream.send(to_line({"token": self._home.token()}))
        return stream

    async def _follow(self, stream: anyio.abc.SocketStream) -> None:
        """Tell the child what to run and take its statuses, until the connection ends."""
        async with stream:
            lines = BufferedByteReceiveStream(stream)
            hello = await read_message(lines)
            if not _is_ours(hello):
                log.info("the models' process is another release's (%s); replacing it", hello.get("hello"))
                await anyio.to_thread.run_sync(self._clear)
                return
            await stream.send(to_line({"do": "deploy", "models": specs_to_json(self._specs)}))
            await self._hear(lines)

    async def _hear(self, lines: BufferedByteReceiveStream) -> None:
        """Takes the child's statuses until the connection ends."""
        while True:
            message = await read_message(lines)
            for name, fields in message.get("models", {}).items():
                if name in self._specs:
                    self._set(status_from_json(fields))

    async def _lives(self) -> bool:
        """The child is still there although the connection ended."""
        await anyio.sleep(0.2)
        self._reap()
        state = self._home.load()
        return state is not None and process(state.pid) == state.process

    async def _ask_to_stop(self, state: State) -> None:
        """Have the child end by itself; whatever it does not do in time is done for it."""
        with anyio.move_on_after(self._pace.stop):
            try:
                stream = await self._connect(state)
                async with stream:
                    await stream.send(to_line({"do": "stop"}))
                    while process(state.pid) == state.process:
                        self._reap()
                        await anyio.sleep(0.05)
            except (OSError, TimeoutError, ModelUnavailable, anyio.BrokenResourceError):
                return

    def _clear(self) -> None:
        """End what is left of an earlier child and forget it."""
        left = end_marked(self._home.mesh_id)
        if left:
            log.error("these processes of the models cannot be ended: %s", left)
        self._reap()
        self._home.save(None)
        self._home.remove_runs()

    def _reap(self) -> None:
        if self._spawned is not None:
            self._spawned.poll()

    # -- statuses

    def _locate(self) -> None:
        self._home.prepare()
        for name, model in self._models.items():
            status = ModelStatus(
                name,
                ModelState.STARTING,
                message="starting the models' process",
                source=model.source or "",
                since=self._clock(),
                log=str(self._home.logs / f"{name}.log"),
            )
            try:
                self._specs[name] = locate(name, model, self._folder)
                if self._program is PROGRAM:
                    check_engine()
                status = replace(status, revision=self._specs[name].revision)
            except ModelFailed as error:
                self._specs.pop(name, None)
                status = replace(status, state=ModelState.FAILED, message=error.message)
            self._statuses[name] = status
        if self._for_tasks and not self._specs and self._program is PROGRAM:
            try:
                check_ray()
            except ModelFailed as error:
                self._for_tasks, self.no_cluster = False, error.message

    def _set_all(self, message: str) -> None:
        for name in self._specs:
            self._set(replace(self._statuses[name], state=ModelState.STARTING, message=message, urls=(), replicas=0))

    def _set(self, status: ModelStatus) -> None:
        old = self._statuses.get(status.name)
        if old is not None:
            since = self._clock() if status.state is not old.state else old.since
            status = replace(status, source=old.source, since=since)
        if status != old:
            self._statuses[status.name] = status
            self._changed.set()
            self._changed = anyio.Event()


def _is_ours(hello: Mapping[str, Any]) -> bool:
    """Whether the child speaks as this release does."""
    about = hello.get("hello") or {}
    return (about.get("version"), about.get("protocol")) == (agentmesh.__version__, PROTOCOL)


async def read_message(lines: BufferedByteReceiveStream) -> dict[str, Any]:
    """The next message. Raises OSError or TimeoutError when the other side is gone or silent."""
    with anyio.fail_after(SILENCE):
        try:
            message = json.loads(await lines.receive_until(b"\n", LINE_LIMIT))
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, ValueError) as error:
            raise ConnectionResetError("the connection ended") from error
    if not isinstance(message, dict):
        raise ConnectionResetError("it does not speak our protocol")
    return message
