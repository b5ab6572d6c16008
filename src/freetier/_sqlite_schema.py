"""The schema of an SQLite ledger: its version, whether it drifted, and how it is brought up.

As steps on an `execute`, which takes a statement and gives its rows: the same for every
connection, blocking or not.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import cache, partial
from typing import Any

from freetier import migrations
from freetier._versions import expect, expect_no_drift
from freetier.errors import SchemaError
from freetier.steps import Steps, ask, perform

_COMMENT = re.compile(r"--[^\n]*")


def migrate() -> Steps[int]:
    """Bring the schema up to date, in a transaction that is open; the version it has now."""
    found, wanted = (yield from version()), migrations.latest("sqlite")
    if found <= wanted:
        for statement in migrations.statements("sqlite", since=found):
            yield from _rows(statement)
    return (yield from check())


def check() -> Steps[int]:
    """The schema's version. Raises `SchemaError` unless it is the one this code is written for."""
    found = yield from version()
    expect(found, migrations.latest("sqlite"))
    actual, expected = (yield from _definitions()), _expected()
    drifted = sorted(
        name
        for name in actual.keys() | expected.keys()
        if actual.get(name) != expected.get(name)
        # An index that somebody added slows down; it refuses nothing unless it is unique.
        and not (name not in expected and actual[name].upper().startswith("CREATE INDEX"))
    )
    expect_no_drift(found, drifted)
    return found


def version() -> Steps[int]:
    """The version that the database says it has; 0 before the first migration."""
    if not (yield from _rows("SELECT 1 FROM sqlite_master WHERE name = 'freetier_schema'")):
        return 0
    rows = yield from _rows("SELECT version FROM freetier_schema")
    if len(rows) != 1:
        raise SchemaError(f"freetier_schema has {len(rows)} rows, expected 1")
    return int(rows[0][0])


def execute(
    connection: sqlite3.Connection, sql: str, params: dict[str, Any] | tuple[()] = ()
) -> Sequence[Sequence[Any]]:
    """A statement's rows, as plain tuples whatever the connection's row factory is."""
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor.execute(sql, params).fetchall()


def _definitions() -> Steps[dict[str, str]]:
    """What defines our tables and all that hangs on them, without layout and comments."""
    rows = yield from _rows(
        "SELECT type || ' ' || name, sql FROM sqlite_master"
        " WHERE sql IS NOT NULL AND (name LIKE 'freetier\\_%' ESCAPE '\\'"
        " OR tbl_name LIKE 'freetier\\_%' ESCAPE '\\')",
    )
    return {name: " ".join(_COMMENT.sub(" ", sql).split()) for name, sql in rows}


@cache
def _expected() -> dict[str, str]:
    with closing(sqlite3.connect(":memory:")) as fresh:
        for statement in migrations.statements("sqlite"):
            fresh.execute(statement)
        return perform(_definitions(), partial(execute, fresh))


def _rows(sql: str) -> Steps[Sequence[Sequence[Any]]]:
    return ask(lambda execute: execute(sql))
