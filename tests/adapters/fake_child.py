"""The real child around a cluster of two sleeping processes: what `ModelChild` starts in fast tests.

`fake.json` in the home folder says how it behaves: `delay` seconds before a model is ready, `fails` for one that never
is, `version` to pretend another release.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agentmesh import __version__
from agentmesh.adapters.model_link import Home, Spec
from agentmesh.adapters.processes import Process, process
from agentmesh.adapters.ray_child import Child, read_arguments, serve
from agentmesh.adapters.ray_deploy import Cluster, ClusterLost, Task
from agentmesh.adapters.ray_task import run_task

SLEEP = [sys.executable, "-c", "import signal; signal.pause()"]


class FakeCluster(Cluster):
    def __init__(self, home: Home, run: Path, behaviour: dict[str, Any]) -> None:
        super().__init__(home, run, None)
        self._behaviour = behaviour
        self._raylet: Process | None = None
        self._replicas: dict[str, tuple[int, float]] = {}
        self._pool = ThreadPoolExecutor(8)

    def start(self, slots: int) -> None:
        self._raylet = process(subprocess.Popen(SLEEP, start_new_session=True).pid)
        (self._home.folder / "raylet.pid").write_text(str(self._raylet.pid))

    def serve(self) -> None:
        (self._home.folder / "serves").touch()

    def submit(self, function: str, arguments: Mapping[str, Any], key: str, folder: str) -> Task:
        (self._home.folder / "submitted").touch()
        return Task(self._pool.submit(run_task, function, arguments, key, folder), key)

    def cancel(self, task: Task, force: bool) -> None:
        with (self._home.folder / "cancelled").open("a") as out:
            out.write(f"{task.ref} {force}\n")

    def may_have_run(self, error: Exception) -> bool:
        return True

    def check(self) -> None:
        if not self._raylet.alive():
            raise ClusterLost("Ray's raylet died")

    def deploy(self, name: str, spec: Spec) -> None:
        self._replicas[name] = (subprocess.Popen(SLEEP, start_new_session=True).pid, time.monotonic())

    def delete(self, name: str) -> None:
        del self._replicas[name]

    def progress(self, name: str) -> str:
        return "failed: ValueError: bad weights" if self._behaviour.get("fails") else "loading the weights"

    def look(self) -> dict[str, Any]:
        targets, applications = [], {}
        for name, (pid, since) in self._replicas.items():
            ready = not self._behaviour.get("fails") and time.monotonic() - since >= self._behaviour.get("delay", 0)
            replicas = [{"state": "RUNNING", "pid": pid, "actor_name": f"R#{name}"}] if ready else []
            targets += [{"name": f"R#{name}", "ip": "127.0.0.1", "port": 1}]
            status = "DEPLOY_FAILED" if self._behaviour.get("fails") else "RUNNING" if ready else "DEPLOYING"
            applications[name] = {"status": status, "deployments": {name: {"replicas": replicas}}}
        return {"target_groups": [{"targets": targets}], "applications": applications}


if __name__ == "__main__":
    given = read_arguments((sys.executable, __file__))
    file = given.home.folder / "fake.json"
    said = json.loads(file.read_text()) if file.exists() else {}
    serve(Child(given, FakeCluster(given.home, given.run, said), version=said.get("version", __version__)))
