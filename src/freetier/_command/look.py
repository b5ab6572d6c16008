"""A look at a database that cannot write, whatever it is: the schema's version, the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen

from freetier import _postgres_schema, _sqlite_schema, migrations
from freetier._sqlite_errors import translated
from freetier.errors import FreeTierError
from freetier.opening import adapter
from freetier.repository import Repository
from freetier.sqlite import SQLiteRepository
from freetier.steps import Steps, perform


@frozen
class Look:
    """What can be asked without writing. Each raises the store's errors."""

    dialect: str
    version: Callable[[], int]
    check: Callable[[], int]
    repository: Callable[[], Repository]

    @property
    def latest(self) -> int:
        """The schema version that this code needs."""
        return migrations.latest(self.dialect)


@contextmanager
def at_sqlite(path: str) -> Iterator[Look]:
    """A look at an SQLite file that is there."""
    address = Path(path).absolute().as_uri() + "?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            yield Look(
                "sqlite",
                lambda: perform(_sqlite_schema.version(), partial(_run, connection)),
                lambda: perform(_sqlite_schema.check(), partial(_run, connection)),
                lambda: _of_file(connection, path),
            )
    except sqlite3.Error as error:
        raise translated(error, path, writes=False) from error


@contextmanager
def at_postgres(url: str, schema: str | None) -> Iterator[Look]:
    """A look at a Postgres database."""
    postgres = adapter("postgres")
    with postgres.reading(url) as connection:

        def asked(steps: Steps[int]) -> int:
            answer: int = postgres.perform_on(connection, steps)
            return answer

        yield Look(
            "postgres",
            lambda: asked(_postgres_schema.version(schema)),
            lambda: asked(_postgres_schema.check(schema)),
            lambda: postgres.PostgresRepository(connection, schema=schema),
        )


def _run(connection: sqlite3.Connection, sql: str) -> Any:
    return _sqlite_schema.execute(connection, sql)


def _of_file(connection: sqlite3.Connection, path: str) -> Repository:
    try:
        return SQLiteRepository(connection)
    except FreeTierError as error:
        error.add_note(path)  # which the adapter does not know
        raise
