"""Logging: one line a record, secrets masked."""

from __future__ import annotations

import io
import logging

import pytest

from agentmesh import telemetry
from agentmesh.errors import ServeError


@pytest.fixture
def stream() -> io.StringIO:
    """Where the log goes during a test; the loggers are put back after it."""
    loggers = [logging.getLogger(name) for name in ("", "agentmesh", "uvicorn", "uvicorn.error", "uvicorn.access")]
    before = [(x, x.level, list(x.handlers), x.propagate) for x in loggers]
    yield io.StringIO()
    for found, level, handlers, propagate in before:
        found.setLevel(level)
        found.handlers[:] = handlers
        found.propagate = propagate


def test_secrets_are_masked_wherever_they_come_from(stream: io.StringIO) -> None:
    """A secret in a message, an argument or an exception's text reads ***; short values are left alone."""
    telemetry.set_up("info", ["s3cr3t", "s3cr3t-longer", "ab"], stream)
    log = logging.getLogger("agentmesh.engine")
    log.info("key %s and %s in ab", "s3cr3t-longer", "s3cr3t")
    try:
        raise ValueError("no: s3cr3t")
    except ValueError:
        log.exception("failed")
    said = stream.getvalue()
    assert "s3cr3t" not in said
    assert "key *** and *** in ab" in said
    assert "ValueError: no: ***" in said


def test_levels(stream: io.StringIO) -> None:
    """Ours by the level given, others' warnings only; setting up again replaces, and an unknown level is refused."""
    telemetry.set_up("debug", (), io.StringIO())
    telemetry.set_up("warning", (), stream)
    logging.getLogger("agentmesh.x").info("not this")
    logging.getLogger("other").info("nor this")
    logging.getLogger("other").warning("but this")
    logging.getLogger("uvicorn.error").warning("and this")
    lines = [line.split(None, 2)[2] for line in stream.getvalue().splitlines()]
    assert lines == ["warning other  but this", "warning uvicorn.error  and this"]
    with pytest.raises(ServeError, match="AGENTMESH_LOG may be debug, info, warning, error"):
        telemetry.set_up("loud")
