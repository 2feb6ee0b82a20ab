"""Search over tools: what is found by which words, in which order, and by whom."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import anyio
import pytest

from agentmesh.core.tool import Tool
from agentmesh.engine import search
from agentmesh.engine.search import Index, ToolSearch, parts_of
from agentmesh.engine.words import stem, terms

pytestmark = pytest.mark.anyio


def tool(name: str, description: str = "", **properties: str) -> Tool:
    """A tool whose parameters have these descriptions."""
    schema = {"type": "object", "properties": {n: {"type": "string", "description": d} for n, d in properties.items()}}
    return Tool(name, description, schema, server=name.partition(".")[0])


TOOLS = [
    tool("hub.create_issue", "Create a new issue in a repository.", title="The issue's title"),
    tool("hub.list_issues", "List issues of a repository."),
    tool("hub.merge_pull_request", "Merge a pull request."),
    tool("hub.delete_branch", "Delete a branch."),
    tool("tracker.create_issue", "Create an issue.", sprint="Where to plan it"),
    tool("tracker.getSprintReport", "Report of a sprint."),
    tool("chat.post_message", "Send a text to a channel."),
    tool("files.search_files", "Find files by a pattern.", path="Folder to begin at"),
    tool("weather.forecast", "How the weather will be.", city="Name of a city"),
]


def named(tools: Iterable[Tool]) -> dict[str, Tool]:
    return {tool.name: tool for tool in tools}


def found(query: str, tools: Mapping[str, Tool] | None = None) -> list[str]:
    tools = named(TOOLS) if tools is None else tools
    return [tool.name for tool in Index().of(tools).search(query, tools)]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("merge the pull request", "hub.merge_pull_request"),
        ("sprint report", "tracker.getSprintReport"),
        ("forecast for my city", "weather.forecast"),
        ("land the PR", "hub.merge_pull_request"),
        ("open a ticket in tracker", "tracker.create_issue"),
        ("which issues are there", "hub.list_issues"),
        ("get rid of a branch", "hub.delete_branch"),
        ("take that old branch away", "hub.delete_branch"),
        ("tell the channel something", "chat.post_message"),
        ("look for documents in a directory", "files.search_files"),
        ("forcast", "weather.forecast"),
        ("WEATHER", "weather.forecast"),
    ],
)
def test_words_of_like_meaning_lead_to_the_tool(query: str, first: str) -> None:
    """Plain words, other words for the same verb, phrases, abbreviations and a slip of the key."""
    assert found(query)[0] == first


def test_names_are_found_as_they_are() -> None:
    """A server's tool by its whole name is the only answer, a name alone comes first; letters' case does not matter."""
    assert found("Tracker.create_issue") == ["tracker.create_issue"]
    assert found("tracker.nothing")[0].startswith("tracker.")
    assert found("Create_Issue")[:2] == ["hub.create_issue", "tracker.create_issue"]


def test_patterns_are_of_names() -> None:
    """A pattern fits the whole name or the name without the server's, and nothing else is found with it."""
    assert found("hub.*") == ["hub.create_issue", "hub.delete_branch", "hub.list_issues", "hub.merge_pull_request"]
    assert found("create_*") == ["hub.create_issue", "tracker.create_issue"]
    assert found("*sprint*") == ["tracker.getSprintReport"]
    assert found("*") == sorted(named(TOOLS))
    assert found("hub.[a-z*") == []


@pytest.mark.parametrize("query", ["the of and", "zzzzqq", "!!!", "  "])
def test_nothing_is_made_up(query: str) -> None:
    """Words that say nothing, or that no tool has, find nothing."""
    assert found(query) == []


def test_a_name_says_more_than_a_parameter() -> None:
    """The tool that is named so stands before the one that takes it."""
    assert found("sprint") == ["tracker.getSprintReport", "tracker.create_issue"]


def test_only_what_is_allowed_counts() -> None:
    """What a caller may not list changes neither what is found nor its order."""
    visible = named(TOOLS[:4])
    alone = Index().of(visible)
    whole = Index().of(named(TOOLS))
    for query in ("create an issue", "sprint", "issue", "*", "forecast", "tracker.create_issue", "brnch", "forcast"):
        assert whole.search(query, visible) == alone.search(query, visible)


