"""The models on Ray Serve: the only import of ray, and only inside the models' child and its replicas.

Three parts. `Cluster` holds the blocking calls into Ray: start or join, deploy, look. `ModelReplica` is what Ray runs
in a replica: `ray.serve.llm`'s server with the vLLM engine, its OpenAI endpoint on the replica's own port (Ray's
direct streaming), so that the server talks to replicas with nothing in between. `replica_plan` turns a `Spec` into
both.

Everything listens on loopback, and Ray's token is required. Without HAProxy: its proxy, statistics and metrics can only
bind every address, and straight to the replica is faster.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentmesh.adapters.model_link import Home, Spec, write_private
from agentmesh.adapters.processes import Process, free_ports, process

LOOPBACK = "127.0.0.1"
_REPLICA_PORTS = 100
_SMALL_CACHE = 512 * 1024 * 1024
_CACHE = 1024 * 1024 * 1024


class ClusterLost(Exception):
    """A process that the cluster cannot live without has died, or Ray no longer answers."""


def choose_ports(file: Path) -> dict[str, int]:
    """Free ports for one mesh's cluster, those of its last start if they still are; written to `file`."""
    try:
        last = {str(k): int(v) for k, v in json.loads(file.read_text()).items()}
    except (OSError, ValueError):
        last = {}
    names = ("proxy", "autoscaler", "dashboard")
    ports = dict(zip(names, free_ports(len(names), [last[n] for n in names if n in last]), strict=True))
    # Serve hands replica ports out of a range: below the kernel's ephemeral ports, that nobody is given one by chance.
    ports["replicas"] = last.get("replicas") or random.randrange(20_000, 32_000, _REPLICA_PORTS)
    while free_ports(1, [ports["replicas"]])[0] != ports["replicas"]:
        ports["replicas"] = random.randrange(20_000, 32_000, _REPLICA_PORTS)
    write_private(file, json.dumps(ports))
    return ports


def serve_environment(ports: Mapping[str, int]) -> dict[str, str]:
    """What Serve's processes read at import: direct streaming from the replicas, on this mesh's ports."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports["replicas"]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports["replicas"] + _REPLICA_PORTS - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }


def set_environment(home: Home, run: Path, *, joins: bool) -> dict[str, int]:
    """Prepare this process for `import ray`; returns the ports. Ray and Serve read most of this once, at import."""
    ports = choose_ports(home.ports)
    package_root = str(Path(__file__).resolve().parents[2])
    os.environ.update(serve_environment(ports))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    # setproctitle otherwise writes over the environment in /proc by which we find our processes.
    os.environ["SPT_NOENV"] = "1"
    if not joins:
        token = run / "ray-token"
        write_private(token, secrets.token_hex(32))
        os.environ.update({
            "TMPDIR": str(run),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            # Without it Ray replaces a loopback address by the machine's outside one.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "AUTOSCALER_METRIC_PORT": str(ports["autoscaler"]),
            "DASHBOARD_METRIC_PORT": str(ports["dashboard"]),
            "VLLM_HOST_IP": LOOPBACK,
            "VLLM_LOOPBACK_IP": LOOPBACK,
            "GLOO_SOCKET_IFNAME": "lo",
        })  # fmt: skip
    return ports


@dataclass(frozen=True, slots=True)
class Task:
    """A function that Ray runs. `ref` is Ray's own."""

    future: Future[Any]
    ref: Any = None


