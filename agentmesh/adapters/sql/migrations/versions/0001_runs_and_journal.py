"""Runs, their journal, and what they refer to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates every table."""
    op.create_table("meta", sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False))
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("packed", sa.Boolean, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "definitions", sa.Column("digest", sa.Text, primary_key=True), sa.Column("document", sa.Text, nullable=False)
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("workflow", sa.Text, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("parent", sa.Text),
        sa.Column("parent_path", sa.Text),
        sa.Column("context_id", sa.Text),
        sa.Column("input", sa.Text),
        sa.Column("input_blob", sa.Text, sa.ForeignKey("blobs.sha256")),
        sa.Column("message", sa.Text),
        sa.Column("message_blob", sa.Text, sa.ForeignKey("blobs.sha256")),
        sa.Column("output", sa.Text),
        sa.Column("output_blob", sa.Text, sa.ForeignKey("blobs.sha256")),
        sa.Column("error", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("cached_tokens", sa.Integer, nullable=False),
        sa.Column("model_seconds", sa.Double, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("wake_at", sa.Double),
        sa.UniqueConstraint("tenant", "key", name="runs_key"),
    )
    op.create_index("runs_by_time", "runs", ["tenant", "created_at", "id"])
    op.create_index("runs_by_workflow", "runs", ["tenant", "workflow", "created_at", "id"])
    for name, columns, where in (
        ("runs_to_claim", ["created_at", "id"], "state IN ('submitted', 'working')"),
        ("runs_by_parent", ["parent"], "parent IS NOT NULL"),
        ("runs_by_context", ["tenant", "context_id"], "context_id IS NOT NULL"),
        ("runs_to_wake", ["wake_at"], "wake_at IS NOT NULL"),
    ):
        op.create_index(name, "runs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
    op.create_table(
        "journal",
        sa.Column("run_id", sa.Text, sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payload", sa.Text),
        sa.Column("payload_blob", sa.Text, sa.ForeignKey("blobs.sha256")),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_table(
        "state",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.execute("INSERT INTO meta (name, value) VALUES ('schema', '1')")
