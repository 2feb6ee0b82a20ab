"""Prompts: filled in, checked and completed; those of sources beside the mesh's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import pytest

from agentmesh.adapters.memory_outside import MemoryFiles
from agentmesh.adapters.memory_source import MemorySource
from agentmesh.core.caller import NOBODY, Caller
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.resource import Completion, Prompt, PromptResult
from agentmesh.core.server_file import ServerFile
from agentmesh.errors import Fail, InvalidInput, NotFound, PolicyDenied
from tests.engine.meshes import LOCAL, serving

pytestmark = pytest.mark.anyio
PROMPTS: Mapping[str, Any] = {
    "greet": {
        "title": "Greet",
        "description": "Greets somebody.",
        "arguments": {"who": {"required": True, "values": ["Ann", "Anton", "Ben"]}, "tone": {"description": "How."}},
        "messages": [
            {"text": "Greet ${{ input.who }} ${{ input.tone }}"},
            {"role": "assistant", "text": "Gladly."},
            {"resource": "desk://notes/${{ input.who }}"},
            {"file": "logo.png"},
            {"file": "hint.md"},
        ],
    },
    "code": {"description": "Made by a function.", "arguments": {"n": {"required": True}}, "python": "shop:prompt"},
}


def mesh_of(*, policies: tuple[PolicyFile, ...] = (), prefix: bool = True) -> Mesh:
    note = {"uri": "desk://notes/{name}", "description": "A note.", "text": "About ${{ input.name }}."}
    given = {"name": "desk", "prefix": prefix, "prompts": PROMPTS, "resources": {"note": note}}
    return assemble(PurePath("mesh"), MeshFile(name="test"), [ServerFile.model_validate(given)], (), policies)


FILES = MemoryFiles({"logo.png": b"\x89PNG", "hint.md": b"Be kind."})


async def test_a_prompt_is_filled_in_with_text_resources_and_files() -> None:
    """In order; a value in a URI is encoded, an argument not given is empty."""
    async with serving(mesh_of(), files=FILES) as engine:
        result = await engine.prompts.get(LOCAL, "desk.greet", {"who": "A/B"})
    assert result.description == "Greets somebody."
    note = {"uri": "desk://notes/A%2FB", "mimeType": "text/plain", "text": "About A/B."}
    assert [(message["role"], message["content"]) for message in result.messages] == [
        ("user", {"type": "text", "text": "Greet A/B "}),
        ("assistant", {"type": "text", "text": "Gladly."}),
        ("user", {"type": "resource", "resource": note}),
        ("user", {"type": "image", "data": "iVBORw==", "mimeType": "image/png"}),
        ("user", {"type": "text", "text": "Be kind."}),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "prompt 'desk.greet' needs 'who'"),
        ({"tone": "kind"}, "prompt 'desk.greet' needs 'who'"),
        ({"who": "Ann", "tune": "x"}, "prompt 'desk.greet' takes no 'tune'; did you mean 'tone'?"),
        ({"who": 3}, "the argument 'who' of prompt 'desk.greet' must be text"),
    ],
)
async def test_arguments_that_do_not_fit_are_told(arguments: Any, message: str) -> None:
    """By name, before anything is done."""
    async with serving(mesh_of(), files=FILES) as engine:
        with pytest.raises(InvalidInput) as error:
            await engine.prompts.get(LOCAL, "desk.greet", arguments)
    assert error.value.message == message


@pytest.mark.parametrize(
    ("returned", "messages"),
    [
        ("Say it.", [{"role": "user", "content": {"type": "text", "text": "Say it."}}]),
        (["a", {"role": "assistant", "content": "b"}], [
            {"role": "user", "content": {"type": "text", "text": "a"}},
            {"role": "assistant", "content": {"type": "text", "text": "b"}},
        ]),
    ],
)  # fmt: skip
async def test_a_function_gives_the_messages(returned: Any, messages: Any) -> None:
    """A text, or messages in MCP's form."""
    async with serving(mesh_of(), functions={"shop:prompt": lambda n: returned}) as engine:
        assert list((await engine.prompts.get(LOCAL, "desk.code", {"n": "1"})).messages) == messages


@pytest.mark.parametrize("returned", [[{"role": "system", "content": "x"}], [{"role": "user"}], [3]])
async def test_what_is_no_message_is_a_failure(returned: Any) -> None:
    """It never reaches a client."""
    async with serving(mesh_of(), functions={"shop:prompt": lambda n: returned}) as engine:
        with pytest.raises(Fail, match="a message that is none"):
            await engine.prompts.get(LOCAL, "desk.code", {"n": "1"})


