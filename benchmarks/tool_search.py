"""How well `search_tools` finds, and what it saves: 511 tools of 19 real MCP servers, 363 questions in the words of somebody who wants
the thing done (tool_queries.yaml), and 80 more about two servers that the ranking was never tuned on (tool_queries_fresh.yaml).

Goal: the right tool among the first 5 for 95 % of the questions. Beside it the same on SQLite's FTS5 with the same splitting of names,
Porter stems and weights for its columns. Tokens are counted as characters of compact JSON divided by four, which is near what common
tokenizers make of JSON with English in it; the ratio hardly depends on it. Ends in one line and benchmarks/results/tool_search.json.

The servers are installed once, from npm and PyPI, into the cache folder (see drivers/tool_servers.py).

    python benchmarks/tool_search.py [--misses]
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this script's folder, where an mcp.py may stand
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from agentmesh.core.mesh import MeshFile, assemble
from agentmesh.core.tool import Tool
from agentmesh.engine.search import Index
from agentmesh.engine.words import STOP, SUBSTITUTES, stem, words
from agentmesh.mcp.convert import to_mcp_tool
from agentmesh.mcp.search import CALL, SEARCH, SHOWN, Searched
from benchmarks.drivers.tool_servers import FRESH, SERVERS, definitions
from benchmarks.environments import CannotInstall

HERE = Path(__file__).resolve().parent
FIRST = 5
GOAL = 0.95
VERSION = "2026-07-28"
WEIGHTS = (6.0, 1.5, 0.4, 0.1)
"""Of FTS5's columns: names, descriptions, parameters, and what is said of those."""
Rank = Callable[[str], Sequence[str]]


def tools_of(listed: Mapping[str, list[dict[str, Any]]]) -> dict[str, Tool]:
    """As a gateway offers them."""
    return {
        f"{server}.{tool['name']}": Tool(
            f"{server}.{tool['name']}", tool.get("description") or "", tool["inputSchema"], tool.get("outputSchema"),
            tool.get("title"), tool.get("annotations") or {}, source=f"upstream:{server}", server=server,
        )
        for server, tools in listed.items()
        for tool in tools
    }  # fmt: skip


def questions(name: str) -> list[tuple[str, list[str]]]:
    """Each with the names of the tools that do it."""
    return [(asked, right.split()) for asked, right in yaml.safe_load((HERE / name).read_text()).items()]


def fts5(tools: Mapping[str, Tool], *, substitutes: bool = False) -> Rank:
    """The same over SQLite's full-text index; with `substitutes` each word or one of like meaning, which all count the same there."""
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "create virtual table tools using fts5(id unindexed, name, text, parameters, said, tokenize='porter unicode61')"
    )
    for name, tool in tools.items():
        properties = tool.input_schema.get("properties") or {}
        row = (
            " ".join(words(name)), " ".join(words(f"{tool.title or ''} {tool.description}")),
            " ".join(word for key in properties for word in words(key)),
            " ".join(str(value.get("description", "")) for value in properties.values() if isinstance(value, dict)),
        )  # fmt: skip
        connection.execute("insert into tools values (?, ?, ?, ?, ?)", (name, *row))

    def rank(question: str) -> list[str]:
        asked = [word for word in words(question) if word not in STOP]
        if substitutes:  # stems are beginnings of words, but for some in -i
            asked += [other.removesuffix("i") for word in list(asked) for other in SUBSTITUTES.get(stem(word), ())]
        match = " OR ".join(f'"{word}"' + ("*" if substitutes else "") for word in dict.fromkeys(asked))
        weights = ", ".join(map(str, (0.0, *WEIGHTS)))
        sql = f"select id from tools where tools match ? order by bm25(tools, {weights})"
        return [name for (name,) in connection.execute(sql, (match,))] if match else []

    return rank


def places(rank: Rank, asked: Sequence[tuple[str, list[str]]]) -> list[int]:
    """At which place the right tool stands, for each question; 0 when it is not found."""
    found = []
    for question, right in asked:
        names = list(rank(question))
        found.append(min((names.index(name) + 1 for name in right if name in names), default=0))
    return found


def part(found: Sequence[int], first: int = FIRST) -> float:
    """Of the questions, those whose right tool is among the first."""
    return round(sum(0 < place <= first for place in found) / len(found), 4)


def tokens(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False)) // 4


