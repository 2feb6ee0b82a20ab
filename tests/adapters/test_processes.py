"""Processes found by their mark, listeners read from /proc, free ports."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid

from agentmesh.adapters.processes import MARK, Process, end_marked, free_ports, listeners, marked, process

SLEEP = [sys.executable, "-c", "import signal; signal.pause()"]
# A child in a session of its own whose parent has gone: nothing but the mark tells whose it is.
ORPHAN = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"


def test_marked_processes_are_found_and_ended_whoever_their_parent_is():
    """An orphan in another session is ended like a child; a process with another mark is left alone."""
    mark = uuid.uuid4().hex
    child = subprocess.Popen(SLEEP, env={MARK: mark})
    other = subprocess.Popen(SLEEP, env={MARK: uuid.uuid4().hex})
    subprocess.run([sys.executable, "-c", ORPHAN, *SLEEP], env={MARK: mark}, check=True)
    try:
        until = time.monotonic() + 10
        while len(marked(mark)) < 2:  # a process has no environment in the moment in which it gets its program
            assert time.monotonic() < until
        assert marked(mark, spare={child.pid}) != marked(mark)
        assert end_marked(mark) == []
        assert marked(mark) == []
        assert process(other.pid) is not None
    finally:
        other.kill()
        for started in (child, other):
            started.wait()


def test_a_reused_pid_is_not_taken_for_the_process():
    """A process is its pid and when it started; one that ended is not alive, waited for or not."""
    child = subprocess.Popen(SLEEP)
    known = process(child.pid)
    assert known.alive()
    assert not Process(known.pid, known.started + 1).alive()
    child.kill()
    child.wait()
    assert not known.alive()


def test_listeners_are_told_with_their_address():
    """TCP listeners of IPv4 and IPv6 and UDP sockets, with the process that holds them."""
    script = (
        "import socket, signal\n"
        "held = [socket.create_server(('127.0.0.1', 0)), socket.create_server(('::1', 0), family=socket.AF_INET6)]\n"
        "udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(('127.0.0.1', 0))\n"
        "print(*(s.getsockname()[1] for s in (*held, udp)), flush=True)\n"
        "signal.pause()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        four, six, udp = (int(port) for port in child.stdout.readline().split())
        assert sorted(listeners([child.pid])) == sorted(
            [
                (child.pid, "127.0.0.1", four),
                (child.pid, "::1", six),
                (child.pid, "127.0.0.1", udp),
            ]
        )
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_free_ports_keep_what_is_still_free():
    """Ports of the last start are taken again, unless somebody holds them now."""
    first = free_ports(3)
    assert free_ports(3, first) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first[0]))
        again = free_ports(3, first)
    assert first[0] not in again
    assert first[1] in again
    assert len(set(again)) == 3
