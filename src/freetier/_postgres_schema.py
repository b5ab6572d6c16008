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
from freetier.errors import ConfigError, SchemaError, StoreUnavailable
from freetier.steps import Steps, ask

# What the script creates, with its tables in a schema named "schema": as `_ACTUAL` tells of it.
_FUNCTION = re.compile(
    r'CREATE FUNCTION "schema"\.(\w+)\(\) RETURNS trigger\n(.*?)\nAS \$\$(.*?)\$\$', re.DOTALL
)
_SETTING = re.compile(r"^SET ([\w.]+) = '?(.*?)'?$", re.MULTILINE)
_TRIGGER = re.compile(
    r'CREATE TRIGGER (\w+) (BEFORE|INSTEAD OF) ([A-Z ]+?)\s+ON "schema"\.(\w+)\s+'
    r'FOR EACH (\w+)\s+(?:WHEN \((.*?)\)\s+)?EXECUTE FUNCTION "schema"\.(\w+)\('
)
_UNIQUE = re.compile(r"CREATE UNIQUE INDEX (\w+)")
_TABLE = re.compile(r'CREATE TABLE "schema"\.(\w+)')
_VIEW = re.compile(r'CREATE VIEW "schema"\.(\w+)')
_TIMES, _ROW = {"BEFORE": 2, "INSTEAD OF": 64}, 1
_EVENTS = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}

# A host may have its own in the schema, by whatever names: only our functions and tables count.
_ACTUAL = """
SELECT 'function ' || proname,
  concat_ws(' ', prosecdef::text, array_to_string(proconfig, ' '), prosrc)
FROM pg_proc WHERE pronamespace = {oid} AND proname IN ({functions})
UNION ALL
SELECT 'trigger ' || t.tgname, concat_ws(' ', c.relname, t.tgtype, t.tgenabled, f.proname,
  substring(pg_get_triggerdef(t.oid) FROM ' WHEN (.*) EXECUTE FUNCTION '))
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS f ON f.oid = t.tgfoid
WHERE c.relnamespace = {oid} AND c.relname IN ({relations}) AND NOT t.tgisinternal
UNION ALL
SELECT 'unique index ' || c.relname, (i.indisunique AND i.indisvalid)::text
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS o ON o.oid = i.indrelid
WHERE o.relnamespace = {oid} AND o.relname IN ({tables}) AND i.indisunique
UNION ALL
SELECT 'rule ' || r.rulename, c.relname
FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
WHERE c.relnamespace = {oid} AND c.relname IN ({tables})
"""
# A schema, a table, a column, a function, or something else of that name is there.
_DUPLICATE = ("42P06", "42P07", "42701", "42723", "42710")


def migrate(schema: str | None, timeout_s: float | None = None) -> Steps[int]:
    """Bring the schema up to date, in a transaction that is open; the version it has now.

    Whoever else migrates waits for the end of that transaction, `timeout_s` at most. Raises
    `SchemaError`; `ConfigError` for a database that cannot keep every id; `StoreUnavailable` where
    the transaction began (above READ COMMITTED) before another's migration had ended.
    """
    quoted(schema)  # refuses what is no name
    wanted = migrations.latest("postgres")
    if timeout_s is not None:
        limit_ms = int(timeout_s * 1000)
        yield from _rows(f"SELECT set_config('lock_timeout', '{limit_ms}', true)")
    if (yield from version(schema)) != wanted:
        ((encoding,),) = yield from _rows("SHOW server_encoding")
        if encoding != "UTF8":
            raise ConfigError(f"the database is encoded in {encoding}: UTF8 is needed")
        ((isolation,),) = yield from _rows("SHOW transaction_isolation")
        yield from _rows("SELECT pg_advisory_xact_lock(hashtextextended('freetier migrates', 0))")
        try:
            yield from _bring_up(schema, wanted)
        except Exception as error:
            if isolation != "read committed" and _state(error) in _DUPLICATE:
                raise StoreUnavailable(
                    "Postgres: another migration ended meanwhile, which this transaction "
                    f"({isolation}) cannot see: roll back first"
                ) from error
            raise
    return (yield from check(schema))


def check(schema: str | None) -> Steps[int]:
    """The schema's version. Raises `SchemaError` unless it is the one this code is written for.

    Looked at are the guard's functions and their rights, its triggers, unique indexes and rules.
    """
    found = yield from version(schema)
    expect(found, migrations.latest("postgres"))
    script = _script()
    functions = [name for name, _, _ in _FUNCTION.findall(script)]
    tables = _TABLE.findall(script)
    asked = _ACTUAL.format(
        oid=_oid(schema),
        functions=_list(functions),
        tables=_list(tables),
        relations=_list(tables + _VIEW.findall(script)),
    )
    rows = yield from _rows(asked)
    actual, expected = {str(name): str(text) for name, text in rows}, _expected(schema)
    drifted = [
        name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name)
    ]
    expect_no_drift(found, sorted(drifted))
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


def _bring_up(schema: str | None, wanted: int) -> Steps[None]:
    """Run what is missing, while nobody else does."""
    if not (yield from _rows(f"SELECT 1 FROM pg_namespace WHERE nspname = {_name(schema)}")):
        yield from _rows(f"CREATE SCHEMA {quoted(schema)}")
    found = yield from version(schema)
    if found <= wanted:
        for statement in migrations.statements("postgres", schema, since=found):
            yield from _rows(statement)


def _state(error: Exception) -> str | None:
    """The SQLSTATE of what any driver raised, through SQLAlchemy or not."""
    return getattr(getattr(error, "orig", error), "sqlstate", None)


def _script() -> str:
    return "\n".join(migrations.statements("postgres", "schema"))


def _expected(schema: str | None) -> dict[str, str]:
    script = _script()
    expected = {}
    for name, head, body in _FUNCTION.findall(script):
        definer = "true" if "SECURITY DEFINER" in head else "false"
        settings = [f"{setting}={value}" for setting, value in _SETTING.findall(head)]
        here = body.replace('"schema"', quoted(schema))
        expected[f"function {name}"] = " ".join([definer, *settings, here])
    for name, moment, events, table, each, when, function in _TRIGGER.findall(script):
        kind = _TIMES[moment] + sum(_EVENTS[event] for event in events.split(" OR "))
        kind += _ROW if each == "ROW" else 0
        expected[f"trigger {name}"] = f"{table} {kind} O {function}"
        if when:  # as Postgres spells it
            expected[f"trigger {name}"] += f" (({when.replace('NEW', 'new')}))"
    indexes = _UNIQUE.findall(script) + [f"{table}_pkey" for table in _TABLE.findall(script)]
    return expected | {f"unique index {name}": "true" for name in indexes}


def _name(schema: str | None) -> str:
    """The schema's name, which has no `$`, as an SQL literal whatever the server's settings."""
    return f"$${DEFAULT_SCHEMA if schema is None else schema}$$"


def _list(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _oid(schema: str | None) -> str:
    return f"(SELECT oid FROM pg_namespace WHERE nspname = {_name(schema)})"


def _rows(sql: str) -> Steps[Sequence[Sequence[Any]]]:
    return ask(lambda execute: execute(sql))
