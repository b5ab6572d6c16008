"""The schema of a Postgres ledger: its version, whether it drifted, and how it is brought up.

As steps on an `execute`, which takes a statement and gives its rows: the same for every driver,
blocking or not. Names are written into the text, quoted; nothing depends on the search path, nor
on whether Postgres quotes every name that it prints.
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
_UNIQUE = re.compile(r'CREATE UNIQUE INDEX (\w+) ON "schema"\.\w+ (\(.*\))')
_TABLE = re.compile(r'CREATE TABLE "schema"\.(\w+) \(\n(.*?)\n\)', re.DOTALL)
_COLUMN = re.compile(
    r'^  (\w+) +([A-Z]+)(?: COLLATE "(\w+)")?( NOT NULL)?(?: DEFAULT (\w+))?( PRIMARY KEY)?'
    r"(?: CHECK \((.+)\))?,?$",
    re.MULTILINE,
)
_KEY = re.compile(r"^  PRIMARY KEY (\(.+\))$", re.MULTILINE)
_VIEW = re.compile(r'CREATE VIEW "schema"\.(\w+) AS SELECT\n(.*?)\nWHERE FALSE', re.DOTALL)
_NULL = re.compile(r"CAST\(NULL AS (\S+)\) AS (\w+)")
_TYPES = {"BIGINT": "int8", "TEXT": "text", "BIGINT[]": "_int8", "TEXT[]": "_text"}
_TIMES, _ROW = {"BEFORE": 2, "INSTEAD OF": 64}, 1
_EVENTS = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}

# A host may have its own in the schema, by whatever names: only our functions and tables count.
# Of what Postgres prints, only the operators in the CHECKs depend on the search path; those that
# are not its own are in pg_depend. What REINDEX CONCURRENTLY makes in passing is not valid.
_ACTUAL = """
SELECT 'function ' || proname,
  concat_ws(' ', prosecdef, provolatile, array_to_string(proconfig, ' '), prosrc)
FROM pg_proc WHERE pronamespace = {oid} AND proname IN ({functions}) AND pronargs = 0
UNION ALL
SELECT concat(CASE relkind WHEN 'v' THEN 'view ' ELSE 'table ' END, relname), concat_ws(' ',
  relkind, relpersistence, relrowsecurity AND relforcerowsecurity,
  EXISTS (SELECT FROM pg_inherits WHERE pg_class.oid IN (inhparent, inhrelid)))
FROM pg_class WHERE relnamespace = {oid} AND relname IN ({relations})
UNION ALL
SELECT concat('trigger ', t.tgname, ' on ', c.relname), concat_ws(' ',
  t.tgtype, concat(t.tgenabled, t.tgattr), f.pronamespace = {oid}, f.proname,
  CASE WHEN t.tgqual IS NOT NULL THEN replace(substring(
    replace(pg_get_triggerdef(t.oid), format(' ON %I.%I', {name}, c.relname), '')
    FROM ' WHEN (.*?) EXECUTE FUNCTION '), '"', '') END)
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS f ON f.oid = t.tgfoid
WHERE c.relnamespace = {oid} AND c.relname IN ({relations}) AND NOT t.tgisinternal
UNION ALL
SELECT 'unique index ' || c.relname, concat_ws(' ', i.indisvalid AND i.indimmediate,
  replace(substr(pg_get_indexdef(c.oid), 1 + length(
    format('CREATE UNIQUE INDEX %I ON %I.%I ', c.relname, {name}, o.relname))), '"', ''))
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS o ON o.oid = i.indrelid
WHERE o.relnamespace = {oid} AND o.relname IN ({tables}) AND i.indisunique
  AND (i.indisvalid OR c.relname !~ '_cc(new|old)[0-9]*$')
