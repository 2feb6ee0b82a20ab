"""Where notifications of runs go, and how far that has come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds a table; every row stays as it is."""
    op.create_table(
        "deliveries",
        sa.Column("run_id", sa.Text, sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("box", sa.Text, nullable=False),
        sa.Column("cursor", sa.Integer, nullable=False),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("failing_since", sa.Double),
        sa.Column("dead_at", sa.Double),
        sa.Column("ended", sa.Boolean, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("lease_owner", sa.Text),
        sa.Column("due_at", sa.Double),
    )
    for name, column in (("deliveries_due", "due_at"), ("deliveries_failing", "failing_since")):
        condition = sa.text(f"{column} IS NOT NULL")
        op.create_index(name, "deliveries", [column], sqlite_where=condition, postgresql_where=condition)
    op.execute("UPDATE meta SET value = '3' WHERE name = 'schema'")
