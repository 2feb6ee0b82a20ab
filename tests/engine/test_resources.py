"""Resources: of server files, of the mesh itself, and of sources; who sees them, and who hears that they change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_outside import MemoryFiles
from agentmesh.adapters.memory_source import MemorySource
from agentmesh.core.caller import NOBODY, Caller, InputRequired
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.resource import Completion, Resource, ResourceTemplate
from agentmesh.core.server_file import ServerFile
from agentmesh.core.workflow import Workflow
from agentmesh.engine import Engine
from agentmesh.errors import Fail, InvalidInput, NotFound, PolicyDenied
from tests.engine.meshes import LOCAL, serving, workflow

pytestmark = pytest.mark.anyio
ANN, BEN = Principal("token:ann"), Principal("token:ben")
RESOURCES: Mapping[str, Any] = {
    "about": {"uri": "desk://about", "description": "What this is.", "text": "A desk."},
    "note": {"uri": "desk://notes/{name}", "description": "A note.", "file": "notes/${{ input.name }}.md", "subscribe": True},
    "logo": {"uri": "desk://logo", "description": "The logo.", "file": "logo.png", "subscribe": True},
    "order": {"uri": "desk://orders/{id}", "description": "An order.", "python": "shop:order"},
    "plain": {"uri": "desk://plain/{id}", "description": "Text.", "text": "order ${{ input.id }}", "mime": "text/x-order"},
}  # fmt: skip


def files() -> MemoryFiles:
    return MemoryFiles({"notes/a.md": b"# A", "logo.png": b"\x89PNG", "secret.md": b"no"})


def mesh_of(
    resources: Mapping[str, Any] = RESOURCES, *workflows: Workflow, policies: Sequence[PolicyFile] = ()
) -> Mesh:
    server = ServerFile.model_validate({"name": "desk", "resources": resources})
    return assemble(PurePath("mesh"), MeshFile(name="test"), [server], workflows, policies)


async def read(engine: Engine, uri: str, who: Principal = LOCAL) -> dict[str, Any]:
    (contents,) = await engine.resources.read(who, uri)
    return dict(contents)


async def test_text_files_and_functions_are_read_by_their_uris() -> None:
    """Text as text, bytes as base64, JSON as JSON; a template's values are what the URI says, percent-decoded."""
    given: list[Any] = []

    def order(id: str) -> Any:
        given.append(id)
        return {"id": id} if id != "raw" else b"\x00\x01"

    async with serving(mesh_of(), files=files(), functions={"shop:order": order}) as engine:
        about = {"uri": "desk://about", "mimeType": "text/plain", "text": "A desk."}
        assert await read(engine, "desk://about") == about
        assert (await read(engine, "desk://notes/a"))["mimeType"] == "text/markdown"
        assert await read(engine, "desk://logo") == {"uri": "desk://logo", "mimeType": "image/png", "blob": "iVBORw=="}
        assert json.loads((await read(engine, "desk://orders/7%2F8"))["text"]) == {"id": "7/8"}
        assert (await read(engine, "desk://orders/raw"))["blob"] == "AAE="
        assert await read(engine, "desk://plain/x%20y") == {
            "uri": "desk://plain/x%20y", "mimeType": "text/x-order", "text": "order x y",
        }  # fmt: skip
    assert given == ["7/8", "raw"]


@pytest.mark.parametrize("name", ["..%2Fsecret", "%2e%2e%2Fsecret", ".hidden", "a%00", "b", "..", "x%5C..%5Csecret"])
async def test_a_value_of_a_uri_leads_to_no_other_file(name: str) -> None:
    """It is one name in the folder that the operator wrote, or there is no such resource."""
    async with serving(mesh_of(), files=files()) as engine:
        with pytest.raises(NotFound):
            await engine.resources.read(LOCAL, f"desk://notes/{name}")


