"""Trace: the W3C Trace Context that whatever is done now belongs to, so that every hop carries it on.

An edge sets it from its request, a run keeps it (RUN_TRACED), its execution sets it again, and every client sends it along. No spans are
made here: what arrived goes on as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?")
"""W3C Trace Context section 3.2.2; later versions may add fields."""
_STATE = re.compile(r"[ !-~]{1,512}")

_now: ContextVar[Mapping[str, str] | None] = ContextVar("trace", default=None)


def current() -> Mapping[str, str]:
    """{traceparent, tracestate?} of now, to be sent as headers or metadata; empty when there is none."""
    return _now.get() or {}


def trace_of(headers: Mapping[str, str]) -> Mapping[str, str] | None:
    """What a request says in its headers, metadata or `_meta`; None when it says nothing, or nothing that is right."""
    parent = headers.get(TRACEPARENT)
    if not isinstance(parent, str) or not _PARENT.fullmatch(parent):
        return None
    state = headers.get(TRACESTATE)
    kept = isinstance(state, str) and _STATE.fullmatch(state) is not None
    return {TRACEPARENT: parent, TRACESTATE: state} if kept and state is not None else {TRACEPARENT: parent}


@contextmanager
def traced(trace: Mapping[str, str] | None) -> Iterator[None]:
    """Everything inside belongs to that trace; None: to none."""
    token = _now.set(trace)
    try:
        yield
    finally:
        _now.reset(token)
