"""compose.yaml: as the Compose Specification has it, on loopback only, and what its services run does what they are there for."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import yaml

from agentmesh.adapters.files import load_mesh
from agentmesh.settings import Secrets
from tests.faults.served import Served, until
from tests.postgres import postgres, postgres_database, postgres_url

__all__ = ["postgres", "postgres_database", "postgres_url"]
ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

DURATION = r"(\d+(us|ms|s|m|h))+"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["services"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {
            "type": "object",
            "patternProperties": {"^[a-zA-Z0-9._-]+$": {"$ref": "#/$defs/service"}},
            "additionalProperties": False,
        },
        "volumes": {"type": "object", "patternProperties": {"^[a-zA-Z0-9._-]+$": {"type": ["object", "null"]}}},
    },
    "patternProperties": {"^x-": {}},
    "additionalProperties": False,
    "$defs": {
        "words": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "duration": {"type": "string", "pattern": f"^{DURATION}$"},
        "service": {
            "type": "object",
            "properties": {
                "image": {"type": "string"},
                "network_mode": {"type": "string"},
                "working_dir": {"type": "string"},
                "command": {"$ref": "#/$defs/words"},
                "environment": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
                "volumes": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
                "depends_on": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "properties": {
                            "condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
                        },
                        "required": ["condition"],
                        "additionalProperties": False,
                    },
                },
                "healthcheck": {
                    "type": "object",
                    "properties": {
                        "test": {"$ref": "#/$defs/words"},
                        "interval": {"$ref": "#/$defs/duration"},
                        "timeout": {"$ref": "#/$defs/duration"},
                        "start_period": {"$ref": "#/$defs/duration"},
                        "retries": {"type": "number"},
                    },
                    "additionalProperties": False,
                },
                "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
                "stop_grace_period": {"$ref": "#/$defs/duration"},
                "shm_size": {"type": ["number", "string"]},
                "init": {"type": "boolean"},
            },
            "additionalProperties": False,
        },
    },
}  # fmt: skip
"""The parts of compose-spec's schema (schema/compose-spec.json) that the file uses; another key needs its part here, too."""


def test_the_file_is_compose() -> None:
    """Keys and types are those of the Compose Specification."""
    from jsonschema import Draft202012Validator

    faults = [f"{'/'.join(map(str, e.path))}: {e.message}" for e in Draft202012Validator(SCHEMA).iter_errors(COMPOSE)]
    assert not faults


def test_every_name_in_it_is_there() -> None:
    """Services that wait for another's health wait for one that has a health check; every volume is declared and used."""
    used = set()
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}"
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]
        for volume in service["volumes"]:
            source, target, *mode = volume.split(":")
            assert target.startswith("/")
            assert mode in ([], ["ro"])
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name} mounts {source}"
            else:
                used.add(source)
    assert used == set(COMPOSE["volumes"])


def test_images_are_pinned() -> None:
    """By a tag that does not move from one minor release to the next."""
    for name, service in SERVICES.items():
        assert re.fullmatch(r"[a-z]+:\d+\.\d+[\w.-]*", service["image"]), f"{name}: {service['image']}"


def test_everything_stays_on_loopback() -> None:
    """No port is published, and whatever listens is told 127.0.0.1, or listens there by itself."""
    text = (ROOT / "compose.yaml").read_text()
    assert "0.0.0.0" not in text  # noqa: S104
    for name, service in SERVICES.items():
        assert service["network_mode"] == "host"
        assert "ports" not in service
        assert "--host" not in service["command"], f"{name}: agentmesh listens on 127.0.0.1 by itself"
    assert "listen_addresses=127.0.0.1" in SERVICES["database"]["command"]
    model = (ROOT / "compose" / "model.py").read_text()
    assert '"host": "127.0.0.1"' in model
    assert '_node_ip_address="127.0.0.1"' in model
    from agentmesh.adapters import ray_deploy

    hook = re.search(r'"worker_process_setup_hook": "agentmesh\.adapters\.ray_deploy\.(\w+)"', model)
    assert hook
    assert callable(getattr(ray_deploy, hook[1])), "what keeps the replicas' own ports on loopback"


