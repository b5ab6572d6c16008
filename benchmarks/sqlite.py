"""One caller on SQLite, durable, against the same writes done blind on the same connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import count
from typing import Any

from benchmarks.ledgers import ordered_keys, requests, sqlite_ledger
from benchmarks.measure import Call, Line, Subjects, at_most, timed
from benchmarks.operations import NAMES, operations
from benchmarks.run import Run
from freetier import FreeTier
from freetier._sqlite_own import Own
from freetier.sqlite import SQLiteRepository

TITLE = "SQLite, durable, one caller, against three blind writes in one transaction"
CALLS = 200
"""So many that each sample has its share of SQLite's checkpoints."""


def lines(run: Run) -> Iterator[Line]:
    """All on one connection to one file."""
    with sqlite_ledger(run.folder / "one-caller.db") as ledger:
        request = requests(ordered_keys())
        ledger.reserve(request())
        subjects = Subjects()
        subjects.add("blind", timed(blind(connection_of(ledger)), CALLS))
        subjects.add("reserve", timed(lambda: ledger.reserve(request()), CALLS))
        subjects.samples |= operations(lambda: ledger, CALLS)
        rounds = subjects.measured(run.rounds)
    yield rounds.compared("reserve / three blind writes", "reserve", "blind", at_most(1.3))
    for name in NAMES:
        yield rounds.compared(f"{name} / three blind writes", name, "blind")


def connection_of(ledger: FreeTier) -> sqlite3.Connection:
    """The one of the ledger's own connections that is for the thread that asks."""
    assert isinstance(ledger.repository, SQLiteRepository)
    own = ledger.repository._connections
    assert isinstance(own, Own)
    return own._connection()


def blind(connection: sqlite3.Connection) -> Call:
    """The floor: an entry, the pool, a counter, in one transaction, asking nothing first.

    The entry is a reserve's, value for value, in a table with the journal's columns and keys but
    without its checks and triggers.
    """
    columns = [row[1] for row in connection.execute("PRAGMA table_info(freetier_journal)")]
    names = ", ".join(columns)
    reserve = f"SELECT {names} FROM freetier_journal WHERE kind = 'reserve' LIMIT 1"
    values: list[Any] = list(connection.execute(reserve).fetchone())
    for statement in (
        f"CREATE TABLE blind_entry ({names}, PRIMARY KEY (pool, seq)) WITHOUT ROWID",
        "CREATE UNIQUE INDEX blind_key ON blind_entry (pool, key)",
        "CREATE TABLE blind_pool (pool PRIMARY KEY, seq, reserved_sats) WITHOUT ROWID",
        "CREATE TABLE blind_usage (day, name, sats, PRIMARY KEY (day, name)) WITHOUT ROWID",
        "INSERT INTO blind_pool VALUES ('main', 0, 0)",
    ):
        connection.execute(statement)
    entry = f"INSERT INTO blind_entry VALUES ({', '.join('?' * len(columns))})"
    pool = "UPDATE blind_pool SET seq = ?, reserved_sats = reserved_sats + 1 WHERE pool = 'main'"
    usage = (
        "INSERT INTO blind_usage VALUES (?, ?, 1)"
        " ON CONFLICT (day, name) DO UPDATE SET sats = sats + 1"
    )
    key, seq = columns.index("key"), columns.index("seq")
    day, identity = values[columns.index("day")], values[columns.index("identity")]
    numbers = count(1)

    def write() -> None:
        number = next(numbers)
        values[seq], values[key] = number, f"{number:036}"
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(entry, values)
        connection.execute(pool, (number,))
        connection.execute(usage, (day, identity))
        connection.execute("COMMIT")

    return write