async def test_lists_hold_what_is_declared_and_what_the_mesh_shows_of_itself() -> None:
    """Sorted by URI; templates stand apart."""

    async def card(_: Principal, agent: str | None) -> dict[str, Any]:
        return {"name": agent}

    greet = workflow("greet", {"id": "a", "set": 1})
    async with serving(mesh_of(RESOURCES, greet), files=files()) as engine:
        engine.resources.own.card = card
        assert [one.uri for one in engine.resources.list(LOCAL)] == [
            "desk://about", "desk://logo", "mesh://agents/test", "mesh://runs", "mesh://workflows/greet",
        ]  # fmt: skip
        assert [one.uri_template for one in engine.resources.templates(LOCAL)] == [
            "desk://notes/{name}", "desk://orders/{id}", "desk://plain/{id}", "mesh://agents/{name}", "mesh://runs/{id}",
            "mesh://runs/{id}/log", "mesh://workflows/{name}",
        ]  # fmt: skip
        assert all(one.name and one.description for one in engine.resources.list(LOCAL))
        assert json.loads((await read(engine, "mesh://agents/test"))["text"]) == {"name": None}
        assert json.loads((await read(engine, "mesh://agents/clerk"))["text"]) == {"name": "clerk"}
        assert json.loads((await read(engine, "mesh://workflows/greet"))["text"])["steps"] == [{"id": "a", "set": 1}]


async def test_what_only_the_operator_may_know_is_not_in_a_workflow_that_is_shown() -> None:
    """Secrets of a webhook, and headers that let somebody in, should they be written out."""
    call = {
        "id": "a",
        "http": {"url": "https://x.example.com", "headers": {"Authorization": "Bearer abc", "Accept": "text/plain"}},
    }
    hooked = workflow("hooked", call, on={"webhook": {"path": "p", "token": "hunter2"}})
    async with serving(mesh_of({}, hooked)) as engine:
        text = (await read(engine, "mesh://workflows/hooked"))["text"]
    assert not {"hunter2", "abc"} & set(text.replace('"', " ").split())
    assert "text/plain" in text


async def test_runs_and_their_logs_are_their_callers_own() -> None:
    """Somebody else's is not there, for reading, listing and subscribing alike."""
    greet = workflow("greet", {"id": "a", "set": "hello"})
    async with serving(mesh_of({}, greet)) as engine:
        run = await engine.runs.start(ANN, "greet", {"text": "x"})
        await engine.runs.wait(ANN, run.id)
        shown = json.loads((await read(engine, f"mesh://runs/{run.id}", ANN))["text"])
        assert (shown["state"], shown["input"], shown["steps"][0]["path"]) == ("completed", {"text": "x"}, "a")
        assert "a completed" in (await read(engine, f"mesh://runs/{run.id}/log", ANN))["text"]
        newest = [json.loads((await read(engine, "mesh://runs", who))["text"])["runs"] for who in (ANN, BEN)]
        assert [[one["id"] for one in runs] for runs in newest] == [[run.id], []]
        for uri in (f"mesh://runs/{run.id}", f"mesh://runs/{run.id}/log"):
            with pytest.raises(NotFound):
                await engine.resources.read(BEN, uri)
            with pytest.raises(NotFound):
                await engine.resources.subscribe(BEN, uri)


async def test_policies_hide_and_deny() -> None:
    """`resources.list` and `resources.read` on `resource:URI`; reading a run wants runs.read beside it."""
    rules = [
        {"allow": ["resources.list", "resources.read"], "on": ["resource:desk://about", "resource:mesh://runs/*"]},
        {"allow": ["runs.start", "workflow:*"]},
    ]
    policy = PolicyFile.model_validate({"name": "p", "rules": rules})
    greet = workflow("greet", {"id": "a", "set": 1})
    async with serving(mesh_of(RESOURCES, greet, policies=[policy]), files=files()) as engine:
        assert [one.uri for one in engine.resources.list(ANN)] == ["desk://about"]
        assert [one.uri_template for one in engine.resources.templates(ANN)] == [
            "mesh://runs/{id}",
            "mesh://runs/{id}/log",
        ]
        with pytest.raises(PolicyDenied):
            await engine.resources.read(ANN, "desk://logo")
        run = await engine.runs.start(ANN, "greet", {"text": "x"})
        with pytest.raises(PolicyDenied, match=r"runs\.read"):
            await engine.resources.read(ANN, f"mesh://runs/{run.id}")


