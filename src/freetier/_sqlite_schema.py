"""The schema of an SQLite ledger: its version, whether it drifted, and how it is brought up."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from functools import cache

from freetier import migrations
from freetier.errors import SchemaError

_COMMENT = re.compile(r"--[^\n]*")


def migrate_own(connection: sqlite3.Connection) -> int:
    """Migrate in a transaction of its own, one process at a time; the version it leads to."""
    if version(connection) != migrations.latest("sqlite"):
        connection.execute("BEGIN IMMEDIATE")
        _apply(connection)
        connection.execute("COMMIT")
    return check(connection)


def migrate_joined(connection: sqlite3.Connection) -> int:
    """Migrate inside the host's transaction, or atomic by itself when there is none."""
    connection.execute("SAVEPOINT freetier_migrate")
    try:
        _apply(connection)
        found = check(connection)
    except BaseException:
        connection.execute("ROLLBACK TO freetier_migrate")
        connection.execute("RELEASE freetier_migrate")
        raise
    connection.execute("RELEASE freetier_migrate")
    return found


def check(connection: sqlite3.Connection) -> int:
    """The schema's version. Raises `SchemaError` unless it is the one this code is written for."""
    found, wanted = version(connection), migrations.latest("sqlite")
    if found != wanted:
        older = "it has not been migrated" if found < wanted else "this code is too old for it"
        raise SchemaError(
            f"the database has schema version {found}, this code needs {wanted}: {older}"
        )
    actual, expected = _definitions(connection), _expected()
    drifted = sorted(
        name
        for name in actual.keys() | expected.keys()
        if actual.get(name) != expected.get(name)
        # An index that somebody added slows down; it refuses nothing unless it is unique.
        and not (name not in expected and actual[name].upper().startswith("CREATE INDEX"))
    )
    if drifted:
        raise SchemaError(
            f"schema version {found} is not as it was made; changed, missing or added: "
            + ", ".join(drifted)
        )
    return found


def version(connection: sqlite3.Connection) -> int:
    """The version that the database says it has; 0 before the first migration."""
    if not _rows(connection, "SELECT 1 FROM sqlite_master WHERE name = 'freetier_schema'"):
        return 0
    rows = _rows(connection, "SELECT version FROM freetier_schema")
    if len(rows) != 1:
        raise SchemaError(f"freetier_schema has {len(rows)} rows, expected 1")
    return int(rows[0][0])


def _apply(connection: sqlite3.Connection) -> None:
    found, wanted = version(connection), migrations.latest("sqlite")
    if found <= wanted:
        for statement in migrations.statements("sqlite", since=found):
            connection.execute(statement)


def _definitions(connection: sqlite3.Connection) -> dict[str, str]:
    """What defines our tables and all that hangs on them, without layout and comments."""
    rows = _rows(
        connection,
        "SELECT type || ' ' || name, sql FROM sqlite_master"
        " WHERE sql IS NOT NULL AND (name LIKE 'freetier\\_%' ESCAPE '\\'"
        " OR tbl_name LIKE 'freetier\\_%' ESCAPE '\\')",
    )
    return {name: " ".join(_COMMENT.sub(" ", sql).split()) for name, sql in rows}


@cache
def _expected() -> dict[str, str]:
    with closing(sqlite3.connect(":memory:")) as fresh:
        _apply(fresh)
        return _definitions(fresh)


def _rows(connection: sqlite3.Connection, sql: str) -> list[tuple[str, str]]:
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor.execute(sql).fetchall()
