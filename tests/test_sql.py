"""The statements: none grows with the journal."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from freetier import FreeTier, FreeTierPolicy, Request, _sql
from freetier.migrations import migrate
from freetier.sqlite import SQLiteRepository
from freetier.testing import Clock

POLICY = FreeTierPolicy(seed_sats=10**9, budgets={"new": 0, "elite": 10**6})

# BOOKS is what `verify` reads: all of it, by intention.
HOT = [
    name
    for name, text in vars(_sql).items()
    if name.isupper() and isinstance(text, str) and "SELECT" in text and name != "BOOKS"
    if not name.startswith("_")
]


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        yield connection


@pytest.mark.parametrize("name", HOT)
def test_statements_search(connection: sqlite3.Connection, name: str) -> None:
    """No statement scans a table, and by key the journal is read by its index."""
    text = getattr(_sql, name)
    params = dict.fromkeys(re.findall(r":(\w+)", text), 0)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {text}", params).fetchall()
    steps = [step for *_, step in plan]
    # o and p are the few rows that a sub-select has searched for.
    assert not [step for step in steps if re.match(r"SCAN (?!o$|p$|\(subquery)", step)]
    for step in steps:
        if step.startswith(("SEARCH g ", "SEARCH e ", "SEARCH l ", "SEARCH j ")):
            assert "freetier_journal_once (pool=? AND key=? AND once=?)" in step


# `n` is how many entries the journal has; the grants "held-n" and "expired-n" were made for it.
OPERATIONS: dict[str, Callable[[FreeTier, int], object]] = {
    "reserve": lambda ledger, n: ledger.reserve(Request(f"new-{n}", "ada", "elite", 3)),
    "replay": lambda ledger, n: ledger.reserve(Request("first", "ada", "elite", 3)),
    "gate": lambda ledger, n: ledger.reserve(Request(f"new-{n}", "ada", "new", 3)),
    "record_grant": lambda ledger, n: ledger.record_grant(Request(f"new-{n}", "ada", "elite", 3)),
    "settle": lambda ledger, n: ledger.settle(f"held-{n}", 2),
    "release": lambda ledger, n: ledger.release(f"held-{n}"),
    "late": lambda ledger, n: ledger.settle(f"expired-{n}", 2),
    "sweep": lambda ledger, n: ledger.sweep(),
    "credit": lambda ledger, n: ledger.credit(f"new-{n}", 7),
    "credit again": lambda ledger, n: ledger.credit("first", 7),
    "pool_status": lambda ledger, n: ledger.pool_status(),
    "journal": lambda ledger, n: next(ledger.journal(after=10)),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_cost_does_not_grow(connection: sqlite3.Connection, operation: str) -> None:
    """Every operation, triggers included, takes SQLite the same after 5,000 entries as after 700.

    Counted in instructions of SQLite's virtual machine, so that the machine's speed has no say.
    """
    clock = Clock()
    ledger = FreeTier(POLICY, SQLiteRepository(connection), clock=clock)
    ledger.seed()
    ledger.credit("first", 7)
    ledger.reserve(Request("first", "ada", "elite", 3), ttl=timedelta(days=1))
    few, many = (_steps(connection, ledger, clock, OPERATIONS[operation], n) for n in (700, 5_000))
    assert 0 < many <= few * 1.1


def _steps(
    connection: sqlite3.Connection,
    ledger: FreeTier,
    clock: Clock,
    operation: Callable[[FreeTier, int], object],
    n: int,
) -> int:
    """SQLite's instructions for one operation on a journal of `n` entries."""
    connection.execute("BEGIN")
    while (entry := ledger.donate(f"gift-{n}-{clock.now}", 1)).seq < n:
        clock.advance(microseconds=1)
        ledger.record_grant(Request(f"job-{entry.seq}", f"id-{entry.seq}", "elite", 1))
    connection.execute("COMMIT")
    ledger.reserve(Request(f"expired-{n}", "ada", "elite", 3), ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    ledger.reserve(Request(f"held-{n}", "ada", "elite", 3), ttl=timedelta(days=1))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, 1)
    operation(ledger, n)
    connection.set_progress_handler(None, 0)
    return steps
