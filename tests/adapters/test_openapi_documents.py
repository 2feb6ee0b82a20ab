"""OpenAPI documents as they are found: of other programs, of old dialects, wrong, and as large as they come."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from agentmesh.adapters.http_outside import OutsideHttp
from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.openapi import OpenApiSource, _parsed
from agentmesh.adapters.openapi_operation import ApiOperation, Operations, read_operations
from agentmesh.adapters.openapi_request import request_of
from agentmesh.adapters.openapi_schema import MAX_BYTES, Schemas
from agentmesh.core.policy import Principal
from agentmesh.core.schema import schema_faults, validator
from agentmesh.core.server_file import ServerFile
from agentmesh.core.source import SourceCall
from agentmesh.errors import Fail, ProjectError
from agentmesh.http.api import build_api
from agentmesh.http.auth import Guard
from agentmesh.http.problems import HANDLERS
from agentmesh.settings import Settings
from tests.a2a.conftest import Late, skills_mesh
from tests.engine.meshes import serving
from tests.http.serving import served


def read(document: Any, **about: Any) -> Operations:
    spec = {"document": "https://x.example/openapi.json", **about}
    return read_operations(
        document, ServerFile.model_validate({"name": "x", "openapi": spec}), address=spec["document"]
    )


def described(paths: Any, version: str = "3.1.0", **more: Any) -> dict[str, Any]:
    return {"openapi": version, "info": {"title": "x", "version": "1"}, "paths": paths, **more}


def one(parameter: dict[str, Any], path: str = "/a") -> ApiOperation:
    """The operation of a document with one parameter."""
    [operation] = read(described({path: {"get": {"parameters": [parameter]}}})).tools.values()
    return operation


@pytest.mark.anyio
async def test_fastapis_document_of_our_own_api_works() -> None:
    """Every operation is a tool whose schemas are sound, and calls of it answer."""
    async with serving(skills_mesh()) as engine, MemoryStore() as store, OutsideHttp(trust_env=False) as http:
        edge = Late()
        async with served(Guard(edge)) as url:
            api = build_api(engine, Settings(folder=Path("mesh")), base_url=url)
            edge.app = Starlette(routes=[Mount("/v1", api)], exception_handlers=HANDLERS)
            spec = {"document": f"{url}/v1/openapi.json", "url": f"{url}/v1"}
            server = ServerFile.model_validate({"name": "mesh", "openapi": spec})
            async with OpenApiSource(server, folder=Path("mesh"), store=store, http=http) as source:
                with anyio.fail_after(10):
                    await source.looked.wait()
                assert source.left_out() == {}
                assert len(source.tools()) > 20
                for tool in source.tools().values():
                    assert schema_faults(tool.input_schema) == []
                    assert tool.output_schema is None or schema_faults(tool.output_schema) == []
                listed = source.tools()["mesh.list_workflows_workflows_get"]
                result = await source.call(SourceCall(listed, {}, Principal()))
                assert not result.is_error, result.text
                assert {"shout", "gate"} <= {w["name"] for w in result.structured["workflows"]}
                shown = source.tools()["mesh.show_workflow_workflows__name__get"]
                missing = await source.call(SourceCall(shown, {"name": "nobody/../x"}, Principal()))
                assert missing.is_error


@pytest.mark.parametrize(
    ("given", "turned"),
    [
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"enum": ["a"], "type": "string", "nullable": True}, {"type": ["string", "null"], "enum": ["a", None]}),
        (
            {"allOf": [{"type": "string"}], "nullable": True},
            {"anyOf": [{"allOf": [{"type": "string"}]}, {"type": "null"}]},
        ),
        ({"minimum": 1, "exclusiveMinimum": True}, {"exclusiveMinimum": 1}),
        ({"minimum": 1, "exclusiveMinimum": False}, {"minimum": 1}),
        ({"example": 7, "type": "integer"}, {"type": "integer", "examples": [7]}),
        ({"type": "file", "x-internal": 1, "discriminator": {}, "xml": {}}, {}),
        ({"type": "string", "required": True}, {"type": "string"}),
        ({"pattern": "(?=x)y"}, {}),
        ({"$ref": "https://elsewhere.example/s.json"}, {}),
        ({"$ref": "#/components/schemas/None"}, {}),
        ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ("no schema", {}),
    ],
)
def test_the_dialect_of_3_0_is_turned(given: Any, turned: Any) -> None:
    """Into 2020-12; what cannot be said is left open."""
    assert Schemas({}, "3.0").whole(given, "input") == turned


def test_a_schema_that_contains_itself_stays_finite() -> None:
    """Its definition stands once, and values are checked by it at any depth."""
    tree = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}}}
    schema = Schemas({"components": {"schemas": {"Tree": tree}}}, "3.1").whole(
        {"$ref": "#/components/schemas/Tree"}, "input"
    )
    assert schema["type"] == "object"
    assert schema_faults(schema) == []
    assert validator(schema).is_valid({"kids": [{"kids": [{"kids": []}]}]})
    assert not validator(schema).is_valid({"kids": [{"kids": [{"kids": 7}]}]})
    loop = {
        "components": {"schemas": {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}}}
    }
    assert schema_faults(Schemas(loop, "3.1").whole({"$ref": "#/components/schemas/A"}, "input")) == []


def test_references_of_every_kind_are_followed_within_the_document() -> None:
    """Of parameters, bodies and answers, with escaped names; those that go round or lead out leave the operation out."""
    document = described(
        {
            "/a": {"post": {
                "operationId": "good", "parameters": [{"$ref": "#/components/parameters/a~1b%20c"}],
                "requestBody": {"$ref": "#/components/requestBodies/B"},
                "responses": {"200": {"$ref": "#/components/responses/R"}},
            }},
            "/b": {"get": {"operationId": "round", "parameters": [{"$ref": "#/components/parameters/loop"}]}},
            "/c": {"post": {"operationId": "out", "requestBody": {"$ref": "b.json"}}},
        },
        components={
            "parameters": {"a/b c": {"name": "q", "in": "query"}, "loop": {"$ref": "#/components/parameters/loop"}},
            "requestBodies": {"B": {"content": {"application/json": {"schema": {"type": "array"}}}}},
            "responses": {"R": {"content": {"application/json": {"schema": {"type": "object", "required": ["n"]}}}}},
        },
    )  # fmt: skip
    found = read(document)
    assert set(found.tools) == {"good"}
    assert set(found.refused) == {"round", "out"}
    good = found.tools["good"]
    assert set(good.input_schema["properties"]) == {"q", "body"}
    assert good.output_schema == {"type": "object", "required": ["n"]}


@pytest.mark.parametrize(
    ("parameter", "path", "value", "sent"),
    [
        ({"name": "a", "in": "path"}, "/x/{a}", [1, "b/c"], "/x/1,b%2Fc"),
        ({"name": "a", "in": "path", "explode": True}, "/x/{a}", {"k": 1, "l": 2}, "/x/k=1,l=2"),
        ({"name": "a", "in": "path", "style": "label"}, "/x{a}", [3, 4], "/x.3,4"),
        ({"name": "a", "in": "path", "style": "label", "explode": True}, "/x{a}", [3, 4], "/x.3.4"),
        ({"name": "a", "in": "path", "style": "matrix"}, "/x{a}", [3, 4], "/x;a=3,4"),
        ({"name": "a", "in": "path", "style": "matrix", "explode": True}, "/x{a}", {"k": 1}, "/x;k=1"),
        ({"name": "a", "in": "path"}, "/x/{a}.json", "v1", "/x/v1.json"),
        ({"name": "a", "in": "query", "style": "spaceDelimited", "explode": False}, "/x", ["p", "q"], "/x?a=p%20q"),
        ({"name": "a", "in": "query", "explode": False}, "/x", {"k": 1, "l": "m"}, "/x?a=k,1,l,m"),
        ({"name": "a", "in": "query"}, "/x", {"k": 1, "l": "m"}, "/x?k=1&l=m"),
        ({"name": "a", "in": "query", "allowReserved": True}, "/x", "a/b:c&d", "/x?a=a/b:c%26d"),
        ({"name": "a", "in": "query"}, "/x", False, "/x?a=false"),
        ({"name": "a", "in": "query"}, "/x", None, "/x"),
    ],
)
def test_styles_are_the_specifications(parameter: Any, path: str, value: Any, sent: str) -> None:
    """OpenAPI 3.1 section 4.8.12: style values."""
    request = request_of(one(parameter, path), {"a": value}, headers={}, key="", timeout=1)
    parts = urlsplit(request.url)
    assert parts.path + (f"?{parts.query}" if parts.query else "") == sent


def test_names_are_legal_and_kept_apart() -> None:
    """Whatever the operationIds are, and where there are none."""
    ids = ["a b", "a_b", "x" * 200, "x" * 199 + "y", "ünï", "..", ""]
    paths = {f"/{i}": {"get": {"operationId": ident}} for i, ident in enumerate(ids)} | {"/p/{q}": {"delete": {"parameters": [
        {"name": "q", "in": "path"}]}}}  # fmt: skip
    found = read(described(paths))
    assert len(found.tools) == len(ids) + 1
    assert "delete_p_q" in found.tools
    assert all(len(f"x.{name}") <= 64 and name.isascii() for name in found.tools)


def test_a_large_document_is_read_in_time() -> None:
    """1,000 operations over 150 schemas that all refer to one another: bounded work, bounded schemas."""

    def schema(i: int) -> dict[str, Any]:
        near = {f"p{j}": {"$ref": f"#/components/schemas/S{(i * 7 + j) % 150}"} for j in range(8)}
        return {
            "type": "object",
            "properties": near | {f"q{j}": {"type": "string", "description": "words " * 10} for j in range(10)},
        }

    def operation(i: int) -> dict[str, Any]:
        media = {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/S{i % 150}"}}}}
        return {"operationId": f"op{i}", "requestBody": media, "responses": {"200": media}}

    document = described(
        {f"/a{i}": {"post": operation(i)} for i in range(1000)},
        components={"schemas": {f"S{i}": schema(i) for i in range(150)}},
    )
    tools = read(document).tools
    assert len(tools) == 1000
    assert max(len(json.dumps(tool.input_schema)) for tool in tools.values()) < MAX_BYTES["input"] * 1.5
    assert schema_faults(tools["op7"].input_schema) == []
    assert schema_faults(tools["op7"].output_schema) == []


WORDS = st.sampled_from([
    "type", "properties", "items", "allOf", "anyOf", "oneOf", "not", "$ref", "enum", "required", "nullable", "pattern", "minimum",
    "exclusiveMinimum", "multipleOf", "additionalProperties", "format", "const", "examples", "example", "readOnly", "maxLength",
    "patternProperties", "$defs", "deprecated", "uniqueItems", "dependentSchemas", "if", "title", "contentEncoding", "x-y",
])  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5)
    | st.sampled_from(["string", "object", "array", "#/components/schemas/A", "#/components/schemas/B", "#", "(?=a)", "[", "null"])
)  # fmt: skip
SOUP = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=25
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(SOUP, SOUP, st.sampled_from(["3.0", "3.1"]))
def test_whatever_is_called_a_schema_becomes_one(schema: Any, other: Any, dialect: str) -> None:
    """Never an error, and never one that a validator stumbles over."""
    document = {"components": {"schemas": {"A": schema, "B": other}}}
    for side in ("input", "output"):
        found = Schemas(document, dialect).whole(schema, side)  # type: ignore[arg-type]
        assert schema_faults(found) == []
        list(validator(found).iter_errors({"a": [1, "x"]}))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
    "parameters", "requestBody", "content", "application/json", "schema", "responses", "200", "operationId", "name", "in",
    "query", "path", "required", "servers", "url", "variables", "summary", "style", "explode", "$ref", "description",
]), inner, max_size=5), max_leaves=30))  # fmt: skip
def test_whatever_is_called_an_operation_is_read_or_left_out(operation: Any) -> None:
    """One bad operation never costs the others theirs."""
    document = described({"/a/{b}": {"get": operation, "post": operation}, "/good": {"get": {"operationId": "good!"}}})
    found = read(document, url="https://x.example")
    assert "good" in {tool.path.strip("/") for tool in found.tools.values()}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 200_000, "nested"),
        ("a: " + "[" * 200_000, "nested deeper"),
        ("a: " + "{b: " * 5_000, "nested deeper"),
        (BOMB, "more than 400,000 values"),
        ("# " + "x" * 9_000_000, "more than 8,388,608"),
        ("a: 1\na: 2", "stands here twice"),
        ("a: !!python/object:os.system x", "tag"),
        ("a: \x01", "control character"),
    ],
    ids=["json", "yaml", "flow", "aliases", "size", "twice", "tag", "control"],
)
def test_a_hostile_document_is_refused_at_once(text: str, why: str) -> None:
    """Within a second or two, in one sentence, with nothing executed."""
    begun = time.monotonic()
    with pytest.raises((Fail, ProjectError), match=why):
        _parsed(text.encode(), "api.yaml")
    assert time.monotonic() - begun < 10


def test_a_large_document_in_yaml_is_read() -> None:
    """Past what a project file may have; as the core schema of YAML 1.2 has it."""
    lines = "".join(f"  /a{i}:\n    get: {{summary: on, tags: [no, 12:30], x-n: 0o17}}\n" for i in range(10_000))
    found = _parsed(f"openapi: 3.1.0\npaths:\n{lines}".encode(), "api.yaml")
    assert found["paths"]["/a9999"]["get"] == {"summary": "on", "tags": ["no", "12:30"], "x-n": 15}
