"""OpenAI's own client against the shipped model: real Ray, real vLLM, real sockets."""

from __future__ import annotations

import json

import pytest

from tests.real.conftest import Served

openai = pytest.importorskip("openai")
pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
MESSAGES = [{"role": "user", "content": "E   TypeError: unsupported operand type(s)"}]
SCHEMA = {
    "type": "object",
    "properties": {"cause": {"enum": ["type", "value"]}},
    "required": ["cause"],
    "additionalProperties": False,
}


def test_openais_client_works_with_the_shipped_model(served: Served) -> None:
    """The list, a whole answer, a stream whose pieces are that answer, and one under a schema."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 24, "temperature": 0, "seed": 1}
        whole = client.chat.completions.create(**asked)
        assert whole.usage.completion_tokens > 0
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        said = [piece.choices[0].delta.content or "" for piece in pieces if piece.choices]
        assert "".join(said) == whole.choices[0].message.content
        assert len([text for text in said if text]) > 1, "it comes in pieces"
        assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
        structured = client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=64, temperature=0,
            response_format={"type": "json_schema", "json_schema": {"name": "cause", "strict": True, "schema": SCHEMA}},
        )  # fmt: skip
        assert json.loads(structured.choices[0].message.content)["cause"] in {"type", "value"}
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=10_000_000)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="huge", messages=MESSAGES)
