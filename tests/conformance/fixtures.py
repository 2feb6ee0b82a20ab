"""Functions behind servers/everything.yaml: what the conformance suite's scenarios expect of tools, resources and prompts."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path
from typing import Any, get_args

import anyio

from agentmesh.core import content
from agentmesh.core.caller import ELICITATION, ROOTS, SAMPLING, InputRequest, Level, missing
from agentmesh.core.content import Content
from agentmesh.core.context import Context
from agentmesh.errors import Fail

PNG = (Path(__file__).parent / "files/pixel.png").read_bytes()
PAUSE = 0.05


def _wav() -> bytes:
    """A hundredth of a second of silence."""
    data = io.BytesIO()
    with wave.open(data, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8000)
        sound.writeframes(b"\x80" * 80)
    return data.getvalue()


def simple_text() -> str:
    return "This is a simple text response for testing."


def image_content() -> Content:
    return Content([content.image(PNG, "image/png")])


def audio_content() -> Content:
    return Content([content.audio(_wav(), "audio/wav")])


def embedded_resource() -> Content:
    said = "This is an embedded resource content."
    return Content([content.resource("test://embedded-resource", said, "text/plain")])


def multiple_content_types() -> Content:
    data = json.dumps({"test": "data", "value": 123})
    return Content(
        [
            content.text("Multiple content types test:"),
            content.image(PNG, "image/png"),
            content.resource("test://mixed-content-resource", data, "application/json"),
        ]
    )


def error_handling() -> None:
    raise Fail("This tool intentionally returns an error for testing")


async def tool_with_progress(ctx: Context) -> str:
    for done in (0, 50, 100):
        if done:
            await anyio.sleep(PAUSE)
        ctx.progress(f"{done} of 100", done=done, total=100)
    return "Progress was told."


async def tool_with_logging(ctx: Context) -> str:
    ctx.log("info", "Tool execution started")
    await anyio.sleep(PAUSE)
    ctx.log("info", "Tool processing data")
    await anyio.sleep(PAUSE)
    ctx.log("info", "Tool execution completed")
    return "Three messages were logged."


async def logging_tool(ctx: Context) -> str:
    for level in get_args(Level):
        ctx.log(level, f"a message of level {level}", "conformance")
    return "A message of each level was logged."


async def sampling(ctx: Context, prompt: str) -> str:
    message = {"role": "user", "content": content.text(prompt)}
    answer = await ctx.sample("answer", [message], 100)
    return f"LLM response: {_text_of(answer)}"


def _text_of(answer: Any) -> str:
    said = answer["content"]
    blocks = said if isinstance(said, list) else [said]
    return " ".join(str(block.get("text", "")) for block in blocks)


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


async def elicitation(ctx: Context, message: str) -> str:
    form = _object({"username": {"type": "string"}, "email": {"type": "string"}}, "username", "email")
    answer = await ctx.elicit("answer", message, form)
    return f"User response: action={answer['action']}, content={json.dumps(answer.get('content', {}))}"


async def streaming_elicitation(ctx: Context) -> str:
    answer = await ctx.elicit("name", "What is your name?", _object({"name": {"type": "string"}}, "name"))
    return f"User response: action={answer['action']}"


async def elicitation_defaults(ctx: Context) -> str:
    form = _object(
        {
            "name": {"type": "string", "description": "A name", "default": "John Doe"},
            "age": {"type": "integer", "description": "An age", "default": 30},
            "score": {"type": "number", "description": "A score", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "description": "Whether it is verified", "default": True},
        }
    )
    answer = await ctx.elicit("answer", "Please look at these values.", form)
    return f"Elicitation completed: action={answer['action']}, content={json.dumps(answer.get('content', {}))}"


async def elicitation_enums(ctx: Context) -> str:
    options = ["option1", "option2", "option3"]
    titled = [
        {"const": f"value{n}", "title": f"{word} option"} for n, word in enumerate(("First", "Second", "Third"), 1)
    ]
    form = _object(
        {
            "untitledSingle": {"type": "string", "enum": options},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {
                "type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option one", "Option two", "Option three"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled}},
        }
    )  # fmt: skip
    answer = await ctx.elicit("answer", "Please choose.", form)
    return f"Elicitation completed: action={answer['action']}, content={json.dumps(answer.get('content', {}))}"


async def missing_capability(ctx: Context) -> str:
    if not ctx.can(SAMPLING):
        raise missing(InputRequest(SAMPLING, {}))
    return "The client can sample."


async def trigger_tool_change(ctx: Context) -> str:
    ctx.changed("tools")
    return "The list of tools changed."


async def trigger_prompt_change(ctx: Context) -> str:
    ctx.changed("prompts")
    return "The list of prompts changed."


NAME = _object({"name": {"type": "string"}}, "name")
YES = _object({"ok": {"type": "boolean"}}, "ok")
CAPITAL = [{"role": "user", "content": content.text("What is the capital of France?")}]


def _form(message: str, form: dict[str, Any]) -> InputRequest:
    return InputRequest(ELICITATION, {"mode": "form", "message": message, "requestedSchema": form})


async def ask_name(ctx: Context) -> str:
    answer = await ctx.elicit("user_name", "What is your name?", NAME)
    return f"Hello, {_field(answer, 'name')}!"


def _field(answer: Any, name: str) -> Any:
    return (answer.get("content") or {}).get(name, f"(no {name})")


async def ask_capital(ctx: Context) -> str:
    return f"The client's model says: {_text_of(await ctx.sample('capital_question', CAPITAL, 100))}"


async def ask_roots(ctx: Context) -> str:
    return f"The roots are: {_roots(await ctx.roots('client_roots'))}"


def _roots(roots: Any) -> str:
    return ", ".join(f"{root.get('name', '')} {root['uri']}".strip() for root in roots) or "none"


async def ask_with_state(ctx: Context) -> str:
    answer = await ctx.elicit("confirm", "Go on?", YES)
    return f"state-ok: {answer['action']}"


async def ask_several(ctx: Context) -> str:
    greeting = {"messages": [{"role": "user", "content": content.text("Write a greeting.")}], "maxTokens": 50}
    answers = await ctx.ask(
        {
            "user_name": _form("What is your name?", NAME),
            "greeting": InputRequest(SAMPLING, greeting),
            "client_roots": InputRequest(ROOTS, {}),
        }
    )
    name, roots = _field(answers["user_name"], "name"), _roots(answers["client_roots"].get("roots", ()))
    return f"{name}: {_text_of(answers['greeting'])}; roots: {roots}"


async def ask_twice(ctx: Context) -> str:
    name = _field(await ctx.elicit("step1", "What is your name?", NAME), "name")
    form = _object({"color": {"type": "string"}}, "color")
    color = _field(await ctx.elicit("step2", f"Which color do you like, {name}?", form), "color")
    return f"{name} likes {color}."


async def ask_what_can_be_asked(ctx: Context) -> str:
    requests = {}
    if ctx.can(SAMPLING):
        requests["capital_question"] = InputRequest(SAMPLING, {"messages": CAPITAL, "maxTokens": 100})
    if ctx.can(ELICITATION):
        requests["user_name"] = _form("What is your name?", NAME)
    answers = await ctx.ask(requests) if requests else {}
    return f"Asked for {', '.join(sorted(answers)) or 'nothing'}."


def many_keywords(**given: Any) -> str:
    return f"json_schema_2020_12_tool was given {', '.join(sorted(given)) or 'nothing'}"


def region(region: str = "none") -> str:
    return f"region={region}"


def template_data(id: str) -> dict[str, Any]:
    return {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}


def prompt_with_resource(resourceUri: str) -> list[dict[str, Any]]:
    embedded = content.resource(resourceUri, "Embedded resource content for testing.", "text/plain")
    return [
        {"role": "user", "content": embedded},
        {"role": "user", "content": content.text("Please process the embedded resource above.")},
    ]


async def prompt_that_asks(ctx: Context) -> str:
    form = _object({"context": {"type": "string"}}, "context")
    answer = await ctx.elicit("user_context", "What should the prompt know?", form)
    return f"Answer with this in mind: {_field(answer, 'context')}"
