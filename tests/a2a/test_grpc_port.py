"""The port of A2A over gRPC: what was asked for, what is there by itself, and what is done when somebody has it."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from agentmesh.app import hold, listen
from agentmesh.errors import ServeError
from agentmesh.settings import Settings

SETTINGS = Settings(folder=Path("mesh"), port=0)


def taken() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_a_server_on_any_port_has_grpc_on_any_port() -> None:
    """So servers that are started together, as tests do, never meet."""
    with listen("127.0.0.1", 0) as listener, hold(SETTINGS, listener) as first, hold(SETTINGS, listener) as second:
        assert first is not None
        assert second is not None
        assert len({listener.getsockname()[1], first.getsockname()[1], second.getsockname()[1]}) == 3


def test_beside_a_port_it_is_the_next_one() -> None:
    """8081 beside 8080."""
    with taken() as somebody:
        port = somebody.getsockname()[1]
    with listen("127.0.0.1", port) as listener, hold(replace(SETTINGS, port=port), listener) as held:
        assert held is None or held.getsockname()[1] == port + 1


def test_the_next_one_is_left_to_whoever_has_it(caplog: pytest.LogCaptureFixture) -> None:
    """The mesh is served without gRPC, and one line says so and what to do."""
    with taken() as somebody:
        port = somebody.getsockname()[1] - 1
        try:
            listener = listen("127.0.0.1", port)
        except ServeError:
            pytest.skip("the port below is taken too")
        with listener, caplog.at_level(logging.WARNING), hold(replace(SETTINGS, port=port), listener) as held:
            assert held is None
    (line,) = caplog.messages
    assert f"without gRPC: port {port + 1}" in line
    assert "--grpc-port" in line


def test_after_the_last_port_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """As with one that is taken."""
    try:
        listener = listen("127.0.0.1", 65535)
    except ServeError:
        pytest.skip("port 65535 is taken")
    with listener, hold(replace(SETTINGS, port=65535), listener) as held:
        assert held is None
    assert "without gRPC" in caplog.text


def test_a_port_that_was_asked_for_has_to_be_there() -> None:
    """ServeError says what to do."""
    with taken() as somebody, listen("127.0.0.1", 0) as listener:
        port = somebody.getsockname()[1]
        with (
            pytest.raises(ServeError, match=rf"port {port} .*--grpc-port 0"),
            hold(replace(SETTINGS, grpc_port=port), listener),
        ):
            pass


def test_none_is_none() -> None:
    """0 holds no port, and no card names one."""
    with listen("127.0.0.1", 0) as listener, hold(replace(SETTINGS, grpc_port=0), listener) as held:
        assert held is None
    assert SETTINGS.grpc_address == replace(SETTINGS, grpc_port=0).grpc_address == ""


def test_the_address_is_as_clients_dial_it() -> None:
    """With brackets where the host is an IPv6 address."""
    assert replace(SETTINGS, grpc_port=8081).grpc_address == "127.0.0.1:8081"
    assert replace(SETTINGS, host="::1", grpc_port=8081).grpc_address == "[::1]:8081"
