"""The tables. `migrations/` builds the same ones step by step; a test holds the two together.

JSON is kept as text and read by nobody but us, so that it is the same on every database and legible in any SQL shell.
Times are Unix seconds. A change here needs a migration and the next SCHEMA.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

SCHEMA = 1
"""Version of the tables below; stands in `meta` as `schema`."""
REVISION = "0001"
"""The migration that leads to SCHEMA."""

CLAIMABLE = text("state IN ('submitted', 'working')")
"""As text, because SQLite uses a partial index only for a query that repeats its condition literally."""

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
    Column("lease_until", Double, nullable=False),  # 0: nobody's
    Column("wake_at", Double),  # not to be claimed earlier
    UniqueConstraint("tenant", "key", name="runs_key"),
)

Index("runs_by_time", runs.c.tenant, runs.c.created_at, runs.c.id)
Index("runs_by_workflow", runs.c.tenant, runs.c.workflow, runs.c.created_at, runs.c.id)
Index("runs_to_claim", runs.c.created_at, runs.c.id, sqlite_where=CLAIMABLE, postgresql_where=CLAIMABLE)
_CHILD, _TALK, _ASLEEP = text("parent IS NOT NULL"), text("context_id IS NOT NULL"), text("wake_at IS NOT NULL")
Index("runs_by_parent", runs.c.parent, sqlite_where=_CHILD, postgresql_where=_CHILD)
Index("runs_by_context", runs.c.tenant, runs.c.context_id, sqlite_where=_TALK, postgresql_where=_TALK)
Index("runs_to_wake", runs.c.wake_at, sqlite_where=_ASLEEP, postgresql_where=_ASLEEP)

journal = Table(
    "journal",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("path", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("payload", Text),  # or its blob
    Column("payload_blob", Text, ForeignKey("blobs.sha256")),
    Column("at", Double, nullable=False),
)

state = Table(
    "state",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
