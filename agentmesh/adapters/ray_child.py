"""The models' child: a process that keeps the models of one mesh up, with or without a server.

Started by `ModelChild` as `python -m agentmesh.adapters.ray_deploy`, in a session of its own. It listens on a UNIX
socket for the server, is told what to deploy, and tells how every model is. When Ray's GCS or raylet dies, it kills
what is left and executes itself anew: a process that has lost its cluster is not worth mending. When nobody has been
connected for `grace` seconds, or it is told to stop, it kills everything it started and ends. It imports no ray itself;
the blocking calls are in `ray_deploy.Cluster`, made in threads and given a time.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import SocketStream, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from agentmesh import __version__
from agentmesh.adapters.ipv4 import refuse_ipv6
from agentmesh.adapters.model_link import LINE_LIMIT, PROTOCOL, Home, Spec, specs_from_json, to_line
from agentmesh.adapters.processes import MARK, become_subreaper, end_marked, process
from agentmesh.adapters.ray_calls import Calls
from agentmesh.adapters.ray_deploy import Cluster, ClusterLost, cause_of
from agentmesh.core.model import ModelState, ModelStatus

log = logging.getLogger("agentmesh.models")
T = TypeVar("T")
Tell = Callable[[Mapping[str, Any]], Awaitable[None]]
HEARTBEAT = 2.0
POLL = 0.4
START_TIME = 120.0
PROGRAM = (sys.executable, "-m", "agentmesh.adapters.ray_deploy")
CALL_TIME = 20.0


@dataclass(frozen=True, slots=True)
class Arguments:
    home: Home
    run: Path
    grace: float
    address: str | None
    restarts: int
    program: tuple[str, ...] = PROGRAM
    """What starts this again."""


class Child:
    """Everything the process does; `run` returns its exit status."""

    def __init__(self, arguments: Arguments, cluster: Cluster, version: str = __version__) -> None:
        self._given, self._cluster, self._version = arguments, cluster, version
        self._wanted: dict[str, Spec] | None = None
        """None until a server has said what to deploy."""
        self._deployed: dict[str, Spec] = {}
        self._statuses: dict[str, ModelStatus] = {}
        self._changed = anyio.Event()
        self._servers = 0
        self._left_at = time.monotonic()
        self._token = arguments.home.token()
        self._calls = Calls(cluster)

    async def run(self) -> None:
        """Serve until told to stop, until nobody cares, or until the cluster is lost (then it does not return)."""
        async with anyio.create_task_group() as tasks:
            listener = await anyio.create_unix_listener(self._given.run / "link.sock", mode=0o600)
            tasks.start_soon(listener.serve, self._serve)
            tasks.start_soon(self._stop_on_signal)
            tasks.start_soon(self._stop_when_alone)
            await self._keep()

    # -- the cluster

    async def _keep(self) -> None:
        began = time.monotonic()
        try:
            await self._wait_for_wishes()
            await self._in_thread(self._cluster.start, self._slots(), seconds=START_TIME)
            log.info("Ray is up after %.1f s", time.monotonic() - began)
            self._calls.up.set()
            while True:
                self._cluster.check()
                if self._wanted or self._deployed:
                    await self._in_thread(self._cluster.serve, seconds=START_TIME)
                    await self._deploy()
                    self._read(await self._in_thread(self._cluster.look, seconds=CALL_TIME))
                with anyio.move_on_after(POLL):
                    await self._changed.wait()
        except Exception as error:
            why = str(error) if isinstance(error, ClusterLost) else f"{type(error).__name__}: {error}"
            log.exception("the cluster is lost")
            for name in self._statuses:
                self._set(name, state=ModelState.STARTING, message=f"{why}; starting again", urls=(), replicas=0)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.2)  # let the servers hear it
                await self._start_over(time.monotonic() - began)

    async def _wait_for_wishes(self) -> None:
        while self._wanted is None:
            await self._changed.wait()
        for name in self._wanted:
            self._set(name, state=ModelState.STARTING, message="starting Ray")

    def _slots(self) -> int:
        return sum(spec.max_replicas for spec in (self._wanted or {}).values() if spec.device == "cpu")

    async def _deploy(self) -> None:
        """Bring what runs to what is wanted."""
        wanted = self._wanted or {}
        for name in [n for n in self._deployed if n not in wanted]:
            await self._in_thread(self._cluster.delete, name, seconds=CALL_TIME)
            del self._deployed[name]
            self._statuses.pop(name, None)
        for name, spec in wanted.items():
            if self._deployed.get(name) != spec:
                self._set(name, state=ModelState.LOADING, message="starting a process for the model", urls=())
                await self._in_thread(self._cluster.deploy, name, spec, seconds=CALL_TIME * 3)
                self._deployed[name] = spec
                log.info("deploying %s from %s", name, spec.source)

    def _read(self, details: Mapping[str, Any]) -> None:
        """Serve's account of the applications, as statuses of models."""
        targets = {
            target["name"]: (target["ip"], target["port"])
            for group in details["target_groups"]
            for target in group["targets"]
        }
        for name in self._deployed:
            application = details["applications"].get(name)
            if application is None:
                continue
            urls = tuple(
                f"http://{ip}:{port}/{name}/v1"
                for replica in application["deployments"].get(name, {}).get("replicas", ())
                if replica["state"] == "RUNNING"
                and (self._cluster.joined or process(replica["pid"]) is not None)
                and (ip := targets.get(replica["actor_name"], ("", 0))[0])
                and (port := targets[replica["actor_name"]][1])
            )
            progress, why = self._cluster.progress(name), "no reason given"
            if progress.startswith("failed: "):
                why = cause_of(progress.removeprefix("failed: "), self._given.home.logs / f"{name}.log")
                progress = f"it did not start: {why}"
            if urls:
                self._set(name, state=ModelState.READY, message="", urls=urls, replicas=len(urls))
            elif application["status"] == "DEPLOY_FAILED":
                self._set(
                    name,
                    state=ModelState.FAILED,
                    message=f"model {name!r} did not start: {why}; its log is {self._given.home.logs / name}.log",
                    urls=(),
                    replicas=0,
                )
            else:
                message = {"": "starting a process for the model", "ready": "waiting for Ray Serve"}.get(
                    progress, progress
                )
                self._set(name, state=ModelState.LOADING, message=message, urls=(), replicas=0)

    async def _start_over(self, lived: float) -> None:
        restarts = 0 if lived > 120 else self._given.restarts + 1
        await anyio.to_thread.run_sync(self._end_all)
        await anyio.sleep(min(30.0, 2.0**restarts - 1))
        given = self._given
        arguments = ["--home", str(given.home.folder), "--run", str(given.run), "--grace", str(given.grace)]
        if given.address:
            arguments += ["--address", given.address]
        # The same program, with the same pid and mark.
        os.execv(given.program[0], [*given.program, *arguments, "--restarts", str(restarts)])  # noqa: S606

    def _end_all(self) -> None:
        left = end_marked(os.environ[MARK], spare={os.getpid()})
        if left:
            log.error("these processes cannot be ended: %s", left)
        shutil.rmtree(self._given.run / "r", ignore_errors=True)

    async def _stop(self) -> None:
        """End every process we started, then this one. Does not return."""
        with anyio.CancelScope(shield=True):
            log.info("stopping")
            if self._cluster.joined:
                for name in list(self._deployed):
                    with suppress(Exception):
                        await self._in_thread(self._cluster.delete, name, seconds=5)
            await anyio.to_thread.run_sync(self._end_all)
            shutil.rmtree(self._given.run, ignore_errors=True)
            state = self._given.home.load()
            if state is not None and state.run == str(self._given.run):
                self._given.home.save(None)
            # Not sys.exit: Ray's own hooks would wait for a cluster that is no more.
            os._exit(0)

    async def _stop_on_signal(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                await self._stop()

    async def _stop_when_alone(self) -> None:
        while True:
            await anyio.sleep(min(1.0, self._given.grace / 4))
            if self._servers == 0 and time.monotonic() - self._left_at > self._given.grace:
                log.info("no server for %.0f s", self._given.grace)
                await self._stop()

    # -- the server

    async def _serve(self, stream: SocketStream) -> None:
        """One connection: the token first, then wishes in and statuses out."""
        lines = BufferedByteReceiveStream(stream)
        async with stream:
            with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, ValueError):
                with anyio.fail_after(10):
                    hello = await _read_line(lines)
                if not secrets.compare_digest(str(hello.get("token", "")), self._token):
                    return
                about = {"version": self._version, "protocol": PROTOCOL, "pid": os.getpid()}
                await stream.send(to_line({"hello": about}))
                self._servers += 1
                speaking = anyio.Lock()

                async def tell(message: Mapping[str, Any]) -> None:
                    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                        async with speaking:
                            await stream.send(to_line(message))

                try:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._tell, tell)
                        await self._listen(lines, tasks, tell)
                        tasks.cancel_scope.cancel()
                finally:
                    self._servers -= 1
                    self._left_at = time.monotonic()

    async def _listen(self, lines: BufferedByteReceiveStream, tasks: TaskGroup, tell: Tell) -> None:
        while True:
            try:
                message = await _read_line(lines)
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                return
            match message.get("do"):
                case "deploy":
                    self._wanted = specs_from_json(message["models"])
                    self._wake()
                case "call":
                    tasks.start_soon(self._calls.call, message, tell)
                case "stop":
                    await self._stop()

    async def _tell(self, tell: Tell) -> None:
        """The statuses, when one changes and at every heartbeat."""
        while True:
            changed = self._changed
            await tell({"models": {n: s.to_json() for n, s in self._statuses.items()}})
            with anyio.move_on_after(HEARTBEAT):
                await changed.wait()

    # -- small parts

    def _set(self, name: str, **fields: Any) -> None:
        spec = (self._wanted or {}).get(name)
        old = self._statuses.get(name) or ModelStatus(
            name,
            ModelState.STOPPED,
            source=spec.source if spec else "",
            revision=spec.revision if spec else "",
            log=str(self._given.home.logs / f"{name}.log"),
        )
        new = replace(old, **fields)
        if spec is not None:
            new = replace(new, source=spec.source, revision=spec.revision)
        if new.state != old.state:
            new = replace(new, since=time.time())
            log.info("%s is %s %s", name, new.state.value, new.message)
        if new != old:
            self._statuses[name] = new
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _in_thread(self, function: Callable[..., T], *arguments: Any, seconds: float) -> T:
        """A blocking call into Ray; a cluster that does not answer in time is lost."""
        try:
            with anyio.fail_after(seconds):
                return await anyio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)
        except TimeoutError:
            raise ClusterLost(f"Ray did not answer within {seconds:.0f} s") from None


async def _read_line(lines: BufferedByteReceiveStream) -> dict[str, Any]:
    message = json.loads(await lines.receive_until(b"\n", LINE_LIMIT))
    if not isinstance(message, dict):
        raise ValueError("a message is an object")  # noqa: TRY004  ends the connection like any other nonsense
    return message


def read_arguments(program: tuple[str, ...] = PROGRAM) -> Arguments:
    parser = argparse.ArgumentParser(prog="agentmesh.adapters.ray_deploy")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--grace", type=float, default=600.0)
    parser.add_argument("--address")
    parser.add_argument("--restarts", type=int, default=0)
    given, _ = parser.parse_known_args()
    return Arguments(Home(given.home), given.run, given.grace, given.address, given.restarts, program)


def serve(child: Child) -> None:
    """Run a child in this process, as the reaper of whatever it starts."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("agentmesh").setLevel(logging.INFO)
    become_subreaper()
    body: Callable[[], Awaitable[None]] = child.run
    anyio.run(body)


def main() -> int:
    given = read_arguments()
    if given.address is None:  # a cluster that we join may live on IPv6
        refuse_ipv6()
    serve(Child(given, Cluster(given.home, given.run, given.address)))
    return 0