class Cluster:
    """A Ray cluster, ours or joined; with Serve once there are models. Each method blocks, for ever with a dead cluster: give it a time."""

    def __init__(self, home: Home, run: Path, address: str | None) -> None:
        self._home, self._run, self._address = home, run, address
        self._vital: dict[str, Process] = {}
        self._ports: dict[str, int] = {}
        self._serves = False
        self._runs: Any = None

    def start(self, slots: int) -> None:
        """Start or join the cluster, with room for `slots` replicas on the CPU."""
        self._ports = set_environment(self._home, self._run, joins=self._address is not None)
        import ray

        if self._address is None:
            ray.init(
                "local",
                num_cpus=max(os.cpu_count() or 1, slots) + 1,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                object_store_memory=96 * 1024 * 1024,
                _node_ip_address=LOOPBACK,
                _temp_dir=str(self._run / "r"),
            )
            import ray._private.worker

            started = ray._private.worker._global_node.all_processes  # noqa: SLF001  Ray tells pids nowhere else
            for name in ("gcs_server", "raylet"):
                found = process(started[name][0].process.pid)
                if found is None:
                    raise ClusterLost(f"{name} ended at once")
                self._vital[name] = found
        else:
            ray.init(
                address=self._address,
                log_to_driver=False,
                configure_logging=False,
                runtime_env={"env_vars": serve_environment(self._ports)},
            )

    def serve(self) -> None:
        """Start Serve, for which only models are a reason. Does nothing the second time."""
        if self._serves:
            return
        from ray import serve

        serve.start(http_options={"host": self._host, "port": self._ports["proxy"]})
        self._serves = True

    def submit(self, function: str, arguments: Mapping[str, Any], key: str, folder: str) -> Task:
        """Hand an installed function to Ray, which runs it once: what is done about a lost one is not Ray's to decide."""
        import ray

        from agentmesh.adapters.ray_task import run_task

        if self._runs is None:
            self._runs = ray.remote(max_retries=0, num_cpus=1)(run_task)
        ref = self._runs.options(name=function).remote(function, dict(arguments), key, folder)
        return Task(ref.future(), ref)

    def cancel(self, task: Task, force: bool) -> None:
        """Interrupt a task; `force` kills its process."""
        import ray

        ray.cancel(task.ref, force=force)

    def may_have_run(self, error: Exception) -> bool:
        """Whether a task that ended so may have done its work."""
        from ray.exceptions import RayTaskError, RuntimeEnvSetupError, TaskUnschedulableError

        return not isinstance(error, (RayTaskError, RuntimeEnvSetupError, TaskUnschedulableError))

    def check(self) -> None:
        """Raises ClusterLost when GCS or raylet is gone; Ray itself notices in 15 to 60 seconds."""
        for name, vital in self._vital.items():
            if not vital.alive():
                raise ClusterLost(f"Ray's {name} died")

    def deploy(self, name: str, spec: Spec) -> None:
        """Have Serve bring this model up; returns before it is."""
        from ray import serve

        _note(self._note_file(name), "starting a process for the model")
        plan = replica_plan(name, spec, str(self._note_file(name)), str(self._home.logs / f"{name}.log"))
        plan["loopback"] = self._host == LOOPBACK
        options = _deployment_options(name, spec, plan)
        deployment = serve.deployment(serve.ingress()(ModelReplica), name=name, **options)
        serve.run_many(
            [serve.RunTarget(deployment.bind(plan), name=name, route_prefix=f"/{name}")],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )

    def delete(self, name: str) -> None:
        from ray import serve

        serve.delete(name, _blocking=False)

    def look(self) -> dict[str, Any]:
        """Serve's own account of applications, replicas and their ports. Milliseconds."""
        from ray.serve.context import _get_global_client

        details: dict[str, Any] = _get_global_client().get_serve_details()
        return details

    def progress(self, name: str) -> str:
        """What the model's newest replica said last."""
        try:
            return self._note_file(name).read_text().strip()
        except OSError:
            return ""

    @property
    def joined(self) -> bool:
        return self._address is not None

    @property
    def _host(self) -> str:
        if self._address is None:
            return LOOPBACK
        import ray

        nodes = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        return LOOPBACK if nodes <= {LOOPBACK} else "0.0.0.0"  # noqa: S104  replicas on other machines must be reached

    def _note_file(self, name: str) -> Path:
        return self._run / f"note-{name}"


def replica_plan(name: str, spec: Spec, note: str, log: str) -> dict[str, Any]:
    """What a replica is told: the `LLMConfig` in plain values, and how to run the engine."""
    engine: dict[str, Any] = {
        "enable_prefix_caching": True,
        "enable_prompt_tokens_details": True,
        # A small model can spend its whole budget on spaces between JSON tokens.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "max_num_seqs": max(8, min(256, spec.concurrency)),
    }
    if spec.max_model_len is not None:
        engine["max_model_len"] = spec.max_model_len
    if spec.tool_parser is not None:
        engine |= {"enable_auto_tool_choice": True, "tool_call_parser": spec.tool_parser}
    if spec.device == "cpu":
        engine |= {"dtype": "bfloat16", "enforce_eager": True}
        engine["worker_extension_cls"] = "agentmesh.adapters.vllm_worker.WorkerExtension"
        engine["kv_cache_memory_bytes"] = _SMALL_CACHE if spec.small else _CACHE
        bundles = [{"CPU": 1.0}]
    else:
        engine["tensor_parallel_size"] = max(1, int(spec.gpus))
        bundles = [{"GPU": min(1.0, spec.gpus or 1.0)}] * engine["tensor_parallel_size"]
    return {
        "name": name,
        "note": note,
        "log": log,
        "cpu": spec.device == "cpu",
        "download": not spec.local,
        "config": {
            "model_loading_config": {"model_id": name, "model_source": spec.source},
            "engine_kwargs": engine,
            "placement_group_config": {"bundles": bundles},
        },
    }