UNION ALL
SELECT concat('column ', c.relname, '.', a.attname), concat_ws(' ',
  (SELECT nspname FROM pg_namespace WHERE oid = t.typnamespace), t.typname,
  (SELECT nspname FROM pg_namespace WHERE oid = l.collnamespace), l.collname,
  concat(a.attnotnull, a.attidentity, a.attgenerated), pg_get_expr(d.adbin, d.adrelid))
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
JOIN pg_type AS t ON t.oid = a.atttypid LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = {oid} AND c.relname IN ({relations})
  AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT concat('constraint ', k.conname, ' on ', c.relname), concat_ws(' ',
  EXISTS (SELECT FROM pg_depend AS d
    WHERE d.classid = k.tableoid AND d.objid = k.oid AND d.refclassid <> c.tableoid),
  regexp_replace(
    replace(pg_get_constraintdef(k.oid), '"', ''), 'OPERATOR.pg_catalog[.](.).', $$\\1$$))
FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
WHERE c.relnamespace = {oid} AND c.relname IN ({tables}) AND k.contype IN ('c', 'f', 'x')
UNION ALL
SELECT concat('rule ', r.rulename, ' on ', c.relname), ''
FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
WHERE c.relnamespace = {oid} AND c.relname IN ({relations}) AND r.rulename <> '_RETURN'
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

    Looked at are the guard's functions and their rights, and of the tables and the view all that
    decides what they take and keep: columns, constraints, unique indexes, triggers, rules, what
    inherits, row security that binds the owner, whether a crash empties them. Not the view's own
    rows: nobody reads them.
    """
    found = yield from version(schema)
    expect(found, migrations.latest("postgres"))
    script = _script()
    functions = [name for name, _, _ in _FUNCTION.findall(script)]
    tables = [name for name, _ in _TABLE.findall(script)]
    asked = _ACTUAL.format(
        oid=_oid(schema),
        name=_name(schema),
        functions=_list(functions),
        tables=_list(tables),
        relations=_list(tables + [name for name, _ in _VIEW.findall(script)]),
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
        definer = "t" if "SECURITY DEFINER" in head else "f"
        volatile = "s" if "STABLE" in head else "v"
        settings = [f"{setting}={value}" for setting, value in _SETTING.findall(head)]
        here = body.replace('"schema"', quoted(schema))
        expected[f"function {name}"] = " ".join([definer, volatile, *settings, here])
    for name, moment, events, table, each, when, function in _TRIGGER.findall(script):
        kind = _TIMES[moment] + sum(_EVENTS[event] for event in events.split(" OR "))
        kind += _ROW if each == "ROW" else 0
        # The condition as Postgres spells it.
        condition = f" (({when.replace('NEW', 'new')}))" if when else ""
        expected[f"trigger {name} on {table}"] = f"{kind} O t {function}{condition}"
    for name, columns in _UNIQUE.findall(script):
        expected[f"unique index {name}"] = f"t USING btree {columns}"
    for name, body in _VIEW.findall(script):
        expected[f"view {name}"] = "v p f f"
        for kind, column in _NULL.findall(body):
            collation = "pg_catalog default " if "TEXT" in kind else ""
            expected[f"column {name}.{column}"] = f"pg_catalog {_TYPES[kind]} {collation}f"
    for name, body in _TABLE.findall(script):
        expected |= _expected_of_table(name, body)
    return expected


def _expected_of_table(table: str, body: str) -> dict[str, str]:
    """Its columns, its checks, its primary key."""
    expected, keys = {f"table {table}": "r p f f"}, _KEY.findall(body)
    for name, kind, collation, required, default, key, check in _COLUMN.findall(body):
        told = ["pg_catalog", _TYPES[kind], collation and f"pg_catalog {collation}"]
        told += ["t" if required else "f", default]
        expected[f"column {table}.{name}"] = " ".join(filter(None, told))
        if check:  # both named as Postgres names them
            expected[f"constraint {table}_{name}_check on {table}"] = f"f CHECK (({check}))"
        if key:
            keys.append(f"({name})")
    return expected | {f"unique index {table}_pkey": f"t USING btree {key}" for key in keys}


def _name(schema: str | None) -> str:
    """The schema's name, which has no `$`, as an SQL literal whatever the server's settings."""
    return f"$${DEFAULT_SCHEMA if schema is None else schema}$$"


def _list(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _oid(schema: str | None) -> str:
    return f"(SELECT oid FROM pg_namespace WHERE nspname = {_name(schema)})"


def _rows(sql: str) -> Steps[Sequence[Sequence[Any]]]:
    return ask(lambda execute: execute(sql))
