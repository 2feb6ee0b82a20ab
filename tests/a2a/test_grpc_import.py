"""What importing the edge brings along: gRPC only where it is served."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import sys, agentmesh.a2a.server, agentmesh.a2a.cards, agentmesh.app
print("grpc" in sys.modules, "sqlalchemy.orm" in sys.modules)
import agentmesh.a2a.grpc
from a2a.client.transports.grpc import GrpcTransport
from a2a.utils.grpc_status import grpc
print("grpc" in sys.modules, grpc is not None)
"""
BESIDE = """
import sys, threading
sys.setswitchinterval(1e-5)
faults, go = [], threading.Event()
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "a2a.server.routes.common":
            go.set(); other.join(30)  # the edge is in the middle of its import, and hides gRPC from itself
def other_import():
    go.wait(30)
    try:
        import grpc
    except ImportError as error:
        faults.append(error)
other = threading.Thread(target=other_import)
other.start()
sys.meta_path.insert(0, Watch())
import agentmesh.a2a
go.set(); other.join(30)
print(faults, "grpc" in sys.modules)
"""


@pytest.mark.parametrize(
    ("program", "prints"), [(WITHOUT, "False False\nTrue True\n"), (BESIDE, "[] True\n")], ids=["late", "beside"]
)
def test_grpc_is_imported_late_and_hidden_from_nobody_else(program: str, prints: str) -> None:
    """A server with `--grpc-port 0` does without its memory; whoever imports it meanwhile, in another thread, gets it."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == (prints, 0), done.stderr
