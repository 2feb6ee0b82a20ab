"""What never ends, explodes or is far too large is refused in under a second, while other calls keep being answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentmesh.adapters.files import load_mesh
from agentmesh.errors import ProjectError
from agentmesh.settings import Secrets
from tests.faults.mesh import write_mesh
from tests.faults.served import Served
from tests.faults.upstream import Upstream

REFUSED = 1.0
"""Most seconds until what is bad is refused."""
ANSWERED = 1.0
"""Most seconds that any other call takes meanwhile."""
MB = 1024 * 1024
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
HEADERS = {
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/list",
}

NUMBERS = """
input:
  type: object
  properties: {items: {type: array, items: {type: integer}}}
  required: [items]
"""
CUBIC = "input.items.map(a, input.items.map(b, input.items.map(c, a + b + c)))"
ENDLESS = "input.items.all(a, input.items.all(b, input.items.all(c, input.items.all(d, a <= d + 1000000))))"
DOUBLING = """name: doubling
steps:
  - id: s0
    set: {t: aaaaaaaaaaaaaaa}
"""
DOUBLED = """  - id: s%d
    set: {t: "${{ steps.s%d.output.t + steps.s%d.output.t }}"}
"""
FLOWS = {
    "cubic": f"name: cubic{NUMBERS}steps:\n  - id: x\n    set: '${{{{ {CUBIC} }}}}'\n",
    "endless": f"name: endless{NUMBERS}steps:\n  - id: x\n    set: '${{{{ {ENDLESS} }}}}'\n",
    "doubling": DOUBLING + "".join(DOUBLED % (n, n - 1, n - 1) for n in range(1, 40)),
    "regex": """name: regex
input:
  type: object
  properties: {text: {type: string, pattern: "^(a+)+$"}}
  required: [text]
steps: [{id: x, set: {ok: "${{ input.text.matches('^(a|aa)+$') }}"}}]
""",
    "huge": """name: huge
steps:
  - {id: x, python: "tests.faults.functions:huge", effect: read, output: {type: object, properties: {x: {type: string}}}}
""",
    "verbose": """name: verbose
steps:
  - id: x
    llm: {prompt: "flood", output: {type: object, properties: {said: {type: string, maxLength: 100}}, required: [said]}}
    validate: [{ensure: "size(output.said) < 100"}]
    on_invalid: [fail]
""",
}


def as_written(text: str) -> str:
    """For `write_mesh`, which fills in what stands in braces."""
    return text.replace("{", "{{").replace("}", "}}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all of this file: it must survive all of it."""
    with Upstream().serving() as upstream:
        folder = write_mesh(
            tmp_path_factory.mktemp("bad") / "mesh",
            upstream.url,
            **{name: as_written(text) for name, text in FLOWS.items()},
        )
        with Served(folder).start() as served:
            served.http.timeout = 60
            assert served.http.post("/mcp", json=LIST, headers=HEADERS).status_code == 200
            yield served


@contextmanager
def others_are_answered(server: Served) -> Iterator[list[float]]:
    """Asks `/healthz` and `tools/list` all the time; the longest answer must not be long."""
    took: list[float] = []
    faults: list[str] = []
    over, begun = threading.Event(), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.http.base_url, timeout=30, trust_env=False) as client:
            last = False
            while not last:
                last = over.is_set()  # one more round after it is over
                for call in (lambda: client.get("/healthz"), lambda: client.post("/mcp", json=LIST, headers=HEADERS)):
                    sent = time.monotonic()
                    try:
                        status = call().status_code
                    except httpx.HTTPError as error:
                        faults.append(repr(error))
                        return
                    finally:
                        begun.set()
                    took.append(time.monotonic() - sent)
                    if status != 200:
                        faults.append(f"status {status}")
                over.wait(0.005)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert begun.wait(30)
        yield took
    finally:
        over.set()
        thread.join(60)
    assert not faults
    assert len(took) >= 2
    assert max(took) < ANSWERED, f"the slowest other call took {max(took):.2f} s"


def _refused_run(server: Served, workflow: str, input: Any) -> dict[str, Any]:
    """The run, which failed in time, or the refusal to start it."""
    with others_are_answered(server):
        begun = time.monotonic()
        answer = server.http.post("/v1/runs", json={"workflow": workflow, "input": input})
        if answer.status_code != 201:
            assert answer.status_code in (400, 413, 422), answer.text
            found: dict[str, Any] = answer.json()
        else:
            found = server.ended(answer.json()["id"], within=30)
            assert found["state"] == "failed", found["state"]
        took = time.monotonic() - begun
    assert took < REFUSED, f"refused after {took:.2f} s: {found.get('error') or found.get('detail')}"
    return found


@pytest.mark.parametrize("workflow", ["cubic", "endless"])
@pytest.mark.parametrize("items", [400, 5000])
def test_expressions_that_would_not_end(server: Served, workflow: str, items: int) -> None:
    """Loops in loops over a list are cut off by their cost, not by anybody's patience."""
    run = _refused_run(server, workflow, {"items": list(range(items))})
    assert run["error"]["code"] == "expression", run["error"]


