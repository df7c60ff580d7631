"""Run by alembic: migrates on the engine that gateway/schema.py hands over, one process at a time."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Engine, text

from gateway.schema import METADATA

#: Any number; it only has to be the same in every process.
_ADVISORY_LOCK = 0x52474D49


def run(engine: Engine) -> None:
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})"))
            connection.commit()
        else:
            connection = connection.execution_options(readgate_writes=True)
        try:
            context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True, compare_type=True)
            with context.begin_transaction():
                context.run_migrations()
            connection.commit()
        finally:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_unlock({_ADVISORY_LOCK})"))
                connection.commit()


run(context.config.attributes["engine"])
