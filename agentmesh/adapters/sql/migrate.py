"""Upgrades an older database by Alembic. Imported only when there is something to upgrade."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

from agentmesh.adapters.sql.database import MIGRATIONS, one_at_a_time


def upgrade(engine: Engine, migrations: Path = MIGRATIONS, target: str = "head") -> None:
    """Runs every migration that the database has not seen, in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name != "sqlite":
            one_at_a_time(connection)  # whoever comes second finds nothing left to do
        config.attributes["connection"] = connection
        command.upgrade(config, target)
