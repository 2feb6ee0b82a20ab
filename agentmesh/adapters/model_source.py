"""Where a model's weights come from, and what can be known about them before anything heavy is started."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import sys
from pathlib import Path

import agentmesh
from agentmesh.adapters.model_link import Spec
from agentmesh.core.model import Model
from agentmesh.errors import ModelFailed


def locate(name: str, model: Model, folder: Path) -> Spec:
    """What to deploy for one model of `agentmesh.yaml`, checked as far as it can be without loading anything.

    Raises ModelFailed when it cannot start: a folder without weights, a part that is not built, no engine installed.
    """
    deploy, source = model.deploy, model.source or ""
    if deploy is None:
        raise ModelFailed(f"model {name!r} has no `deploy:`; say how to run it, or give the `url` of an endpoint")
    if deploy.adapters:
        raise ModelFailed(f"model {name!r}: `adapters` are not built yet; deploy the merged weights instead")
    if deploy.replicas.min == 0:
        raise ModelFailed(f"model {name!r}: `replicas.min: 0` is not built yet; the least is 1")
    if deploy.replicas.max < deploy.replicas.min:
        raise ModelFailed(f"model {name!r}: `replicas.max` is less than `min`; give them in order")
    device = deploy.device or ("gpu" if deploy.gpus else "cpu")
    local, small, revision = True, False, ""
    if source.startswith("builtin:"):
        path = Path(agentmesh.__file__).parent / "builtin" / source.removeprefix("builtin:")
    elif source.startswith((".", "/", "~")):
        path = (folder / Path(source).expanduser()).resolve()
    else:
        local, path = False, Path()
    if local:
        _check_weights(name, path)
        revision, size = _revision(path)
        small, source = size < 64 * 1024 * 1024, str(path)
    return Spec(
        source=source,
        local=local,
        revision=revision,
        device=device,
        gpus=deploy.gpus or (1 if device == "gpu" else 0),
        min_replicas=deploy.replicas.min,
        max_replicas=deploy.replicas.max,
        max_model_len=deploy.max_model_len,
        tool_parser=deploy.tool_parser,
        concurrency=model.concurrency,
        small=small,
    )


def check_engine() -> None:
    """Raises ModelFailed where models cannot be deployed: another platform, or the packages are not installed."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ModelFailed("models can be deployed on Linux x86-64 only; give the `url` of an endpoint instead")
    missing = [package for package in ("ray", "vllm") if importlib.util.find_spec(package) is None]
    if missing:
        raise ModelFailed(
            f"{' and '.join(missing)} not installed: install agentmesh[cpu] or agentmesh[gpu], "
            "or give the `url` of an endpoint"
        )


def check_ray() -> None:
    """Raises ModelFailed where no Ray cluster can be started or joined."""
    if sys.platform != "linux" or importlib.util.find_spec("ray") is None:
        raise ModelFailed("Ray is not installed here: install agentmesh[cpu] or agentmesh[gpu] (Linux)")


def _check_weights(name: str, path: Path) -> None:
    if not path.is_dir():
        raise ModelFailed(
            f"model {name!r}: the folder {path} is missing; put config.json, tokenizer.json and *.safetensors there, "
            "or change `source` in agentmesh.yaml"
        )
    names = {entry.name for entry in path.iterdir()}
    lacks = [] if "config.json" in names else ["config.json"]
    if not any(n.endswith((".safetensors", ".bin", ".gguf")) for n in names):
        lacks.append("weights (*.safetensors)")
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json"}:
        lacks.append("tokenizer.json")
    if lacks:
        raise ModelFailed(f"model {name!r}: the folder {path} has no {', no '.join(lacks)}; complete it")


def _revision(path: Path) -> tuple[str, int]:
    """(a digest that changes with the weights, their size in bytes). Large files count by size and time only."""
    digest, total = hashlib.sha256(), 0
    for file in sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")):
        about = file.stat()
        total += about.st_size
        digest.update(f"{file.name}:{about.st_size}:".encode())
        digest.update(file.read_bytes() if about.st_size < 64 * 1024 * 1024 else str(about.st_mtime_ns).encode())
    return digest.hexdigest()[:16], total
