"""One time per run at which it is due, what arrived from outside, forks, and indexes to list and prune by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Keeps every row. Columns are added and dropped in place, since a copy of `runs` would break what refers to it."""
    for name in ("runs_to_claim", "runs_to_wake", "runs_by_parent", "runs_by_context"):
        op.drop_index(name, "runs")
    op.add_column("runs", sa.Column("due_at", sa.Double))
    op.add_column("runs", sa.Column("mail", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.add_column("runs", sa.Column("forked_from", sa.Text))
    op.execute(
        "UPDATE runs SET due_at = CASE WHEN lease_owner IS NOT NULL THEN lease_until ELSE coalesce(wake_at, created_at) END"
        " WHERE state IN ('submitted', 'working', 'input_required', 'auth_required')"
    )
    op.drop_column("runs", "lease_until")
    op.drop_column("runs", "wake_at")
    for table, name, columns, where in (
        ("runs", "runs_due", ["due_at", "id"], "due_at IS NOT NULL"),
        ("runs", "runs_held", ["workflow"], "lease_owner IS NOT NULL"),
        ("runs", "runs_ended", ["updated_at"], "due_at IS NULL"),
        ("runs", "runs_by_state", ["tenant", "state", "created_at", "id"], None),
        ("runs", "runs_by_owner", ["tenant", "owner", "created_at", "id"], None),
        ("runs", "runs_by_context", ["tenant", "context_id", "created_at", "id"], "context_id IS NOT NULL"),
        ("runs", "runs_by_parent", ["parent", "created_at", "id"], "parent IS NOT NULL"),
        ("runs", "runs_roots", ["tenant", "created_at", "id"], "parent IS NULL"),
        ("runs", "runs_by_definition", ["definition"], None),
        ("runs", "runs_input_blob", ["input_blob"], "input_blob IS NOT NULL"),
        ("runs", "runs_message_blob", ["message_blob"], "message_blob IS NOT NULL"),
        ("runs", "runs_output_blob", ["output_blob"], "output_blob IS NOT NULL"),
        ("journal", "journal_payload_blob", ["payload_blob"], "payload_blob IS NOT NULL"),
    ):
        condition = None if where is None else sa.text(where)
        op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
    op.create_table(
        "posts",
        sa.Column("run_id", sa.Text, sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
    )
    if op.get_context().dialect.name == "postgresql":
        op.drop_constraint("journal_run_id_fkey", "journal", type_="foreignkey")  # see `tables.journal`
    op.execute("UPDATE meta SET value = '2' WHERE name = 'schema'")