@pytest.mark.parametrize(
    "uri", ["desk://none", "mesh://runs/none", "mesh://nothing", "mesh://workflows/none", "", "x" * 5000]
)
async def test_what_is_not_there_is_not_found(uri: str) -> None:
    """For reading and for subscribing."""
    async with serving(mesh_of(), files=files()) as engine:
        with pytest.raises(NotFound):
            await engine.resources.read(LOCAL, uri)
        with pytest.raises(NotFound):
            await engine.resources.subscribe(LOCAL, uri)


async def test_a_function_that_breaks_is_a_failure_and_one_that_asks_ends_the_call() -> None:
    """Its exception is told in one sentence; InputRequired goes through to the edge."""

    async def order(ctx: Any, id: str) -> Any:
        if id == "broken":
            raise RuntimeError("no database")
        ctx.put("seen", [*ctx.state.get("seen", []), id])
        return {"seen": ctx.state.get("seen", []), "answer": await ctx.elicit("why", "Why?")}

    class Asking:
        """A client that has to come again."""

        state = None

        def can(self, method: str) -> bool:
            return True

        async def ask(self, requests: Any) -> Any:
            raise InputRequired(requests)

        def __getattr__(self, name: str) -> Any:
            return getattr(NOBODY, name)

    asking: Caller = Asking()
    async with serving(mesh_of(), functions={"shop:order": order}) as engine:
        with pytest.raises(Fail, match="no database"):
            await engine.resources.read(LOCAL, "desk://orders/broken")
        with pytest.raises(InputRequired) as required:
            await engine.resources.read(LOCAL, "desk://orders/1", asking)
    assert list(required.value.requests) == ["why"]


async def test_whoever_subscribed_hears_that_a_run_goes_on() -> None:
    """And nobody after the last `unsubscribe`, which counts."""
    wait = workflow("wait", {"id": "a", "wait": {"signal": "go"}})
    async with serving(mesh_of({}, wait)) as engine, anyio.create_task_group() as group:
        await group.start(engine.resources.run)
        run = await engine.runs.start(LOCAL, "wait", {"text": "x"})
        uri = f"mesh://runs/{run.id}"
        await engine.resources.subscribe(LOCAL, uri)
        await engine.resources.subscribe(LOCAL, uri)
        await engine.resources.unsubscribe(LOCAL, uri)
        with engine.changes.subscribe() as heard:
            await engine.runs.signal(LOCAL, run.id, "go")
            with anyio.fail_after(5):
                assert await anext(heard) == ("updated", uri)
            await engine.runs.wait(LOCAL, run.id)
        await engine.resources.unsubscribe(LOCAL, uri)
        await engine.resources.unsubscribe(LOCAL, uri)  # once too often: nothing
        assert engine.resources._watching._watched == {}
        group.cancel_scope.cancel()


async def test_whoever_subscribed_hears_that_a_file_changed() -> None:
    """Of a fixed resource and of a template's."""
    given = files()
    async with serving(mesh_of(), files=given) as engine, anyio.create_task_group() as group:
        for uri in ("desk://logo", "desk://notes/a"):
            await engine.resources.subscribe(LOCAL, uri)
        await group.start(engine.resources.run)
        with engine.changes.subscribe() as heard, anyio.fail_after(5):
            given.files["notes/a.md"] = b"# B"
            assert await anext(heard) == ("updated", "desk://notes/a")
            del given.files["logo.png"]
            assert await anext(heard) == ("updated", "desk://logo")
        group.cancel_scope.cancel()


@pytest.mark.parametrize("uri", ["desk://about", "desk://orders/1", "mesh://runs", "mesh://workflows/greet"])
async def test_what_nobody_tells_of_cannot_be_subscribed_to(uri: str) -> None:
    """It is refused, not taken and never heard of."""
    async with serving(mesh_of(RESOURCES, workflow("greet", {"id": "a", "set": 1})), files=files()) as engine:
        with pytest.raises(InvalidInput, match="cannot be subscribed to"):
            await engine.resources.subscribe(LOCAL, uri)


