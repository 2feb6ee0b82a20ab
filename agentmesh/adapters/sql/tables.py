"""The tables. `migrations/` builds the same ones step by step; a test holds the two together.

JSON is kept as text and read by nobody but us, so that it is the same on every database and legible in any SQL shell.
Times are Unix seconds. A change here needs a migration and the next SCHEMA.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

SCHEMA = 3
"""Version of the tables below; stands in `meta` as `schema`."""
REVISION = "0003"
"""The migration that leads to SCHEMA."""

metadata = MetaData()

meta = Table("meta", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("size", Integer, nullable=False),  # bytes of the text, before packing
    Column("packed", Boolean, nullable=False),  # zlib
    Column("data", LargeBinary, nullable=False),
)

definitions = Table(
    "definitions", metadata, Column("digest", Text, primary_key=True), Column("document", Text, nullable=False)
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("workflow", Text, nullable=False),
    Column("definition", Text, nullable=False),  # of `definitions`, when the starter gave the document
    Column("source", Text, nullable=False),
    Column("key", Text),
    Column("parent", Text),
    Column("parent_path", Text),
    Column("context_id", Text),
    Column("input", Text),  # each of these three, or its blob
    Column("input_blob", Text, ForeignKey("blobs.sha256")),
    Column("message", Text),
    Column("message_blob", Text, ForeignKey("blobs.sha256")),
    Column("output", Text),
    Column("output_blob", Text, ForeignKey("blobs.sha256")),
    Column("error", Text),
    Column("state", Text, nullable=False),
    Column("seq", Integer, nullable=False),  # of the last journal entry
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("model_seconds", Double, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("epoch", Integer, nullable=False),  # how often it was claimed
    Column("lease_owner", Text),
    Column(
        "due_at", Double
    ),  # when it may be claimed: end of the lease, time to wake, inf: when something arrives; NULL: ended
    Column("mail", Integer, nullable=False, server_default=text("0")),  # how much arrived from outside
    Column("forked_from", Text),
    UniqueConstraint("tenant", "key", name="runs_key"),
)


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


# To claim by.
Index("runs_due", runs.c.due_at, runs.c.id, **_where("due_at IS NOT NULL"))
Index("runs_held", runs.c.workflow, **_where("lease_owner IS NOT NULL"))
Index("runs_ended", runs.c.updated_at, **_where("due_at IS NULL"))
# To list by: each is read from its newest end, as far as the page goes.
Index("runs_by_time", runs.c.tenant, runs.c.created_at, runs.c.id)
Index("runs_by_workflow", runs.c.tenant, runs.c.workflow, runs.c.created_at, runs.c.id)
Index("runs_by_state", runs.c.tenant, runs.c.state, runs.c.created_at, runs.c.id)
Index("runs_by_owner", runs.c.tenant, runs.c.owner, runs.c.created_at, runs.c.id)
Index(
    "runs_by_context",
    runs.c.tenant,
    runs.c.context_id,
    runs.c.created_at,
    runs.c.id,
    **_where("context_id IS NOT NULL"),
)
Index("runs_by_parent", runs.c.parent, runs.c.created_at, runs.c.id, **_where("parent IS NOT NULL"))
Index("runs_roots", runs.c.tenant, runs.c.created_at, runs.c.id, **_where("parent IS NULL"))
# To know whether a blob or a definition is still needed.
Index("runs_by_definition", runs.c.definition)
for _column in (runs.c.input_blob, runs.c.message_blob, runs.c.output_blob):
    Index(f"runs_{_column.name}", _column, **_where(f"{_column.name} IS NOT NULL"))

journal = Table(
    "journal",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("path", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("payload", Text),  # or its blob
    Column("payload_blob", Text, ForeignKey("blobs.sha256")),
    Column("at", Double, nullable=False),
    # PostgreSQL would look the run up, and lock its row, for every entry; only the writer adds entries, and it holds the run.
    ForeignKeyConstraint(["run_id"], ["runs.id"]).ddl_if(dialect="sqlite"),
)

Index("journal_payload_blob", journal.c.payload_blob, **_where("payload_blob IS NOT NULL"))

posts = Table(
    "posts",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), primary_key=True),
    Column("key", Text, primary_key=True),
)
"""The keys of what was posted to runs, so that nothing is posted twice."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("box", Text, nullable=False),  # sealed
    Column("cursor", Integer, nullable=False),  # seq of the last journal entry that was delivered
    Column("part", Integer, nullable=False),  # events of the next one that were
    Column("attempts", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("failing_since", Double),
    Column("dead_at", Double),
    Column("ended", Boolean, nullable=False),
    Column("epoch", Integer, nullable=False),  # how often it was claimed
    Column("created_at", Double, nullable=False),
    Column("lease_owner", Text),
    Column("due_at", Double),  # when it may be claimed, if there is something new; NULL: ended, or given up
)
"""Where notifications of runs go, and how far that has come."""

Index("deliveries_due", deliveries.c.due_at, **_where("due_at IS NOT NULL"))
Index("deliveries_failing", deliveries.c.failing_since, **_where("failing_since IS NOT NULL"))

state = Table(
    "state",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