def test_what_stays_is_not_read_again() -> None:
    """An index of changed tools reads those that changed; what is gone is not found any more."""
    first = Index().of(named(TOOLS))
    read: list[str] = []

    class Watched(Tool):
        """A tool that tells when it is read."""

        def __getattribute__(self, name: str) -> Any:
            if name == "description":
                read.append(super().__getattribute__("name"))
            return super().__getattribute__(name)

    changed = Watched("hub.list_issues", "List everything that burns.", {"type": "object"}, server="hub")
    tools = named([*TOOLS[2:], changed])
    second = first.of(tools)
    read.clear()
    assert [t.name for t in second.search("what burns", tools)][:1] == ["hub.list_issues"]
    second.of(tools)
    assert read == []
    assert second.search("hub.create_issue", tools)[0].name != "hub.create_issue"


async def test_the_index_follows_the_tools() -> None:
    """A mapping that was replaced is read before the next answer; hidden tools are never answered."""
    mine, theirs = named(TOOLS[:4]), named(TOOLS[4:])
    now: list[Mapping[str, Tool]] = [mine, theirs]
    finder = ToolSearch(lambda: tuple(now))
    assert [t.name for t in await finder.find("forecast", {**mine, **theirs})] == ["weather.forecast"]
    assert await finder.find("forecast", mine) == []
    now[1] = named([tool("moon.phase", "How the moon looks.")])
    assert [t.name for t in await finder.find("moon", now[1])] == ["moon.phase"]
    assert await finder.find("forecast", now[1]) == []


async def test_many_tools_are_read_and_searched_off_the_event_loop() -> None:
    """A thousand tools do not hold up others: reading and searching happen in another thread."""
    threads: list[int] = []

    class Told(dict[str, Tool]):
        def items(self) -> Any:
            threads.append(threading.get_ident())
            return super().items()

        def __contains__(self, key: object) -> bool:
            threads.append(threading.get_ident())
            return super().__contains__(key)

    many = Told({f"s{i}.tool_{i}": tool(f"s{i}.tool_{i}", f"Does thing number {i}.") for i in range(1000)})
    finder = ToolSearch(lambda: ())
    with anyio.fail_after(20):
        await finder.find("thing 7", many)
        assert set(threads) - {threading.get_ident()} == set(threads)
        searched = ToolSearch(lambda: (named(TOOLS), named([tool(f"a.t{i}") for i in range(1000)])))
        assert [t.name for t in await searched.find("forecast", named(TOOLS))] == ["weather.forecast"]


def test_a_tool_that_tells_a_novel_is_read_in_part() -> None:
    """Endless texts, parameters and nesting of somebody else's schema cost a bounded time and do not fail."""
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(3000):
        deep = {"type": "object", "properties": {"x": deep, "y": {"enum": [1, None, "word"]}}, "anyOf": "no list"}
    wide = {"properties": {f"p{i}": {"description": "word " * 1000} for i in range(5000)}}
    hostile = Tool("bad.tool", "word " * 1_000_000, {"type": "object", **wide, "items": deep, "oneOf": [deep, 7]})
    odd = Tool("odd.tool", "", {"properties": "none", "items": [1], "additionalProperties": True})
    tools = named([hostile, odd, *TOOLS])
    assert len(search.entry_of(hostile).terms) < 1000
    assert found("forecast", tools)[0] == "weather.forecast"


def test_endings_and_joints_fall_away() -> None:
    """The forms of a word meet, and names come apart where they are joined."""
    for group in ("list listing lists listed", "issue issues", "create creation creates created", "deploy deployments"):
        assert len({stem(word) for word in group.split()}) == 1, group
    assert list(terms("getHTMLPage_by-id2.v3")) == [stem(w) for w in ("get", "html", "page", "id", "2", "v", "3")]
    assert list(terms("日本 Größe")) == ["日本", *terms("Größe")]


def test_a_question_comes_apart() -> None:
    """Phrases are one part, also when something stands between the verb and its particle; question words count little."""
    assert parts_of("get rid of the branch") == [{"delet": 0.8, "remov": 0.8}, {"branch": 1.0}]
    assert parts_of("PR") == [{"pull": 1.0}, {"request": 1.0}]
    assert parts_of("who") == [{"user": 0.3, "member": 0.3}]
    assert len(parts_of("take the label off")) == 2


def test_an_endless_question_is_looked_up_in_part() -> None:
    """Whoever asks with a thousand words, or a pattern of a thousand stars, gets an answer of the first of them."""
    assert len(parts_of(" ".join(f"w{i}" for i in range(1000)))) == search.PARTS
    assert found("forecast " + " ".join(f"{i:x}zz" for i in range(100_000, 101_000)))[0] == "weather.forecast"
    assert found("*a" * 1000) == []
