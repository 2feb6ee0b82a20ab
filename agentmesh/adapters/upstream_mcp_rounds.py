"""Rounds: a request to a modern upstream that ends with `input_required` and is made again with the answers (basic/patterns/mrtr).

Whose client can be asked there and then, hears nothing of it. Whose client has to come again, gets the upstream's questions; the
upstream's own state travels in ours, sealed by the edge, so that any replica can go on with the call.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from agentmesh.adapters.upstream_mcp_session import METHODS
from agentmesh.core.caller import Caller, InputRequest, InputRequired
from agentmesh.errors import Fail, InvalidInput

ROUNDS: Final = 20
QUESTIONS: Final = 50
STATE_LIMIT: Final = 64 * 1024
"""Characters of an upstream's state: it travels to the client and back."""
_SAFE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,80}")
PAUSE: Final = 0.05
PAUSE_LIMIT: Final = 1.0
"""Seconds before asking again an upstream that has no question but wants to be asked again."""


async def rounds(
    what: str,
    params: Mapping[str, Any],
    caller: Caller,
    send: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]],
    sleep: Callable[[float], Awaitable[None]],
) -> dict[str, Any]:
    """The result. InputRequired when the client has to come again; Fail when the upstream does not come to an end."""
    asked = _asked(caller.state, what)
    said = params
    if asked is not None:
        said = await _answered(params, *asked, caller, what)
    pause = PAUSE
    for _ in range(ROUNDS):
        result = await send(said)
        kind = result.get("resultType", "complete")
        if kind == "complete":
            return result
        if kind != "input_required":
            raise Fail(
                f"{what} was answered with a result of type {str(kind)[:80]!r}, which this release does not know"
            )
        requests, state = questions_of(result.get("inputRequests"), what), result.get("requestState")
        if state is not None and (not isinstance(state, str) or len(state) > STATE_LIMIT):
            raise Fail(f"{what} was answered with a state that is no text of at most {STATE_LIMIT // 1024} kB")
        if requests:
            said, pause = await _answered(params, requests, state, caller, what), PAUSE
        elif state is None:
            raise Fail(f"{what} wants input and does not say which")
        else:
            await sleep(pause)
            said, pause = {**params, "requestState": state}, min(pause * 2, PAUSE_LIMIT)
    raise Fail(f"{what} asked for input {ROUNDS} times without coming to an end")


async def _answered(
    params: Mapping[str, Any], requests: Mapping[str, InputRequest], state: str | None, caller: Caller, what: str
) -> Mapping[str, Any]:
    """The params of the next round."""
    ours = {_safe(key): key for key in requests}
    try:
        answers = await caller.ask({safe: requests[key] for safe, key in ours.items()})
    except InputRequired as required:
        required.state = {
            "of": what, "state": state, "requests": {key: request.to_json() for key, request in requests.items()}
        }  # fmt: skip
        raise
    said = {**params, "inputResponses": {ours[safe]: dict(answer) for safe, answer in answers.items()}}
    return said if state is None else {**said, "requestState": state}


def _safe(key: str) -> str:
    """A key that may name a question anywhere, the same one for the same key: a run's journal has it in a path."""
    return (
        key if _SAFE.fullmatch(key) else f"question-{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:12]}"
    )


def _asked(state: Any, what: str) -> tuple[Mapping[str, InputRequest], str | None] | None:
    """What an earlier round of this call asked, and the upstream's state of it."""
    if not isinstance(state, dict) or "requests" not in state:
        return None
    if state.get("of") != what:
        raise InvalidInput(f"these answers belong to another call than {what}; begin it anew")
    return questions_of(state["requests"], what), state.get("state")


def questions_of(value: Any, what: str) -> dict[str, InputRequest]:
    """The questions of an `input_required` result. Fail when they are none."""
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > QUESTIONS:
        raise Fail(f"{what} asks what is no list of at most {QUESTIONS} questions")
    found = {}
    for key, request in value.items():
        method = request.get("method") if isinstance(request, dict) else None
        params = request.get("params", {}) if isinstance(request, dict) else None
        if method not in METHODS or not isinstance(params, dict):
            raise Fail(f"{what} asks {str(method)[:80]!r}, which is nothing that a client can be asked")
        found[str(key)] = InputRequest(method, params)
    return found
