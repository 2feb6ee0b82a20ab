"""Functions behind servers/tasks.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio

from agentmesh.core.caller import ELICITATION, InputRequest
from agentmesh.core.context import Context
from agentmesh.errors import Fail


def greet(name: str) -> str:
    return f"Hello, {name}!"


def greet_by_form(user_name: Mapping[str, Any]) -> str:
    """`user_name`: what the caller's user filled in."""
    return greet(user_name["name"])


async def slow_compute(seconds: float, label: str = "") -> str:
    await anyio.sleep(seconds)
    return f"computed {label} for {seconds:g} s".replace("  ", " ")


async def failing_job() -> str:
    await anyio.sleep(1)
    raise Fail("this job always fails")


async def protocol_error_job() -> str:
    await anyio.sleep(0.5)  # longer than the moment in which a call is answered at once
    raise RuntimeError("nobody expected this")


async def confirm_delete(ctx: Context, filename: str) -> str:
    form = {"type": "object", "properties": {"confirm": {"type": "boolean"}}, "required": ["confirm"]}
    answer = await ctx.elicit("confirm", f"Delete {filename}?", form)
    sure = answer["action"] == "accept" and answer["content"]["confirm"]
    return f"deleted {filename}" if sure else f"kept {filename}"


async def multi_input(ctx: Context) -> str:
    answers = await ctx.ask(
        {
            "name": _form("What is your name?", "name", "string"),
            "confirm": _form("Are you sure?", "confirm", "boolean"),
        }
    )
    return ", ".join(f"{key}: {answer['action']}" for key, answer in answers.items())


def _form(message: str, field: str, kind: str) -> InputRequest:
    form = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return InputRequest(ELICITATION, {"mode": "form", "message": message, "requestedSchema": form})