def _deployment_options(name: str, spec: Spec, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Serve's options for the deployment."""
    environment = {"PYTHONFAULTHANDLER": "1"}  # an engine that crashes says where, in the model's log
    if spec.local:
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    options: dict[str, Any] = {
        "max_ongoing_requests": max(256, 4 * spec.concurrency),
        "health_check_period_s": 1,
        "health_check_timeout_s": 30,
        "graceful_shutdown_timeout_s": 2,
        "max_constructor_retry_count": 1,
    }
    if spec.min_replicas == spec.max_replicas:
        options["num_replicas"] = spec.min_replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": spec.min_replicas,
            "max_replicas": spec.max_replicas,
            "target_ongoing_requests": max(1, spec.concurrency // 2),
        }
    if spec.device == "cpu":
        # The engine runs in one process (below), where nobody but us tells OpenMP how many cores there are: all but
        # the one that parses requests.
        environment |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1)),
        }
        options["ray_actor_options"] = {"num_cpus": 1, "runtime_env": {"env_vars": environment}}
        options["placement_group_bundles"] = [{"CPU": 1}]
    else:
        from ray.serve.llm import LLMConfig
        from ray.serve.llm.deployment import LLMServer

        config = LLMConfig(**plan["config"], runtime_env={"env_vars": environment})
        options |= {k: v for k, v in LLMServer.get_deployment_options(config).items() if k != "name"}
    return options


class ModelReplica:
    """One copy of a model, in a process of Ray's: `ray.serve.llm`'s LLMServer, imported only here.

    The imports take ten seconds of a core. Kept out of the process that deploys, they are paid once.
    """

    async def __init__(self, plan: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        self._plan = plan
        _redirect_output(plan["log"])
        try:
            await self._start()
        except BaseException as error:
            _note(plan["note"], f"failed: {type(error).__name__}: {error}")
            raise

    async def _start(self) -> None:
        plan = self._plan
        if plan["loopback"]:
            _keep_grpc_on_loopback()
        _note(plan["note"], "importing vLLM")
        from ray.llm._internal.serve.core.server import llm_server
        from ray.serve.llm import LLMConfig

        # Usage reports are off, but their actor would be started all the same: 340 MB and two seconds.
        llm_server.push_telemetry_report_for_all_models = lambda **_: None
        config = LLMConfig(**plan["config"])
        if not plan["download"] or plan["cpu"]:
            # Ray would import vLLM in one more process to look for files that are here; an id of Hugging Face is
            # fetched by vLLM itself.
            config.get_or_create_callback().ctx.run_init_node = False
        engine = _one_process_engine() if plan["cpu"] else None
        _note(plan["note"], "downloading the weights" if plan["download"] else "loading the weights")
        self._server = llm_server.LLMServer.sync_init(config, engine_cls=engine)
        await self._server.start()
        _note(plan["note"], "opening the endpoint")

    async def __serve_build_asgi_app__(self) -> Any:
        app = await self._server.__serve_build_asgi_app__()
        _note(self._plan["note"], "ready")
        return app

    async def check_health(self) -> None:
        """Called by Serve. An engine that died does not come back: end with it, so that a new replica starts at once.

        Serve would wait for three failures in a row, and go on sending calls meanwhile.
        """
        try:
            await self._server.check_health()
        except Exception as error:
            sys.stderr.write(f"the engine died: {error}\n")
            os._exit(1)


def _one_process_engine() -> type[Any]:
    """The engine of vLLM with its worker in the engine's own process: one import of vLLM and a gigabyte less."""
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

    class OneProcessEngine(VLLMEngine):
        def _prepare_engine_config(self, callback_ctx: Any) -> Any:
            arguments, frontend, config = super()._prepare_engine_config(callback_ctx)
            arguments.distributed_executor_backend = config.parallel_config.distributed_executor_backend = "uni"
            return arguments, frontend, config

    return OneProcessEngine


def _keep_grpc_on_loopback() -> None:
    """Serve's replica opens a gRPC port on every address, without a token, for deployments we do not have."""
    from ray.serve._private import replica

    original = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: original(server, address.replace("[::]", LOOPBACK))


def _redirect_output(log: str) -> None:
    """One log per model: what this replica and the engine it starts write, whoever writes it."""
    with suppress(OSError):  # on another machine of a joined cluster the folder need not exist
        file = Path(log)
        if file.exists() and file.stat().st_size > 16 * 1024 * 1024:
            file.replace(f"{log}.1")
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} replica {os.getpid()}\n".encode())
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)


def _note(file: str | Path, text: str) -> None:
    with suppress(OSError):
        Path(file).write_text(text)


def cause_of(failure: str, log: Path) -> str:
    """The error at the root of a failed start, in a sentence: from the log when we only heard that the engine failed."""
    if "Engine core initialization failed" in failure or not failure:
        with suppress(OSError):
            found = re.findall(r"\b([A-Za-z_.]*(?:Error|Exception): .+)", log.read_text(errors="replace")[-200_000:])
            roots = [line for line in found if "Engine core initialization failed" not in line]
            if roots:
                failure = str(roots[-1])
    failure = failure.removeprefix("RuntimeError: Failed to create vLLM engine config: ")
    if "Value error, " in failure:  # pydantic wraps the sentence that matters in its own
        failure = failure.split("Value error, ", 1)[1]
    first = failure.strip().splitlines()[0] if failure.strip() else "no reason given"
    return first.split(". ", 1)[0].split(" [type=", 1)[0].strip(" .")[:400]


if __name__ == "__main__":
    # By its own name, not as __main__: Ray pickles ModelReplica by reference, and replicas import it.
    from agentmesh.adapters.ray_child import main

    sys.exit(main())