async def test_prompts_are_listed_under_the_servers_name_or_bare() -> None:
    """With their arguments."""
    async with serving(mesh_of()) as engine:
        code, greet = engine.prompts.list(LOCAL)
    assert (code.name, greet.name, greet.title) == ("desk.code", "desk.greet", "Greet")
    assert [(one.name, one.required) for one in greet.arguments] == [("who", True), ("tone", False)]
    async with serving(mesh_of(prefix=False)) as engine:
        assert [one.name for one in engine.prompts.list(LOCAL)] == ["code", "greet"]


async def test_policies_hide_and_deny() -> None:
    """`prompts.list` and `prompts.get` on `prompt:NAME`; `when` reads the arguments."""
    rules = [{"allow": ["prompts.*"], "on": ["prompt:desk.code"], "when": "input.n == '1'"}]
    policy = PolicyFile.model_validate({"name": "p", "rules": rules})
    async with serving(mesh_of(policies=(policy,)), functions={"shop:prompt": lambda n: n}) as engine:
        assert [one.name for one in engine.prompts.list(LOCAL)] == ["desk.code"]
        await engine.prompts.get(LOCAL, "desk.code", {"n": "1"})
        for name, arguments in (("desk.code", {"n": "2"}), ("desk.greet", {"who": "Ann"})):
            with pytest.raises(PolicyDenied):
                await engine.prompts.get(LOCAL, name, arguments)
        with pytest.raises(NotFound):
            await engine.resources.complete(
                LOCAL, {"type": "ref/prompt", "name": "desk.greet"}, {"name": "who", "value": ""}
            )


class Theirs(MemorySource):
    """A source with prompts."""

    def prompts(self) -> Mapping[str, Prompt]:
        return {"gh.review": Prompt("gh.review"), "desk.code": Prompt("desk.code")}

    async def prompt(
        self, name: str, arguments: Mapping[str, str], *, principal: Principal, caller: Caller = NOBODY
    ) -> PromptResult:
        return PromptResult(({"role": "user", "content": {"type": "text", "text": f"{name} {dict(arguments)}"}},))

    async def complete(
        self, ref: Mapping[str, Any], argument: Mapping[str, str], context: Mapping[str, str], *, principal: Principal
    ) -> Completion:
        return Completion((f"{argument['name']} after {context}",))


async def test_sources_prompts_are_joined_and_the_meshs_own_come_first() -> None:
    """Completion goes to whoever has the prompt, with what was filled in before."""
    async with serving(mesh_of(), sources=[Theirs("gh")], functions={"shop:prompt": lambda n: "ours"}) as engine:
        assert [one.name for one in engine.prompts.list(LOCAL)] == ["desk.code", "desk.greet", "gh.review"]
        (ours,) = (await engine.prompts.get(LOCAL, "desk.code", {"n": "1"})).messages
        (theirs,) = (await engine.prompts.get(LOCAL, "gh.review", {"pr": "7"})).messages
        assert (ours["content"]["text"], theirs["content"]["text"]) == ("ours", "gh.review {'pr': '7'}")
        ref = {"type": "ref/prompt", "name": "gh.review"}
        found = await engine.resources.complete(LOCAL, ref, {"name": "pr", "value": ""}, {"repo": "x"})
        assert found.values == ("pr after {'repo': 'x'}",)


async def test_values_of_arguments_are_completed() -> None:
    """Those that begin so; at most a hundred; an argument without values has none."""
    async with serving(mesh_of()) as engine:

        async def complete(name: str, value: str) -> Completion:
            return await engine.resources.complete(
                LOCAL, {"type": "ref/prompt", "name": "desk.greet"}, {"name": name, "value": value}
            )

        assert await complete("who", "an") == Completion(("Ann", "Anton"), 2)
        assert await complete("tone", "x") == Completion((), 0)
        with pytest.raises(InvalidInput, match="has no argument 'x'"):
            await complete("x", "")


async def test_an_unknown_prompt_is_not_found() -> None:
    """With what may have been meant."""
    async with serving(mesh_of()) as engine:
        with pytest.raises(NotFound, match=r"did you mean 'desk\.greet'"):
            await engine.prompts.get(LOCAL, "desk.gret")
