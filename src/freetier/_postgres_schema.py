"""The schema of a Postgres ledger: its version, whether it drifted, and how it is brought up.

As steps on an `execute`, which takes a statement and gives its rows: the same for every driver,
blocking or not. Names are written into the text, quoted; nothing depends on the search path.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from freetier import migrations
from freetier._postgres_text import DEFAULT_SCHEMA, quoted
from freetier._versions import expect, expect_no_drift
from freetier.errors import ConfigError, SchemaError
from freetier.steps import Steps, ask

_FUNCTION = re.compile(r"CREATE FUNCTION [^\n]*?\.(freetier_\w+)\(\).*?AS \$\$(.*?)\$\$", re.DOTALL)
_TRIGGER = re.compile(r"CREATE TRIGGER (freetier_\w+)")
_CHECK = re.compile(r"CONSTRAINT (freetier_\w+)")


def migrate(schema: str | None) -> Steps[int]:
    """Bring the schema up to date, in a transaction that is open; the version it has now.

    Whoever else migrates waits for the end of that transaction. Raises `SchemaError`, and
    `ConfigError` for a database that cannot keep every id.
    """
    wanted = migrations.latest("postgres")
    if (yield from version(schema)) != wanted:
        ((encoding,),) = yield from _rows("SHOW server_encoding")
        if encoding != "UTF8":
            raise ConfigError(f"the database is encoded in {encoding}: UTF8 is needed")
        yield from _rows("SELECT pg_advisory_xact_lock(hashtextextended('freetier migrates', 0))")
        if not (yield from _rows(f"SELECT 1 FROM pg_namespace WHERE nspname = {_name(schema)}")):
            yield from _rows(f"CREATE SCHEMA {quoted(schema)}")
        found = yield from version(schema)
        if found <= wanted:
            for statement in migrations.statements("postgres", schema, since=found):
                yield from _rows(statement)
    return (yield from check(schema))


def check(schema: str | None) -> Steps[int]:
    """The schema's version. Raises `SchemaError` unless it is the one this code is written for.

    Looked at are the guard's functions, its triggers and the named checks.
    """
    found = yield from version(schema)
    expect(found, migrations.latest("postgres"))
    rows = yield from _rows(
        "SELECT 'function ' || proname, prosrc FROM pg_proc"
        f" WHERE pronamespace = {_oid(schema)} AND proname LIKE 'freetier\\_%'"
        " UNION ALL SELECT 'trigger ' || t.tgname, t.tgenabled::text"
        " FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid"
        f" WHERE c.relnamespace = {_oid(schema)} AND c.relname LIKE 'freetier\\_%'"
        " AND NOT t.tgisinternal"
        " UNION ALL SELECT 'check ' || conname, convalidated::text FROM pg_constraint"
        f" WHERE connamespace = {_oid(schema)} AND contype = 'c'"
        " AND conname LIKE 'freetier\\_%'"
    )
    actual, expected = {str(name): str(text) for name, text in rows}, _expected(schema)
    drifted = [name for name in expected if actual.get(name) != expected[name]]
    added = [name for name in actual if name not in expected and not name.startswith("check ")]
    expect_no_drift(found, sorted(drifted + added))
    return found


def version(schema: str | None) -> Steps[int]:
    """The version that the database says it has; 0 before the first migration."""
    if not (
        yield from _rows(
            f"SELECT 1 FROM pg_class WHERE relnamespace = {_oid(schema)}"
            " AND relname = 'freetier_schema'"
        )
    ):
        return 0
    rows = yield from _rows(f"SELECT version FROM {quoted(schema)}.freetier_schema")
    if len(rows) != 1:
        raise SchemaError(f"freetier_schema has {len(rows)} rows, expected 1")
    return int(rows[0][0])


def _expected(schema: str | None) -> dict[str, str]:
    script = "\n".join(migrations.statements("postgres", schema))
    functions = {f"function {name}": body for name, body in _FUNCTION.findall(script)}
    triggers = {f"trigger {name}": "O" for name in _TRIGGER.findall(script)}
    checks = {f"check {name}": "true" for name in _CHECK.findall(script)}
    return functions | triggers | checks


def _name(schema: str | None) -> str:
    """The schema's name as an SQL literal."""
    return "'" + (schema or DEFAULT_SCHEMA).replace("'", "''") + "'"


def _oid(schema: str | None) -> str:
    return f"(SELECT oid FROM pg_namespace WHERE nspname = {_name(schema)})"


def _rows(sql: str) -> Steps[Sequence[Sequence[Any]]]:
    return ask(lambda execute: execute(sql))
