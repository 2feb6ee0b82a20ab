"""The Store in a SQL database. SQLAlchemy Core lives here and nowhere else."""
