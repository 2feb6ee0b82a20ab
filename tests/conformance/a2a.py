"""A2A's conformance against this release, over every binding and in both versions: `make conformance-a2a`.

Each leg ends in one line, and its count is part of the check: exactly so many checks have to pass, none may fail, be left out or only warn.

The probe (`a2a_probe.py`) speaks JSON-RPC and HTTP+JSON to the mesh of this folder with everything offered, and to the same mesh as an
operator may narrow it: no push notifications, version 1.0 alone, one extension required. Its checks over gRPC are `a2a_grpc.py`,
version 0.3 in three bindings is `a2a_v03.py`, and the official JavaScript client in three bindings is `a2a_client.mjs`. Needs npm; the
client and the Node that it runs on are installed here, as the lock file says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.conformance.run import AGENTMESH, BIN, HERE, ROOT, install, wait_for

LEG_SECONDS: Final = 180
PROBE: Final = 136
"""Streaming, push notifications, both versions in the card."""
NARROW: Final = 130
"""Neither push notifications nor version 0.3, and an extension that is required."""
GRPC: Final = 81
V03: Final = 19
JAVASCRIPT: Final = 17
BINDINGS: Final = ("JSONRPC", "HTTP+JSON", "GRPC")
REQUIRED: Final = "urn:agentmesh:a2a:skill:1"

_COUNTS: Final = re.compile(r"^(\d+) passed, (\d+) failed$", re.MULTILINE)
_OTHERS: Final = re.compile(r"^(\d+) warnings, (\d+) skipped$", re.MULTILINE)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server goes too
    install()
    faults: list[str] = []
    with served(HERE) as url:
        card = card_of(url)
        faults += leg("probe", PROBE, python("a2a_probe", "--url", url))
        faults += leg("grpc", GRPC, python("a2a_grpc", "--url", url))
        for binding in BINDINGS:
            address = interface(card, binding, "0.3")
            faults += leg(f"0.3 {binding}", V03, python("a2a_v03", "--binding", binding, "--url", address))
        for binding in BINDINGS:
            node = [str(BIN / "node"), str(HERE / "a2a_client.mjs"), url, binding]
            faults += leg(f"javascript {binding}", JAVASCRIPT, node)
    with narrowed() as folder, served(folder) as url:
        faults += leg("probe, narrowed", NARROW, python("a2a_probe", "--url", url))
    for fault in faults:
        print(f"conformance: {fault}", file=sys.stderr)
    return 1 if faults else 0


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The mesh of a folder on free ports, with a store of its own; its address."""
    with (
        tempfile.TemporaryDirectory() as state,
        tempfile.TemporaryFile() as log,
        socket.socket() as first,
        socket.socket() as second,
    ):
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        port, grpc_port = (str(one.getsockname()[1]) for one in (first, second))
        first.close()
        second.close()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "AGENTMESH_STORE": f"sqlite:///{state}/agentmesh.db"}
        command = [str(AGENTMESH), "serve", "--no-models", "--no-reload", "--port", port, "--grpc-port", grpc_port]
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            wait_for(server, f"http://127.0.0.1:{port}/healthz")
            yield f"http://127.0.0.1:{port}"
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode()[-4000:])
            raise
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextmanager
def narrowed() -> Iterator[Path]:
    """The mesh of this folder, without what an operator may leave out and with what one may ask for."""
    with tempfile.TemporaryDirectory() as found:
        folder = Path(found)
        shutil.copytree(HERE / "workflows", folder / "workflows")
        settings = f"a2a: {{default: probe, push: false, versions: ['1.0'], required_extensions: ['{REQUIRED}']}}\n"
        (folder / "agentmesh.yaml").write_text(f"name: narrowed\n{settings}")
        yield folder


def card_of(url: str) -> Mapping[str, Any]:
    with urllib.request.urlopen(f"{url}/.well-known/agent-card.json", timeout=20) as answer:
        card: dict[str, Any] = json.load(answer)
    return card


def interface(card: Mapping[str, Any], binding: str, version: str) -> str:
    """Where the card says that a binding of a version is."""
    for one in card["supportedInterfaces"]:
        if (one["protocolBinding"], one["protocolVersion"]) == (binding, version):
            return str(one["url"])
    raise SystemExit(f"conformance: the card names no {binding} of version {version}: {card['supportedInterfaces']}")


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"tests.conformance.{module}", *arguments]


def leg(name: str, wanted: int, command: Sequence[str]) -> list[str]:
    """Runs one leg and prints its line; what is wrong with it."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=LEG_SECONDS, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )  # fmt: skip
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        output = f"{(late.stdout or b'').decode()}\nnot done in {LEG_SECONDS} s"
    counts = _COUNTS.findall(output)
    passed, failed = (int(count) for count in counts[-1]) if counts else (0, 0)
    others = sum(int(count) for found in _OTHERS.findall(output) for count in found)
    print(f"conformance a2a {name}: {passed} passed, {failed} failed ({wanted} wanted)", flush=True)
    if (passed, failed, others) == (wanted, 0, 0):
        return []
    sys.stderr.write("".join(f"{line}\n" for line in output.splitlines() if not line.startswith("PASS"))[-8000:])
    return [f"a2a {name}: {passed} passed, {failed} failed, {others} warned or left out; exactly {wanted} have to pass"]


if __name__ == "__main__":
    sys.exit(main())