def test_what_the_services_say_of_each_other_agrees() -> None:
    """Ports, the database's name and user, the model's address, the files that hold the password."""
    database, setup = SERVICES["database"], (ROOT / "compose" / "setup.sh").read_text()
    port = next(word.removeprefix("port=") for word in database["command"] if word.startswith("port="))
    user, name = database["environment"]["POSTGRES_USER"], database["environment"]["POSTGRES_DB"]
    assert database["healthcheck"]["test"][1:] == ["pg_isready", "-h", "127.0.0.1", "-p", port, "-U", user]
    assert f"127.0.0.1:{port}:{name}:{user}:" in setup
    assert database["environment"]["POSTGRES_PASSWORD_FILE"] == "/secrets/password"
    ports = []
    for server in ("server-1", "server-2"):
        environment = SERVICES[server]["environment"]
        assert environment["AGENTMESH_STORE"] == f"postgresql://{user}@127.0.0.1:{port}/{name}"
        assert environment["PGPASSFILE"] == "/secrets/pgpass"
        command = SERVICES[server]["command"]
        port_of = {option: command[command.index(option) + 1] for option in ("--port", "--grpc-port")}
        ports += port_of.values()
        assert f":{port_of['--port']}/healthz" in SERVICES[server]["healthcheck"]["test"][-1]
    assert len(set(ports)) == 4
    mesh = load_mesh_of_the_servers()
    (model,) = mesh.file.models.values()
    assert model.url == f"http://127.0.0.1:{SERVICES['model']['command'][-1]}/v1"
    assert SERVICES["model"]["healthcheck"]["test"][-1] == f"{model.url}/models"


def load_mesh_of_the_servers(folder: Path | None = None) -> Any:
    """The project as server-1 sees it: this folder, with the other agentmesh.yaml."""
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        target = folder or Path(made)
        for part in ("workflows", "servers", "policies"):
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, target / part, dirs_exist_ok=True)
        shutil.copy(ROOT / "compose" / "agentmesh.yaml", target / "agentmesh.yaml")
        return load_mesh(target, Secrets())


def test_a_password_is_made_once(tmp_path: Path) -> None:
    """Readable by its owner alone, the same at the second start, in the form that libpq reads."""
    script = ["bash", str(ROOT / "compose" / "setup.sh"), "password"]
    for _ in range(2):
        subprocess.run(script, check=True, env={"PATH": "/usr/bin:/bin", "SECRETS": str(tmp_path)}, timeout=30)
        passwords = [(tmp_path / "password").read_text(), (tmp_path / "pgpass").read_text().strip().rpartition(":")[2]]
        assert len(set(passwords)) == 1
    assert re.fullmatch("[0-9a-f]{48}", passwords[0])
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


MESH = {
    "agentmesh.yaml": {"name": "pair"},
    "workflows/ask.yaml": {
        "name": "ask",
        "on": {"cron": [{"schedule": "@yearly"}]},
        "steps": [{"id": "ok", "approve": {"ask": "Go on?"}}, {"id": "z", "set": {"by": "${{ steps.ok.output.by }}"}}],
    },
    "workflows/many.yaml": {"name": "many", "steps": [{"id": "a", "set": 1}, {"id": "b", "wait": 0.2}, {"id": "c", "set": 2}]},
}  # fmt: skip


def test_two_servers_on_one_database(tmp_path: Path, postgres_url: str) -> None:
    """What one is asked the other shows and answers; a pause holds for both; a key is one run; one dies, the other goes on."""
    servers = []
    for name in ("one", "two"):
        for file, content in MESH.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(json.dumps(content))
        servers.append(Served(tmp_path / name, store=postgres_url, AGENTMESH_LEASE="3"))
    one, two = servers
    with one, two:
        one.start(wait=False)
        two.start()
        one.wait_up()
        asked = one.run("ask")["id"]
        question = until(lambda: two.get(f"/v1/runs/{asked}/questions")["questions"] or None, 20)[0]
        two.post(f"/v1/runs/{asked}/answers", {"yes": True, "digest": question["digest"]})
        assert one.ended(asked)["output"] == {"by": "local"}

        one.post("/v1/schedules/ask/0/pause")
        until(lambda: two.get("/v1/schedules")["schedules"][0]["paused"] or None, 5)
        two.post("/v1/schedules/ask/0/resume")
        until(lambda: None if one.get("/v1/schedules")["schedules"][0]["paused"] else True, 5)
        span = {"since": "2024-12-31T00:00:00Z", "until": "2025-01-02T00:00:00Z"}
        filled = [server.post("/v1/schedules/ask/0/backfill", span)["runs"] for server in (one, two)]
        assert [(run["instant"], run["new"]) for runs in filled for run in runs] == [
            ("2025-01-01T00:00:00Z", True), ("2025-01-01T00:00:00Z", False)
        ]  # fmt: skip

        assert one.run("many", key="k")["id"] == two.run("many", key="k")["id"]
        runs = [server.run("many")["id"] for server in (one, two) for _ in range(10)]
        one.kill()
        for run in runs:
            two.ended(run)
        assert two.ready().status_code == 200
