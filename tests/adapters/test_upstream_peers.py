"""A server that others wrote, over stdio: the protocol's own example of everything. Needs Node; npx fetches it."""

from __future__ import annotations

import shutil

import pytest

from agentmesh.adapters.memory_caller import ScriptedCaller
from agentmesh.adapters.upstream_mcp_link import LinkPace
from agentmesh.core.caller import ELICITATION, SAMPLING
from tests.adapters.upstreams import LOCAL, call, until, upstream

pytestmark = [pytest.mark.anyio, pytest.mark.clients]
EVERYTHING = ["npx", "-y", "@modelcontextprotocol/server-everything@2026.8.31", "stdio"]


@pytest.mark.skipif(shutil.which("npx") is None, reason="needs Node's npx")
async def test_the_server_of_everything_is_offered_whole() -> None:
    """Its tools, resources, prompts and completion, its progress, and what it asks of the client."""
    said = {"role": "assistant", "content": {"type": "text", "text": "well"}, "model": "m", "stopReason": "endTurn"}
    pace = LinkPace(connect=120, probe=60)
    async with upstream("ev", {"command": EVERYTHING}, ready=False, pace=pace) as source:
        for _ in range(12):
            try:
                await until(lambda: bool(source.tools() and source.resources() and source.prompts()))
                break
            except AssertionError:
                continue
        assert source.status().state == "ready", source.status()
        assert (await call(source, "ev.echo", {"message": "hi"})).text == "Echo: hi"
        structured = (await call(source, "ev.get-structured-content", {"location": "New York"})).structured
        assert set(structured) == {"temperature", "conditions", "humidity"}
        image = await call(source, "ev.get-tiny-image")
        assert "image" in [block["type"] for block in image.content or ()]
        caller = ScriptedCaller(can=[])
        await call(source, "ev.trigger-long-running-operation", {"duration": 1, "steps": 4}, caller=caller)
        assert [done for done, _, _ in caller.told] == [1, 2, 3, 4]
        asked = ScriptedCaller({"sampling-1": said}, can=[SAMPLING])
        sampled = await call(source, "ev.trigger-sampling-request", {"prompt": "hello"}, caller=asked)
        assert "well" in sampled.text
        declined = ScriptedCaller({"elicitation-1": {"action": "decline"}}, can=[ELICITATION])
        assert "declined" in (await call(source, "ev.trigger-elicitation-request", {}, caller=declined)).text
        uri = source.resources()[0].uri
        assert (await source.read(uri, principal=LOCAL))[0]["uri"] == uri
        found = await source.prompt("ev.args-prompt", {"city": "Berlin"}, principal=LOCAL)
        assert "Berlin" in str(found.messages)
        ref = {"type": "ref/prompt", "name": "ev.completable-prompt"}
        assert (await source.complete(ref, {"name": "department", "value": "E"}, {}, principal=LOCAL)).values
