"""What a process may not open once it keeps to IPv4."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import socket, subprocess, sys
from agentmesh.adapters.ipv4 import refuse_ipv6
assert refuse_ipv6()
child = "import socket; socket.socket(socket.AF_INET6)"
socket.create_server(("127.0.0.1", 0)).close()
socket.socket(socket.AF_UNIX).close()
done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
print(done.stderr.splitlines()[-1])
"""


def test_no_child_opens_an_ipv6_socket() -> None:
    """IPv4 and UNIX sockets go on working, IPv6 ones fail as on a machine without IPv6, in children too."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "OSError: [Errno 97] Address family not supported by protocol"
