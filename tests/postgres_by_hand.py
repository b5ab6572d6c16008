"""Journal entries on Postgres as somebody writes them who has a connection and no library."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import TupleRow, dict_row

from freetier import FreeTier
from freetier._postgres_text import numbered, quoted
from freetier._sql import DRAW, Query
from freetier._sql_many import asked, parted
from freetier.audit import Report
from freetier.migrations import statements
from freetier.postgres import PostgresRepository

from .hand_written import MINUTE_US, NOON_US, POLICY, TODAY, Row, busy_ledger
from .postgres_server import Server, database_name
from .test_guard import REFUSED

Connection = psycopg.Connection[TupleRow]
Tables = dict[str, list[tuple[Any, ...]]]
Rows = Sequence[Sequence[Any]]

KEYS = {
    "freetier_journal": "pool, seq",
    "freetier_pool": "pool",
    "freetier_usage": "pool, day, scope, name",
    "freetier_open": "pool, expires_at_us, key",
    "freetier_gate": "pool, key",
}
"""Each table, and what its rows are sorted by."""
OF_THE_GUARD = ("seq", "balance_sats", "reserved_sats", "once")
"""What the guard fills in, whatever was written there."""


# On SQLite the writer works these out, and the guard refuses what does not meet.
FILLED_IN = {
    "a gap",
    "a seq that is there",
    "before the last entry",
    "a balance that does not meet",
    "reserved that does not meet",
    "a sat more",
    "a sat less",
    "a carry that appears",
    "a carry of a whole sat",
    "another share",
}
WRONG_ENTRIES = [entry for entry in REFUSED if entry[1] not in FILLED_IN]
"""Kind, what is wrong, and the figures that make the next entry so."""


class OnTheBusyLedger:
    """Tests on one database, each in a transaction that is rolled back."""

    @pytest.fixture(scope="module")
    @classmethod
    def source(cls) -> Iterator[sqlite3.Connection]:
        """The busy ledger on SQLite; its next entries are those of Postgres."""
        connection, _ = busy_ledger()
        with closing(connection):
            yield connection

    @pytest.fixture(scope="module")
    @classmethod
    def filled(cls, postgres_server: Server) -> Iterator[Connection]:
        """The same ledger on Postgres."""
        dsn = postgres_server.create()
        with closing(migrated(dsn)) as connection:
            fill(connection)
            yield connection
        postgres_server.drop(database_name(dsn))

    @pytest.fixture
    def books(self, filled: Connection) -> Iterator[Connection]:
        """In a transaction, so that what a test writes is gone afterwards."""
        with filled.transaction(force_rollback=True):
            yield filled


def migrated(dsn: str, schema: str | None = None) -> Connection:
    """A connection to a database that got the schema, statement by statement."""
    connection = psycopg.connect(dsn, autocommit=True)
    for statement in statements("postgres", schema):
        connection.execute(statement)
    return connection


def fill(connection: Connection) -> None:
    """Write the journal and the gates of `busy_ledger`, one INSERT each."""
    source, _ = busy_ledger()
    with closing(source):
        for table in ("freetier_journal", "freetier_gate"):
            for row in dicts(source, table):
                given = {name: value for name, value in row.items() if name not in OF_THE_GUARD}
                assert insert(connection, given, table)


def dicts(source: sqlite3.Connection, table: str) -> list[Row]:
    """The rows of a table on SQLite, in order."""
    cursor = source.execute(f"SELECT * FROM {table} ORDER BY {KEYS[table]}")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def written(connection: Connection, row: Row, table: str = "freetier_journal") -> Row | None:
    """The row as the database took it; None if it was refused. A wrong one is an error."""
    names, marks = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    statement = f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING *"
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement, row).fetchone()


def insert(connection: Connection, row: Row, table: str = "freetier_journal") -> bool:
    """Whether the database took the row; an error is a no as well."""
    try:
        return written(connection, row, table) is not None
    except (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.DatatypeMismatch):
        return False


def dump(connection: Connection, schema: str | None = None) -> Tables:
    """Every row of every table."""
    return {
        table: connection.execute(
            f"SELECT * FROM {quoted(schema)}.{table} ORDER BY {key}".encode()
        ).fetchall()
        for table, key in KEYS.items()
    }


def draw(key: str, **figures: Any) -> Query[Rows]:
    """A draw for one sat at noon, held for 15 minutes and right by itself, but for `figures`."""
    params: Row = {"pool": "main", "now_us": NOON_US, "kind": "reserve", "key": key}
    params |= {"identity": "ada"}
    params |= {"tier": "new", "day": TODAY, "absorb_sats": 1, "charge_sats": 0, "floor_sats": 0}
    params |= {"budget_sats": 1_000_000, "rooms": "{}", "expires_at_us": NOON_US + 15 * MINUTE_US}
    for limit in ("tier_ceiling_sats", "release_sats", "pool_share_bp", "bound_by", "resets_at_us"):
        params[limit] = None
    params |= figures
    sats, held = params["absorb_sats"], params["kind"] == "reserve"
    worked_out: Row = {"paid_now": 0 if held else sats, "held": sats if held else 0}
    worked_out["price_sats"] = (sats or 0) + params["charge_sats"]
    return Query(DRAW, worked_out | params, lambda rows: rows)


def one_by_one(
    connection: Connection, queries: Sequence[Query[Any]], schema: str | None = None
) -> list[Rows]:
    """The rows of each query, asked one after the other."""
    return [run(connection, query.text, query.params, schema) for query in queries]


def as_one(
    connection: Connection, queries: Sequence[Query[Any]], schema: str | None = None
) -> list[Rows]:
    """The rows of each of the queries, asked in one statement."""
    rows = run(connection, *asked(queries), schema)
    return [list(own) for own in parted(queries, rows)]


def run(
    connection: Connection, text: str, params: Mapping[str, Any], schema: str | None = None
) -> Rows:
    """The rows of one of the library's statements."""
    text, names = numbered(text, quoted(schema))
    with psycopg.RawCursor(connection) as cursor:
        return cursor.execute(text.encode(), [params[name] for name in names]).fetchall()


TABLES = [*KEYS, "freetier_schema"]
_GRANTS = f"""
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO {{role}};
GRANT SELECT ON {", ".join(TABLES)}, freetier_draws TO {{role}};
GRANT INSERT ON freetier_journal, freetier_gate, freetier_draws TO {{role}}
"""


@contextmanager
def granted_role(owner: Connection) -> Iterator[str]:
    """A role with the rights that docs/reference/statements-postgres.md tells to give.

    Roles belong to the whole server, so it has a name of its own, and goes.
    """
    name = f"writer_{uuid4().hex}"
    owner.execute(f"CREATE ROLE {name} LOGIN")
    owner.execute(_GRANTS.format(role=name))
    yield name
    owner.execute(f"DROP OWNED BY {name} CASCADE")
    owner.execute(f"DROP ROLE {name}")


def proved(connection: Connection, schema: str | None = None) -> Report:
    """What `verify` reports: no problems."""
    report = FreeTier(POLICY, PostgresRepository(connection, schema=schema)).verify()
    assert report.ok, report.problems
    return report
