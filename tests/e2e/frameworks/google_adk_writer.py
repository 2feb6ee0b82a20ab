"""An agent of google-adk, served by its `to_a2a`. Run by the Python of its own environment (environments.py), never imported here.

Its model is a class of a few lines: it calls the agent's tool, then answers with what the tool said. No network is needed.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import uvicorn

warnings.simplefilter("ignore")  # its A2A is an experiment still, it says

from google.adk.a2a.utils.agent_to_a2a import to_a2a  # noqa: E402
from google.adk.agents import LlmAgent  # noqa: E402
from google.adk.models import BaseLlm, LlmRequest, LlmResponse  # noqa: E402
from google.genai import types  # noqa: E402


class Scripted(BaseLlm):
    """Gives what it is asked to its tool, and answers with the tool's result. Waits while HOLD names a file that is there."""

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        while (hold := os.environ.get("HOLD")) and Path(hold).exists():  # noqa: ASYNC110 - a file has no event
            await anyio.sleep(0.05)
        parts = [part for content in llm_request.contents for part in content.parts or ()]
        made = [part.function_response.response for part in parts if part.function_response]
        if made:
            part = types.Part(text=str((made[-1] or {}).get("result")))
        else:
            asked = next(part.text for part in reversed(parts) if part.text)
            part = types.Part(function_call=types.FunctionCall(name="headline", args={"text": asked}))
        yield LlmResponse(content=types.Content(role="model", parts=[part]))


def headline(text: str) -> str:
    """Makes a headline of a text."""
    return text.removeprefix("Found out: ").rstrip(".").upper() + "!"


def main() -> None:
    """Serves on the port that is given, 0 for any; the first line on stdout is the address."""
    listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    port = listening.getsockname()[1]
    writer = LlmAgent(
        name="writer",
        model=Scripted(model="scripted"),
        description="Writes headlines",
        instruction="Write a headline.",
        tools=[headline],
    )
    app = to_a2a(writer, host="127.0.0.1", port=port)
    print(f"http://127.0.0.1:{port}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])


main()
