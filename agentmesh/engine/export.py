"""Export: a run with everything that a replay needs, as one JSON document; and the way back.

The document holds the run's head and journal, its definition, and the same of every child run, down to the last. Large values stand
in it as they are. Its digest is over all of it: a file that was changed is refused.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentmesh.core.mesh import definition_hash
from agentmesh.core.run import JSON, Entry, Kind, Run, fold
from agentmesh.engine.definitions import Definition, load
from agentmesh.engine.replay import Replayed, replay
from agentmesh.engine.tape import digest_of
from agentmesh.errors import InvalidInput, TooLarge

FORMAT = "agentmesh.run/1"
MAX_BYTES = 512 * 1024 * 1024
"""Of a document, unpacked."""
_HEAD = (
    "id", "workflow", "definition", "input", "owner", "tenant", "source", "key", "parent", "parent_path", "forked_from",
    "context_id", "message", "created_at",
)  # fmt: skip
"""What a run begins with; the rest follows from its journal."""


@dataclass(frozen=True, slots=True)
class Exported:
    """One run of a document."""

    run: Run
    """Folded from `entries`."""
    entries: tuple[Entry, ...]
    definition: Mapping[str, Any]


def to_document(runs: Sequence[Exported]) -> dict[str, JSON]:
    """The document of a run and its children, the run first."""
    document: dict[str, JSON] = {
        "format": FORMAT,
        "run": runs[0].run.id,
        "runs": [
            {
                **{name: getattr(one.run, name) for name in _HEAD},
                "state": one.run.state.value,
                "journal": [
                    {
                        "seq": e.seq,
                        "kind": e.kind.value,
                        "path": e.path,
                        "attempt": e.attempt,
                        "at": e.at,
                        "payload": dict(e.payload),
                    }
                    for e in one.entries
                ],
            }
            for one in runs
        ],
        "definitions": {one.run.definition: one.definition for one in runs},
    }
    return {**document, "digest": digest_of(document)}


def pack(document: Mapping[str, JSON]) -> bytes:
    """The document as a gzip file; the same document always gives the same bytes."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return gzip.compress(text.encode("utf-8", "surrogatepass"), compresslevel=6, mtime=0)


def unpack(content: bytes) -> dict[str, JSON]:
    """The document of a file, packed or plain JSON. InvalidInput when it is neither, TooLarge past MAX_BYTES."""
    try:
        if content[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise TooLarge(f"the file has more than {MAX_BYTES:,} bytes unpacked")
        document = json.loads(content.decode("utf-8", "surrogatepass"))
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the file is not one that `agentmesh runs export` wrote: {error}") from None
    if not isinstance(document, dict):
        raise InvalidInput("the file is not one that `agentmesh runs export` wrote: it holds no object")
    return document


def read(document: Mapping[str, JSON]) -> list[Exported]:
    """The runs of a document, the exported one first. InvalidInput when it was changed since it was written."""
    form = document.get("format")
    if form != FORMAT:
        raise InvalidInput(f"the file has the format {form!r}; this release reads {FORMAT}")
    stated = document.get("digest")
    found = digest_of({name: value for name, value in document.items() if name != "digest"})
    if stated != found:
        raise InvalidInput(
            f"the file was changed after it was written: its digest is {found[:12]}, it says {str(stated)[:12]}"
        )
    definitions: Mapping[str, Any] = document["definitions"]
    for digest, definition in definitions.items():
        if definition_hash(definition) != digest:
            raise InvalidInput(f"the definition {digest[:12]} in the file is not the one that its name says")
    try:
        return [_run(value, definitions) for value in document["runs"]]
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidInput(f"the file does not fit its format: {type(error).__name__} {error}") from None


def _run(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> Exported:
    head = Run(**{name: value[name] for name in _HEAD})
    entries = tuple(_entry(row) for row in value["journal"])
    return Exported(fold(head, entries), entries, definitions[head.definition])


def _entry(row: Mapping[str, Any]) -> Entry:
    """A row, if it is one."""
    path, attempt, payload, seq, at = (row[name] for name in ("path", "attempt", "payload", "seq", "at"))
    for value, kinds in ((path, str), (attempt, int), (payload, dict), (seq, int), (at, (int, float))):
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"{value!r} in row {seq!r}")
    return Entry(Kind(row["kind"]), path, attempt, payload, seq, at)


async def replay_all(runs: Sequence[Exported]) -> Replayed:
    """Replays an exported run with its children."""
    found: dict[str, Replayed] = {}
    definitions: dict[str, Definition] = {}
    for one in runs:
        digest = one.run.definition
        if digest not in definitions:
            definitions[digest] = load(digest, one.definition)
        found[one.run.id] = await replay(one.run, one.entries, definitions[digest])
    first, *others = [found[one.run.id] for one in runs]
    return replace(first, children=tuple(others))