class Library(MemorySource):
    """A source with resources of its own."""

    subscribed: tuple[str, ...] = ()

    def resources(self) -> Sequence[Resource]:
        return [Resource("lib://index", "index", "All books."), Resource("desk://about", "theirs", "Not ours.")]

    def templates(self) -> Sequence[ResourceTemplate]:
        return [ResourceTemplate("lib://books{/path*}", "book", "A book.")]

    async def read(self, uri: str, *, principal: Principal, caller: Caller = NOBODY) -> Sequence[Mapping[str, Any]]:
        return [{"uri": uri, "text": f"{uri} for {principal.subject}"}]

    async def subscribe(self, uri: str) -> None:
        self.subscribed += (uri,)

    async def complete(
        self, ref: Mapping[str, Any], argument: Mapping[str, str], context: Mapping[str, str], *, principal: Principal
    ) -> Completion:
        return Completion((f"{ref['uri']} {argument['value']}",))


async def test_sources_resources_are_joined_and_the_meshs_own_come_first() -> None:
    """By URI, and by a template of theirs; the caller goes along."""
    library = Library("lib")
    async with serving(mesh_of(), files=files(), sources=[library]) as engine:
        assert "lib://index" in [one.uri for one in engine.resources.list(LOCAL)]
        assert (await read(engine, "desk://about"))["text"] == "A desk."
        assert (await read(engine, "lib://books/a/b", ANN))["text"] == "lib://books/a/b for token:ann"
        await engine.resources.subscribe(LOCAL, "lib://index")
        ref = {"type": "ref/resource", "uri": "lib://books{/path*}"}
        found = await engine.resources.complete(LOCAL, ref, {"name": "path", "value": "x"})
    assert library.subscribed == ("lib://index",)
    assert found.values == ("lib://books{/path*} x",)


async def test_names_of_runs_and_workflows_are_completed() -> None:
    """The caller's own runs, the newest first; workflows in order. An unknown template or name is told."""
    flows = [workflow(name, {"id": "a", "set": 1}) for name in ("answer", "ask", "triage")]
    async with serving(mesh_of({}, *flows)) as engine:

        async def complete(uri: str, name: str, value: str, who: Principal = LOCAL) -> Completion:
            return await engine.resources.complete(
                who, {"type": "ref/resource", "uri": uri}, {"name": name, "value": value}
            )

        assert (await complete("mesh://workflows/{name}", "name", "A")).values == ("answer", "ask")
        runs = [await engine.runs.start(ANN, "ask", {"text": "x"}) for _ in range(2)]
        assert set((await complete("mesh://runs/{id}", "id", "", ANN)).values) == {run.id for run in runs}
        assert (await complete("mesh://runs/{id}/log", "id", runs[0].id, ANN)).values == (runs[0].id,)
        assert (await complete("mesh://runs/{id}", "id", "", BEN)).values == ()
        with pytest.raises(InvalidInput, match="has no 'ident'"):
            await complete("mesh://runs/{id}", "ident", "")
        with pytest.raises(NotFound):
            await complete("mesh://others/{id}", "id", "")


@pytest.mark.parametrize(
    "uri",
    ["desk://notes/private", "desk://notes/%70rivate", "mesh://workflows/%70ayroll", "mesh://workflows/p%61yroll"],
)
async def test_a_rule_speaks_of_what_a_uri_means(uri: str) -> None:
    """However it is percent-encoded (RFC 3986 section 6.2.2.2): neither read nor subscribed to."""
    rules = [
        {"allow": "*"},
        {"deny": "resources.read", "on": ["resource:desk://notes/private*", "resource:mesh://workflows/payroll"]},
    ]
    policy = PolicyFile.model_validate({"rules": rules})
    of = mesh_of(RESOURCES, workflow("payroll", {"id": "a", "set": 1}), policies=[policy])
    async with serving(of, files=MemoryFiles({"notes/private.md": b"secret", "notes/open.md": b"open"})) as engine:
        assert (await read(engine, "desk://notes/%6fpen"))["text"] == "open"
        with pytest.raises(PolicyDenied):
            await engine.resources.read(LOCAL, uri)
        with pytest.raises(PolicyDenied):
            await engine.resources.subscribe(LOCAL, uri)
