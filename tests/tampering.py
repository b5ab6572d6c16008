"""A busy ledger whose guard was taken away, to be changed behind the schema's back."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import psycopg
from attrs import frozen

from freetier import Checkpoint, FreeTier, FreeTierPolicy, Request
from freetier.migrations import migrate
from freetier.postgres import PostgresRepository
from freetier.repository import Repository
from freetier.sqlite import SQLiteRepository
from freetier.testing import Clock

# The entries of `tampered`, by number.
SEED, CREDIT, DRAW, SETTLE, DRAW_2, RELEASE, DRAW_3, EXPIRE, LATE, GRANT, OPEN = range(1, 12)


class Connection(Protocol):
    """A plain connection, of either database."""

    def execute(self, statement: Any, /) -> Any: ...


@frozen
class Tampered:
    """A ledger whose guard was taken away, and the connection to change it by hand."""

    ledger: FreeTier
    connection: Connection
    checkpoint: Checkpoint  # as of `DRAW_2`

    def broken(self, since: Checkpoint | None = None) -> dict[int, int | None]:
        """The first broken entry by invariant, as `verify` names it."""
        report = self.ledger.verify(checkpoint=since)
        return {problem.invariant: problem.seq for problem in report.problems}


def busy(repository: Repository) -> tuple[FreeTier, Checkpoint]:
    clock = Clock()
    ledger = FreeTier(FreeTierPolicy(), repository, clock=clock)
    ledger.seed()
    ledger.credit("invoice", 95)
    ledger.reserve(Request("settled", "ada", "trusted", 250))
    ledger.settle("settled", 220)
    ledger.reserve(Request("released", "bob", "trusted", 30))
    checkpoint = ledger.verify().checkpoint
    assert checkpoint is not None
    ledger.release("released")
    ledger.reserve(Request("expired", "cyd", "trusted", 40), ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    ledger.settle("expired", 35)
    ledger.record_grant(Request("session", "dan", "elite", 50))
    ledger.reserve(Request("open", "eve", "elite", 60))
    assert ledger.verify().ok
    return ledger, checkpoint


def unguard_sqlite(connection: sqlite3.Connection) -> None:
    triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    for (name,) in connection.execute(triggers).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("DROP INDEX freetier_journal_once")
    connection.execute("PRAGMA ignore_check_constraints = ON")


def unguard_postgres(connection: psycopg.Connection) -> None:
    connection.execute("SET session_replication_role = replica")  # no trigger fires
    connection.execute("DROP INDEX freetier_journal_once")
    checks = (
        "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)"
        " FROM pg_constraint WHERE contype = 'c' AND conrelid > 0"
        " AND connamespace = current_schema()::regnamespace"
    )
    for (drop,) in connection.execute(checks).fetchall():
        connection.execute(drop)


def changed(seq: int, change: str) -> str:
    """The statement that changes an entry."""
    return f"UPDATE freetier_journal SET {change} WHERE seq = {seq}"


def loosen(connection: sqlite3.Connection) -> None:
    """Let every column hold anything."""
    connection.execute("PRAGMA writable_schema = ON")
    for name, sql in connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table'"
    ).fetchall():
        loose = re.sub(r"(TEXT|INTEGER) +NOT NULL", r"\1", sql).replace("STRICT, ", "")
        connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (loose, name))
    connection.execute("PRAGMA writable_schema = RESET")


@contextmanager
def on_sqlite(path: Path) -> Iterator[Tampered]:
    """In a file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        migrate(file)
        ledger, checkpoint = busy(SQLiteRepository(file))
        unguard_sqlite(file)
        yield Tampered(ledger, file, checkpoint)


@contextmanager
def on_postgres(dsn: str) -> Iterator[Tampered]:
    """In an empty database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        migrate(connection)
        ledger, checkpoint = busy(PostgresRepository(connection))
        unguard_postgres(connection)
        yield Tampered(ledger, connection, checkpoint)
