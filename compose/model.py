"""The Ray head of compose.yaml: the shipped model on vLLM under Ray Serve LLM, at `http://127.0.0.1:PORT/v1`.

`model.py --port 8000 [--model FOLDER] [--name tiny]`. Stays until SIGTERM. The servers know it by its address alone, so that any of them
may stop, and none of them owns it. The engine is told what AgentMesh tells its own replicas (agentmesh/adapters/ray_deploy.py).
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import tempfile
import time
from pathlib import Path

import agentmesh
from agentmesh.adapters.model_link import Spec
from agentmesh.adapters.ray_deploy import replica_plan

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=8000)
parser.add_argument("--name", default="tiny")
parser.add_argument("--model", default=str(Path(agentmesh.__file__).parent / "builtin" / "tiny"))
given = parser.parse_args()

run = Path(tempfile.mkdtemp(prefix="ray-"))
token = run / "token"
token.touch(0o600)
token.write_text(secrets.token_hex(32))
os.environ.update({
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray takes the machine's outside address
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": str(token),
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "TMPDIR": str(run),
})  # fmt: skip

# ruff: noqa: E402, INP001  Ray reads the environment when it is imported
import ray
from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app

spec = Spec(
    source=given.model, local=True, revision="", device="cpu", gpus=0, min_replicas=1, max_replicas=1, max_model_len=None,
    concurrency=32, small=True,
)  # fmt: skip
plan = replica_plan(given.name, spec, note="", log="")["config"]
environment = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
ray.init(
    num_cpus=max(os.cpu_count() or 1, 4),
    include_dashboard=False,
    object_store_memory=96 * 1024 * 1024,
    # Serve's replicas would open a port on every address, without a token.
    runtime_env={"worker_process_setup_hook": "agentmesh.adapters.ray_deploy._keep_grpc_on_loopback"},
    _node_ip_address="127.0.0.1",
    _temp_dir=str(run / "r"),
)
serve.start(http_options={"host": "127.0.0.1", "port": given.port})
config = LLMConfig(
    **plan,
    deployment_config={"ray_actor_options": {"num_cpus": 1}, "num_replicas": 1, "max_ongoing_requests": 256},
    runtime_env={"env_vars": environment},
)
serve.run(build_openai_app({"llm_configs": [config]}), name=given.name, route_prefix="/", blocking=False)
sys.stderr.write(f"{given.name} is served at http://127.0.0.1:{given.port}/v1\n")


def stop(*_: object) -> None:
    ray.shutdown()
    os._exit(0)


signal.signal(signal.SIGTERM, stop)
while True:
    time.sleep(60)
