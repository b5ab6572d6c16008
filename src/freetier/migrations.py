"""The schema as numbered SQL files, for this library's own migrations and for a host's tool."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any

from freetier._postgres_text import quoted
from freetier.errors import InvalidInput

DIALECTS = ("sqlite", "postgres")
_FILE = re.compile(r"(\d{4})_\w+\.sql")
# Which connections `migrate` takes, and the module of this package that knows each.
_BLOCKING = {
    "sqlite3.Connection": "sqlite",
    "psycopg.Connection": "postgres",
    "sqlalchemy.Connection": "sqlalchemy",
}
_ASYNC = {
    "aiosqlite.Connection": "sqlite",
    "psycopg.AsyncConnection": "postgres",
    "asyncpg.Connection": "asyncpg",
    "asyncpg.PoolConnectionProxy": "asyncpg",
    "sqlalchemy.AsyncConnection": "sqlalchemy",
}
_END = re.compile(r";[ \t]*\n(?=[ \t]*(?:\n|\Z))")


def latest(dialect: str) -> int:
    """The version that `statements` leads to. Raises `InvalidInput`."""
    return max(_scripts(dialect))


def statements(dialect: str, schema: str | None = None, since: int = 0) -> list[str]:
    """The single statements, in order, that take a database from version `since` to the latest.

    They hold no BEGIN and no COMMIT: run them one by one inside a transaction of your own (an
    Alembic revision, an LNbits `mNNN_` function). `schema` is the name of the database schema to
    put the tables in, `public` if None; it must be there. SQLite has none. Raises `InvalidInput`.
    """
    scripts = _scripts(dialect)
    name = in_text(dialect, schema)
    if type(since) is not int or not 0 <= since <= max(scripts):
        raise InvalidInput("since", since, f"a schema version from 0 to {max(scripts)}")
    return [
        statement.replace("{schema}", name)
        for version, script in scripts.items()
        if version > since
        for statement in split(script)
    ]


def migrate(connection: Any, schema: str | None = None) -> int:
    """Bring the schema on a host's own connection up to date; the version it has now.

    `connection` is an `sqlite3.Connection`, a `psycopg.Connection` or a `sqlalchemy.Connection`.
    `schema` is as in `statements`; on Postgres it is created if need be. Joins the transaction
    that is open, or is atomic by itself. Raises `SchemaError` for a newer or drifted schema,
    `InvalidInput` for another connection.
    """
    version: int = _driver(connection, _BLOCKING).migrate(connection, schema)
    return version


async def migrate_async(connection: Any, schema: str | None = None) -> int:
    """`migrate` on an async connection of the host's: aiosqlite, psycopg, asyncpg, SQLAlchemy."""
    version: int = await _driver(connection, _ASYNC).migrate_async(connection, schema)
    return version


def _driver(connection: object, drivers: Mapping[str, str]) -> Any:
    """The module for this connection, known by the package that its class comes from."""
    for kind in type(connection).__mro__:
        if module := drivers.get(f"{kind.__module__.partition('.')[0]}.{kind.__name__}"):
            return import_module(f"freetier.{module}")
    raise InvalidInput("connection", connection, f"one of {', '.join(drivers)}")


def split(script: str) -> list[str]:
    """The statements of a script in which each ends with `;` before an empty line or the end."""
    return [part.strip() for part in _END.split(script) if part.strip()]


def in_text(dialect: str, schema: str | None) -> str:
    """What stands for `{schema}` in a script. Raises `InvalidInput`."""
    check_dialect(dialect)
    if dialect == "postgres":
        return quoted(schema)
    if schema is not None:
        raise InvalidInput("schema", schema, "None: SQLite has no schema names")
    return ""


def check_dialect(dialect: str) -> None:
    """Raises `InvalidInput` for a database that the schema is not written for."""
    if dialect not in DIALECTS:
        raise InvalidInput("dialect", dialect, f"one of {', '.join(DIALECTS)}")


def _scripts(dialect: str) -> dict[int, str]:
    check_dialect(dialect)
    return _read(dialect)


@cache
def _read(dialect: str) -> dict[int, str]:
    folder = files("freetier") / "schema" / dialect
    found = {
        int(match[1]): file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if (match := _FILE.fullmatch(file.name))
    }
    return dict(sorted(found.items()))
