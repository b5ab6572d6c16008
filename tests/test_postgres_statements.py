"""The migration to Postgres as single statements: where the tables go, and who can run them."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

import psycopg
import pytest

from freetier import InvalidInput
from freetier.migrations import statements

from .postgres_by_hand import KEYS, migrated, proved

DONATION = """
INSERT INTO {schema}.freetier_journal
  (pool, kind, key, at_us, balance_change, reserved_change, used_change)
VALUES ('main', 'donation', 'gift', 1, 5, 0, 0)
"""


@pytest.mark.parametrize("path", ["''", "decoy, public"])
def test_nothing_is_looked_for_on_a_search_path(postgres_dsn: str, path: str) -> None:
    """Neither when the statements run nor when the guard does, whatever else has the names."""
    with closing(psycopg.connect(postgres_dsn, autocommit=True)) as connection:
        connection.execute("CREATE SCHEMA ledger")
        connection.execute("CREATE SCHEMA decoy")
        for table in KEYS:
            connection.execute(f"CREATE TABLE decoy.{table} (pool INT)")
        connection.execute(
            "CREATE FUNCTION decoy.freetier_journal_guard() RETURNS trigger"
            " LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        )
        connection.execute(f"SET search_path = {path}")
        for statement in statements("postgres", "ledger"):
            connection.execute(statement)
        connection.execute(DONATION.format(schema="ledger"))
        assert proved(connection, "ledger").balance_sats == 5


def test_the_schema_is_public_unless_named(postgres_dsn: str) -> None:
    """Without a name the tables are in `public`, which is written out."""
    with closing(migrated(postgres_dsn)) as connection:
        connection.execute("SET search_path = ''")
        connection.execute(DONATION.format(schema="public"))
    assert statements("postgres") == statements("postgres", "public")


NAMES = [
    "",
    "x" * 64,
    "ж" * 32,
    "a\0b",
    "a\nb",
    "\ud800",
    "a$b",
    "pg_mine",
    b"public",
    5,
    True,
    ["a"],
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_none(name: Any) -> None:
    """What cannot be the name of a schema is refused by name; SQLite has no schemas."""
    for dialect in ("postgres", "sqlite"):
        with pytest.raises(InvalidInput, match="schema") as caught:
            statements(dialect, name)
        assert (caught.value.argument, caught.value.value) == ("schema", name)


def test_any_tool_can_run_them() -> None:
    """Nothing in them looks like a parameter to a driver that takes `%s`, `:name` or `$1`."""
    for statement in statements("postgres"):
        assert re.findall(r"%|(?<!:):\w|\$\d", statement) == []
