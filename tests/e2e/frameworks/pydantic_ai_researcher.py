"""An agent of pydantic-ai, served by fasta2a. Run by the Python of its own environment (environments.py), never imported here.

Its model is a function: it calls the agent's tool, then writes a sentence from what the tool said. No network is needed.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import anyio
import uvicorn
from fasta2a.pydantic_ai import agent_to_a2a
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

FACTS = {"lisbon": "Lisbon has 7 hills", "oslo": "Oslo lies at a fjord"}


async def think(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """The model: the city's name goes to the tool, what comes back into the answer. Waits while HOLD names a file that is there."""
    while (hold := os.environ.get("HOLD")) and Path(hold).exists():  # noqa: ASYNC110 - a file has no event
        await anyio.sleep(0.05)
    said = [part for message in messages for part in message.parts]
    facts = [part.content for part in said if isinstance(part, ToolReturnPart)]
    asked = [str(part.content) for part in said if isinstance(part, UserPromptPart)]
    if not facts:
        return ModelResponse([ToolCallPart("fact", {"city": asked[-1].rstrip(".").rsplit(" ", 1)[-1]})])
    return ModelResponse([TextPart(f"Found out: {facts[-1]}.")])


researcher = Agent(FunctionModel(think), name="researcher")


@researcher.tool_plain
def fact(city: str) -> str:
    """One fact about a city."""
    return FACTS.get(city.lower(), f"nothing is known of {city}")


def main() -> None:
    """Serves on the port that is given, 0 for any; the first line on stdout is the address."""
    listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = agent_to_a2a(
        researcher,
        url=url,
        description="Finds facts about cities",
        skills=[
            {
                "id": "facts", "name": "City facts", "description": "Finds one fact about a city", "tags": ["research"],
                "input_modes": ["text/plain"], "output_modes": ["text/plain"],
            }
        ],
    )  # fmt: skip
    print(url, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])


main()
