"""Alembic's entry: the connection and its transaction come from `agentmesh.adapters.sql.migrate`."""

from __future__ import annotations

from alembic import context

from agentmesh.adapters.sql.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a column by copying the table
)
context.run_migrations()