def test_a_text_that_doubles(server: Served) -> None:
    """What is computed may not grow past 256 kB, however it grows."""
    assert _refused_run(server, "doubling", {})["error"]["code"] == "expression"


def test_exploding_regex(server: Served) -> None:
    """Patterns are RE2's: half a megabyte that almost fits is refused in linear time, in the schema and in an expression."""
    _refused_run(server, "regex", {"text": "a" * 500_000 + "!"})


def test_a_body_of_100_megabytes(server: Served) -> None:
    """It is refused before it is read, by its length; without a length as soon as it is too long."""

    def pieces() -> Iterator[bytes]:
        yield b'{"workflow": "quick", "input": {"x": "'
        for _ in range(100):
            yield b"x" * MB

    for path in ("/v1/runs", "/mcp", "/a2a"):
        for content in (b"x" * (100 * MB), pieces()):
            with others_are_answered(server):
                begun = time.monotonic()
                try:
                    status = server.http.post(
                        path, content=content, headers={"content-type": "application/json"}
                    ).status_code
                except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                    status = 413  # it hung up while we were still sending
                assert time.monotonic() - begun < REFUSED
            assert status == 413


def test_nested_too_deep(server: Served) -> None:
    """A hundred thousand brackets are refused."""
    with others_are_answered(server):
        begun = time.monotonic()
        text = b'{"workflow": "quick", "input": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
        answer = server.http.post("/v1/runs", content=text, headers={"content-type": "application/json"})
        assert time.monotonic() - begun < REFUSED
    assert 400 <= answer.status_code < 500


def test_a_number_of_a_million_digits(server: Served) -> None:
    """Python takes quadratic time for them; here they are refused."""
    with others_are_answered(server):
        begun = time.monotonic()
        text = b'{"workflow": "quick", "input": {"n": ' + b"9" * 1_000_000 + b"}}"
        answer = server.http.post("/v1/runs", content=text, headers={"content-type": "application/json"})
        assert time.monotonic() - begun < REFUSED
    assert 400 <= answer.status_code < 500


def test_a_function_gives_100_megabytes(server: Served) -> None:
    """A value of 100 MB is refused where it arises, and stops nobody else."""
    run = _refused_run(server, "huge", {})
    assert "MB" in run["error"]["message"], run["error"]


def test_a_model_says_100_megabytes(server: Served) -> None:
    """An answer of a model that does not end is given up."""
    assert _refused_run(server, "verbose", {})["state"] == "failed"


# Files: refused when they are read, before anything runs


def _faults(folder: Path) -> str:
    begun = time.monotonic()
    with pytest.raises(ProjectError) as refused:
        load_mesh(folder, Secrets())
    took = time.monotonic() - begun
    assert took < REFUSED, f"refused after {took:.2f} s"
    return str(refused.value)


def test_yaml_bomb(tmp_path: Path) -> None:
    """Aliases of aliases are counted as what they expand to."""
    lines = ['a: &a ["lol","lol","lol","lol","lol","lol","lol","lol","lol"]']
    for before, name in zip("abcdefghi", "bcdefghij", strict=True):
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]")
    folder = write_mesh(tmp_path, "http://127.0.0.1:9", bomb="")
    (folder / "workflows" / "bomb.yaml").write_text("\n".join(lines))
    assert "bomb.yaml" in _faults(folder)


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "a: " * 20_000, "? " * 20_000, "- " * 20_000, "&a [*a, *a]", "x: " + "9" * 200_000]
)
def test_yaml_that_explodes_otherwise(tmp_path: Path, text: str) -> None:
    """Depth, keys without an end, an alias of itself, a number of 200,000 digits."""
    folder = write_mesh(tmp_path, "http://127.0.0.1:9", bomb="")
    (folder / "workflows" / "bomb.yaml").write_text(text)
    assert "bomb.yaml" in _faults(folder)


def test_a_file_of_100_megabytes(tmp_path: Path) -> None:
    """It is refused by its size."""
    folder = write_mesh(tmp_path, "http://127.0.0.1:9", bomb="")
    (folder / "workflows" / "bomb.yaml").write_bytes(b"# " + b"x" * (100 * MB))
    assert "bomb.yaml" in _faults(folder)


def test_remote_references_are_never_fetched(tmp_path: Path, upstream: Upstream) -> None:
    """A `$ref` that leaves its schema is a fault of the file, and nobody asks the other side."""
    text = 'name: far\ninput: {{$ref: "{upstream}/effect/schema"}}\nsteps: [{{id: x, set: 1}}]\n'
    folder = write_mesh(tmp_path, upstream.url, far=text)
    assert "$ref" in _faults(folder)
    assert upstream.total("schema") == 0


@pytest.mark.parametrize("pattern", ["(a)\\\\1", "(?=a)b", "(?<!a)b"])
def test_patterns_that_only_backtracking_could_match(tmp_path: Path, pattern: str) -> None:
    """They are a fault of the file."""
    text = f'name: far\ninput: {{type: object, properties: {{t: {{type: string, pattern: "{pattern}"}}}}}}\nsteps: [{{id: x, set: 1}}]\n'
    assert "RE2" in _faults(write_mesh(tmp_path, "http://127.0.0.1:9", far=as_written(text)))