class Engine:
    """As much of an engine as `Searched` asks."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self.mesh = assemble(HERE, MeshFile.model_validate({"name": "many", "mcp": {"offer": "search"}}))
        self.sources = type("Sources", (), {"tools": tools})()


async def saved(tools: Mapping[str, Tool], asked: Sequence[tuple[str, list[str]]]) -> dict[str, Any]:
    """Tokens that a model is shown: all tools, against the two and one answer."""
    searched = Searched(Engine(tools))  # type: ignore[arg-type]
    everything = tokens([to_mcp_tool(tool, VERSION) for tool in tools.values()])
    two = [tool for tool in searched.offered(list(tools.values())) if tool.name in {SEARCH, CALL}]
    shown = tokens([to_mcp_tool(tool, VERSION) for tool in two])
    answers = [tokens((await searched.search(tools.values(), {"query": question})).structured) for question, _ in asked]
    answer = int(statistics.median(answers))
    return {
        "tools_list": everything, "search_tools_and_call_tool": shown, "answer_median": answer,
        "answer_p90": int(statistics.quantiles(answers, n=10)[8]), "matches_shown": SHOWN,
        "saved_with_one_search": round(1 - (shown + answer) / everything, 4),
        "counted": "characters of compact JSON / 4",
    }  # fmt: skip


def timed(tools: Mapping[str, Tool], asked: Sequence[tuple[str, list[str]]]) -> dict[str, float]:
    began = time.perf_counter()
    index = Index().of(tools)
    built = time.perf_counter()
    index = index.of(tools)
    again = time.perf_counter()
    each = []
    for question, _ in asked:
        at = time.perf_counter()
        index.search(question, tools)
        each.append(time.perf_counter() - at)
    return {
        "index_ms": round((built - began) * 1e3, 1), "index_again_ms": round((again - built) * 1e3, 1),
        "search_p50_ms": round(statistics.median(each) * 1e3, 2),
        "search_p99_ms": round(statistics.quantiles(each, n=100)[98] * 1e3, 2),
    }  # fmt: skip


def main() -> None:
    import anyio

    parser = argparse.ArgumentParser(description="How well search_tools finds.")
    parser.add_argument("--misses", action="store_true", help="name the questions of the tuning half that miss")
    given = parser.parse_args()
    try:
        listed, fresh = definitions(SERVERS), definitions(FRESH)
    except CannotInstall as error:
        sys.exit(f"tool_search: {error}")
    tools = tools_of(listed)
    asked, new = questions("tool_queries.yaml"), questions("tool_queries_fresh.yaml")
    more = {**tools, **tools_of(fresh)}
    unknown = {name for _, right in [*asked, *new] for name in right} - more.keys()
    assert not unknown, f"the questions name tools that are not there: {sorted(unknown)}"
    index, wider = Index().of(tools), Index().of(more)
    ours = places(lambda question: [tool.name for tool in index.search(question, tools)], asked)
    theirs, widened = places(fts5(tools), asked), places(fts5(tools, substitutes=True), asked)
    new_ours = places(lambda question: [tool.name for tool in wider.search(question, more)], new)
    result = {
        "tools": len(tools), "servers": {name: len(each) for name, each in listed.items()}, "questions": len(asked),
        "with_several_right_answers": sum(len(right) > 1 for _, right in asked),
        "among_first_5": {"all": part(ours), "tuned_half": part(ours[0::2]), "other_half": part(ours[1::2])},
        "first": {"all": part(ours, 1), "tuned_half": part(ours[0::2], 1), "other_half": part(ours[1::2], 1)},
        "among_first_20_with_names": part(ours, 20),
        "fts5": {
            "among_first_5": part(theirs), "other_half": part(theirs[1::2]), "first": part(theirs, 1),
            "with_substitutes": part(widened),
        },
        "fresh_servers": {
            "tools": len(more), "questions": len(new), "among_first_5": part(new_ours), "first": part(new_ours, 1),
            "among_first_20": part(new_ours, 20), "fts5_among_first_5": part(places(fts5(more), new)),
        },
        "tokens": anyio.run(saved, tools, asked), "time": timed(tools, asked), "goal": GOAL,
    }  # fmt: skip
    (HERE / "results" / "tool_search.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if given.misses:
        for (question, right), place in list(zip(asked, ours, strict=True))[0::2]:
            if not 0 < place <= FIRST:
                print(f"{place or '-':>4}  {question}  ->  {' '.join(right)}")
    met = "met" if part(ours) >= GOAL else "missed"
    print(
        f"tool search: right tool among the first {FIRST} for {part(ours):.1%} of {len(asked)} questions over {len(tools)} tools"
        f" (the half that nothing was tuned on {part(ours[1::2]):.1%}, two fresh servers {part(new_ours):.1%};"
        f" FTS5 {part(theirs):.1%}; goal {GOAL:.0%} {met}),"
        f" {result['tokens']['saved_with_one_search']:.1%} of the tokens saved"  # type: ignore[index]
    )


if __name__ == "__main__":
    main()
